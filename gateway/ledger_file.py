"""The ledger's file: one SQLite database, its schema, its rows, and what is asked of it.

Blocking, and used from threads only. It knows nothing of buffers, event loops or when to write (ledger.py does).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..protocol.errors import LedgerUnavailable
from ..protocol.exchange import Receipt
from ..protocol.messages import Usage

BUSY_MS = 2000  # how long one write waits for another process's
_MOST = 10**12  # in one column of one receipt: a million dollars; sums of such stay within SQLite's 64 bits
_CHECK_UP_TO = 64 << 20  # bytes; a larger file is not read through at every start

# One entry a schema version; each is a list of statements, run in one transaction. Never edit one that was released.
MIGRATIONS: list[list[str]] = [
    [
        """CREATE TABLE receipts (
            id TEXT PRIMARY KEY NOT NULL, tenant TEXT NOT NULL, at REAL NOT NULL, model TEXT NOT NULL,
            target TEXT NOT NULL, kind TEXT NOT NULL, stream INTEGER NOT NULL, status INTEGER NOT NULL,
            outcome TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL, estimated INTEGER NOT NULL,
            cost_microusd INTEGER NOT NULL, saved_microusd INTEGER NOT NULL, priced INTEGER NOT NULL,
            attempts INTEGER NOT NULL, total_ms REAL, first_byte_ms REAL, end_user TEXT, receipt TEXT NOT NULL)""",
        "CREATE INDEX receipts_tenant_at ON receipts (tenant, at, cost_microusd)",
    ],
    [
        """CREATE TABLE tallies (
            owner TEXT NOT NULL, name TEXT NOT NULL, figure TEXT NOT NULL, value REAL NOT NULL,
            PRIMARY KEY (owner, name, figure)) WITHOUT ROWID""",
    ],
]
_INSERT = f"INSERT INTO receipts VALUES ({', '.join('?' * 22)}) ON CONFLICT (id) DO NOTHING"  # noqa: S608

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Receipt).decode


class LedgerUnusable(LedgerUnavailable):
    """The ledger cannot be opened at all; the message names the file and what to do about it."""


class Totals(msgspec.Struct):
    """Sums over receipts. Money in micro-dollars; `estimated` and `unpriced` count the receipts that are not exact."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_microusd: int = 0
    saved_microusd: int = 0
    estimated: int = 0
    unpriced: int = 0

    def add(self, receipt: Receipt) -> None:
        usage = used(receipt)
        self.requests += 1
        self.prompt_tokens += _whole(usage.prompt)
        self.completion_tokens += _whole(usage.completion)
        self.cached_tokens += _whole(usage.cached)
        self.reasoning_tokens += _whole(usage.reasoning)
        self.cost_microusd += _whole(receipt.cost_microusd)
        self.saved_microusd += _whole(receipt.saved_microusd)
        self.estimated += usage.estimated
        self.unpriced += not receipt.priced


def open_ledger(path: Path) -> sqlite3.Connection:
    """Open or create the ledger and bring its schema up to date. Raises LedgerUnusable."""
    db: sqlite3.Connection | None = None
    try:
        _create(path)
        db = connect(path)
        _check(db, path)
        _use_wal(db)
        _migrate(db, path)
    except (OSError, sqlite3.OperationalError) as e:
        _close(db)
        raise LedgerUnusable(f"the ledger {path} cannot be opened ({e}); check its folder's rights and space") from e
    except sqlite3.DatabaseError as e:
        _close(db)
        raise LedgerUnusable(
            f"the ledger {path} is damaged or not a ledger ({e}); move it away, or save what is readable with "
            f"`sqlite3 {path} .recover | sqlite3 new.db` and put new.db in its place"
        ) from e
    except LedgerUnusable:
        _close(db)
        raise
    return db


def _close(db: sqlite3.Connection | None) -> None:
    if db is not None:
        db.close()


def _check(db: sqlite3.Connection, path: Path) -> None:
    if path.stat().st_size <= _CHECK_UP_TO:
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(" ".join(found.split()))


