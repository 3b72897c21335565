"""What a routing policy lacks to do what it says: worth a warning by `trimtab check`, no reason to refuse it."""

from __future__ import annotations

from collections.abc import Iterator

from ..backends.embed import BUNDLED, check_installed
from ..backends.registry import MissingExtra
from ..routing.policy import RoutePolicy
from .config import Config, RouteConfig
from .model_config import EmbedModel, EngineModel, FakeModel
from .problem import Path

Note = tuple[Path, str]


def route_notes(config: Config, path: Path, policy: RoutePolicy) -> Iterator[Note]:
    """Every warning about one tenant's policy, which stands at `path`."""
    pairs = {name: route for name, route in config.routes.items() if route.small != route.large}
    goal = policy.goal if policy.goal in policy.model_fields_set else None
    if goal is None and not policy.rules:
        return
    if not pairs:
        yield path, "has no effect: no route has a small and a large model"
        return
    if policy.scores and goal is not None:
        yield from _scored(config, (*path, goal), policy, pairs)
    if policy.floor is not None:
        yield from _floor(path, policy)
    if policy.usd_per_day is not None:
        yield from _unpriced(config, (*path, "usd_per_day"), pairs)


def _scored(config: Config, path: Path, policy: RoutePolicy, pairs: dict[str, RouteConfig]) -> Iterator[Note]:
    options = config.embedder.resolved()
    try:
        check_installed(options)
    except MissingExtra as e:
        yield path, f"has no effect, and the large model answers: {e}"
        return
    bare = [name for name, route in pairs.items() if route.calibration is None]
    if not bare:
        return
    which = f"the route{'s' if len(bare) > 1 else ''} {', '.join(bare)}"
    if policy.value is not None:
        yield path, f"has no effect on {which}, without a calibration of that very pair (`trimtab route fit`)"
        return
    if options.model_name != BUNDLED:
        yield path, f"has no effect on {which}: the calibration that ships reads the bundled embedder's vectors"
        return
    yield (
        path,
        f"{which} has no calibration: the one that ships knows exam questions and word problems of two other models, "
        "and what is unlike them goes to the large model; fit one with `trimtab route fit`",
    )


def _floor(path: Path, policy: RoutePolicy) -> Iterator[Note]:
    if policy.audited == 0:
        yield (*path, "audit"), "is 0: a floor that nothing is audited for is never borne, and the large model answers"
    elif policy.judge is None:
        yield (
            (*path, "judge"),
            "is not set: answers that do not say the same to the word or nearly count against the small model",
        )


def _unpriced(config: Config, path: Path, pairs: dict[str, RouteConfig]) -> Iterator[Note]:
    free = EngineModel | EmbedModel | FakeModel
    large = {route.large for route in pairs.values()}
    without = [n for n in sorted(large) if config.models[n].price is None and not isinstance(config.models[n], free)]
    if without:
        yield path, f"cannot count what has no price: {', '.join(without[:8])}"
