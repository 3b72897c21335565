"""The kernels' benchmark without a GPU: it rehearses, it refuses, and it does its sums right."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks/kernels"


def run(*words: str, script: str = "run.py") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRITON", "TRIMTAB"))}
    command = [sys.executable, str(FOLDER / script), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_rehearsal_checks_ours_and_its_peers(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    done = run(
        "--rehearse", "--only", "norm/", "w4a16/70x576_g64_m1", "walk/3x5", "decode/small_ragged", "--json", str(out)
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    assert written["benchmark"] == "kernels"
    systems: dict[str, set[str]] = {}
    for row in written["rows"]:
        assert row["metric"].endswith("/max_error"), "nothing is timed"
        assert row["holds"]
        assert row["value"] <= row["bar"]
        systems.setdefault(row["metric"], set()).add(row["system"])
    assert systems["norm/3x576/max_error"] == {"trimtab", "torch"}
    assert all("trimtab" in names for names in systems.values())
    assert len(systems) == 4


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """run.py as a module, which puts the folder and its siblings on the path."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), str(FOLDER.parent), *sys.path])
    before = set(sys.modules)
    yield importlib.import_module("run")
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def case(harness: ModuleType, **more: Any) -> Any:
    made = importlib.import_module("case")
    right = {"name": "a/b", "make": lambda device, seed: {}, "systems": {"trimtab": lambda inputs: lambda: 0.0}}
    return made.Case(**{**right, "check": lambda i, o: o, "tolerance": 0.1, "bytes": 10**9, "flops": 10**9, **more})


def test_a_wrong_kernel_is_reported_and_fails_the_run(harness: ModuleType) -> None:
    rows: list[Any] = []
    notes: list[str] = []
    nan = case(harness, systems={"trimtab": lambda inputs: lambda: float("nan")})
    assert not harness.rehearse(nan, 0, rows, notes)
    assert [row.holds for row in rows] == [False]
    assert "wrong" in notes[0]


def test_a_peer_that_is_wrong_or_missing_is_left_out(harness: ModuleType) -> None:
    absent = importlib.import_module("case").Absent

    def missing(inputs: object) -> Any:
        raise absent("not here")

    def broken(inputs: object) -> Any:
        def call() -> float:
            raise RuntimeError("no kernel image")

        return call

    systems = {"trimtab": lambda i: lambda: 0.0, "off": lambda i: lambda: 9.0, "gone": missing, "broken": broken}
    rows: list[Any] = []
    notes: list[str] = []
    assert harness.rehearse(case(harness, systems=systems), 0, rows, notes)
    assert [row.system for row in rows] == ["trimtab"]
    assert sorted(note.split(": ")[1].split()[0] for note in notes) == ["broken", "broken", "no", "off"]


def test_figures(harness: ModuleType) -> None:
    bar, timing = importlib.import_module("case").Bar, importlib.import_module("timing")
    bars = {"of_copy": bar(0.8), "vs_peer": bar(2.5), "ms": bar(1.0, ceiling=True)}
    times = {"trimtab": timing.Timed((0.5, 0.4, 0.6), False), "peer": timing.Timed((1.0,), True)}
    limits = timing.Ceilings(copy=4e12, matmul=8e14)
    rows = {(r.metric, r.system): r for r in harness.figures(case(harness, bars=bars), times, limits)}
    assert rows["a/b/ms", "trimtab"].value == 0.5
    assert rows["a/b/ms", "trimtab"].interval == (0.4, 0.6)
    assert rows["a/b/ms", "trimtab"].holds is True
    assert rows["a/b/ms", "peer"].holds is None
    assert rows["a/b/gbps", "trimtab"].value == pytest.approx(2000)
    assert rows["a/b/of_copy", "trimtab"].value == pytest.approx(0.5)
    assert rows["a/b/of_copy", "trimtab"].holds is False
    assert rows["a/b/of_bound", "trimtab"].value == pytest.approx(0.5), "bytes bind: 0.25 ms against 0.00125"
    assert rows["a/b/vs_peer", "trimtab"].value == pytest.approx(2.0)
    assert rows["a/b/vs_peer", "trimtab"].holds is False


def test_every_ratio_and_every_search_names_cases_that_exist(harness: ModuleType) -> None:
    found = harness.topics()
    assert len(found) >= 6
    names = {case.name for case in harness.chosen_cases(found, False, None)}
    for topic in found:
        for ratio in getattr(topic, "ratios", list)():
            assert {ratio.over, ratio.under} <= names
    searches = importlib.import_module("tune").searches()
    assert {search.case for search in searches} <= names
    assert all(next(iter(search.candidates()), None) for search in searches)


def test_ratios(harness: ModuleType) -> None:
    made = importlib.import_module("case")
    topic = ModuleType("topic")
    topic.ratios = lambda: [
        made.Ratio("q8_over_q1", "x", "y", made.Bar(1.25, ceiling=True)),
        made.Ratio("z", "x", "no", made.Bar(1)),
    ]  # type: ignore[attr-defined]
    rows = harness.ratio_rows([topic], {"x": 1.2, "y": 1.0})
    assert [(row.metric, row.holds) for row in rows] == [("y/q8_over_q1", True)]


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = run("--all")
    assert (done.returncode, "--rehearse" in done.stderr) == (2, True)
    assert run(script="tune.py").returncode == 2


@pytest.mark.parametrize("words", [(), ("--all", "--only", "x"), ("--rehearse", "--all", "--plot", "x.svg")])
def test_options_that_contradict_are_refused(harness: ModuleType, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        harness.options(list(words))


def test_the_picture(harness: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = importlib.import_module("report")
    rows = [report.Row("norm/1x2/of_bound", 0.8, "share"), report.Row("norm/1x2/ms", 0.1, "ms")]
    importlib.import_module("plot").draw(report.Report("kernels", rows), tmp_path / "shares.svg")
    assert "norm/1x2" in (tmp_path / "shares.svg").read_text()


def test_the_engines_steps_rehearse(tmp_path: Path) -> None:
    out = tmp_path / "steps.json"
    done = run("--rehearse", "--json", str(out), script="engine_steps.py")
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["metric"] for row in rows] == [
        f"{case}{kept}/off" for kept in ("", " fp8") for case in ("1x1@20", "3x2@17")
    ]
    assert all(row["value"] < 0.001 for row in rows)
