"""`trimtab check FILE`: everything wrong with a configuration file at once, with the lines to mend."""

from __future__ import annotations

import sys
from pathlib import Path

from ..config_file import check_file


def run(path: Path) -> int:
    report = check_file(path)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for error in report.errors:
        print(f"error: {error}", file=sys.stderr)
    if report.errors:
        print(f"{path}: {_several(len(report.errors), 'error')}", file=sys.stderr)
        return 1
    print(f"{path}: good ({report.kind} file, {_several(len(report.warnings), 'warning')})")
    return 0


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
