"""Every benchmark, one after the other, each into benchmarks/results/NAME.json.

    python benchmarks/all.py [NAME ...] [OPTION ...]        for example: all.py gateway soak --quick

Of the options each benchmark gets those that it knows: `--bfcl DIR` goes to the two that read it. Exit status 1 when
one did not run, 2 for a name or an option that none of them has; whether a bar was met is in the rows.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
_OPTION = re.compile(r'add_argument\(\s*"(--[a-z-]+)"')


def benchmarks() -> dict[str, set[str]]:
    """The scripts beside this one that can be run and report, each with the options that its source names; what they
    share or start cannot, or does not."""
    marks = ("\nif __name__ ==", "options.json")
    shared = options_in(HERE / "report.py")
    found = {path.stem: path for path in sorted(HERE.glob("*.py")) if path.stem != "all"}
    runs = {name: path for name, path in found.items() if all(mark in path.read_text() for mark in marks)}
    return {name: shared | options_in(path) for name, path in runs.items()}


def options_in(path: Path) -> set[str]:
    return set(_OPTION.findall(path.read_text()))


def grouped(words: list[str]) -> list[list[str]]:
    """Each option with its values."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--"):
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


def main(arguments: list[str]) -> int:
    known = benchmarks()
    if "-h" in arguments or "--help" in arguments:
        print(f"{__doc__}\nThere are: {', '.join(known)}")
        return 0
    first = next((at for at, word in enumerate(arguments) if word.startswith("--")), len(arguments))
    names, options = arguments[:first] or [*known], grouped(arguments[first:])
    every = {option for name in names for option in known.get(name, ())}
    wrong = [name for name in names if name not in known] + [one[0] for one in options if option_of(one) not in every]
    if wrong:
        print(f"no benchmark has {', '.join(wrong)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    failed = [name for name in names if not run(name, [one for one in options if option_of(one) in known[name]])]
    if failed:
        print(f"did not run: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def option_of(group: list[str]) -> str:
    return group[0].partition("=")[0]


def run(name: str, options: list[list[str]]) -> bool:
    print(f"\n{name}", flush=True)
    words = [word for group in options for word in group]
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(RESULTS / f"{name}.json"), *words]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
