"""A cascade at work: the small model's answer is seen before its client sees it, and the large one asked if it will not
do.

Of a stream the first tokens are held back, until there are enough of them to judge by or it ends; what was held goes
out at once when it is good. An answer that is not is paid for all the same (a charge on the receipt), and travels on as
the large model's draft. Decides nothing: `SecondLook` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..protocol.errors import TrimtabError
from ..protocol.exchange import Charge, Exchange, Recorder, Target
from ..protocol.messages import Answer as WholeAnswer
from ..protocol.messages import Usage
from ..routing.second_look import Said, SecondLook
from .admit import prompt_size
from .relay import generated, texts
from .retry import worth_another

if TYPE_CHECKING:
    from .answer import OpenStream

_HOLD_S = 20.0  # after which a stream is judged by what is there
_LARGEST = 256 << 10  # bytes of a stream that are held, whatever its tokens


async def complete(
    exchange: Exchange, look: SecondLook, ask: Callable[[], Awaitable[WholeAnswer]]
) -> WholeAnswer | None:
    """The small model's answer if it goes out, else None. `ask` calls that model. Raises what makes it pointless to ask
    anybody else."""
    small = exchange.targets[0]
    try:
        answer = await ask()
    except TrimtabError as e:
        _gave_none(look, e)
        return None
    second = await _second(exchange, small, ask) if look.samples > 1 else None
    text = generated(answer.body)
    cut = "length" in answer.finish_reasons and exchange.original.max_output is None
    if look.good_enough(Said(text, cut=cut, second=second, mean_logprob=answer.mean_logprob)):
        return answer
    _escalate(exchange, small, answer.usage or _estimated(exchange), text)
    return None


async def opened(exchange: Exchange, look: SecondLook, ask: Callable[[], Awaitable[OpenStream]]) -> OpenStream | None:
    """The small model's stream if it goes out, with what was held back at its front; else None.

    Raises as `complete`.
    """
    small, recorder = exchange.targets[0], exchange.recorder
    waiting = exchange.recorder = None if recorder is None else _Waiting(recorder)
    try:
        stream = await ask()
    except TrimtabError as e:
        _gave_none(look, e)
        return None
    finally:
        exchange.recorder = recorder
    try:
        text, fault = await _hold(stream, look.hold)
    except BaseException:
        await stream.aclose()
        exchange.spent = stream.relay.usage or stream.stream.spent()
        raise
    if fault is not None:
        look.failed(fault.message)
    elif look.good_enough(_said(exchange, stream, text)):
        if recorder is not None and waiting is not None:
            waiting.tell(recorder)
            stream.relay.record = recorder.event
        return stream
    await stream.aclose()
    _escalate(exchange, small, _used(exchange, stream), text)
    return None


class _Waiting:
    """Keeps for a recorder what it may be told only when it is sure to go out."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._events: list[bytes] = []

    @property
    def shared(self) -> bool:
        return self._recorder.shared

    def unshared(self, then: Callable[[], object]) -> None:
        self._recorder.unshared(then)

    def event(self, block: bytes) -> None:
        self._events.append(block)

    def done(self, target: str, usage: Usage | None, body: bytes | None = None) -> None:
        """A stream's end is told to the recorder itself."""

    def close(self, error: BaseException | None = None) -> None:
        self._events.clear()

    def tell(self, recorder: Recorder) -> None:
        for block in self._events:
            recorder.event(block)


async def _hold(stream: OpenStream, tokens: int) -> tuple[str, TrimtabError | None]:
    """Read on until there is enough to judge by: the text, and what broke it meanwhile, if anything did."""
    relay, held, said = stream.relay, [stream.first], list(texts(stream.first))
    try:
        async with asyncio.timeout(min(_HOLD_S, stream.timeouts.total)):
            while not (relay.done or relay.finished) and relay.error is None and len(said) < tokens:
                out = relay.feed(await anext(stream.chunks))
                held.append(out)
                said += texts(out)
                if sum(map(len, held)) > _LARGEST:
                    break
    except StopAsyncIteration:
        try:
            held.append(relay.finish())
        except TrimtabError as e:
            return "".join(said), e
    except TimeoutError:
        pass  # a slow answer is judged by what there is, and goes on
    except TrimtabError as e:
        return "".join(said), e
    stream.first = b"".join(held)
    return "".join(said), relay.error


def _said(exchange: Exchange, stream: OpenStream, text: str) -> Said:
    relay = stream.relay
    cut = "length" in relay.reasons and exchange.original.max_output is None
    logprob = getattr(stream.stream, "mean_logprob", None)
    return Said(text, whole=relay.finished, cut=cut, mean_logprob=logprob if isinstance(logprob, float) else None)


async def _second(exchange: Exchange, small: Target, ask: Callable[[], Awaitable[WholeAnswer]]) -> str | None:
    """Another draw, to see whether the two agree; paid for whatever comes of it."""
    try:
        answer = await ask()
    except TrimtabError:
        return None
    _charge(exchange, small, answer.usage or _estimated(exchange))
    return generated(answer.body)


def _gave_none(look: SecondLook, error: TrimtabError) -> None:
    if not worth_another(error):
        raise error
    look.failed(error.message)


def _escalate(exchange: Exchange, small: Target, usage: Usage, text: str) -> None:
    _charge(exchange, small, usage)
    exchange.draft = text or exchange.draft


def _charge(exchange: Exchange, small: Target, usage: Usage) -> None:
    exchange.receipt.charges.append(Charge("cascade", small.name, usage, small.price.of(usage)))


def _used(exchange: Exchange, stream: OpenStream) -> Usage:
    known = stream.relay.usage or stream.stream.spent()
    if known is not None:
        return known
    return stream.relay.spent(stream.served.target.upstream_model, prompt_size(exchange.working.encode()))


def _estimated(exchange: Exchange) -> Usage:
    return Usage(prompt=prompt_size(exchange.working.encode()), estimated=True)
