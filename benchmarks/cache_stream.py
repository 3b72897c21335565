"""Streams of questions before an empty cache: which earlier question answers which, at any score, replayed cheaply.

Every question's nearest neighbours in the whole set are compared once; a stream then only looks up what of them came
before. A question that is answered from the cache is not stored. A hit is right if both questions have one meaning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cache_sets import Pairs
from numpy.typing import NDArray
from rich.progress import Progress

from trimtab.cache.bound import Evidence
from trimtab.cache.semantic import COMPARED, NEAREST
from trimtab.cache.verifier import Pair, Verifier
from trimtab.cache.vetoes import veto

NEIGHBOURS = 12  # kept of each question
CHUNK = 32


@dataclass(frozen=True)
class Neighbour:
    """`score` before any veto; `struck`: which veto struck the pair out, if one did."""

    at: int
    cosine: float
    score: float
    struck: str | None


@dataclass(frozen=True)
class Look:
    """A look-up's best candidate; -1 where there was none."""

    asked: int
    stored: int
    score: float
    right: bool


Near = list[list[Neighbour]]


def near_pairs(vectors: NDArray[np.float32], floor: float, most: int = NEIGHBOURS) -> list[list[tuple[int, float]]]:
    """For each row its nearest others, at least `floor` near, the nearest first."""
    found: list[list[tuple[int, float]]] = []
    for start in range(0, len(vectors), 1024):
        similar = vectors[start : start + 1024] @ vectors.T
        similar[np.arange(len(similar)), np.arange(start, start + len(similar))] = -1
        most = min(most, similar.shape[1])
        best = np.argpartition(-similar, most - 1, axis=1)[:, :most]
        for row, columns in zip(similar, best, strict=True):
            ordered = sorted(((int(at), float(row[at])) for at in columns), key=lambda each: -each[1])
            found.append([each for each in ordered if each[1] >= floor])
    return found


def compared(pairs: Sequence[Pair], verifier: Verifier, label: str) -> list[float]:
    """The verifier's scores of any number of pairs."""

    async def run() -> list[float]:
        scores: list[float] = []
        with Progress() as progress:
            task = progress.add_task(label, total=len(pairs))
            for at in range(0, len(pairs), CHUNK):
                scores += await verifier.scores(pairs[at : at + CHUNK])
                progress.update(task, advance=CHUNK)
        return scores

    return asyncio.run(run())


def neighbours(data: Pairs, vectors: NDArray[np.float32], floor: float, verifier: Verifier, label: str) -> Near:
    """Every question's neighbours, compared; each two questions once."""
    lists = near_pairs(vectors, floor)
    cosines = {(min(a, b), max(a, b)): cosine for a, row in enumerate(lists) for b, cosine in row}
    keys = sorted(cosines)
    text = data.questions
    scores = compared([Pair(text[a], text[b], cosines[a, b]) for a, b in keys], verifier, label)
    known = {
        key: Neighbour(-1, cosines[key], score, veto(text[key[0]], text[key[1]]))
        for key, score in zip(keys, scores, strict=True)
    }
    near: Near = [[] for _ in text]
    for (a, b), each in known.items():
        near[a].append(Neighbour(b, each.cosine, each.score, each.struck))
        near[b].append(Neighbour(a, each.cosine, each.score, each.struck))
    for row in near:
        row.sort(key=lambda each: -each.cosine)
    return near


def replay(
    near: Near, meanings: Sequence[int], order: Sequence[int], threshold: float, *, vetoes: bool = True
) -> list[Look]:
    """Each question's best candidate among those stored before it; those at or above `threshold` are served."""
    stored: set[int] = set()
    looks = []
    for asked in order:
        before = [each for each in near[asked] if each.at in stored][:NEAREST]
        left = [each for each in before if not (vetoes and each.struck)][:COMPARED]
        best = max(left, key=lambda each: each.score, default=None)
        if best is None:
            looks.append(Look(asked, -1, 0.0, False))
        else:
            looks.append(Look(asked, best.at, best.score, meanings[asked] == meanings[best.at]))
        if best is None or best.score < threshold:
            stored.add(asked)
    return looks


def hits_and_wrong(looks: Sequence[Look], threshold: float) -> tuple[float, float]:
    """Shares of all look-ups that are served, and served wrongly."""
    served = [look for look in looks if look.stored >= 0 and look.score >= threshold]
    return len(served) / len(looks), sum(not look.right for look in served) / len(looks)


def evidence(looks: Sequence[Look], grid: Sequence[float]) -> Evidence:
    """Look-ups as evidence, each of them judged."""
    edges = np.array(grid)
    real = [look for look in looks if look.stored >= 0 and look.score >= edges[0]]
    parts = np.searchsorted(edges, [look.score for look in real], "right") - 1
    found = np.bincount(parts, minlength=len(edges)).astype(float)
    wrong = np.bincount(parts, [float(not look.right) for look in real], minlength=len(edges))
    return Evidence(tuple(map(float, grid)), float(len(looks)), tuple(found), tuple(found), tuple(wrong))
