"""`trimtab route fit` and `trimtab route eval`: a calibration from labelled prompts, and what one is worth.

What is printed of a fit is cross-validated: each fifth of the prompts is scored by what the other four say. The file
remembers which prompts it was fitted on, so that an evaluation can leave them out.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ...backends.embed import EmbedOptions
from ...backends.registry import MissingExtra
from ...protocol.errors import TrimtabError
from ...routing import fitting
from ...routing.cascade import Answered, checks
from ...routing.domain import distance
from ...routing.heads import Calibration, from_json, logistic, shipped, to_json
from ...routing.seen import Seen
from ...routing.worth import NoGap, curve, intervals, worth
from .prompts import Array, Prompts, Unusable, bar, embedded, pair_of, rows_of

_LEAST = 200  # labelled prompts: with fewer, the intervals span everything
_DRAWS = 200
_SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)


def fit(args: argparse.Namespace) -> int:
    """Fit, print what it is worth, write it."""
    return _told(lambda: _fit(args))


def evaluate(args: argparse.Namespace) -> int:
    """Print what a calibration is worth on prompts that it was not fitted on."""
    return _told(lambda: _evaluate(args))


def _told(work: Any) -> int:
    try:
        work()
    except (Unusable, MissingExtra) as e:
        print(f"trimtab: {e}", file=sys.stderr)
        return 1
    except TrimtabError as e:
        print(f"trimtab: {e.message}", file=sys.stderr)
        return 1
    return 0


@dataclass(frozen=True)
class Judged:
    """Prompts with what was said of each by something that was not fitted on it."""

    prompts: Prompts
    gain: Array  # the higher, the more the large model is needed
    small: Array  # P(good) of either
    large: Array
    far: Array | None = None


def _fit(args: argparse.Namespace) -> None:
    options = EmbedOptions()
    prompts = _prompts(args, options)
    _check(prompts)
    held, calibration = _fitted(prompts, options, args)
    told = _figures(held, args.seed)
    out: Path = args.out
    # Read again before anything is written: what the gateway could not read must not be there.
    text = json.dumps(_reviewable(to_json(calibration), held, told), indent=1) + "\n"
    from_json(json.loads(text))
    _show(held, told, f"fitted on {len(prompts.rows)} prompts, cross-validated")
    out.write_text(text, encoding="utf-8")
    _say(f"wrote {out} ({len(text) // 1000} kB); name it in a route: {{small: ..., large: ..., calibration: {out}}}")
    _plot(args.plot, held, "cross-validated")


def _evaluate(args: argparse.Namespace) -> None:
    calibration = calibration_of(args.calibration)
    rows = rows_of(args.data)
    seen = Seen.of(calibration.extra.get("seen"))
    fresh = [row for row in rows if row.prompt not in seen]
    if len(fresh) < len(rows):
        _say(f"{len(rows) - len(fresh)} of {len(rows)} prompts are among those it was fitted on: left out")
    if not fresh:
        raise Unusable("the calibration was fitted on every one of these prompts; judge it on others")
    pair = pair_of(fresh, args.small, args.large)
    prompts = embedded(fresh, pair, _options(calibration))
    _check(prompts, least=50)
    held = _judged(calibration, prompts, args)
    told = _figures(held, args.seed)
    _show(held, told, f"{calibration.name}, on {len(prompts.rows)} prompts")
    _plot(args.plot, held, calibration.name)


def _prompts(args: argparse.Namespace, options: EmbedOptions) -> Prompts:
    rows = rows_of(args.log)
    unique = list({row.prompt: row for row in rows}.values())
    if len(unique) < len(rows):
        _say(f"{len(rows) - len(unique)} rows repeat a prompt: the last of each counts")
    return embedded(unique, pair_of(unique, args.small, args.large), options)


def _check(prompts: Prompts, least: int = _LEAST) -> None:
    small, large = prompts.pair
    if len(prompts.rows) < least:
        raise Unusable(f"{len(prompts.rows)} prompts have both labels; at least {least} are needed")
    if prompts.small.min() == prompts.small.max() and prompts.large.min() == prompts.large.max():
        raise Unusable(f"every label of {small} is the same, and every one of {large}: there is nothing to learn")


def _fitted(prompts: Prompts, options: EmbedOptions, args: argparse.Namespace) -> tuple[Judged, Calibration]:
    small, large = prompts.pair
    labels = {small: prompts.small, large: prompts.large}
    with bar() as progress:
        task = progress.add_task("fitting", total=2)
        guesses = fitting.cross_guesses(prompts.vectors, prompts.form, labels, prompts.topics)
        progress.advance(task)
        calibration = fitting.fit(
            prompts.vectors,
            prompts.form,
            labels,
            name=args.name or f"{small} and {large}",
            embedder=options.model_name,
            about=f"{len(prompts.rows)} labelled prompts of {', '.join(path.name for path in args.log)}",
            topics=prompts.topics,
        )
        progress.advance(task)
    extra: dict[str, Any] = {"seen": Seen.made(row.prompt for row in prompts.rows).to_json()}
    if prompts.answers is not None:
        extra["cascade"] = asdict(fitting.fit_deferral(_checked(prompts), guesses, prompts.small))
    held = Judged(prompts, guesses[:, 1] - guesses[:, 0], guesses[:, 0], guesses[:, 1])
    return held, replace(calibration, extra=extra)


def _checked(prompts: Prompts) -> Array:
    small = prompts.pair[0]
    said = [
        Answered(row.prompt, answer, mean_logprob=row.logprobs.get(small))
        for row, answer in zip(prompts.rows, prompts.answers or [], strict=True)
    ]
    return np.array([checks(each) for each in said], dtype=np.float32)


def _judged(calibration: Calibration, prompts: Prompts, args: argparse.Namespace) -> Judged:
    """The heads of the pair: by its names, or the only two there are, the small one first."""
    heads = list(calibration.heads)
    names = [name if name in heads else None for name in prompts.pair]
    if None in names:
        if len(heads) != 2:
            raise Unusable(f"the calibration knows {', '.join(heads)}; name two of them with --small and --large")
        names = list(heads)
        _say(f"taking {heads[0]} for {prompts.pair[0]} and {heads[1]} for {prompts.pair[1]}")
    context = calibration.space.context(prompts.vectors, prompts.form)
    small, large = (logistic(context @ calibration.heads[str(name)]) for name in names)
    far = distance(calibration.domains, prompts.vectors, prompts.form) > 1
    return Judged(prompts, large - small, small, large, far)


def _figures(held: Judged, seed: int) -> dict[str, Any]:
    """What is printed, and kept in the file for whoever reviews it."""
    prompts = held.prompts
    told: dict[str, Any] = {
        "prompts": len(prompts.rows),
        "quality": {prompts.pair[0]: _rounded(prompts.small.mean()), prompts.pair[1]: _rounded(prompts.large.mean())},
        "calibration_error": {
            prompts.pair[0]: _rounded(_off(held.small, prompts.small)),
            prompts.pair[1]: _rounded(_off(held.large, prompts.large)),
        },
    }
    if held.far is not None:
        told["out_of_domain"] = _rounded(held.far.mean())
    try:
        found = worth(held.gain, prompts.small, prompts.large)
    except NoGap as e:
        return {**told, "no_gap": str(e)}
    spans = intervals(held.gain, prompts.small, prompts.large, _DRAWS, seed)
    for name, value, span in zip(found._fields, found, spans, strict=True):
        told[name] = {"value": _rounded(value), "interval": [_rounded(edge) for edge in span]}
    share, quality = curve(held.gain, prompts.small, prompts.large, 100)
    told["quality_at_share"] = {f"{at:g}": _rounded(np.interp(at, share, quality)) for at in _SHARES}
    return told


def _off(said: Array, good: Array, bins: int = 10) -> float:
    """Expected calibration error: how far what is said is from what was so, in tenths of equal size."""
    order = np.argsort(said)
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return float(sum(len(part) * abs(said[part].mean() - good[part].mean()) for part in parts) / len(said))


def _reviewable(written: dict[str, Any], held: Judged, told: dict[str, Any]) -> dict[str, Any]:
    """What a person reads first comes first."""
    first = ("format", "name", "about", "embedder")
    head = {name: written[name] for name in first}
    pair = {"small": held.prompts.pair[0], "large": held.prompts.pair[1]}
    return {**head, "pair": pair, "cross_validated": told, **{k: v for k, v in written.items() if k not in first}}


def _show(held: Judged, told: dict[str, Any], title: str) -> None:
    console = Console()
    table = Table(title=title, show_header=True)
    for column in ("", "value", "95 % interval", "meaning"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, value in told["quality"].items():
        table.add_row(f"quality of {name}", f"{value:.1%}", "", "share of good answers, alone")
        table.add_row(
            "  said and so differ by", f"{told['calibration_error'][name]:.1%}", "", "0 is perfectly calibrated"
        )
    if "no_gap" in told:
        console.print(table)
        _say(f"{told['no_gap']}: on these prompts the small model may answer everything")
        return
    meanings = {
        "apgr": "0.5 is a coin, 1 all of the gap at once",
        "cpt50": "% of calls to the large model that close half of the gap",
        "cpt80": "% of calls that close 80 % of it",
    }
    for name, meaning in meanings.items():
        low, high = told[name]["interval"]
        table.add_row(name.upper(), f"{told[name]['value']:.3g}", f"{low:.3g} to {high:.3g}", meaning)
    for share, quality in told["quality_at_share"].items():
        table.add_row(f"large_share: {share}", f"{quality:.1%}", "", "quality of all answers together")
    if "out_of_domain" in told:
        table.add_row(
            "out of domain", f"{told['out_of_domain']:.1%}", "", "of these prompts go to the large model unasked"
        )
    console.print(table)
    if told["apgr"]["interval"][0] <= 0.5:
        _say("a coin may do as well: gather more labels, or other ones, before you route by this")


def _plot(path: Path | None, held: Judged, name: str) -> None:
    if path is None:
        return
    from .plots import quality_over_share

    quality_over_share(path, held.gain, held.prompts.small, held.prompts.large, name)
    _say(f"drew {path}")


def calibration_of(path: Path | None) -> Calibration:
    """The one of a file, or the one that ships. Raises Unusable."""
    if path is None:
        return shipped()
    try:
        return from_json(json.loads(path.read_bytes()))
    except OSError as e:
        raise Unusable(f"{path} cannot be read: {e.strerror}") from None
    except (ValueError, KeyError, TypeError) as e:
        raise Unusable(f"{path} is no calibration of this version ({e}); `trimtab route fit` makes one") from None


def _options(calibration: Calibration) -> EmbedOptions:
    options = EmbedOptions()
    if calibration.embedder != options.model_name:
        raise Unusable(f"the calibration reads vectors of '{calibration.embedder}', not of '{options.model_name}'")
    return options


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
