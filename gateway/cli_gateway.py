"""What the gateway's own commands take: serve, check, explain, lengths, keys, demo. Each imports what it does."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .cli_options import add_config, add_log_level, command, group

if TYPE_CHECKING:
    from .cli_options import Commands

_EXPLAIN_EPILOG = """examples:
  trimtab explain request.json -c trimtab.yaml --tenant acme
  trimtab explain request.json --full | less      every word of what would change
  trimtab explain request.json --json | jq .tokens_after
  curl -s https://example.com/request.json | trimtab explain - --tenant acme

a request is what a client would POST:
  {"model": "auto", "messages": [{"role": "user", "content": "..."}], "trimtab": {"query": "..."}}

exit status: 0 explained; 1 the configuration or the request is wrong; 2 the command line is, or the tenant unknown
"""


def add_to(commands: Commands) -> None:
    _add_serve(commands)
    _add_check(commands)
    _add_explain(commands)
    _add_lengths(commands)
    _add_keys(commands)
    _add_demo(commands)


def _add_serve(commands: Commands) -> None:
    serve = command(commands, "serve", _serve, help="run the gateway", description="Run the gateway.")
    add_config(serve)
    serve.add_argument("--host", help="address to listen on (default: the file's, else 127.0.0.1)")
    serve.add_argument(
        "--port", type=int, help="port to listen on, 0 for any free one (default: the file's, else 4000)"
    )
    serve.add_argument("--workers", type=int, help="processes that share the port (default: 1)")
    serve.add_argument("--ledger", type=Path, metavar="FILE", help="the SQLite file that receipts go to")
    add_log_level(serve)
    serve.add_argument("--fd", type=int, help=argparse.SUPPRESS)


def _add_check(commands: Commands) -> None:
    check = command(
        commands,
        "check",
        _check,
        help="check a configuration file",
        description="Check a configuration file; every finding names its line.",
    )
    check.add_argument("file", type=Path, metavar="FILE", help="ours or LiteLLM's")


def _add_explain(commands: Commands) -> None:
    explain = command(
        commands,
        "explain",
        _explain,
        help="show what would be done to a request",
        description="Show what every stage would do to a request, and why: a dry run. Nothing is sent to a model that\n"
        "answers, nothing is counted, nothing is kept. Removed text is red, added text is green; without\n"
        "colours they are [-removed-] and {+added+}.",
        examples=_EXPLAIN_EPILOG,
    )
    explain.add_argument(
        "request", metavar="REQUEST", help="a file with a request's JSON body, or - for standard input"
    )
    explain.add_argument(
        "-t", "--tenant", metavar="NAME", help="whose policy applies (may be left out if the file has one tenant)"
    )
    add_config(explain)
    explain.add_argument(
        "--protocol",
        choices=("chat", "completions", "messages", "responses"),
        help="what the request is (default: seen from its fields); messages is Anthropic's",
    )
    explain.add_argument("--full", action="store_true", help="leave nothing out, however long")
    explain.add_argument("--json", action="store_true", help="print JSON: the stages' lines, and the request as sent")


def _add_lengths(commands: Commands) -> None:
    lengths = command(
        commands,
        "lengths",
        _lengths,
        help="show what was learnt of answers' lengths",
        description="Show what a gateway has learnt of its answers' lengths, by tenant, model and route, and what\n"
        "hints for shorter answers do to them. It reads the file beside the gateway's ledger, at most a minute old.",
    )
    add_config(lengths)
    lengths.add_argument("-t", "--tenant", metavar="NAME", help="this tenant's only")
    lengths.add_argument("--json", action="store_true", help="print JSON")


def _add_keys(commands: Commands) -> None:
    keys = group(commands, "keys", "make and hash keys")
    new = command(
        keys,
        "new",
        _keys_new,
        help="make a key for a tenant",
        description="Make a key. It is shown once; only its hash goes into the file.",
    )
    new.add_argument("tenant", metavar="TENANT", help="whose key it is, for the line to paste")
    command(
        keys,
        "hash",
        _keys_hash,
        help="hash a key read from standard input",
        description="Hash a key that you have; it is read from standard input, to stay out of the shell's history.",
    )


def _add_demo(commands: Commands) -> None:
    demo = command(commands, "demo", _demo, help="send a few requests and show their receipts")
    demo.add_argument("--url", help="a running gateway (default: start one for the demo)")
    demo.add_argument(
        "--key",
        default=os.environ.get("TRIMTAB_KEY", "local"),
        help="the API key to use (default: $TRIMTAB_KEY, else local)",
    )
    demo.add_argument("--model", default="auto", help="the model to ask for (default: auto)")


def _serve(args: argparse.Namespace) -> int:
    from .commands import serve

    return serve.run(args)


def _check(args: argparse.Namespace) -> int:
    from .commands import check

    return check.run(args.file)


def _explain(args: argparse.Namespace) -> int:
    from .commands import explain

    return explain.run(args)


def _lengths(args: argparse.Namespace) -> int:
    from .commands import lengths

    return lengths.run(args)


def _keys_new(args: argparse.Namespace) -> int:
    from .commands import keys

    return keys.new(args.tenant)


def _keys_hash(args: argparse.Namespace) -> int:
    from .commands import keys

    return keys.from_stdin()


def _demo(args: argparse.Namespace) -> int:
    from .commands import demo

    return demo.run(args.url, args.key, args.model)
