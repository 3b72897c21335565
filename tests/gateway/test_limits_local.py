"""The in-process limiter against a model that knows nothing but the history and reads all of it each time."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from trimtab.gateway.limits import Ask, Reservation
from trimtab.gateway.limits_local import LocalLimiter
from trimtab.protocol.errors import LimitExceeded
from trimtab.protocol.exchange import Limits

START = 1_000 * 86_400 + 80_000.0
_amount = st.integers(0, 40)
_limit = st.none() | st.integers(0, 80)


def windows(times: list[float]) -> list[tuple[float, int]]:
    """The windows that admissions at these times open, each with its number of admissions."""
    found: list[tuple[float, int]] = []
    for at in times:
        if found and at < found[-1][0] + 60:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((at, 1))
    return found


class LimiterMachine(RuleBasedStateMachine):
    reservations = Bundle("reservations")

    @initialize(limits=st.builds(Limits, _limit, _limit, _limit, st.none() | st.integers(0, 5)))
    def begin(self, limits: Limits) -> None:
        self.now = START
        self.limits = limits
        self.limiter = LocalLimiter(lambda: self.now, lambda: self.now)
        self.admitted: list[float] = []
        self.open: dict[int, tuple[float, Reservation]] = {}
        self.settled: list[tuple[float, int]] = []  # when, money
        self.tokens: list[tuple[float, float, int]] = []  # when, when its request came, how many more or fewer

    @rule(seconds=st.sampled_from([0.25, 5.0, 30.0, 59.75, 60.0, 3600.0, 86_400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=reservations, tokens=_amount, microusd=_amount)
    def reserve(self, tokens: int, microusd: int):  # type: ignore[no-untyped-def]
        reasons = self._reasons(tokens, microusd)
        try:
            taken = self.limiter.try_reserve("acme", self.limits, Ask(tokens, microusd))
        except LimitExceeded as e:
            refused = {e.kind}
        else:
            refused = set()
        # It gives one reason of all those there are, and refuses only when there is one.
        assert refused <= reasons
        assert bool(refused) == bool(reasons)
        if refused:
            return multiple()
        self.admitted.append(self.now)
        self.tokens.append((self.now, self.now, tokens))
        self.open[id(taken)] = (self.now, taken)
        return taken

    @rule(taken=reservations, tokens=_amount, microusd=_amount)
    def settle(self, taken: Reservation, tokens: int, microusd: int) -> None:
        self.limiter.settle(taken, tokens, microusd)
        known = self.open.pop(id(taken), None)
        if known is not None:
            self.settled.append((self.now, microusd))
            self.tokens.append((self.now, known[0], tokens - taken.tokens))

    @invariant()
    def money_and_slots_are_the_sum_of_what_happened(self) -> None:
        assert self.limiter.live("acme") == len(self.open)
        assert self.limiter.spent("acme") == self._spent()

    @invariant()
    def no_minute_admits_more_than_twice_the_limit(self) -> None:
        rpm = self.limits.requests_per_minute
        if rpm is not None:
            for at in self.admitted:
                assert sum(at <= other < at + 60 for other in self.admitted) <= 2 * rpm

    def _reasons(self, tokens: int, microusd: int) -> set[str]:
        """Every limit that speaks against one more request now."""
        limits, reasons = self.limits, set()
        last = windows(self.admitted)[-1:]
        in_window = last[0][1] if last and self.now < last[0][0] + 60 else 0
        if limits.requests_per_minute is not None and in_window >= limits.requests_per_minute:
            reasons.add("requests")
        if limits.tokens_per_minute is not None and self._tokens() + tokens > limits.tokens_per_minute:
            reasons.add("tokens")
        held = sum(taken.microusd for _, taken in self.open.values())
        if limits.microusd_per_day is not None and self._spent() + held + microusd > limits.microusd_per_day:
            reasons.add("insufficient_quota")
        if limits.concurrent is not None and len(self.open) >= limits.concurrent:
            reasons.add("concurrency")
        return reasons

    def _spent(self) -> int:
        return sum(money for at, money in self.settled if at // 86_400 == self.now // 86_400)

    def _tokens(self) -> int:
        """Replay every change of the token count: requests and excesses open windows, refunds go to their own."""
        start, used = float("-inf"), 0
        for at, asked_at, change in self.tokens:
            over = at >= start + 60
            if at == asked_at and over:
                start, used = at, change if change > 0 else 0
            elif over:
                if change > 0:
                    start, used = at, change
            elif change > 0 or asked_at >= start:
                used += change
        return 0 if self.now >= start + 60 else used


LimiterMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLimiter = LimiterMachine.TestCase
