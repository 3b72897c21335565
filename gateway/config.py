"""The configuration as one typed, frozen tree: server, models, routes, tenants, embedder, store,
ledger.

Every key has a default and an unknown one is an error. The rooms own their policies; this module composes them.
Where the tree comes from (a file, LiteLLM's, nothing at all) is config_file.py's, litellm_config.py's and
config_default.py's business. A reload builds a new tree: nothing here ever changes.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails

from ..cache.policy import CachePolicy
from ..compression.policy import CompressionPolicy
from ..protocol.exchange import Limits, Tenant
from ..protocol.money import dollars, microdollars
from ..routing.calibration_file import read as check_calibration
from ..routing.policy import OutputPolicy, RoutePolicy
from .config_checks import cross_check
from .config_default import VARIABLES, default_ledger, default_models
from .embedder_config import EmbedderConfig, with_embedder
from .keys import read_key, tenant_name
from .model_config import ModelConfig
from .problem import ConfigError, Problem
from .secret import Secret, environment
from .section import Count, Flag, Name, Seconds, Section


class ServerConfig(Section):
    """Where we listen, how much we take at once, and how long (in seconds) we wait.

    For a client's headers, its body and its next request: `headers_s`, `body_s`, `keep_alive_s`. For streams to finish
    after SIGTERM: `drain_s`.
    """

    host: Annotated[str, Field(strict=True, max_length=255)] = "127.0.0.1"
    port: Annotated[int, Field(strict=True, ge=0, le=65_535)] = 4000  # 0: any free one
    workers: Annotated[int, Field(strict=True, ge=1, le=256)] = 1
    max_body_mb: Annotated[int, Field(strict=True, ge=1, le=1024)] = 32
    max_in_flight: Count = 1000
    drain_s: Annotated[float, Field(strict=True, ge=0, le=3600)] = 30.0
    headers_s: Seconds = 10.0
    body_s: Seconds = 60.0
    keep_alive_s: Seconds = 75.0


def _calibration(value: Any) -> Any:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("must be the path of a file that `trimtab route fit` wrote")
    path = Path(value).expanduser()
    check_calibration(path)
    return path


class RouteConfig(Section):
    """A name that stands for a small and a large model; where one is left out, the other is both.

    `calibration`: what is thought of prompts, fitted on this pair by `trimtab route fit`; left out: what ships, which
    was fitted on another one."""

    small: Name
    large: Name
    calibration: Annotated[Path, BeforeValidator(_calibration)] | None = None
    fallbacks: tuple[Name, ...] = ()
    aliases: tuple[Name, ...] = ()
    listed: Flag = True

    @model_validator(mode="before")
    @classmethod
    def _both(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        small, large = data.get("small"), data.get("large")
        if small is None and large is None:
            raise ValueError("needs `small`, `large` or both")
        return {**data, "small": large if small is None else small, "large": small if large is None else large}


def _kept(amount: Decimal) -> Decimal:
    microdollars(amount)
    return amount


class TenantLimits(Section):
    """What a tenant may use; left out means unlimited."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    usd_per_day: Annotated[Decimal, BeforeValidator(dollars), AfterValidator(_kept)] | None = None
    concurrent: Count | None = None

    def resolved(self) -> Limits:
        per_day = None if self.usd_per_day is None else microdollars(self.usd_per_day)
        return Limits(self.requests_per_minute, self.tokens_per_minute, per_day, self.concurrent)


class TenantPolicy(Section):
    """The rooms' policies for one tenant."""

    cache: CachePolicy = CachePolicy()
    compress: CompressionPolicy = CompressionPolicy()
    route: RoutePolicy = RoutePolicy()
    output: OutputPolicy = OutputPolicy()

    def by_room(self) -> dict[type, Any]:
        """As `Tenant.policies` wants them: each room finds its own by its type."""
        return {type(policy): policy for policy in (self.cache, self.compress, self.route, self.output)}

    @property
    def epoch(self) -> bytes:
        """A digest of what can change an answer; the same in every process that reads the same policy."""
        dumped = self.model_dump(exclude={"cache"})
        return hashlib.sha256(json.dumps(dumped, sort_keys=True, default=_plain).encode()).digest()[:16]


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset | set) else str(value)


def _key(value: Any, info: ValidationInfo) -> Any:
    return read_key(value, environment(info)) if isinstance(value, str) else value


