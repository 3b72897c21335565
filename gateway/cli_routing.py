"""What the commands of routing take: route fit, route eval, replay. Each imports what it does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .cli_options import command, group

if TYPE_CHECKING:
    from .cli_options import Commands

_ROUTE_EPILOG = """a line of LOG.jsonl (also .gz) is one prompt and how good each model's answer to it was, 0 to 1:
  {"prompt": "Why is the sky blue?", "good": {"small": 1, "large": 1}}
  {"messages": [{"role": "user", "content": "..."}], "good": {"small": 0, "large": 1}, "answers": {"small": "..."}}
with the small model's answers in every row, the cascade is fitted too. A few hundred prompts are a beginning.
"""


_FIT_EPILOG = (
    """examples:
  trimtab route fit labels.jsonl --out support.json --plot support.png
  trimtab route fit march.jsonl april.jsonl --small llama-8b --large gpt-4.1 --name "support, spring"

"""
    + _ROUTE_EPILOG
)


_EVAL_EPILOG = (
    """examples:
  trimtab route eval --data may.jsonl --calibration support.json --plot may.png
  trimtab route eval --data may.jsonl                  what the calibration that ships is worth on your prompts

"""
    + _ROUTE_EPILOG
)


_REPLAY_EPILOG = """examples:
  trimtab replay ledger.sqlite --tenant acme --policy policies.yaml --plots out/
  trimtab replay labels.jsonl --policy policies.yaml --price small=0.05/0.20 --price large=2/0.5/8
  trimtab replay labels.jsonl --policy trimtab.yaml -c trimtab.yaml --calibration support.json

policies.yaml is one policy, written as in a tenant's `route:`, or several by name:
  careful: {floor: 0.98, audit: 0.05}
  third:   {large_share: 0.33}
  budget:  {usd_per_day: 5}

LOG is a ledger (what was thought of each prompt is on its receipts), or labelled prompts as `trimtab route fit` takes
them, perhaps with "at" (seconds since 1970), "tokens" {"prompt": 210, "small": 95, "large": 130}, "session", "model".
"""


def add_to(commands: Commands) -> None:
    _add_route(commands)
    _add_replay(commands)


def _add_route(commands: Commands) -> None:
    route = group(commands, "route", "fit and judge a router's calibration")
    fit = command(
        route,
        "fit",
        _route_fit,
        help="fit a calibration to labelled prompts",
        description="Fit a calibration for a pair of models to labelled prompts, and write it as JSON that\n"
        "a person can review: what it is worth, cross-validated, stands at the top of the file.",
        examples=_FIT_EPILOG,
    )
    fit.add_argument("log", type=Path, nargs="+", metavar="LOG.jsonl", help="files of labelled prompts")
    fit.add_argument(
        "-o", "--out", type=Path, default=Path("calibration.json"), metavar="FILE", help="default: calibration.json"
    )
    fit.add_argument("--name", help="what the calibration is called on receipts (default: the pair's names)")
    _add_pair(fit)
    judged = command(
        route,
        "eval",
        _route_eval,
        help="judge a calibration on labelled prompts",
        description="Judge a calibration on labelled prompts. Those that it was fitted on are left out.",
        examples=_EVAL_EPILOG,
    )
    judged.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="files of labelled prompts")
    judged.add_argument("--calibration", type=Path, metavar="FILE", help="default: the one that ships")
    _add_pair(judged)


def _add_replay(commands: Commands) -> None:
    replay = command(
        commands,
        "replay",
        _replay,
        help="what a routing policy would have done to recorded traffic",
        description="What routing policies would have done to recorded traffic: money, share, quality.",
        examples=_REPLAY_EPILOG,
    )
    replay.add_argument("log", type=Path, nargs="+", metavar="LOG", help="a ledger, or files of labelled prompts")
    replay.add_argument("--policy", type=Path, required=True, metavar="FILE", help="YAML: a policy, or several by name")
    replay.add_argument("-c", "--config", type=Path, metavar="FILE", help="a configuration to take models' prices from")
    replay.add_argument(
        "--price", type=_price, action="append", default=[], metavar="NAME=IN/OUT", help="US dollars a million tokens"
    )
    replay.add_argument("--calibration", type=Path, metavar="FILE", help="for labelled prompts (default: what ships)")
    _add_names(replay)
    replay.add_argument("-t", "--tenant", metavar="NAME", help="of a ledger, this tenant's requests only")
    replay.add_argument("--plots", type=Path, metavar="FOLDER", help="draw money.png, share.png and quality.png there")
    replay.add_argument("--json", action="store_true", help="print JSON")
    replay.add_argument("--seed", type=int, default=0, help="of audits and intervals (default: 0)")


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--small", metavar="NAME", help="the small model's name in the labels (default: small)")
    parser.add_argument("--large", metavar="NAME", help="the large model's (default: large)")


def _add_pair(parser: argparse.ArgumentParser) -> None:
    _add_names(parser)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw quality over the large model's share")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap's draws (default: 0)")


def _price(text: str) -> tuple[str, object]:
    from .commands.recorded import price

    try:
        return price(text)
    except (ValueError, ArithmeticError) as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def _route_fit(args: argparse.Namespace) -> int:
    from .commands import route

    return route.fit(args)


def _route_eval(args: argparse.Namespace) -> int:
    from .commands import route

    return route.evaluate(args)


def _replay(args: argparse.Namespace) -> int:
    from .commands import replay

    return replay.run(args)
