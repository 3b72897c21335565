"""`trimtab keys new TENANT` and `trimtab keys hash`."""

from __future__ import annotations

import getpass
import sys

from ..keys import hash_key, new_key


def new(tenant: str) -> int:
    """Print a fresh key and the lines for the configuration file."""
    try:
        plain, digest = new_key(tenant)
    except ValueError as e:
        print(f"trimtab: {e}", file=sys.stderr)
        return 1
    print(f"key for {tenant}, shown once; keep it safe:\n\n  {plain}\n")
    print(f'in the configuration file:\n\n  tenants:\n    {tenant}:\n      keys: ["{digest}"]')
    return 0


def from_stdin() -> int:
    """Print the hash of the key that is typed or piped in."""
    plain = getpass.getpass("key: ") if sys.stdin.isatty() else sys.stdin.readline()
    plain = plain.strip()
    if not plain:
        print("trimtab: no key came on standard input", file=sys.stderr)
        return 1
    print(hash_key(plain))
    return 0
