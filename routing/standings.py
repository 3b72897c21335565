"""What is remembered of tenants' routes, by whose it is; bounded. standing.py says what that is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .standing import Standing

MOST = 256  # the one that nobody asked for longest is forgotten, and its audits are read again


class Key(NamedTuple):
    """`digest`: of the pair and its calibration: what was learnt of others says nothing of these."""

    tenant: str
    route: str
    digest: str


class Standings:
    """Bounded. `made` makes one that is not known yet."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: OrderedDict[Key, Standing] = OrderedDict()

    def of(self, key: Key, made: Callable[[], Standing]) -> Standing:
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = made()
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return found

    def all(self) -> list[Standing]:
        return list(self._known.values())

    def __len__(self) -> int:
        return len(self._known)
