"""`trimtab replay LOG --policy FILE`: what policies would have done to recorded traffic, as a table and as pictures.

Beside the policies stand the small model for everything, the large one for everything, and what was done when it was
recorded, if the log says so.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from ...backends.registry import MissingExtra
from ...protocol.errors import TrimtabError
from ...protocol.exchange import Price
from ...routing.policy import RoutePolicy
from ...routing.replay import Outcome, always, as_recorded, replay
from ..config_file import ConfigError, load_config
from .plots import money_over_time, quality_over_money, share_over_time
from .prompts import Unusable, bar
from .recorded import Traffic, from_labels, from_ledger, is_ledger
from .route import calibration_of

_DRAWS = 200
_WINDOW = 200  # requests around a moment, for the share's picture
_LARGEST = 1 << 20  # bytes of a policy file


def run(args: argparse.Namespace) -> int:
    try:
        _run(args)
    except (Unusable, MissingExtra, ConfigError) as e:
        print(f"trimtab: {e}", file=sys.stderr)
        return 1
    except TrimtabError as e:
        print(f"trimtab: {e.message}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    named = policies(args.policy)
    traffic = _traffic(args)
    for note in traffic.notes:
        print(f"note: {note}", file=sys.stderr)
    outcomes = {name: _replayed(name, policy, traffic, args.seed) for name, policy in named.items()}
    outcomes |= _beside(traffic)
    told = {name: figures(outcome, traffic, args.seed) for name, outcome in outcomes.items()}
    if args.json:
        print(json.dumps({"requests": len(traffic.rows), "policies": told}, indent=2))
    else:
        _show(told, traffic, outcomes)
    if args.plots is not None:
        _draw(args.plots, outcomes, traffic)


def policies(path: Path) -> dict[str, RoutePolicy]:
    """One policy, several by name, or those of a configuration's tenants. Raises Unusable."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        written = yaml.safe_load(data[:_LARGEST].decode())
    except OSError as e:
        raise Unusable(f"{path} cannot be read: {e.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        raise Unusable(f"{path} is no YAML: {e}") from None
    if not isinstance(written, dict) or not written:
        raise Unusable(
            f"{path} holds no policy; a policy is written as in a tenant's `route:`, such as large_share: 0.3"
        )
    if isinstance(written.get("tenants"), dict):
        return {name: tenant.policy.route for name, tenant in load_config(path).tenants.items()}
    if (
        all(isinstance(value, dict) for value in written.values())
        and not written.keys() & RoutePolicy.model_fields.keys()
    ):
        return {str(name): _policy(path, value, f"{name}: ") for name, value in written.items()}
    return {path.stem: _policy(path, written, "")}


def _policy(path: Path, written: Mapping[str, Any], where: str) -> RoutePolicy:
    try:
        return RoutePolicy.model_validate(written)
    except ValidationError as e:
        fault = e.errors()[0]
        at = ".".join(str(part) for part in fault["loc"])
        raise Unusable(
            f"{path}: {where}{at + ': ' if at else ''}{fault['msg'].removeprefix('Value error, ')}"
        ) from None


def _traffic(args: argparse.Namespace) -> Traffic:
    prices: dict[str, Price] = _configured(args) | dict(args.price)
    if is_ledger(args.log[0]):
        if len(args.log) > 1:
            raise Unusable("one ledger at a time")
        return from_ledger(args.log[0], args.tenant, prices)
    if args.tenant is not None:
        raise Unusable("--tenant picks from a ledger; labelled prompts have no tenants")
    return from_labels(args.log, (args.small, args.large), prices, calibration_of(args.calibration))


def _configured(args: argparse.Namespace) -> dict[str, Price]:
    if args.config is None:
        return {}
    found = {name: model.resolved_price() for name, model in load_config(args.config).models.items()}
    return {name: price for name, price in found.items() if price.known}


def _replayed(name: str, policy: RoutePolicy, traffic: Traffic, seed: int) -> Outcome:
    outcome = Outcome()
    with bar() as progress:
        task = progress.add_task(f"replaying {name}", total=len(traffic.rows))
        for outcome in replay(traffic.rows, traffic.pair, policy, traffic.spread, seed):
            if len(outcome.at) % 50 == 0:
                progress.update(task, completed=len(outcome.at))
    return outcome


def _beside(traffic: Traffic) -> dict[str, Outcome]:
    pair = traffic.pair
    found = {
        f"all {pair.small}": always(traffic.rows, pair.small, pair),
        f"all {pair.large}": always(traffic.rows, pair.large, pair),
    }
    recorded = as_recorded(traffic.rows, pair)
    return found if recorded is None else {**found, "as recorded": recorded}


def figures(outcome: Outcome, traffic: Traffic, seed: int) -> dict[str, Any]:
    """Money in dollars. `quality`: share of good answers, with a 95 % bootstrap interval; `held`: of the large model's
    quality."""
    large = np.array([model == traffic.pair.large for model in outcome.models])
    quality = np.array(outcome.quality)
    best = np.array(always(traffic.rows, traffic.pair.large, traffic.pair).quality)
    known = np.isfinite(quality) & np.isfinite(best)
    told: dict[str, Any] = {
        "usd": sum(outcome.microusd) / 1e6,
        "audits_usd": outcome.audit_microusd / 1e6,
        "audits": outcome.audits,
        "large_share": float(large.mean()),
        "why": dict(outcome.why.most_common()),
    }
    if known.any():
        low, high = _interval(quality[known], seed)
        told |= {"quality": float(quality[known].mean()), "quality_interval": [low, high]}
        if best[known].mean() > 0:
            told["held"] = float(quality[known].mean() / best[known].mean())
    return told


def _interval(values: Any, seed: int) -> tuple[float, float]:
    draw = np.random.default_rng(seed)
    means = [values[draw.integers(len(values), size=len(values))].mean() for _ in range(_DRAWS)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _show(told: Mapping[str, dict[str, Any]], traffic: Traffic, outcomes: Mapping[str, Outcome]) -> None:
    labelled = any(row.truth for row in traffic.rows)
    what = "good answers" if labelled else "thought good"
    table = Table(title=f"{len(traffic.rows)} requests")
    for column in (
        "policy",
        "US dollars",
        "saved",
        f"{traffic.pair.large} answers",
        what,
        "95 %",
        "of large",
    ):
        table.add_column(column, justify="left" if column == "policy" else "right")
    whole = told[f"all {traffic.pair.large}"]["usd"]
    for name, row in told.items():
        spent = row["usd"] + row["audits_usd"]
        low, high = row.get("quality_interval", (math.nan, math.nan))
        table.add_row(
            name,
            f"{spent:.4g}" + (f" (audits {row['audits_usd']:.2g})" if row["audits"] else ""),
            f"{1 - spent / whole:.0%}" if whole else "",
            f"{row['large_share']:.1%}",
            f"{row['quality']:.1%}" if "quality" in row else "",
            "" if math.isnan(low) else f"{low:.1%} to {high:.1%}",
            f"{row['held']:.1%}" if "held" in row else "",
        )
    console = Console()
    console.print(table)
    for name, row in told.items():
        if set(outcomes[name].why) - {"only", "recorded"}:
            reasons = ", ".join(f"{why} {count}" for why, count in row["why"].items())
            console.print(f"{name}: decided by {reasons}", highlight=False, soft_wrap=True)


def _draw(folder: Path, outcomes: Mapping[str, Outcome], traffic: Traffic) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise Unusable(f"{folder} cannot be made: {e.strerror}") from None
    spent = {name: (one.at, (np.cumsum(one.microusd) / 1e6).tolist()) for name, one in outcomes.items()}
    money_over_time(folder / "money.png", spent)
    shares = {name: (one.at, _around(one, traffic.pair.large)) for name, one in outcomes.items() if len(one.why)}
    share_over_time(
        folder / "share.png", {name: shares[name] for name in shares if set(outcomes[name].why) != {"only"}}
    )
    points = {name: (sum(one.microusd) / 1e6, float(np.nanmean(one.quality))) for name, one in outcomes.items()}
    quality_over_money(folder / "quality.png", points, _frontier(traffic))
    print(f"drew {folder}/money.png, share.png and quality.png", file=sys.stderr)


def _around(outcome: Outcome, large: str) -> Any:
    flags = np.array([model == large for model in outcome.models], dtype=float)
    window = max(1, min(_WINDOW, len(flags)))
    counts = np.convolve(np.ones(len(flags)), np.ones(window), mode="same")
    return np.convolve(flags, np.ones(window), mode="same") / counts


def _frontier(traffic: Traffic) -> tuple[Any, Any]:
    """Dollars and quality where the large model answers the requests of the highest gains, for each share of them."""
    pair = traffic.pair
    small, large = always(traffic.rows, pair.small, pair), always(traffic.rows, pair.large, pair)
    gains = np.array([row.good.get(pair.large, 1.0) - row.good.get(pair.small, 0.0) for row in traffic.rows])
    order = np.argsort(-gains, kind="stable")
    dollars = np.cumsum(np.array(large.microusd)[order] - np.array(small.microusd)[order]) + sum(small.microusd)
    gained = np.nan_to_num(np.array(large.quality) - np.array(small.quality))[order]
    quality = (np.cumsum(gained) + np.nansum(small.quality)) / len(order)
    step = max(1, len(order) // 200)
    return dollars[::step] / 1e6, quality[::step]
