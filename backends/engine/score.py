"""How probable the engine's model finds a text, token by token: what compression by self-information reads.

A text is read in windows, each a reading of its own among the answers that are being made (sequence.py). This module
knows nothing of why it is asked, and makes no answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...protocol.errors import ContextTooLong, TrimtabError
from .sequence import Job, Reading, Surprises

if TYPE_CHECKING:
    from .backend import EngineBackend
    from .loaded import Loaded

_WINDOW = 2048  # tokens: what is farther away says little about a word, and attention over it costs more
_OVERLAP = 4  # a window begins a fourth of one before the tokens that it is read for
_MOST_TOKENS = 65_536
_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class TextScores:
    """The tokens of a text in order: `starts` and `ends` in characters, `logprobs` in nats. All of one length.

    A character that is made of several tokens belongs to each of them.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    logprobs: NDArray[np.float32]


class EngineScorer:
    """Log-probabilities of texts under one engine's model. Cancelling a call stops its work at the next step."""

    def __init__(self, backend: EngineBackend, window: int = _WINDOW) -> None:
        """`window` in tokens, what is given included; the model's own context where that is shorter."""
        self._backend = backend
        self._window = window

    async def logprobs(self, text: str, given: str = "") -> TextScores:
        """Each token of `text` given `given` and what is before it in the text; the first one of a text that is
        given nothing follows the model's mark for a beginning.

        Raises ContextTooLong for a text of more than 65,536 tokens, ModelUnavailable, Overloaded or Draining.
        """
        result: asyncio.Future[TextScores] = asyncio.get_running_loop().create_future()
        answer = _Answer(result)
        try:
            await self._backend.submit(partial(self._job, text, given, answer), _WAIT_S)
            return await result
        finally:
            answer.cancel()

    def _job(self, text: str, given: str, answer: _Answer, loaded: Loaded) -> Job:
        tokenizer = loaded.tokenizer
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        if tokenizer.least_tokens(text) <= _MOST_TOKENS:
            ids, places = tokenizer.encode_places(text)
        if not (text == "" or 0 < len(ids) <= _MOST_TOKENS):
            raise ContextTooLong(f"a text of more than {_MOST_TOKENS} tokens is not scored")
        window = min(self._window, loaded.context)
        before = [_beginning(loaded), *tokenizer.encode(given)][-(window // 2) :]
        offsets = np.array(places, dtype=np.int64).reshape(-1, 2)
        answer.places = offsets[:, 0], offsets[:, 1]
        answer.job = Job(readings(before, ids, max(2, window - len(before))), answer.emit)
        return answer.job


class _Answer:
    """Where the engine's thread leaves a result for the event loop that waits for it."""

    def __init__(self, result: asyncio.Future[TextScores]) -> None:
        self._result = result
        self._loop = result.get_loop()
        self._logs: dict[int, list[NDArray[np.float32]]] = {}
        self.places: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
        self.job: Job | None = None

    def emit(self, said: Sequence[Any] | TrimtabError | None) -> None:
        """On the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._take, said)
        except RuntimeError:  # the event loop is closed
            self.cancel()

    def cancel(self) -> None:
        if self.job is not None:
            self.job.cancelled = True

    def _take(self, said: Sequence[Any] | TrimtabError | None) -> None:
        if self._result.done():
            return
        if isinstance(said, TrimtabError):
            self._result.set_exception(said)
        elif said is not None:
            self._logs |= {event.choice: event.logs for event in said if isinstance(event, Surprises)}
        elif self.places is not None:
            logs = [log for _, window in sorted(self._logs.items()) for log in window]
            whole = np.concatenate(logs) if logs else np.zeros(0, dtype=np.float32)
            self._result.set_result(TextScores(*self.places, whole))


def readings(before: Sequence[int], ids: Sequence[int], room: int) -> list[Reading]:
    """One for each window of at most `room` of `ids`, all behind `before`, which has at least one token."""
    out = []
    for i, (start, new, end) in enumerate(windows(len(ids), room)):
        # The last token is nobody's context: it is scored, not read.
        out.append(Reading([*before, *ids[start : end - 1]], ids[new:end], len(before), i))
    return out


def windows(count: int, room: int) -> Iterator[tuple[int, int, int]]:
    """(start, new, end) of windows of at most `room` tokens: each token is new in one, and begins in the middle of the
    text only where tokens before it are read along."""
    start = new = 0
    while new < count:
        end = min(count, start + room)
        yield start, new, end
        start, new = max(0, end - room // _OVERLAP), end


def _beginning(loaded: Loaded) -> int:
    tokenizer = loaded.tokenizer
    return tokenizer.bos if tokenizer.bos is not None else min(tokenizer.ends, default=0)
