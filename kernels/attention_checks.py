"""What is checked of an attention kernel's arguments before anything is launched.

Each check raises `ValueError` whose message begins with the argument's name. Values that live on the device (lengths,
page numbers) are not read: that would wait for it.
"""

from __future__ import annotations

import torch

from .dispatch import FLOATS

FP8 = torch.float8_e4m3fn


def tensor(
    name: str, x: torch.Tensor, shape: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...], device: torch.device
) -> None:
    """`shape` has None where any size will do; the last axis must be contiguous."""
    if not isinstance(x, torch.Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.dim() != len(shape) or any(
        want is not None and want != have for want, have in zip(shape, x.shape, strict=True)
    ):
        raise ValueError(f"{name}: expected shape {pretty(shape)}, got {pretty(tuple(x.shape))}")
    if x.dtype not in dtypes:
        raise ValueError(f"{name}: expected {' or '.join(str(dtype) for dtype in dtypes)}, got {x.dtype}")
    if x.device != device:
        raise ValueError(f"{name}: expected device {device}, got {x.device}")
    if x.dim() and x.shape[-1] > 1 and x.stride(-1) != 1:
        raise ValueError(f"{name}: the last axis must be contiguous, its stride is {x.stride(-1)}")


def pretty(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


def power_of_two(name: str, size: int, least: int, most: int) -> None:
    if size < least or size > most or size & (size - 1):
        raise ValueError(f"{name}: expected a power of two from {least} to {most}, got {size}")


def queries(q: torch.Tensor, kv_heads: int) -> None:
    tensor("q", q, (None, None, None), FLOATS, q.device)
    heads, d = q.shape[1:]
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"q: {heads} heads are not a multiple of {kv_heads} key/value heads")
    if d < 16 or d > 256 or d % 8:
        raise ValueError(f"q: heads must be 16 to 256 wide in steps of 8, got {d}")


def heavy(q: torch.Tensor) -> bool:
    """Whether a block of 128 rows of these would not fit a GPU's shared memory."""
    return q.dtype == torch.float32 and q.shape[2] > 128


def heads_of(name: str, x: torch.Tensor, dims: int) -> int:
    """The key/value heads of what should have so many axes; they are the second."""
    if x.dim() != dims:
        raise ValueError(f"{name}: expected {dims} axes, got shape {pretty(tuple(x.shape))}")
    return x.shape[1]


def paged(q: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, page_table: torch.Tensor) -> None:
    """The store of keys and values, and the table into it."""
    tensor("k_pages", k_pages, (None, None, None, q.shape[2]), (q.dtype, FP8), q.device)
    power_of_two("k_pages: page", k_pages.shape[2], 1, 256)
    tensor("v_pages", v_pages, tuple(k_pages.shape), (k_pages.dtype,), q.device)
    tensor("page_table", page_table, (None, None), (torch.int32,), q.device)


def lengths(name: str, x: torch.Tensor, sequences: int, device: torch.device) -> None:
    tensor(name, x, (sequences,), (torch.int32,), device)


def masks(window: int, sinks: int, soft_cap: float, scale: float) -> None:
    if window < 0:
        raise ValueError(f"window: expected 0 (none) or more, got {window}")
    if sinks < 0:
        raise ValueError(f"sinks: expected 0 or more, got {sinks}")
    if not (soft_cap >= 0.0):
        raise ValueError(f"soft_cap: expected 0 (none) or more, got {soft_cap}")
    if not 0.0 < scale < float("inf"):
        raise ValueError(f"scale: expected a finite number above 0, got {scale}")


def scales(name: str, x: torch.Tensor | None, pages: int, kv_heads: int, device: torch.device) -> int:
    """0: none, 1: one for all, 2: one for each page and head."""
    if x is None:
        return 0
    if isinstance(x, torch.Tensor) and x.numel() == 1:
        tensor(name, x, tuple(x.shape), (torch.float32,), device)
        return 1
    tensor(name, x, (pages, kv_heads), (torch.float32,), device)
    return 2


def output(out: torch.Tensor | None, q: torch.Tensor) -> torch.Tensor:
    if out is None:
        return torch.empty(q.shape, dtype=q.dtype, device=q.device)
    tensor("out", out, tuple(q.shape), (q.dtype,), q.device)
    return out


def paged_arguments(
    q: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, page_table: torch.Tensor, q_start: torch.Tensor,
    kv_len: torch.Tensor, scale: float, window: int, sinks: int, globals_: torch.Tensor | None,
    tree: torch.Tensor | None, soft_cap: float, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None,
    pages_top_k: torch.Tensor | None, out: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """Everything that can be said without asking the device. The output, made when there is none."""
    queries(q, heads_of("k_pages", k_pages, 4))
    paged(q, k_pages, v_pages, page_table)
    sequences, pages, kv_heads = page_table.shape[0], k_pages.shape[0], k_pages.shape[1]
    lengths("q_start", q_start, sequences + 1, q.device)
    lengths("kv_len", kv_len, sequences, q.device)
    masks(window, sinks, soft_cap, scale)
    if globals_ is not None:
        tensor("globals_", globals_, (sequences, None), (torch.int32,), q.device)
    if tree is not None:
        tensor("tree", tree, (q.shape[0],), (torch.int64,), q.device)
    if scales("k_scale", k_scale, pages, kv_heads, q.device) != scales("v_scale", v_scale, pages, kv_heads, q.device):
        raise ValueError("v_scale: must be of the same form as k_scale")
    if pages_top_k is not None:
        tensor("pages_top_k", pages_top_k, (sequences, kv_heads, None), (torch.int32,), q.device)
        if window:
            raise ValueError("window: cannot be combined with pages_top_k")
    return output(out, q)


def prefill_arguments(
    q: torch.Tensor, k: torch.Tensor | None, v: torch.Tensor | None, q_start: torch.Tensor, scale: float,
    k_pages: torch.Tensor | None, v_pages: torch.Tensor | None, page_table: torch.Tensor | None,
    prefix_len: torch.Tensor | None, window: int, sinks: int, globals_: torch.Tensor | None, soft_cap: float,
    k_scale: torch.Tensor | None, v_scale: torch.Tensor | None, longest: int | None, out: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """Everything that can be said without asking the device. The output, made when there is none."""
    if (k is None) != (v is None):
        raise ValueError("v: k and v are given together, or neither is")
    together = [x is None for x in (k_pages, v_pages, page_table)]
    if any(together) != all(together):
        raise ValueError("k_pages: k_pages, v_pages and page_table are given together, or none is")
    if k is None and k_pages is None:
        raise ValueError("k: without k and v the keys must be in pages")
    if prefix_len is not None and k_pages is None:
        raise ValueError("prefix_len: a prefix needs pages")
    if q_start.dim() != 1 or q_start.shape[0] < 1:
        raise ValueError(f"q_start: expected shape [sequences + 1], got {pretty(tuple(q_start.shape))}")
    sequences = q_start.shape[0] - 1
    if k is not None:
        queries(q, heads_of("k", k, 3))
    elif k_pages is not None:
        queries(q, heads_of("k_pages", k_pages, 4))
    lengths("q_start", q_start, sequences + 1, q.device)
    if k is not None and v is not None:
        tensor("k", k, (q.shape[0], None, q.shape[2]), (q.dtype,), q.device)
        tensor("v", v, tuple(k.shape), (q.dtype,), q.device)
    pages = 0
    if k_pages is not None and v_pages is not None and page_table is not None:
        if k is not None and heads_of("k_pages", k_pages, 4) != k.shape[1]:
            raise ValueError(f"k_pages: {k_pages.shape[1]} key/value heads, k has {k.shape[1]}")
        paged(q, k_pages, v_pages, page_table)
        tensor("page_table", page_table, (sequences, None), (torch.int32,), q.device)
        pages = k_pages.shape[0]
    if prefix_len is not None:
        lengths("prefix_len", prefix_len, sequences, q.device)
    masks(window, sinks, soft_cap, scale)
    if globals_ is not None:
        tensor("globals_", globals_, (sequences, None), (torch.int32,), q.device)
    kv_heads = k_pages.shape[1] if k_pages is not None else 0
    if scales("k_scale", k_scale, pages, kv_heads, q.device) != scales("v_scale", v_scale, pages, kv_heads, q.device):
        raise ValueError("v_scale: must be of the same form as k_scale")
    if longest is not None and longest < 0:
        raise ValueError(f"longest: expected 0 or more, got {longest}")
    return output(out, q)
