"""The one shape of every benchmark's output: rows for a machine in a JSON file, the same rows in a table for people.

A row is one figure of one system. A rival that was measured in the same run is a row with its own `system`; where a
bar was promised, `holds` says whether it was met. Knows nothing of what is measured, or how. `trimtab bench` writes
this shape, and so do the scripts in benchmarks/.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ... import __version__

HERE = Path(__file__).resolve()


@dataclass(frozen=True)
class Row:
    """One figure. `interval` is the lowest and highest of the runs, `n` how many samples stand behind the value."""

    metric: str
    value: float
    unit: str = ""
    n: int = 1
    interval: tuple[float, float] | None = None
    bar: float | None = None
    holds: bool | None = None
    system: str = "trimtab"

    @classmethod
    def over(cls, metric: str, values: Sequence[float], **more: Any) -> Row:
        """The median of several runs, with the lowest and highest of them."""
        spread = (min(values), max(values)) if len(values) > 1 else None
        return cls(metric, statistics.median(values), **{"n": len(values), "interval": spread, **more})

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"metric": self.metric, "value": tidy(self.value), "unit": self.unit, "n": self.n}
        if self.interval is not None:
            out["interval"] = [tidy(edge) for edge in self.interval]
        if self.bar is not None:
            out |= {"bar": self.bar, "holds": self.holds}
        return {**out, "system": self.system}


def at_most(metric: str, value: float, bar: float, **more: Any) -> Row:
    """A row whose bar is a ceiling."""
    return Row(metric, value, bar=bar, holds=value <= bar, **more)


def at_least(metric: str, value: float, bar: float, **more: Any) -> Row:
    """A row whose bar is a floor."""
    return Row(metric, value, bar=bar, holds=value >= bar, **more)


@dataclass
class Report:
    """What one benchmark found; `notes` are shown and written, and explain rows that need words.

    `details` are rows for the file only: too many for a table that people read.
    """

    benchmark: str
    rows: list[Row]
    seed: int = 0
    notes: list[str] = field(default_factory=list)
    details: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "version": __version__,
            "commit": commit(),
            "machine": machine(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": self.seed,
            "rows": [row.to_json() for row in (*self.rows, *self.details)],
            **({"notes": self.notes} if self.notes else {}),
        }

    def publish(self, path: Path | None, console: Console | None = None) -> None:
        """Show the table, and write the file if there is to be one."""
        show(self, console or screen())
        if path is not None:
            self.write(path)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")


def screen() -> Console:
    """Where tables go; wide enough for them where it is a file and not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def show(report: Report, console: Console) -> None:
    table = Table(title=f"benchmark {report.benchmark}")
    for name in ("metric", "system"):
        table.add_column(name, no_wrap=True)
    for name in ("value", "unit", "over the runs", "n", "bar"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("holds")
    for row in report.rows:
        table.add_row(*_cells(row), style="bold" if row.bar is not None else None)
    console.print(table)
    for note in report.notes:
        console.print(note, markup=False, highlight=False)


def _cells(row: Row) -> Sequence[str]:
    spread = "" if row.interval is None else f"{tidy(row.interval[0]):g} to {tidy(row.interval[1]):g}"
    holds = {None: "", True: "[green]yes[/]", False: "[red]NO[/]"}[row.holds]
    bar = "" if row.bar is None else f"{row.bar:g}"
    return row.metric, row.system, f"{tidy(row.value):g}", row.unit, spread, str(row.n), bar, holds


def tidy(value: float) -> float:
    """Four significant digits; a whole number stays whole."""
    return value if isinstance(value, int) or value == int(value) else float(f"{value:.4g}")


def commit() -> str:
    """The commit that was measured, marked when files had changed since; empty where this file is in no checkout: an
    installed package may lie inside another project's."""
    try:
        _git("ls-files", "--error-unmatch", HERE.name)
        return _git("describe", "--always", "--dirty", "--exclude", "*")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*words: str) -> str:
    command = ["git", *words]  # these words are ours, and which git is the operator's choice
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)  # noqa: S603
    return done.stdout.strip()


def machine() -> str:
    """The processor, how much of it we have, and the Python: what figures depend on, and nothing that names a host."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {cores} cores, {platform.system()} {platform.release().split('-')[0]}, {python}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
