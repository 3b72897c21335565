"""Calls of native functions from Python: their words, a tape of them, and the threads that run it.

Knows arrays and addresses; nothing of models.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...kernels.native import Compiled, Program
from ...kernels.native_draw import write_drawn
from ...kernels.native_product import BLOCK, write_product
from ...kernels.native_rows import write_embedded, write_gated, write_plain
from ...kernels.native_tape import write_runner
from .linear_native import Blocks
from .native_threads import crew

Array = npt.NDArray[Any] | torch.Tensor | int


@functools.cache
def base() -> Compiled:
    """What no model's sizes are written into, compiled once."""
    program = Program()
    write_plain(program)
    write_gated(program)
    for bits in (4, 8):
        write_embedded(program, bits)
    write_runner(program)
    write_drawn(program)
    return program.compile()


@functools.cache
def product(bits: int) -> Compiled:
    program = Program()
    write_product(program, bits)
    return program.compile()


class Tape:
    """Functions that run one after another. What they read and write is kept alive by it."""

    def __init__(self) -> None:
        self._kept: list[object] = []
        self._pairs: list[tuple[int, int]] = []
        self._meeting = np.zeros(2, dtype=np.int64)
        self._run = base().callable("run")

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, program: Compiled, name: str, *arguments: Array) -> npt.NDArray[np.int64]:
        """Append a call; gives its words, which may be changed between runs."""
        words = np.array([address(a) for a in arguments], dtype=np.int64)
        self._kept += [program, words, *arguments]
        self._pairs.append((program[name], address(words)))
        return words

    @functools.cached_property
    def _table(self) -> npt.NDArray[np.int64]:
        return np.array(self._pairs, dtype=np.int64)

    def run(self, parts: int, count: int | None = None) -> None:
        """The first `count`, or all, on so many threads. Nothing is added to a tape that has run."""
        table = self._table
        words = np.array([address(table), address(self._meeting), len(table) if count is None else count])
        if parts == 1:
            self._run(address(words), 0, 1)
            return
        others = crew(parts - 1)
        parts = min(parts, len(others) + 1)

        def share(i: int) -> None:
            self._run(address(words), i, parts)

        others.run(share, parts)


class Rows:
    """Room for so many rows of at most `width` columns, written for products by up to `parts` threads."""

    def __init__(self, count: int, width: int, parts: int) -> None:
        def words(kind: type) -> npt.NDArray[Any]:
            return np.empty((count, width // BLOCK), dtype=kind)

        digits = [np.empty((count, width), dtype=np.int8) for _ in range(2)]
        floats, wholes = [words(np.float32) for _ in range(2)], [words(np.int32) for _ in range(3)]
        # As native_rows.py names them.
        self.arrays: list[npt.NDArray[Any]] = [*digits, *floats, *wholes, np.empty(count, dtype=np.int64)]
        self.held = np.empty((parts, width), dtype=np.float32)

    @property
    def written(self) -> list[npt.NDArray[Any]]:
        """As the functions that write rows take it."""
        return [*self.arrays, self.held]


def add_product(tape: Tape, rows: Array, x: Rows, blocks: Blocks, y: Array, add: bool = False) -> npt.NDArray[np.int64]:
    """`y` [rows, outputs] becomes, or is added to by, the product with rows that were written for it."""
    sizes = blocks.width, blocks.outputs, int(add)
    return tape.add(product(blocks.bits), "product", rows, *x.arrays, blocks.weights, blocks.finals, y, *sizes)


class BlockProduct:
    """The product alone, outside of a model's own pass: float32 [rows, width] to [rows, outputs]."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x, own, parts = x.float().contiguous(), self.blocks, torch.get_num_threads()
        assert x.shape[1:] == (own.width,), x.shape
        tape, rows, count = Tape(), Rows(len(x), own.width, parts), np.array([len(x)])
        y = torch.empty((len(x), own.outputs))
        tape.add(base(), "plain", count, x, *rows.written, own.width)
        add_product(tape, count, rows, own, y)
        tape.run(parts)
        return y[:, : own.rows]


def add_embedded(tape: Tape, rows: Array, tokens: Array, blocks: Blocks, x: Array) -> None:
    """`x` [rows, width] becomes the rows `tokens` (int64) of a matrix."""
    tape.add(base(), f"embedded{blocks.bits}", rows, tokens, blocks.weights, blocks.finals, x, blocks.width)


class BlockRows:
    """Rows of a matrix by their numbers, int64 [n], outside of a model's own pass: float32 [n, width]. Raises
    IndexError for a row that is not there."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.blocks.rows:
            raise IndexError(f"{tokens.tolist()} are not all rows of {self.blocks.rows}")
        tape, x = Tape(), torch.empty((len(tokens), self.blocks.width))
        add_embedded(tape, np.array([len(tokens)]), tokens.contiguous(), self.blocks, x)
        tape.run(1)
        return x


def address(a: Array) -> int:
    if isinstance(a, torch.Tensor):
        return a.data_ptr()
    return a if isinstance(a, int) else a.ctypes.data
