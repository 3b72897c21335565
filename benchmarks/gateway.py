"""trimtab under the load that every gateway gets, beside the least a Python gateway can cost, and LiteLLM.

    python benchmarks/gateway.py [--bench DIR] [--peers DIR] [--json OUT] [--quick] [--secs N] [--runs N]

trimtab runs with one worker, keys, limits, prices, receipts and ledger on, and no optimisation. CPU is compared in
yards: the CPU time of 1,000 requests over that of a fixed piece of Python at the same moment, which cancels much of
what other work does to a shared machine. docs/benchmarks.md says what each row means.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway_load import DIRECT, FLOOR, LITELLM, OURS, CannotRun, Setting, check, find_peers, load
from gateway_probe import Probes, probe
from report import Report, Row, arguments, at_least, at_most, screen, tidy
from rich.table import Table

SHARED = Path(__file__).resolve().parent.parent.parent / "shared/bench/gateway"
CASES = ("chat_c1", "chat_c32", "chat_c128", "big48k_c8", "stream_c1", "stream_c32", "paced10ms_c64")
Results = dict[str, Any]


def main() -> int:
    options = _options()
    seconds, runs = (1, 1) if options.quick else (options.secs, options.runs)
    skip = ("chat_c128", "big48k_c8", "paced10ms_c64") if options.quick else ()
    try:
        bench = check(options.bench or (SHARED if SHARED.is_dir() else None))
        peers = None if options.quick else find_peers(options.peers)
        with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as scratch:
            setting = Setting(bench, peers, Path(scratch))
            quiet_s = 0 if options.quick else options.quiet
            results = load(setting, runs=runs, seconds=seconds, seed=options.seed, skip=skip, quiet_s=quiet_s)
            probes = probe(setting)
    except CannotRun as e:
        print(f"benchmarks/gateway.py: {e}", file=sys.stderr)
        return 2
    rows = [*promised(results), *probed(probes)]
    report = Report("gateway", rows, options.seed, [*notes(peers), *differences(probes)], measured(results))
    console = screen()
    console.print(overview(results))
    report.publish(options.json, console)
    return 0


def _options() -> Any:
    parser = arguments(__doc__)
    parser.add_argument("--bench", type=Path, metavar="DIR", help="the shared load: bench.py, probe.py, targets.json")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where LiteLLM is (default: $PEERS)")
    parser.add_argument("--secs", type=float, default=8, help="seconds a case (default: 8)")
    parser.add_argument("--runs", type=int, default=3, help="runs, each in an order of its own (default: 3)")
    parser.add_argument(
        "--quiet", type=float, default=30, metavar="S", help="longest wait for a quiet machine before a case"
    )
    return parser.parse_args()


def promised(results: Results) -> list[Row]:
    """The figures with a bar, and what belongs to them."""
    rows = [
        at_most("cpu_vs_floor_chat", **ratio(results, OURS, FLOOR, "chat_c32"), bar=3.0),
        at_most("cpu_vs_floor_stream", **ratio(results, OURS, FLOOR, "stream_c32"), bar=2.0),
        at_most("cpu_vs_floor_stream_c1", **ratio(results, OURS, FLOOR, "stream_c1"), bar=2.0),
    ]
    if LITELLM in results:
        rows += [
            at_least("cpu_vs_litellm_chat", **ratio(results, LITELLM, OURS, "chat_c32"), bar=15.0),
            at_least("cpu_vs_litellm_stream", **ratio(results, LITELLM, OURS, "stream_c32"), bar=15.0),
        ]
    named = ("chat_c32", "stream_c32", "stream_c1")
    for case in (c for c in CASES if c not in named and c in results[OURS]["runs"]):
        rows.append(Row(f"cpu_vs_floor_{case}", **ratio(results, OURS, FLOOR, case)))
    return [*rows, *latency(results), *footprint(results)]


def ratio(results: Results, above: str, below: str, case: str) -> dict[str, Any]:
    """The CPU of one system over another's in a case: of the medians, with the lowest and highest of single runs."""
    top, bottom = values(results, above, case, "cpu_yards_per_1k"), values(results, below, case, "cpu_yards_per_1k")
    return {
        "value": statistics.median(top) / statistics.median(bottom),
        "unit": "times",
        "n": answered(results, OURS, case),
        "interval": spread([a / b for a, b in zip(top, bottom, strict=True)]),
    }


def latency(results: Results) -> list[Row]:
    """What a lone client waits longer than without a gateway, and longer than with the least a Python one can be."""
    rows = []
    for quantile in ("p50", "p99"):
        name = f"added_{quantile}_ms"
        direct, floor = (added(results, other, f"{quantile}_ms") for other in (DIRECT, FLOOR))
        rows += [at_most(name, **direct, bar=1.0) if quantile == "p50" else Row(name, **direct)]
        rows.append(Row(f"{name}_over_floor", **floor))
        if LITELLM in results:
            rows.append(Row(name, **added(results, DIRECT, f"{quantile}_ms", LITELLM), system=LITELLM))
    return rows


