"""A LiteLLM proxy configuration, accepted as it is: what it says in our words, and what in it has no meaning here.

    model_list              models; a name that stands several times keeps its first entry, the rest become fallbacks
    litellm_settings,       timeouts, retries, fallbacks, aliases, the cache
    router_settings
    general_settings        master_key becomes the key of one tenant, `default`
    environment_variables   read where the file says os.environ/NAME

Everything else is named as unsupported, with its line. Does not serve, and asks no provider anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from .config import Config
from .keys import hash_key
from .litellm_groups import Groups, aliases, fallbacks
from .litellm_model import model
from .litellm_reading import Reading, Translation
from .problem import ConfigError, Path
from .yaml_document import Document, parse

SECTIONS = ("model_list", "litellm_settings", "router_settings", "general_settings", "environment_variables")


# Where the values of our cache policy come from.
_PLACES = {
    "exact": ("cache",),
    "when": ("cache",),
    "ttl_s": ("cache_params", "ttl"),
    "semantic": ("cache_params", "type"),
}
_STORES = ("local", "redis", "redis-semantic")
_CALL_TYPES = (("completion", "acompletion"), ("text_completion", "atext_completion"), ("embedding", "aembedding"))
# What `cache_params` say that is said differently here, or decided differently.
_ELSEWHERE = {
    "namespace": "is not supported: a tenant's entries are its own by their keys, and store.secret parts deployments",
    "similarity_threshold": "likeness alone serves nothing here: policy.cache.semantic.max_wrong bounds wrong answers",
    "redis_semantic_cache_embedding_model": "the section `embedder` names what questions are compared with",
    "qdrant_semantic_cache_embedding_model": "the section `embedder` names what questions are compared with",
}


def is_litellm(data: Any) -> bool:
    return isinstance(data, dict) and any(section in data for section in SECTIONS)


def convert(text: str, environ: Mapping[str, str], source: str = "litellm.yaml") -> tuple[Config, list[str]]:
    """The configuration, and what is not supported, each with its line. Raises ConfigError."""
    translation = translate(parse(text, source), environ)
    config, errors = translation.config()
    if config is None:
        raise ConfigError(tuple(errors))
    return config, [str(problem) for problem in translation.unsupported]


def translate(document: Document, environ: Mapping[str, str]) -> Translation:
    """Say the file in our words; what is wrong or unsupported is collected, nothing is raised."""
    translation = Translation(document, environ)
    top = Reading(translation, (), document.data)
    _environment(top.section("environment_variables"))
    settings, router, general = (top.section(name) for name in SECTIONS[1:4])
    written = top.take("model_list")
    groups = Groups(written if isinstance(written, list) else [])
    models = _models(translation, written, groups, _patience(settings, router))
    aliases(router, models)
    fallbacks(settings, router, models, groups)
    cache, redis = _cache(settings)
    translation.data = {"models": models, "tenants": _tenants(general, cache), **_store(redis, router)}
    for section in (settings, router, general, top):
        section.finish()
    return translation


def _environment(section: Reading) -> None:
    translation = section.translation
    for name, value in section.rest().items():
        resolved = translation.text(value, (*section.path, name))
        if resolved is not None:
            translation.environ[name] = str(resolved)
        translation.leave(
            (*section.path, name), "is read where this file says os.environ/, and not exported to the process"
        )


def _patience(settings: Reading, router: Reading) -> dict[str, Any]:
    """What the whole file says of timeouts and retries; the router's word counts before the library's."""
    asked = {
        "timeout": [router.take("timeout"), settings.take("request_timeout")],
        "stream_timeout": [router.take("stream_timeout"), settings.take("stream_timeout")],
        "retries": [router.take("num_retries"), settings.take("num_retries")],
    }
    first = {key: next((value for value in values if value is not None), None) for key, values in asked.items()}
    return {key: value for key, value in first.items() if value is not None}


def _models(translation: Translation, entries: Any, groups: Groups, patience: Mapping[str, Any]) -> dict[str, Any]:
    models: dict[str, Any] = {}
    translation.place(("models",), ("model_list",))
    if entries is not None and not isinstance(entries, list):
        translation.wrong(("model_list",), "must be a list of models")
    for i, data in enumerate(entries if isinstance(entries, list) else ()):
        path: Path = ("model_list", i)
        entry = Reading(translation, path, data)
        name = entry.take("model_name")
        if not isinstance(name, str) or not name:
            translation.wrong(path, "model_name is missing; it is the name that clients ask for")
        elif "*" in name or _is_wildcard(data):
            translation.leave((*path, "model_name"), "wildcards are not supported; list each model by its own name")
        else:
            ours = groups.join(name, (*path, "model_name"), translation)
            models[ours] = {**_model(entry, ours, patience), **({} if ours == name else {"listed": False})}
    return models


def _is_wildcard(entry: Any) -> bool:
    params = entry.get("litellm_params")
    return isinstance(params, dict) and "*" in str(params.get("model"))


def _model(entry: Reading, name: str, patience: Mapping[str, Any]) -> dict[str, Any]:
    translation = entry.translation
    ours: Path = ("models", name)
    translation.place(ours, (*entry.path, "model_name"))
    entry.ours = ours
    params, info = entry.section("litellm_params"), entry.section("model_info")
    made = model(params, info, patience)
    if made is None:
        made = {"backend": "fake"}  # the entry is a problem already; the name stays known to the rest of the file
    for section in (params, info, entry):
        section.finish()
    return made


def _tenants(general: Reading, cache: dict[str, Any]) -> dict[str, Any]:
    """One tenant: `default` with the master key, or `local` without any, which stays on loopback."""
    translation = general.translation
    written = general.take("master_key")
    master = written if written is not None else translation.environ.get("LITELLM_MASTER_KEY")
    name = "default" if master else "local"
    translation.place(("tenants", name), (*general.path, "master_key"))
    for key, place in _PLACES.items():
        translation.place(("tenants", name, "policy", "cache", key), ("litellm_settings", *place))
    tenant: dict[str, Any] = {"policy": {"cache": cache}}
    if master:
        tenant["keys"] = [hash_key(str(master))]
    return {name: tenant}


def _cache(settings: Reading) -> tuple[dict[str, Any], Any]:
    """The cache policy, and the Redis that `cache_params` name. As in LiteLLM: off unless the file switches it on, and
    then for answers of any temperature."""
    params = settings.section("cache_params")
    if settings.take("cache") is not True:
        params.rest()
        return {"exact": False}, None
    ttl = params.take("ttl")
    policy: dict[str, Any] = {"exact": True, "when": "always", **({} if ttl is None else {"ttl_s": _whole(ttl)})}
    kind = params.take("type") or "redis"
    if kind not in _STORES:
        cause = f"{kind!r} is not supported; answers are kept in this process"
        params.translation.leave((*params.path, "type"), cause)
    if str(kind).endswith("-semantic"):
        policy["semantic"] = {"enabled": True, "allow": ["sampling"]}
    url = _redis(params, "", params.path) if kind in ("redis", "redis-semantic") else None
    if params.take("mode") == "default_off":
        policy = {"exact": False}
        cause = "a request can switch the cache off here and never on; so it is off for all of them"
        params.translation.leave((*params.path, "mode"), cause)
    _call_types(params)
    for key, cause in _ELSEWHERE.items():
        params.leave(key, cause)
    params.finish()
    return policy, url


def _call_types(params: Reading) -> None:
    types = params.take("supported_call_types")
    if isinstance(types, list) and not all(any(name in types for name in pair) for pair in _CALL_TYPES):
        cause = "chats, completions and embeddings are kept alike; a caller can send 'cache': {'no-store': true}"
        params.translation.leave((*params.path, "supported_call_types"), cause)


def _whole(seconds: Any) -> Any:
    return int(seconds) if isinstance(seconds, float) and seconds.is_integer() else seconds


def _store(cache: Any, router: Reading) -> dict[str, Any]:
    """One store for caches and limits: what the router names, else what the cache does."""
    url = _redis(router, "redis_", router.path) or cache
    return {} if url is None else {"store": {"redis": url}}


def _redis(section: Reading, prefix: str, path: Path) -> str | None:
    """A redis:// address put together from its parts, which may also stand in the usual environment variables."""
    environ = section.translation.environ
    parts = {part: section.take(prefix + part) for part in ("url", "host", "port", "password", "username", "db", "ssl")}
    if not prefix:
        parts |= {k: environ.get(f"REDIS_{k.upper()}") for k, value in parts.items() if value is None and k != "db"}
    found = next((prefix + key for key in ("url", "host") if parts[key]), None)
    if found is None:
        return None
    section.translation.place(("store", "redis"), (*path, found))
    if parts["url"]:
        return str(parts["url"])
    scheme = "rediss" if parts["ssl"] in (True, "true", "True") else "redis"
    user = quote(str(parts["username"] or ""), safe="")
    login = f"{user}:{quote(str(parts['password']), safe='')}@" if parts["password"] else ""
    host = f"[{parts['host']}]" if ":" in str(parts["host"]) else parts["host"]
    return f"{scheme}://{login}{host}:{parts['port'] or 6379}/{parts['db'] or 0}"