class KeyConfig(Section):
    """One key of a tenant, by its hash. `models` limits it further; `name` is what receipts and logs call it."""

    hash: Annotated[str, Field(strict=True), BeforeValidator(_key)]
    models: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    name: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: Any) -> Any:
        return {"hash": data} if isinstance(data, str) else data

    @property
    def key_id(self) -> str:
        """Safe to log: a name, or a few digits of the hash of 256 random bits."""
        return self.name or f"sha256:{self.hash.removeprefix('sha256:')[:12]}"


class TenantConfig(Section):
    """Whose requests these are. Without keys it is open to whoever can reach the port: loopback only."""

    keys: tuple[KeyConfig, ...] = ()
    models: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    limits: TenantLimits = TenantLimits()
    policy: TenantPolicy = TenantPolicy()

    def resolved(self, name: str) -> Tenant:
        return Tenant(name, self.limits.resolved(), self.policy.by_room(), self.policy.epoch)


def _redis_url(secret: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(secret.get_secret_value())
        _ = parts.port
    except ValueError:
        raise ValueError("is not a URL: its host or port cannot be read") from None
    reachable = bool(parts.path) if parts.scheme == "unix" else bool(parts.hostname)
    if parts.scheme not in ("redis", "rediss", "unix") or not reachable:
        raise ValueError("must be redis://host:port/db, rediss://... or unix:///path")
    return secret


class StoreConfig(Section):
    """Where limits and caches are kept: in this process, or in a Redis or Valkey that all replicas share."""

    redis: Annotated[Secret, AfterValidator(_redis_url)] | None = None
    secret: Secret | None = (
        None  # keys what the cache keeps; the same for all replicas; made from the address if left out
    )
    when_down: Literal["refuse", "local"] = "refuse"  # tenants with a budget while the store does not answer


def _ledger_path(value: Any, info: ValidationInfo) -> Any:
    if value is None:
        return default_ledger(environment(info))
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("must be the path of a file")
    return Path(value).expanduser()


class LedgerConfig(Section):
    """The SQLite file that receipts are kept in."""

    path: Annotated[Path, BeforeValidator(_ledger_path)] = Field(default=None, validate_default=True)


class Config(Section):
    """The whole tree. Build it with `Config.model_validate(data, context={"environ": ...})`, or load a file."""

    server: ServerConfig = ServerConfig()
    models: Mapping[Name, ModelConfig] = {}
    routes: Mapping[Name, RouteConfig] = {}
    tenants: Mapping[Annotated[str, AfterValidator(tenant_name)], TenantConfig] = {"local": TenantConfig()}
    embedder: EmbedderConfig = EmbedderConfig()
    store: StoreConfig = StoreConfig()
    ledger: LedgerConfig = Field(default=None, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any, info: ValidationInfo) -> Any:
        """No models named: those that need no configuration, with their route."""
        written = {} if data is None else data
        if not isinstance(written, dict):
            return written
        usual = default_models(environment(info)) if written.get("models") is None else {}
        kept = {key: value for key, value in written.items() if value is not None or key not in usual}
        return with_embedder({**usual, **kept})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        cross_check(self)
        return self

    @functools.cached_property
    def names(self) -> Mapping[str, str]:
        """Every name a client may ask for, and the model or route that it stands for."""
        names = {name: name for name in (*self.routes, *self.models)}
        for name, entry in (*self.routes.items(), *self.models.items()):
            names |= dict.fromkeys(entry.aliases, name)
        return names

    def allowed(self, models: tuple[str, ...] | None) -> frozenset[str] | None:
        """Every name under which the listed models and routes can be asked for; None means any."""
        if models is None:
            return None
        meant = {self.names.get(name, name) for name in models}
        return frozenset(name for name, means in self.names.items() if means in meant)


def default_config(environ: Mapping[str, str]) -> Config:
    """What is served with no configuration at all. Raises ConfigError, naming the variable that makes no sense."""
    try:
        return Config.model_validate({}, context={"environ": environ})
    except ValidationError as e:
        details = e.errors(include_url=False, include_input=False)
        raise ConfigError(tuple(_variable(detail) for detail in details)) from None


def _variable(detail: ErrorDetails) -> Problem:
    cause = str(detail.get("ctx", {}).get("error", detail["msg"]))
    return Problem("environment", None, (VARIABLES.get(detail["loc"][-1], "HOME"),), cause)
