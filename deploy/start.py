"""The gateway's start in a container: puts its key where the configuration looks for it, then becomes `trimtab`.

The key is TRIMTAB_KEY's if that is set, else a random one, made at the first start and kept. So a first start needs no
secret, and no two installations share one. It is never printed: logs are read by more people than keys are.
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
    if file.is_file() and file.read_text().strip():
        return f"the key is the one kept in {file}"
    _write(file, new_key("local")[0])
    return f"made a key; read it with: docker compose exec gateway cat {file}"


def _write(file: Path, key: str) -> None:
    """Replace the file whole, readable by its owner only."""
    part = file.with_name(f"{file.name}.{os.getpid()}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
        f.write(key + "\n")
    part.replace(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
