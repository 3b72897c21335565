"""The gateway's start in a container: puts its key where the configuration looks for it, then becomes `trimtab`.

The key is TRIMTAB_KEY's while that is set, else a random one, made at the first start and kept beside it. So a first
start needs no secret, and no two installations share one. It is never printed: more people read logs than keys.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from trimtab.gateway.keys import new_key

KEY = Path(os.environ.get("TRIMTAB_KEY_FILE") or "/var/lib/trimtab/key")


def main(arguments: list[str]) -> int:
    """Does not return when all is well: the gateway takes this process over, so that signals reach it."""
    given = os.environ.pop("TRIMTAB_KEY", "").strip()
    try:
        print(put_key(KEY, given), flush=True)
    except OSError as e:
        print(f"trimtab: cannot keep the key in {KEY}: {e.strerror}", file=sys.stderr)
        return 1
    os.execvp("trimtab", ["trimtab", *arguments])  # noqa: S606, S607 - the image's own, in a PATH that it sets


def put_key(file: Path, given: str) -> str:
    """Make sure that `file` holds the key; the line for the log says which. Raises OSError."""
    if given:
        _write(file, given)
        return "the key is TRIMTAB_KEY's"
    kept = file.with_name(file.name + ".made")
    made = kept.read_text().strip() if kept.exists() else ""
    if not made:
        made = new_key("local")[0]
        _write(kept, made)
    _write(file, made)
    return f"read the key with: docker compose exec gateway cat {file}  (or `exec gpu`)"


def _write(file: Path, key: str) -> None:
    """Replace the file whole, readable by its owner only."""
    part = file.with_name(f"{file.name}.{os.getpid()}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
        f.write(key + "\n")
    part.replace(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
