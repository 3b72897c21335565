"""The thread behind an embedder: requests that come while a batch runs are merged into the next one.

The event loop's side looks up what is known and waits for the rest; the thread loads the model, reads texts into
tokens, runs one batch after another and hands vectors out. What is next is embed_queue.py's to say.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ..protocol.errors import Draining, Internal, ModelUnavailable, Overloaded, TrimtabError
from .embed import Embedded, EmbedOptions, Encoder
from .embed_cache import VectorCache, text_keys
from .embed_queue import FairQueue, Item, Job
from .embed_text import MOST_CHARS

log = logging.getLogger("trimtab.embed")

_MOST_WAITING_CHARS = 64 << 20
_RETRY_LOAD_S = 30.0
# Hashing this much takes about a millisecond; more leaves the event loop.
_FEW_TEXTS, _FEW_CHARS = 256, 200_000


@dataclass(slots=True)
class _Asked:
    """A call's keys in its own order, its job, and whether there is anything to wait for."""

    keys: list[bytes]
    job: Job
    done: asyncio.Future[None]


class EmbedWorker:
    """One model, its thread, its queue and its cache. `load` is called on the thread, when the first text comes."""

    def __init__(
        self,
        model: str,
        load: Callable[[], Encoder],
        options: EmbedOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dimensions = 0
        self._model, self._load, self._clock = model, load, clock
        self._most_waiting = options.most_waiting
        self._changed = threading.Condition()
        self._cache = VectorCache(options.cache_mb << 20)
        self._queue = FairQueue()
        self._pending: dict[bytes, Item] = {}
        self._waiting_chars = 0
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._encoder: Encoder | None = None
        self._failure: ModelUnavailable | None = None
        self._failed_at = 0.0

    # The event loop's side.

    def start(self) -> None:
        """Begin to load; returns at once."""
        with self._changed:
            self._ensure_thread()

    async def close(self) -> None:
        """End after the batch that runs; who still waits is told Draining."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def ready(self) -> bool:
        return self._encoder is not None and not self._stopping

    async def embed(self, texts: Sequence[str], tenant: str) -> Embedded:
        few = len(texts) <= _FEW_TEXTS and sum(map(len, texts)) <= _FEW_CHARS
        loop = asyncio.get_running_loop()
        ask = partial(self._ask, tuple(texts), tenant, loop, loop.create_future())
        asked = ask() if few else await asyncio.to_thread(ask)
        # Cancelled here, only the future ends: the job stays queued and its vectors get warm.
        await asked.done
        records = [asked.job.found[key] for key in asked.keys]
        from .embed_vectors import unpack  # numpy: the thread has imported it long since

        read = partial(unpack, records, self.dimensions)
        return Embedded(*(read() if few else await asyncio.to_thread(read)))

    def _ask(
        self, texts: tuple[str, ...], tenant: str, loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]
    ) -> _Asked:
        keys = text_keys(self._model, tenant, texts)
        done.add_done_callback(_retrieve)
        job = Job(partial(_settle, loop, done))
        with self._changed:
            unknown: dict[bytes, str] = {}
            for key, text in zip(keys, texts, strict=True):
                record = self._cache.get(key)
                if record is not None:
                    job.found[key] = record
                else:
                    unknown[key] = text
            if unknown or not self._encoder:
                self._enqueue(job, unknown)
            else:
                job.settle(None)
        return _Asked(keys, job, done)

    def _enqueue(self, job: Job, unknown: dict[bytes, str]) -> None:
        """Raises Draining, Overloaded, or why the model could not be loaded a moment ago."""
        if self._stopping:
            raise Draining("the embedder is stopping")
        if self._failure is not None and self._clock() < self._failed_at + _RETRY_LOAD_S:
            raise ModelUnavailable(self._failure.message, detail=self._failure.detail)
        fresh = {key: text for key, text in unknown.items() if key not in self._pending}
        chars = sum(min(len(text), MOST_CHARS) for text in fresh.values())
        if len(self._pending) + len(fresh) > self._most_waiting or self._waiting_chars + chars > _MOST_WAITING_CHARS:
            raise Overloaded(f"the embedder already has {len(self._pending)} texts waiting", retry_after=1.0)
        for key, text in fresh.items():
            self._pending[key] = Item(key, text[:MOST_CHARS])
        self._waiting_chars += chars
        for key in unknown:
            job.ask(self._pending[key])
        self._queue.add(job)
        self._ensure_thread()
        self._changed.notify()

    def _ensure_thread(self) -> None:
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._main, name="trimtab-embed", daemon=True)
            self._thread.start()

    # The thread's side.

    def _main(self) -> None:
        self._try_load()
        while True:
            with self._changed:
                while not self._stopping and not len(self._queue):
                    self._changed.wait()
                if self._stopping:
                    return self._give_up(Draining("the embedder is stopping"))
            encoder = self._encoder or self._try_load()
            if encoder is None:
                continue
            try:
                self._round(encoder)
            except Exception:  # nobody may wait for ever for a thread that is gone
                log.exception("a batch of texts could not be embedded")
                with self._changed:
                    self._give_up(Internal("the texts could not be embedded"))

    def _try_load(self) -> Encoder | None:
        """The model, or None, and then whoever waits has been told why."""
        try:
            encoder = self._load()
        except ModelUnavailable as e:
            log.error("the embedder cannot be loaded: %s", e)
            failure = e
        except Exception:  # whatever else is wrong must reach the callers who wait
            log.exception("the embedder cannot be loaded")
            failure = ModelUnavailable("the embedder's model could not be loaded; the log says why")
        else:
            with self._changed:
                self.dimensions, self._encoder, self._failure = encoder.dimensions, encoder, None
            return encoder
        with self._changed:
            self._failure, self._failed_at = failure, self._clock()
            self._give_up(failure)
        return None

    def _give_up(self, error: TrimtabError) -> None:
        self._pending.clear()
        self._waiting_chars = 0
        for job in self._queue.drain():
            job.settle(error)

    def _round(self, encoder: Encoder) -> None:
        """Read what is new into tokens, embed one batch, hand it out."""
        with self._changed:
            chunks = self._queue.to_read()
        for chunk in chunks:
            self._prepare(encoder, chunk)
        with self._changed:
            self._queue.was_read()
            batch = self._queue.take(encoder.most_tokens, encoder.most_texts)
        outcome = self._encode(encoder, batch)
        with self._changed:
            for item, record in zip(batch, outcome, strict=True):
                self._finish(item, record)
            for job in self._queue.finished():
                job.settle(None)

    def _prepare(self, encoder: Encoder, chunk: list[Item]) -> None:
        try:
            for item, prepared in zip(chunk, encoder.prepare([item.text for item in chunk]), strict=True):
                item.prepared = prepared
        except Exception:
            log.exception("texts could not be read into tokens")  # the items stay unprepared, and fail one by one

    def _encode(self, encoder: Encoder, batch: list[Item]) -> list[bytes | None]:
        """A record for each text, or None where it cannot be embedded even alone."""
        from .embed_vectors import pack

        ready = [item.prepared for item in batch if item.prepared is not None]
        try:
            if len(ready) < len(batch):
                raise ValueError("a text was not read")
            return [*pack(encoder.encode(ready), [prepared.size for prepared in ready])] if batch else []
        except Exception:
            if len(batch) > 1:  # one tenant's text must not fail another's
                return [record for item in batch for record in self._encode(encoder, [item])]
            log.exception("a text could not be embedded")
            return [None]

    def _finish(self, item: Item, record: bytes | None) -> None:
        self._forget(item)
        if record is not None:
            self._cache.put(item.key, record)
        for job in tuple(item.owners):
            if record is None:
                self._fail(job, Internal("a text could not be embedded"))
            else:
                job.found[item.key] = record
                job.left -= 1

    def _fail(self, job: Job, error: TrimtabError) -> None:
        """End a job; what only it wanted is not embedded any more."""
        if not self._queue.remove(job):
            return  # another of its texts has ended it
        for item in (*job.read, *job.unread):
            item.owners.remove(job)
            if not item.owners and not item.taken:
                self._forget(item)
        job.settle(error)

    def _forget(self, item: Item) -> None:
        del self._pending[item.key]
        self._waiting_chars -= len(item.text)


def _retrieve(done: asyncio.Future[None]) -> None:
    """A call that was cancelled before it waited never looks at its error, and asyncio would complain."""
    if not done.cancelled():
        done.exception()


def _settle(loop: asyncio.AbstractEventLoop, done: asyncio.Future[None], error: TrimtabError | None) -> None:
    """Tell the waiting call, from any thread. Nobody may be there any more."""

    def tell() -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    try:
        loop.call_soon_threadsafe(tell)
    except RuntimeError:  # the event loop is closed
        log.debug("an embedding has nobody waiting any more")
