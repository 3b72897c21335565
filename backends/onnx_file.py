"""As much of the ONNX file format as it takes to read a network's weights and to write a small network.

An ONNX file is a Protocol Buffers message (onnx.proto3 of the ONNX project, field numbers as there). Knows nothing of
what a network computes. Sizes are checked against the bytes that are there; nothing in a file can run.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# TensorProto.DataType
_FROM_CODE: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    7: np.dtype("<i8"),
    10: np.dtype("<f2"),
}
_TO_CODE = {kind: code for code, kind in _FROM_CODE.items()}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT_ATTRIBUTE, _INT_ATTRIBUTE, _INTS_ATTRIBUTE = 1, 2, 7


def weights(path: Path) -> dict[str, NDArray[Any]]:
    """The network's constants by name, as read-only views of the file, which is mapped and not read.

    Raises ValueError for what is no such file, OSError where there is none.
    """
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    found: dict[str, NDArray[Any]] = {}
    for number, graph in _fields(data):
        if number == 7:
            for inner, tensor in _fields(graph):
                if inner == 5:
                    name, array = _tensor(tensor)
                    if array is not None:
                        found[name] = array
    return found


def _tensor(data: memoryview) -> tuple[str, NDArray[Any] | None]:
    """A constant's name and values; None where they are not kept as plain bytes of a known type."""
    shape: list[int] = []
    name, code = "", 0
    raw: memoryview | None = None
    for number, value in _fields(data):
        if number == 1:
            shape += [value] if isinstance(value, int) else _packed(value)
        elif number == 2:
            code = value
        elif number == 8:
            name = bytes(value).decode()
        elif number == 9:
            raw = value
    if raw is None or code not in _FROM_CODE:
        return name, None
    return name, np.frombuffer(raw, _FROM_CODE[code]).reshape(shape)


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Field numbers and values: int for numbers, memoryview for everything that has a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
        if size < 0 or at + size > len(data):
            raise ValueError("not an ONNX file, or one that is cut")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("not an ONNX file, or one that is cut")


def _packed(data: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        numbers.append(value)
    return numbers


class Network:
    """A network being written: constants and nodes in the order in which they run. Names are the caller's."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._made = 0

    def constant(self, name: str, values: NDArray[Any]) -> str:
        dims = b"".join(_number(1, size) for size in values.shape)
        code = _number(2, _TO_CODE[values.dtype])
        self._constants.append(dims + code + _text(8, name) + _sized(9, np.ascontiguousarray(values).tobytes()))
        return name

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: int = 1,
        domain: str = "",
        name: str | None = None,
        **attributes: float | int | Sequence[int],
    ) -> str:
        """Adds an operator; the name of its first output, `name` if given, after which the others are `.1`, `.2`..."""
        self._made += 1
        first = name or f"{kind}_{self._made}"
        names = [first, *(f"{first}.{i}" for i in range(1, outputs))]
        body = b"".join(_text(1, name) for name in inputs) + b"".join(_text(2, name) for name in names)
        body += _text(4, kind) + b"".join(_sized(5, _attribute(*each)) for each in attributes.items())
        self._nodes.append(body + (_text(7, domain) if domain else b""))
        return first

    def file(self, inputs: Mapping[str, tuple[type, Sequence[int | str]]], outputs: Mapping[str, Sequence[int | str]],
             domains: Mapping[str, int]) -> bytes:  # fmt: skip
        """The file. `inputs`: type and shape of each, a str being a free dimension; `outputs` are float32."""
        graph = b"".join(_sized(1, node) for node in self._nodes) + _text(2, "network")
        graph += b"".join(_sized(5, constant) for constant in self._constants)
        graph += b"".join(_sized(11, _value(name, kind, shape)) for name, (kind, shape) in inputs.items())
        graph += b"".join(_sized(12, _value(name, np.float32, shape)) for name, shape in outputs.items())
        opsets = b"".join(_sized(8, _text(1, domain) + _number(2, version)) for domain, version in domains.items())
        return _number(1, 8) + opsets + _sized(7, graph)


def _attribute(name: str, value: float | int | Sequence[int]) -> bytes:
    if isinstance(value, float):
        return _text(1, name) + b"\x15" + struct.pack("<f", value) + _number(20, _FLOAT_ATTRIBUTE)
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, _INT_ATTRIBUTE)
    return _text(1, name) + b"".join(_number(8, each) for each in value) + _number(20, _INTS_ATTRIBUTE)


def _value(name: str, kind: type, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(_sized(1, _number(1, size) if isinstance(size, int) else _text(2, size)) for size in shape)
    tensor = _number(1, _TO_CODE[np.dtype(kind)]) + _sized(2, dims)
    return _text(1, name) + _sized(2, _sized(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint_bytes(field << 3 | _VARINT) + _varint_bytes(value & (1 << 64) - 1)


def _text(field: int, value: str) -> bytes:
    return _sized(field, value.encode())


def _sized(field: int, value: bytes) -> bytes:
    return _varint_bytes(field << 3 | _BYTES) + _varint_bytes(len(value)) + value


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
