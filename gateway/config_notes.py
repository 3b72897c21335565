"""What a configuration says that will not do what it seems to: worth a warning, no reason to refuse it.

Pure: a valid configuration and the plain data it came from in, (path, cause) out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from .config import Config, TenantConfig
from .listen import WELL_KNOWN_HASHES
from .model_config import EmbedModel, EngineModel, FakeModel, ModelConfig
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
