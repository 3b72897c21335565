"""The model's own glances in the engine: they change no token, and nothing that anybody reads is written by them."""

import math
import os
import random
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before any test imports triton

from trimtab.backends.engine.attention import Sight
from trimtab.backends.engine.draft_chance import Record
from trimtab.backends.engine.draft_length import Lengths
from trimtab.backends.engine.draft_model_run import Glances
from trimtab.backends.engine.draft_window import Asked, WindowDrafter
from trimtab.backends.engine.engine import Engine, Options
from trimtab.backends.engine.loaded import load
from trimtab.backends.engine.memory import Memory
from trimtab.backends.engine.request import Ask, Sampling
from trimtab.backends.engine.schedule import Limits
from trimtab.backends.engine.sequence import Job, Piece, Task
from trimtab.backends.engine.settings import Settings
from trimtab.kernels.switch import forced

GLANCE = Sight(8, 2)
GREEDY, WARM = Sampling(temperature=0), Sampling(temperature=0.9, top_p=0.9)


@pytest.fixture
def eager(monkeypatch):
    """The model is always asked, and of what it says the first half is verified."""
    monkeypatch.setattr("trimtab.backends.engine.draft_length.Lengths.worth", lambda *_, **__: 6)
    monkeypatch.setattr("trimtab.backends.engine.draft_best._ENOUGH", 1e9)
    monkeypatch.setattr("trimtab.backends.engine.draft_window._LEAST_PATH", 0.0)

    def half(lengths, wants, *_, **__):
        return [want.draft.only(list(range(-(-len(want.draft.tokens) // 2)))) for want in wants]

    monkeypatch.setattr("trimtab.backends.engine.draft_length.Lengths.choose", half)


class Fibonacci:
    """Says of each answer what is behind its last two tokens, and checks that it was told the truth."""

    window = 4

    def __init__(self, room=10**9):
        self.room, self.passes = room, []

    def ready(self, answer, rows):
        return len(answer) + rows <= self.room

    def glance(self, answers, tokens, at):
        self.passes.append(len(answers))
        for answer, token, place in zip(answers, tokens, at, strict=True):
            assert place <= len(answer)
            answer[place:] = [token]
        return [((answer[-1] + answer[-2]) % 50, 0.5 if answer[-1] == 7 else 0.9) for answer in answers]


def test_guesses_for_many_answers_come_of_the_same_passes():
    clock = iter(range(99))
    told, model = [], Fibonacci(room=60)
    drafter = WindowDrafter(model, lambda *what: told.append(what), lambda: next(clock))
    texts = [[1, 2] * 10, [3] * 20, [1, 2, 3] * 7, [5] * 58]
    asked = [Asked(list(text), text, most) for text, most in zip(texts, (5, 2, 1, 4), strict=True)]
    drafts = drafter.propose(asked)
    assert [len(draft.tokens) for draft in drafts] == [5, 2, 1, 0]
    assert model.passes == [3, 2, 1, 1, 1]
    assert drafts[0].tokens == (3, 5, 8, 13, 21)
    assert drafts[0].source == "window"
    assert told == [(8, 1)]
    for one, draft, text in zip(asked, drafts, texts, strict=True):
        assert one.answer == [*text, *draft.tokens[:-1]]


def test_a_guess_that_has_become_unlikely_is_not_gone_on_with():
    drafter = WindowDrafter(Fibonacci(), lambda *_: None, lambda: 0.0)
    assert not drafter.long_enough([1] * 15)
    assert drafter.long_enough([1] * 16)
    [draft] = drafter.propose([Asked([3, 4], [3, 4], 30)])  # 7, then by halves: 7 11 18 29 47 26 ...
    assert 1 < len(draft.tokens) < 30
    assert math.prod(draft.confidence) >= 0.1


class Watched:
    """What of a memory a glance may not touch stands as it stood: all but what is behind its answer's computed rows."""

    def __init__(self, monkeypatch, running):
        self.glances = self.passes = 0
        self._running = running
        glance = Glances.glance

        def watching(glances, answers, tokens, at):
            before = self._readable(glances._over.memory)
            said = glance(glances, answers, tokens, at)
            after = self._readable(glances._over.memory)
            assert all(a.equal(b) for a, b in zip(before, after, strict=True))
            self.passes += 1
            self.glances += len(answers)
            return said

        monkeypatch.setattr(Glances, "glance", watching)

    def _readable(self, memory):
        """Every computed row of every running answer, and the pages of nobody that runs."""
        turned, out, used = memory.turned, [], set()
        for s in self._running():
            for i, page in enumerate(s.pages):
                rows = max(0, min(memory.page, s.computed - i * memory.page))
                out.append((memory.keys[:, page, :, :, :rows] if turned else memory.keys[:, page, :, :rows]).clone())
                out.append(memory.values[:, page, :, :rows].clone())
                used.add(page)
        others = [page for page in range(memory.pages + 1) if page not in used]
        return [*out, memory.keys[:, others].clone(), memory.values[:, others].clone()]


def answers(loaded, monkeypatch, sampling, glance=GLANCE, pages=60, n=1, most=24, model=None, graphs=None, count=3):
    """The tokens of each answer, none of which ends by itself; the engine; and how many glances."""
    sampling = replace(sampling, logit_bias=dict.fromkeys(loaded.tokenizer.ends, -100.0))
    model, chance = model or loaded.engine.model, random.Random(8)
    prompts = [[chance.randrange(5, 90) for _ in range(chance.randint(44, 60))] for _ in range(count)]
    with torch.inference_mode(), monkeypatch.context() as patch:
        memory = Memory(model.shape, pages, model.dtype, model.device, 16)
        options = Options(Limits(4, 64, 32), glance=glance, draft=8)
        engine = Engine(model, loaded.tokenizer, memory, 128, time.perf_counter, options)
        if graphs is not None:
            engine.glance.graphs = graphs(model, memory, engine.glance.sight, engine.context)
        watched, said = Watched(patch, lambda: engine.running), {}
        for i, prompt in enumerate(prompts):

            def tell(events, i=i):
                for event in events or ():
                    if isinstance(event, Piece):
                        said.setdefault((i, event.choice), []).extend(choice.token for choice in event.tokens)

            engine.add(Job([Task(prompt, Ask(sampling, seed=i, n=n, most=most, stops=()))], tell))
        while engine.busy:
            engine.step()
            engine.pool.check()
        engine.check()
    assert watched.passes < watched.glances or count * n == 1 or not watched.glances, "one pass is for many answers"
    return said, engine, watched.glances


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_no_token_is_another(loaded, monkeypatch, eager, sampling):
    plain, usual, none = answers(loaded, monkeypatch, sampling, None, most=48)
    found, engine, glances = answers(loaded, monkeypatch, sampling, most=48)
    assert found == plain
    assert none == 0 < glances
    assert engine.steps < usual.steps, "some of what was seen through the window came true"


def test_no_token_is_another_beside_forks_and_where_memory_runs_out(loaded, monkeypatch, eager):
    plain, _, _ = answers(loaded, monkeypatch, WARM, None, n=2)
    forked, _, glances = answers(loaded, monkeypatch, WARM, n=2)
    assert forked == plain
    assert glances
    plain, _, _ = answers(loaded, monkeypatch, GREEDY, None, most=40)
    short, engine, glances = answers(loaded, monkeypatch, GREEDY, most=40, pages=14)
    assert short == plain
    assert engine.preempted
    assert glances


def test_a_short_context_is_not_looked_at_through_a_window(loaded, monkeypatch, eager):
    _, _, glances = answers(loaded, monkeypatch, GREEDY, Sight(48, 2), most=12)
    assert glances == 0


def test_a_glance_that_fails_is_the_last(loaded, monkeypatch, eager, caplog):
    plain, _, _ = answers(loaded, monkeypatch, GREEDY, None)

    def fails(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("trimtab.backends.engine.draft_model_run._drawn", fails)
    found, _, glances = answers(loaded, monkeypatch, GREEDY)
    assert found == plain
    assert glances == 0
    assert [r.message for r in caplog.records] == ["no more guesses through a window: no room"]


def test_it_is_the_controllers_to_say(loaded, monkeypatch):
    """A glance costs the tiny model what a step does, and is asked for now and then."""
    plain, _, _ = answers(loaded, monkeypatch, GREEDY, None, most=60, count=1)
    found, engine, glances = answers(loaded, monkeypatch, GREEDY, most=60, count=1)
    assert found == plain
    assert glances <= engine.steps


def test_on_kernels_by_captured_glances(loaded, tiny, monkeypatch, eager):
    pytest.importorskip("triton")
    from trimtab.backends.engine import batch_kept
    from trimtab.backends.engine.gguf_checkpoint import GgufCheckpoint
    from trimtab.backends.engine.graphs import CudaGraphs, Graphs
    from trimtab.backends.engine.model import Model
    from trimtab.kernels import interpreter

    interpreter.mend()
    cuda = torch.cuda.is_available()
    if not cuda:
        monkeypatch.setattr(batch_kept, "multiprocessors", lambda device: 4)
    captured = []

    def graphs(model, memory, sight, context):
        def capture(launch):
            captured.append(launch)
            return CudaGraphs()(launch) if cuda else launch

        return Graphs(model, memory, sight, context, capture, 4)

    usual = Model(GgufCheckpoint(tiny), "float32")
    plain, _, _ = answers(loaded, monkeypatch, GREEDY, None, model=usual, most=10, count=1)
    with forced("triton"):
        model = Model(GgufCheckpoint(tiny), "float32", "cuda" if cuda else "cpu")
        model.dtype = torch.float32
        found, _, glances = answers(loaded, monkeypatch, GREEDY, model=model, most=10, count=1, graphs=graphs, pages=8)
    assert found == plain
    assert len(captured) == 1 < glances


def test_a_guess_is_asked_for_where_its_price_is_less_than_what_it_saves():
    """A long context read by one answer; the same beside fifteen others; a short one."""
    lengths = Lengths()
    for rows in [1, 2, 4, 8, 16] * 8:
        for kv in (0, 1000, 16_000, 64_000):
            lengths.timed(rows, kv, 0.010 + 0.0001 * rows + kv * 1e-6)
    window = lengths.cost.seconds(1, 512)

    def asked(kv, answers=1, unknown=window):
        return lengths.worth(Record(), "window", kv, answers=answers, unknown=unknown)

    assert asked(64_000) >= 3
    assert asked(2_000) == 0
    assert asked(10_000) > 0
    assert asked(10_000, answers=16) == 0, "a step's weights are shared out, and a glance's are not"
    assert asked(64_000, unknown=1.0) == 0
    for _ in range(20):
        lengths.timed_draft("window", 1, 1.0)
    assert asked(64_000) == 0


def test_the_option_arrives(tiny):
    def opened(**options):
        asked = Settings(threads=1, kv_mb=16, **options)
        return load(tiny, lambda: datetime(2026, 1, 1, tzinfo=UTC), asked).engine

    assert opened().glance is None
    assert opened(draft_window=64).glance.sight == Sight(64, 4)
    assert opened(draft_window=64, speculation=False).glance is None


@given(st.integers(0, 2**32))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_page_is_lost_whatever_is_aborted(loaded, eager, seed):
    """Aborted while waiting, reading, answering or forking, and short of memory, with glances at every step."""
    chance, model, steps, jobs = random.Random(seed), loaded.engine.model, 0, []
    memory = Memory(model.shape, 24, model.dtype, model.device, 16)
    options = Options(Limits(6, 64, 24), glance=GLANCE, draft=8)
    engine = Engine(model, loaded.tokenizer, memory, 128, time.perf_counter, options)
    glances, glance = [], engine.glance.logits
    engine.glance.logits = lambda rows: glances.append(engine.steps) or glance(rows)
    while steps < 50 or engine.busy:
        if steps < 50 and chance.random() < 0.6:
            prompt = [chance.randrange(5, 90) for _ in range(chance.randint(1, 90))]
            ask = Ask(WARM, seed=steps, n=chance.randint(1, 3), most=chance.randint(0, 30), stops=())
            jobs.append(Job([Task(prompt, ask)], lambda events: None))
            engine.add(jobs[-1])
        if jobs and chance.random() < 0.4:
            jobs.pop(chance.randrange(len(jobs))).cancelled = True
        engine.step()
        engine.pool.check()
        steps += 1
    engine.check()
    assert len(set(glances)) > 5  # one that failed would have been the last
    assert engine.pool.used == 0
