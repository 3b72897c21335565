"""One entry of LiteLLM's `model_list` as one of our models.

Knows which providers speak OpenAI's protocol, so that they are called directly and only the rest through litellm.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from ..protocol.money import dollars
from .litellm_reading import Reading, as_reference
from .problem import Path

# Prefixes of servers that speak OpenAI's protocol. The first may stand without an address.
_SPEAK_OPENAI = (
    "openai",
    "custom_openai",
    "openai_like",
    "text-completion-openai",
    "hosted_vllm",
    "lm_studio",
    "llamafile",
    "litellm_proxy",
    "xinference",
)
# Providers with a protocol of their own: even with an address of the user's they need litellm.
_OWN_PROTOCOL = frozenset(
    {
        *("anthropic", "azure", "azure_ai", "azure_text", "bedrock", "bedrock_converse", "cloudflare", "cohere"),
        *("cohere_chat", "databricks", "gemini", "huggingface", "maritalk", "nlp_cloud", "ollama", "ollama_chat"),
        *("oobabooga", "palm", "petals", "predibase", "replicate", "sagemaker", "sagemaker_chat", "snowflake"),
        *("triton", "vertex_ai", "vertex_ai_beta", "vllm", "watsonx", "watsonx_text"),
    }
)
_OPENAI_NAMES = ("gpt-", "o1", "o3", "o4", "chatgpt-", "text-embedding-", "ft:gpt-", "davinci-", "babbage-")
# LiteLLM's router and proxy read these, not its providers.
_ROUTERS = {
    "weight": "deployments are not weighted: the first is asked, the rest are fallbacks",
    "order": "deployments are asked in the order of the file",
    "tags": "tag based routing is not supported",
    "max_budget": "budgets are a tenant's, not a deployment's",
    "budget_duration": "budgets are a tenant's, not a deployment's",
    "max_parallel_requests": "is not supported",
    "mock_response": "use a model with `backend: fake` in a trimtab file",
    "litellm_credential_name": "is not supported; give api_key",
    "use_in_pass_through": "there are no pass-through endpoints",
}
_COSTS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
}


def model(params: Reading, info: Reading, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Our section for one entry; None if it names no model. `settings` hold what the whole file says of timeouts."""
    name = params.take("model", ("model",))
    if not isinstance(name, str) or not name:
        params.translation.wrong((*params.path, "model"), "is missing; it says which provider's model this is")
        return None
    provider = params.take("custom_llm_provider")
    base = params.take("api_base") or params.take("base_url")
    common = {**_limits(params), **_patience(params, settings), **_price(params, info), **_size(info)}
    for key, cause in _ROUTERS.items():
        params.leave(key, cause)
    kind, upstream = _who(name, provider, base)
    ours = _openai(params, upstream, base) if kind == "openai" else _litellm(params, upstream, base)
    return {**ours, **common}


def _who(name: str, provider: Any, base: Any) -> tuple[str, str]:
    """The backend, and the model's name there."""
    prefix, slash, rest = name.partition("/")
    if isinstance(provider, str) and provider:
        prefix, slash, rest = provider, "/", name.removeprefix(provider + "/")
    if slash and prefix in _SPEAK_OPENAI and (base or prefix in ("openai", "text-completion-openai")):
        return "openai", rest
    if slash and prefix in _OWN_PROTOCOL:
        return "litellm", f"{prefix}/{rest}"
    if base or (not slash and name.startswith(_OPENAI_NAMES)):
        return "openai", name
    return "litellm", f"{prefix}/{rest}" if slash else name


