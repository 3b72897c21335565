"""What every benchmark has: its options, and the one shape of its output, which `trimtab bench` writes too."""

from __future__ import annotations

import argparse
from pathlib import Path

from trimtab.gateway.commands.report import Report, Row, at_least, at_most, commit, machine, screen, tidy

__all__ = ["Report", "Row", "arguments", "at_least", "at_most", "commit", "machine", "screen", "tidy"]


def arguments(doc: str | None, data: str = argparse.SUPPRESS) -> argparse.ArgumentParser:
    """The options that every benchmark has. `data` says what --data is read for; many need none, and take it."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows there as well")
    parser.add_argument("--quick", action="store_true", help="end within a minute; the figures are rough")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="FILE", help=data)
    parser.add_argument("--train", type=Path, nargs="+", default=[], metavar="FILE", help=argparse.SUPPRESS)
    return parser
