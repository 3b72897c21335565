"""The port between a file of weights and the engine: what it must give, in one vocabulary of names.

Canonical names: `embedding`, `head` (absent when tied), `norm`, and for each layer `layers.N.` with `attention_norm`,
`q`, `k`, `v`, `q_bias`, `k_bias`, `v_bias`, `q_norm`, `k_norm`, `o`, `mlp_norm`, `gate`, `up`, `down`. Matrices have a
row for each output. Knows no file format and nothing of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...protocol.errors import ModelUnavailable
from .blocks import Bytes, Floats
from .shape import Shape


@dataclass(frozen=True, slots=True)
class FourBits:
    """A matrix [rows, columns] as 4-bit values q in groups of `group` columns: weight = q * scale + least.

    `values` uint8 [rows, columns / 2], the even column in the low half of its byte; `scales` and `leasts` float32
    [rows, columns / group]. `order` int64 [columns], or None: column j of `values` is column `order[j]` of the matrix
    (GPTQ's act-order, sorted so that groups are contiguous).
    """

    values: Bytes
    scales: Floats
    leasts: Floats
    group: int
    order: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A byte-level BPE tokenizer's facts.

    `texts` has each token in GPT-2's printable alphabet. Tokens of `control` have no text in an answer; those of
    `markers` (as <tool_call>) have, but like control tokens only the chat template may place them. `split` names how
    words are cut (tokenizer.py), or is a pre-tokenizer as tokenizer.json has it; `whole_words`: a word that is a token
    is that token, whatever the merges say. `ends` are the ids the file names as ending an answer; `begin` what a prompt
    starts with, if `add_begin` says that it must.
    """

    texts: list[str]
    merges: list[tuple[str, str]]
    split: str
    control: frozenset[int]
    markers: frozenset[int] = frozenset()
    ends: frozenset[int] = frozenset()
    begin: int | None = None
    end: int | None = None
    add_begin: bool = False
    whole_words: bool = False


class Checkpoint(Protocol):
    """Opened weights. Nothing is kept of what `floats` and `four_bits` give; tensors are checked against the shape."""

    @property
    def shape(self) -> Shape: ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def template(self) -> str | None:
        """The chat template (jinja2), None when the files have none."""
        ...

    def has(self, name: str) -> bool: ...

    def floats(self, name: str) -> Floats:
        """A tensor in float32, in its own memory. Raises ModelUnavailable naming a missing or damaged one."""
        ...

    def four_bits(self, name: str) -> FourBits | None:
        """The file's own 4-bit values of a matrix; None when it has it in another form."""
        ...

    def fingerprint(self) -> bytes:
        """Enough of the files to tell two models apart."""
        ...


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a .gguf file, a .safetensors file, or a folder of them with a config.json. Raises ModelUnavailable."""
    if path.is_dir() or path.suffix == ".safetensors":
        from .safetensors_checkpoint import SafetensorsCheckpoint

        return SafetensorsCheckpoint(path)
    from .gguf_checkpoint import GgufCheckpoint

    return GgufCheckpoint(path)


def unpack(four: FourBits) -> Floats:
    """The matrix that 4-bit values stand for: float32 [rows, columns]."""
    rows, half = four.values.shape
    q = np.empty((rows, half, 2), dtype=np.float32)
    np.bitwise_and(four.values, 0xF, out=q[..., 0], casting="unsafe")
    np.right_shift(four.values, 4, out=q[..., 1], casting="unsafe")
    grouped = q.reshape(rows, -1, four.group)
    grouped *= four.scales[:, :, None]
    grouped += four.leasts[:, :, None]
    matrix = q.reshape(rows, 2 * half)
    if four.order is None:
        return matrix
    out = np.empty_like(matrix)
    out[:, four.order] = matrix
    return out


def check_dimensions(shape: Shape, found: dict[str, tuple[int, ...]], own_names: dict[str, str]) -> None:
    """Every tensor must be as the shape says, or a forward pass would fail in the middle of an answer.

    `found` and `own_names` are by canonical name: a tensor's dimensions, and what the file calls it. Raises
    ModelUnavailable naming the first that is missing or wrong.
    """
    for name, wanted in shape.dimensions().items():
        own = own_names.get(name, name)
        if name not in found:
            raise ModelUnavailable(f"the weights are damaged: the tensor {own} is missing", detail="fetch them again")
        if found[name] != wanted:
            raise ModelUnavailable(f"the weights are damaged: {own} is {found[name]}, not {wanted}")
