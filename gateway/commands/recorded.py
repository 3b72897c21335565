"""Recorded traffic for `trimtab replay`: a ledger's receipts, or labelled prompts, as requests with prices.

Receipts keep no texts: what was thought of each prompt is read from them, and nobody knows how good the answers were.
Labelled prompts are thought about here, by a calibration.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import msgspec

from ...backends.embed import EmbedOptions
from ...protocol.exchange import Price, Receipt
from ...protocol.money import dollars, microdollars
from ...protocol.tokens import estimate_bytes
from ...routing.domain import distance
from ...routing.heads import Calibration, logistic
from ...routing.labelled import Labelled
from ...routing.replay import Pair, Recorded
from .prompts import Unusable, embedded, pair_of, rows_of

ANSWER = 300  # tokens of an answer of which nothing is known
_SQLITE = b"SQLite format 3\0"
_BETWEEN_S = 60.0  # between requests of a log without times
_decode = msgspec.json.Decoder(Receipt).decode


@dataclass(frozen=True)
class Traffic:
    """`rows` by time; `spread`: the calibration's scores; `notes`: what had to be assumed, in words."""

    rows: list[Recorded]
    pair: Pair
    spread: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


def is_ledger(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE
    return False


def price(text: str) -> tuple[str, Price]:
    """`NAME=INPUT/OUTPUT` or `NAME=INPUT/CACHED/OUTPUT`, US dollars per million tokens. Raises ValueError."""
    name, _, figures = text.partition("=")
    parts = figures.split("/")
    if not name or len(parts) not in (2, 3):
        raise ValueError("a price is NAME=INPUT/OUTPUT or NAME=INPUT/CACHED/OUTPUT, in dollars per million tokens")
    amounts = [microdollars(dollars(Decimal(part))) for part in parts]
    return name, Price(amounts[0], amounts[1] if len(amounts) == 3 else amounts[0], amounts[-1], known=True)


def from_ledger(path: Path, tenant: str | None, prices: Mapping[str, Price]) -> Traffic:
    """The receipts of routed requests that were answered. Raises Unusable."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            where, values = ("AND tenant = ?", (tenant,)) if tenant else ("", ())
            found = db.execute(
                f"SELECT receipt FROM receipts WHERE outcome = 'ok' {where} ORDER BY at",  # noqa: S608
                values,
            ).fetchall()
        receipts = [_decode(text) for (text,) in found]
    except (sqlite3.Error, msgspec.MsgspecError) as e:
        raise Unusable(f"{path} is no ledger of this version: {e}") from None
    routed = [receipt for receipt in receipts if receipt.routed is not None]
    if not routed:
        raise Unusable(f"{path} has no answered request that a route decided" + (f" for {tenant}" if tenant else ""))
    return _receipts(routed, prices)


def from_labels(
    paths: Sequence[Path],
    names: tuple[str | None, str | None],
    prices: Mapping[str, Price],
    calibration: Calibration,
) -> Traffic:
    """Labelled prompts, thought about by a calibration. Raises Unusable, MissingExtra."""
    rows = rows_of(paths)
    pair = pair_of(rows, *names)
    _priced(pair, prices)
    options = EmbedOptions()
    if calibration.embedder != options.model_name:
        raise Unusable(f"the calibration reads vectors of '{calibration.embedder}', not of '{options.model_name}'")
    prompts = embedded(rows, pair, options)
    heads = pair if set(pair) <= calibration.heads.keys() else tuple(calibration.heads)
    if len(heads) != 2:
        raise Unusable(f"the calibration knows {', '.join(heads)}, not {pair[0]} and {pair[1]}")
    context = calibration.space.context(prompts.vectors, prompts.form)
    good = [logistic(context @ calibration.heads[head]) for head in heads]
    far = distance(calibration.domains, prompts.vectors, prompts.form)
    found, guessed = [], 0
    for at, row in enumerate(prompts.rows):
        guessed += not set(pair) <= row.tokens.keys()
        thought = {pair[0]: float(good[0][at]), pair[1]: float(good[1][at])}
        found.append(_labelled(row, at, pair, thought, float(far[at])))
    notes = [] if heads == pair else [f"{heads[0]} stands in for {pair[0]}, {heads[1]} for {pair[1]}"]
    if guessed:
        notes.append(f"{guessed} rows say no tokens: prompts by their length, answers of {ANSWER} tokens")
    if any(row.at is None for row in prompts.rows):
        notes.append(f"some rows say no time: they follow each other by {_BETWEEN_S:g} s")
    found.sort(key=lambda row: row.at)
    return Traffic(found, Pair(*pair, prices), calibration.spread, tuple(notes))


def _labelled(row: Labelled, at: int, pair: tuple[str, str], good: Mapping[str, float], far: float) -> Recorded:
    return Recorded(
        at=_BETWEEN_S * at if row.at is None else row.at,
        good=good,
        distance=far,
        prompt_tokens=row.tokens.get("prompt", estimate_bytes(row.prompt.encode("utf-8", "surrogatepass"))),
        tokens={name: row.tokens.get(name, ANSWER) for name in pair},
        text=row.prompt,
        truth=row.good,
        session=row.session,
        answered_by=row.model,
    )


def _receipts(receipts: list[Receipt], prices: Mapping[str, Price]) -> Traffic:
    last = receipts[-1].routed
    assert last is not None
    names = (last.small, last.large)
    known = {name: Price(*figures, known=True) for name, figures in last.prices.items()} | dict(prices)
    _priced(names, known)
    rows = [_receipt(receipt, names) for receipt in receipts]
    kept = [row for row in rows if row is not None]
    left = len(rows) - len(kept)
    notes = ["receipts keep no texts: rules by prompt cannot hold, and quality is what was thought of each prompt"]
    if left:
        notes.append(f"{left} requests of other pairs than {names[0]} and {names[1]} are left out")
    return Traffic(kept, Pair(*names, known), _spread(kept, names), tuple(notes))


def _receipt(receipt: Receipt, names: tuple[str, str]) -> Recorded | None:
    routed = receipt.routed
    if routed is None or (routed.small, routed.large) != names or receipt.usage is None:
        return None
    usage = receipt.usage
    return Recorded(
        at=receipt.at,
        good=routed.good,
        distance=routed.distance,
        prompt_tokens=usage.prompt or routed.prompt_tokens,
        tokens=dict.fromkeys(names, usage.completion),
        session=routed.session or None,
        tags=tuple(receipt.tags),
        answered_by=receipt.target if receipt.target in names else None,
    )


def _spread(rows: Sequence[Recorded], names: tuple[str, str]) -> tuple[float, ...]:
    gains = sorted(row.good[names[1]] - row.good[names[0]] for row in rows if set(names) <= row.good.keys())
    return tuple(gains[:: max(1, len(gains) // 100)])


def _priced(names: tuple[str, str], prices: Mapping[str, Price]) -> None:
    missing = [name for name in names if name not in prices]
    if missing:
        raise Unusable(
            f"what does {missing[0]} cost? Say --price {missing[0]}=INPUT/OUTPUT in dollars per million tokens, or "
            "give -c CONFIG with its price"
        )
