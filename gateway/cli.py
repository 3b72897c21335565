"""The command line: `trimtab serve`, `check`, `explain`, `route`, `replay`, `lengths`, `engine`, `bench` and others.

Nothing heavy is imported until the command that needs it runs, so `trimtab --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys

from .. import __version__
from . import cli_engine, cli_gateway, cli_routing

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_EPILOG = """examples:
  trimtab serve                          the small bundled model on http://127.0.0.1:4000, no keys, this machine only
  trimtab serve -c trimtab.yaml          models, routes, tenants and policies from a file; a change is picked up live
  trimtab check trimtab.yaml             everything wrong with the file, with line numbers (a LiteLLM file is fine too)
  trimtab explain request.json           what every stage would do to a request, as a coloured diff; nothing is sent
  trimtab route fit labels.jsonl         a router for your two models, from your own labelled prompts
  trimtab keys new acme                  a key for the tenant 'acme', and the line for the file
  trimtab demo                           a few requests through the openai client, and what each one cost
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status is 0 when it worked, 1 when it did not, 2 when the command line is wrong."""
    args = _parser().parse_args(argv)
    if not hasattr(args, "run"):
        _parser().print_help()
        return 2
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _forget_output()
        return 1
    except OSError as e:
        if e.errno not in _FULL:
            raise
        _forget_output()
        print(f"trimtab: cannot write: {e.strerror}; make room, or write elsewhere", file=sys.stderr)
        return 1
    return status


def _forget_output() -> None:
    """Let what could not be written go nowhere, or Python would try once more as it ends, and complain again."""
    with contextlib.suppress(OSError, ValueError):  # standard output is no file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trimtab",
        description="An OpenAI-compatible gateway that makes LLM requests smaller, cheaper or unnecessary.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trimtab {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for room in (cli_gateway, cli_routing, cli_engine):
        room.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
