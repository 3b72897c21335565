"""The embedder's thread and its callers, over an encoder that can be held still, counted and broken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.backends.embed import EmbedOptions, Prepared
from trimtab.backends.embed_worker import EmbedWorker
from trimtab.protocol.errors import Draining, Internal, ModelUnavailable, Overloaded


class Letters:
    """Counts letters: (a, b, the rest). `gate` cleared holds the next batch; a text with "!" breaks its batch."""

    dimensions = 3
    most_texts = 32
    most_tokens = 512

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()
        self.batches: list[list[str]] = []

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        if any("?" in text for text in texts):
            raise RuntimeError("unreadable")
        return [Prepared(text, len(text) + 2) for text in texts]

    def encode(self, batch: Sequence[Prepared]) -> NDArray[np.floating[Any]]:
        texts = [prepared.form for prepared in batch]
        self.running.set()
        assert self.gate.wait(5)
        if any("!" in text for text in texts):
            raise RuntimeError("broken")
        self.batches.append(texts)
        return np.array([[t.count("a"), t.count("b"), len(t) - t.count("a") - t.count("b")] for t in texts], np.float32)

    @property
    def embedded(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


def unit(*values: float) -> list[float]:
    return (np.array(values) / np.linalg.norm(values)).tolist()


Make = Callable[..., EmbedWorker]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[EmbedWorker] = []

    def worker(load: Callable[[], Any], **options: Any) -> EmbedWorker:
        clock = options.pop("clock", lambda: 0.0)
        made.append(EmbedWorker("letters", load, EmbedOptions(**options), clock))
        return made[-1]

    yield worker
    for one in made:
        await one.close()


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 5)


async def test_vectors_come_in_the_order_of_the_texts(make: Make) -> None:
    worker = make(Letters)
    found = await worker.embed(["ab", "b", "ab", "a" * 40], "")
    assert found.vectors == pytest.approx(np.array([unit(1, 1, 0), unit(0, 1, 0), unit(1, 1, 0), unit(1, 0, 0)]))
    assert found.tokens == (4, 3, 4, 42)
    assert worker.dimensions == 3


async def test_no_text_at_all(make: Make) -> None:
    worker = make(Letters)
    assert (await worker.embed([], "")).vectors.shape == (0, 3)
    assert (await worker.embed([], "")).vectors.shape == (0, 3)


async def test_nothing_is_loaded_before_the_first_text(make: Make) -> None:
    loads = []
    worker = make(lambda: loads.append(1) or Letters())
    await asyncio.sleep(0.01)
    assert (loads, worker.ready()) == ([], False)
    await worker.embed(["a"], "")
    assert (loads, worker.ready()) == ([1], True)


async def test_start_loads_without_a_text(make: Make) -> None:
    loads: list[int] = []
    loaded = threading.Event()
    worker = make(lambda: (Letters(), loads.append(1), loaded.set())[0])
    worker.start()
    worker.start()
    await until(loaded)
    assert (await worker.embed(["a"], "")).tokens == (3,)
    assert loads == [1]


async def test_requests_that_come_while_a_batch_runs_share_the_next(make: Make) -> None:
    letters = Letters()
    letters.gate.clear()
    worker = make(lambda: letters)
    calls = [asyncio.create_task(worker.embed(["first"], ""))]
    await until(letters.running)
    calls += [asyncio.create_task(worker.embed([f"text {i}"], "")) for i in range(9)]
    await asyncio.sleep(0)
    letters.gate.set()
    await asyncio.gather(*calls)
    assert [len(batch) for batch in letters.batches] == [1, 9]


async def test_a_text_in_flight_is_not_embedded_again(make: Make) -> None:
    letters = Letters()
    letters.gate.clear()
    worker = make(lambda: letters)
    first = asyncio.create_task(worker.embed(["ab"], ""))
    await until(letters.running)
    others = [asyncio.create_task(worker.embed(["ab", "b"], "")) for _ in range(3)]
    await asyncio.sleep(0)
    letters.gate.set()
    found = await asyncio.gather(first, *others)
    assert sorted(letters.embedded) == ["ab", "b"]
    assert all(np.array_equal(one.vectors[0], found[0].vectors[0]) for one in found)


async def test_what_is_known_is_answered_while_a_batch_runs(make: Make) -> None:
    letters = Letters()
    worker = make(lambda: letters)
    before = await worker.embed(["ab"], "")
    letters.gate.clear()
    letters.running.clear()
    held = asyncio.create_task(worker.embed(["b"], ""))
    await until(letters.running)
    after = await asyncio.wait_for(worker.embed(["ab", "ab"], ""), 5)
    assert after.vectors.tobytes() == before.vectors.tobytes() * 2
    assert not held.done()
    letters.gate.set()
    await held


async def test_tenants_share_no_vectors(make: Make) -> None:
    letters = Letters()
    worker = make(lambda: letters)
    for tenant in ("acme", "zenith", "acme"):
        await worker.embed(["ab"], tenant)
    assert letters.embedded == ["ab", "ab"]


async def test_a_cancelled_call_leaves_its_vectors_warm(make: Make) -> None:
    letters = Letters()
    letters.gate.clear()
    worker = make(lambda: letters)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await worker.embed(["ab", "b"], "")
    letters.gate.set()
    await worker.embed(["ab", "b"], "")
    assert sorted(letters.embedded) == ["ab", "b"]


async def test_a_full_queue_refuses_and_recovers(make: Make) -> None:
    letters = Letters()
    letters.gate.clear()
    worker = make(lambda: letters, most_waiting=4)
    held = asyncio.create_task(worker.embed(["a", "b", "ab"], ""))
    await until(letters.running)
    with pytest.raises(Overloaded, match="3 texts waiting"):
        await worker.embed(["c", "d"], "")
    same = asyncio.create_task(worker.embed(["a", "b", "ab"], ""))  # adds nothing to the queue
    await asyncio.sleep(0)
    letters.gate.set()
    await asyncio.gather(held, same)
    assert len((await worker.embed(["c", "d"], "")).tokens) == 2


async def test_a_broken_text_fails_alone(make: Make) -> None:
    letters = Letters()
    letters.gate.clear()
    worker = make(lambda: letters, most_waiting=8)
    first = asyncio.create_task(worker.embed(["first"], ""))
    await until(letters.running)
    good = asyncio.create_task(worker.embed(["a", "b"], ""))
    bad = asyncio.create_task(worker.embed(["bad!", "worse!", "x" * 200, "y" * 200], ""))
    await asyncio.sleep(0)
    letters.gate.set()
    with pytest.raises(Internal):
        await bad
    assert len((await good).tokens) == 2
    await first
    # What only the failed call wanted counts no longer as waiting.
    assert len((await worker.embed([f"text {i}" for i in range(8)], "")).tokens) == 8


async def test_an_unreadable_text_fails_its_call(make: Make) -> None:
    worker = make(Letters)
    with pytest.raises(Internal):
        await worker.embed(["what?"], "")
    assert (await worker.embed(["a"], "")).tokens == (3,)


async def test_a_model_that_cannot_be_loaded_says_so_and_is_tried_again_later(make: Make) -> None:
    now, loads = [0.0], []

    def load() -> Letters:
        loads.append(now[0])
        if now[0] < 20:
            raise ModelUnavailable("no such model", detail="it is not there")
        return Letters()

    worker = make(load, clock=lambda: now[0])
    for _ in range(3):
        with pytest.raises(ModelUnavailable, match="no such model"):
            await worker.embed(["a"], "")
    assert loads == [0.0]
    now[0] = 31.0
    assert (await worker.embed(["a"], "")).tokens == (3,)
    assert loads == [0.0, 31.0]


async def test_whatever_else_a_load_raises_reaches_the_caller(make: Make) -> None:
    def load() -> Letters:
        raise ZeroDivisionError

    with pytest.raises(ModelUnavailable, match="the log says why"):
        await make(load).embed(["a"], "")


async def test_closing_ends_who_waits(make: Make) -> None:
    letters = Letters()
    letters.gate.clear()
    worker = make(lambda: letters)
    running = asyncio.create_task(worker.embed(["a"], ""))
    await until(letters.running)
    waiting = asyncio.create_task(worker.embed(["b" * 100], ""))
    await asyncio.sleep(0)
    closing = asyncio.create_task(worker.close())
    await asyncio.sleep(0.01)
    letters.gate.set()
    await closing
    assert (await running).tokens == (3,)
    with pytest.raises(Draining):
        await waiting
    with pytest.raises(Draining):
        await worker.embed(["c"], "")
    assert not worker.ready()


async def test_closing_what_never_started(make: Make) -> None:
    loads: list[int] = []
    worker = make(lambda: (Letters(), loads.append(1))[0])
    await worker.close()
    await worker.close()
    with pytest.raises(Draining):
        await worker.embed(["a"], "")
    assert (loads, worker.ready()) == ([], False)


async def test_a_large_call_is_the_same_as_small_ones(make: Make) -> None:
    worker = make(Letters)
    texts = [f"{'a' * (i % 7)}{'b' * (i % 5)}{i % 300}" for i in range(3000)]
    large = await worker.embed(texts, "")
    small = [await worker.embed(texts[i : i + 100], "") for i in range(0, 3000, 100)]
    assert np.array_equal(large.vectors, np.concatenate([one.vectors for one in small]))
    assert large.tokens == sum((one.tokens for one in small), ())


def test_calls_from_another_event_loop_and_a_loop_that_is_gone() -> None:
    letters = Letters()
    letters.gate.clear()
    worker = EmbedWorker("letters", lambda: letters, EmbedOptions())

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await worker.embed(["a"], "")

    async def ask() -> int:
        found = await worker.embed(["a", "b"], "")
        await worker.close()
        return len(found.tokens)

    asyncio.run(give_up())
    letters.gate.set()
    assert asyncio.run(ask()) == 2
