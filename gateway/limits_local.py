"""Limits kept in this process: exact for one process, nothing to install, lost with the process (money is restored from
the ledger by `preload`).

Everything happens between two awaits of one event loop, so a reservation is atomic without a lock. Clocks are handed
in: monotonic for the windows, wall for the UTC day. State grows with the tenants, which come from the configuration,
not with requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..protocol.exchange import Limits
from .limits import (
    DAY,
    SLOT_WAIT,
    WINDOW,
    Ask,
    Reservation,
    impossible,
    refusal,
    rolls,
    seconds_to_midnight,
)


class Account:
    """How one tenant stands. `held` is the money of open reservations, `spent` what settled requests cost today."""

    __slots__ = ("day", "held", "live", "requests", "requests_start", "spent", "tokens", "tokens_start")

    def __init__(self) -> None:
        self.requests = 0
        self.requests_start = float("-inf")
        self.tokens = 0
        self.tokens_start = float("-inf")
        self.day = 0
        self.spent = 0
        self.held = 0
        self.live = 0

    def turn_day(self, today: int) -> None:
        if self.day != today and rolls(self.day, today):
            self.day, self.spent = today, 0


class LocalLimiter:
    """The in-process store. `window` is the length of a window in seconds."""

    healthy = True
    reason: str | None = None

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        window: float = WINDOW,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._window = window
        self._accounts: dict[str, Account] = {}

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def reserve(self, tenant: str, limits: Limits, ask: Ask) -> Reservation:
        return self.try_reserve(tenant, limits, ask)

    def try_reserve(self, tenant: str, limits: Limits, ask: Ask) -> Reservation:
        """`reserve` without the coroutine. Raises LimitExceeded or BudgetExceeded."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account()
        now, window = self._monotonic(), self._window
        wall = self._wall()
        account.turn_day(int(wall // DAY))
        new_requests = now >= account.requests_start + window
        new_tokens = now >= account.tokens_start + window
        requests = 0 if new_requests else account.requests
        tokens = 0 if new_tokens else account.tokens
        self._check(account, limits, ask, now, wall, requests, tokens)
        # Nothing above changed a count; from here on nothing can refuse.
        if new_requests:
            account.requests_start = now
        if new_tokens:
            account.tokens_start = now
        account.requests = requests + 1
        account.tokens = tokens + ask.tokens
        account.held += ask.microusd
        account.live += 1
        return Reservation(
            tenant,
            limits,
            ask.tokens,
            ask.microusd,
            now,
            (limits.requests_per_minute or 0) - account.requests,
            account.requests_start + window - now,
            (limits.tokens_per_minute or 0) - account.tokens,
            account.tokens_start + window - now,
            True,
            account,
        )

    def _check(
        self, account: Account, limits: Limits, ask: Ask, now: float, wall: float, requests: int, tokens: int
    ) -> None:
        """Raise the refusal with the longest wait first: a caller who waits for it waits once."""
        budget, rpm, tpm, slots = (
            limits.microusd_per_day,
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.concurrent,
        )
        taken = account.spent + account.held
        if budget is not None and taken + ask.microusd > budget:
            raise impossible(limits, ask) or refusal("money", limits, ask, taken, seconds_to_midnight(wall))
        if rpm is not None and requests >= rpm:
            wait = account.requests_start + self._window - now
            raise impossible(limits, ask) or refusal("requests", limits, ask, requests, wait)
        if tpm is not None and tokens + ask.tokens > tpm:
            wait = account.tokens_start + self._window - now
            raise impossible(limits, ask) or refusal("tokens", limits, ask, tokens, wait)
        if slots is not None and account.live >= slots:
            raise impossible(limits, ask) or refusal("concurrency", limits, ask, account.live, SLOT_WAIT)

    def settle(self, reservation: Reservation, tokens: int, microusd: int) -> None:
        if not reservation.open:
            return
        reservation.open = False
        account: Account = reservation.inner
        account.live -= 1
        account.held -= reservation.microusd
        account.turn_day(int(self._wall() // DAY))
        account.spent += max(0, microusd)
        self._adjust(account, reservation, max(0, tokens) - reservation.tokens)

    def _adjust(self, account: Account, reservation: Reservation, more: int) -> None:
        """Tokens come back only to the window they were taken from; an excess always counts, if need be in the next."""
        now = self._monotonic()
        if now < account.tokens_start + self._window:
            if more > 0 or reservation.at >= account.tokens_start:
                account.tokens += more
        elif more > 0:
            account.tokens, account.tokens_start = more, now

    def release(self, reservation: Reservation) -> None:
        self.settle(reservation, 0, 0)

    def preload(self, tenant: str, microusd: int) -> None:
        account = self._accounts.setdefault(tenant, Account())
        account.turn_day(int(self._wall() // DAY))
        account.spent = max(account.spent, microusd)

    def spent(self, tenant: str) -> int:
        """Today's settled money, in micro-dollars."""
        account = self._accounts.get(tenant)
        if account is None:
            return 0
        account.turn_day(int(self._wall() // DAY))
        return account.spent

    def live(self, tenant: str) -> int:
        """Open reservations."""
        account = self._accounts.get(tenant)
        return 0 if account is None else account.live
