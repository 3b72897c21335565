"""The tree itself: its defaults, its exactness, and what no single section can see."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from trimtab.backends.base import Timeouts
from trimtab.cache.policy import CachePolicy
from trimtab.gateway.config import Config, default_config
from trimtab.gateway.config_file import ConfigError
from trimtab.gateway.keys import hash_key
from trimtab.gateway.model_config import PriceConfig
from trimtab.protocol.exchange import Limits, Price
from trimtab.protocol.messages import Usage

HOME = {"HOME": "/home/x"}


def build(environ: dict[str, str] | None = None, **data: Any) -> Config:
    return Config.model_validate(data, context={"environ": {**HOME, **(environ or {})}})


def causes(**data: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        build(**data)
    return {".".join(map(str, error["loc"])): error["msg"] for error in caught.value.errors()}


# With no configuration at all.


def test_nothing_configured() -> None:
    config = default_config(HOME)
    assert list(config.models) == ["small"]
    assert config.models["small"].backend == "engine"
    assert config.routes["auto"].small == config.routes["auto"].large == "small"
    assert [(name, tenant.keys) for name, tenant in config.tenants.items()] == [("local", ())]
    assert (config.server.host, config.server.port) == ("127.0.0.1", 4000)
    assert config.store.redis is None
    assert set(config.names) == {"auto", "small"}


def test_an_openai_key_adds_a_large_model() -> None:
    large = default_config({**HOME, "OPENAI_API_KEY": "sk-a"}).models["large"]
    assert large.backend_options() == {"base_url": "https://api.openai.com/v1", "api_key": "sk-a", "headers": {}}
    assert large.upstream_name("large") == "gpt-4.1-mini"


def test_the_large_model_can_be_another_and_elsewhere() -> None:
    environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://vllm:8000/v1/", "TRIMTAB_LARGE_MODEL": "qwen"}
    config = default_config({**HOME, **environ})
    assert config.models["large"].backend_options()["base_url"] == "http://vllm:8000/v1"
    assert config.models["large"].upstream_name("large") == "qwen"
    assert (config.routes["auto"].small, config.routes["auto"].large) == ("small", "large")


def test_a_variable_that_makes_no_sense_is_named() -> None:
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL: must be http") as caught:
        default_config({**HOME, "OPENAI_API_KEY": "sk-very-secret", "OPENAI_BASE_URL": "ftp://x"})
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"HOME": "/h"}, "/h/.local/state/trimtab/ledger.db"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/s"}, "/s/trimtab/ledger.db"),
        ({"HOME": "/h", "XDG_STATE_HOME": "relative"}, "/h/.local/state/trimtab/ledger.db"),
    ],
)
def test_where_the_ledger_is(environ: dict[str, str], path: str) -> None:
    assert default_config(environ).ledger.path == Path(path)
    assert build(environ, ledger={}).ledger.path == Path(path)
    assert build(environ, ledger={"path": "/else/where"}).ledger.path == Path("/else/where")


def test_models_of_ones_own_replace_the_usual_ones() -> None:
    config = build(models={"m": {"backend": "fake"}})
    assert (list(config.models), list(config.routes)) == (["m"], [])
    assert list(build(server={"port": 1}).models) == ["small"]


def test_a_section_with_nothing_behind_it_is_left_out() -> None:
    config = build(server=None, tenants={"local": None}, models={"m": {"backend": "fake", "price": None}}, store=None)
    assert config.server.port == 4000
    assert config.tenants["local"].policy.cache == CachePolicy()


# Each section.


def test_nothing_changes_once_it_is_built() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        default_config(HOME).server.port = 1  # type: ignore[misc]


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_prices_are_exact(i: int, c: int, o: int) -> None:
    def usd(micro: int) -> float:
        return float(Decimal(micro).scaleb(-6))

    price = PriceConfig.model_validate({"input": usd(i), "cached_input": usd(c), "output": usd(o)}).resolved()
    assert price == Price(i, c, o, known=True)
    assert price.of(Usage(prompt=2_000_000, cached=1_000_000, completion=1_000_000)) == i + c + o


def test_cached_input_costs_what_input_costs_unless_said() -> None:
    assert PriceConfig.model_validate({"input": 2, "output": "8.00"}).resolved() == Price(
        2_000_000, 2_000_000, 8_000_000, known=True
    )


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"price": {"input": 2}}, "output"),
        ({"price": {"input": 2, "output": 0.0000001}}, "output"),
        ({"price": {"input": 2_000_000, "output": 1}}, "input"),
        ({"price": {"input": True, "output": 1}}, "input"),
        ({"timeouts": {"total_s": 0}}, "total_s"),
        ({"timeouts": {"idle_s": float("inf")}}, "idle_s"),
        ({"retries": {"attempts": 0}}, "attempts"),
        ({"retries": {"attempts": True}}, "attempts"),
        ({"max_output_tokens": "100"}, "max_output_tokens"),
        ({"aliases": ["a b"]}, "aliases"),
        ({"listed": "yes"}, "listed"),
    ],
)
def test_values_that_are_refused(model: dict[str, Any], field: str) -> None:
    [path] = causes(models={"m": {"backend": "fake", **model}})
    assert field in path


def test_limits_and_timeouts_in_the_units_of_the_rooms() -> None:
    config = build(
        models={"m": {"backend": "fake", "timeouts": {"connect_s": 1, "total_s": 5}}},
        tenants={
            "t": {"limits": {"requests_per_minute": 1, "tokens_per_minute": 2, "usd_per_day": 40, "concurrent": 3}}
        },
    )
    assert config.models["m"].timeouts.resolved() == Timeouts(1, 60, 30, 5)
    assert config.tenants["t"].limits.resolved() == Limits(1, 2, 40_000_000, 3)
    assert build().tenants["local"].limits.resolved() == Limits()


def test_an_engine_may_take_its_time_where_nobody_says_otherwise() -> None:
    config = build(models={"m": {"backend": "engine"}, "n": {"backend": "engine", "timeouts": {"idle_s": 7}}})
    assert config.models["m"].timeouts.resolved() == Timeouts(3, 600, 300, 600)
    assert config.models["n"].timeouts.resolved() == Timeouts(3, 600, 7, 600)


@pytest.mark.parametrize(
    "url",
    [
        "api.openai.com/v1",
        "ftp://host/v1",
        "http://",
        "https:///v1",
        "http://user:password@host/v1",
        "http://user@host/v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://[::1/v1",
        "http://host/v1?key=1",
        "http://host/v1#x",
        "http://ho st/v1",
        "http://host\\@other/v1",
        "http://host/\nv1",
        "file:///etc/passwd",
        7,
    ],
)
def test_addresses_that_are_refused_without_being_shown(url: object) -> None:
    found = causes(models={"m": {"backend": "openai", "base_url": url}})
    assert list(found) == ["models.m.openai.base_url"]
    assert "password" not in str(found)


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "https://[::1]:8443", "http://10.0.0.1/v1/"])
def test_addresses_that_are_taken(url: str) -> None:
    made = build({"BASE": url}, models={"m": {"backend": "openai", "base_url": "env:BASE"}}).models["m"]
    assert made.backend_options()["base_url"] == url.rstrip("/")


def test_every_backend_hands_on_its_own_options() -> None:
    environ = {"KEY": "s3cr3t"}
    litellm = {"backend": "litellm", "model": "p/m", "api_key": "env:KEY", "params": {"region": "env:KEY", "n": 1}}
    openai = {"backend": "openai", "base_url": "http://h", "headers": {"X-Org": "env:KEY"}}
    config = build(
        environ,
        models={
            "e": {"backend": "engine"},
            "l": litellm,
            "o": openai,
            "f": {"backend": "fake", "script": {"text": "x"}},
        },
    )
    assert {name: model.backend_options() for name, model in config.models.items()} == {
        "e": {"weights": "smollm2-135m-instruct"},
        "l": {"model": "p/m", "api_key": "s3cr3t", "api_base": None, "region": "s3cr3t", "n": 1},
        "o": {"base_url": "http://h", "api_key": None, "headers": {"x-org": "s3cr3t"}},
        "f": {"script": {"text": "x"}},
    }
    assert {name: model.upstream_name(name) for name, model in config.models.items()} == {
        "e": "smollm2-135m-instruct",
        "l": "p/m",
        "o": "o",
        "f": "f",
    }
    assert "s3cr3t" not in repr(config) + str(config) + config.model_dump_json()


@pytest.mark.parametrize("name", ["Authorization", "Host", "content-length", "x y", "x:y", ""])
def test_headers_that_are_not_the_operators_to_set(name: str) -> None:
    assert causes(models={"m": {"backend": "openai", "headers": {name: "v"}}})


@pytest.mark.parametrize("url", ["localhost:6379", "http://h", "redis://", "redis://h:port", "unix://", ""])
def test_stores_that_are_refused(url: str) -> None:
    assert list(causes(store={"redis": url})) == ["store.redis"]


@pytest.mark.parametrize("url", ["redis://localhost:6379/0", "rediss://:pw@h:1/2", "unix:///run/redis.sock"])
def test_a_store_and_its_password(url: str) -> None:
    store = build({"URL": url}, store={"redis": "env:URL"}).store
    assert store.redis is not None
    assert store.redis.get_secret_value() == url
    assert "pw" not in repr(store)


@pytest.mark.parametrize("server", [{"port": 65_536}, {"workers": 0}, {"max_body_mb": 0}, {"drain_s": -1}, {"host": 1}])
def test_servers_that_are_refused(server: dict[str, object]) -> None:
    [path] = causes(server=server)
    assert path == f"server.{next(iter(server))}"


# Across sections.

FAKE = {"backend": "fake"}


@pytest.mark.parametrize(
    ("data", "path", "cause"),
    [
        ({"routes": {"m": {"small": "m"}}}, "routes.m", "a model has this name too"),
        ({"models": {"m": {**FAKE, "aliases": ["n"]}, "n": FAKE}}, "models.m.aliases.0", "taken by the model 'n'"),
        ({"models": {"m": {**FAKE, "aliases": ["x", "x"]}}}, "models.m.aliases.1", "an alias of 'm'"),
        ({"routes": {"r": {"small": "m", "aliases": ["m"]}}}, "routes.r.aliases.0", "taken by the model 'm'"),
        ({"routes": {"r": {"small": "mm"}}}, "routes.r.small", "no model 'mm'; did you mean 'm'"),
        ({"routes": {"r": {"small": "m", "large": "zz"}}}, "routes.r.large", "no model 'zz'; known here: m"),
        ({"routes": {"r": {"small": "m", "fallbacks": ["r"]}}}, "routes.r.fallbacks.0", "no model 'r'"),
        ({"models": {"m": {**FAKE, "fallbacks": ["m"]}}}, "models.m.fallbacks.0", "its own fallback"),
        ({"models": {"m": {**FAKE, "fallbacks": ["q"]}}}, "models.m.fallbacks.0", "no model 'q'"),
        ({"tenants": {"t": {"models": ["q"]}}}, "tenants.t.models.0", "no model or route 'q'"),
        (
            {"tenants": {"t": {"keys": [{"hash": hash_key("k"), "models": ["m", "q"]}]}}},
            "tenants.t.keys.0.models.1",
            "no model or route 'q'",
        ),
        (
            {"tenants": {"a": {"keys": [hash_key("k")]}, "b": {"keys": [hash_key("l"), hash_key("k")]}}},
            "tenants.b.keys.1",
            "belongs to the tenant 'a' already",
        ),
        ({"tenants": {"a": {}, "b": {}}}, "tenants.b", "neither has 'a'"),
        ({"server": {"host": "0.0.0.0"}}, "tenants.local", "has no keys"),
        ({"models": {}}, "models", "no model that can answer"),
    ],
)
def test_what_no_single_section_can_see(data: dict[str, Any], path: str, cause: str) -> None:
    found = causes(**{"models": {"m": FAKE}, **data})
    assert list(found) == [path]
    assert cause in found[path]


def test_a_route_with_one_side_is_both() -> None:
    config = build(models={"m": FAKE}, routes={"a": {"small": "m"}, "b": {"large": "m"}})
    assert {(route.small, route.large) for route in config.routes.values()} == {("m", "m")}
    assert list(causes(routes={"a": {}})) == ["routes.a"]


def test_every_name_that_can_be_asked_for() -> None:
    config = build(
        models={"m": {**FAKE, "aliases": ["gpt"]}, "n": FAKE}, routes={"r": {"small": "m", "aliases": ["best"]}}
    )
    assert config.names == {"r": "r", "m": "m", "n": "n", "best": "r", "gpt": "m"}
    assert config.allowed(("gpt", "r")) == {"gpt", "m", "r", "best"}
    assert config.allowed(None) is None


def test_every_section_can_be_made_with_no_arguments_or_says_what_it_needs() -> None:
    """The promise that every key has a default, for every model that the tree is made of."""
    needs = {"PriceConfig": {"input", "output"}, "RouteConfig": {"small", "large"}, "KeyConfig": {"hash"}}
    needs |= {"EngineModel": {"backend"}, "OpenAIModel": {"backend"}, "FakeModel": {"backend"}}
    needs |= {"EmbedModel": {"backend"}, "ThinkingConfig": {"by"}}
    needs |= {"LitellmModel": {"backend", "model"}, "RouteRule": {"goes"}}
    for kind in _sections(Config, set()):
        required = {name for name, field in kind.model_fields.items() if field.is_required()}
        assert required == needs.get(kind.__name__, set()), kind.__name__


def _sections(kind: Any, seen: set[Any]) -> set[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
        seen.add(kind)
        for field in kind.model_fields.values():
            _sections(field.annotation, seen)
    for part in getattr(kind, "__args__", ()):
        _sections(part, seen)
    return seen
