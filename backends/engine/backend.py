"""The bundled engine as a backend: OpenAI requests in, OpenAI bytes out, a small model on this machine between.

The model lives on its own thread (`loop.py`); here is only the event loop's side. torch and the tokenizer's library are
imported on that thread, so a gateway that has this backend starts as fast as one that has not.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import time
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...protocol.errors import ModelUnavailable, NotSupported, UpstreamTimeout
from ...protocol.messages import Answer
from ..base import Call
from .download import Lines
from .loop import Loop, log
from .request import Sampling
from .sequence import Job
from .settings import Settings
from .stream import EngineStream, fold
from .tasks import read_tasks
from .weights import CATALOGUE, obtain

if TYPE_CHECKING:
    from .loaded import Loaded

_POLL_S = 0.05
_SPINS = "1000"  # a few microseconds


def _entropy() -> int:
    return secrets.randbits(64)


class EngineBackend:
    """A model of the catalogue, or a .gguf file, run here."""

    def __init__(
        self,
        weights: str,
        *,
        folder: Path | None = None,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[], int] = _entropy,
        **options: Any,
    ) -> None:
        """`weights` is a name of the catalogue (fetched if need be, into `folder`) or a path; `options` are those of
        `Settings`."""
        self._weights = weights
        entry = CATALOGUE.get(weights)
        self._usual = Sampling() if entry is None else Sampling(temperature=entry.temperature, top_p=entry.top_p)
        self._clock, self._entropy = clock, entropy
        settings = Settings(**options)
        self._loop = Loop(partial(_load, weights, folder, settings, clock), settings.most_waiting)

    async def start(self) -> None:
        """Begin to load; returns at once. Calls that come before the model is there wait for it."""
        self._loop.start()

    async def close(self) -> None:
        """Stop after the current step; open answers end with Draining."""
        await asyncio.to_thread(self._loop.stop)

    def ready(self) -> bool:
        return self._loop.ready

    def measures(self) -> dict[tuple[str, str], int]:
        """How its memory and its queue stand, as base.Measured has it."""
        return self._loop.measures()

    async def complete(self, call: Call) -> Answer:
        """The whole answer, folded from the same events as a stream."""
        async with aclosing(await self._open(call)) as stream:
            return await fold(stream)

    async def stream(self, call: Call) -> EngineStream:
        """Open a stream; returns once the request is checked and queued."""
        return await self._open(call)

    async def submit(self, begin: Callable[[Loaded], Job], seconds: float) -> None:
        """Wait for the model, then queue the job that `begin` makes of it, on a thread of its own: the work that other
        parts of the engine do beside answers. Raises as a call does."""
        loaded = await self._wait(seconds)
        self._loop.submit(await asyncio.to_thread(begin, loaded))

    async def _open(self, call: Call) -> EngineStream:
        if call.kind == "embeddings":
            raise NotSupported("the bundled engine makes no embeddings", param="model")
        loaded = await self._wait(call.timeouts.first_token)
        # Rendering and encoding a long conversation takes milliseconds: not on the event loop.
        ask, tasks = await asyncio.to_thread(read_tasks, call, loaded, self._usual, self._entropy())
        stream = EngineStream(call, ask, tasks, loaded, int(self._clock()))
        self._loop.submit(stream.job)
        return stream

    async def _wait(self, seconds: float) -> Loaded:
        """The model, once it is there. Raises why it is not: ModelUnavailable, or UpstreamTimeout."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if self._loop.failure is not None:
                        raise ModelUnavailable(self._loop.failure.message)
                    if self._loop.loaded is not None:
                        return self._loop.loaded
                    await asyncio.sleep(_POLL_S)  # the loading thread knows no event loop
        except TimeoutError:
            raise UpstreamTimeout("first_token", seconds) from None


def _load(weights: str, folder: Path | None, settings: Settings, clock: Callable[[], float]) -> Loaded:
    path = obtain(weights, folder, Lines(log.info))
    small = None if settings.draft_weights is None else obtain(settings.draft_weights, folder, Lines(log.info))
    # torch's threads wait for one another by spinning, for milliseconds. Where others want the same cores, those who
    # are waited for do not run: cores that are shared with a busy event loop then give a twentieth of their tokens.
    # Read once, when libgomp is loaded; whoever set it knows better.
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    try:
        from .loaded import load
    except ImportError as e:
        raise ModelUnavailable(
            "the bundled engine is not installed", detail=f"{e}; install it with: pip install 'trimtab[engine]'"
        ) from e
    try:
        return load(path, lambda: datetime.fromtimestamp(clock()), settings, small)
    except (MemoryError, OSError, RuntimeError) as e:
        if not _short_of_memory(e):
            raise
        cure = f"lower kv_mb, of which there are {settings.kv_mb} for keys and values, or take a smaller model"
        raise ModelUnavailable("there is too little memory here for the model", detail=f"{e}; {cure}") from e


def _short_of_memory(error: Exception) -> bool:
    """numpy, the system and torch each say so in a way of their own."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)
