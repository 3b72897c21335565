"""How long will the answer be? P50, P90, P99 and P99.9 of its tokens, per model, tenant and route.

`LengthPlanner` joins a prior over models (`length_prior.py`), the cues of the prompt (`length_cues.py`) and one
calibration per (model, tenant, route). A new route starts from what its tenant's other routes on the model have shown;
nothing passes between tenants. It knows no request, no clock and no embedder: vectors are handed in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from . import length_cues
from .length_calibration import Calibration
from .length_prior import HandPrior, Prior

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_KEYS = 4_000  # a few kilobytes each
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
        self._fresh = Calibration(self.prior.population)

    def forecast(
        self, key: Key, prompt: str, vector: NDArray[np.float32] | None = None, max_tokens: int | None = None
    ) -> Forecast:
        """`prompt`: the turn that is to be answered; `vector`: its unit embedding, None where there is none."""
        return self.told(key, self.basis(prompt, vector), max_tokens)

    def basis(self, prompt: str, vector: NDArray[np.float32] | None = None) -> tuple[float, ...]:
        """What the prompt says, the same for all models: for `told` and `learn`."""
        return self.prior.basis(length_cues.read(prompt), vector)

    def told(self, key: Key, basis: tuple[float, ...], max_tokens: int | None = None) -> Forecast:
        """The forecast of one model for a prompt that was read before."""
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

    def seen(self, key: Key) -> int:
        """Answers that this very key has taught."""
        known = self._known.get(key)
        return 0 if known is None else known.seen

    def forget(self, tenant: str) -> None:
        """Everything that a tenant's answers have taught."""
        for key in [key for key in self._known if key.tenant == tenant]:
            del self._known[key]

    def __len__(self) -> int:
        return len(self._known)

    def keys(self) -> list[Key]:
        """All that something is known of."""
        return list(self._known)

    def tenants(self) -> set[str]:
        """Whose answers have taught something."""
        return {key.tenant for key in self._known}

    def rows(self, most_keys: int, most_answers: int) -> Iterator[list[Any]]:
        """What was learnt, for `load`; of the keys that were asked for last. It may be learnt from in between."""
        for key, calibration in list(self._known.items())[-most_keys:]:
            yield [*key, calibration.to_json(most_answers)]

    def load(self, raw: Any) -> int:
        """Takes over what `rows` gave, as far as it is ours and fits the prior; how many keys that were."""
        rows = raw if isinstance(raw, list) else []
        taken = 0
        for row in rows[-self._most_keys :]:
            try:
                model, tenant, route, learnt = row
                known = Calibration.from_json(self.prior.population, learnt)
            except (KeyError, TypeError, ValueError):
                continue
            self._known[Key(str(model), str(tenant), str(route))] = known
            taken += 1
        return taken

    def _speaker(self, key: Key) -> Calibration:
        own = self._known.get(key)
        if own is not None and own.seen >= OWN:
            self._known.move_to_end(key)
            return own
        whole = self._known.get(Key(key.model, key.tenant))
        return whole or own or self._fresh

    def _at(self, key: Key) -> Calibration:
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Calibration(self.prior.population)
            if len(self._known) > self._most_keys:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return found
