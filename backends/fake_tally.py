"""The book of a fake: what was called, how each call ended, and exactly what it used."""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec

from ..protocol.messages import Usage

Outcome = Literal["open", "completed", "aborted", "failed"]


class Counts(msgspec.Struct):
    """Totals since the start. A call ends completed, aborted (by its caller) or failed (by the script)."""

    calls: int = 0
    streams: int = 0
    open: int = 0
    completed: int = 0
    aborted: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class CallRecord(msgspec.Struct):
    """One call as the fake saw it. A token is in `usage` once it was handed over, the prompt once it was accepted."""

    number: int
    kind: str
    request_id: str = ""
    tenant: str = ""
    model: str = ""
    stream: bool = False
    outcome: Outcome = "open"
    usage: Usage = Usage()


class Tally:
    """The book of a fake: totals, and the records of the last `keep` calls."""

    def __init__(self, keep: int = 10_000) -> None:
        self.counts = Counts()
        self.records: deque[CallRecord] = deque(maxlen=keep)

    def opened(self, kind: str, request_id: str, tenant: str, model: str, stream: bool) -> CallRecord:
        self.counts.calls += 1
        self.counts.streams += stream
        self.counts.open += 1
        record = CallRecord(self.counts.calls, kind, request_id, tenant, model, stream)
        self.records.append(record)
        return record

    def spend(self, record: CallRecord, usage: Usage) -> None:
        """`usage` is the whole of the call so far."""
        self.counts.prompt_tokens += usage.prompt - record.usage.prompt
        self.counts.completion_tokens += usage.completion - record.usage.completion
        record.usage = usage

    def closed(self, record: CallRecord, outcome: Literal["completed", "aborted", "failed"]) -> None:
        """The end of a call; a second one is ignored."""
        if record.outcome == "open":
            record.outcome = outcome
            self.counts.open -= 1
            setattr(self.counts, outcome, getattr(self.counts, outcome) + 1)
