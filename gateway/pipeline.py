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
import logging
from collections.abc import Sequence

from ..cache.recall import Recall
from ..compression.compress import Compress
from ..compression.prune import Prune
from ..protocol.errors import TrimtabError
from ..protocol.exchange import Exchange, Stage
from ..routing.plan import Plan
from ..routing.route import Route

log = logging.getLogger("trimtab.pipeline")

STAGE_SECONDS = 0.25  # an optimisation that takes longer than this saves nobody anything


def optimisations() -> list[Stage]:
    """The stages between `admit` and `answer`, in their order."""
    return [Recall(), Prune(), Compress(), Plan(), Route()]


class Pipeline:
    """Runs an exchange through `admit`, which decides, and through the optimisations, which may only help."""

    def __init__(self, admit: Stage, stages: Sequence[Stage], seconds: float = STAGE_SECONDS) -> None:
        self.admit = admit
        self.stages = list(stages)
        self.seconds = seconds

    async def walk(self, exchange: Exchange) -> None:
        """Raises what `admit` raises; afterwards `exchange.answer` or `exchange.targets` says how to go on."""
        await self.admit(exchange)
        for stage in self.stages:
            if exchange.answer is not None:
                return
            await self._try(stage, exchange)

    async def _try(self, stage: Stage, exchange: Exchange) -> None:
        working, targets, draft = exchange.working, exchange.targets, exchange.draft
        try:
            async with asyncio.timeout(self.seconds):
                await stage(exchange)
            return
        except TimeoutError:
            reason = f"took longer than {self.seconds * 1000:.0f} ms"
        except TrimtabError as e:
            reason = e.message
        except Exception as e:
            log.exception("stage %s failed; the request goes on without it", stage.name)
            reason = f"failed with {type(e).__name__}"
        exchange.working, exchange.targets, exchange.draft, exchange.answer = working, targets, draft, None
        exchange.note(stage.name, "undone", reason)
