"""Stores of pages as hostile as they can be: every page that no sequence owns is NaN, and so is every slot behind a
sequence's end; page tables hold nonsense behind it; pages are shuffled."""

from __future__ import annotations

from dataclasses import dataclass

import torch

NONSENSE = 2**30


@dataclass(frozen=True, slots=True)
class Store:
    q: torch.Tensor
    k_pages: torch.Tensor
    v_pages: torch.Tensor
    page_table: torch.Tensor
    q_start: torch.Tensor
    kv_len: torch.Tensor

    @property
    def all(self) -> tuple[torch.Tensor, ...]:
        return self.q, self.k_pages, self.v_pages, self.page_table, self.q_start, self.kv_len


def store(
    q_lens: list[int],
    kv_lens: list[int],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    d: int = 64,
    page: int = 16,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Store:
    """Random rows for these lengths, two pages more than are needed."""
    random = torch.Generator().manual_seed(seed)
    needs = [-(-length // page) for length in kv_lens]
    order = iter(torch.randperm(sum(needs) + 2, generator=random).tolist())
    k = torch.full((sum(needs) + 2, kv_heads, page, d), float("nan"))
    v = k.clone()
    table = torch.full((len(kv_lens), max(needs, default=0) + 2), NONSENSE, dtype=torch.int32)
    for s, length in enumerate(kv_lens):
        for j in range(needs[s]):
            table[s, j] = at = next(order)
            filled = min(page, length - j * page)
            k[at, :, :filled] = torch.randn(kv_heads, filled, d, generator=random)
            v[at, :, :filled] = torch.randn(kv_heads, filled, d, generator=random)
    q = torch.randn(sum(q_lens), heads, d, generator=random)
    starts = torch.tensor([sum(q_lens[:s]) for s in range(len(q_lens) + 1)], dtype=torch.int32)
    lengths = torch.tensor(kv_lens, dtype=torch.int32)
    made = (q.to(dtype), k.to(dtype), v.to(dtype), table, starts, lengths)
    return Store(*(x.to(device) for x in made))


def poison(like: torch.Tensor) -> torch.Tensor:
    return torch.full_like(like, float("nan"))


def some_tree(nodes: int, seed: int = 0) -> list[int]:
    """The ancestor words of a random tree in which a node comes after its parent; node 0 is the root."""
    random = torch.Generator().manual_seed(seed)
    words = [1]
    for node in range(1, nodes):
        parent = int(torch.randint(0, node, (), generator=random))
        words.append(words[parent] | 1 << node)
    return words


def signed(words: list[int]) -> torch.Tensor:
    """Words of 64 bits as int64, whose highest bit is the sign."""
    return torch.tensor([word - (1 << 64) if word >> 63 else word for word in words], dtype=torch.int64)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Within 1e-5 of float64 in fp32, 2e-3 in fp16, 2e-2 in bf16; NaN anywhere fails."""
    most = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[found.dtype]
    torch.testing.assert_close(found.double(), wanted.to(found.device), atol=most, rtol=most)
