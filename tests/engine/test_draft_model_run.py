"""The engine's own model as a drafter: its guesses are the target's words, and they change none of them."""

from datetime import UTC, datetime

import pytest
import torch

from trimtab.backends.engine.attention import Sight
from trimtab.backends.engine.checkpoint import open_checkpoint
from trimtab.backends.engine.draft_model_run import Glances, OwnPages
from trimtab.backends.engine.forward import Pass
from trimtab.backends.engine.loaded import load
from trimtab.backends.engine.memory import Memory
from trimtab.backends.engine.model import Model
from trimtab.backends.engine.request import Ask, Sampling
from trimtab.backends.engine.sequence import Job, Task
from trimtab.backends.engine.settings import Settings
from trimtab.protocol.errors import ModelUnavailable

GREEDY, WARM = Sampling(temperature=0), Sampling(temperature=0.9, top_p=0.9)
PROMPT = list(range(5, 45))


def opened(path, small=None, **options):
    return load(path, lambda: datetime(2026, 1, 1, tzinfo=UTC), Settings(threads=1, kv_mb=16, **options), small)


def say(loaded, sampling, most=48):
    """The tokens of an answer, and the steps it took."""
    engine = loaded.engine
    engine.add(Job([Task(PROMPT, Ask(sampling, seed=3, n=1, most=most, stops=()))], lambda events: None))
    sequence, before = engine.waiting[-1], engine.steps
    while engine.busy:
        engine.step()
    engine.check()
    return sequence.tokens[len(PROMPT) :], engine.steps - before


@pytest.fixture
def eager(monkeypatch):
    """Whatever is guessed is verified, and the model is always asked: tiny ones would never be worth it."""
    monkeypatch.setattr("trimtab.backends.engine.draft_length.Lengths.worth", lambda *_, **__: 6)
    monkeypatch.setattr("trimtab.backends.engine.draft_best._ENOUGH", 1e9)
    monkeypatch.setattr(
        "trimtab.backends.engine.draft_length.Lengths.choose", lambda s, wants, *_, **__: [w.draft for w in wants]
    )
    monkeypatch.setattr("trimtab.backends.engine.draft_model._LEAST_PATH", 0.0)


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_a_twin_guesses_what_the_target_says(tiny, eager, sampling):
    said, steps = say(opened(tiny, speculation=False), sampling)
    twin, fewer = say(opened(tiny, tiny), sampling)
    assert twin == said
    assert steps >= len(said)
    assert fewer < 0.6 * steps


def test_a_stranger_changes_no_token(tiny, write_gguf, eager):
    other = write_gguf("Q4_0")
    for sampling in (GREEDY, WARM):
        assert say(opened(tiny, other), sampling)[0] == say(opened(tiny, speculation=False), sampling)[0]


def test_the_memory_of_the_small_model_is_given_back(tiny, eager):
    loaded = opened(tiny, tiny)
    say(loaded, GREEDY)
    pool = loaded.engine.guesses.small._pool
    assert pool.free == pool.total


@pytest.mark.parametrize("compute", ["int8", "float32"])
def test_tables_may_be_padded_to_other_lengths(tiny, compute):
    """It guesses no token that the target has not, and reads the target's paddings as its own."""
    model = Model(open_checkpoint(tiny), compute)
    last = model.shape.vocabulary - 1
    small = OwnPages(model, Memory(model.shape, 2, model.kept, model.device), last - 6)
    pages = small.open()
    assert small.read(pages, [1, 2, last + 100], 0).shape == (1, last - 6)
    beyond = small.read(pages, [last + 1], 3).clone()
    assert torch.equal(small.read(pages, [last], 3), beyond)


def test_another_vocabulary_is_refused_by_both_names(tiny, write_gguf):
    tokens = list(open_checkpoint(tiny).vocabulary.texts)
    z, q = tokens.index("Z"), tokens.index("Q")
    tokens[z], tokens[q] = "Q", "Z"
    other = write_gguf(**{"tokenizer.ggml.tokens": tokens})
    with pytest.raises(ModelUnavailable) as raised:
        opened(tiny, other)
    assert other.name in raised.value.message
    assert tiny.name in raised.value.message


def test_a_glance_sees_what_its_window_leaves(tiny):
    """As wide as the context it is the target's own row; through a slit it is another."""
    loaded = opened(tiny)
    engine, model = loaded.engine, loaded.engine.model
    memory = Memory(model.shape, 2, model.dtype, model.device)

    class Answer:
        pages, prompt, sampling, said = (1, 2), 2, GREEDY, {}

    def last(sight):
        over = Pass(model, memory, sight)
        glances = Glances(over, lambda answer, rows: True)
        said = [glances.glance([Answer()], [token], [at]) for at, token in enumerate(PROMPT)]
        return said[-1]

    whole = last(Sight())
    assert last(Sight(window=64)) == whole
    assert last(Sight(window=4, sinks=1)) != whole
    assert not engine.busy
