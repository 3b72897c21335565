"""`trimtab lengths`: what a gateway has learnt of its answers' lengths, and what hints do to them.

It reads the file that the gateway keeps beside its ledger, up to a minute old while one runs. It holds no text.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from ...routing.length import Key, LengthPlanner
from ...routing.shape_effect import FEWEST, Effect
from ..config import default_config
from ..config_file import ConfigError, load_config
from ..planning import Planning, beside

_MIDDLE = "Tell me about it."  # says nothing about its answer: what is shown is the route's own level


def run(args: argparse.Namespace) -> int:
    """0: told, also where there is nothing yet; 1: the configuration is wrong."""
    try:
        config = default_config(os.environ) if args.config is None else load_config(args.config)
    except ConfigError as e:
        print(f"trimtab: {e}", file=sys.stderr)
        return 1
    planning = Planning(beside(config.ledger.path))
    planning.read()
    tenants = None if args.tenant is None else {args.tenant}
    told = {
        "object": "trimtab.lengths",
        "routes": _routes(planning.planner, tenants),
        "hints": _hints(planning, tenants),
    }
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        _show(told, Console(highlight=False))
    return 0


def _routes(planner: LengthPlanner, tenants: set[str] | None) -> list[dict[str, Any]]:
    basis = planner.basis(_MIDDLE)
    return [_route(planner, key, basis) for key in sorted(planner.keys()) if tenants is None or key.tenant in tenants]


def _route(planner: LengthPlanner, key: Key, basis: tuple[float, ...]) -> dict[str, Any]:
    told = planner.told(key, basis)
    quantiles = {name: round(getattr(told, name)) for name in ("p50", "p90", "p99", "p999")}
    return {"tenant": key.tenant, "model": key.model, "route": key.route, "answers": planner.seen(key), **quantiles}


def _hints(planning: Planning, tenants: set[str] | None) -> list[dict[str, Any]]:
    known = sorted(planning.effects.known.items())
    return [
        {"tenant": tenant, "style": style, **_effect(effect)}
        for (tenant, style), effect in known
        if tenants is None or tenant in tenants
    ]


def _effect(effect: Effect) -> dict[str, Any]:
    arms = {
        name: {
            "answers": tally.answers,
            "mean_tokens": round(tally.tokens / tally.answers, 1) if tally.answers else None,
            "wrong": tally.wrong,
            "right": tally.right,
        }
        for name, tally in (("hint", effect.hint), ("holdout", effect.holdout))
    }
    return {**arms, "change": None if effect.change is None else effect.change._asdict()}


def _show(told: dict[str, Any], console: Console) -> None:
    if not told["routes"] and not told["hints"]:
        console.print("nothing has been learnt yet")
        return
    table = _table(("tenant", "model", "route"), ("answers", "p50", "p90", "p99", "p99.9"))
    for row in told["routes"]:
        figures = (row[name] for name in ("answers", "p50", "p90", "p99", "p999"))
        table.add_row(row["tenant"], row["model"], row["route"] or "-", *map(str, figures))
    console.print(table)
    if not told["hints"]:
        return
    table = _table(("tenant", "hint"), ("hinted", "held out", "length", "95 %", "wrong of each"))
    for row in told["hints"]:
        table.add_row(row["tenant"], row["style"], *_figures(row))
    console.print()
    console.print(table)


def _table(names: tuple[str, ...], figures: tuple[str, ...]) -> Table:
    table = Table(*names, box=None)
    for name in figures:
        table.add_column(name, justify="right")
    return table


def _figures(row: dict[str, Any]) -> tuple[str, ...]:
    hint, holdout, change = row["hint"], row["holdout"], row["change"]
    arms = str(hint["answers"]), str(holdout["answers"])
    wrong = ", ".join(f"{arm['wrong']} of {arm['wrong'] + arm['right']}" for arm in (hint, holdout))
    if change is None:
        return *arms, f"needs {FEWEST} each", "", wrong
    return *arms, f"{change['change']:+.0%}", f"{change['low']:+.0%} to {change['high']:+.0%}", wrong
