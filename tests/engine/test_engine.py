"""The engine's own promises: the same tokens whatever is beside, and no page lost however answers end."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.backends.engine.engine import Engine, Options
from trimtab.backends.engine.grammar_request import read_form
from trimtab.backends.engine.memory import Memory
from trimtab.backends.engine.request import Ask, Sampling
from trimtab.backends.engine.schedule import Limits
from trimtab.backends.engine.sequence import Ended, Job, Piece, Scored, Task
from trimtab.protocol.errors import Internal, TrimtabError
from trimtab.protocol.messages import Request

WORDS = "hello world in the 12 worlds, hold the old word in hell. "


class Client:
    """What one request was told."""

    def __init__(self):
        self.events, self.error, self.done = [], None, False

    def __call__(self, said):
        assert not self.done
        if said is None or isinstance(said, TrimtabError):
            self.error, self.done = said, True
        else:
            self.events += said

    def of(self, choice):
        mine = [event for event in self.events if event.choice == choice]
        assert isinstance(mine[-1], Ended)
        tokens = [t for event in mine if isinstance(event, Piece) for t in event.tokens]
        return tokens, "".join(e.text for e in mine if isinstance(e, Piece)), mine[-1].reason


@pytest.fixture
def make(loaded):
    """make(pages=..., **options) -> an engine over the tiny model, with a memory of its own."""

    def build(pages=64, page=16, context=256, **options):
        model = loaded.engine.model
        memory = Memory(model.shape, pages, model.dtype, model.device, page)
        return Engine(model, loaded.tokenizer, memory, context, time.perf_counter, Options(**options))

    return build


def asked(n=1, most=40, seed=1, stops=(), echo=False, **sampling):
    return Ask(Sampling(**sampling), seed=seed, n=n, most=most, stops=stops, echo=echo)


def run(engine, tasks, tenant="", together=8):
    """Each task as a request of its own, at most so many at a time."""
    clients, waiting = [], list(tasks)
    while waiting or engine.busy:
        while waiting and len(engine.running) + len(engine.waiting) < together:
            clients.append(Client())
            engine.add(Job([waiting.pop(0)], clients[-1], tenant))
        engine.step()
    engine.check()
    assert all(client.done and client.error is None for client in clients)
    return [[client.of(i) for i in range(task.ask.n)] for client, task in zip(clients, tasks, strict=True)]


def prompts(loaded, count=10):
    """Texts that repeat themselves and one another, so that drafts and prefixes are found."""
    chance = random.Random(5)
    words = WORDS.split()
    texts = [
        WORDS * chance.randint(1, 3) + " ".join(chance.choices(words, k=chance.randint(1, 20))) for _ in range(count)
    ]
    return [loaded.tokenizer.encode(text)[:180] for text in texts]


SAMPLINGS = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 20, "logprobs": 2},
    {"temperature": 0.0, "frequency_penalty": 0.7, "presence_penalty": 0.3, "logprobs": 0},
    {"temperature": 0.5, "min_p": 0.02, "logit_bias": {5: 2.0}},
]
DIFFERENT = {
    "without speculation": ({"draft": 0}, 8),
    "in trees": ({"tree": True}, 8),
    "without prefixes": ({"prefixes": False}, 8),
    "one at a time": ({}, 1),
    "in small pieces": ({"limits": Limits(4, 13, 5)}, 6),
    "short of memory": ({"pages": 22}, 8),
    "with room for all": ({"pages": 300}, 10),
}


@pytest.fixture
def tasks(loaded):
    out = []
    for i, prompt in enumerate(prompts(loaded)):
        repeated = tuple(prompts(loaded)[i - 1][:60])  # a text that may resemble the answer
        out.append(Task(prompt, asked(seed=i, n=1 + i % 2, **SAMPLINGS[i % len(SAMPLINGS)]), given=(repeated,)))
    return out


@pytest.fixture
def usual(make, tasks, always):
    return run(make(pages=64), tasks)


@pytest.fixture
def always(monkeypatch):
    """Every guess is verified, worth it or not: tiny models make few that are."""
    monkeypatch.setattr(
        "trimtab.backends.engine.draft_length.Lengths.choose",
        lambda self, wants, rows, kv, room, others=0: [self._all(w, room // max(1, len(wants))) for w in wants],
    )
    monkeypatch.setattr("trimtab.backends.engine.draft_length.Lengths._all", staticmethod(every_guess), raising=False)


def every_guess(want, room):
    want.record.last = want.draft
    want.record.chances = [0.5] * len(want.draft.tokens)
    return want.draft.cut(min(room, 12))


@pytest.mark.parametrize("name", DIFFERENT)
def test_not_a_token_differs(make, tasks, usual, name):
    options, together = DIFFERENT[name]
    engine = make(**options)
    assert run(engine, tasks, together=together) == usual
    if name == "short of memory":
        assert engine.preempted > 0


def test_drafts_are_verified_and_some_are_right(make, loaded, always):
    """A text that is known to be the answer is accepted whole: many tokens a step."""
    prompt = prompts(loaded)[0]
    task = Task(prompt, asked(most=60, temperature=0.0, logit_bias={0: -100.0, 2: -100.0}))
    [[(tokens, text, _)]] = run(make(draft=0), [task])
    engine, client = make(), Client()
    job = Job([Task(prompt, task.ask, given=([t.token for t in tokens],))], client)
    engine.add(job)
    while engine.busy:
        engine.step()
    assert client.of(0)[1] == text
    assert job.accepted > 40
    assert engine.steps < 25


def test_penalties_within_a_form_count_what_the_draft_has_said(make, loaded, always):
    schema = {
        "type": "object",
        "properties": {"x": {"type": "string"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    form = loaded.grammars.compile(read_form(Request.build("chat", {"model": "m", "response_format": wanted})))
    ask = asked(most=60, temperature=0.0, frequency_penalty=1.5, presence_penalty=0.5)
    task = Task(prompts(loaded)[0], ask, form=form)
    [[(tokens, text, reason)]] = run(make(draft=0), [task])
    said = [t.token for t in tokens]
    assert len(said) > 20
    assert run(make(), [Task(task.prompt, ask, given=(said,), form=form)]) == [[(tokens, text, reason)]]


def test_choices_share_the_prompts_pages(make, loaded):
    engine = make(prefixes=False)
    prompt = (prompts(loaded)[1] * 4)[:100]
    engine.add(Job([Task(prompt, asked(n=5, most=10, temperature=1.0, logit_bias={0: -100.0, 2: -100.0}))], Client()))
    while len(engine.running) < 5:
        engine.step()
    assert engine.pool.used <= 6 + 1 + 5
    while engine.busy:
        engine.step()
    engine.check()
    assert engine.pool.free == engine.pool.total


def test_a_prompt_that_is_known_is_not_read_again(make, loaded):
    engine, prompt = make(), (prompts(loaded)[2] * 4)[:100]
    jobs = [Job([Task(prompt, asked(most=3))], Client(), tenant) for tenant in ("a", "a", "b")]
    for job in jobs:
        engine.add(job)
        while engine.busy:
            engine.step()
    assert [job.cached for job in jobs] == [0, 96, 0]


def test_two_that_read_the_same_prompt_at_once_keep_one_copy(make, loaded):
    engine, prompt = make(), (prompts(loaded)[2] * 4)[:100]
    for _ in range(3):
        engine.add(Job([Task(prompt, asked(most=3))], Client()))
    while engine.busy:
        engine.step()
    engine.check()
    assert engine.pool.cached == len(engine.prefixes) <= 3 * 7


def test_echo_scores_the_prompt_even_where_it_is_cached(make, loaded):
    prompt = prompts(loaded)[3][:90]
    ask = asked(most=2, echo=True, logprobs=1, temperature=0.0)
    engine = make()
    first, second = (run_one(engine, Task(prompt, ask)) for _ in range(2))
    scored = next(event for event in first.events if isinstance(event, Scored))
    assert [t.token for t in scored.tokens] == list(prompt)
    assert first.events == second.events


def run_one(engine, task):
    client = Client()
    engine.add(Job([task], client))
    while engine.busy:
        engine.step()
    engine.check()
    return client


def test_who_is_let_in_has_room_to_be_read(make):
    """Long prompts that come together are read as many at a time as fit: none is read halfway and thrown out."""
    chance = random.Random(3)
    tasks = [Task([chance.randrange(3, 250) for _ in range(100)], asked(most=4)) for _ in range(6)]
    engine = make(pages=18, limits=Limits(tokens=48, beside=16))
    most = 0
    for task in tasks:
        engine.add(Job([task], Client()))
    while engine.busy:
        engine.step()
        most = max(most, len(engine.running))
    engine.check()
    assert most == 2
    assert engine.preempted == 0


def test_a_slow_client_is_waited_for(make, loaded, monkeypatch):
    monkeypatch.setattr("trimtab.backends.engine.engine._MOST_UNREAD", 4)
    engine, client = make(draft=0), Client()
    job = Job([Task(prompts(loaded)[0], asked(most=60, logit_bias={0: -100.0, 2: -100.0}))], client)
    engine.add(job)
    for _ in range(50):
        engine.step()
    assert job.told - job.taken <= 6
    assert not client.done
    while not client.done:
        job.taken = job.told
        engine.step()
    assert job.generated == 60


def test_a_long_prompts_words_are_known_when_its_answer_begins(make, loaded, monkeypatch):
    """They are indexed a slice a step while it is read, not all at once and not only when the answer has begun."""
    monkeypatch.setattr("trimtab.backends.engine.draft_suffix._SLICE", 40)
    engine = make(limits=Limits(8, 40, 40))
    prompt = (prompts(loaded)[2] * 8)[:200]
    engine.add(Job([Task(prompt, asked(most=30))], Client()))
    engine.step()
    sequence = engine.running[0]
    while sequence.pending > 1:
        grown = sequence.guess.suffix.known
        assert grown <= sequence.computed + 40
        engine.step()
    assert sequence.guess.suffix.known >= len(prompt)


def test_one_failure_is_one_requests(make, loaded, monkeypatch):
    engine, clients = make(), [Client() for _ in range(3)]
    forward = engine.model.forward

    def breaks(batch, memory):
        if 77 in batch.tokens:
            raise MemoryError("out of memory at 0xdead")
        return forward(batch, memory)

    monkeypatch.setattr(engine.model, "forward", breaks)
    for client, first in zip(clients, (5, 77, 9), strict=True):
        engine.add(Job([Task([first, 4, 6], asked(most=5, logit_bias={77: -100.0}))], client))
    while engine.busy:
        engine.step()
    engine.check()
    assert [type(client.error) for client in clients] == [type(None), Internal, type(None)]
    assert all(client.done for client in clients)


@given(st.integers(0, 2**32))
@settings(max_examples=12, deadline=None)
def test_no_page_is_lost_whatever_is_aborted(loaded, seed):
    """Some 100 requests each time: aborted while waiting, reading, answering or forking, and short of memory."""
    chance = random.Random(seed)
    model = loaded.engine.model
    memory = Memory(model.shape, 20, model.dtype, model.device, 16)
    engine = Engine(model, loaded.tokenizer, memory, 256, time.perf_counter, Options(Limits(6, 64, 24)))
    texts, open_jobs, steps = prompts(loaded, 4), [], 0
    while steps < 60 or engine.busy:
        if steps < 60 and chance.random() < 0.7:
            ask = asked(n=chance.randint(1, 3), most=chance.randint(0, 30), seed=steps)
            task = Task(chance.choice(texts)[: chance.randint(1, 120)], ask)
            open_jobs.append(Job([task] * chance.randint(1, 2), Client(), chance.choice("ab")))
            engine.add(open_jobs[-1])
        if open_jobs and chance.random() < 0.5:
            open_jobs.pop(chance.randrange(len(open_jobs))).cancelled = True
        engine.step()
        engine.pool.check()
        steps += 1
    engine.check()
    assert engine.pool.used == 0
    assert engine.pool.cached == len(engine.prefixes)
    assert all(job.emit.done and job.emit.error is None for job in open_jobs)
