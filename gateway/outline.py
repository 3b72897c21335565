"""Skeleton-of-thought (arXiv 2307.15337) on the bundled engine: an outline first, then all of its points at once.

Every point is a branch of one conversation: same question, same outline, and its own heading, which it goes on from.
The engine keeps what it has read, so the branches fork from pages that are there; it decodes them in one batch, and
here they are joined in order, the first as it is written. An outline that is no clean list is let go, and the answer
is written as ever. Which requests are answered so, `Outlines` says: few, since a wrong yes costs quality.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import msgspec

from ..backends.base import Backend, Call, Stream
from ..protocol.embedded import Embeds, asked, embed_once
from ..protocol.errors import InvalidRequest, TrimtabError
from ..protocol.exchange import Exchange, Part, Target
from ..protocol.messages import Answer, Usage
from ..routing.plan import Lengths
from ..routing.policy import OutputPolicy
from ..routing.skeleton import SkeletonRouter, points
from .catalogue import Served
from .output import continuable, note
from .relay import DONE, StreamRelay, texts

log = logging.getLogger("trimtab.gateway")

_PATIENCE_S = 0.25  # for the question's vector; without it nothing is outlined
_FACT = "outlined"
ENGINE = "engine"
_BETWEEN = "\n\n"
_encode = msgspec.json.Encoder().encode
_skeleton = cache(SkeletonRouter.shipped)

OUTLINE = (
    "First write only an outline of your answer: a numbered list of three to ten points, each of them three to six "
    "words on a line of its own. Write nothing but the list."
)
POINT = "Now write the text of point {number} only: one paragraph, no list. Leave the other points to their turn."

Paid = Callable[[Usage], object]


class Outlines:
    """Decides, once for each request, before it is asked of a target. `embedder` None: never."""

    def __init__(self, embedder: Embeds | None = None) -> None:
        self._embedder = embedder

    async def suits(self, exchange: Exchange, served: Served) -> bool:
        """Whether this target is to answer in points; the plan's line says why not. Raises nothing."""
        if not exchange.policy(OutputPolicy).skeleton or served.continues != ENGINE:
            return False
        known, name = self._known(exchange), served.target.name
        if name not in known:
            why = await self._against(exchange, name)
            known[name] = not why
            if why:
                note(exchange, (Part("not outlined", why=why),))
        return known[name]

    def spare(self, exchange: Exchange, target: Target) -> None:
        """This target answers whole: a part of its answer is to be judged."""
        self._known(exchange)[target.name] = False

    def _known(self, exchange: Exchange) -> dict[str, bool]:
        known: dict[str, bool] = exchange.facts.setdefault(_FACT, {})
        return known

    async def _against(self, exchange: Exchange, target: str) -> str:
        """What speaks against it; empty where nothing does."""
        lengths = exchange.facts.get("lengths")
        if not isinstance(lengths, Lengths) or lengths.hinted:
            return "a hint asks for less" if isinstance(lengths, Lengths) else "its length is not planned"
        try:
            text = asked(exchange.working)
            if text is None or not continuable(exchange.working) or not _first_turn(exchange.working.get("messages")):
                return "tools, a form, a limit or earlier turns"
            vector = await self._vector(exchange, text)
            told = lengths.of(target, exchange)
            return _skeleton().suits(text, vector, told.p50).why
        except InvalidRequest:
            return "it cannot be read"

    async def _vector(self, exchange: Exchange, text: str) -> Any:
        if self._embedder is None:
            return None
        with suppress(TimeoutError):
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    return await embed_once(exchange, self._embedder, text)
            except TrimtabError as e:
                log.warning("an answer is not outlined: %s", e.message)
        return None


def _first_turn(messages: Any) -> bool:
    """One question in words, and perhaps a system's text before it."""
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        return False
    roles = [turn.get("role") for turn in messages]
    return roles[-1:] == ["user"] and set(roles[:-1]) <= {"system", "developer"} and isinstance(
        messages[-1].get("content"), str
    )  # fmt: skip


