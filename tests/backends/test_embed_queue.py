"""Whose texts are embedded next. No model: items are given their sizes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.embed import Prepared
from trimtab.backends.embed_queue import READ_AT_ONCE, FairQueue, Item, Job, length_class

MOST_TOKENS, MOST_TEXTS = 512, 32


class Bench:
    """A queue, and the part of the worker that this file is not about."""

    def __init__(self) -> None:
        self.queue = FairQueue()

    def job(self, sizes: Sequence[int], shared: Sequence[Item] = ()) -> Job:
        job = Job(settle=lambda error: None)
        for i, size in enumerate(sizes):
            job.ask(Item(b"%d.%d" % (id(job), i), "x" * size))
        for item in shared:
            job.ask(item)
        self.queue.add(job)
        return job

    def batch(self) -> list[Item]:
        for chunk in self.queue.to_read():
            for item in chunk:
                item.prepared = Prepared(None, len(item.text))
        self.queue.was_read()
        batch = self.queue.take(MOST_TOKENS, MOST_TEXTS)
        for item in batch:
            for owner in item.owners:
                owner.left -= 1
        self.done = self.queue.finished()
        return batch

    def batches(self, most: int = 10_000) -> list[list[Item]]:
        found = []
        while len(self.queue):
            found.append(self.batch())
            assert len(found) < most
        return found


def sizes(batch: Sequence[Item]) -> list[int]:
    return [item.size for item in batch]


@given(st.lists(st.lists(st.integers(2, 256), max_size=60), max_size=8))
def test_every_text_is_embedded_once_in_batches_within_bounds(requests: list[list[int]]) -> None:
    bench = Bench()
    for request in requests:
        bench.job(request)
    batches = bench.batches()
    assert sorted(size for batch in batches for size in sizes(batch)) == sorted(n for r in requests for n in r)
    assert len({item.key for batch in batches for item in batch}) == sum(map(len, requests))
    for batch in batches:
        if batch:  # a request for no text at all takes a round too
            assert len(batch) <= MOST_TEXTS
            assert len(batch) == 1 or max(sizes(batch)) * len(batch) <= MOST_TOKENS
            assert {length_class(size) for size in sizes(batch)} == {length_class(batch[0].size)}


def test_requests_that_wait_together_share_a_batch() -> None:
    bench = Bench()
    jobs = [bench.job([20]) for _ in range(5)]
    assert len(bench.batch()) == 5
    assert bench.done == jobs


def test_one_text_does_not_wait_behind_ten_thousand() -> None:
    bench = Bench()
    bench.job([30] * 10_000)
    for _ in range(23):
        bench.batch()
    for _ in range(40):  # at whatever moment it comes
        small = bench.job([8])
        waited = 0
        while small.left:
            bench.batch()
            waited += 1
        assert waited <= 2
        bench.batch()


def test_ten_thousand_texts_do_not_wait_for_ever_behind_single_ones() -> None:
    bench = Bench()
    large = bench.job([30] * 1000)
    batches = 0
    while large.left:
        for _ in range(3):  # more single texts than a batch holds, before every batch, of another length
            bench.job([200])
        bench.batch()
        batches += 1
        assert batches <= 5 * 70  # it takes 63 of its own


def test_of_two_equal_requests_the_first_is_done_first() -> None:
    """Sharing evenly would make both late."""
    bench = Bench()
    first, second = bench.job([60] * 64), bench.job([60] * 64)
    while first.left:
        bench.batch()
    assert second.left >= 40


def test_a_text_of_two_requests_is_embedded_when_the_smaller_one_is() -> None:
    bench = Bench()
    large = bench.job([30] * 2000)
    shared = large.unread[-1]
    small = bench.job([], shared=[shared])
    waited = 0
    while small.left:
        bench.batch()
        waited += 1
    assert waited <= 2
    assert sum(item is shared for batch in bench.batches() for item in batch) == 0
    assert large.left == 0


def test_a_large_request_is_read_in_parts() -> None:
    bench = Bench()
    bench.job([10] * 1000)
    [chunk] = bench.queue.to_read()
    assert len(chunk) == READ_AT_ONCE


def test_an_unfit_text_alone_still_goes() -> None:
    bench = Bench()
    bench.job([5000, 5000])
    assert [sizes(batch) for batch in bench.batches()] == [[5000], [5000]]
