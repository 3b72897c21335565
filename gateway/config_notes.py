"""What a configuration says that will not do what it seems to: worth a warning, no reason to refuse it.

A valid configuration and the plain data it came from in, (path, cause) out. It asks this machine one thing: what is
installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from ..backends.embed import check_installed
from ..backends.registry import MissingExtra
from ..compression.policy import CompressionPolicy
from .config import Config, TenantConfig
from .listen import WELL_KNOWN_HASHES
from .model_config import EmbedModel, EngineModel, FakeModel, ModelConfig
from .nearest import suggestion
from .problem import Path
from .secret import is_reference

NO_EFFECT = "accepted, has no effect yet"
Note = tuple[Path, str]


def notes(config: Config, data: Mapping[str, Any] | None) -> Iterator[Note]:
    """Every warning about `config`, which was read from `data`."""
    written: Mapping[str, Any] = data or {}
    for name, model in config.models.items():
        if name in (written.get("models") or {}):
            yield from _model(("models", name), model, written["models"][name])
    for name, tenant in config.tenants.items():
        yield from _tenant(("tenants", name), tenant)
        yield from _unpriced(config, ("tenants", name), tenant)
        yield from _unequipped(config, ("tenants", name, "policy", "compress"), tenant.policy.compress)


def _model(path: Path, model: ModelConfig, written: Mapping[str, Any]) -> Iterator[Note]:
    for name in sorted(model.limits.model_fields_set):
        yield (*path, "limits", name), NO_EFFECT
    key = written.get("api_key")
    if isinstance(key, str) and not is_reference(key):
        yield (*path, "api_key"), "a secret stands here in plain text; env:NAME or file:/path keeps it out of the file"


def _tenant(path: Path, tenant: TenantConfig) -> Iterator[Note]:
    for section in ("cache", "compress", "route", "output"):
        yield from _unbuilt((*path, "policy", section), getattr(tenant.policy, section))
    for i, key in enumerate(tenant.keys):
        if key.hash in WELL_KNOWN_HASHES:
            yield (*path, "keys", i), "everybody knows this key; it is accepted on loopback only"


def _unbuilt(path: Path, policy: BaseModel) -> Iterator[Note]:
    """The keys that are switched on in the file although no stage reads them in this version."""
    for name in sorted(policy.model_fields_set & getattr(policy, "not_built", frozenset())):
        value = getattr(policy, name)
        if getattr(value, "enabled", value) not in (False, None):
            yield (*path, name), NO_EFFECT


def _unpriced(config: Config, path: Path, tenant: TenantConfig) -> Iterator[Note]:
    if tenant.limits.usd_per_day is None:
        return
    free = EngineModel | EmbedModel | FakeModel
    without = [n for n, model in config.models.items() if model.price is None and not isinstance(model, free)]
    if without:
        cause = f"cannot count what has no price: {', '.join(without[:8])}"
        yield (*path, "limits", "usd_per_day"), cause


def _unequipped(config: Config, path: Path, policy: CompressionPolicy) -> Iterator[Note]:
    """What compression is allowed to do and cannot do as this file or this machine is."""
    if policy.context.enabled:
        try:
            check_installed(config.embedder.resolved())
        except MissingExtra as e:
            yield (*path, "context"), f"has no effect: {e}"
    engines = [name for name, model in config.models.items() if isinstance(model, EngineModel)]
    if policy.prose.enabled and policy.prose.scorer is not None and policy.prose.scorer not in engines:
        yield (
            (*path, "prose", "scorer"),
            f"has no effect: it names no model of `backend: engine`{suggestion(policy.prose.scorer, engines)}",
        )
    elif policy.prose.enabled and not engines:
        yield (*path, "prose"), "has no effect: no model of this file runs on the bundled engine, to read with"
    small = any(route.small != route.large for route in config.routes.values())
    if policy.turns.enabled and policy.turns.summarise and not engines and not small:
        cause = (
            "has no effect: there is neither a route with a small model nor one of `backend: engine`, to sum up with"
        )
        yield (*path, "turns", "summarise"), cause
