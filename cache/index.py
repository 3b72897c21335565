"""Vectors of questions, by family: which kept questions are nearest to one that is asked.

Small families are scanned exactly. Above `SCANNED` the oldest go over, a few with each addition, into a graph (HNSW,
Malkov and Yashunin, arXiv:1603.09320, by usearch), whose finds are compared again by their exact vectors; so there is
no pause to build it, and no thread. Those are kept as float16: 768 bytes for 384 dimensions; the others as float32.

One event loop's; knows neither tenants nor answers, since a family is one owner's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCANNED = 1_024
_MOVED = 8  # vectors that go over into the graph with each addition
_WIDER = 4  # how many times more the graph is asked for than is wanted, as it compares coarser vectors
_FIRST = 2  # rows: most families are one conversation's and stay small
_PIECE = 8_192  # rows compared at once where there is no graph

Name = tuple[str, str]  # an id and its question


@dataclass(frozen=True, slots=True)
class Near:
    """A kept question and its cosine to what is asked."""

    id: str
    question: str
    cosine: float


class Index:
    """All families of one process. An id is in one family; a later one of the same id takes its place."""

    def __init__(self) -> None:
        self._families: dict[bytes, _Family] = {}
        self._where: dict[tuple[str, str], bytes] = {}

    def __len__(self) -> int:
        return len(self._where)

    def add(self, owner: str, family: bytes, id: str, question: str, vector: bytes) -> None:
        """`vector`: float16, of unit length. One of another size than its family's is left out."""
        self.drop(owner, id)
        held = self._families.get(family)
        if held is None:
            held = self._families[family] = _Family(len(vector) // 2)
        if held.add(id, question, vector):
            self._where[(owner, id)] = family

    def drop(self, owner: str, id: str) -> None:
        family = self._where.pop((owner, id), None)
        if family is None:
            return
        held = self._families[family]
        held.drop(id)
        if not len(held):
            del self._families[family]

    def nearest(self, family: bytes, vector: NDArray[np.float32], most: int, least: float) -> list[Near]:
        """Up to `most` questions whose cosine is at least `least`, the nearest first."""
        held = self._families.get(family)
        return [] if held is None else held.nearest(vector, most, least)


class _Family:
    """The questions of one family: the latest, and the older ones where there are many."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._latest = _Latest(dimensions)
        self._older: _Older | None = None

    def __len__(self) -> int:
        return len(self._latest) + (0 if self._older is None else len(self._older))

    def add(self, id: str, question: str, vector: bytes) -> bool:
        row = np.frombuffer(vector, np.float16)
        if row.size != self._dimensions or not np.isfinite(row).all():
            return False
        self._latest.add((id, question), row)
        if len(self._latest) > SCANNED:
            if self._older is None:
                self._older = _Older(self._dimensions)
            self._older.add(*self._latest.oldest(_MOVED))
        return True

    def drop(self, id: str) -> None:
        if not self._latest.drop(id) and self._older is not None:
            self._older.drop(id)

    def nearest(self, vector: NDArray[np.float32], most: int, least: float) -> list[Near]:
        found = self._latest.nearest(vector, most)
        if self._older is not None:
            found += self._older.nearest(vector, most)
        found.sort(key=lambda one: -one[1])
        return [Near(*name, min(1.0, cosine)) for name, cosine in found[:most] if cosine >= least]


class _Latest:
    """Rows without a gap in no order, in float32: to make that of float16 takes longer than to compare them."""

    def __init__(self, dimensions: int) -> None:
        self._rows: NDArray[np.float32] = np.empty((_FIRST, dimensions), np.float32)
        self._names: list[Name] = []
        self._at: OrderedDict[str, int] = OrderedDict()  # the oldest first

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: Name, row: NDArray[np.float16]) -> None:
        at = len(self._names)
        if at == len(self._rows):
            self._rows = np.concatenate((self._rows, np.empty_like(self._rows)))
        self._rows[at] = row
        self._names.append(name)
        self._at[name[0]] = at

    def drop(self, id: str) -> bool:
        at = self._at.pop(id, None)
        if at is None:
            return False
        last = self._names.pop()
        if last[0] != id:
            self._rows[at], self._names[at] = self._rows[len(self._names)], last
            self._at[last[0]] = at
        return True

    def oldest(self, count: int) -> tuple[list[Name], NDArray[np.float16]]:
        """Takes them out."""
        places = [at for _, at in zip(range(count), self._at.values(), strict=False)]
        names, rows = [self._names[at] for at in places], self._rows[places].astype(np.float16)
        for id, _ in names:
            self.drop(id)
        return names, rows

    def nearest(self, vector: NDArray[np.float32], most: int) -> list[tuple[Name, float]]:
        cosines = _cosines(self._rows[: len(self._names)], vector)
        return [(self._names[at], float(cosines[at])) for at in _highest(cosines, most)]


class _Older:
    """Rows in float16. A row is a slot; a freed slot is given to the next that comes."""

    def __init__(self, dimensions: int) -> None:
        self._rows: NDArray[np.float16] = np.zeros((SCANNED, dimensions), np.float16)
        self._names: list[Name | None] = []
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._graph: Any = _graph(dimensions)

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, names: Sequence[Name], rows: NDArray[np.float16]) -> None:
        slots = [self._slot() for _ in names]
        for slot, name, row in zip(slots, names, rows, strict=True):
            self._rows[slot], self._names[slot] = row, name
            self._slots[name[0]] = slot
        if self._graph is not None:
            self._graph.add(np.array(slots, np.uint64), rows.astype(np.float32), threads=1)

    def drop(self, id: str) -> None:
        slot = self._slots.pop(id)
        self._names[slot] = None
        if self._graph is not None:
            self._graph.remove(slot)
        self._free.append(slot)

    def nearest(self, vector: NDArray[np.float32], most: int) -> list[tuple[Name, float]]:
        if not self._slots:
            return []
        if self._graph is None:
            slots = np.fromiter(self._slots.values(), np.intp, len(self._slots))
        else:
            found = self._graph.search(vector, min(len(self._graph), most * _WIDER), threads=1)
            slots = found.keys.astype(np.intp)
        if not slots.size:
            return []
        pieces = [slots[start : start + _PIECE] for start in range(0, len(slots), _PIECE)]
        cosines = np.concatenate([_cosines(self._rows[some].astype(np.float32), vector) for some in pieces])
        best = [(self._names[slots[at]], float(cosines[at])) for at in _highest(cosines, most)]
        return [(name, cosine) for name, cosine in best if name is not None]

    def _slot(self) -> int:
        if self._free:
            return self._free.pop()
        slot = len(self._names)
        self._names.append(None)
        if slot == len(self._rows):
            self._rows = np.concatenate((self._rows, np.zeros_like(self._rows)))
        return slot


def _cosines(rows: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    # Not `@`: BLAS starts threads for a product of this size, and waits for them longer than it takes.
    found: NDArray[np.float32] = np.einsum("ij,j->i", rows, vector)
    return found


def _highest(figures: NDArray[np.float32], most: int) -> NDArray[np.intp]:
    """Where the highest stand, in no order."""
    if most >= figures.size:
        return np.arange(figures.size)
    return np.argpartition(-figures, most - 1)[:most]


def _graph(dimensions: int) -> Any:
    """An empty graph; None without usearch: then everything is scanned, exactly and more slowly.

    Imported here and no sooner: onnxruntime, if it is imported after it, crashes the process (usearch 2.26, onnxruntime
    1.31); whoever makes a semantic tier has loaded the network that compares questions before.
    """
    try:
        from usearch.index import Index as Graph
    except ImportError:
        return None
    return Graph(ndim=dimensions, metric="cos", dtype="i8", connectivity=16, expansion_add=64, expansion_search=64)
