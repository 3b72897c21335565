"""Every kernel checked, then timed beside its peers, as a share of what this device can do.

    python benchmarks/kernels/run.py --all --json OUT          on a GPU: all cases, about ten minutes
    python benchmarks/kernels/run.py --only 'decode/b64' ...   cases whose name holds one of these
    python benchmarks/kernels/run.py --rehearse --all          in Triton's interpreter at small sizes: right or wrong
    python benchmarks/kernels/run.py --list

A case is first checked against float64, ours and its peers: what is wrong is not timed. Then all of its systems run in
rounds of random order, over input sets larger than the L2 cache (timing.py). `of_copy` and `of_matmul` are shares of
the copy bandwidth and matmul rate measured in the same run, `of_bound` of the larger of the two. Exit status 1 when one
of our kernels failed or was wrong; whether a bar was met is in the rows. docs/kernels.md holds the predictions.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
OURS = "trimtab"
ROUNDS = 5


def options(arguments: list[str]) -> argparse.Namespace:
    from report import arguments as shared

    parser = shared(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--all", action="store_true", help="every case")
    what.add_argument("--only", nargs="+", metavar="TEXT", help="cases whose name holds one of these")
    what.add_argument("--list", action="store_true", help="name the cases, run none")
    parser.add_argument("--rehearse", action="store_true", help="small sizes on the CPU, in Triton's interpreter")
    parser.add_argument("--plot", type=Path, metavar="OUT.svg", help="draw the shares; needs matplotlib")
    chosen = parser.parse_args(arguments)
    if chosen.plot and (chosen.rehearse or chosen.list):
        parser.error("--plot: nothing is timed, so there is nothing to draw")
    return chosen


def topics() -> list[ModuleType]:
    """The files of this folder that have cases."""
    files = sorted(path for path in HERE.glob("*.py") if "\ndef cases(" in path.read_text())
    return [importlib.import_module(path.stem) for path in files]


def chosen_cases(found: list[ModuleType], rehearse: bool, only: list[str] | None) -> Iterator[Any]:
    names: set[str] = set()
    for topic in found:
        for case in topic.cases(rehearse):
            if case.name in names:
                raise SystemExit(f"two cases are named {case.name}")
            names.add(case.name)
            if only is None or any(text in case.name for text in only):
                yield case


def prepared(case: Any, inputs: list[Mapping[str, Any]], notes: list[str]) -> dict[str, list[Any]]:
    """Each system's calls, one for each input set; a peer that this machine lacks is noted and left out."""
    from case import Absent

    calls: dict[str, list[Any]] = {}
    for system, prepare in case.systems.items():
        try:
            calls[system] = [prepare(one) for one in inputs]
        except Absent as why:
            notes.append(f"{case.name}: no {system}: {why}")
    return calls


def checked(case: Any, inputs: list[Any], calls: dict[str, list[Any]], rows: list[Any], notes: list[str]) -> bool:
    """Adds each system's error to the rows; drops the peers that fail or are wrong. Whether ours is right."""
    from report import at_most

    for system in list(calls):
        try:
            error = case.check(inputs[0], calls[system][0]())
        except Exception as why:  # a peer's own failure is the peer's, and ours must not end the run
            notes.append(f"{case.name}: {system} failed: {type(why).__name__}: {str(why)[:200]}")
            error = float("inf")
        if error <= case.tolerance or system == OURS:
            rows.append(at_most(f"{case.name}/max_error", min(error, 1e30), case.tolerance, system=system))
        if not error <= case.tolerance:
            notes.append(f"{case.name}: {system} is wrong (error {error:.3g}) and is not timed")
            del calls[system]
    return OURS in calls


def rehearse(case: Any, seed: int, rows: list[Any], notes: list[str]) -> bool:
    import torch

    inputs = [case.make(torch.device("cpu"), seed)]
    return checked(case, inputs, prepared(case, inputs, notes), rows, notes)


def timed(case: Any, limits: Any, rounds: int, seed: int, rows: list[Any], notes: list[str]) -> float | None:
    """Checks and times one case; our milliseconds, or None when ours was wrong."""
    import torch
    from timing import Recorded, race, sets_needed

    device = torch.device("cuda")
    inputs = [case.make(device, seed)]
    calls = prepared(case, inputs, notes)
    if not checked(case, inputs, calls, rows, notes):
        return None
    more = [case.make(device, seed + n) for n in range(1, sets_needed(device, case.bytes))]
    thunks = {system: first + [case.systems[system](one) for one in more] for system, first in calls.items()}
    times = race({system: Recorded(each) for system, each in thunks.items()}, rounds, random.Random(seed))
    notes += [f"{case.name}: {system} was timed without a graph" for system, time in times.items() if time.eager]
    rows += figures(case, times, limits)
    return float(times[OURS].ms)


