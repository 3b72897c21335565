"""What a configuration says that will not do what it seems to: worth a warning, no reason to refuse it.

A valid configuration and the plain data it came from in, (path, cause) out. It asks this machine one thing: what is
installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from ..backends.embed import check_installed
from ..backends.registry import MissingExtra, check_pair_scorer
from ..cache.policy import CachePolicy
from ..compression.policy import CompressionPolicy
from ..routing.policy import OutputPolicy
from .config import Config, TenantConfig
from .listen import WELL_KNOWN_HASHES
from .model_config import EmbedModel, EngineModel, FakeModel, ModelConfig
from .nearest import suggestion
from .problem import Path
from .route_notes import route_notes
from .secret import is_reference

_SMALL_MB = 8
NO_EFFECT = "accepted, has no effect yet"
Note = tuple[Path, str]


def notes(config: Config, data: Mapping[str, Any] | None) -> Iterator[Note]:
    """Every warning about `config`, which was read from `data`."""
    written: Mapping[str, Any] = data or {}
    for name, model in config.models.items():
        if name in (written.get("models") or {}):
            yield from _model(("models", name), model, written["models"][name])
    yield from _store(config)
    yield from _slots(config)
    for name, tenant in config.tenants.items():
        yield from _tenant(("tenants", name), tenant)
        yield from _unpriced(config, ("tenants", name), tenant)
        yield from _unequipped(config, ("tenants", name, "policy", "compress"), tenant.policy.compress)
        yield from _output(config, ("tenants", name, "policy", "output"), tenant.policy.output)
        yield from _cache(config, ("tenants", name, "policy", "cache"), name, tenant.policy.cache)
        yield from route_notes(config, ("tenants", name, "policy", "route"), tenant.policy.route)


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


def _store(config: Config) -> Iterator[Note]:
    if config.store.redis is not None:
        return
    if config.store.secret is not None:
        yield ("store", "secret"), "has no effect without `redis`: what is kept in this process needs none"
    if config.server.workers > 1 and any(tenant.policy.cache.on for tenant in config.tenants.values()):
        cause = "each worker keeps answers of its own, and deletes only those; with `store.redis` they share them"
        yield ("server", "workers"), cause


def _output(config: Config, path: Path, policy: OutputPolicy) -> Iterator[Note]:
    """What planning may do and cannot, with these models."""
    models = config.models.values()
    if policy.cap and not any(isinstance(m, EngineModel) or getattr(m, "continues", None) is not None for m in models):
        cause = "has no effect: no model can take up an answer where it was cut (`backend: engine`, or `continues`)"
        yield (*path, "cap"), cause
    if policy.reasoning and not any(model.thinking is not None for model in models):
        yield (*path, "reasoning"), "has no effect: no model says how it is told to think (`thinking`)"


def _slots(config: Config) -> Iterator[Note]:
    for name, model in config.models.items():
        if model.slots is not None and config.server.workers > 1:
            most = model.slots * config.server.workers
            yield ("models", name, "slots"), f"each worker has as many: {most} answers at a time, all workers together"
        if model.thinking is not None and getattr(model, "continues", None) is not None:
            yield ("models", name, "continues"), "has no effect: a model that thinks is not capped"


def _cache(config: Config, path: Path, tenant: str, policy: CachePolicy) -> Iterator[Note]:
    semantic = policy.semantic
    if semantic.enabled:
        try:
            check_installed(config.embedder.resolved())
            check_pair_scorer()
        except MissingExtra as e:
            yield (*path, "semantic"), f"has no effect: {e}"
        if semantic.audit == 0:
            yield (*path, "semantic", "audit"), "nothing that is served is checked; `max_wrong` rests on what shipped"
    elif semantic.judge is not None:
        yield (*path, "semantic", "judge"), "has no effect: `semantic` is not enabled"
    if policy.on and policy.max_mb < _SMALL_MB:
        most = f"{policy.max_mb * 1024 // 4:,} KB"
        yield (*path, "max_mb"), f"holds few answers, and none that is larger than a quarter of it ({most})"
    if "time_ttl_s" in policy.model_fields_set and policy.time_ttl_s > policy.ttl_s:
        yield (*path, "time_ttl_s"), "has no effect: nothing is served for longer than `ttl_s`"
    for namespace in sorted(policy.public):
        if not any(namespace in other.policy.cache.public for name, other in config.tenants.items() if name != tenant):
            yield (*path, "public"), f"{namespace!r} is shared with nobody: no other tenant's policy names it"
