"""A scripted backend in this process: what it answers, how slowly and how badly is a script.

It ships in the package, so that tests, demos and users' own tests need no mock. Deterministic: the same script and the
same calls give the same bytes. It counts what it hands over to the token, so that a ledger can be held against it. It
keeps no timeouts: a script that hangs, hangs until it is cancelled or closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from ..protocol.errors import (
    InvalidRequest,
    TrimtabError,
    UpstreamAnswered,
    UpstreamCut,
    UpstreamGarbled,
    UpstreamRefusedKey,
    UpstreamUnreachable,
)
from ..protocol.messages import Answer, Usage
from .base import Call
from .fake_reply import Reply, error_body
from .fake_script import Faults, read_script
from .fake_sse import pieces
from .fake_tally import CallRecord, Counts, Tally

Sleep = Callable[[float], Awaitable[Any]]


class FakeBackend:
    """Answers as its script says. `sleep` may be a simulated one; `keep` bounds the records of single calls.

    Raises ValueError when the script names something unknown.
    """

    def __init__(
        self, script: Mapping[str, Any] | None = None, *, sleep: Sleep = asyncio.sleep, keep: int = 10_000
    ) -> None:
        self.script = read_script(script or {})
        self._sleep = sleep
        self._tally = Tally(keep)
        self._started = False

    @property
    def counts(self) -> Counts:
        return self._tally.counts

    @property
    def records(self) -> deque[CallRecord]:
        return self._tally.records

    async def start(self) -> None:
        self._started = True

    async def close(self) -> None:
        self._started = False

    def ready(self) -> bool:
        return self._started

    async def complete(self, call: Call) -> Answer:
        """The whole answer; the prompt counts as used once it is accepted, the answer's tokens when it is returned."""
        record = self._open(call, stream=False)
        try:
            reply = await self._accept(call, record)
            self._tally.spend(record, reply.usage(0, 0))
            await self._sleep(reply.script.first_byte_s)
            await self._interrupted(reply.script.faults)
        except BaseException as e:
            self._tally.closed(record, "failed" if isinstance(e, TrimtabError) else "aborted")
            raise
        body = reply.plain()
        self._tally.spend(record, reply.usage())
        self._tally.closed(record, "completed")
        silent = reply.garble & {"usage_null", "usage_absent"}
        finishes = () if "no_finish" in reply.garble else (reply.finish,) * reply.choices
        usage = None if silent else reply.usage()
        return Answer(body, usage, headers=_headers(reply), finish_reasons=finishes)

    async def stream(self, call: Call) -> FakeStream:
        """An open stream; from here on the prompt counts as used."""
        record = self._open(call, stream=True)
        try:
            reply = await self._accept(call, record)
        except BaseException as e:
            self._tally.closed(record, "failed" if isinstance(e, TrimtabError) else "aborted")
            raise
        return FakeStream(reply, record, self._tally, self._sleep)

    def _open(self, call: Call, stream: bool) -> CallRecord:
        return self._tally.opened(call.kind, call.request_id, call.tenant, call.request.model, stream)

    async def _accept(self, call: Call, record: CallRecord) -> Reply:
        """What comes before the status, then the status."""
        script = self.script.for_call(record.model, record.number)
        faults = script.faults
        if faults.wire is not None:
            raise InvalidRequest(f"the fault '{faults.wire}' needs a socket: backends/fake_server.py", param="model")
        if faults.refuse:
            raise UpstreamUnreachable("the upstream refuses connections")
        if script.accept_s:  # without a delay there is no moment in which a caller can leave unaccepted
            await self._sleep(script.accept_s)
        if faults.silent:
            await asyncio.Event().wait()
        if faults.status is not None:
            raise _refusal(faults, faults.status)
        return Reply(script, call.request, record.number)

    @staticmethod
    async def _interrupted(faults: Faults) -> None:
        """The faults that strike in the middle of a plain answer."""
        if faults.hang_after is not None or "comments_forever" in faults.garble:
            await asyncio.Event().wait()
        if faults.cut_after is not None:
            raise UpstreamCut("the upstream broke off its answer")


class FakeStream:
    """One scripted stream. `aclose` wakes a reader that waits in it; that reader sees the stream's end."""

    def __init__(self, reply: Reply, record: CallRecord, tally: Tally, sleep: Sleep) -> None:
        self.headers: Mapping[str, str] = _headers(reply)
        self._reply = reply
        self._record = record
        self._tally = tally
        self._sleep = sleep
        self._pieces = pieces(reply)
        self._ahead = next(self._pieces, None)
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tally.spend(record, reply.usage(0, 0))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = self._ahead
        if piece is None or self._gone.done():
            raise StopAsyncIteration
        await self._wait(None if piece.end == "hang" else piece.wait)
        if self._gone.done():
            raise StopAsyncIteration
        self._ahead = next(self._pieces, None)
        used = self._record.usage
        self._tally.spend(
            self._record, self._reply.usage(used.completion + piece.tokens, used.reasoning + piece.reasoning)
        )
        if self._ahead is None:
            self._tally.closed(self._record, "failed" if piece.end else "completed")
        if piece.end:
            raise StopAsyncIteration
        return piece.data

    async def aclose(self) -> None:
        self._tally.closed(self._record, "aborted")
        if not self._gone.done():
            self._gone.set_result(None)

    def spent(self) -> Usage:
        return self._record.usage

    async def _wait(self, seconds: float | None) -> None:
        """Sleep (None: for ever) until `aclose`. A sleep of zero still lets others run."""
        if seconds is None:
            await asyncio.wait({self._gone})
        elif seconds == 0:
            await self._sleep(0)
        else:
            nap = asyncio.ensure_future(self._sleep(seconds))
            try:
                await asyncio.wait({nap, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                nap.cancel()


def _refusal(faults: Faults, status: int) -> TrimtabError:
    """The scripted status as a backend on a socket would raise it."""
    body = error_body(faults, status)
    if status in (401, 403):
        return UpstreamRefusedKey(f"the upstream refused the gateway's own credentials (status {status})")
    if status >= 400:
        return UpstreamAnswered(status, body, retry_after=faults.retry_after)
    if status == 200 and b'"error"' in body:
        return UpstreamAnswered(502, body)
    return UpstreamGarbled(f"the upstream answered with status {status}, which is no answer")


def _headers(reply: Reply) -> dict[str, str]:
    return {"x-request-id": f"req_fake{reply.number}", **reply.script.headers}
