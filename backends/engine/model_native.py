"""The layers of a model as one tape of native functions: what model.py computes, in one call for a whole pass.

    norm | qkv | rotation and the write to pages | attention | o, added | norm | gate and up | SwiGLU | down, added

Where memory keeps bounds of its pages (attention_quest.py), these and the choice of pages stand before attention.
The law of a row is in kernels/native_*.py and depends on nothing but the row; rotary pairs are halves of a head. Knows
tensors; nothing of requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from ...kernels.native import F16, F32, Compiled, Program
from ...kernels.native_attention import HEADS_AT_ONCE, write_attention
from ...kernels.native_quest import write_chosen, write_noted
from ...kernels.native_rows import write_normed, write_turned
from . import attention_quest
from .attention_native import Plan
from .batch import Batch
from .linear_native import Blocks
from .memory import Memory
from .native import Rows, Tape, add_embedded, add_product, address, base
from .quest_native import Choice
from .shape import Shape

if TYPE_CHECKING:
    from .linear import Linear
    from .model import Layer

_LEAST_ROWS = 16  # that there is room for


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's weights."""

    attention_norm: torch.Tensor
    qkv: Blocks
    bias: torch.Tensor | None
    norms: tuple[torch.Tensor, torch.Tensor] | None  # of each head of queries and of keys
    out: Blocks
    mlp_norm: torch.Tensor
    gate_up: Blocks
    down: Blocks


class Native:
    """`turns` complex64 [context, head / 2], the rotation of each position and pair."""

    def __init__(
        self,
        shape: Shape,
        embedding: Blocks,
        layers: Sequence[_Layer],
        norm: torch.Tensor,
        head: Blocks,
        turns: torch.Tensor,
    ) -> None:
        self.shape, self.embedding, self.layers, self.norm, self.head = shape, embedding, layers, norm, head
        self.turns = torch.cat((turns.real, turns.imag), dim=-1).contiguous()
        self._passes: WeakKeyDictionary[Memory, Pass] = WeakKeyDictionary()
        self._programs: dict[tuple[int, torch.dtype], Compiled] = {}
        self._choosing: dict[tuple[int, torch.dtype], Compiled] = {}

    @classmethod
    def of(
        cls,
        shape: Shape,
        embedding: Blocks,
        layers: Sequence[Layer],
        norm: torch.Tensor,
        head: Linear,
        turns: torch.Tensor,
    ) -> Native | None:
        """None where some matrix is not in blocks."""
        own = [_layer(layer) for layer in layers]
        whole = [layer for layer in own if layer is not None]
        if head.blocks is None or len(whole) < len(own):
            return None
        return cls(shape, embedding, whole, norm, head.blocks, turns)

    def forward(self, batch: Batch, memory: Memory) -> torch.Tensor:
        """float32 logits [wanted, vocabulary]; writes keys and values."""
        parts = torch.get_num_threads()
        found = self._passes.get(memory)
        if found is None or not found.serves(batch.rows, parts, memory):
            rows = max(_LEAST_ROWS, 1 << (batch.rows - 1).bit_length())
            found = self._passes[memory] = Pass(self, memory, rows, parts)
        return found.run(batch, parts)

    def program(self, page: int, dtype: torch.dtype) -> Compiled:
        """What this model's sizes are written into, for memory of such pages and numbers."""
        if (page, dtype) not in self._programs:
            s, program, kept = self.shape, Program(), _KEPT[dtype]
            write_normed(program, s.epsilon)
            write_turned(program, s.heads, s.kv_heads, s.head, page, s.epsilon, kept, biases=s.biases, norms=s.qk_norm)
            write_attention(program, s.heads, s.kv_heads, s.head, page, kept)
            self._programs[page, dtype] = program.compile()
        return self._programs[page, dtype]

    def choosing(self, page: int, dtype: torch.dtype) -> Compiled:
        """What chooses pages, as `program`."""
        if (page, dtype) not in self._choosing:
            s, program, kept = self.shape, Program(), _KEPT[dtype]
            write_noted(program, s.kv_heads, s.head, page, kept)
            write_chosen(program, s.heads, s.kv_heads, s.head, page, kept)
            self._choosing[page, dtype] = program.compile()
        return self._choosing[page, dtype]


