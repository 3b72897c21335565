"""Listens to an answer that is to be audited, beside whoever else listens, and keeps it once it is complete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..protocol.exchange import Recorder
from ..protocol.messages import Usage

if TYPE_CHECKING:
    from .asking import Decision

_LARGEST = 1 << 20  # bytes of an answer that is kept


@dataclass(frozen=True, slots=True)
class Heard:
    """A complete answer: `body` where it was no stream, else its `events`."""

    target: str
    body: bytes | None
    events: tuple[bytes, ...] = ()


class Sampled:
    """A Recorder around another one, which it does not change."""

    def __init__(self, inner: Recorder | None, decision: Decision) -> None:
        self._inner = inner
        self._decision = decision
        self._events: list[bytes] = []
        self._size = 0

    @property
    def shared(self) -> bool:
        return self._inner is not None and self._inner.shared

    def unshared(self, then: Callable[[], object]) -> None:
        if self._inner is not None:
            self._inner.unshared(then)

    def event(self, block: bytes) -> None:
        if self._inner is not None:
            self._inner.event(block)
        self._size += len(block)
        if self._size <= _LARGEST:
            self._events.append(block)

    def done(self, target: str, usage: Usage | None, body: bytes | None = None) -> None:
        if self._inner is not None:
            self._inner.done(target, usage, body)
        if self._size <= _LARGEST and len(body or b"") <= _LARGEST:
            self._decision.whole = Heard(target, body, tuple(self._events))

    def close(self, error: BaseException | None = None) -> None:
        if self._inner is not None:
            self._inner.close(error)
