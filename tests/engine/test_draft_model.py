"""Guesses from a model: catching up with what was accepted, drawing with the target's noise, giving up in time."""

import random

import pytest

from trimtab.backends.engine.draft_length import Lengths
from trimtab.backends.engine.draft_model import ModelDrafter, check_vocabulary
from trimtab.protocol.errors import ModelUnavailable

PROMPT = [1, 2, 3]


class Small:
    """A model whose row behind some tokens is a number made of all of them; it checks that it was told the truth."""

    context = 64

    def __init__(self, room=10**9):
        self.reads, self.open_, self.room, self.longest = 0, 0, room, 0

    def open(self):
        self.open_ += 1
        return []

    def read(self, memory, tokens, at):
        assert len(memory) >= at
        if at + len(tokens) > self.room:
            raise MemoryError
        del memory[at:]
        memory += tokens
        self.reads += 1
        self.longest = max(self.longest, len(tokens))
        return row(memory)

    def close(self, memory):
        self.open_ -= 1


def row(tokens):
    return random.Random(str(list(tokens))).randrange(10**6)


def noisy(seed):
    """A draw from a row that depends on the seed and the position as sampling with keyed noise does."""
    return lambda logits, position: (random.Random(f"{logits // 2}/{seed}/{position}").randrange(50), 0.9)


class Ticks:
    def __init__(self):
        self.told, self.now = [], 0.0

    def __call__(self):
        self.now += 1.0
        return self.now

    def timed(self, tokens, seconds):
        self.told.append((tokens, seconds))


def drafter(model, seed=0, worth=lambda kv: 9, clock=None, prompt=3):
    clock = clock or Ticks()
    return ModelDrafter(model, noisy(seed), prompt, worth, clock.timed, clock)


def truth(tokens, count, seed=0):
    """What a target that is the same model says."""
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(noisy(seed)(row(tokens), len(tokens) - 3)[0])
    return tokens


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_model_with_the_same_noise_guesses_every_token(seed):
    drafts = drafter(Small(), seed)
    tokens, guessed = list(PROMPT), 0
    whole = truth(PROMPT, 40, seed)
    while len(tokens) < 40:
        draft = drafts.propose(tokens, 4)
        assert list(draft.tokens) == whole[len(tokens) : len(tokens) + 4]
        guessed += 4
        tokens = whole[: len(tokens) + 5]  # all four, and the target's own
    assert guessed > 20


def test_after_a_wrong_guess_it_goes_on_from_what_was_said():
    drafts, noise, tokens = drafter(Small()), random.Random(3), list(PROMPT)
    for _ in range(8):
        draft = drafts.propose(tokens, 5)
        assert list(draft.tokens) == truth(tokens, 5)[len(tokens) :]
        kept = noise.randrange(6)
        tokens += [*draft.tokens[:kept], 77]


def test_the_reading_of_a_long_prompt_is_spread_over_steps():
    model = Small()
    model.context = 5000
    drafts, prompt = drafter(model, prompt=3), list(range(900))
    said = [drafts.propose(prompt, 4).tokens for _ in range(4)]
    assert [bool(s) for s in said] == [False, False, False, True]
    assert model.longest <= 256


def test_no_guess_behind_the_end_of_its_context_nor_without_room():
    model = Small()
    model.context = 12
    drafts = drafter(model)
    assert len(drafts.propose([1] * 9, 8).tokens) == 2
    assert drafts.propose([1] * 11, 8).tokens == ()
    full = Small(room=6)
    drafts = drafter(full)
    assert drafts.propose(PROMPT, 9).tokens == ()
    assert full.open_ == 0
    assert drafts.propose(PROMPT, 2).tokens == ()  # it does not try again for this answer


def test_its_memory_is_given_back_when_the_answer_ends():
    model = Small()
    drafts = drafter(model)
    drafts.propose(PROMPT, 2)
    assert model.open_ == 1
    drafts.close(PROMPT, True)
    assert model.open_ == 0
    drafts.close(PROMPT, True)
    assert model.open_ == 0


def test_what_is_not_worth_its_price_is_not_computed_and_what_is_is_told():
    model, clock = Small(), Ticks()
    assert drafter(model, worth=lambda kv: 0).propose(PROMPT, 8).tokens == ()
    assert model.reads == 0
    assert len(drafter(model, worth=lambda kv: 3, clock=clock).propose(PROMPT, 8).tokens) == 3
    assert clock.told == [(3, 1.0)]
    # The controller is one that can be asked and told.
    lengths = Lengths()
    lengths.timed_draft("model", *clock.told[0])


def test_the_price_of_guesses_is_all_of_their_passes_and_no_prompts():
    model, told = Small(), []
    drafts = ModelDrafter(
        model, noisy(0), 50, lambda kv: 3, lambda n, s: told.append((n, s)), lambda: float(model.reads)
    )
    tokens = list(range(50))
    said = drafts.propose(tokens, 8).tokens
    assert told == [(0, 1.0), (3, 2.0)]  # the prompt's pass shows the first guess too
    drafts.propose([*tokens, *said[:2], 77], 8)
    assert told[2:] == [(3, 3.0)]  # what was accepted, and what came instead, is read in the first pass


def test_it_does_not_go_on_where_it_is_unsure():
    unsure = ModelDrafter(Small(), lambda row, i: (row % 50, 0.3), 3, lambda kv: 9, lambda n, s: None, lambda: 0.0)
    assert len(unsure.propose(PROMPT, 9).tokens) == 1


def test_vocabularies_that_differ_are_refused_by_name():
    check_vocabulary([b"a", b"b"], "small", [b"a", b"b"], "large")
    check_vocabulary([b"a", b"b", b"", b""], "small", [b"a", b"b"], "large")
    for small in ([b"a", b"c"], [b"a"], [b"a", b"b", b"c"]):
        with pytest.raises(ModelUnavailable, match="'tiny' cannot draft for 'big'"):
            check_vocabulary(small, "tiny", [b"a", b"b"], "big")
