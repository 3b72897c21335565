"""Captured steps against steps as they are: in Triton's interpreter, where a replay runs what was recorded once more.

It runs it over the same buffers and lets it ask nothing of the device, so what a CUDA graph would do wrong (padding
that is seen, numbers of an earlier step, a tensor that has moved) shows here. With a CUDA device real graphs are used.
"""

import contextlib
import logging
import os
import random
import time
from datetime import UTC, datetime

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before any test imports triton
pytest.importorskip("triton")

from trimtab.backends.engine import attention_kernels, batch_kept, graphs
from trimtab.backends.engine import loaded as opening
from trimtab.backends.engine.attention import Sight
from trimtab.backends.engine.batch import Batch, Rows
from trimtab.backends.engine.draft import Draft
from trimtab.backends.engine.engine import Engine, Options
from trimtab.backends.engine.gguf_checkpoint import GgufCheckpoint
from trimtab.backends.engine.graphs import CudaGraphs, Graphs, size_of
from trimtab.backends.engine.loaded import load
from trimtab.backends.engine.memory import Memory
from trimtab.backends.engine.model import Model
from trimtab.backends.engine.request import Ask, Sampling
from trimtab.backends.engine.schedule import Limits
from trimtab.backends.engine.sequence import Ended, Job, Piece, Task
from trimtab.backends.engine.settings import Settings
from trimtab.backends.engine.verify import paths
from trimtab.kernels.switch import forced
from trimtab.protocol.errors import Internal, TrimtabError

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TREE = Draft((7, 8, 9), (-1, 0, 0), (1.0,) * 3)


class Recorded:
    """The Capture of tests. `sizes` are those of the batches that were captured, `replays` how often any was run."""

    def __init__(self):
        self.captured = self.replays = 0

    def __call__(self, launch):
        again = CudaGraphs()(launch) if DEVICE == "cuda" else launch
        self.captured += 1

        def replay():
            self.replays += 1
            with deaf() if DEVICE == "cpu" else contextlib.nullcontext():
                return again()

        return replay


@contextlib.contextmanager
def deaf():
    """Within it nothing waits for the device, and nothing is made of the host's numbers."""

    def never(*_, **__):
        raise AssertionError("a captured step cannot do this")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("tensor", "as_tensor"):
            patch.setattr(torch, name, never)
        for name in ("item", "tolist", "nonzero", "__bool__", "__int__", "__float__"):
            patch.setattr(torch.Tensor, name, never)
        yield


@pytest.fixture(autouse=True)
def by_kernels(monkeypatch):
    from trimtab.kernels import interpreter

    interpreter.mend()
    monkeypatch.setattr(attention_kernels, "_BLOCK", 16)
    if DEVICE == "cpu":  # idle programs take the interpreter as long as a GPU's whole step
        monkeypatch.setattr(batch_kept, "multiprocessors", lambda device: 4)
        monkeypatch.setattr(attention_kernels, "multiprocessors", lambda device: 4)
    with forced("triton"):
        yield


@pytest.fixture(scope="module")
def model(tiny):
    made = Model(GgufCheckpoint(tiny), "float32", DEVICE)
    made.dtype = torch.float32
    return made


@pytest.fixture(scope="module")
def usual(tiny):
    """The same model on a CPU."""
    return Model(GgufCheckpoint(tiny), "float32")


@pytest.fixture
def still(monkeypatch):
    """What attention reads lies where it lay when the same size was computed first."""
    places, attention = {}, batch_kept.paged_attention

    def spy(q, keys, values, table, starts, lengths, *, plan, tree, out, **more):
        held = (table, starts, lengths, plan.items, plan.merges, out, *([] if tree is None else [tree]))
        at = tuple(x.data_ptr() for x in (keys, *held))
        key = (keys.data_ptr(), plan.sequences, plan.plan.rows, len(q), tree is None)
        assert places.setdefault(key, at) == at
        return attention(q, keys, values, table, starts, lengths, plan=plan, tree=tree, out=out, **more)

    monkeypatch.setattr(batch_kept, "paged_attention", spy)
    return places


def memory_of(model, pages=40):
    return Memory(model.shape, pages, torch.float32, model.device, 16)


