"""Every benchmark, one after the other, each into benchmarks/results/NAME.json.

    python benchmarks/all.py [NAME ...] [OPTION ...]        for example: all.py gateway soak --quick

Options go to every benchmark. Exit status 1 when one of them did not run; whether a bar was met is in the rows.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def benchmarks() -> list[str]:
    """The scripts beside this one that can be run and report; what they share or start cannot, or does not."""
    marks = ("\nif __name__ ==", "options.json")
    texts = {path.stem: path.read_text() for path in HERE.glob("*.py") if path.stem != "all"}
    return sorted(name for name, text in texts.items() if all(mark in text for mark in marks))


def main(arguments: list[str]) -> int:
    known = benchmarks()
    names = [word for word in arguments if not word.startswith("-") and word in known] or known
    options = [word for word in arguments if word not in names]
    if "-h" in options or "--help" in options:
        print(f"{__doc__}\nThere are: {', '.join(known)}")
        return 0
    RESULTS.mkdir(exist_ok=True)
    failed = [name for name in names if not run(name, options)]
    if failed:
        print(f"did not run: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, options: list[str]) -> bool:
    print(f"\n{name}", flush=True)
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(RESULTS / f"{name}.json"), *options]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