# The calls.


class Outline(NamedTuple):
    """`points` None: what came is no list."""

    points: tuple[str, ...] | None
    answer: Answer
    body: Mapping[str, Any]

    @property
    def used(self) -> Usage:
        return self.answer.usage or Usage(estimated=True)


async def _outline(call: Call, backend: Backend) -> Outline:
    answer = await backend.complete(_with_turns(call, _asking(call), stream=None, stream_options=None))
    body = msgspec.json.decode(answer.body)
    whole = answer.finish_reasons == ("stop",)
    return Outline(points(_text(body)) if whole else None, answer, body)


def fork(call: Call, outline: Sequence[str]) -> list[Call]:
    """A call for each point. They differ in their last lines only, so an engine reads the rest of them once."""
    written = "\n".join(f"{number}. {point}" for number, point in enumerate(outline, 1))
    before = [*_asking(call), {"role": "assistant", "content": written}]
    expected = None if call.expected is None else max(1, call.expected // len(outline))
    return [
        replace(
            _with_turns(
                call,
                [
                    *before,
                    {"role": "user", "content": POINT.format(number=number)},
                    {"role": "assistant", "content": heading(number, point)},
                ],
                stop=f"\n{number + 1}. ",  # small models run on into the next point
                continue_final_message=True,
                add_generation_prompt=False,
            ),
            request_id=f"{call.request_id}-{number}",
            expected=expected,
        )
        for number, point in enumerate(outline, 1)
    ]


def heading(number: int, point: str) -> str:
    return f"{number}. **{point.rstrip(' .:')}**:"


def _asking(call: Call) -> list[Any]:
    *before, last = call.request.get("messages")
    return [*before, {**last, "content": f"{last['content']}{_BETWEEN}{OUTLINE}"}]


def _with_turns(call: Call, turns: Sequence[Any], **fields: Any) -> Call:
    return replace(call, request=call.request.with_fields(messages=turns, **fields), draft=None)


# A whole answer.


async def complete(call: Call, backend: Backend, paid: Paid, noted: Callable[[int], object]) -> Answer:
    """The answer of all branches, or a plain one. Raises what the backend raises.

    `paid` is told what was used for nothing; `noted` how many points there are, 0 where the outline was let go.
    """
    outline = await _outline(call, backend)
    noted(len(outline.points or ()))
    if outline.points is None:
        paid(outline.used)
        return await backend.complete(call)
    branches = [asyncio.ensure_future(backend.complete(each)) for each in fork(call, outline.points)]
    try:
        answers = await asyncio.gather(*branches)
    except BaseException:
        for branch in branches:
            branch.cancel()
        over = await asyncio.gather(*branches, return_exceptions=True)
        paid(sum((each.usage or Usage() for each in over if isinstance(each, Answer)), outline.used))
        raise
    return _joined(outline, answers)


def _joined(outline: Outline, answers: Sequence[Answer]) -> Answer:
    written = [
        heading(number, point) + _text(msgspec.json.decode(answer.body)).rstrip()
        for number, (point, answer) in enumerate(zip(outline.points or (), answers, strict=True), 1)
    ]
    used = sum((answer.usage or Usage(estimated=True) for answer in answers), outline.used)
    reason = _reason(answer.finish_reasons for answer in answers)
    message = {"role": "assistant", "content": _BETWEEN.join(written)}
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    body = {**outline.body, "choices": [choice], "usage": used.to_openai()}
    return Answer(_encode(body), used, outline.answer.status, outline.answer.headers, (reason,))


def _text(body: Any) -> str:
    text = body["choices"][0]["message"].get("content")
    return text if isinstance(text, str) else ""


def _reason(reasons: Iterable[Sequence[str]]) -> str:
    """`length` if any branch was out of room, as the whole would have been."""
    return "length" if any("length" in each for each in reasons) else "stop"


# A stream.


@dataclass(slots=True)
class _Branch:
    """One point as it is written; what is not its turn yet waits in `pieces`."""

    heading: str
    stream: Stream
    relay: StreamRelay
    pieces: asyncio.Queue[str | TrimtabError | None]
    task: asyncio.Task[None] | None = None

    async def read(self) -> None:
        try:
            async for data in self.stream:
                self._tell(self.relay.feed(data))
                if self.relay.error is not None:
                    raise self.relay.error
            self._tell(self.relay.finish())
        except TrimtabError as e:
            self.pieces.put_nowait(e)
        self.pieces.put_nowait(None)

    def _tell(self, block: bytes) -> None:
        for text in texts(block):
            self.pieces.put_nowait(text)

    async def texts(self) -> AsyncIterator[str]:
        """Its text, without white space at its end. Raises what broke it."""
        held = ""
        while (piece := await self.pieces.get()) is not None:
            if isinstance(piece, TrimtabError):
                raise piece
            whole = held + piece
            told = whole.rstrip()
            held = whole[len(told) :]
            if told:
                yield told

    def spent(self) -> Usage:
        return self.relay.usage or self.stream.spent() or Usage(estimated=True)


class OutlinedStream:
    """The bytes of one answer (base.Stream): its outline is asked for when the first of them is."""

    def __init__(self, call: Call, backend: Backend, paid: Paid, noted: Callable[[int], object]) -> None:
        self.headers: Mapping[str, str] = {}
        self._call, self._backend = call, backend
        self._paid, self._noted = paid, noted
        self._plain: Stream | None = None
        self._used = Usage()
        self._branches: list[_Branch] = []
        self._bytes = self._written()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._bytes

    async def aclose(self) -> None:
        if self._plain is not None:
            await self._plain.aclose()
        for branch in self._branches:
            if branch.task is not None:
                branch.task.cancel()
            await branch.stream.aclose()
        await asyncio.gather(*(each.task for each in self._branches if each.task), return_exceptions=True)

    def spent(self) -> Usage | None:
        if self._plain is not None:
            return self._plain.spent()
        return sum((branch.spent() for branch in self._branches), self._used)

    async def _written(self) -> AsyncIterator[bytes]:
        outline = await _outline(self._call, self._backend)
        self._noted(len(outline.points or ()))
        if outline.points is None:
            self._paid(outline.used)
            self._plain = await self._backend.stream(self._call)
            async for data in self._plain:
                yield data
            return
        self._used = outline.used
        await self._fork(outline.points)
        head = {name: outline.body[name] for name in ("id", "created", "model") if name in outline.body}
        head = {**head, "object": "chat.completion.chunk"}
        yield _chunk(head, {"role": "assistant", "content": ""})
        for place, branch in enumerate(self._branches):
            yield _chunk(head, {"content": (_BETWEEN if place else "") + branch.heading})
            async for text in branch.texts():
                yield _chunk(head, {"content": text})
        yield _chunk(head, {}, _reason(branch.relay.reasons for branch in self._branches))
        used = sum((branch.spent() for branch in self._branches), self._used).to_openai()
        yield b"data: " + _encode({**head, "choices": [], "usage": used}) + b"\n\n" + DONE

    async def _fork(self, outline: Sequence[str]) -> None:
        try:
            for number, (point, call) in enumerate(zip(outline, fork(self._call, outline), strict=True), 1):
                stream = await self._backend.stream(call)
                self._branches.append(_Branch(heading(number, point), stream, StreamRelay(), asyncio.Queue()))
        except TrimtabError:
            self._paid(self._used)  # whoever is asked next begins anew
            self._used = Usage()
            raise
        for branch in self._branches:
            branch.task = asyncio.create_task(branch.read())


def _chunk(head: Mapping[str, Any], delta: Mapping[str, str], reason: str | None = None) -> bytes:
    return b"data: " + _encode({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}) + b"\n\n"
