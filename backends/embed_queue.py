"""Which texts are embedded next: fair between requests, short ones together with short ones. Pure: no thread, no clock.

A request's share is counted in tokens, by start-time fair queueing (Goyal, Vin, Cheng 1996): each has a tag, the
lowest goes next and moves up by what it was given; a newcomer starts at the tag that was served last. So one text does
not wait behind ten thousand, and ten thousand do not wait for ever behind a stream of single ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..protocol.errors import TrimtabError
from .embed import Prepared

READ_AT_ONCE = 128  # texts of one request that are read into tokens before others have their turn


@dataclass(slots=True, eq=False)
class Item:
    """A text to embed, for one request or for several that asked for it at the same time."""

    key: bytes
    text: str
    owners: list[Job] = field(default_factory=list)
    prepared: Prepared | None = None
    done: bool = False

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
    left: int = 0
    tag: int = 0

    def ask(self, item: Item) -> None:
        item.owners.append(self)
        self.unread.append(item)
        self.left += 1

    def skip_done(self) -> None:
        """Forget at the front what was embedded for another request meanwhile."""
        for queue in (self.read, self.unread):
            while queue and queue[0].done:
                queue.popleft()


def length_class(size: int) -> int:
    """Texts of one class may share a run: the longest has less than twice the tokens of the shortest."""
    return max(4, (size - 1).bit_length())


class FairQueue:
    """The jobs that wait for vectors."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._served = 0  # the tag that was served last

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        job.tag = self._served
        self._jobs.append(job)

    def remove(self, job: Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)

    def finished(self) -> list[Job]:
        """The jobs that have all they asked for; they are gone from the queue."""
        done = [job for job in self._jobs if not job.left]
        self._jobs = [job for job in self._jobs if job.left]
        return done

    def drain(self) -> list[Job]:
        jobs, self._jobs = self._jobs, []
        return jobs

    def to_read(self) -> list[list[Item]]:
        """The texts that must be read into tokens before the next batch is chosen, by request."""
        chunks = []
        for job in self._jobs:
            job.skip_done()
            if not job.read and job.unread:
                chunks.append([job.unread.popleft() for _ in range(min(READ_AT_ONCE, len(job.unread)))])
                job.read.extend(chunks[-1])
        return chunks

    def sort_read(self) -> None:
        """After reading: the shortest first, within each request."""
        for job in self._jobs:
            job.read = deque(sorted(job.read, key=lambda item: item.size))

    def take(self, most_tokens: int, most_texts: int) -> list[Item]:
        """The next batch: texts of one length class, at most so many, with padding at most so many tokens; but one."""
        batch = Batch(most_tokens, most_texts)
        for job in sorted(self._jobs, key=lambda job: (job.tag, job.left)):
            job.skip_done()
            if job.read and not batch.items:
                self._served = job.tag
            job.tag += batch.fill(job.read)
        return batch.items


class Batch:
    """A batch as it is filled."""

    def __init__(self, most_tokens: int, most_texts: int) -> None:
        self._most_tokens, self._most_texts = most_tokens, most_texts
        self._longest = 0
        self.items: list[Item] = []

    def fill(self, read: deque[Item]) -> int:
        """Move what fits from a request's texts, the shortest first; returns the tokens moved."""
        moved, passed_over = 0, []
        while read and not self._full(read[0]):
            item = read.popleft()
            if item.done:
                continue
            if self.items and length_class(item.size) < length_class(self._longest):
                passed_over.append(item)
                continue
            item.done = True  # from here on it is being embedded: no other owner takes it too
            self.items.append(item)
            self._longest = max(self._longest, item.size)
            moved += item.size
        read.extendleft(reversed(passed_over))
        return moved

    def _full(self, item: Item) -> bool:
        if not self.items:
            return False
        longest = max(self._longest, item.size)
        other_class = length_class(item.size) > length_class(self._longest)
        return other_class or len(self.items) >= self._most_texts or longest * (len(self.items) + 1) > self._most_tokens