class Pass:
    """Room for a pass of up to `rows` rows over one memory, on up to `parts` threads."""

    def __init__(self, model: Native, memory: Memory, rows: int, parts: int) -> None:
        self.rows, self.parts = rows, parts
        s = model.shape
        self._model, self._tape, self._program = model, Tape(), model.program(memory.page, memory.values.dtype)
        # How many rows there are, and how many of them are wanted.
        self._counts = np.zeros(2, dtype=np.int64)
        self._rows, self._wanted = np.zeros((3, rows), dtype=np.int64), np.zeros(rows, dtype=np.int64)
        self._tokens, self._positions, self._slots = self._rows
        self._plan = np.zeros((4, rows), dtype=np.int64)
        self._each = np.arange(rows)
        self._written = Rows(rows, max(s.hidden, s.mlp, s.heads * s.head), parts)
        self._x = torch.empty((rows, s.hidden))
        self._qkv = torch.empty((rows, (s.heads + 2 * s.kv_heads) * s.head))
        self._seen = torch.empty((rows, s.heads * s.head))
        self._between = torch.empty((rows, 2 * s.mlp))
        pages = -(-s.context // memory.page)
        self._floats = HEADS_AT_ONCE * pages * memory.page
        # What a token, a position, a slot; a count of pages and a page are less than.
        room = (memory.pages + 1) * memory.page
        self._ends = np.array([s.vocabulary, s.context, room, pages + 1, memory.pages + 1], dtype=np.uint64)
        self._scratch = torch.empty(parts * self._floats)
        self._bounds, self._choice = memory.bounds, None
        if memory.bounds is not None:
            choosing = model.choosing(memory.page, memory.values.dtype)
            self._choice = Choice(choosing, memory.bounds, self._plan, pages, parts)
        add_embedded(self._tape, self._counts, self._tokens, model.embedding, self._x)
        # Attention's words, and whether its tables are the batch's own.
        self._attending: list[tuple[npt.NDArray[np.int64], bool]] = []
        for i, layer in enumerate(model.layers):
            self._add(layer, memory, i)
        self._layers = len(self._tape)
        counts, wanted = self._counts[1:], self._wanted
        self._tape.add(
            self._program,
            "normed",
            counts,
            wanted,
            self._x,
            model.norm,
            *self._written.written,
            s.hidden,
        )
        self._head = add_product(self._tape, counts, self._written, model.head, self._x)

    def serves(self, rows: int, parts: int, memory: Memory) -> bool:
        return rows <= self.rows and parts <= self.parts and self._bounds is memory.bounds

    def _add(self, layer: _Layer, memory: Memory, i: int) -> None:
        """Put a layer on the tape."""
        s, tape, own, written = self._model.shape, self._tape, self._program, self._written
        rows, x, width = self._counts, self._x, self._qkv.shape[1]
        keys, values, none = memory.keys[i], memory.values[i], 0
        norms = layer.norms or (none, none)
        bias = none if layer.bias is None else layer.bias
        tape.add(own, "normed", rows, self._each, x, layer.attention_norm, *written.written, s.hidden)
        add_product(tape, rows, written, layer.qkv, self._qkv)
        tape.add(
            own, "turned", rows, self._qkv, self._positions, self._slots, self._model.turns, keys, values, bias, *norms,
            width,
        )  # fmt: skip
        self._add_attention(keys, values, i)
        tape.add(base(), "plain", rows, self._seen, *written.written, s.heads * s.head)
        add_product(tape, rows, written, layer.out, x, add=True)
        tape.add(own, "normed", rows, self._each, x, layer.mlp_norm, *written.written, s.hidden)
        add_product(tape, rows, written, layer.gate_up, self._between)
        tape.add(base(), "gated", rows, self._between, *written.written, s.mlp, 2 * s.mlp)
        add_product(tape, rows, written, layer.down, x, add=True)

    def _add_attention(self, keys: torch.Tensor, values: torch.Tensor, i: int) -> None:
        s, tape = self._model.shape, self._tape
        choice = self._choice if i >= attention_quest.WHOLE_LAYERS else None
        if choice is not None:
            choice.add_noted(tape, i, keys)
            choice.add_chosen(tape, i, self._counts, self._qkv)
        plan = self._plan if choice is None else choice.plan
        tables, each = (0, s.kv_heads) if choice is None else (choice.lists, 1)
        words = tape.add(
            self._program, "attention", self._counts, self._qkv, keys, values, *plan, tables, 0, self._scratch,
            self._seen, self._qkv.shape[1], self._floats, each,
        )  # fmt: skip
        self._attending.append((words, choice is None))

    def run(self, batch: Batch, parts: int) -> torch.Tensor:
        """As `Native.forward`."""
        plan, rows, wanted = batch.plan, batch.rows, len(batch.wanted)
        self._counts[:] = rows, wanted
        self._tokens[:rows], self._positions[:rows], self._slots[:rows] = batch.tokens, batch.positions, batch.slots
        self._plan[:, :rows] = plan.starts, plan.counts, plan.ends, plan.biases
        self._check(plan, rows)
        tables, bias = address(plan.tables), address(plan.bias)
        for words, own in self._attending:
            words[_BIAS] = bias
            if own:
                words[_TABLES] = tables
        if self._choice is not None:
            self._choice.lay_out(plan)
        if not wanted:
            self._tape.run(parts, self._layers)
            return torch.empty((0, self._model.shape.vocabulary))
        self._wanted[:wanted] = batch.wanted
        logits = torch.empty((wanted, self._model.head.outputs))
        self._head[_Y] = address(logits)
        self._tape.run(parts)
        return logits[:, : self._model.shape.vocabulary]

    def _check(self, plan: Plan, rows: int) -> None:
        """Raises IndexError: native functions would read and write whatever stands elsewhere in memory."""
        most = [*self._rows[:, :rows].view(np.uint64).max(axis=1), plan.counts.max(), plan.tables.max()]
        if (np.array(most, dtype=np.uint64) >= self._ends).any():
            raise IndexError("a row's token, position or pages are none of this model and its memory")


def _layer(layer: Layer) -> _Layer | None:
    qkv, out, gate_up, down = (one.blocks for one in (layer.qkv, layer.out, layer.gate_up, layer.down))
    if qkv is None or out is None or gate_up is None or down is None:
        return None
    norms = None if layer.q_norm is None or layer.k_norm is None else (layer.q_norm, layer.k_norm)
    return _Layer(layer.attention_norm, qkv, layer.bias, norms, out, layer.mlp_norm, gate_up, down)


_KEPT = {torch.float32: F32, torch.float16: F16}
_TABLES, _BIAS = 8, 9  # of attention's words
_Y = 11  # of a product's words
