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
client's. The stages between, which gateway/stages.py builds, are optimisations and fail open: what they did is undone
and the receipt says why. `answer` and `settle` are called by the endpoint, around the sending of the bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Generator, Sequence
from typing import Any

from ..cache.policy import CachePolicy
from ..compression.policy import CompressionPolicy
from ..protocol.errors import TrimtabError
from ..protocol.exchange import Exchange, Recorder, Stage, Target
from ..protocol.messages import Request
from ..routing.policy import RoutePolicy

log = logging.getLogger("trimtab.pipeline")

WALK_SECONDS = 0.5  # optimisations that take longer than this together save nobody anything
SUMMARY_SECONDS = 20.0  # but for a small model's summary, where a tenant asked for one


def patience(policy: CompressionPolicy, cache: CachePolicy | None = None) -> float:
    """Seconds for all the stages together: the usual, and what a tenant allows its models on top."""
    seconds = WALK_SECONDS + policy.deadline_ms / 1000
    if cache is not None and cache.semantic.enabled:
        seconds += cache.semantic.deadline_ms / 1000
    embed = policy.context.enabled + policy.tools.enabled + policy.demonstrations.enabled  # each waits on its own
    seconds += embed * policy.context.deadline_ms / 1000
    if policy.prose.enabled:
        seconds += policy.prose.deadline_ms / 1000
    if policy.turns.enabled and policy.turns.summarise:
        seconds += SUMMARY_SECONDS
    return seconds


class Pipeline:
    """Runs an exchange through `admit`, which decides, and through the optimisations, which may only help.

    They share one deadline, `seconds` or what the tenant's policy allows. When it passes, the stage at work is undone
    and the ones after it are left out.
    """

    def __init__(self, admit: Stage, stages: Sequence[Stage], seconds: float | None = None) -> None:
        self.admit = admit
        self.stages = list(stages)
        self._seconds = seconds

    async def resume(self, exchange: Exchange) -> None:
        """The stages behind the one that recalled an answer, which then never came."""
        exchange.recalled = None
        names = [line.stage for line in exchange.receipt.lines]
        await self.optimise(exchange, [stage for stage in self.stages if stage.name not in names])

    async def walk(self, exchange: Exchange) -> None:
        """Raises what `admit` raises; afterwards `exchange.recalled` or `exchange.targets` says how to go on."""
        await self.admit(exchange)
        await self.optimise(exchange)

    async def optimise(self, exchange: Exchange, stages: Sequence[Stage] | None = None) -> None:
        """The stages behind `admit` (or those given), within their deadline. Raises nothing of theirs."""
        walk = _Walk(exchange, self.stages if stages is None else stages)
        steps = walk.run()
        # A timer costs more than all the stages of a plain request, so it is set when one of them first waits.
        try:
            first = steps.send(None)
        except StopIteration:
            return
        seconds = self._seconds or patience(exchange.policy(CompressionPolicy), exchange.policy(CachePolicy))
        route = exchange.policy(RoutePolicy)
        if route.scores and not self._seconds:
            seconds += route.deadline_ms / 1000
        try:
            async with asyncio.timeout(seconds):
                await _Rest(steps, first)
        except TimeoutError:
            walk.out_of_time(seconds)


class _Walk:
    """One exchange on its way through the stages: which one is at work, and what it found."""

    def __init__(self, exchange: Exchange, stages: Sequence[Stage]) -> None:
        self._exchange = exchange
        self._stages = stages
        self._done = 0
        self._before = _keep(exchange)

    async def run(self) -> None:
        for stage in self._stages:
            self._before = _keep(self._exchange)
            await self._try(stage)
            self._done += 1
            if self._exchange.recalled is not None:
                return

    async def _try(self, stage: Stage) -> None:
        try:
            await stage(self._exchange)
            return
        except TrimtabError as e:
            reason = e.message
        except Exception as e:
            log.exception("stage %s failed; the request goes on without it", stage.name)
            reason = f"failed with {type(e).__name__}"
        _restore(self._exchange, self._before)
        self._exchange.note(stage.name, "undone", reason)

    def out_of_time(self, seconds: float) -> None:
        exchange = self._exchange
        _restore(exchange, self._before)
        exchange.note(self._stages[self._done].name, "undone", f"the optimisations took longer than {seconds:g} s")
        for stage in self._stages[self._done + 1 :]:
            exchange.note(stage.name, "left out", "no time was left")


class _Rest:
    """What is left of a coroutine that has taken its first step and waits for `first`."""

    def __init__(self, steps: Coroutine[Any, Any, None], first: Any) -> None:
        self._steps = steps
        self._first = first

    def __await__(self) -> Generator[Any, Any, None]:
        awaited = self._first
        try:
            while True:
                try:
                    sent = yield awaited
                except GeneratorExit:
                    self._steps.close()
                    raise
                except BaseException as e:
                    awaited = self._steps.throw(e)
                else:
                    awaited = self._steps.send(sent)
        except StopIteration:
            return


_Kept = tuple[Request, tuple[Target, ...], str | None, Recorder | None]


def _keep(exchange: Exchange) -> _Kept:
    return exchange.working, exchange.targets, exchange.draft, exchange.recorder


def _restore(exchange: Exchange, kept: _Kept) -> None:
    recorder = exchange.recorder
    exchange.working, exchange.targets, exchange.draft, exchange.recorder = kept
    exchange.recalled = None
    if recorder is not None and recorder is not exchange.recorder:
        recorder.close()  # whoever waits for this answer must not wait for ever