def added(results: Results, other: str, key: str, system: str = OURS) -> dict[str, Any]:
    ours, theirs = values(results, system, "chat_c1", key), values(results, other, "chat_c1", key)
    return {
        "value": statistics.median(ours) - statistics.median(theirs),
        "unit": "ms",
        "n": answered(results, system, "chat_c1"),
        "interval": spread([a - b for a, b in zip(ours, theirs, strict=True)]),
    }


def footprint(results: Results) -> list[Row]:
    rows = []
    bars = {"rss_idle_mb": 120.0, "ready_s": 1.5}
    for metric, key in (
        ("rss_idle_mb", "rss_idle_mb"),
        ("rss_loaded_mb", "rss_after_mb"),
        ("ready_s", "cold_starts_s"),
    ):
        for system in (s for s in (OURS, FLOOR, LITELLM) if s in results):
            row = Row.over(metric, results[system][key], unit="s" if metric == "ready_s" else "MB", system=system)
            if system == OURS and metric in bars:
                row = replace(row, bar=bars[metric], holds=row.value <= bars[metric])
            rows.append(row)
    return rows


def probed(probes: Probes) -> list[Row]:
    """A disconnect that never reached the upstream shows as the four seconds that the probe waits for it."""
    rows = [at_most("probe_differences", len(probes.different), 0, n=probes.same + len(probes.different))]
    rows.append(Row("probe_own_answers", len(probes.own), n=len(probes.own)))
    for mode, seconds in probes.aborts.items():
        waited = 4.0 if seconds is None else seconds
        rows.append(at_most(f"disconnect_abort_s_{mode}", waited, 0.5, unit="s"))
    return rows


def measured(results: Results) -> list[Row]:
    """Every case of every system, as it came."""
    rows = []
    for case, system in present(results):
        n = answered(results, system, case)
        for key in (k for k in UNITS if k in results[system]["runs"][case][0]):
            found = values(results, system, case, key)
            rows.append(Row.over(f"{key}_{case}", found, unit=UNITS[key], n=n, system=system))
        rows.append(Row(f"errors_{case}", failed(results, system, case), n=n, system=system))
    return rows


def overview(results: Results) -> Table:
    """The same for people: one line a case and system."""
    table = Table(title="medians over the runs")
    for name in ("case", "system"):
        table.add_column(name, no_wrap=True)
    for name in ("yards/1k", "CPU ms", "1/s", "p50 ms", "p99 ms", "errors", "others' cores"):
        table.add_column(name, justify="right", no_wrap=True)
    for case, system in present(results):
        cells = [_median(results, system, case, *keys) for keys in _COLUMNS]
        table.add_row(case, system, *cells[:-1], str(failed(results, system, case)), cells[-1])
    return table


_COLUMNS = (
    ("cpu_yards_per_1k",),
    ("cpu_ms_per_req",),
    ("rps", "sps"),
    ("p50_ms", "total_p50_ms"),
    ("p99_ms", "total_p99_ms"),
    ("others_cores",),
)


def _median(results: Results, system: str, case: str, *keys: str) -> str:
    run = results[system]["runs"][case][0]
    key = next(key for key in keys if key in run)
    return f"{tidy(statistics.median(values(results, system, case, key))):g}"


def present(results: Results) -> list[tuple[str, str]]:
    """The cases and systems that were measured."""
    systems = [system for system in (DIRECT, FLOOR, OURS, LITELLM) if system in results]
    return [(case, system) for case in CASES for system in systems if case in results[system]["runs"]]


UNITS = {
    "cpu_yards_per_1k": "yards",
    "cpu_ms_per_req": "ms",
    "rps": "1/s",
    "sps": "1/s",
    "p50_ms": "ms",
    "p99_ms": "ms",
    "ttfc_p50_ms": "ms",
    "total_p50_ms": "ms",
    "total_p99_ms": "ms",
    "others_cores": "cores",
}


def spread(values: list[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if len(values) > 1 else None


def values(results: Results, system: str, case: str, key: str) -> list[float]:
    """One figure of every run."""
    return [run[key] for run in results[system]["runs"][case]]


def answered(results: Results, system: str, case: str) -> int:
    return sum(run.get("n", run.get("streams", 0)) for run in results[system]["runs"][case])


def failed(results: Results, system: str, case: str) -> int:
    runs = results[system]["runs"][case]
    return sum(run.get(key, 0) for run in runs for key in ("non2xx", "sockerr", "errors"))


def notes(peers: Path | None) -> list[str]:
    """On which interpreters the systems ran."""
    version = f"Python {sys.version.split()[0]}"
    lines = [f"trimtab, {FLOOR}, the upstream and the load ran on one {version}, with uvloop, httptools and aiohttp."]
    if peers is None:
        return [*lines, "LiteLLM was not measured."]
    words = [str(peers / "litellm/bin/python"), "-c", "import importlib.metadata as m; print(m.version('litellm'))"]
    litellm = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return [*lines, f"LiteLLM {litellm} ran in an environment of its own, configured as the shared load has it."]


def differences(probes: Probes) -> list[str]:
    lines = [f"answered by the gateway itself, as it should: {'; '.join(probes.own)}"] if probes.own else []
    return [*lines, *(f"DIFFERENT: {line}" for line in probes.different)]


if __name__ == "__main__":
    sys.exit(main())