def connect(path: Path) -> sqlite3.Connection:
    """A connection that any one thread at a time may use. NORMAL in WAL mode: a power cut may lose the last groups,
    never tear one; a killed process loses nothing that was committed."""
    db = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _create(path: Path) -> None:
    for folder in reversed([path.parent, *path.parent.parents]):
        if not folder.exists():
            with contextlib.suppress(FileExistsError):  # another worker was faster
                folder.mkdir(mode=0o700)
    # Created by us and not by SQLite, so that its rights are ours from the first moment; -wal and -shm inherit them.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _use_wal(db: sqlite3.Connection) -> None:
    # The busy timeout does not cover the switch to WAL, and several workers start at the same moment.
    for attempt in range(50):
        try:
            mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        except sqlite3.OperationalError as e:
            if "locked" not in str(e) or attempt == 49:
                raise
            time.sleep(0.05)
        else:
            if mode != "wal":
                raise sqlite3.OperationalError(f"the file system offers no WAL mode, only {mode}")
            return


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    if _version(db) > len(MIGRATIONS):
        raise LedgerUnusable(
            f"the ledger {path} is of schema version {_version(db)}, written by a newer trimtab; this one knows up to "
            f"{len(MIGRATIONS)}: update trimtab, or name another file"
        )
    if _version(db) == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db)  # again: another worker may have been here while we waited
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def insert(db: sqlite3.Connection, receipts: Iterable[Receipt]) -> None:
    """Write a group, all of it or nothing; an id that is there already changes nothing. Raises sqlite3.Error."""
    rows = [row(receipt) for receipt in receipts]
    db.execute("BEGIN IMMEDIATE")
    try:
        db.executemany(_INSERT, rows)
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def row(receipt: Receipt) -> tuple[Any, ...]:
    """The columns of a receipt. Nothing a client or an upstream says can make one that SQLite refuses."""
    try:
        text = _encode(receipt).decode()
    except UnicodeEncodeError:
        receipt = _clean(receipt)
        text = _encode(receipt).decode()
    usage = used(receipt)
    return (
        receipt.id,
        receipt.tenant,
        receipt.at if receipt.at == receipt.at else 0.0,
        receipt.model,
        receipt.target,
        receipt.kind,
        receipt.stream,
        _whole(receipt.status),
        receipt.outcome,
        _whole(usage.prompt),
        _whole(usage.completion),
        _whole(usage.cached),
        _whole(usage.reasoning),
        usage.estimated,
        _whole(receipt.cost_microusd),
        _whole(receipt.saved_microusd),
        receipt.priced,
        _whole(receipt.attempts),
        receipt.total_ms,
        receipt.first_byte_ms,
        receipt.end_user,
        text,
    )


def used(receipt: Receipt) -> Usage:
    """Everything that a request used: its answer's tokens, and those of the calls that stages made beside it."""
    usage = receipt.usage or Usage()
    if not receipt.charges:
        return usage
    every = [usage, *(charge.usage for charge in receipt.charges)]
    return Usage(
        prompt=sum(each.prompt for each in every),
        completion=sum(each.completion for each in every),
        cached=sum(each.cached for each in every),
        reasoning=sum(each.reasoning for each in every),
        estimated=any(each.estimated for each in every),
    )


def _whole(value: int) -> int:
    # An upstream may report any number it likes. The receipt keeps it; the columns are summed and may not overflow.
    return max(-_MOST, min(value, _MOST))


def _clean(receipt: Receipt) -> Receipt:
    """A copy without lone surrogates, which JSON can name and UTF-8 cannot write."""
    plain = msgspec.to_builtins(receipt)
    return msgspec.convert(_scrub(plain), Receipt)


def _scrub(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _scrub(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrub(item) for item in value]
    return value


def find(db: sqlite3.Connection, receipt_id: str) -> Receipt | None:
    found = db.execute("SELECT receipt FROM receipts WHERE id = ?", (receipt_id,)).fetchone()
    return None if found is None else _decode(found[0])


def has(db: sqlite3.Connection, receipt_id: str) -> bool:
    return db.execute("SELECT 1 FROM receipts WHERE id = ?", (receipt_id,)).fetchone() is not None


def spent(db: sqlite3.Connection, tenant: str, since: float) -> int:
    """Micro-dollars of receipts stamped at or after `since` (seconds since the epoch)."""
    question = "SELECT COALESCE(SUM(cost_microusd), 0) FROM receipts WHERE tenant = ? AND at >= ?"
    return int(db.execute(question, (tenant, since)).fetchone()[0])


def spent_on(db: sqlite3.Connection, tenant: str, targets: Sequence[str], since: float) -> int:
    """The same, of what these targets answered."""
    marks = ", ".join("?" * len(targets))
    question = f"""SELECT COALESCE(SUM(cost_microusd), 0) FROM receipts
        WHERE tenant = ? AND at >= ? AND target IN ({marks})"""  # noqa: S608 - marks only
    return int(db.execute(question, (tenant, since, *targets)).fetchone()[0])


def tally(db: sqlite3.Connection, owner: str, name: str, figures: Mapping[str, float]) -> None:
    """Add figures to a row of counters; other processes may do the same. Raises sqlite3.Error."""
    rows = [(owner, name, figure, value) for figure, value in figures.items()]
    db.execute("BEGIN IMMEDIATE")
    try:
        db.executemany(
            "INSERT INTO tallies VALUES (?, ?, ?, ?) "
            "ON CONFLICT (owner, name, figure) DO UPDATE SET value = value + excluded.value",
            rows,
        )
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def tallies(db: sqlite3.Connection, owner: str, name: str) -> dict[str, float]:
    question = "SELECT figure, value FROM tallies WHERE owner = ? AND name = ?"
    return {figure: float(value) for figure, value in db.execute(question, (owner, name))}


def totals(db: sqlite3.Connection, tenant: str | None, since: float | None) -> Totals:
    question = """SELECT COUNT(*), COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0),
        COALESCE(SUM(cached_tokens), 0), COALESCE(SUM(reasoning_tokens), 0), COALESCE(SUM(cost_microusd), 0),
        COALESCE(SUM(saved_microusd), 0), COALESCE(SUM(estimated), 0), COALESCE(SUM(NOT priced), 0)
        FROM receipts WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR at >= ?2)"""
    return Totals(*db.execute(question, (tenant, since)).fetchone())
