"""The port through which everything that can answer is reached: two verbs, `complete` and `stream`.

Both speak OpenAI's wire bytes. An HTTP backend relays its upstream's own; the engine and the fake write theirs. So the
gateway has one reader of streams (`gateway/relay.py`), whoever answers.

Errors are raised from the tree in protocol/errors.py: UpstreamError for whatever is behind us, ClientError when the
backend itself refuses the request (a prompt too long for the engine, say).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ..protocol.messages import Answer, Kind, Request, Usage


@dataclass(frozen=True, slots=True)
class Timeouts:
    """All in seconds. `first_token` counts from the call to the first byte of the answer, `idle` between chunks."""

    connect: float = 3.0
    first_token: float = 60.0
    idle: float = 30.0
    total: float = 600.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a backend. `request` already carries the upstream's model name, and for a stream
    `stream_options.include_usage`; `headers` are the few client headers that may travel on.

    Hints for a scheduler of one's own, which promise nothing: `expected` is how many tokens the answer is likely to
    have (a median; None: nobody knows), so how much memory to set aside and how far ahead to guess; `priority` 0 is
    somebody who waits, 1 what may come later.

    `judged`: whoever asks will judge the answer by how probable its model found it, so a backend that can know says
    `mean_logprob`, of the answer or the stream.
    """

    kind: Kind
    request: Request
    request_id: str
    tenant: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    draft: str | None = None
    expected: int | None = None
    priority: int = 0
    judged: bool = False


class Stream(Protocol):
    """An open stream. Each item is bytes of the SSE body, cut anywhere; the upstream has answered 200 before.

    `aclose` stops the answer within moments, however far it got, and may be called twice. `spent` is what the backend
    itself knows it has generated so far, exact; None where only the upstream knows.
    """

    headers: Mapping[str, str]

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...

    def spent(self) -> Usage | None: ...


class Backend(Protocol):
    """Who can answer. `start` is called once on the event loop before the first call, `close` once after the last."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def complete(self, call: Call) -> Answer:
        """A whole answer. Cancelling it cancels the work behind it."""
        ...

    async def stream(self, call: Call) -> Stream:
        """Open a stream; returns once the upstream has accepted the request."""
        ...

    def ready(self) -> bool:
        """Whether it could answer now (a model still loading says False)."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A backend that computes here, and can say how it stands."""

    def measures(self) -> Mapping[tuple[str, str], int]:
        """Counts of `pages` of its memory (free, cached, used) and of `answers` (running, waiting): what, in which
        state. Costs nothing; may be called at any time."""
        ...
