"""The ledger: every settled request, written down once.

`record` costs the event loop about a microsecond; one thread writes groups, each a transaction, at the latest
`flush_after` seconds after the first receipt of the group. So a killed process loses at most that group, an orderly
`close` loses nothing, and a receipt that comes twice is written once. When the file cannot be written, receipts are
kept, `healthy` says so, and from `capacity` on `accepting` turns False: admission then takes on no new work, so what is
kept exceeds `capacity` by no more than the requests in flight.

SQLite itself is in ledger_file.py. Neither knows prices, tenants' limits or HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..protocol.errors import LedgerUnavailable
from ..protocol.exchange import Receipt
from . import ledger_file as file
from .ledger_file import LedgerUnusable, Totals

__all__ = ["Ledger", "LedgerUnusable", "Totals"]

log = logging.getLogger("trimtab.ledger")

# What a receipt with a value of the wrong type raises; everything else is the file's fault and worth trying again.
_POISON = (sqlite3.IntegrityError, sqlite3.ProgrammingError, TypeError, ValueError, OverflowError)


class Ledger:
    """One file, one writing thread. Times in seconds; `capacity` in receipts (about 2 KB each)."""

    def __init__(
        self,
        path: Path | str,
        *,
        capacity: int = 10_000,
        flush_after: float = 0.1,
        close_within: float = 10.0,
        longest_pause: float = 2.0,
    ) -> None:
        self.path = Path(path)
        self.capacity = capacity
        self.reason: str | None = None
        self._flush_after = flush_after / 2  # the other half is for the writing itself
        self._close_within = close_within
        self._longest_pause = longest_pause
        self._held: dict[str, Receipt] = {}
        self._writing: dict[str, Receipt] = {}
        self._swap = threading.Lock()  # held for a dict operation: the event loop may take it
        self._file = threading.Lock()  # held for a transaction or a query: threads only
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._written = threading.Condition()
        self._give_up_at: float | None = None
        self._thread: threading.Thread | None = None
        self._reader: sqlite3.Connection | None = None

    # Life.

    def start(self) -> None:
        """Open the file and start writing. Raises LedgerUnusable, naming the file and the cure."""
        if self._thread is not None:
            return
        writer = file.open_ledger(self.path)
        self._reader = file.connect(self.path)
        self._give_up_at = None
        self._thread = threading.Thread(target=self._run, args=(writer,), name="trimtab-ledger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write everything and stop; blocks for at most `close_within` seconds if the file cannot be written."""
        if self._thread is None:
            return
        self._give_up_at = time.monotonic() + self._close_within
        self._hurry.set()
        self._wake.set()
        self._thread.join()
        self._thread = None
        with self._file:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
        if self.buffered:
            log.critical("%d receipts could not be written to %s: %s", self.buffered, self.path, self.reason)

    # From the event loop.

    def record(self, receipt: Receipt) -> None:
        """Hand over a finished receipt; it must not be changed afterwards. Never blocks, never refuses."""
        with self._swap:
            first = not self._held
            self._held.setdefault(receipt.id, receipt)
        if first:
            self._wake.set()

    @property
    def buffered(self) -> int:
        """Receipts that are not in the file yet."""
        return len(self._held) + len(self._writing)

    @property
    def accepting(self) -> bool:
        """Whether new work should be taken on: there is room to remember what it cost."""
        return len(self._held) + len(self._writing) < self.capacity

    @property
    def healthy(self) -> bool:
        return self.reason is None

    async def find(self, receipt_id: str) -> Receipt | None:
        """A receipt by its request's id, written already or not."""
        held = self._held.get(receipt_id) or self._writing.get(receipt_id)
        if held is not None:
            return held
        return await asyncio.to_thread(self._find, receipt_id)

    async def spent_since(self, tenant: str, at: float) -> int:
        """Micro-dollars of a tenant's receipts stamped at or after `at` (seconds since the epoch)."""
        return await asyncio.to_thread(self._spent, tenant, at)

    async def spent_on(self, tenant: str, targets: Sequence[str], at: float) -> int:
        """The same, of what these targets answered."""
        return await asyncio.to_thread(self._spent_on, tenant, targets, at)

    async def tally(self, owner: str, name: str, figures: dict[str, float]) -> None:
        """Add figures to a row of counters; lost, and logged, where the file cannot be written."""
        if not figures:
            return
        try:
            await asyncio.to_thread(self._tally, owner, name, figures)
        except LedgerUnavailable as e:
            log.warning("figures of %r are lost: %s", owner, e.message)

    async def tallies(self, owner: str, name: str) -> dict[str, float]:
        """A row of counters; empty if there is none, or the file cannot be read."""
        try:
            return await asyncio.to_thread(self._tallies, owner, name)
        except LedgerUnavailable:
            return {}

    async def totals(self, tenant: str | None = None, since: float | None = None) -> Totals:
        """Sums over all receipts, those not written yet included."""
        return await asyncio.to_thread(self._totals, tenant, since)

    def flush(self, timeout: float = 5.0) -> bool:
        """Block until everything recorded before is in the file; False if that took longer than `timeout` seconds."""
        self._hurry.set()
        self._wake.set()
        with self._written:
            return self._written.wait_for(lambda: not self.buffered, timeout)

    # Reading, on threads. While `_file` is held nothing moves from the buffer to the file, so nothing counts twice.

    def _find(self, receipt_id: str) -> Receipt | None:
        with self._reading() as db:
            return file.find(db, receipt_id)

    def _spent(self, tenant: str, at: float) -> int:
        with self._reading() as db:
            held = [r for r in self._unwritten(db) if r.tenant == tenant and r.at >= at]
            return file.spent(db, tenant, at) + sum(r.cost_microusd for r in held)

    def _spent_on(self, tenant: str, targets: Sequence[str], at: float) -> int:
        with self._reading() as db:
            held = [r for r in self._unwritten(db) if r.tenant == tenant and r.at >= at and r.target in targets]
            return file.spent_on(db, tenant, targets, at) + sum(r.cost_microusd for r in held)

    def _tally(self, owner: str, name: str, figures: dict[str, float]) -> None:
        with self._reading() as db:
            file.tally(db, owner, name, figures)

    def _tallies(self, owner: str, name: str) -> dict[str, float]:
        with self._reading() as db:
            return file.tallies(db, owner, name)

    def _totals(self, tenant: str | None, since: float | None) -> Totals:
        with self._reading() as db:
            sums = file.totals(db, tenant, since)
            for receipt in self._unwritten(db):
                if (tenant is None or receipt.tenant == tenant) and (since is None or receipt.at >= since):
                    sums.add(receipt)
            return sums

    def _unwritten(self, db: sqlite3.Connection) -> list[Receipt]:
        with self._swap:
            held = {**self._held, **self._writing}
        return [receipt for receipt in held.values() if not file.has(db, receipt.id)]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._file:
            if self._reader is None:
                raise LedgerUnavailable("the ledger is closed")
            try:
                yield self._reader
            except sqlite3.Error as e:
                log.error("the ledger %s cannot be read: %s", self.path, e)
                raise LedgerUnavailable("the ledger cannot be read now") from e

    # Writing, on the one thread.

    def _run(self, db: sqlite3.Connection) -> None:
        while self._give_up_at is None or self.buffered:
            self._wake.wait()
            self._wake.clear()
            self._hurry.wait(self._flush_after)
            self._hurry.clear()
            with self._swap:
                self._writing, self._held = self._held, {}
            if not self._write(db):
                break
        db.close()

    def _write(self, db: sqlite3.Connection) -> bool:
        """Write the group, however often that takes. False when closing and out of time."""
        pause = 0.05
        while self._writing:
            try:
                with self._file:
                    self._insert(db)
                    self._writing = {}
            except sqlite3.Error as e:
                self._ail(e)
                if self._give_up_at is not None and time.monotonic() > self._give_up_at:
                    return False
                self._hurry.wait(pause)
                self._hurry.clear()
                pause = min(self._longest_pause, pause * 2)
        if self.reason is not None:
            log.warning("the ledger %s can be written again", self.path)
            self.reason = None
        with self._written:
            self._written.notify_all()
        return True

    def _insert(self, db: sqlite3.Connection) -> None:
        try:
            file.insert(db, self._writing.values())
        except _POISON:
            # One receipt that cannot be a row must not hold up all the others for ever.
            for receipt in self._writing.values():
                try:
                    file.insert(db, [receipt])
                except _POISON as e:
                    log.critical("the receipt %s cannot be written and is lost: %s", receipt.id, e)

    def _ail(self, error: sqlite3.Error) -> None:
        if self.reason is None:
            log.error("the ledger %s cannot be written, receipts are kept in memory: %s", self.path, error)
        self.reason = f"the ledger cannot be written: {error}"
