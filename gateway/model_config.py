"""The `models:` section: who can answer, where they are, what they cost, how long we wait for them.

Knows the shape only: which adapter serves a backend is the gateway's start-up's business.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, model_validator

from ..backends.base import Timeouts
from ..protocol.exchange import Limits, Price
from ..protocol.money import dollars, microdollars
from ..routing.reasoning import Thinking
from .embedder_config import EmbedderConfig
from .engine_config import AttentionConfig, SpeculationConfig, Weights, called
from .secret import HeaderSecret, environment, is_reference, resolve
from .section import Count, Flag, Name, Seconds, Section

_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+\Z")  # RFC 9110, section 5.1
HIGHEST_PRICE = Decimal(1_000_000)  # USD per million tokens: a price per token put in the wrong unit is far above it


def _price(amount: Decimal) -> Decimal:
    microdollars(amount)
    if amount > HIGHEST_PRICE:
        raise ValueError("is more than a dollar a token; prices are in USD per million tokens")
    return amount


UsdPerMillion = Annotated[Decimal, BeforeValidator(dollars), AfterValidator(_price)]


class PriceConfig(Section):
    """US dollars per million tokens, six decimals at most. Cached input costs what input costs where not said."""

    input: UsdPerMillion
    cached_input: UsdPerMillion | None = None
    output: UsdPerMillion

    def resolved(self) -> Price:
        """The same in integer micro-dollars per million tokens."""
        cached = self.input if self.cached_input is None else self.cached_input
        return Price(microdollars(self.input), microdollars(cached), microdollars(self.output), known=True)


class TimeoutConfig(Section):
    """Seconds. `first_token_s` runs from the call to the first byte of an answer, `idle_s` between its chunks."""

    connect_s: Seconds = 3.0
    first_token_s: Seconds = 60.0
    idle_s: Seconds = 30.0
    total_s: Seconds = 600.0

    def resolved(self) -> Timeouts:
        return Timeouts(self.connect_s, self.first_token_s, self.idle_s, self.total_s)


class EngineTimeouts(TimeoutConfig):
    """Those of a model that is computed here: one that waits for its turn, or is long to read, is not lost."""

    first_token_s: Seconds = 600.0
    idle_s: Seconds = 300.0


class RetryConfig(Section):
    """`attempts` counts the first call too: 1 means never again. Only a call that gave no byte is tried again."""

    attempts: Annotated[int, Field(strict=True, ge=1, le=10)] = 2


class ModelLimits(Section):
    """What this gateway sends to one model, all tenants together; left out means unlimited."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent: Count | None = None

    def resolved(self) -> Limits:
        return Limits(self.requests_per_minute, self.tokens_per_minute, None, self.concurrent)


class ThinkingConfig(Section):
    """How a reasoning model is told how much to think: by a named effort (`reasoning_effort`), or by a budget in tokens
    (`thinking.budget_tokens`), from `minimum` to `maximum`."""

    by: Literal["effort", "budget"]
    minimum: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 1_024
    maximum: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 32_000

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        self.resolved()
        return self

    def resolved(self) -> Thinking:
        return Thinking(self.by, self.minimum, self.maximum)


_NOT_WHO = {
    "threads",
    "kv_mb",
    "most_running",
    "most_waiting",
    "step_tokens",
    "speculation",
    "graphs",
    "slots",
    "max_waiting",
    "continues",
    "prediction",
    "aliases",
    "listed",
    "price",
    "timeouts",
    "retries",
    "limits",
    "fallbacks",
    "api_key",
    "headers",
    "context_tokens",
    "supports",
}
Ability = Literal["tools", "vision", "audio", "json", "schema"]  # json: any; schema: of a given one


