"""Perplexity: how surprised a model is by texts, in choices a token. What every lossy form is judged by.

Knows the plain forward pass; nothing of requests or batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .reference import Product, Reference, Tensors, plain

# Gives the tensors that a layer is to be computed with, from the checkpoint's own.
Change = Callable[[int, Tensors], Tensors]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a change of a model costs on some texts: perplexity before and after it.

    `error` is one standard error of `loss`, the texts' tokens being a sample of all such texts. `divergence` is how far
    the model's own distributions moved: the mean Kullback-Leibler divergence, nats a token, whose error is far smaller.
    """

    before: float
    after: float
    error: float
    divergence: float

    @property
    def loss(self) -> float:
        """How much greater perplexity became, as a share."""
        return self.after / self.before - 1


def perplexity(
    reference: Reference, texts: list[list[int]], change: Change | None = None, product: Product = plain
) -> float:
    """exp of the mean surprise over every token but each text's first. The layers' products may be replaced."""
    loss = 0.0
    states = last_states(reference, texts, change, product)
    with torch.inference_mode():
        for x, ids in zip(states, texts, strict=True):
            loss += float(F.cross_entropy(reference.logits(x[:-1]), torch.tensor(ids[1:]), reduction="sum"))
    return math.exp(loss / max(sum(len(ids) - 1 for ids in texts), 1))


def last_states(
    reference: Reference,
    texts: list[list[int]],
    change: Change | None = None,
    product: Product = plain,
    seen: Callable[[int], None] = lambda layer: None,
) -> list[torch.Tensor]:
    """What the last layer gives: [tokens, hidden] for each text. Layers are read one at a time, all texts go through
    each; `seen` is told after each layer."""
    with torch.inference_mode():
        states = reference.embedded(texts)
        for i in range(reference.shape.layers):
            tensors = reference.layer(i)
            tensors = change(i, tensors) if change else tensors
            states = [reference.run_layer(tensors, x, product) for x in states]
            seen(i)
        return states


def compared(
    reference: Reference,
    before: list[torch.Tensor],
    after: list[torch.Tensor],
    texts: list[list[int]],
    product: Product = plain,
) -> Cost:
    """From what the last layer gave before a change and after it."""
    loss, divergence = 0.0, 0.0
    changes = [torch.zeros(0)]  # of each token's surprise
    with torch.inference_mode():
        for old, new, ids in zip(before, after, texts, strict=True):
            was, now = (reference.logits(x[:-1], product).log_softmax(-1) for x in (old, new))
            token = torch.tensor(ids[1:])[:, None]
            loss -= float(was.gather(1, token).sum())
            changes.append((was.gather(1, token) - now.gather(1, token))[:, 0])
            divergence += float((was.exp() * (was - now)).sum())
    change = torch.cat(changes)
    count = max(len(change), 1)
    ratio = math.exp(float(change.sum()) / count)
    perplexed = math.exp(loss / count)
    error = ratio * float((change - change.mean()).square().mean() / count) ** 0.5 if len(change) else 0.0
    return Cost(perplexed, ratio * perplexed, error, divergence / count)
