"""Beyond loopback only with keys, and never with one that everybody knows."""

from __future__ import annotations

import pytest

from trimtab.gateway.config import Config
from trimtab.gateway.keys import hash_key
from trimtab.gateway.listen import OpenDoor, check_listen, is_loopback


def config(**tenants: object) -> Config:
    return Config.model_validate({"models": {"m": {"backend": "fake"}}, "tenants": tenants}, context={"environ": {}})


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "localhost", "LOCALHOST."],
)
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    check_listen(config(local={}), host)


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "",
        "::",
        "[::]",
        "10.0.0.1",
        "169.254.169.254",
        "::ffff:10.0.0.1",
        "fe80::1%eth0",
        "gateway",
        "localhost.example.com",
        "127.1",
        "2130706433",
        "127.0.0.1.nip.io",
    ],
)
def test_beyond_loopback_needs_keys(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(OpenDoor, match=r"tenants\.local: has no keys.*trimtab keys new local"):
        check_listen(config(local={}), host)
    check_listen(config(acme={"keys": [hash_key("tt-" + "x" * 43)]}), host)


@pytest.mark.parametrize("key", ["sk-1234", "sk-test", "changeme", "EMPTY"])
def test_well_known_keys_stay_on_loopback(key: str) -> None:
    known = config(acme={"keys": [hash_key("a real one"), hash_key(key)]})
    check_listen(known, "127.0.0.1")
    with pytest.raises(OpenDoor, match=r"acme\.keys\[1\]") as caught:
        check_listen(known, "0.0.0.0")
    assert key not in str(caught.value).replace("trimtab keys new", "")


def test_every_cause_at_once() -> None:
    with pytest.raises(OpenDoor) as caught:
        check_listen(config(one={"keys": [hash_key("sk-1234")]}, two={}), "::")
    assert len(str(caught.value).splitlines()) == 2


def test_the_file_itself_is_held_to_it() -> None:
    with pytest.raises(ValueError, match="has no keys"):
        Config.model_validate({"server": {"host": "0.0.0.0"}}, context={"environ": {}})