@pytest.mark.parametrize("sight", [Sight(), Sight(window=9, sinks=3)], ids=["all", "window"])
def test_logits_are_those_of_steps_as_they_are(model, still, sight):
    """Mixes of sequences, lengths, chains and trees; pages that nobody in the step has are NaN and stay so."""
    chance, memory = random.Random(4), memory_of(model)
    memory.keys.fill_(torch.nan)
    memory.values.fill_(torch.nan)
    pages = chance.sample(range(1, 41), 40)
    owned = [pages[8 * i : 8 * i + 8] for i in range(4)]
    before = [chance.randint(1, 100) for _ in owned]
    for own, length in zip(owned, before, strict=True):
        for held in (memory.keys, memory.values):
            held[:, own[: -(-length // 16)]] = 0.5 * torch.randn(held[:, own[: -(-length // 16)]].shape, device=DEVICE)
    capture = Recorded()
    captured = Graphs(model, memory, sight, 128, capture)
    for step in range(7):
        who = chance.sample(range(4), chance.choice([1, 3, 3]))
        rows = []
        for i in who:
            tree = step % 3 == 2 and chance.random() < 0.7
            tokens = [5, *TREE.tokens] if tree else [chance.randrange(90) for _ in range(chance.choice([1, 3]))]
            used = owned[i][: -(-(before[i] + len(tokens)) // 16)]
            rows.append(Rows(tokens, before[i], used, range(len(tokens)), paths(TREE) if tree else ()))
        untouched = [p for p in range(41) if p not in {page for row in rows for page in row.pages}]
        kept = memory.keys[:, untouched].clone()
        found = captured.logits(rows)
        assert found is not None
        found = found.clone()
        torch.testing.assert_close(memory.keys[:, untouched], kept, rtol=0, atol=0, equal_nan=True)
        written = memory.keys[:, [page for row in rows for page in row.pages]].clone()
        eager = model.forward(Batch(rows, memory, 4, sight, model.tiles), memory)
        torch.testing.assert_close(found, eager, atol=2e-4, rtol=2e-4)
        torch.testing.assert_close(
            written, memory.keys[:, [page for row in rows for page in row.pages]], atol=2e-4, rtol=2e-4, equal_nan=True
        )
        for i, row in zip(who, rows, strict=True):
            before[i] = min(before[i] + chance.choice([0, 1, len(row.tokens)]), 120)
    assert 0 < capture.captured < capture.replays
    assert still


def test_steps_without_a_size_are_left_to_others(model):
    memory = memory_of(model)
    captured = Graphs(model, memory, Sight(window=3), 128, Recorded(), most_rows=4)
    one = Rows([3], 5, [1], range(1))
    assert captured.logits([one]) is not None
    prompt, long = Rows([3, 4], 5, [1], [1]), Rows([3] * 12, 5, [1, 2], range(12))
    tree = Rows([5, *TREE.tokens], 5, [1], range(4), paths(TREE))
    for rows in ([one, prompt], [long], [tree], [one] * 5, [Rows([3], 128, list(range(1, 10)), range(1))]):
        assert captured.logits(rows) is None
    assert not Graphs.can(memory, Sight(best=2))
    assert not Graphs.can(memory, Sight(window=3, marks=frozenset({1})))
    with forced("torch"):
        assert not Graphs.can(memory, Sight())


def test_warming_up_captures_decoding_and_writes_nothing(model, caplog):
    memory, capture = memory_of(model, 4), Recorded()
    memory.keys.fill_(torch.nan)
    memory.values.fill_(torch.nan)
    captured = Graphs(model, memory, Sight(), 64, capture)
    with caplog.at_level(logging.INFO, "trimtab.engine"):
        captured.warm(6)
    assert [r.message for r in caplog.records][-1] == "capturing decoding of 8 sequences (4 of 4)"
    assert capture.captured == 4
    assert memory.keys.isnan().all()
    assert memory.values.isnan().all()
    memory.keys[:, 1:3], memory.values[:, 1:3] = 0.5, 0.5
    captured.logits([Rows([3], 5, [1], range(1)), Rows([4], 9, [2], range(1))])
    assert (capture.captured, capture.replays) == (4, 5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=64), st.booleans())
@settings(deadline=None)
def test_a_bucket_holds_what_it_is_for(counts, tree):
    size = size_of(counts, tree)
    assert size.sequences >= len(counts)
    assert size.each >= max(counts)
    assert sum(counts) <= size.rows <= size.sequences * size.each
    assert size_of([size.each] * size.sequences, tree).rows >= size.rows
    assert size.rows < 2 * sum(counts) or size.rows < sum(counts) + 64


class Client:
    def __init__(self):
        self.tokens, self.end = {}, None

    def __call__(self, said):
        if isinstance(said, TrimtabError):
            self.end = said
        for event in said if isinstance(said, list) else ():
            if isinstance(event, Piece):
                self.tokens.setdefault(event.choice, []).extend(choice.token for choice in event.tokens)
            elif isinstance(event, Ended):
                self.end = event.reason


def answers(model, tokenizer, capture, asks, pages=40, tree=False, abort=None):
    """What each of several requests is told; `abort` is left by its client after a few steps."""
    texts = ["hello world hello", "in the 12", "world hello world hello"]
    with torch.inference_mode():
        memory = memory_of(model, pages)
        engine = Engine(model, tokenizer, memory, 100, time.perf_counter, Options(Limits(4, 32, 12), 7, tree))
        if capture is not None:
            engine.forward.over.graphs = Graphs(model, memory, Sight(), engine.context, capture)
        clients, jobs = [Client() for _ in asks], []
        for i, (ask, client) in enumerate(zip(asks, clients, strict=True)):
            jobs.append(Job([Task(tokenizer.encode(texts[i % 3]), ask)], client))
            engine.add(jobs[-1])
        while engine.busy:
            if abort is not None and engine.steps == 4:
                jobs[abort].cancelled = True
            engine.step()
        engine.check()
    return clients, engine


def plain_answers(usual, tokenizer, asks, **how):
    with forced(""):
        return [client.tokens for client in answers(usual, tokenizer, None, asks, **how)[0]]


def asked(most=5, n=1, seed=1, **sampling):
    return Ask(Sampling(**sampling), seed=seed, n=n, most=most, stops=())


@pytest.mark.parametrize("tree", [False, True], ids=["chains", "trees"])
def test_answers_are_the_same_with_aborts_and_forks(model, loaded, tree):
    asks = [asked(6, temperature=0), asked(9, temperature=0), asked(5, n=2, temperature=0.8)]
    plain, _ = answers(model, loaded.tokenizer, None, asks, tree=tree, abort=1)
    capture = Recorded()
    found, _ = answers(model, loaded.tokenizer, capture, asks, tree=tree, abort=1)
    assert [c.tokens for i, c in enumerate(found) if i != 1] == [c.tokens for i, c in enumerate(plain) if i != 1]
    assert capture.replays > capture.captured > 0


def test_answers_are_the_same_where_memory_runs_out(model, usual, loaded):
    asks = [asked(28, temperature=0), asked(28, temperature=0)]
    found, engine = answers(model, loaded.tokenizer, Recorded(), asks, pages=3)
    assert engine.preempted
    assert [c.tokens for c in found] == plain_answers(usual, loaded.tokenizer, asks)


def test_where_one_breaks_the_step_the_others_keep_their_own_logits(model, usual, loaded, monkeypatch):
    """Each is then tried alone, and the logits of one stand nowhere that another's could."""
    forward = model.forward

    def breaks(batch, memory):
        if 77 in batch.tokens:
            raise MemoryError
        return forward(batch, memory)

    asks = [asked(temperature=0, logit_bias={77: -100.0}), asked(temperature=0, logit_bias={77: -100.0})]
    plain = plain_answers(usual, loaded.tokenizer, asks)
    monkeypatch.setattr(model, "forward", breaks)
    guilty = asked(temperature=0, logit_bias={77: 100.0})
    if DEVICE == "cuda":
        pytest.skip("a replay calls no Python that could break")
    found, _ = answers(model, loaded.tokenizer, Recorded(), [*asks, guilty])
    assert isinstance(found[2].end, Internal)
    assert [c.tokens for c in found[:2]] == plain


def test_a_failed_capture_costs_one_warning(model, usual, loaded, caplog):
    def fails(launch):
        raise RuntimeError("no such device")

    asks = [asked(temperature=0), asked(temperature=0)]
    plain = plain_answers(usual, loaded.tokenizer, asks)
    with caplog.at_level(logging.WARNING, "trimtab.engine"):
        found, engine = answers(model, loaded.tokenizer, fails, asks)
    assert [c.tokens for c in found] == plain
    assert [r.message for r in caplog.records] == [
        "steps run without CUDA graphs from now on: one could not be captured: no such device"
    ]
    assert not engine.forward.over.graphs._steps


def test_a_replay_that_says_something_else_is_found_when_a_model_is_loaded(model, caplog):
    right = Graphs(model, memory_of(model, 4), Sight(), 64, Recorded())
    right.check()
    assert right.logits([Rows([3], 5, [1], range(1))]) is not None
    assert not caplog.records

    def wrongly(launch):
        return lambda: launch() * 1.5

    for most in (4, 1):  # both rows of the check; a single one
        wrong = Graphs(model, memory_of(model, 4), Sight(), 64, wrongly, most)
        wrong.check()
        assert wrong.logits([Rows([3], 5, [1], range(1))]) is None
    assert [r.message for r in caplog.records] == [
        "steps run without CUDA graphs from now on: a replayed one gave other logits"
    ] * 2


def test_too_many_sizes_run_as_they_are(model, monkeypatch):
    monkeypatch.setattr(graphs, "_MOST_BUCKETS", 1)
    captured = Graphs(model, memory_of(model), Sight(), 128, Recorded())
    assert captured.logits([Rows([3], 5, [1], range(1))]) is not None
    assert captured.logits([Rows([3, 4], 5, [1], range(2))]) is None


def test_a_loaded_model_has_its_passes_captured(tiny, monkeypatch):
    """The engine's, the glances' through a window and the drafting model's, each over its own memory."""
    monkeypatch.setattr(graphs, "CudaGraphs", Recorded)
    settings = Settings(threads=1, kv_mb=16, most_running=2, draft_window=64, compute="float32")
    engine = load(tiny, lambda: datetime(2026, 1, 1, tzinfo=UTC), settings, tiny).engine
    opening._capture(engine, settings)
    passes = [engine.forward.over, engine.glance, engine.guesses.small.over]
    sizes = [sorted((size.sequences, size.rows) for size in over.graphs._steps) for over in passes]
    assert sizes == [[(1, 1), (1, 4), (2, 2)], [(1, 1), (2, 2)], [(1, 1)]]
    assert passes[1].memory is passes[0].memory is not passes[2].memory
    assert passes[1].graphs._sight == Sight(64, 4)
    assert passes[2].graphs.logits([Rows([3], 5, [1], [0])]).shape == (1, passes[2].model.shape.vocabulary)
    engine.check()