def figures(case: Any, times: Mapping[str, Any], limits: Any) -> list[Any]:
    """The rows of one case: every system's time, and our rates, shares and speed-ups with their bars."""
    from report import Row

    ours = times[OURS].ms
    found = {
        "gbps": (case.bytes / ours * 1e-6, "GB/s"),
        "tflops": (case.flops / ours * 1e-9, "TFLOP/s"),
        "of_copy": (case.bytes / ours * 1e3 / limits.copy, "share"),
        "of_matmul": (case.flops / ours * 1e3 / limits.matmul, "share"),
        "of_bound": (limits.bound_ms(case.bytes, case.flops) / ours, "share"),
        **{f"vs_{name}": (time.ms / ours, "times") for name, time in times.items() if name != OURS},
    }
    rows = [Row.over(f"{case.name}/ms", time.rounds, unit="ms", system=name) for name, time in times.items()]
    if "ms" in case.bars:
        limit = case.bars["ms"]
        ours_at = list(times).index(OURS)
        rows[ours_at] = replace(rows[ours_at], bar=limit.must, holds=limit.holds(ours))
    for metric, (value, unit) in found.items():
        if value or metric in case.bars:
            rows.append(held(f"{case.name}/{metric}", value, unit, case.bars.get(metric)))
    return rows


def held(metric: str, value: float, unit: str, bar: Any) -> Any:
    from report import Row

    if bar is None:
        return Row(metric, value, unit)
    return Row(metric, value, unit, bar=bar.must, holds=bar.holds(value))


def ratio_rows(found: list[ModuleType], times: Mapping[str, float]) -> list[Any]:
    wanted = [ratio for topic in found if hasattr(topic, "ratios") for ratio in topic.ratios()]
    both = [ratio for ratio in wanted if ratio.over in times and ratio.under in times]
    return [held(f"{r.under}/{r.metric}", times[r.over] / times[r.under], "times", r.bar) for r in both]


def check_device(rehearsing: bool) -> str | None:
    """Why nothing can run here, or None. In a rehearsal this sets up the interpreter."""
    if rehearsing:
        os.environ["TRITON_INTERPRET"] = "1"
        os.environ["TRIMTAB_KERNELS"] = "triton"
    try:
        import torch

        importlib.import_module("triton")
    except ImportError as missing:
        return f"{missing.name} is not installed"
    if rehearsing:
        from trimtab.kernels import interpreter

        interpreter.mend()
        torch.set_num_threads(1)
        return None
    return None if torch.cuda.is_available() else "no CUDA device: try --rehearse, which needs none"


def main(arguments: list[str]) -> int:
    chosen = options(arguments)
    problem = None if chosen.list else check_device(chosen.rehearse)
    if problem:
        print(problem, file=sys.stderr)
        return 2
    found = topics()
    cases = list(chosen_cases(found, chosen.rehearse, chosen.only))
    if chosen.list:
        print("\n".join(case.name for case in cases))
        return 0
    if not cases:
        print(f"no case's name holds any of: {', '.join(chosen.only)}", file=sys.stderr)
        return 2
    report, right = (rehearsal if chosen.rehearse else measurement)(found, cases, chosen)
    report.publish(chosen.json)
    if chosen.plot:
        importlib.import_module("plot").draw(report, chosen.plot)
    return 0 if right else 1


def rehearsal(found: list[ModuleType], cases: list[Any], chosen: argparse.Namespace) -> tuple[Any, bool]:
    from report import Report

    rows: list[Any] = []
    notes = ["rehearsed in Triton's interpreter at small sizes: errors only, nothing was timed"]
    right = [rehearse(case, chosen.seed, rows, notes) for case in cases]
    return Report("kernels", rows, chosen.seed, notes), all(right)


def measurement(found: list[ModuleType], cases: list[Any], chosen: argparse.Namespace) -> tuple[Any, bool]:
    import torch
    from report import Report, Row
    from timing import ceilings

    limits = ceilings(torch.device("cuda"))
    rows = [Row("copy", limits.copy * 1e-9, "GB/s"), Row("matmul_bf16", limits.matmul * 1e-12, "TFLOP/s")]
    triton = importlib.import_module("triton")
    notes = [f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}"]
    times: dict[str, float] = {}
    for case in cases:
        print(case.name, flush=True)
        ms = timed(case, limits, 2 if chosen.quick else ROUNDS, chosen.seed, rows, notes)
        if ms is not None:
            times[case.name] = ms
        gc.collect()
        torch.cuda.empty_cache()
    rows += ratio_rows(found, times)
    return Report("kernels", rows, chosen.seed, notes), len(times) == len(cases)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
