"""Drawing tokens by the kernels room: one pass on the device for rows that are drawn by many laws.

The law is sample.py's; the noise is another (Philox, keyed by the same seed and position), so an answer drawn on a GPU
repeats on GPUs. Knows laws and logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ...kernels.sampling import sample

if TYPE_CHECKING:
    from .sample import Law


def drawn(scores: torch.Tensor, laws: Sequence[Law]) -> list[int]:
    """The token of each row of `scores` [rows, vocabulary], penalties and biases applied."""
    asks = [law.sampling for law in laws]

    def each(values: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=scores.device)

    tokens = sample(
        scores,
        each([ask.temperature for ask in asks], torch.float32),
        each([ask.top_k for ask in asks], torch.int32),
        each([ask.top_p for ask in asks], torch.float32),
        each([ask.min_p for ask in asks], torch.float32),
        each([_signed(ask.seed) for ask in asks], torch.int64),
        each([law.position for law in laws], torch.int64),
    )
    return [int(token) for token in tokens.tolist()]


def _signed(seed: int) -> int:
    """The lowest 64 bits, as torch's int64 has them."""
    low = seed & (1 << 64) - 1
    return low - (1 << 64) if low >> 63 else low
