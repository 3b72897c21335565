"""Vectors of questions, by family: which kept questions are nearest to one that is asked.

Small families are scanned exactly. Above `SCANNED` the oldest go over, a few with each addition, into a graph (HNSW,
Malkov and Yashunin, arXiv:1603.09320, by usearch), whose finds are compared again by their exact vectors; so there is
no pause to build it, and no thread. Vectors are kept as float16: 768 bytes for 384 dimensions.

One event loop's; knows neither tenants nor answers, since a family is one owner's.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCANNED = 1_024
_MOVED = 8  # vectors that go over into the graph with each addition
_WIDER = 4  # how many times more the graph is asked for than is wanted, as it compares coarser vectors
_FIRST = 64


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
        if not held.ids:
            del self._families[family]

    def nearest(self, family: bytes, vector: NDArray[np.float32], most: int, least: float) -> list[Near]:
        """Up to `most` questions whose cosine is at least `least`, the nearest first."""
        held = self._families.get(family)
        return [] if held is None else held.nearest(vector, most, least)


class _Family:
    """The questions of one family. A row is a slot; a freed slot is given to the next that comes."""

    def __init__(self, dimensions: int) -> None:
        self.ids: dict[str, int] = {}
        self._dimensions = dimensions
        self._rows: NDArray[np.float16] = np.zeros((_FIRST, dimensions), np.float16)
        self._names: list[tuple[str, str] | None] = []
        self._free: list[int] = []
        self._scanned: OrderedDict[int, None] = OrderedDict()  # slots that the graph does not hold, the oldest first
        self._graph: Any = None

    def add(self, id: str, question: str, vector: bytes) -> bool:
        row = np.frombuffer(vector, np.float16)
        if row.size != self._dimensions or not np.isfinite(row).all():
            return False
        slot = self._slot()
        self._rows[slot] = row
        self._names[slot] = (id, question)
        self.ids[id] = slot
        self._scanned[slot] = None
        if len(self._scanned) > SCANNED:
            self._move()
        return True

    def drop(self, id: str) -> None:
        slot = self.ids.pop(id)
        self._names[slot] = None
        if slot in self._scanned:
            del self._scanned[slot]
        elif self._graph is not None:
            self._graph.remove(slot)
        self._rows[slot] = 0  # a cosine of zero: below anything that is asked for
        self._free.append(slot)

    def nearest(self, vector: NDArray[np.float32], most: int, least: float) -> list[Near]:
        slots = np.fromiter(self._scanned, np.intp, len(self._scanned))
        if self._graph is not None and len(self._graph):
            found = self._graph.search(vector, min(len(self._graph), most * _WIDER)).keys.astype(np.intp)
            slots = np.concatenate((slots, found))
        if not slots.size:
            return []
        # Not `@`: BLAS starts threads for a product of this size, and waits for them longer than it takes.
        cosines = np.einsum("ij,j->i", self._rows[slots].astype(np.float32), vector)
        if most < cosines.size:
            best = np.argpartition(-cosines, most - 1)[:most]
            slots, cosines = slots[best], cosines[best]
        order = np.argsort(-cosines, kind="stable")
        near = []
        for place in order:
            name = self._names[slots[place]]
            if name is not None and cosines[place] >= least:
                near.append(Near(name[0], name[1], float(min(1.0, cosines[place]))))
        return near

    def _slot(self) -> int:
        if self._free:
            return self._free.pop()
        slot = len(self._names)
        self._names.append(None)
        if slot == len(self._rows):
            grown = np.zeros((2 * len(self._rows), self._dimensions), np.float16)
            grown[:slot] = self._rows
            self._rows = grown
        return slot

    def _move(self) -> None:
        """The oldest scanned vectors into the graph, where there is one to be had."""
        if self._graph is None:
            self._graph = _graph(self._dimensions)
        if self._graph is None:
            return
        moved = [self._scanned.popitem(last=False)[0] for _ in range(_MOVED)]
        self._graph.add(np.array(moved, np.uint64), self._rows[moved].astype(np.float32), threads=1)


def _graph(dimensions: int) -> Any:
    """An empty graph; None without usearch: then everything is scanned, exactly and more slowly."""
    try:
        from usearch.index import Index as Graph
    except ImportError:
        return None
    return Graph(ndim=dimensions, metric="cos", dtype="i8", connectivity=16, expansion_add=64, expansion_search=64)
