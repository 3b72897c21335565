"""The way of a request: one list that a newcomer can read.

    admit      key -> tenant, policy; limits and budget reserved               gateway/admit.py
    recall     exact cache, then semantic cache                                cache/recall.py
    prune      RAG passages and tool results that do not bear on the question  compression/prune.py
    compress   lossless first; lossy only where the policy allows              compression/compress.py
    plan       how long the answer will be                                     routing/plan.py
    route      small, large, or small-then-large                               routing/route.py
    answer     a backend streams or completes                                  gateway/answer.py
    settle     usage, money, receipt, ledger                                   gateway/settle.py

`walk` runs the stages up to `answer`. An answer found on the way ends it. `admit` fails closed: its error is the
client's. The stages between are optimisations and fail open: what they did is undone and the receipt says why.
`answer` and `settle` are called by the endpoint, around the sending of the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from ..cache.recall import Recall
from ..compression.compress import Compress
from ..compression.prune import Prune
from ..protocol.errors import TrimtabError
from ..protocol.exchange import Exchange, Stage, Target
from ..protocol.messages import Request
from ..routing.plan import Plan
from ..routing.route import Route

log = logging.getLogger("trimtab.pipeline")

WALK_SECONDS = 0.5  # optimisations that take longer than this together save nobody anything


_NO_DEADLINE = contextlib.nullcontext()


def optimisations() -> list[Stage]:
    """The stages between `admit` and `answer`, in their order."""
    return [Recall(), Prune(), Compress(), Plan(), Route()]


class Pipeline:
    """Runs an exchange through `admit`, which decides, and through the optimisations, which may only help.

    They share one deadline (a timer for each would cost more than most of them do), unless none of them ever waits.
    When it passes, the stage at work is undone and the ones after it are left out.
    """

    def __init__(self, admit: Stage, stages: Sequence[Stage], seconds: float = WALK_SECONDS) -> None:
        self.admit = admit
        self.stages = list(stages)
        self.seconds = seconds
        self._waits = any(stage.waits for stage in self.stages)

    async def walk(self, exchange: Exchange) -> None:
        """Raises what `admit` raises; afterwards `exchange.answer` or `exchange.targets` says how to go on."""
        await self.admit(exchange)
        done = 0
        before = _keep(exchange)
        try:
            async with asyncio.timeout(self.seconds) if self._waits else _NO_DEADLINE:
                for stage in self.stages:
                    before = _keep(exchange)
                    await self._try(stage, exchange)
                    done += 1
                    if exchange.answer is not None:
                        return
        except TimeoutError:
            _restore(exchange, before)
            exchange.note(self.stages[done].name, "undone", f"the optimisations took longer than {self.seconds:g} s")
            for stage in self.stages[done + 1 :]:
                exchange.note(stage.name, "left out", "no time was left")

    async def _try(self, stage: Stage, exchange: Exchange) -> None:
        before = _keep(exchange)
        try:
            await stage(exchange)
            return
        except TrimtabError as e:
            reason = e.message
        except Exception as e:
            log.exception("stage %s failed; the request goes on without it", stage.name)
            reason = f"failed with {type(e).__name__}"
        _restore(exchange, before)
        exchange.note(stage.name, "undone", reason)


_Kept = tuple[Request, tuple[Target, ...], str | None]


def _keep(exchange: Exchange) -> _Kept:
    return exchange.working, exchange.targets, exchange.draft


def _restore(exchange: Exchange, kept: _Kept) -> None:
    exchange.working, exchange.targets, exchange.draft = kept
    exchange.answer = None
