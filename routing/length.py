"""How long will the answer be? P50, P90, P99 and P99.9 of its tokens, per model, tenant and route.

`LengthPlanner` joins a prior over models (`length_prior.py`), the cues of the prompt (`length_cues.py`) and one
calibration per (model, tenant, route). A new route starts from what its tenant's other routes on the model have shown;
nothing passes between tenants. It knows no request, no clock and no embedder: vectors are handed in.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from . import length_cues
from .length_calibration import Calibration
from .length_prior import HandPrior, Prior

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_KEYS = 10_000
OWN = 20  # answers of a route after which its own calibration speaks


class Key(NamedTuple):
    model: str
    tenant: str = ""
    route: str = ""


class Forecast(NamedTuple):
    """Tokens of the visible answer, cut at the client's own `max_tokens`. `seen`: answers behind the calibration.

    `basis` goes back into `learn` with the answer's true length.
    """

    p50: float
    p90: float
    p99: float
    p999: float
    seen: int
    basis: tuple[float, ...]


class LengthPlanner:
    """Bounded: the keys that nobody asked for longest are forgotten. Not for two threads at a time."""

    def __init__(self, prior: Prior | None = None, most_keys: int = MOST_KEYS) -> None:
        self.prior = prior or HandPrior()
        self._most_keys = most_keys
        self._known: OrderedDict[Key, Calibration] = OrderedDict()

    def forecast(
        self, key: Key, prompt: str, vector: NDArray[np.float32] | None = None, max_tokens: int | None = None
    ) -> Forecast:
        """`prompt`: the turn that is to be answered; `vector`: its unit embedding, None where there is none."""
        cues = length_cues.read(prompt)
        basis = self.prior.basis(cues, vector)
        calibration = self._speaker(key)
        tokens = [max(1.0, one) for one in calibration.quantiles(basis)]
        if max_tokens is not None:
            tokens = [min(one, float(max(1, max_tokens))) for one in tokens]
        p50, p90, p99, p999 = tokens
        return Forecast(p50, p90, p99, p999, calibration.seen, basis)

    def learn(self, key: Key, basis: tuple[float, ...], tokens: int) -> None:
        """An answer that ended by itself (`stop` or `tool_calls`); what was cut or left must not come here."""
        self._at(key).learn(basis, tokens)
        whole = Key(key.model, key.tenant)
        if key != whole:
            self._at(whole).learn(basis, tokens)

    def forget(self, tenant: str) -> None:
        """Everything that a tenant's answers have taught."""
        for key in [key for key in self._known if key.tenant == tenant]:
            del self._known[key]

    def __len__(self) -> int:
        return len(self._known)

    def _speaker(self, key: Key) -> Calibration:
        own = self._known.get(key)
        if own is not None and own.seen >= OWN:
            self._known.move_to_end(key)
            return own
        whole = self._known.get(Key(key.model, key.tenant))
        return whole or own or Calibration(self.prior.population)

    def _at(self, key: Key) -> Calibration:
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Calibration(self.prior.population)
            if len(self._known) > self._most_keys:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return found
