"""The controller: its cost of a step, its chances, and what its choices are worth in simulated engines."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.draft import NOTHING, Draft
from trimtab.backends.engine.draft_best import paths
from trimtab.backends.engine.draft_chance import Chances, Record
from trimtab.backends.engine.draft_cost import StepCost
from trimtab.backends.engine.draft_length import Lengths, Want

# Seconds of a step by its rows: flat up to a tile as int8 on this kind of CPU, a line as int4, hardly any start as
# a model too small for its threads, and stairs.
COSTS = {
    "flat": lambda r: 0.02 * (1 + 0.07 * (r - 1) / 15 if r <= 16 else 1.13 if r <= 32 else 1.13 * r / 32),
    "line": lambda r: 0.010 + 0.0035 * r,
    "steep": lambda r: 0.002 + 0.009 * r,
    "stairs": lambda r: 0.02 * (1 if r == 1 else 1.4 * (-(-r // 16))),
}
LONG = 12


class Engine:
    """Time and tokens of `batch` answers at once whose guesses come true with chance `accept(tokens so far)`."""

    def __init__(self, cost, accept, batch, said=None, seed=0):
        self.cost, self.accept, self.said, self.random = cost, accept, said, random.Random(seed)
        self.lengths, self.records = Lengths(), [Record() for _ in range(batch)]
        self.tokens, self.seconds, self.drafted = 0, 0.0, 0

    def run(self, steps, fixed=None):
        for _ in range(steps):
            chance = self.accept(self.tokens / len(self.records))
            sure = min(0.99, max(0.02, chance if self.said is None else self.said))
            wants = [Want(r, Draft(tuple(range(LONG)), (), (sure,) * LONG, "suffix")) for r in self.records]
            rows = len(wants)
            chosen = (
                self.lengths.choose(wants, rows, 1000, 256) if fixed is None else [w.draft.cut(fixed) for w in wants]
            )
            rows += sum(len(d.tokens) for d in chosen)
            self.drafted += rows - len(wants)
            took = self.cost(rows) * self.random.lognormvariate(0, 0.03)
            self.lengths.timed(rows, 1000, took)
            self.seconds += took
            for want, draft in zip(wants, chosen, strict=True):
                right = next((i for i in range(LONG) if self.random.random() > chance), LONG)
                n = min(right, len(draft.tokens))
                emitted = [*range(n), n if right > n else -1]
                self.tokens += len(emitted)
                self.lengths.learn(want.record, emitted)
        return self.tokens / self.seconds


ACCEPT = {
    "0": lambda _: 0.0,
    "0.3": lambda _: 0.3,
    "0.6": lambda _: 0.6,
    "0.95": lambda _: 0.95,
    "switching": lambda tokens: 0.95 * (int(tokens / 150) % 2),
}


@pytest.mark.parametrize("accept", ACCEPT)
@pytest.mark.parametrize(("cost", "batch"), [(c, b) for c in COSTS for b in (1, 16)])
def test_never_worse_than_off_and_not_far_from_the_best_fixed_length(cost, accept, batch):
    steps = 900 if batch == 1 else 150
    run = Engine(COSTS[cost], ACCEPT[accept], batch, said=0.7)
    ours, off = run.run(steps), batch / COSTS[cost](batch) / batch
    off = Engine(COSTS[cost], ACCEPT[accept], batch).run(100, fixed=0)
    assert ours >= 0.97 * off  # start included, where a row's cost and the drafter's word are not known yet
    if accept != "switching":
        best = max(Engine(COSTS[cost], ACCEPT[accept], batch).run(100, fixed=k) for k in (1, 2, 4, 8, 12))
        assert ours >= 0.85 * best
    if accept == "0":
        assert run.drafted < 0.1 * steps * batch


def test_what_becomes_predictable_is_drafted_within_a_few_steps():
    engine = Engine(COSTS["line"], lambda tokens: 0.95 if tokens > 400 else 0.0, 1, said=0.7)
    while engine.tokens <= 400:
        engine.run(1)
    before, start = engine.drafted, engine.tokens
    engine.run(20)
    assert engine.drafted > before
    assert engine.tokens - start > 40


def test_an_answer_that_is_hard_to_guess_does_not_stop_its_neighbours():
    lengths, easy, hard = Lengths(), Record(), Record()
    for _ in range(60):
        draft = Draft((1, 2, 3), (), (0.6, 0.6, 0.6), "suffix")
        chosen = lengths.choose([Want(easy, draft), Want(hard, draft)], 2, 100, 99)
        rows = 2 + sum(len(d.tokens) for d in chosen)
        lengths.timed(rows, 100, COSTS["line"](rows))
        lengths.learn(easy, [1, 2, 3, 9][: len(chosen[0].tokens) + 1])
        lengths.learn(hard, [8])
    assert len(chosen[0].tokens) == 3
    assert chosen[1] == NOTHING


@st.composite
def wanted(draw):
    size = draw(st.integers(0, 8))
    sure = tuple(draw(st.lists(st.floats(0.02, 1.0), min_size=size, max_size=size)))
    chain = draw(st.booleans())
    parents = () if chain else tuple(draw(st.integers(-1, i - 1)) for i in range(size))
    return Draft(tuple(range(size)), parents, sure, "s")


@given(st.lists(wanted(), min_size=1, max_size=5), st.integers(0, 20), st.integers(0, 50))
def test_choices_are_whole_parts_of_the_wants_and_fit_the_room(drafts, room, steps):
    lengths = Lengths()
    for _ in range(steps % 5):
        lengths.timed(1 + steps, 100, 0.01)
    chosen = lengths.choose([Want(Record(), d) for d in drafts], len(drafts), 100, room)
    assert len(chosen) == len(drafts)
    assert sum(len(d.tokens) for d in chosen) <= room
    for whole, part in zip(drafts, chosen, strict=True):
        assert set(part.tokens) <= set(whole.tokens)
        for i, token in enumerate(part.tokens):
            parent, was = part.parent(i), whole.parent(whole.tokens.index(token))
            assert (part.tokens[parent] if parent >= 0 else -1) == (whole.tokens[was] if was >= 0 else -1)
        # No node is left out that is likelier than one that is taken.
        likely = dict(zip(whole.tokens, paths(whole, Chances().of(Record(), whole)), strict=True))
        if part.tokens:
            worst = min(likely[t] for t in part.tokens)
            assert all(likely[t] <= worst + 1e-9 for t in set(whole.tokens) - set(part.tokens))


def test_a_tree_takes_the_likely_branches():
    draft = Draft((1, 2, 3, 4), (-1, -1, 0, 1), (0.5, 0.4, 0.9, 0.05), "s")
    (chosen,) = Lengths().choose([Want(Record(), draft)], 1, 0, 9)
    chosen_again = chosen
    if chosen == NOTHING:  # the first of all is measured plain
        (chosen_again,) = Lengths().choose([Want(Record(), draft)], 1, 0, 9)
    assert chosen_again.tokens in ((), (1, 3), (1, 2, 3))


@pytest.mark.parametrize("name", COSTS)
def test_costs_are_found_through_noise_and_odd_measurements(name):
    cost, noise, line = StepCost(), random.Random(1), COSTS[name]
    for _ in range(400):
        rows, kv = noise.choice([1, 1, 2, 4, 6, 8, 12, 16]), noise.randrange(100, 5000)
        odd = 30.0 if noise.random() < 0.02 else 1.0
        cost.learn(rows, kv, (line(rows) + 1e-6 * kv) * noise.lognormvariate(0, 0.05) * odd)
    for rows in (1, 2, 4, 8, 16):
        assert cost.seconds(rows, 2500) == pytest.approx(line(rows) + 2.5e-3, rel=0.08)
    curve = cost.curve(1, 16, 2500)
    assert curve == sorted(curve)


def test_a_step_that_was_slow_for_long_is_believed():
    cost = StepCost()
    for seconds in [0.01] * 50 + [0.03] * 120:
        cost.learn(4, 100, seconds)
    assert cost.seconds(4, 100) == pytest.approx(0.03, rel=0.1)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_times_that_cannot_be_are_left_out(seconds):
    cost = StepCost()
    cost.learn(1, 1, 0.01)
    before = cost.seconds(1, 1)
    cost.learn(1, 1, seconds)
    cost.learn(0, 1, 1.0)
    assert cost.seconds(1, 1) == before


def test_chances_start_at_the_drafters_word_and_end_at_the_truth():
    chances, draft = Chances(), Draft((1,), (), (0.9,), "s")
    assert chances.of(Record(), draft) == [0.9]
    noise = random.Random(0)
    for _ in range(400):
        record = Record(last=draft)
        assert chances.learn(record, [1 if (hit := noise.random() < 0.3) else 2]) == int(hit)
    assert chances.of(Record(), draft)[0] == pytest.approx(0.3, abs=0.1)
    # Another drafter, or another certainty, is judged for itself.
    assert chances.of(Record(), Draft((1,), (), (0.9,), "t")) == [0.9]
    assert chances.of(Record(), Draft((1,), (), (0.55,), "s")) == [0.55]


def test_a_guess_that_was_not_verified_is_learnt_from_too():
    lengths, record = Lengths(), Record()
    draft = Draft((1, 2), (), (0.5, 0.5), "s")
    for _ in range(30):
        lengths.choose([Want(record, draft)], 1, 0, 0)  # no room: nothing is verified
        assert lengths.learn(record, [1]) == 1
    assert lengths.chances.of(record, draft)[0] > 0.8


def test_a_drafter_that_costs_is_asked_while_it_pays_and_seldom_else():
    lengths, record = Lengths(), Record()
    for rows in [1, 2, 4, 8] * 10:
        lengths.timed(rows, 0, COSTS["flat"](rows))
    lengths.timed_draft("model", 4, 4 * 0.004)
    assert 2 <= lengths.worth(record, "model", 0) <= 12
    lengths.timed_draft("slow", 4, 4 * 0.5)
    asked = [lengths.worth(record, "slow", 0) for _ in range(1000)]
    assert set(asked) == {0, 1}
    assert 3 <= sum(asked) <= 12
    for _ in range(20):
        record.last = Draft((1,), (), (0.7,), "model")
        lengths.learn(record, [2])
    assert lengths.worth(record, "model", 0) == 0
