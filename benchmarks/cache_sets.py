"""Pairs of questions for the cache's benchmark: read, split so that no question is on two sides, and made a stream.

Two questions are the same if a chain of pairs that are labelled so connects them. Nothing here knows a score.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from trimtab.backends.embed import EmbedOptions, Encoder, load

FIT, CALIBRATE = 0.8, 0.9  # shares of the groups that the verifier is fitted on, and up to which it is calibrated on
BATCH = 8


@dataclass(frozen=True)
class Pairs:
    """`pairs` are numbers of two questions and whether they are labelled the same. `groups`: questions that any pair
    connects have the same number; `meanings`: questions that labels make the same."""

    questions: list[str]
    pairs: list[tuple[int, int, bool]]
    groups: list[int]
    meanings: list[int]

    def part(self, low: float, high: float) -> Pairs:
        """The groups whose hash falls between two shares; whole groups, so that parts share no question."""
        first: dict[int, str] = {}
        for question, group in zip(self.questions, self.groups, strict=True):
            first[group] = min(first.get(group, question), question)
        share = {group: _share(text) for group, text in first.items()}
        return self.of_groups({group for group in share if low <= share[group] < high})

    def of_groups(self, kept: set[int]) -> Pairs:
        old = [number for number, group in enumerate(self.groups) if group in kept]
        new = {number: at for at, number in enumerate(old)}
        return Pairs(
            [self.questions[number] for number in old],
            [(new[a], new[b], same) for a, b, same in self.pairs if a in new],
            [self.groups[number] for number in old],
            [self.meanings[number] for number in old],
        )

    def stream(self, most: int, seed: int) -> list[int]:
        """Numbers of up to `most` questions in random order, of whole groups."""
        rng = random.Random(seed)
        groups = sorted(set(self.groups))
        rng.shuffle(groups)
        members: dict[int, list[int]] = {}
        for number, group in enumerate(self.groups):
            members.setdefault(group, []).append(number)
        taken: list[int] = []
        for group in groups:
            if len(taken) + len(members[group]) <= most:
                taken += members[group]
        rng.shuffle(taken)
        return taken

    @property
    def ceiling(self) -> float:
        """The share of the questions that an earlier one of the same meaning answers, in any order."""
        return 1 - len(set(self.meanings)) / len(self.meanings)


def read(paths: Iterable[Path], most: int | None = None) -> Pairs:
    """JSON lines with `a`, `b` and `same`, gzipped or not; other files are left out. With `most`, about so many pairs,
    of whole groups."""
    rows = [row for path in paths for row in _rows(path)]
    numbers: dict[str, int] = {}
    for row in rows:
        for side in ("a", "b"):
            numbers.setdefault(row[side], len(numbers))
    pairs = [(numbers[row["a"]], numbers[row["b"]], bool(row["same"])) for row in rows]
    groups = connected(len(numbers), ((a, b) for a, b, _ in pairs))
    meanings = connected(len(numbers), ((a, b) for a, b, same in pairs if same))
    whole = Pairs(list(numbers), pairs, groups, meanings)
    return whole if most is None or len(pairs) <= most else whole.part(0, most / len(pairs))


def _rows(path: Path) -> list[dict[str, Any]]:
    held = path.read_bytes()
    text = gzip.decompress(held) if path.suffix == ".gz" else held
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    return rows if rows and all({"a", "b", "same"} <= row.keys() for row in rows) else []


def connected(size: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `size` nodes, the number of its component."""
    parent = list(range(size))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for a, b in edges:
        parent[root(a)] = root(b)
    return [root(node) for node in range(size)]


def _share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(f"split{text}".encode()).digest()[:4], "big") / 2**32


def vectors(questions: Sequence[str], kept: Path | None = None, encoder: Encoder | None = None) -> NDArray[np.float32]:
    """Unit vectors of the questions by the bundled embedder; kept in the folder `kept`, in half precision, if given."""
    digest = hashlib.sha256("\n".join(questions).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    path = kept / f"questions-{digest}.npy" if kept else None
    if path is not None and path.is_file():
        return np.load(path, allow_pickle=False).astype(np.float32)
    made = _embedded(questions, encoder or load(EmbedOptions()))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, made.astype(np.float16))
    return made.astype(np.float16).astype(np.float32)


def _embedded(questions: Sequence[str], encoder: Encoder) -> NDArray[np.float32]:
    prepared = encoder.prepare(questions)
    order = sorted(range(len(questions)), key=lambda at: prepared[at].size)
    made = np.empty((len(questions), encoder.dimensions), np.float32)
    for at in track(range(0, len(order), BATCH), "vectors"):
        rows = order[at : at + BATCH]
        found = encoder.encode([prepared[row] for row in rows])
        made[rows] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return made
