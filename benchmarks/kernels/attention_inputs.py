"""Batches for the attention benchmarks, what their peers are given, the float64 truth of a slice. Holds no cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from case import Absent, Inputs, Thunk, relative_error
from torch.nn.attention import SDPBackend, sdpa_kernel

from trimtab.kernels.attention_paged import paged_attention
from trimtab.kernels.attention_placed import place
from trimtab.kernels.attention_plan import plan
from trimtab.kernels.attention_rows import attend, read_pages, visible
from trimtab.kernels.dispatch import multiprocessors

FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Batch:
    """One step over paged keys: `rows` new rows of each sequence, whose lengths include them."""

    lengths: tuple[int, ...]
    rows: int = 1
    heads: int = 32
    kv_heads: int = 8
    d: int = 128
    page: int = 16
    dtype: torch.dtype = torch.bfloat16
    kept: torch.dtype | None = None  # of the stored keys, when another
    tree: tuple[int, ...] = ()  # ancestor words of a tree of `rows` nodes
    window: int = 0
    sinks: int = 0

    @property
    def bytes(self) -> int:
        """Keys and values that are seen, read once; queries and outputs."""
        seen = sum(min(length, self.window + self.sinks) if self.window else length for length in self.lengths)
        stored = torch.empty((), dtype=self.kept or self.dtype).element_size()
        moved = (
            2 * len(self.lengths) * self.rows * self.heads * self.d * torch.empty((), dtype=self.dtype).element_size()
        )
        return 2 * seen * self.kv_heads * self.d * stored + moved

    @property
    def flops(self) -> int:
        return 4 * sum(self.lengths) * self.rows * self.heads * self.d

    def make(self, device: torch.device, seed: int) -> Inputs:
        """Pages in shuffled order, as after hours of service."""
        random = torch.Generator(device).manual_seed(seed)
        needs = [-(-length // self.page) for length in self.lengths]
        shape = (sum(needs), self.kv_heads, self.page, self.d)
        k, v = (torch.randn(shape, generator=random, device=device, dtype=self.dtype) for _ in "kv")
        order = torch.randperm(sum(needs), generator=random, device=device).to(torch.int32)
        table = torch.zeros(len(needs), max(needs), dtype=torch.int32, device=device)
        for s, own in enumerate(order.split(needs)):
            table[s, : needs[s]] = own
        total = len(self.lengths) * self.rows
        made: Inputs = {
            "q": torch.randn((total, self.heads, self.d), generator=random, device=device, dtype=self.dtype),
            "k_pages": k,
            "v_pages": v,
            "page_table": table,
            "q_start": torch.arange(0, total + 1, self.rows, dtype=torch.int32, device=device),
            "kv_len": torch.tensor(self.lengths, dtype=torch.int32, device=device),
            "scale": self.d**-0.5,
        }
        if self.window:
            made |= {"window": self.window, "sinks": self.sinks}
        if self.tree:
            made["tree"] = torch.tensor(self.tree * len(self.lengths), dtype=torch.int64, device=device)
        if self.kept == FP8:
            one = torch.full((1,), 1 / 64, device=device)
            made |= {"k_pages": (k * 64).to(FP8), "v_pages": (v * 64).to(FP8), "k_scale": one, "v_scale": one}
        return made

    def ours(self, *, split: bool = True) -> Callable[[Inputs], Thunk]:
        """Our kernel; `split=False` is the rule of kernels that do not split keys when there is more than one row."""

        def prepare(inputs: Inputs) -> Thunk:
            q = inputs["q"]
            shape = plan(
                [self.rows] * len(self.lengths),
                self.lengths,
                heads=self.heads,
                kv_heads=self.kv_heads,
                page=self.page,
                sms=multiprocessors(q.device),
                window=self.window,
                sinks=self.sinks,
                tree=bool(self.tree),
                fixed_split=0 if split else 1 << 20,
                block=max(16, min(128, 1 << (self.rows * self.heads // self.kv_heads - 1).bit_length())),
            )
            placed, out = place(shape, q.device, d=self.d), torch.full_like(q, float("nan"))
            return lambda: paged_attention(**inputs, plan=placed, out=out)

        return prepare

    def mask(self, device: torch.device) -> torch.Tensor:
        """[sequences, 1, rows, most keys], True where a key is seen, keys of a sequence at the front."""
        most = max(self.lengths)
        seen = torch.zeros(len(self.lengths), 1, self.rows, most, dtype=torch.bool)
        words = torch.tensor(self.tree, dtype=torch.int64) if self.tree else None
        for s, length in enumerate(self.lengths):
            seen[s, 0, :, :length] = visible(self.rows, length, self.window, self.sinks, None, words)
        return seen.to(device)

    def contiguous(self, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k, v as [sequences, heads, rows or keys, d], padded to the longest: what a peer without pages needs."""
        sequences, table = len(self.lengths), inputs["page_table"].long()
        q = inputs["q"].view(sequences, self.rows, self.heads, self.d).transpose(1, 2)
        k, v = (
            inputs[name][table].transpose(1, 2).reshape(sequences, self.kv_heads, -1, self.d)[:, :, : max(self.lengths)]
            for name in ("k_pages", "v_pages")
        )
        return q, k, v

    def plain(self) -> bool:
        """Whether every row of every sequence sees all keys: no mask is needed then."""
        return self.rows == 1 and not self.window and len(set(self.lengths)) == 1

    def sdpa(self, *, gather: bool) -> Callable[[Inputs], Thunk]:
        """torch's SDPA, on keys that lie contiguous already, or (gather) are brought together from pages each time."""

        def prepare(inputs: Inputs) -> Thunk:
            if self.kept is not None:
                raise Absent("SDPA takes no fp8")
            mask = None if self.plain() else self.mask(inputs["q"].device)
            held = None if gather else tuple(x.contiguous() for x in self.contiguous(inputs))

            def run() -> torch.Tensor:
                q, k, v = self.contiguous(inputs) if held is None else held
                found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=inputs["scale"], enable_gqa=True)
                return found.transpose(1, 2).reshape(inputs["q"].shape)

            return run

        return prepare

    def flex(self) -> Callable[[Inputs], Thunk]:
        """torch's FlexAttention, compiled, on contiguous keys, with the mask as a function."""

        def prepare(inputs: Inputs) -> Thunk:
            if self.kept is not None:
                raise Absent("FlexAttention takes no fp8")
            seen = None if self.plain() else self.mask(inputs["q"].device)[:, 0]
            run = compiled_flex(inputs["q"].device, seen, *self.contiguous(inputs), inputs["scale"])
            return lambda: run().transpose(1, 2).reshape(inputs["q"].shape)

        return prepare

    def check(self, inputs: Inputs, output: torch.Tensor) -> float:
        """The longest sequence and the last, in float64."""
        worst = 0.0
        for s in {max(range(len(self.lengths)), key=self.lengths.__getitem__), len(self.lengths) - 1}:
            rows = slice(s * self.rows, (s + 1) * self.rows)
            length = self.lengths[s]
            words = inputs["tree"][rows] if self.tree else None
            seen = visible(self.rows, length, self.window, self.sinks, None, words)
            table = inputs["page_table"][s]
            k = read_pages(inputs["k_pages"], table, length, inputs.get("k_scale"), torch.float64)
            v = read_pages(inputs["v_pages"], table, length, inputs.get("v_scale"), torch.float64)
            exact = attend(inputs["q"][rows].double(), k, v, seen, inputs["scale"])
            worst = max(worst, relative_error(output[rows], exact))
        return worst


