"""Who may be let in from where: beyond loopback only with keys, and never with a key that everybody knows."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .problem import Path, dotted

if TYPE_CHECKING:
    from .config import Config

Finding = tuple[Path, str]

# Keys that stand in tutorials, compose files and other people's repositories. Short of a dictionary attack by us
# these are the ones a scanner tries first.
_WELL_KNOWN = (
    "sk-1234",
    "sk-12345",
    "sk-123456",
    "sk-1234567890",
    "sk-0000",
    "sk-test",
    "sk-test-key",
    "sk-fake",
    "sk-dummy",
    "sk-demo",
    "sk-example",
    "sk-key",
    "sk-master",
    "sk-admin",
    "sk-local",
    "sk-litellm",
    "sk-litellm-master-key",
    "sk-trimtab",
    "sk-changeme",
    "sk-change-me",
    "sk-no-key-required",
    "sk-your-key",
    "sk-xxxx",
    "tt-changeme",
    "tt-test",
    "changeme",
    "change-me",
    "change_me",
    "CHANGEME",
    "secret",
    "password",
    "master-key",
    "admin",
    "test",
    "token",
    "demo",
    "dummy",
    "fake",
    "none",
    "null",
    "EMPTY",
    "empty",
    "not-needed",
    "no-key",
    "key",
    "api-key",
    "your-api-key",
    "trimtab",
    "litellm",
    "local",
    "anything",
    "1234",
    "12345678",
)
WELL_KNOWN_HASHES = frozenset("sha256:" + hashlib.sha256(key.encode()).hexdigest() for key in _WELL_KNOWN)


class OpenDoor(ValueError):
    """The gateway would listen beyond loopback without real keys."""


def check_listen(config: Config, host: str) -> None:
    """Raise OpenDoor, naming every cause, if `config` must not be served on `host`."""
    causes = [f"{dotted(path)}: {cause}" for path, cause in open_door(config, host)]
    if causes:
        raise OpenDoor("\n".join(causes))


def open_door(config: Config, host: str) -> Iterator[Finding]:
    """Why `host` must not be listened on, each with the place to mend it."""
    if is_loopback(host):
        return
    for name, tenant in config.tenants.items():
        if not tenant.keys:
            cause = f"has no keys, and {host or 'every address'!r} can be reached from beyond this machine"
            yield ("tenants", name), f"{cause}; make one with `trimtab keys new {name}`, or listen on 127.0.0.1"
        for i, key in enumerate(tenant.keys):
            if key.hash in WELL_KNOWN_HASHES:
                cause = "this key stands in tutorials and is the first that a stranger tries"
                yield ("tenants", name, "keys", i), f"{cause}; make a new one with `trimtab keys new {name}`"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. Any name but localhost may point elsewhere tomorrow."""
    if host.lower().rstrip(".") in ("localhost", "ip6-localhost", "ip6-loopback"):
        return True
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
