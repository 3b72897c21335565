"""What no single section can see: names that clash or lead nowhere, keys that two tenants share, an open door.

Pure: a configuration in, findings out. A finding is a path in the tree and the cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from .listen import open_door
from .nearest import suggestion
from .problem import Path

if TYPE_CHECKING:
    from ..routing.policy import RoutePolicy
    from .config import Config

Finding = tuple[Path, str]
CROSS = "cross_check"  # the error type that tells these findings from those of a single field


def cross_check(config: Config) -> None:
    """Raise one ValidationError that holds every finding."""
    found = [*_clashes(config), *_references(config), *_keys(config), *open_door(config, config.server.host)]
    if not config.models:
        found.append((("models",), "holds no model that can answer"))
    if found:
        raise ValidationError.from_exception_data("Config", [_detail(path, cause) for path, cause in found])


def _detail(path: Path, cause: str) -> InitErrorDetails:
    error = PydanticCustomError(CROSS, "{cause}", {"cause": cause})
    return InitErrorDetails(type=error, loc=path, input=None)


def _clashes(config: Config) -> Iterator[Finding]:
    """Models, routes and aliases share one namespace: the one that clients ask for."""
    owners: dict[str, str] = {name: f"the model {name!r}" for name in config.models}
    for name in config.routes:
        if name in owners:
            yield ("routes", name), f"a model has this name too; clients could not tell the route {name!r} from it"
        owners.setdefault(name, f"the route {name!r}")
    for section, entries in (("models", config.models), ("routes", config.routes)):
        for name, entry in entries.items():
            for i, alias in enumerate(entry.aliases):
                if alias in owners:
                    yield (section, name, "aliases", i), f"{alias!r} is taken by {owners[alias]}"
                owners.setdefault(alias, f"an alias of {name!r}")


def _references(config: Config) -> Iterator[Finding]:
    models = set(config.models)
    for name, model in config.models.items():
        yield from _unknown(("models", name, "fallbacks"), model.fallbacks, models, "model")
        for i, other in enumerate(model.fallbacks):
            if other == name:
                yield ("models", name, "fallbacks", i), "a model cannot be its own fallback"
    for name, route in config.routes.items():
        sides = {route.large: "large", route.small: "small"}
        for wanted, side in sides.items():
            if wanted not in models:
                yield ("routes", name, side), f"there is no model {wanted!r}{suggestion(wanted, models)}"
        yield from _unknown(("routes", name, "fallbacks"), route.fallbacks, models, "model")
    for name, tenant in config.tenants.items():
        yield from _unknown(("tenants", name, "models"), tenant.models or (), config.names, "model or route")
        judge = tenant.policy.cache.semantic.judge
        if judge is not None and judge not in config.names:
            where = ("tenants", name, "policy", "cache", "semantic", "judge")
            yield where, f"there is no model or route {judge!r}{suggestion(judge, config.names)}"
        yield from _routing(config, ("tenants", name, "policy", "route"), tenant.policy.route)
        for i, key in enumerate(tenant.keys):
            path = ("tenants", name, "keys", i, "models")
            yield from _unknown(path, key.models or (), config.names, "model or route")


def _routing(config: Config, path: Path, policy: RoutePolicy) -> Iterator[Finding]:
    if policy.judge is not None and policy.judge not in config.names:
        yield (*path, "judge"), f"there is no model or route {policy.judge!r}{suggestion(policy.judge, config.names)}"
    among = {name for route in config.routes.values() for name in (route.small, route.large, *route.fallbacks)}
    for i, rule in enumerate(policy.rules):
        if rule.goes not in ("small", "large", *among):
            known = ["small", "large", *among]
            cause = f"must be small, large or a model of a route, not {rule.goes!r}{suggestion(rule.goes, known)}"
            yield (*path, "rules", i, "goes"), cause


def _unknown(path: Path, wanted: Iterable[str], known: Iterable[str], what: str) -> Iterator[Finding]:
    for i, name in enumerate(wanted):
        if name not in known:
            yield (*path, i), f"there is no {what} {name!r}{suggestion(name, known)}"


def _keys(config: Config) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    keyless: str | None = None
    for name, tenant in config.tenants.items():
        for i, key in enumerate(tenant.keys):
            if key.hash in owners:
                yield ("tenants", name, "keys", i), f"the same key belongs to the tenant {owners[key.hash]!r} already"
            owners.setdefault(key.hash, name)
        if not tenant.keys:
            if keyless is not None:
                yield ("tenants", name), f"has no keys, and neither has {keyless!r}: a request could be either's"
            keyless = keyless or name
