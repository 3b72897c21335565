"""Reading a GGUF file (version 2 or 3): metadata at once, tensors on demand from a memory map.

Every length in the file is checked before it is used, so a truncated or damaged file is an error that says where, never
a crash or a huge allocation. Format: docs/gguf.md of the ggml project. Knows nothing of models.
"""

from __future__ import annotations

import mmap
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...protocol.errors import ModelUnavailable
from .blocks import KINDS, Bytes, Floats, Kind, name_of

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PIECE = 1 << 17  # weights unpacked at a time
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies. `shape` has rows first, as torch has it (the file has them last)."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int  # bytes from the start of the file

    @property
    def kind(self) -> Kind:
        return KINDS[self.type]

    @property
    def size(self) -> int:
        """Its length in the file, in bytes."""
        return prod(self.shape) // self.kind.weights * self.kind.size


class GGUF:
    """An open file. `metadata` has Python values; `blocks` and `floats` give a tensor's content."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises ModelUnavailable when the file is no GGUF, cut short or damaged."""
        self.path = path
        self._map = _mapped(path)
        reader = _Reader(self._map)
        try:
            self.metadata, tensors, align = _header(reader)
        except _Damaged as e:
            raise self.damaged(str(e)) from None
        start = -(-reader.at // align) * align
        self.header_size = start
        self.tensors = {t.name: Tensor(t.name, t.shape, t.type, start + t.offset) for t in tensors}
        for tensor in self.tensors.values():
            self._check(tensor)

    def has(self, name: str) -> bool:
        return name in self.tensors

    def blocks(self, name: str) -> Bytes:
        """The raw blocks of a tensor: uint8 [blocks, bytes a block], a view of the file."""
        tensor = self._tensor(name)
        raw = np.frombuffer(self._map, np.uint8, tensor.size, tensor.offset)
        return raw.reshape(-1, tensor.kind.size)

    def floats(self, name: str) -> Floats:
        """A tensor in float32, in its own memory. Raises ModelUnavailable when some of it is no number."""
        tensor, blocks = self._tensor(name), self.blocks(name)
        out = np.empty((len(blocks), tensor.kind.weights), dtype=np.float32)
        step = _PIECE // tensor.kind.weights

        def unpack(start: int) -> bool:
            with np.errstate(invalid="ignore", over="ignore"):
                piece = out[start : start + step]
                piece[:] = tensor.kind.unpack(blocks[start : start + step])
                return bool(np.isfinite(piece.sum()))

        starts = range(0, len(blocks), step)
        if len(starts) <= 1:
            sound = all(map(unpack, starts))
        else:
            # numpy lets other threads run meanwhile. Pieces that fit in a cache: several times faster than all at once.
            with ThreadPoolExecutor(_THREADS) as threads:
                sound = all(list(threads.map(unpack, starts)))
        if not sound:
            raise self.damaged(f"{name} holds values that are no numbers")
        return out.reshape(tensor.shape)

    def kind(self, name: str) -> str:
        return self._tensor(name).kind.name

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name).shape

    def header(self) -> bytes:
        """The bytes before the first tensor: enough to tell two models' files apart."""
        return self._map[: self.header_size]

    def _tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise self.damaged(f"the tensor {name} is missing")
        return self.tensors[name]

    def _check(self, tensor: Tensor) -> None:
        if tensor.type not in KINDS:
            known = ", ".join(k.name for k in KINDS.values())
            raise ModelUnavailable(
                f"the weights use the tensor type {name_of(tensor.type)}, which the engine does not read",
                detail=f"{self.path}: tensor {tensor.name}; it reads {known}",
            )
        if tensor.shape and tensor.shape[-1] % tensor.kind.weights:
            raise self.damaged(f"a row of {tensor.name} is no whole number of {tensor.kind.name} blocks")
        end = tensor.offset + tensor.size
        if end > len(self._map):
            raise self.damaged(f"the file is cut short: {tensor.name} ends at byte {end} of {len(self._map)}")

    def damaged(self, why: str) -> ModelUnavailable:
        """The error that says so."""
        return ModelUnavailable(f"the weights are damaged: {why}", detail=f"{self.path}; fetch the file again")


class _Damaged(Exception):
    pass


class _Reader:
    """Little-endian values, one after another."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise _Damaged(f"the file is cut short: its header goes beyond byte {len(self.data)}")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        raw = self.take(self.number("Q"))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise _Damaged("a string of its header is no UTF-8") from None

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY and depth < 4:
            return self._array(self.number("I"), self.number("Q"), depth)
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        raise _Damaged(f"its header has a value of the unknown kind {kind}")

    def _array(self, kind: int, count: int, depth: int) -> Any:
        if kind in _SCALARS:
            code = _SCALARS[kind]
            return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))
        return [self.value(kind, depth + 1) for _ in range(count)]


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as f:
            return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as e:  # ValueError: the file is empty
        why = getattr(e, "strerror", None) or "it is empty"
        raise ModelUnavailable("the weights cannot be read", detail=f"{path}: {why}") from e


def _header(reader: _Reader) -> tuple[dict[str, Any], list[Tensor], int]:
    if reader.take(4) != b"GGUF":
        raise _Damaged("the file is no GGUF")
    version = reader.number("I")
    if version not in (2, 3):
        raise _Damaged(f"GGUF version {version} is not known (2 and 3 are)")
    tensors, values = reader.number("Q"), reader.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(values):
        key = reader.string()
        metadata[key] = reader.value(reader.number("I"))
    align = metadata.get("general.alignment", 32)
    if not isinstance(align, int) or align < 1:
        raise _Damaged("its alignment is no positive number")
    return metadata, [_tensor_entry(reader) for _ in range(tensors)], align


def _tensor_entry(reader: _Reader) -> Tensor:
    name, rank = reader.string(), reader.number("I")
    if rank > 4:
        raise _Damaged(f"the tensor {name} has {rank} dimensions")
    shape = tuple(reader.number("Q") for _ in range(rank))[::-1]
    if prod(shape) > 1 << 48:
        raise _Damaged(f"the tensor {name} has the impossible shape {shape}")
    return Tensor(name, shape, reader.number("I"), reader.number("Q"))
