"""What commands' parsers share: a command with its help, its groups, and the options that several have."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

LEVELS = ("debug", "info", "warning", "error")

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def group(commands: Commands, name: str, help: str) -> Commands:
    """A command that has commands of its own, of which one must be named."""
    return commands.add_parser(name, help=help).add_subparsers(title="commands", metavar="COMMAND", required=True)


def command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
    description: str | None = None,
    examples: str | None = None,
) -> argparse.ArgumentParser:
    """`run` returns the exit status. Lines of `description` and `examples` are shown as they are broken here."""
    made = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(run=run)
    return made


def count(text: str) -> int:
    """The type of an option that counts something, of which there is one at least."""
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 10 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def rate(text: str) -> float:
    """The type of an option that says how often something comes."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        default=_env_path("TRIMTAB_CONFIG", "CONFIG_FILE_PATH"),
        metavar="FILE",
        help="configuration file, ours or LiteLLM's (default: $TRIMTAB_CONFIG, else none: one local tenant)",
    )


def add_log_level(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log-level", default=_log_level(), choices=LEVELS, help="default: $TRIMTAB_LOG, else info")


def _log_level() -> str:
    level = os.environ.get("TRIMTAB_LOG", "info").lower()
    return level if level in LEVELS else "info"


def _env_path(*names: str) -> Path | None:
    return next((Path(os.environ[name]) for name in names if os.environ.get(name)), None)