class ModelBase(Section):
    """What every model has. `fallbacks` is the whole list to try, in order: a fallback's own is not followed."""

    aliases: tuple[Name, ...] = ()
    listed: Flag = True  # whether GET /v1/models shows it
    price: PriceConfig | None = None
    timeouts: TimeoutConfig = TimeoutConfig()
    retries: RetryConfig = RetryConfig()
    limits: ModelLimits = ModelLimits()
    fallbacks: tuple[Name, ...] = ()
    max_output_tokens: Count | None = None
    slots: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = None  # answers at a time; left out: no queue
    max_waiting: Annotated[int, Field(strict=True, ge=0, le=100_000)] = 256  # for a slot; more are refused
    thinking: ThinkingConfig | None = None  # left out: it is not told how much to think
    context_tokens: Count | None = None  # of prompt and answer together
    supports: frozenset[Ability] | None = None  # left out: as litellm's table says, if that is installed; else all

    def upstream_name(self, name: str) -> str:
        """The name that whoever answers knows this model by; `name` is ours."""
        return name

    def resolved_price(self) -> Price:
        return Price() if self.price is None else self.price.resolved()

    @property
    def epoch(self) -> bytes:
        """A digest of who answers: what a model said before it was moved or exchanged is not what it says now."""
        who = self.model_dump(mode="json", exclude=_NOT_WHO)
        return hashlib.sha256(json.dumps(who, sort_keys=True, default=str).encode()).digest()[:8]

    def backend_options(self) -> dict[str, Any]:
        """What the backend is made with, secrets in the clear: for backends/registry.py only, never for a log."""
        return {}


class EngineModel(ModelBase):
    """The bundled engine. `weights` is a name of the catalogue, or the path of a GGUF file or a folder of safetensors.

    `kv_mb` is what keys and values of all answers may take, in MiB. A step computes at most `step_tokens` rows;
    `most_running` answers share it and `most_waiting` requests wait. `context_tokens` may only shorten the model's own.
    With `graphs` a GPU's steps of answers alone are captured once and replayed; with `kv: fp8` it keeps keys and values
    in 8 bits, which makes answers approximate.
    """

    backend: Literal["engine"]
    weights: Weights = "smollm2-135m-instruct"
    timeouts: EngineTimeouts = EngineTimeouts()
    compute: Literal["int8", "bfloat16", "float32", "int4"] | None = None  # left out: what the machine does best
    threads: Annotated[int, Field(strict=True, ge=1, le=256)] | None = None  # left out: up to four
    kv_mb: Annotated[int, Field(strict=True, ge=16, le=1 << 20)] = 512
    most_running: Annotated[int, Field(strict=True, ge=1, le=1024)] = 16
    most_waiting: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 64
    step_tokens: Annotated[int, Field(strict=True, ge=16, le=16_384)] = 256
    speculation: SpeculationConfig = SpeculationConfig()
    attention: AttentionConfig = AttentionConfig()
    graphs: Flag = True
    kv: Literal["fp8"] | None = None  # left out: as the device computes

    @model_validator(mode="after")
    def _a_step_holds_everybody(self) -> Self:
        if self.step_tokens <= self.most_running:
            raise ValueError("step_tokens must be more than most_running: each running answer takes one a step")
        return self

    @model_validator(mode="after")
    def _pages_are_chosen_by_whole_keys(self) -> Self:
        if self.kv is not None and self.attention.best_pages is not None:
            raise ValueError("kv: fp8 and attention.best_pages exclude each other")
        return self

    @model_validator(mode="after")
    def _a_glance_sees_less(self) -> Self:
        if self.speculation.window is not None and (self.attention.window or self.attention.best_pages):
            raise ValueError("speculation.window has no use beside attention.window or attention.best_pages")
        return self

    def upstream_name(self, name: str) -> str:
        return called(self.weights)

    def backend_options(self) -> dict[str, Any]:
        usual = EngineModel(backend="engine")._options()
        said = {name: value for name, value in self._options().items() if value != usual[name]}
        return {"weights": self.weights, **said}

    def _options(self) -> dict[str, Any]:
        return {
            "compute": self.compute,
            "threads": self.threads,
            "kv_mb": self.kv_mb,
            "most_running": self.most_running,
            "most_waiting": self.most_waiting,
            "step_tokens": self.step_tokens,
            "context": self.context_tokens,
            "speculation": self.speculation.enabled,
            "draft": self.speculation.most,
            "draft_window": self.speculation.window,
            "draft_weights": self.speculation.model,
            "window": self.attention.window,
            "sinks": self.attention.sinks,
            "marks": self.attention.global_tokens,
            "best_pages": self.attention.best_pages,
            "graphs": self.graphs,
            "kv": self.kv,
        }


