"""Labelled prompts for the routing benchmarks: rows, their vectors, and what may be fitted on without peeking."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from context_vectors import Vectors
from numpy.typing import NDArray

from trimtab.routing.features import features

Array = NDArray[Any]
SMALL, LARGE = "mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"


@dataclass(frozen=True)
class Labelled:
    """Prompts that both models answered. `topics` and `answers` (the small model's) where the file has them."""

    name: str
    prompts: list[str]
    small: Array
    large: Array
    vectors: Array
    form: Array
    topics: list[str] | None
    answers: list[str] | None

    @property
    def kind(self) -> str:
        return "gsm8k" if self.answers else "mmlu" if self.topics else "other"

    @property
    def labels(self) -> dict[str, Array]:
        return {SMALL: self.small, LARGE: self.large}

    def only(self, rows: Array) -> Labelled:
        at = np.flatnonzero(rows) if rows.dtype == bool else rows

        def some(held: list[str] | None) -> list[str] | None:
            return None if held is None else [held[row] for row in at]

        return Labelled(
            self.name,
            [self.prompts[row] for row in at],
            self.small[at],
            self.large[at],
            self.vectors[at],
            self.form[at],
            some(self.topics),
            some(self.answers),
        )


def load(path: Path, vectors: Path | None, limit: int | None = None) -> Labelled:
    """`vectors`: a folder where they are kept between runs. `limit`: that many rows, evenly from the whole file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    if limit and len(rows) > limit:
        rows = [rows[at] for at in np.linspace(0, len(rows) - 1, limit).astype(int)]
    prompts = [row["prompt"] for row in rows]
    return Labelled(
        path.name.split(".")[0].split("_")[0],
        prompts,
        np.array([row["weak_ok"] for row in rows], dtype=float),
        np.array([row["strong_ok"] for row in rows], dtype=float),
        embedded(prompts, vectors, path.name),
        np.array([features(prompt) for prompt in prompts], dtype=np.float32),
        [row["subject"] for row in rows] if "subject" in rows[0] else None,
        [row["weak_answer"] for row in rows] if "weak_answer" in rows[0] else None,
    )


def embedded(prompts: list[str], folder: Path | None, label: str) -> Array:
    digest = hashlib.sha256("\0".join(prompts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    kept = folder / f"{digest}.npy" if folder else None
    if kept and kept.exists():
        held: Array = np.load(kept)
        return held
    vectors = Vectors()
    vectors.learn(prompts, f"vectors of {label}")
    made = np.stack([vectors.query(prompt) for prompt in prompts])
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, made)
    return made


def part_of(prompt: str, parts: int, salt: str = "") -> int:
    """Equal prompts are in the same part, whatever file they are from."""
    return (
        int.from_bytes(hashlib.sha256(f"{salt}{prompt.strip()}".encode("utf-8", "surrogatepass")).digest()[:4]) % parts
    )


def parted(held: Labelled, parts: int, salt: str = "") -> Array:
    return np.array([part_of(prompt, parts, salt) for prompt in held.prompts])


def without(train: Labelled, prompts: Iterable[str]) -> Labelled:
    """Of the rows to fit on, those whose prompt is not to be reported on."""
    seen = {prompt.strip() for prompt in prompts}
    return train.only(np.array([prompt.strip() not in seen for prompt in train.prompts]))
