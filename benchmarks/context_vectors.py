"""Sentence vectors for many contexts: each distinct text is embedded once, the short ones together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from context_sets import Context
from numpy.typing import NDArray
from rich.progress import track

from trimtab.backends.embed import EmbedOptions, Encoder, load
from trimtab.compression import evidence
from trimtab.compression.units import Unit

BATCH = 8


class Vectors:
    """Remembers vectors by text; `encoder` is the embedder's own, called without its thread and its queue."""

    def __init__(self, encoder: Encoder | None = None) -> None:
        self.encoder = encoder or load(EmbedOptions())
        self._known: dict[str, NDArray[np.float32]] = {}

    def learn(self, texts: Iterable[str], label: str = "") -> None:
        """Embed those of `texts` that are new; shows a bar if it has a label."""
        new = sorted({text for text in texts if text not in self._known}, key=len)
        steps: Iterable[int] = range(0, len(new), BATCH)
        for at in track(list(steps), label) if label else steps:
            self._known |= zip(new[at : at + BATCH], self.embed(new[at : at + BATCH]), strict=True)

    def learn_all(self, sets: Iterable[Sequence[Context]], label: str) -> None:
        """Everything that these contexts need."""
        found = {one.question for made in sets for one in made}
        self.learn(found | {evidence.embedded_text(unit) for made in sets for one in made for unit in one.units}, label)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of unit length, whatever is remembered."""
        prepared = self.encoder.prepare(texts)
        order = sorted(range(len(texts)), key=lambda at: prepared[at].size)
        made = np.empty((len(texts), self.encoder.dimensions), dtype=np.float32)
        for at in range(0, len(order), BATCH):
            rows = order[at : at + BATCH]
            found = self.encoder.encode([prepared[row] for row in rows])
            made[rows] = found / np.linalg.norm(found, axis=1, keepdims=True)
        return made

    def query(self, question: str) -> NDArray[np.float32]:
        self.learn([question])
        return self._known[question]

    def units(self, units: Sequence[Unit]) -> NDArray[np.float32]:
        texts = [evidence.embedded_text(unit) for unit in units]
        self.learn(texts)
        return np.stack([self._known[text] for text in texts])

    def fresh(self, units: Sequence[Unit]) -> NDArray[np.float32]:
        """The same, embedded now whatever is remembered."""
        return self.embed([evidence.embedded_text(unit) for unit in units])
