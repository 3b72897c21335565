"""Keys: whose they are, how they come in, and that nothing but their hash is kept."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cache.policy import CachePolicy
from trimtab.compression.policy import CompressionPolicy
from trimtab.gateway.config import Config
from trimtab.gateway.keys import CREDENTIAL_HEADERS, KeyRing, hash_key, new_key, presented, read_key
from trimtab.routing.policy import OutputPolicy, RoutePolicy

PLAIN = st.text(min_size=1, max_size=40)


def ring(**tenants: object) -> KeyRing:
    models = {
        "small": {"backend": "fake", "aliases": ["s"]},
        "large": {"backend": "fake"},
        "other": {"backend": "fake"},
    }
    data = {"models": models, "routes": {"auto": {"small": "small", "large": "large"}}, "tenants": tenants}
    return KeyRing(Config.model_validate(data, context={"environ": {}}))


@given(st.dictionaries(PLAIN, st.sampled_from(["acme", "b.c", "D-1"]), min_size=1), PLAIN)
def test_a_key_finds_its_tenant_and_nothing_else_does(owners: dict[str, str], stranger: str) -> None:
    tenants: dict[str, dict[str, list[str]]] = {}
    for plain, tenant in owners.items():
        tenants.setdefault(tenant, {"keys": []})["keys"].append(hash_key(plain))
    keys = ring(**tenants)
    for plain, tenant in owners.items():
        caller = keys.find(plain)
        assert caller is not None
        assert caller.tenant.name == tenant
    caller = keys.find(stranger)
    assert (caller.tenant.name if caller else None) == owners.get(stranger)
    assert keys.find(None) is None


@given(st.binary(min_size=1, max_size=60).filter(lambda raw: raw.strip() == raw))
def test_any_bytes_in_a_header_are_hashed_as_they_came(raw: bytes) -> None:
    key = presented([(b"x-api-key", raw)])
    assert key is not None
    assert key.encode("utf-8", "surrogateescape") == raw
    assert ring(acme={"keys": [hash_key(key)]}).find(key) is not None


def test_a_new_key() -> None:
    keys = [new_key("acme") for _ in range(50)]
    assert len({plain for plain, _ in keys}) == 50
    for plain, digest in keys:
        assert re.fullmatch(r"tt-[A-Za-z0-9_-]{43}", plain)  # 43 base64 digits: 256 bits
        assert digest == hash_key(plain)
        keyring = ring(acme={"keys": [digest]})
        caller = keyring.find(plain)
        assert caller is not None
        assert plain not in repr((caller, vars(keyring)))
    with pytest.raises(ValueError, match="tenant's name"):
        new_key("no spaces")


def test_the_bytes_come_from_the_source_that_is_handed_in() -> None:
    assert new_key("acme", lambda count: "r" * count)[0] == "tt-" + "r" * 32


def test_what_a_caller_carries() -> None:
    tenant = {
        "keys": [{"hash": hash_key("k"), "name": "batch"}, hash_key("l")],
        "limits": {"requests_per_minute": 6, "usd_per_day": 0.25},
        "policy": {"cache": {"exact": False}, "route": {"floor": 0.9}},
    }
    keys = ring(acme=tenant)
    caller, other = keys.find("k"), keys.find("l")
    assert caller is not None
    assert other is not None
    assert (caller.key_id, other.key_id) == ("batch", hash_key("l")[:19])
    assert caller.tenant.limits.requests_per_minute == 6
    assert caller.tenant.limits.microusd_per_day == 250_000
    assert caller.tenant.policy(CachePolicy).exact is False
    assert caller.tenant.policy(RoutePolicy).floor == 0.9
    assert caller.tenant.policy(CompressionPolicy) == CompressionPolicy()
    assert caller.tenant.policy(OutputPolicy) == OutputPolicy()


@pytest.mark.parametrize(
    ("tenant", "key", "allowed"),
    [
        (None, None, None),
        (["small"], None, {"small", "s"}),
        (None, ["s"], {"small", "s"}),  # an alias stands for its model, and the model for its aliases
        (["small", "auto"], ["auto", "large"], {"auto"}),
        (["large"], ["small"], set()),
    ],
)
def test_a_key_is_limited_by_itself_and_by_its_tenant(
    tenant: list[str] | None, key: list[str] | None, allowed: set[str] | None
) -> None:
    caller = ring(acme={"keys": [{"hash": hash_key("k"), "models": key}], "models": tenant}).find("k")
    assert caller is not None
    assert caller.models == allowed


def test_without_any_key_every_client_is_the_keyless_tenant() -> None:
    keys = ring(local={"models": ["small"]})
    assert keys.anonymous is not None
    assert keys.find(None) is keys.anonymous
    assert keys.find("sk-whatever-the-client-insists-on") is keys.anonymous
    assert keys.anonymous.models == {"small", "s"}


def test_beside_keys_the_keyless_tenant_takes_only_those_who_show_none() -> None:
    keys = ring(acme={"keys": [hash_key("k")]}, local={})
    assert keys.find(None) is keys.anonymous
    assert keys.find("wrong") is None
    caller = keys.find("k")
    assert caller is not None
    assert caller.tenant.name == "acme"


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"authorization", b"Bearer abc")], "abc"),
        ([(b"authorization", b"bEARER   abc  ")], "abc"),
        ([(b"authorization", b"Basic abc"), (b"api-key", b"k")], "k"),
        ([(b"authorization", b"abc")], None),
        ([(b"authorization", b"Bearer ")], None),
        ([(b"authorization", b"Bearer"), (b"x-goog-api-key", b"g")], "g"),
        ([(b"x-api-key", b"a")], "a"),
        ([(b"x-litellm-api-key", b"l"), (b"x-goog-api-key", b"g"), (b"api-key", b"z"), (b"x-api-key", b"a")], "a"),
        ([(b"x-api-key", b"a"), (b"authorization", b"Bearer b")], "b"),
        ([(b"x-api-key", b""), (b"api-key", b"z")], "z"),
        ([(b"x-api-key", b"first"), (b"x-api-key", b"second")], "first"),
        ([(b"cookie", b"key=1"), (b"proxy-authorization", b"Bearer p")], None),
    ],
)
def test_where_a_key_is_looked_for(headers: list[tuple[bytes, bytes]], key: str | None) -> None:
    assert presented(headers) == key
    assert {name for name, _ in headers} <= CREDENTIAL_HEADERS


def test_how_a_file_may_give_a_key() -> None:
    digest = hash_key("k")
    assert read_key(digest, {}) == digest
    assert read_key(digest.upper().replace("SHA256", "sha256"), {}) == digest
    assert read_key("env:KEY", {"KEY": "k"}) == digest
    assert read_key("env:KEY", {"KEY": digest}) == digest  # it may hold the hash already
    for wrong, cause in {
        "sk-plain": "plain text",
        "sha256:12": "64 hexadecimal",
        "env:NONE": "NONE is not set",
    }.items():
        with pytest.raises(ValueError, match=cause) as caught:
            read_key(wrong, {})
        assert "sk-plain" not in str(caught.value)
