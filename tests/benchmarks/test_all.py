"""Running the benchmarks together: which there are, and which options each of them is given."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs all.py with no benchmark started: its status, and what each would have been given after `--json OUT`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("all")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    given: dict[str, list[str]] = {}

    def start(command: list[str], **more: Any) -> subprocess.CompletedProcess[bytes]:
        assert command[2:4] == ["--json", str(tmp_path / f"{Path(command[1]).stem}.json")]
        given[Path(command[1]).stem] = command[4:]
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(module.subprocess, "run", start)
    return lambda *words: (module.main([*words]), given)


def test_without_a_name_all_of_them_run(ran: Any) -> None:
    status, given = ran("--quick")
    assert status == 0
    assert {"compress", "context", "embed", "engine", "gateway", "integrity", "soak", "tool_choice"} <= given.keys()
    assert all(words == ["--quick"] for words in given.values())


def test_each_is_given_the_options_that_it_knows(ran: Any) -> None:
    words = ["--data", "a", "b", "--bfcl=DIR", "--peers", "P", "--requests", "7"]
    status, given = ran("compress", "context", "tool_choice", "soak", *words)
    assert status == 0
    assert given == {
        "compress": ["--data", "a", "b", "--bfcl=DIR"],
        "context": ["--data", "a", "b", "--peers", "P"],
        "tool_choice": ["--data", "a", "b", "--bfcl=DIR"],
        "soak": ["--data", "a", "b", "--requests", "7"],
    }


@pytest.mark.parametrize("words", [["sock"], ["soak", "--bfcl", "DIR"], ["--sed", "1"], ["-x"]])
def test_what_none_of_them_has_is_an_error(ran: Any, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(*words) == (2, {})
    assert words[-1 if len(words) == 1 else -2] in capsys.readouterr().err


@pytest.mark.parametrize("name", ["compress", "embed", "soak", "tool_choice"])
def test_what_is_passed_on_is_what_the_parser_has(name: str) -> None:
    """The options are read from the source: a benchmark asked for its help must know each that is not hidden."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        known = importlib.import_module("all").benchmarks()[name]
    finally:
        sys.path.remove(str(BENCHMARKS))
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--help"], capture_output=True, text=True, check=True
    )
    shown = {word.strip("[],") for word in done.stdout.split() if word.strip("[],").startswith("--")}
    assert shown - {"--help", "--no-deps", "--target"} <= known


def test_every_script_can_be_imported() -> None:
    """What a refactoring moved away is noticed here, and not when somebody wants a figure. Peers need not be there."""
    ours = {path.stem for path in BENCHMARKS.glob("*.py")} | {"trimtab"}
    code = f"""
import importlib, sys
sys.path.insert(0, {str(BENCHMARKS)!r})
for name in {sorted(ours - {"trimtab"})!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name.split(".")[0] in {ours!r}:
            raise
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