def _openai(params: Reading, upstream: str, base: Any) -> dict[str, Any]:
    environ = params.translation.environ
    key = params.secret("api_key", ("api_key",))
    ours: dict[str, Any] = {"backend": "openai", "model": upstream}
    address = base or environ.get("OPENAI_BASE_URL") or environ.get("OPENAI_API_BASE")
    if address:
        ours["base_url"] = address
    if key is None and base is None:
        key = "env:OPENAI_API_KEY"  # never sent to an address of the user's own, which LiteLLM would do
    if key is not None:
        ours["api_key"] = key
    headers = as_reference(params.take("extra_headers", ("headers",))) or {}
    organization = params.secret("organization", ("headers", "openai-organization"))
    if organization is not None:
        headers = {**headers, "openai-organization": organization}
    if headers:
        ours["headers"] = headers
    params.translation.place((*params.ours, "base_url"), (*params.path, "api_base"))
    return ours


def _litellm(params: Reading, upstream: str, base: Any) -> dict[str, Any]:
    ours: dict[str, Any] = {"backend": "litellm", "model": upstream}
    key = params.secret("api_key", ("api_key",))
    if key is not None:
        ours["api_key"] = key
    if base is not None:
        ours["api_base"] = base
        params.translation.place((*params.ours, "api_base"), (*params.path, "api_base"))
    rest = params.rest()
    for name in rest:
        params.translation.place((*params.ours, "params", name), (*params.path, name))
    return {**ours, "params": as_reference(rest)} if rest else ours


def _limits(params: Reading) -> dict[str, Any]:
    asked = {
        "requests_per_minute": params.take("rpm", ("limits", "requests_per_minute")),
        "tokens_per_minute": params.take("tpm", ("limits", "tokens_per_minute")),
    }
    limits = {key: value for key, value in asked.items() if value is not None}
    return {"limits": limits} if limits else {}


def _patience(params: Reading, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The entry's own timeouts and retries, else the file's. LiteLLM's timeout bounds the first byte's too."""
    own = params.take("timeout", ("timeouts", "total_s")), params.take("stream_timeout", ("timeouts", "first_token_s"))
    total = own[0] if own[0] is not None else settings.get("timeout")
    first = own[1] if own[1] is not None else own[0] if own[0] is not None else settings.get("stream_timeout", total)
    timeouts = {key: value for key, value in (("total_s", total), ("first_token_s", first)) if value is not None}
    retries = params.take("num_retries", ("retries", "attempts"))
    retries = params.take("max_retries", ("retries", "attempts")) if retries is None else retries
    retries = settings.get("retries") if retries is None else retries
    patience: dict[str, Any] = {"timeouts": timeouts} if timeouts else {}
    if retries is not None:
        # Theirs counts the calls after the first one; ours counts all of them, ten at most.
        whole = isinstance(retries, int) and not isinstance(retries, bool) and retries >= 0
        patience["retries"] = {"attempts": min(retries + 1, 10) if whole else retries}
    return patience


def _price(params: Reading, info: Reading) -> dict[str, Any]:
    price: dict[str, Decimal] = {}
    places: list[Path] = []
    for theirs, ours in _COSTS.items():
        stated, described = params.take(theirs, ("price", ours)), info.take(theirs, ("price", ours))
        reading, value = (info, described) if stated is None else (params, stated)
        if value is None:
            continue
        places.append((*reading.path, theirs))
        try:
            price[ours] = _per_million(value)
        except ValueError as e:
            params.translation.wrong(places[-1], str(e))
    if places and not {"input", "output"} <= price.keys():
        params.translation.leave(places[0], "a price needs input_cost_per_token and output_cost_per_token")
        return {}
    return {"price": price} if price else {}


def _per_million(per_token: Any) -> Decimal:
    """Dollars per million tokens, rounded half up to the micro-dollar, which is the finest price that is kept."""
    return (dollars(per_token) * 1_000_000).quantize(Decimal("0.000001"), ROUND_HALF_UP)


def _size(info: Reading) -> dict[str, Any]:
    asked = {"max_output_tokens": "max_output_tokens", "max_input_tokens": "context_tokens"}
    sizes = {ours: info.take(theirs, (ours,)) for theirs, ours in asked.items()}
    return {ours: size for ours, size in sizes.items() if size is not None}
