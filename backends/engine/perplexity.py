"""Perplexity: how surprised a model is by texts, in choices a token. What every lossy form is judged by.

Knows the plain forward pass; nothing of requests or batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F

from .reference import Product, Reference, Tensors, plain

# Gives the tensors that a layer is to be computed with, from the checkpoint's own.
Change = Callable[[int, Tensors], Tensors]


def perplexity(
    reference: Reference,
    texts: list[list[int]],
    change: Change | None = None,
    product: Product = plain,
    seen: Callable[[int], None] | None = None,
) -> float:
    """exp of the mean surprise over every token but each text's first. Layers are read one at a time, all texts go
    through each; `seen` is told after each layer."""
    with torch.inference_mode():
        states = reference.embedded(texts)
        for i in range(reference.shape.layers):
            tensors = reference.layer(i)
            tensors = change(i, tensors) if change else tensors
            states = [reference.run_layer(tensors, x, product) for x in states]
            if seen:
                seen(i)
        return from_states(reference, states, texts)


def from_states(reference: Reference, states: Iterable[torch.Tensor], texts: list[list[int]]) -> float:
    """Perplexity from what the last layer gave."""
    loss, count = 0.0, 0
    with torch.inference_mode():
        for x, ids in zip(states, texts, strict=True):
            logits = reference.logits(x[:-1])
            loss += float(F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
            count += len(ids) - 1
    return math.exp(loss / max(count, 1))
