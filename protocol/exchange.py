"""The Exchange: one request on its way through the pipeline, with its receipt.

The original request is never edited: stages replace `working`. A stage reads its own part of the tenant's policy with
`exchange.policy(CachePolicy)`, so this room needs to know no policy. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec

from .messages import Answer, Request, Usage

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in micro-dollars per million tokens (2.00 USD per million = 2_000_000)."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    known: bool = False

    def of(self, usage: Usage) -> int:
        """The cost of `usage` in micro-dollars, rounded half up."""
        fresh = usage.prompt - usage.cached
        pico = fresh * self.input + usage.cached * self.cached_input + usage.completion * self.output
        return (pico + 500_000) // 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """A tenant's limits; None means unlimited. Money is in micro-dollars."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    microusd_per_day: int | None = None
    concurrent: int | None = None

    @property
    def any(self) -> bool:
        return (
            self.requests_per_minute is not None
            or self.tokens_per_minute is not None
            or self.microusd_per_day is not None
            or self.concurrent is not None
        )


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose request it is: taken from the key, never from anything else the client says.

    `epoch` digests the policies that can change an answer: what was kept under others is not given again.
    """

    name: str
    limits: Limits = Limits()
    policies: Mapping[type, Any] = field(default_factory=dict)
    epoch: bytes = b""

    def policy(self, kind: type[P]) -> P:
        """This tenant's policy of one room; the room's defaults where the operator set none."""
        found = self.policies.get(kind)
        return found if found is not None else kind()


@dataclass(frozen=True, slots=True)
class Caller:
    """A tenant together with the key it used. `key_id` is safe to log; `models` None means any model."""

    tenant: Tenant
    key_id: str = "none"
    models: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One configured model that can answer: the backend's name, the name the upstream knows it by, its price.

    `epoch` digests where it is and what it is called there. `context`: tokens of prompt and answer together;
    `supports`: of tools, vision, audio, json and schema what it takes; each None where nobody said.
    """

    name: str
    backend: str
    upstream_model: str
    price: Price = Price()
    max_output: int | None = None
    epoch: bytes = b""
    context: int | None = None
    supports: frozenset[str] | None = None


class Part(msgspec.Struct, omit_defaults=True, frozen=True):
    """One thing that a stage did, or left alone, in one place: `what` in words, `where` as `messages[3]` or `tools`.

    `tokens` is what it took out (an estimate), `count` how many of the thing there were, `why` the reason, if it needs
    one. Never the text itself: receipts are kept.
    """

    what: str
    where: str = ""
    tokens: int = 0
    count: int = 1
    why: str | None = None


class Charge(msgspec.Struct, omit_defaults=True, frozen=True):
    """A call that a stage made beside the answer (a summary, a judge), and what it cost in micro-dollars."""

    stage: str
    model: str
    usage: Usage
    microusd: int = 0


class ReceiptLine(msgspec.Struct, omit_defaults=True):
    """What one stage did, or why it did nothing. Money in micro-dollars, time in milliseconds; `entry` is the cache's
    name for the answer that was served or drafted, `score` how likely it was to be the right one (absent: it was);
    `length` is how many tokens the answer was foreseen to have: P50, P90, P99, P99.9."""

    stage: str
    did: str
    reason: str | None = None
    tokens_before: int | None = None
    tokens_after: int | None = None
    saved_microusd: int | None = None
    cost_microusd: int | None = None
    ms: float | None = None
    parts: list[Part] = []
    entry: str | None = None
    score: float | None = None
    length: tuple[int, int, int, int] | None = None


class Routed(msgspec.Struct, omit_defaults=True, frozen=True):
    """How it was decided who answers, with what a replay needs: by model, P(good) as it was thought, the cost of this
    request as it was planned (micro-dollars), the prices (input, cached input, output; micro-dollars per million
    tokens). `distance` above 1 is out of domain; `chance` is how likely just this choice was; `session` and
    `calibration` are digests; `why` is the reason's kind."""

    small: str
    large: str
    chose: str
    goal: str
    why: str = ""
    good: dict[str, float] = {}
    distance: float | None = None
    prompt_tokens: int = 0
    costs: dict[str, int] = {}
    prices: dict[str, tuple[int, int, int]] = {}
    session: str = ""
    chance: float = 1.0
    audited: bool = False
    calibration: str = ""


