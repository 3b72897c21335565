"""The second half of a chain of facts: units that name what the best units name, where the question did not.

"Where did the discoverer of X grow up?" finds who discovered X; only that name finds where she grew up. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import cohesion
from .abstain import words
from .evidence import Reader
from .unit import Unit

_FROM = 3  # units at the top whose names are followed
_NAMES = 32  # of them, at most
_RARE = 6  # units in which a name may stand and still lead somewhere
_SHARE = 0.1  # of all units that may be added, or three


def second_hop(
    reader: Reader,
    query: str,
    query_vector: NDArray[Any],
    vectors: NDArray[Any],
    order: NDArray[np.intp],
    kept: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """The units of `reader` to add to those that are `kept`; `order` has the best unit first."""
    units = reader.units
    added = np.zeros_like(kept)
    top = [int(i) for i in order[:_FROM] if kept[i]]
    found = _bridges(units, query, top)
    if not found:
        return added
    near = np.asarray(query_vector, dtype=np.float64) + vectors[top].mean(axis=0)
    wider = reader.scores(f"{query} {' '.join(found)}", near / (float(np.linalg.norm(near)) or 1.0), vectors)
    # Above the average is enough: the names are rare, and the half they lead to shares little with the question.
    usual = float(wider.mean())
    places = {i for where in found.values() for i in where if wider[i] > usual and not kept[i]}
    best = sorted(places, key=lambda i: (-wider[i], i))
    added[best[: max(3, math.ceil(_SHARE * len(units)))]] = True
    return added


def _bridges(units: Sequence[Unit], query: str, top: Sequence[int]) -> dict[str, list[int]]:
    """Names in the best units that are rare here and not in the question, and the units that they stand in."""
    asked = query.casefold()
    named = {name for i in top for name in cohesion.names(units[i].text) if name.casefold() not in asked}
    found: dict[str, list[int]] = {}
    for name in sorted(name for name in named if words(name))[:_NAMES]:
        places = [i for i, unit in enumerate(units) if name in unit.text]
        if 1 < len(places) <= _RARE:
            found[name] = places
    return found
