"""Which texts are embedded next: fair between requests, short texts together with short ones. Pure: no thread or clock.

The request with the fewest texts left goes first, and what room its batch has is filled from the others: most requests
have a deadline, and this order lets most of them meet it. Every fifth batch goes to the request for several texts that
was served longest ago. So one text waits for two batches at most behind ten thousand, and ten thousand do not wait for
ever behind single ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..protocol.errors import TrimtabError
from .embed import Prepared

READ_AT_ONCE = 128  # texts of one request that are read into tokens before the next batch
_OLDEST_EVERY = 5  # batches


@dataclass(slots=True, eq=False)
class Item:
    """A text to embed, for one request or for several that asked for it at the same time."""

    key: bytes
    text: str
    owners: list[Job] = field(default_factory=list)
    prepared: Prepared | None = None
    taken: bool = False  # it is in a batch, or was: no owner takes it again

    @property
    def size(self) -> int:
        return self.prepared.size if self.prepared is not None else 0


@dataclass(slots=True, eq=False)
class Job:
    """One request's texts that were not known yet. `settle` is called once: with None when all are in `found`."""

    settle: Callable[[TrimtabError | None], None]
    found: dict[bytes, bytes] = field(default_factory=dict)
    unread: deque[Item] = field(default_factory=deque)
    read: deque[Item] = field(default_factory=deque)  # the shortest first
    asked: int = 0
    left: int = 0
    served: int = 0  # the number of the batch that last held a text of it

    def ask(self, item: Item) -> None:
        item.owners.append(self)
        self.unread.append(item)
        self.asked += 1
        self.left += 1

    def skip_taken(self) -> None:
        """Forget at the front what another request has had embedded."""
        for queue in (self.read, self.unread):
            while queue and queue[0].taken:
                queue.popleft()


def length_class(size: int) -> int:
    """Texts of one class may share a run: the longest has less than twice the tokens of the shortest."""
    return max(4, (size - 1).bit_length())


class FairQueue:
    """The jobs that wait for vectors."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._batches = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        job.served = self._batches
        self._jobs.append(job)

    def remove(self, job: Job) -> bool:
        """Whether it was still there."""
        known = job in self._jobs
        if known:
            self._jobs.remove(job)
        return known

    def finished(self) -> list[Job]:
        """The jobs that have all they asked for; they are gone from the queue."""
        done = [job for job in self._jobs if not job.left]
        self._jobs = [job for job in self._jobs if job.left]
        return done

    def drain(self) -> list[Job]:
        jobs, self._jobs = self._jobs, []
        return jobs

    def to_read(self) -> list[list[Item]]:
        """The texts to read into tokens before the next batch is chosen, by request; hand them back to `was_read`."""
        chunks = []
        for job in self._jobs:
            job.skip_taken()
            if not job.read and job.unread:
                chunks.append([job.unread.popleft() for _ in range(min(READ_AT_ONCE, len(job.unread)))])
                job.read.extend(chunks[-1])
        return chunks

    def was_read(self) -> None:
        """The sizes are known now: the shortest first, within each request."""
        for job in self._jobs:
            job.read = deque(sorted(job.read, key=lambda item: item.size))

    def take(self, most_tokens: int, most_texts: int) -> list[Item]:
        """The next batch: texts of one length class, at most so many, with padding at most so many tokens; but one."""
        batch = Batch(most_tokens, most_texts)
        self._batches += 1
        for job in self._order():
            if batch.fill(job.read):
                job.served = self._batches
        return batch.items

    def _order(self) -> list[Job]:
        waiting = []
        for job in self._jobs:
            job.skip_taken()
            if job.read:
                waiting.append(job)
        waiting.sort(key=lambda job: job.left)
        several = [job for job in waiting if job.asked > 1]
        if several and self._batches % _OLDEST_EVERY == 0:
            oldest = min(several, key=lambda job: job.served)
            waiting.remove(oldest)
            waiting.insert(0, oldest)
        return waiting


class Batch:
    """A batch as it is filled."""

    def __init__(self, most_tokens: int, most_texts: int) -> None:
        self._most_tokens, self._most_texts = most_tokens, most_texts
        self._longest = 0
        self.items: list[Item] = []

    def fill(self, read: deque[Item]) -> bool:
        """Move what fits from a request's texts, the shortest first; whether there was any."""
        before, passed_over = len(self.items), []
        while read and self._has_room(read[0]):
            item = read.popleft()
            if item.taken:
                continue
            if self.items and length_class(item.size) < length_class(self._longest):
                passed_over.append(item)
                continue
            item.taken = True
            self.items.append(item)
            self._longest = max(self._longest, item.size)
        read.extendleft(reversed(passed_over))
        return len(self.items) > before

    def _has_room(self, item: Item) -> bool:
        if not self.items:
            return True
        longest = max(self._longest, item.size)
        same_class = length_class(item.size) <= length_class(self._longest)
        return (
            same_class and len(self.items) < self._most_texts and longest * (len(self.items) + 1) <= self._most_tokens
        )
