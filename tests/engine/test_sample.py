"""Choosing tokens: the law, its repetition by seed, and what penalties, bias and grammar do to it."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.request import Sampling
from trimtab.backends.engine.sample import Law, draw, draw_within, gumbel, logprobs

LOGITS = torch.tensor([[2.0, 1.0, 0.5, -1.0, -3.0]])
LAW = torch.softmax(LOGITS[0], -1).tolist()


def choose(logits, sampling, said, position, grammar=None):
    law = Law(sampling, position, said)
    token = draw(logits, [law])[0] if grammar is None else draw_within(logits[0], law, grammar)
    return logprobs(logits[0], token, sampling.logprobs)


def draws(sampling, count=4000):
    return Counter(choose(LOGITS, sampling, Counter(), i).token for i in range(count))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_law_says(temperature):
    law = torch.softmax(LOGITS[0] / temperature, -1).tolist()
    got = draws(Sampling(temperature=temperature, seed=11))
    for token, p in enumerate(law):
        assert abs(got[token] / 4000 - p) < 5 * (p * (1 - p) / 4000) ** 0.5 + 1e-3


def test_no_temperature_takes_the_likeliest():
    assert draws(Sampling(temperature=0), 50) == {0: 50}


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(top_p=0.5, seed=1), {0}),
        (Sampling(top_p=0.7, seed=1), {0, 1}),
        (Sampling(top_p=0.0, seed=1), {0}),
        (Sampling(top_k=3, seed=1), {0, 1, 2}),
        (Sampling(min_p=0.2, seed=1), {0, 1, 2}),
        (Sampling(logit_bias={4: 100.0}, seed=1), {4}),
        (Sampling(logit_bias={0: -100.0, 1: -100.0}, temperature=0), {2}),
    ],
)
def test_what_is_cut_never_comes_and_the_rest_does(sampling, allowed):
    assert set(draws(sampling, 800)) == allowed


@given(st.integers(0, 2**64 - 1), st.integers(0, 10_000))
def test_a_choice_depends_on_seed_and_position_alone(seed, position):
    sampling = Sampling(temperature=1.5, seed=seed)
    first = choose(LOGITS, sampling, Counter(), position)
    choose(LOGITS, Sampling(seed=seed + 1), Counter(), position)
    assert choose(LOGITS, sampling, Counter(), position) == first


def test_seeds_and_positions_differ():
    assert (
        len({choose(torch.zeros(1, 1000), Sampling(seed=s), Counter(), p).token for s in range(5) for p in range(5)})
        > 15
    )


def test_penalties_count_what_was_said():
    said = Counter({0: 3})
    assert choose(LOGITS, Sampling(temperature=0, presence_penalty=0.9), said, 0).token == 0
    assert choose(LOGITS, Sampling(temperature=0, presence_penalty=1.1), said, 0).token == 1
    assert choose(LOGITS, Sampling(temperature=0, frequency_penalty=0.5), said, 0).token == 1
    assert choose(LOGITS, Sampling(temperature=0, frequency_penalty=-1), Counter({1: 2}), 0).token == 1


def test_logprobs_are_the_models_own_whatever_the_sampling():
    choice = choose(LOGITS, Sampling(temperature=0, logit_bias={2: 50.0}, logprobs=2), Counter(), 0)
    assert choice.token == 2
    assert choice.logprob == pytest.approx(torch.log(torch.tensor(LAW[2])).item(), abs=1e-5)
    assert [token for token, _ in choice.top] == [0, 1]


class OnlyOdd:
    def mask(self):
        return np.arange(5) % 2 == 1

    def settle(self, token):
        return token


def test_a_grammar_leaves_the_law_of_what_it_accepts():
    got = Counter(choose(LOGITS, Sampling(seed=5), Counter(), i, OnlyOdd()).token for i in range(3000))
    assert set(got) == {1, 3}
    assert got[1] / 3000 == pytest.approx(LAW[1] / (LAW[1] + LAW[3]), abs=0.03)


def test_a_grammar_that_wants_none_of_the_nucleus_gets_the_best_it_wants():
    assert choose(LOGITS, Sampling(top_k=1, seed=5), Counter(), 0, OnlyOdd()).token == 1
    assert choose(LOGITS, Sampling(temperature=0), Counter(), 0, OnlyOdd()).token == 1


def test_rows_are_drawn_as_if_alone():
    logits = torch.randn(7, 500, generator=torch.Generator().manual_seed(1)) * 3
    laws = [
        Law(Sampling(temperature=0)),
        Law(Sampling(temperature=0.7, top_p=0.9, seed=3), 5),
        Law(Sampling(temperature=0, presence_penalty=2.0), 5, {int(logits[2].argmax()): 1}),
        Law(Sampling(temperature=1.3, top_k=4, seed=1), 9),
        Law(Sampling(temperature=1.0, seed=1), 9),
        Law(Sampling(temperature=0.5, min_p=0.1, logit_bias={7: 5.0}, seed=9), 2),
        Law(Sampling(temperature=2.0, top_p=0.3, top_k=50, min_p=0.001, seed=4), 1),
    ]
    assert draw(logits, laws) == [draw(row[None], [law])[0] for row, law in zip(logits, laws, strict=True)]


def test_noise_is_never_infinite_and_so_no_token_is_drawn_by_force():
    tokens = np.arange(49_152)
    most = max(float(gumbel(0, position, tokens).max()) for position in range(1200))
    assert 15 < most < 16.7  # 24 bits of it would have been infinite four times


@pytest.mark.parametrize("width", [16, 17, 500, 49_152])
def test_every_token_is_drawn_by_one_law(width, monkeypatch):
    """Whoever computes it: the same tokens, but where the two largest are as good as equal."""
    generator = torch.Generator().manual_seed(width)
    logits = 3 * torch.randn(40, width + 3, generator=generator)[:, :width]
    logits[3, 1:] = -torch.inf
    laws = [Law(Sampling(temperature=t, seed=i), 5 * i) for i, t in enumerate([0.3, 0.8, 1.0, 2.0] * 10)]
    fast = draw(logits, laws)
    monkeypatch.setattr("trimtab.backends.engine.sample.native", lambda device: False)
    assert fast == draw(logits, laws)
    assert fast[3] == 0


def test_noise_is_gumbels_and_of_one_token_whatever_others_are_asked():
    tokens = np.arange(200_000)
    noise = gumbel(5, 7, tokens)
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)
    assert noise.std() == pytest.approx(np.pi / 6**0.5, abs=0.02)
    assert (gumbel(5, 7, tokens[1000:1003]) == noise[1000:1003]).all()
    for other in (gumbel(5, 8, tokens), gumbel(6, 7, tokens), gumbel(2**64 - 1, 7, tokens)):
        assert abs(np.corrcoef(noise, other)[0, 1]) < 0.01
