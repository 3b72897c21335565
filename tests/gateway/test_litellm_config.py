"""LiteLLM files as people have them: served as they are, and nothing in them dropped without a word."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cache.policy import CachePolicy
from trimtab.gateway.config import Config
from trimtab.gateway.config_file import ConfigError, check_text
from trimtab.gateway.keys import hash_key
from trimtab.gateway.litellm_config import convert
from trimtab.gateway.model_config import OpenAIModel

ENVIRON = {"HOME": "/h", "OPENAI_API_KEY": "sk-o", "AZURE_API_KEY": "az", "AZURE_API_BASE": "https://az.example.com/"}

BENCH = """\
model_list:
  - model_name: mock
    litellm_params: {model: openai/mock, api_base: "http://127.0.0.1:9100/v1", api_key: sk-fake}
  - model_name: mock-d10
    litellm_params: {model: openai/mock-d10, api_base: "http://127.0.0.1:9100/v1", api_key: sk-fake}
litellm_settings: {num_retries: 0, request_timeout: 60, set_verbose: false, telemetry: false}
general_settings: {master_key: sk-0123456789abcdef-bench}
"""

LARGE = """\
model_list:
  - model_name: chat
    litellm_params:
      model: gpt-4o
      region_name: eu
    model_info: {id: "1"}
  - model_name: chat
    litellm_params:
      model: azure/chat-eu
      api_base: os.environ/AZURE_API_BASE
      api_key: os.environ/AZURE_API_KEY
      api_version: 2024-10-21
      weight: 3
  - model_name: big
    litellm_params: {model: openai/gpt-4.1, api_key: os.environ/OPENAI_API_KEY, rpm: 480, tpm: 90000, timeout: 300, \
stream_timeout: 60, num_retries: 0}
    model_info: {input_cost_per_token: 2e-6, output_cost_per_token: 0.000008, max_output_tokens: 32768}
  - model_name: qwen
    litellm_params: {model: hosted_vllm/Qwen/Qwen2.5-7B-Instruct, api_base: "http://vllm:8000/v1"}
  - model_name: "*"
    litellm_params: {model: "openai/*"}
  - model_name: any-claude
    litellm_params: {model: anthropic/*}
litellm_settings:
  drop_params: true
  num_retries: 5
  request_timeout: 600
  set_verbose: false
  context_window_fallbacks: [{chat: [big]}]
  fallbacks: [{big: [chat]}, {qwen: [gpt, {model: other}]}]
  cache: true
  cache_params: {type: redis, host: redis.example.com, port: 6380, password: "p@:/w", ttl: 600.0, namespace: n}
  callbacks: [langfuse]
router_settings:
  routing_strategy: usage-based-routing-v2
  model_group_alias: {gpt: big, hid: {model: chat, hidden: true}}
general_settings:
  master_key: sk-a-real-one
  database_url: postgresql://u:s3cr3t@h/d
environment_variables: {EXTRA: os.environ/OPENAI_API_KEY}
finetune_settings: [{custom_llm_provider: azure}]
"""


def entry(**params: Any) -> dict[str, Any]:
    return {"model_name": "m", "litellm_params": {"model": "openai/gpt-4.1", **params}}


def made(*entries: dict[str, Any], environ: dict[str, str] | None = None, **sections: Any) -> tuple[Config, list[str]]:
    text = yaml.safe_dump({"model_list": list(entries) or [entry()], **sections})
    return convert(text, ENVIRON if environ is None else environ)


def model(config: Config, name: str = "m") -> Any:
    return config.models[name]


def test_the_file_of_our_own_benchmark() -> None:
    config, unsupported = convert(BENCH, {"HOME": "/h"})
    assert unsupported == []
    assert list(config.models) == ["mock", "mock-d10"]
    mock = model(config, "mock")
    assert mock.backend_options() == {"base_url": "http://127.0.0.1:9100/v1", "api_key": "sk-fake", "headers": {}}
    assert (mock.upstream_name("mock"), mock.retries.attempts, mock.timeouts.total_s) == ("mock", 1, 60)
    [tenant] = config.tenants.values()
    assert [key.hash for key in tenant.keys] == [hash_key("sk-0123456789abcdef-bench")]
    assert tenant.policy.cache.exact is False  # LiteLLM caches only where the file says so


def test_the_same_with_its_cache_on() -> None:
    text = BENCH.replace("telemetry: false", "telemetry: false, cache: true, cache_params: {type: local}")
    config, unsupported = convert(text, {"HOME": "/h"})
    assert unsupported == []
    assert config.tenants["default"].policy.cache.exact is True
    assert config.store.redis is None


def cached(**params: Any) -> tuple[CachePolicy, list[str]]:
    config, unsupported = made(litellm_settings={"cache": True, "cache_params": params})
    return config.tenants["local"].policy.cache, [line.split("cache_params.", 1)[1] for line in unsupported]


def test_its_cache_in_our_words() -> None:
    every = ["acompletion", "atext_completion", "aembedding", "atranscription"]
    policy, unsupported = cached(type="local", ttl=60, mode="default_on", supported_call_types=every)
    assert unsupported == []
    assert (policy.exact, policy.when, policy.ttl_s, policy.semantic.enabled) == (True, "always", 60, False)
    policy, [left] = cached(type="redis-semantic", host="h", similarity_threshold=0.8)
    assert (policy.exact, policy.semantic.enabled, policy.semantic.max_wrong) == (True, True, 0.005)
    assert left.startswith("similarity_threshold: likeness alone serves nothing here")
    assert cached(type="redis-semantic")[0].semantic.allow == {"sampling"}, "as its cache, at any temperature"


@pytest.mark.parametrize(
    ("params", "said", "on"),
    [
        ({"mode": "default_off"}, "mode: a request can switch the cache off here and never on", False),
        ({"supported_call_types": ["acompletion"]}, "supported_call_types: chats, completions and embeddings", True),
        ({"namespace": "n"}, "namespace: is not supported: a tenant's entries are its own", True),
        ({"type": "s3"}, "type: 's3' is not supported; answers are kept in this process", True),
        ({"redis_flush_size": 10}, "redis_flush_size: is not supported", True),
    ],
)
def test_what_of_its_cache_cannot_be_taken_over(params: dict[str, Any], said: str, on: bool) -> None:
    policy, [left] = cached(**params)
    assert left.startswith(said)
    assert policy.on is on


def test_a_file_with_everything() -> None:
    config, _ = convert(LARGE, ENVIRON)
    assert list(config.models) == ["chat", "chat#2", "big", "qwen"]
    chat, azure, big, qwen = config.models.values()
    assert chat.backend_options()["api_key"] == "sk-o"
    assert azure.backend_options() == {
        "model": "azure/chat-eu",
        "api_key": "az",
        "api_base": "https://az.example.com",
        "api_version": "2024-10-21",
    }
    assert (chat.fallbacks, azure.fallbacks) == (("chat#2",), ())
    assert big.fallbacks == ("chat", "chat#2")
    assert qwen.fallbacks == ("big",)
    assert (azure.listed, chat.aliases, big.aliases) == (False, ("hid",), ("gpt",))
    assert (big.timeouts.total_s, big.timeouts.first_token_s, big.retries.attempts) == (300, 60, 1)
    assert (chat.timeouts.total_s, chat.timeouts.first_token_s, chat.retries.attempts) == (600, 600, 6)
    assert (big.limits.requests_per_minute, big.limits.tokens_per_minute) == (480, 90_000)
    assert big.price is not None
    assert (big.price.input, big.price.output, big.price.cached_input) == (Decimal(2), Decimal(8), None)
    assert big.max_output_tokens == 32_768
    assert (qwen.backend, qwen.upstream_name("qwen")) == ("openai", "Qwen/Qwen2.5-7B-Instruct")
    assert config.tenants["default"].policy.cache.ttl_s == 600
    assert config.store.redis is not None
    assert config.store.redis.get_secret_value() == "redis://:p%40%3A%2Fw@redis.example.com:6380/0"


def test_everything_unsupported_is_named_with_its_line() -> None:
    _, unsupported = convert(LARGE, ENVIRON, "c.yaml")
    places = {line.split(": ")[0].removeprefix("c.yaml:") + " " + line.split(": ")[1] for line in unsupported}
    assert places == {
        "5:7 model_list[0].litellm_params.region_name",
        "6:18 model_list[0].model_info.id",
        "7:5 model_list[1].model_name",
        "13:7 model_list[1].litellm_params.weight",
        "19:5 model_list[4].model_name",
        "21:5 model_list[5].model_name",
        "24:3 litellm_settings.drop_params",
        "28:3 litellm_settings.context_window_fallbacks",
        "29:30 litellm_settings.fallbacks[1]",
        "31:99 litellm_settings.cache_params.namespace",
        "32:3 litellm_settings.callbacks",
        "34:3 router_settings.routing_strategy",
        "35:52 router_settings.model_group_alias.hid.hidden",
        "38:3 general_settings.database_url",
        "39:25 environment_variables.EXTRA",
        "40:1 finetune_settings",
    }
    assert "s3cr3t" not in str(unsupported)


# Whatever a file may hold: it is taken, or it is named.


@given(
    st.sampled_from(["litellm_settings", "router_settings", "general_settings", "model_info", "litellm_params", ""]),
    st.from_regex(r"zz[a-z_]{2,12}", fullmatch=True),
    st.sampled_from([True, 1, "text", ["x"], {"x": 1}]),
)
def test_nothing_is_dropped_in_silence(section: str, key: str, value: Any) -> None:
    first = {**entry(), "model_info": {}}
    data: dict[str, Any] = {"model_list": [first]}
    within = first.get(section) if section in first else data if section == "" else data.setdefault(section, {})
    within[key] = value
    text = yaml.safe_dump(data)
    line = text[: text.index(f"{key}:")].count("\n") + 1
    _, [unsupported] = convert(text, ENVIRON)
    assert unsupported.startswith(f"litellm.yaml:{line}:")
    assert f"{key}: is not supported" in unsupported


@pytest.mark.parametrize("value", [False, None, "", [], {}])
def test_what_is_switched_off_asks_for_nothing(value: object) -> None:
    _, unsupported = made(litellm_settings={"set_verbose": value}, general_settings={"alerting": value})
    assert unsupported == []


# Who answers.


@pytest.mark.parametrize(
    ("params", "backend", "upstream", "address"),
    [
        ({"model": "gpt-4o"}, "openai", "gpt-4o", "https://api.openai.com/v1"),
        ({"model": "openai/gpt-4o"}, "openai", "gpt-4o", "https://api.openai.com/v1"),
        ({"model": "openai/org/name", "api_base": "http://h/v1"}, "openai", "org/name", "http://h/v1"),
        ({"model": "org/name", "api_base": "http://h/v1"}, "openai", "org/name", "http://h/v1"),
        ({"model": "name", "base_url": "http://h/v1"}, "openai", "name", "http://h/v1"),
        ({"model": "hosted_vllm/a/b", "api_base": "http://h/v1"}, "openai", "a/b", "http://h/v1"),
        ({"model": "a/b", "custom_llm_provider": "openai", "api_base": "http://h"}, "openai", "a/b", "http://h"),
        ({"model": "claude-x", "custom_llm_provider": "anthropic"}, "litellm", "anthropic/claude-x", None),
        ({"model": "anthropic/claude-x"}, "litellm", "anthropic/claude-x", None),
        ({"model": "azure/dep", "api_base": "https://h"}, "litellm", "azure/dep", "https://h"),
        ({"model": "ollama/llama3", "api_base": "http://h:11434"}, "litellm", "ollama/llama3", "http://h:11434"),
        ({"model": "groq/llama"}, "litellm", "groq/llama", None),
        ({"model": "claude-3-haiku"}, "litellm", "claude-3-haiku", None),
    ],
)
def test_who_answers(params: dict[str, Any], backend: str, upstream: str, address: str | None) -> None:
    found = model(made(entry(**params))[0])
    options = found.backend_options()
    assert (found.backend, found.upstream_name("m")) == (backend, upstream)
    assert options.get("base_url", options.get("api_base")) == address


def test_the_openai_key_goes_to_openai_and_to_no_other_address() -> None:
    assert model(made(entry(api_base="http://elsewhere/v1"))[0]).backend_options()["api_key"] is None
    assert model(made(entry())[0]).backend_options()["api_key"] == "sk-o"


def test_what_only_a_provider_understands_is_handed_to_it() -> None:
    config, unsupported = made(
        entry(model="bedrock/x", aws_region_name="eu", aws_secret_access_key="os.environ/AZURE_API_KEY", temperature=0)
    )
    options = model(config).backend_options()
    assert (options["aws_region_name"], options["aws_secret_access_key"], options["temperature"]) == ("eu", "az", 0)
    assert unsupported == []
    assert "az'" not in repr(config)


def test_headers_and_the_organization() -> None:
    found = model(made(entry(organization="os.environ/AZURE_API_KEY", extra_headers={"X-Team": "t"}))[0])
    assert found.backend_options()["headers"] == {"x-team": "t", "openai-organization": "az"}


# Prices.


@given(st.integers(0, 10**8), st.integers(0, 10**8), st.booleans())
def test_a_price_per_token_is_exact_per_million(i: int, o: int, text: bool) -> None:
    costs = {"input_cost_per_token": i, "output_cost_per_token": o}
    written = {name: Decimal(micro).scaleb(-12) for name, micro in costs.items()}  # a micro-dollar per million tokens
    params = {name: (str if text else float)(cost) for name, cost in written.items()}
    price = model(made(entry(**params))[0]).resolved_price()
    assert (price.input, price.cached_input, price.output) == (i, i, o)


def test_half_a_price_is_none() -> None:
    config, [unsupported] = made(entry(input_cost_per_token=1e-6))
    assert model(config).price is None
    assert "input_cost_per_token: a price needs" in unsupported


# Names.


def test_default_fallbacks_are_for_those_without_their_own() -> None:
    names = [{**entry(), "model_name": name} for name in ("a", "b", "c")]
    config, _ = made(*names, litellm_settings={"default_fallbacks": ["c"], "fallbacks": [{"a": ["b"]}]})
    assert {name: found.fallbacks for name, found in config.models.items()} == {"a": ("b",), "b": ("c",), "c": ()}
    config, _ = made(*names, router_settings={"fallbacks": [{"*": ["a"]}]})
    assert [found.fallbacks for found in config.models.values()] == [(), ("a",), ("a",)]


@given(st.lists(st.sampled_from(["m", "n", "m#2", "m#3"]), min_size=1, max_size=7))
def test_every_entry_is_reached_by_the_name_it_was_given(names: list[str]) -> None:
    config, _ = made(*({"model_name": n, "litellm_params": {"model": f"openai/{i}"}} for i, n in enumerate(names)))
    assert {name for name, found in config.models.items() if found.listed} == set(names)
    for name in set(names):
        asked = [name, *config.models[name].fallbacks]
        upstream = [config.models[one].upstream_name(one) for one in asked]
        assert upstream == [str(i) for i, other in enumerate(names) if other == name]


# Keys and stores.


def test_the_master_key_may_come_from_the_environment() -> None:
    config, _ = made(environ={**ENVIRON, "LITELLM_MASTER_KEY": "sk-e"})
    assert [key.hash for key in config.tenants["default"].keys] == [hash_key("sk-e")]
    config, _ = made(environ={**ENVIRON, "K": "sk-k"}, general_settings={"master_key": "os.environ/K"})
    assert [key.hash for key in config.tenants["default"].keys] == [hash_key("sk-k")]
    config, _ = made()
    assert list(config.tenants) == ["local"]


@pytest.mark.parametrize(
    ("sections", "environ", "url"),
    [
        ({"litellm_settings": {"cache": True}}, {}, None),
        ({"litellm_settings": {"cache": True}}, {"REDIS_HOST": "h"}, "redis://h:6379/0"),
        ({"litellm_settings": {"cache": True}}, {"REDIS_URL": "rediss://u:p@h:1/3"}, "rediss://u:p@h:1/3"),
        ({"litellm_settings": {"cache": False}}, {"REDIS_HOST": "h"}, None),
        ({"litellm_settings": {"cache": True, "cache_params": {"type": "local"}}}, {"REDIS_HOST": "h"}, None),
        (
            {"router_settings": {"redis_host": "os.environ/R", "redis_port": 1, "redis_db": 4}},
            {"R": "r"},
            "redis://r:1/4",
        ),
        (
            {"litellm_settings": {"cache": True, "cache_params": {"host": "::1", "ssl": True}}},
            {},
            "rediss://[::1]:6379/0",
        ),
    ],
)
def test_where_the_store_is(sections: dict[str, Any], environ: dict[str, str], url: str | None) -> None:
    redis = made(environ={**ENVIRON, **environ}, **sections)[0].store.redis
    assert (redis and redis.get_secret_value()) == url


def test_variables_of_the_file_itself() -> None:
    config, _ = made(entry(api_key="os.environ/MINE"), environment_variables={"MINE": "os.environ/AZURE_API_KEY"})
    assert model(config).backend_options()["api_key"] == "az"
    assert isinstance(model(config), OpenAIModel)


# Errors, where the LiteLLM file has them.

ONE = "model_list:\n- {model_name: m, litellm_params: {model: x/y}}\n"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("model_list: {}\n", "f:1:1: model_list: must be a list"),
        ("model_list:\n", "f:1:1: model_list: holds no model"),
        ("litellm_settings: {}\n", "f:1:1: model_list: holds no model"),
        ("model_list:\n- litellm_params: {model: x}\n", "f:2:3: model_list[0]: model_name is missing"),
        ("model_list:\n- {model_name: m}\n", "f:2:3: model_list[0].litellm_params.model: is missing"),
        (
            "model_list:\n- model_name: m\n  litellm_params: 3\n",
            "f:3:3: model_list[0].litellm_params: must be a section",
        ),
        (
            "model_list:\n- model_name: a b\n  litellm_params: {model: x/y}\n",
            "f:2:3: model_list[0].model_name: a name is",
        ),
        (
            "model_list:\n- model_name: m\n  litellm_params:\n    model: openai/x\n    api_key: os.environ/NOPE\n",
            "f:5:5: model_list[0].litellm_params.api_key: the environment variable NOPE is not set",
        ),
        (
            "model_list:\n- model_name: m\n  litellm_params:\n    model: x/y\n    api_base: os.environ/NOPE\n",
            "f:5:5: model_list[0].litellm_params.api_base: the environment variable NOPE is not set",
        ),
        (
            "model_list:\n- model_name: m\n  litellm_params:\n    model: x/y\n    api_base: ftp://h\n",
            "f:5:5: model_list[0].litellm_params.api_base: must be http",
        ),
        (
            "model_list:\n- model_name: m\n  litellm_params:\n    model: x/y\n    rpm: many\n",
            "f:5:5: model_list[0].litellm_params.rpm: must be a whole number",
        ),
        (
            ONE + "router_settings:\n  model_group_alias: {a: b}\n",
            "f:4:23: router_settings.model_group_alias.a: stands for 'b'",
        ),
        (
            ONE + "litellm_settings:\n  fallbacks: [{m: [n]}]\n",
            "f:4:15: litellm_settings.fallbacks[0]: there is no model 'n'",
        ),
        (
            ONE + "litellm_settings:\n  fallbacks: [{n: [m]}]\n",
            "f:4:15: litellm_settings.fallbacks[0]: gives fallbacks to 'n'",
        ),
        (
            "model_list:\n- {model_name: m, litellm_params: {model: x/y, input_cost_per_token: cheap}}\n",
            "f:2:48: model_list[0].litellm_params.input_cost_per_token: must be an amount",
        ),
        (
            ONE + "general_settings: {master_key: os.environ/NOPE}\n",
            "f:3:20: general_settings.master_key: the environment variable NOPE is not set",
        ),
    ],
)
def test_errors_stand_where_the_file_has_them(text: str, start: str) -> None:
    report = check_text(text, "f", {"HOME": "/h"})
    assert report.kind == "litellm"
    assert any(str(error).startswith(start) for error in report.errors), list(map(str, report.errors))
    with pytest.raises(ConfigError):
        convert(text, {"HOME": "/h"})


def test_only_wildcards_say_why_nothing_is_left() -> None:
    report = check_text("model_list: [{model_name: '*', litellm_params: {model: '*'}}]", "f", {})
    assert ["wildcards" in warning.cause for warning in report.warnings] == [True]
    assert ["no model" in error.cause for error in report.errors] == [True]