def compiled_flex(
    device: torch.device, seen: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float,
    mask_mod: Any = None,
) -> Thunk:  # fmt: skip
    """`seen` [sequences, rows, keys] or a mask function; neither: everything is seen."""
    if device.type != "cuda":
        raise Absent("FlexAttention is compiled for a GPU only")
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    block = None
    if seen is not None or mask_mod is not None:
        found = mask_mod or (lambda b, _h, i, j: seen[b, i, j])
        sequences = None if seen is None else q.shape[0]
        block = create_block_mask(found, sequences, None, q.shape[2], k.shape[2], device=device)
    q, k, v = (x.contiguous() for x in (q, k, v))
    return lambda: compiled(q, k, v, block_mask=block, scale=scale, enable_gqa=True)


@dataclass(frozen=True)
class Prompt:
    """One sequence read from its beginning: keys straight from the projection."""

    rows: int
    heads: int = 32
    kv_heads: int = 8
    d: int = 128
    dtype: torch.dtype = torch.bfloat16
    window: int = 0
    sinks: int = 0

    @property
    def flops(self) -> int:
        """Of the pairs that are seen: half of them all, or a band."""
        pairs = self.rows * (self.rows + 1) // 2
        if self.window:
            inside = max(0, self.rows - self.window)
            pairs -= inside * (inside + 1) // 2 - sum(min(self.sinks, i + 1) for i in range(inside))
        return 4 * pairs * self.heads * self.d

    @property
    def bytes(self) -> int:
        size = torch.empty((), dtype=self.dtype).element_size()
        return self.rows * self.d * size * 2 * (self.heads + self.kv_heads)

    def make(self, device: torch.device, seed: int) -> Inputs:
        random = torch.Generator(device).manual_seed(seed)
        sizes = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
        made: Inputs = {
            name: torch.randn((self.rows, heads, self.d), generator=random, device=device, dtype=self.dtype)
            for name, heads in sizes.items()
        }
        return made | {"q_start": torch.tensor([0, self.rows], dtype=torch.int32, device=device)}

    def sdpa(self, *backends: SDPBackend) -> Callable[[Inputs], Thunk]:
        def prepare(inputs: Inputs) -> Thunk:
            if inputs["q"].device.type != "cuda" and SDPBackend.CUDNN_ATTENTION in backends:
                raise Absent("cuDNN needs a GPU")
            q, k, v = (inputs[name].transpose(0, 1)[None] for name in "qkv")
            kept = [SDPBackend.MATH] if q.device.type != "cuda" else list(backends)

            def run() -> torch.Tensor:
                with sdpa_kernel(kept):
                    found = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                return found[0].transpose(0, 1)

            return run

        return prepare

    def flex(self) -> Callable[[Inputs], Thunk]:
        window, sinks = self.window or self.rows, self.sinks

        def near(_b: Any, _h: Any, i: Any, j: Any) -> Any:
            return (j <= i) & ((j > i - window) | (j < sinks))

        def prepare(inputs: Inputs) -> Thunk:
            heads_first = (inputs[name].transpose(0, 1)[None] for name in "qkv")
            run = compiled_flex(inputs["q"].device, None, *heads_first, self.d**-0.5, near)
            return lambda: run()[0].transpose(0, 1)

        return prepare

    def check(self, inputs: Inputs, output: torch.Tensor) -> float:
        """The first rows and the last, in float64."""
        worst, some = 0.0, min(32, self.rows)
        for end in {some, self.rows}:
            rows = slice(end - some, end)
            seen = visible(some, end, self.window, self.sinks)
            exact = attend(
                inputs["q"][rows].double(), inputs["k"][:end].double(), inputs["v"][:end].double(), seen, self.d**-0.5
            )
            worst = max(worst, relative_error(output[rows], exact))
        return worst