class Receipt(msgspec.Struct, omit_defaults=True):
    """The whole story of one request; kept in the ledger and given to the tenant who asked."""

    id: str
    tenant: str
    at: float  # seconds since the epoch, UTC
    model: str = ""
    target: str = ""
    kind: str = ""
    stream: bool = False
    status: int = 0
    outcome: str = "open"  # ok | error | disconnected | cut
    error: str | None = None
    usage: Usage | None = None
    cost_microusd: int = 0
    saved_microusd: int = 0
    priced: bool = False
    attempts: int = 0
    retries: list[str] = []
    first_byte_ms: float | None = None
    total_ms: float | None = None
    lines: list[ReceiptLine] = []
    charges: list[Charge] = []
    routed: Routed | None = None
    end_user: str | None = None
    tags: list[str] = []


class Recalled(Protocol):
    """An answer that nobody need be called for: it is kept, or on its way to somebody who asked the same.

    Both give None when it never comes; then the request goes on as if there had been nothing. `target` names the model
    that gave it, `usage` is what it cost whoever asked first; each once it is known.
    """

    @property
    def target(self) -> str: ...

    @property
    def usage(self) -> Usage | None: ...

    async def whole(self) -> Answer | None: ...

    async def stream(self) -> AsyncIterator[bytes] | None:
        """Bytes of an SSE body, cut at events, with usage where the upstream told it. Closing it is enough."""
        ...


class Recorder(Protocol):
    """Is told an answer as it passes, so that it can be given again. It never holds up nor fails the answer."""

    @property
    def shared(self) -> bool:
        """Whether others wait for this very answer: then it goes on though its own client has left."""
        ...

    def unshared(self, then: Callable[[], object]) -> None:
        """Have `then` called when the last of them has left."""
        ...

    def event(self, block: bytes) -> None:
        """Whole events of a stream, as the upstream sent them."""
        ...

    def done(self, target: str, usage: Usage | None, body: bytes | None = None) -> None:
        """The answer is complete; `body` where it was no stream."""
        ...

    def close(self, error: BaseException | None = None) -> None:
        """No more comes. After `done` this changes nothing."""
        ...


@dataclass(slots=True)
class Exchange:
    """One request walking the pipeline.

    `targets` is the ranked list of who may answer (the rest are fallbacks); `recalled` set by a stage ends the walk;
    `recorder` wants to be told the answer; `draft` is text that a near miss leaves for a speculating engine. `spent` is
    what the answer used, once known.
    """

    id: str
    original: Request
    working: Request
    caller: Caller
    receipt: Receipt
    headers: Sequence[tuple[bytes, bytes]]  # the client's as ASGI gives them, credentials removed
    started: float  # monotonic seconds
    targets: tuple[Target, ...] = ()
    pair: tuple[str, str] | None = None  # the names of the small and the large model, where a route was asked for
    recalled: Recalled | None = None
    recorder: Recorder | None = None
    draft: str | None = None
    spent: Usage | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def tenant(self) -> Tenant:
        return self.caller.tenant

    def policy(self, kind: type[P]) -> P:
        return self.caller.tenant.policy(kind)

    def header(self, name: bytes) -> str | None:
        """One of the client's headers; `name` in lower case."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    def note(self, stage: str, did: str, reason: str | None = None, **figures: Any) -> None:
        """Write one line on the receipt."""
        self.receipt.lines.append(ReceiptLine(stage, did, reason, **figures))


class Stage(Protocol):
    """One step of the way. It may change `working`, `targets`, `recalled`, `recorder` or `draft`, and writes its line.

    `waits` says whether it ever waits for anything; one that does needs a deadline.
    """

    name: str
    waits: bool

    async def __call__(self, exchange: Exchange) -> None: ...
