"""Limits: the words, the refusals and the headers that both stores of limits share (limits_local.py, limits_redis.py).

A request reserves before it runs, all kinds at once or none of them, and settles to what it really used. `reserve` may
wait for a store; `settle` and `release` never wait and never raise, so a cancelled request cannot skip them. Money is
in integer micro-dollars, time in seconds. docs/limits.md states the semantics and the exact overshoot.

This module knows no store, no clock and no HTTP framework.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import msgspec

from ..protocol.errors import BudgetExceeded, LimitExceeded
from ..protocol.exchange import Limits

WINDOW = 60.0  # seconds; requests and tokens each have a window of their own
DAY = 86_400
SLOT_WAIT = 1.0  # what a caller without a free slot is told to wait: nobody knows when an answer ends

Refused = Literal["money", "requests", "tokens", "concurrency"]
Headers = list[tuple[bytes, bytes]]


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What one request may use at most: tokens in and out, and their price."""

    tokens: int = 0
    microusd: int = 0


class Reservation(msgspec.Struct, eq=False):
    """What was set aside for one request, and how the windows stood just after. Settled once; `open` says if not yet.

    `at` is the store's own time. `inner` is the store's private part.
    """

    tenant: str
    limits: Limits
    tokens: int = 0
    microusd: int = 0
    at: float = 0.0
    requests_left: int = 0
    requests_reset: float = 0.0
    tokens_left: int = 0
    tokens_reset: float = 0.0
    open: bool = True
    inner: Any = None


class Limiter(Protocol):
    """A store of limits. `start` is called once on the event loop, `close` once after the last settle."""

    @property
    def healthy(self) -> bool: ...

    @property
    def reason(self) -> str | None:
        """Why it is not healthy, in words that hold no secret."""
        ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def reserve(self, tenant: str, limits: Limits, ask: Ask) -> Reservation:
        """Set aside one request and all of `ask`, or raise and take nothing.

        Raises LimitExceeded, BudgetExceeded, or StoreUnavailable when money cannot be checked.
        """
        ...

    def settle(self, reservation: Reservation, tokens: int, microusd: int) -> None:
        """Put what was really used in the place of what was reserved and free the slot; a second call does nothing."""
        ...

    def release(self, reservation: Reservation) -> None:
        """Settle a request that used nothing. It still counts as a request."""
        ...

    def preload(self, tenant: str, microusd: int) -> None:
        """Today's spending is at least this much (the ledger says so, after a restart)."""
        ...


def impossible(limits: Limits, ask: Ask) -> LimitExceeded | None:
    """The refusal of a request that is larger than a whole limit, so that waiting cannot help; None if it fits."""
    if limits.microusd_per_day is not None and ask.microusd > limits.microusd_per_day:
        return _budget(
            limits, f"this request may cost {_usd(ask.microusd)}, more than the whole budget", None, ever=False
        )
    if limits.requests_per_minute is not None and limits.requests_per_minute < 1:
        return LimitExceeded("this key may make no requests", kind="requests", ever=False)
    if limits.tokens_per_minute is not None and ask.tokens > limits.tokens_per_minute:
        text = f"this request may use {ask.tokens} tokens, more than the limit of {limits.tokens_per_minute} a minute"
        return LimitExceeded(text, kind="tokens", ever=False)
    if limits.concurrent is not None and limits.concurrent < 1:
        return LimitExceeded("this key may make no requests", kind="concurrency", ever=False)
    return None


def refusal(kind: Refused, limits: Limits, ask: Ask, used: int, wait: float) -> LimitExceeded:
    """The error for a request that has to wait. `used` counts what is taken, reservations included."""
    if kind == "money":
        return _budget(
            limits, f"{_usd(used)} is spent or reserved and this request may cost {_usd(ask.microusd)}", wait
        )
    standing = None
    if kind == "requests":
        text = f"limit of {limits.requests_per_minute} requests a minute reached"
        standing = limits.requests_per_minute or 0, 0, wait
    elif kind == "tokens":
        standing = limits.tokens_per_minute or 0, (limits.tokens_per_minute or 0) - used, wait
        text = f"limit of {limits.tokens_per_minute} tokens a minute: {used} used, {ask.tokens} asked for"
    else:
        text = f"limit of {limits.concurrent} requests at the same time reached"
    error = LimitExceeded(f"{text}; try again in {reset_text(wait)}", kind=kind, retry_after=wait)
    error.standing = standing
    return error


def _budget(limits: Limits, text: str, wait: float | None, ever: bool = True) -> BudgetExceeded:
    whole = _usd(limits.microusd_per_day or 0)
    return BudgetExceeded(
        f"budget of {whole} a day (UTC): {text}", kind="insufficient_quota", retry_after=wait, ever=ever
    )


def _usd(microusd: int) -> str:
    return f"{microusd / 1_000_000:.6f}".rstrip("0").rstrip(".") + " USD"


def seconds_to_midnight(wall: float) -> float:
    """From `wall` (seconds since the epoch) to the next UTC midnight, where a day's money starts anew."""
    return DAY - wall % DAY


def rolls(day: int, today: int) -> bool:
    """Whether money counted on `day` is another day's. A clock set back by minutes over midnight must not empty it."""
    return today > day or today < day - 1


def rate_limit_headers(reservation: Reservation) -> Headers:
    """The `x-ratelimit-*` headers for the limits this tenant has."""
    out: Headers = []
    limits = reservation.limits
    if limits.requests_per_minute is not None:
        out += _three(b"requests", limits.requests_per_minute, reservation.requests_left, reservation.requests_reset)
    if limits.tokens_per_minute is not None:
        out += _three(b"tokens", limits.tokens_per_minute, reservation.tokens_left, reservation.tokens_reset)
    return out


def refusal_headers(error: LimitExceeded) -> Headers:
    """The same for the one limit that refused a request."""
    return [] if error.standing is None else _three(error.kind.encode(), *error.standing)


def _three(kind: bytes, limit: int, left: int, reset: float) -> Headers:
    return [
        (b"x-ratelimit-limit-" + kind, b"%d" % limit),
        (b"x-ratelimit-remaining-" + kind, b"%d" % max(0, left)),
        (b"x-ratelimit-reset-" + kind, reset_text(reset).encode()),
    ]


def reset_text(seconds: float) -> str:
    """A duration as OpenAI writes it: "12ms", "1s", "7.66s", "6m0s", "2h0m5s"; never shorter than the true one."""
    ms = max(0, math.ceil(seconds * 1000 - 1e-6))
    if ms < 1000:
        return f"{ms}ms"
    whole, rest = divmod(ms, 1000)
    hours, minutes, secs = whole // 3600, whole // 60 % 60, whole % 60
    tail = f"{secs}.{rest:03d}".rstrip("0") + "s" if rest else f"{secs}s"
    if hours:
        return f"{hours}h{minutes}m{tail}"
    return f"{minutes}m{tail}" if minutes else tail


def shared_out(limits: Limits, replicas: int) -> Limits:
    """One replica's part of the limits, rounded up, for the time in which replicas cannot see one another.

    Tokens and money are not divided: a part of them may be smaller than one honest request.
    """
    if replicas <= 1:
        return limits
    return Limits(
        requests_per_minute=_part(limits.requests_per_minute, replicas),
        tokens_per_minute=limits.tokens_per_minute,
        microusd_per_day=limits.microusd_per_day,
        concurrent=_part(limits.concurrent, replicas),
    )


def _part(limit: int | None, replicas: int) -> int | None:
    return None if limit is None else -(-limit // replicas)
