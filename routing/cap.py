"""`max_tokens` for requests that set none, and what to do when it is hit. Pure decisions.

A cap keeps a reservation honest; it never cuts an answer. One that is hit is continued with the client none the wiser,
as often as it takes, up to the model's own window; only a limit that the client or the model set ends an answer.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple

from .length import Forecast

MARGIN = 1.25
LEAST = 256  # below this a cap saves nothing and risks a continuation
TRUSTED = 20  # answers seen below which a reservation rests on more than the forecast
GROWTH = 2  # a continuation may be this many times as long as the cap that was hit


class Cap(NamedTuple):
    """`tokens`: what is asked of the target, None for none. `ours`: proposed here, not by the client."""

    tokens: int | None
    ours: bool


class Then(Enum):
    """What follows an answer."""

    DELIVER = "deliver"
    CONTINUE = "continue"


def propose(forecast: Forecast, asked: int | None, room: int | None, can_continue: bool) -> Cap:
    """The client's own limit always stands. Else P99.9 and a quarter, where the target can continue an answer.

    `room`: tokens that the model's window leaves for the answer; `can_continue`: the target takes up a cut answer where
    it ended (the bundled engine; chat APIs that accept an unfinished last turn). Without that there is no cap.
    """
    if asked is not None:
        return Cap(asked, ours=False)
    if not can_continue:
        return Cap(None, ours=False)
    tokens = max(LEAST, math.ceil(forecast.p999 * MARGIN))
    if room is not None and tokens >= room:
        return Cap(None, ours=False)
    return Cap(tokens, ours=True)


def then(cap: Cap, finish_reason: str | None) -> Then:
    """`length` under a cap of ours is no end; under the client's, or with none, it is."""
    return Then.CONTINUE if cap.ours and finish_reason == "length" else Then.DELIVER


def grown(cap: Cap, written: int, room: int | None) -> Cap:
    """The cap of a continuation: twice the last, and none at all where that reaches what is left of the window.

    `written`: tokens that the client has had. Each continuation costs the prompt again where prefixes are not cached,
    so caps grow and continuations stay few.
    """
    if not cap.ours or cap.tokens is None:
        return cap
    tokens = cap.tokens * GROWTH
    left = None if room is None else room - written
    # The window itself then ends the answer, as it would have without us.
    return Cap(None, ours=False) if left is not None and tokens >= left else Cap(tokens, ours=True)


def reserve(forecast: Forecast, asked: int | None, room: int | None) -> int:
    """Tokens to reserve for the answer: P99, within the client's own limit and the model's window; at least 1."""
    tokens = math.ceil(forecast.p99)
    return max(1, min([tokens, *(one for one in (asked, room) if one is not None)]))
