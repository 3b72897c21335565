"""Both models answer the same request, off its path: which answers were good?

Where both say the same, both are taken for good. Where they do not, or it cannot be told, a judge says which are, if
the tenant's policy names one; without a judge the large model's word stands, and the small one's counts as bad: a
promise rests on what is proven. An answer that was cut, refused or empty is bad. Each audit is a request of the tenant,
within its limits and at its cost; one that is not allowed, or whose model fails, is no evidence. Knows no heads and no
floors.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..cache.errands import Errands
from ..cache.recording import Recorded, of_stream, unfit
from ..cache.said import compare, said
from ..protocol.embedded import asked
from ..routing.asking import Decision
from ..routing.recorder import Heard

if TYPE_CHECKING:
    from ..backends.embed import Embedder
    from .auditing import Auditing

log = logging.getLogger("trimtab.routing")

Good = dict[str, bool]


class RouteAudits:
    """`tell` is given what an audit found; `toss` whether the judge sees the large model's answer first."""

    def __init__(
        self,
        auditing: Auditing,
        embedder: Callable[[], Embedder | None],
        tell: Callable[[Decision, Good], Awaitable[None]],
        toss: Callable[[], float],
    ) -> None:
        self._errands = Errands("an audit of the router", log)
        self.counts = self._errands.counts
        self._auditing = auditing
        self._embedder = embedder
        self._tell = tell
        self._toss = toss

    def begin(self, decision: Decision) -> None:
        """Audit an answer that has gone out. Never waits."""
        self._errands.begin(self._audited(decision))

    @property
    def busy(self) -> bool:
        return self._errands.busy

    async def close(self) -> None:
        await self._errands.close()

    async def idle(self) -> None:
        """Wait until every audit that has begun is over."""
        await self._errands.idle()

    async def _audited(self, decision: Decision) -> None:
        good = await self._audit(decision)
        if good is None:
            self.counts["not allowed"] += 1
            return
        small, large = decision.asking.names
        self.counts[_KINDS[good[small], good[large]]] += 1
        await self._tell(decision, good)

    async def _audit(self, decision: Decision) -> Good | None:
        heard: Heard = decision.whole
        ask = decision.asking
        target = ask.other(heard.target)
        served = of_stream(list(heard.events), heard.target, None) if heard.body is None else None
        first = served or Recorded("whole", heard.body or b"", heard.target)
        second = await self._auditing.by(ask.exchange, target)
        if second is None:
            return None
        answers = {heard.target: first, target.name: second}
        small, large = (answers[name] for name in ask.names)
        good = await self._judged(decision, small, large)
        return dict(zip(ask.names, good, strict=True))

    async def _judged(self, decision: Decision, small: Recorded, large: Recorded) -> tuple[bool, bool]:
        texts = [said(one) if unfit(one, "chat", 1) is None else None for one in (small, large)]
        one, other = texts
        if one is None or other is None:
            return one is not None, other is not None
        exchange, policy = decision.asking.exchange, decision.asking.policy
        verdict, embedder = compare(one, other), self._embedder()
        if verdict is None and embedder is not None:
            a, b = await embedder.embed([one, other], tenant=exchange.tenant.name)
            verdict = compare(one, other, float(a @ b))
        if verdict == "same":
            return True, True
        if policy.judge is not None:
            graded = await self._graded(decision, policy.judge, one, other)
            if graded is not None:
                return graded
        return False, True

    async def _graded(self, decision: Decision, judge: str, small: str, large: str) -> tuple[bool, bool] | None:
        """In an order drawn by lot: judges favour a place."""
        exchange = decision.asking.exchange
        question = asked(exchange.original) or ""
        if self._toss() < 0.5:
            return await self._auditing.good(exchange, judge, question, small, large)
        turned = await self._auditing.good(exchange, judge, question, large, small)
        return None if turned is None else (turned[1], turned[0])


_KINDS = {(True, True): "both good", (False, True): "lost", (True, False): "won", (False, False): "neither good"}
