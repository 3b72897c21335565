"""The benchmarks' output has the one shape, and their arithmetic is what their rows say it is."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
HEAD = {"benchmark", "version", "commit", "machine", "date", "seed", "rows"}
ROW = {"metric", "value", "unit", "n", "system"}


def module(name: str) -> Any:
    return importlib.import_module(name)


def well_shaped(report: dict[str, Any]) -> None:
    assert set(report) >= HEAD
    assert report["rows"]
    for row in report["rows"]:
        assert set(row) >= ROW, row
        assert set(row) <= ROW | {"interval", "bar", "holds"}, row
        assert isinstance(row["value"], int | float)
        assert isinstance(row["n"], int)
        assert ("bar" in row) == ("holds" in row)
        if "holds" in row:
            assert isinstance(row["holds"], bool)
        low, high = row.get("interval", (0, 0))
        assert low <= high


def run(case: float, yards: float, **more: Any) -> dict[str, Any]:
    figures = {"cpu_ms_per_req": case, "cpu_yards_per_1k": yards, "others_cores": 0.1, **more}
    return {**figures, "n": 1000, "rps": 10.0, "p50_ms": case, "p99_ms": 2 * case, "non2xx": 0, "sockerr": 0}


def streamed(yards: float) -> dict[str, Any]:
    times = {"ttfc_p50_ms": 1.0, "total_p50_ms": 2.0, "total_p99_ms": 3.0}
    figures = {"cpu_ms_per_req": 1.0, "cpu_yards_per_1k": yards, "others_cores": 0.1}
    return {**figures, **times, "streams": 100, "sps": 9.0, "errors": 0}


@pytest.fixture
def results() -> dict[str, Any]:
    """As bench.py writes them: two runs, in which trimtab cost 2 and 4 times the floor."""

    def system(cost: float, second: float) -> dict[str, Any]:
        chat = [run(cost, cost), run(second, second)]
        stream = [streamed(cost), streamed(second)]
        runs = {"chat_c1": chat, "chat_c32": chat, "stream_c1": stream, "stream_c32": stream}
        return {"runs": runs, "rss_idle_mb": [50.0, 60.0], "rss_after_mb": [70.0, 70.0], "cold_starts_s": [1.0, 2.0]}

    direct = {"runs": {"chat_c1": [run(0.1, 0.1)] * 2}, "cold_starts_s": [None, None]}
    return {
        "direct": direct,
        "floor_asgi": system(1.0, 1.0),
        "trimtab": system(2.0, 4.0),
        "litellm": system(40.0, 80.0),
    }


def test_the_gateways_ratios(results: dict[str, Any]) -> None:
    gateway = module("gateway")
    rows = {(row.metric, row.system): row for row in gateway.promised(results)}
    chat = rows["cpu_vs_floor_chat", "trimtab"]
    assert (chat.value, chat.interval, chat.bar, chat.holds, chat.n) == (3.0, (2.0, 4.0), 3.0, True, 2000)
    stream = rows["cpu_vs_floor_stream", "trimtab"]
    assert (stream.value, stream.holds) == (3.0, False)
    litellm = rows["cpu_vs_litellm_chat", "trimtab"]
    assert (litellm.value, litellm.holds) == (20.0, True)
    added = rows["added_p50_ms", "trimtab"]
    assert (added.value, added.holds) == (pytest.approx(2.9), False)
    assert rows["added_p50_ms_over_floor", "trimtab"].value == 2.0
    assert (rows["rss_idle_mb", "trimtab"].value, rows["rss_idle_mb", "trimtab"].holds) == (55.0, True)
    assert rows["ready_s", "trimtab"].holds
    assert rows["rss_idle_mb", "litellm"].bar is None


def test_the_gateways_report_has_the_shape(results: dict[str, Any], tmp_path: Path) -> None:
    gateway, report = module("gateway"), module("report")
    probes = module("gateway_probe").Probes(
        11, ["no key: 401"], ["bad: 500 where 200"], {"stream": 0.02, "plain": None}
    )
    rows = [*gateway.promised(results), *gateway.probed(probes)]
    made = report.Report("gateway", rows, 3, gateway.differences(probes), gateway.measured(results))
    with (tmp_path / "screen.txt").open("w") as screen:
        made.publish(tmp_path / "deep" / "gateway.json", Console(file=screen, width=140))
        Console(file=screen).print(gateway.overview(results))
    written = json.loads((tmp_path / "deep" / "gateway.json").read_text())
    well_shaped(written)
    by_metric = {row["metric"]: row for row in written["rows"]}
    assert not by_metric["probe_differences"]["holds"]
    assert by_metric["disconnect_abort_s_plain"]["value"] == 4.0, "an upstream that was never told"
    assert str(ROOT) not in json.dumps(written)
    assert "cpu_vs_floor_chat" in (tmp_path / "screen.txt").read_text()


DIRECT = """headers of a good answer: {'x-request-id': 'req_mock'}
body keys: ['choices', 'id']
no key                             200 {'x-request-id': 'req_mock', 'content-type': 'application/json'} '{"id": 1'
upstream 429                       429 {'retry-after': '1', 'content-type': 'application/json'} '{"error":{"code":"x"}}'
stream include_usage=False: 200 text/event-stream events=67 usage_chunks=1 done=True bytes_per_event=240 first=data: {
stream include_usage=True: 200 text/event-stream events=67 usage_chunks=1 done=True bytes_per_event=240 first=data: {
client disconnect stream=True: upstream aborted after 0.00 s
client disconnect stream=False: upstream aborted after 0.00 s
"""


def test_probes_are_held_against_the_upstreams_own_answers() -> None:
    compare = module("gateway_probe").compare
    through = (
        DIRECT.replace("no key                             200", "no key                             401")
        .replace('"code":"x"}', '"code":"x","source":"upstream"}')
        .replace(
            "=False: 200 text/event-stream events=67 usage_chunks=1",
            "=False: 200 text/event-stream events=66 usage_chunks=0",
        )
        .replace("stream=False: upstream aborted after 0.00 s", "stream=False: upstream NOT aborted within 4 s")
    )
    probes = compare(DIRECT, through)
    assert (probes.same, probes.own, probes.different) == (4, ["no key: 401"], [])
    assert probes.aborts == {"stream": 0.0, "plain": None}


@pytest.mark.parametrize(
    ("sent", "instead"),
    [
        ("['choices', 'id']", "['choices']"),
        ("429 {'retry-after': '1', ", "429 {"),
        ('{"code":"x"}', '{"code":"y"}'),
        ("429                       429", "429                       502"),
        ("events=67 usage_chunks=1 done=True", "events=60 usage_chunks=1 done=True"),
        ("done=True", "done=False"),
    ],
)
def test_a_probe_that_answers_otherwise_is_seen(sent: str, instead: str) -> None:
    assert sent in DIRECT
    assert module("gateway_probe").compare(DIRECT, DIRECT.replace(sent, instead)).different


def test_what_is_missing_is_said_with_its_cure(tmp_path: Path) -> None:
    words = [sys.executable, str(BENCHMARKS / "gateway.py"), "--bench", str(tmp_path), "--quick"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--bench DIR" in done.stderr


def test_every_benchmark_is_found_and_no_shared_module() -> None:
    assert {"gateway", "soak"} <= set(module("all").benchmarks())
    assert not {"all", "report", "gateway_load", "soak_house"} & set(module("all").benchmarks())


def test_the_soaks_report_has_the_shape(tmp_path: Path) -> None:
    words = [sys.executable, str(BENCHMARKS / "soak.py"), "--requests", "60", "--streams", "20"]
    done = subprocess.run([*words, "--json", str(tmp_path / "soak.json")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "soak.json").read_text())
    well_shaped(written)
    holds = {row["metric"]: row["holds"] for row in written["rows"] if "holds" in row}
    assert {name for name, held in holds.items() if not held} <= {"rss_growth_kb_per_1k", "rss_growth_kb_per_1k_http"}


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("results/*.json")), ids=lambda path: path.name)
def test_committed_results_have_the_shape(path: Path) -> None:
    well_shaped(json.loads(path.read_text()))


def test_the_commit_is_that_of_the_checkout_and_none_where_the_package_only_lies_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab.gateway.commands import report

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    monkeypatch.setattr(report, "HERE", tmp_path / "report.py")
    (tmp_path / "report.py").write_text("")
    assert report.commit() == ""
    git("init", "-q")
    (tmp_path / "other").write_text("")
    git("add", "other")
    git("-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-q", "-m", "another project")
    assert report.commit() == ""
    git("add", "report.py")
    git("-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-q", "-m", "ours")
    assert re.fullmatch(r"[0-9a-f]{7,}", report.commit())
    (tmp_path / "report.py").write_text("changed")
    assert re.fullmatch(r"[0-9a-f]{7,}-dirty", report.commit())