def _base_url(value: Any, info: ValidationInfo) -> Any:
    return resolve(value, environment(info)) if isinstance(value, str) and is_reference(value) else value


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not a URL: its host or port cannot be read") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("must be http:// or https:// with a host, such as https://api.openai.com/v1")
    if "@" in parts.netloc:
        raise ValueError("holds credentials; write them as api_key")
    if parts.query or parts.fragment or any(c.isspace() or not c.isprintable() or c == "\\" for c in url):
        raise ValueError("must be a plain address, without a query, a fragment, spaces or backslashes")
    return url.rstrip("/")


def _header_name(name: str) -> str:
    name = name.lower()
    if not _TOKEN.match(name):
        raise ValueError("is not the name of an HTTP header")
    if name in ("authorization", "host", "content-length", "transfer-encoding", "connection"):
        raise ValueError(
            "is a header that the gateway sets itself" + (" from api_key" if name == "authorization" else "")
        )
    return name


HeaderName = Annotated[str, Field(strict=True), AfterValidator(_header_name)]
BaseUrl = Annotated[str, Field(strict=True), BeforeValidator(_base_url), AfterValidator(_checked_url)]


class OpenAIModel(ModelBase):
    """Any server that speaks OpenAI's API. `model` is its name there, the same as here where left out.

    `prediction`: it takes OpenAI's field of that name, so the cache's near misses are sent as drafts; what the model
    rejects of a draft is billed as output.

    `continues`: how it is told to take up an unfinished answer, the conversation's last turn: `vllm` (also SGLang) with
    `continue_final_message`, `prefix` with a mark on the turn (DeepSeek, Mistral), `plain` without being told
    (llama.cpp). Left out: it cannot, and no cap is proposed.
    """

    backend: Literal["openai"]
    base_url: BaseUrl = "https://api.openai.com/v1"
    model: Name | None = None
    api_key: HeaderSecret | None = None
    headers: Mapping[HeaderName, HeaderSecret] = {}
    prediction: Flag = False
    continues: Literal["vllm", "prefix", "plain"] | None = None

    def upstream_name(self, name: str) -> str:
        return self.model or name

    def backend_options(self) -> dict[str, Any]:
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        options = {"base_url": self.base_url, "api_key": _plain(self.api_key), "headers": headers}
        return {**options, "prediction": True} if self.prediction else options


def _hidden(value: Any, environ: Mapping[str, str]) -> Any:
    # Which of a provider's parameters are secret is not ours to know (aws_secret_access_key is one): every text is.
    if isinstance(value, str):
        return SecretStr(resolve(value, environ)) if value else value
    if isinstance(value, dict):
        return {key: _hidden(inner, environ) for key, inner in value.items()}
    return [_hidden(inner, environ) for inner in value] if isinstance(value, list) else value


def _params(value: Any, info: ValidationInfo) -> Any:
    for name in ("model", "api_key", "api_base"):
        if isinstance(value, dict) and name in value:
            raise ValueError(f"holds {name}, which has a key of its own beside `params`")
    return _hidden(value, environment(info))


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


class LitellmModel(ModelBase):
    """A provider behind litellm. `model` is litellm's spelling, `params` whatever else the provider needs."""

    backend: Literal["litellm"]
    model: Name
    api_key: HeaderSecret | None = None
    api_base: BaseUrl | None = None
    params: Annotated[Mapping[str, Any], BeforeValidator(_params)] = Field(default={}, repr=False)

    def upstream_name(self, name: str) -> str:
        return self.model

    def backend_options(self) -> dict[str, Any]:
        params = {key: _plain(value) for key, value in self.params.items()}
        return {**params, "model": self.model, "api_key": _plain(self.api_key), "api_base": self.api_base}


class FakeModel(ModelBase):
    """The scripted backend of tests and demos; `script` is read by backends/fake.py."""

    backend: Literal["fake"]
    script: Mapping[str, Any] = {}

    def backend_options(self) -> dict[str, Any]:
        return {"script": dict(self.script)}


class EmbedModel(ModelBase):
    """Embeddings made here. `embedder` is the configuration's own section where left out."""

    backend: Literal["embed"]
    embedder: EmbedderConfig = EmbedderConfig()

    def backend_options(self) -> dict[str, Any]:
        return dataclasses.asdict(self.embedder.resolved())


ModelConfig = Annotated[
    EngineModel | OpenAIModel | LitellmModel | EmbedModel | FakeModel, Field(discriminator="backend")
]
BACKENDS = ("engine", "openai", "litellm", "embed", "fake")
