"""Entries in a Redis or Valkey that all replicas share: a plain server, no modules, no cluster.

Three connections, so that nothing waits behind what it need not: one reads, within 50 ms; one writes, and nobody waits
for it but who deletes; one tails the stream that tells this replica what came and went, its own doings included. What
was trimmed from the stream, or was missed, is only a chance missed. Everything read is proven: the envelope's MAC, then
whether it belongs to what was asked. The scripts are in store_lua.py, a connection's life in link.py.

It knows no policy and no index. What a reply may be is checked: a broken connection can make anything of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from ..protocol.errors import StoreUnavailable
from .entry import Entry, Foreign, seal, unseal
from .key import Place
from .link import Command, Link, LinkDown
from .redis_wire import WRONG_TYPE, Dialler
from .store import Change, Held, Selection
from .store_lua import SCRIPTS

log = logging.getLogger("trimtab.store")

_PATIENCE = 1.0  # seconds for one exchange of writes
_BLOCK = 1.0  # seconds that the server holds a question about the stream
_SMALL = 256  # what a command without a body counts as, bytes
_FIRST = b"0-0"


class RedisStore:
    """`timeout` bounds an operation that somebody waits for, in seconds. `unsent` bounds the bytes that wait to be
    written, `largest` one entry, `records` the stream.

    Raises ValueError for an address that is none, without repeating it.
    """

    def __init__(
        self,
        url: str,
        secret: bytes,
        *,
        timeout: float = 0.05,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        prefix: str = "trimtab:cache",
        unsent: int = 8 << 20,
        largest: int = 2 << 20,
        records: int = 20_000,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._secret = secret
        self._timeout = timeout
        self._clock = clock
        self._sleep = sleep
        self._prefix = prefix
        self._unsent = unsent
        self._largest = largest
        self._records = records
        self._waiting = 0
        self._marks: dict[str, int] = {}
        self._stems: dict[str, str] = {}
        self._stream = f"{prefix}:changes"
        self._last = _FIRST
        self._fresh = False  # the tail's connection is new: is the stream still the one that we know?
        self._listeners: list[Callable[[Change], None]] = []
        self._following: asyncio.Task[None] | None = None
        probe = f"{prefix}:probe"
        self._reads = Link(Dialler(url, SCRIPTS, timeout, ("EXISTS", probe)), timeout=timeout)
        writing = Dialler(url, SCRIPTS, _PATIENCE, ("SET", probe, "1", "PX", 1000))
        self._writes = Link(writing, timeout=_PATIENCE)
        tail = Dialler(url, {}, _PATIENCE, ("EXISTS", probe))
        self._tail = Link(tail, timeout=_BLOCK + _PATIENCE, on_up=self._renewed)

    @property
    def healthy(self) -> bool:
        return self._reads.up and self._writes.up and self._tail.up

    @property
    def reason(self) -> str | None:
        return self._reads.reason or self._writes.reason or self._tail.reason

    async def start(self, listen: Callable[[Change], None]) -> None:
        self._listeners.append(listen)
        if self._following is None:
            await asyncio.gather(self._reads.start(), self._writes.start(), self._tail.start())
            self._following = asyncio.create_task(self._follow(), name="trimtab-cache-changes")

    async def close(self) -> None:
        task, self._following = self._following, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(self._reads.close(0), self._writes.close(), self._tail.close(0))

    async def drain(self, within: float = 1.0) -> bool:
        """Wait until everything put is answered."""
        return await self._writes.drain(within)

    # What is read.

    async def get(self, place: Place) -> Entry | None:
        owner = place.scope.tenant
        for entry in await self._read(owner, 0, (place.id,)):
            if entry is None or entry.belongs(place):
                return entry
            self._drop(owner, place.id)
        return None

    async def fetch(self, owner: str, ids: Sequence[str]) -> list[Entry]:
        if not ids:
            return []
        entries = []
        for id, entry in zip(ids, await self._read(owner, 1, ids), strict=False):
            if entry is None:
                # Whoever asked knew it from the stream: it is not there, or no more.
                self._tell(Change("gone", owner, id))
            elif entry.id != id or entry.tenant != owner:
                self._drop(owner, id)
            else:
                entries.append(entry)
        return entries

    async def held(self, owner: str) -> Held:
        match await self._ask(self._command("held", owner)):
            case [int(entries), bytes(size)] if size.isdigit():
                return Held(entries, int(size))
            case None:
                return Held()
        self.counts["foreign"] += 1
        return Held()

    async def tallies(self, owner: str, name: str) -> dict[str, float]:
        reply = await self._ask(("HGETALL", _utf8(f"{self._stem(owner)}t:{name}")))
        if reply is WRONG_TYPE:
            self.counts["foreign"] += 1
        row: dict[str, float] = {}
        for field, figure in _pairs(reply):
            try:
                row[field.decode(errors="surrogatepass")] = float(figure)
            except ValueError:
                self.counts["foreign"] += 1
        return row

    async def _ask(self, command: Command) -> Any:
        """The reply, or None: at once while the store is away, otherwise within the timeout."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._reads.ask(command)
        except LinkDown:
            self.counts["errors"] += 1
        except TimeoutError:
            self.counts["slow"] += 1
        return None

    async def _read(self, owner: str, bars: Literal[0, 1], ids: Sequence[str]) -> list[Entry | None]:
        """What stands at each of them; nothing at all if the store gave no answer."""
        reply = await self._ask(self._command("read", owner, bars, *ids))
        if reply is None:
            return []
        match reply:
            case [bytes(mark), *entries] if mark.isdigit() and len(entries) == len(ids):
                self._marks[owner] = int(mark)
                return [self._opened(owner, id, raw) for id, raw in zip(ids, entries, strict=True)]
        self.counts["foreign"] += 1
        return []

    def _opened(self, owner: str, id: str, raw: Any) -> Entry | None:
        if raw is None:
            return None
        try:
            entry = unseal(self._secret, raw if isinstance(raw, bytes) else b"")
        except Foreign:
            self._drop(owner, id)
            return None
        return entry if entry.expires > self._clock() else None

    def _drop(self, owner: str, id: str) -> None:
        """What stands there is not ours, or not this one's."""
        self.counts["foreign"] += 1
        self._send(self._command("drop", owner, "0", id))

    def mark(self, owner: str) -> int:
        """What the last look-up or the stream said. It may lag behind, which only refuses an answer too many."""
        return self._marks.get(owner, 0)

    # What is written.

    def put(self, entry: Entry, limit: int, mark: int | None = None) -> None:
        left = int((entry.expires - self._clock()) * 1000)
        if left <= 0 or entry.size > min(limit // 4, self._largest):
            self.counts["refused"] += 1
            return
        if not self._room(entry.size):
            return
        try:
            sealed = seal(self._secret, entry)
            notice = seal(self._secret, msgspec.structs.replace(entry, body=b"")) if entry.family is not None else b""
        except UnicodeEncodeError:  # half of a character in a name or a question
            self.counts["refused"] += 1
            return
        origin = () if entry.alias_of is None else (entry.alias_of,)
        labels = " ".join(("", *_labels((entry.namespace,), entry.tags, entry.sources, origin)))
        figures = (left, entry.size, entry.worth, limit)
        late = ("" if mark is None else mark, *_labels((), (), (), (entry.id,)))
        self._send(self._command("put", entry.tenant, entry.id, sealed, *figures, labels, notice, *late), entry.size)

    def used(self, entry: Entry) -> None:
        self._send(self._command("used", entry.tenant, entry.id))

    async def bar(self, owner: str, id: str, seconds: float) -> None:
        command = self._command("bar", owner, id, max(1, int(seconds * 1000)))
        try:
            await self._writes.ask(command)
        except LinkDown:
            self.counts["errors"] += 1
            self._writes.post(command)  # a verdict is not forgotten because the store is away

    async def tally(self, owner: str, name: str, figures: dict[str, float]) -> None:
        flat = [part for field, x in figures.items() if math.isfinite(x) for part in (field, repr(float(x)))]
        if flat:
            try:
                await self._writes.ask(self._command("tally", owner, name, *flat))
            except LinkDown:
                self.counts["errors"] += 1

    async def delete(self, what: Selection) -> int:
        needles = _labels(*(() if one is None else (one,) for one in (what.namespace, what.tag, what.source)))
        named = _labels((), (), (), () if what.id is None else (what.id,))
        try:
            # First, so that an answer on its way comes either before, and is found, or after, and is refused.
            mark = await self._writes.ask(self._command("deletion", what.owner, *needles, *named))
            self._learnt(what.owner, mark)
            if not needles and what.id is None:
                await self._sweep(what.owner)
            count = await self._drop_all(what.owner, "", *needles, *named)  # of an id: its aliases
            count += 0 if what.id is None else await self._drop_all(what.owner, what.id, *needles)
        except LinkDown:
            raise StoreUnavailable("the cache's store does not answer; not everything is deleted") from None
        self.counts["deleted"] += count
        return count

    async def _drop_all(self, owner: str, id: str, *needles: str) -> int:
        count, cursor = 0, b"0"
        while True:
            match await self._writes.ask(self._command("drop", owner, cursor, id, *needles)):
                case [bytes(cursor), int(gone)]:
                    count += gone
                case _:
                    raise LinkDown
            if cursor == b"0":
                return count

    def _learnt(self, owner: str, mark: Any) -> None:
        if not isinstance(mark, bytes) or not mark.isdigit():
            raise LinkDown
        self._marks[owner] = max(int(mark), self.mark(owner))

    async def _sweep(self, owner: str) -> None:
        """Everything of the owner, also what the server's own eviction has left without a row."""
        cursor = b"0"
        while True:
            ask = ("SCAN", cursor, "MATCH", self._stem(owner) + "e:*", "COUNT", 1000)
            match await self._writes.ask(ask):
                case [bytes(cursor), list(keys)]:
                    pass
                case _:
                    raise LinkDown
            if keys:
                await self._writes.ask(("UNLINK", *keys))
            if cursor == b"0":
                return

    def _room(self, size: int) -> bool:
        if self._writes.up and self._waiting + size <= self._unsent:
            return True
        self.counts["dropped"] += 1
        return False

    def _send(self, command: Command, size: int = _SMALL) -> None:
        if not self._room(size):
            return
        self._waiting += size

        def answered(future: asyncio.Future[Any]) -> None:
            self._waiting -= size
            if future.cancelled() or future.exception() is not None:
                self.counts["errors"] += 1
                return
            match future.result():
                case [int(), int(), int(), int()] as told:
                    for name, count in zip(("refused", "evicted", "expired", "foreign"), told, strict=True):
                        if count:
                            self.counts[name] += count

        self._writes.send(command).add_done_callback(answered)

    # Names.

    def _command(self, script: str, owner: str, *args: Any) -> Command:
        return (script, self._stem(owner) + "book", self._stream, _utf8(owner), self._records, *map(_sendable, args))

    def _stem(self, owner: str) -> str:
        stem = self._stems.get(owner)
        if stem is None:
            # A digest: a name may hold anything. In braces: a cluster keeps an owner's keys together.
            digest = hashlib.sha256(_utf8(owner)).hexdigest()[:24]
            stem = self._stems[owner] = f"{self._prefix}:{{{digest}}}:"
        return stem

    # What others did, and we.

    def _renewed(self) -> None:
        self._fresh = True

    async def _follow(self) -> None:
        """Tail the stream from its beginning. XREAD waits at the server, so this connection is its own."""
        while True:
            try:
                if self._fresh:
                    self._fresh = False
                    await self._check_stream()
                ask = ("XREAD", "COUNT", 256, "BLOCK", int(_BLOCK * 1000), "STREAMS", self._stream, self._last)
                reply = await self._tail.ask(ask)
            except LinkDown:
                await self._sleep(0.1)
                continue
            if reply is WRONG_TYPE:
                self.counts["foreign"] += 1
                await self._sleep(1.0)
                continue
            match reply:
                case [[_, list(records)]]:
                    for record in records:
                        self._heard(record)

    async def _check_stream(self) -> None:
        """A server that lost its memory, or another one, may count from lower numbers: then all is new."""
        newest = await self._tail.ask(("XREVRANGE", self._stream, "+", "-", "COUNT", 1))
        match newest:
            case [[bytes(id), _]] if _number(id) >= _number(self._last):
                return
        self._last = _FIRST

    def _heard(self, record: Any) -> None:
        try:
            id, fields = record
            _number(id)
            self._last = id
            for change in self._changes(dict(_pairs(fields))):
                self._tell(change)
        except (Foreign, KeyError, TypeError, ValueError, AttributeError):
            self.counts["foreign"] += 1

    def _changes(self, record: dict[bytes, bytes]) -> Iterator[Change]:
        """Raises whatever comes of a record that is not ours."""
        owner, what = record[b"o"].decode(errors="surrogatepass"), record[b"w"].decode()
        if what == "put":
            entry = unseal(self._secret, record[b"e"])
            if entry.tenant != owner:
                raise Foreign("a notice under another owner's name")
            if entry.expires > self._clock():
                yield Change("put", owner, entry.id, entry)
        elif what == "deleted":
            if owner in self._stems:  # one that this process has to do with
                self._marks[owner] = max(int(record[b"m"]), self.mark(owner))
        elif what in ("gone", "barred"):
            kind: Literal["gone", "barred"] = "gone" if what == "gone" else "barred"
            for id in record[b"i"].decode().split():
                yield Change(kind, owner, id)

    def _tell(self, change: Change) -> None:
        for listen in self._listeners:
            try:
                listen(change)
            except Exception:
                self.counts["errors"] += 1
                log.exception("a listener failed at %r of an entry", change.what)


def _labels(
    namespaces: Sequence[str], tags: Sequence[str], sources: Sequence[str], ids: Sequence[str] = ()
) -> list[str]:
    """What a deletion looks for, in digests: the book holds nobody's words."""
    kinds = (("n", namespaces), ("t", tags), ("s", sources), ("i", ids))
    return [f"{kind}:{hashlib.sha256(_utf8(text)).hexdigest()[:16]}" for kind, texts in kinds for text in texts]


def _utf8(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _sendable(part: Any) -> Any:
    """The library would refuse half a character, and with it the whole connection."""
    return _utf8(part) if isinstance(part, str) else part


def _pairs(flat: Any) -> Iterator[tuple[bytes, bytes]]:
    """A hash as the server says it: name, value, name, value. Nothing for what is none."""
    if isinstance(flat, list):
        yield from zip(flat[::2], flat[1::2], strict=False)


def _number(id: bytes) -> tuple[int, int]:
    """A stream id's place in the order. Raises ValueError for what is none."""
    high, _, low = id.partition(b"-")
    return int(high), int(low or b"0")
