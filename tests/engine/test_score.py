"""Scores of a text are the model's own log-probabilities, whatever the windows, and stop when nobody waits."""

import asyncio

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.attention import Sight
from trimtab.backends.engine.backend import EngineBackend
from trimtab.backends.engine.batch import Batch, Rows
from trimtab.backends.engine.memory import Memory
from trimtab.backends.engine.score import EngineScorer, windows
from trimtab.protocol.errors import ContextTooLong, ModelUnavailable

TEXT = "hello world, it is 12 in the world; naïve 日本 🙂 don't.\n\n  hello"


def reference(loaded, before, ids):
    """Each id's log-probability from whole rows of logits."""
    tokens = before + ids
    model = loaded.engine.model
    memory = Memory(model.shape, 4, model.kept, model.device)
    rows = Rows(tokens, 0, range(1, -(-len(tokens) // 64) + 1), range(len(tokens)))
    logits = model.forward(Batch([rows], memory, model.shape.heads, Sight(), model.tiles), memory)
    logs = torch.log_softmax(logits, dim=-1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]
    return logs[len(before) - 1 :].numpy()


async def test_scores_are_the_models_own(engine, loaded):
    got = await EngineScorer(engine).logprobs(TEXT)
    ids = loaded.tokenizer.encode(TEXT)
    assert got.logprobs.shape == got.starts.shape == got.ends.shape == (len(ids),)
    np.testing.assert_allclose(got.logprobs, reference(loaded, [loaded.tokenizer.bos], ids), atol=0.05)
    assert (got.logprobs < 0).all()


async def test_offsets_are_characters_of_the_text(engine):
    got = await EngineScorer(engine).logprobs(TEXT)
    assert got.starts[0] == 0
    assert got.ends[-1] == len(TEXT)
    assert (got.starts[1:] <= got.ends[:-1]).all(), "no character is left out"
    words = {TEXT[a:b] for a, b in zip(got.starts, got.ends, strict=True)}
    assert {"hello", " world"} <= words


async def test_what_is_given_counts(engine, loaded):
    scorer = EngineScorer(engine)
    plain, told = await scorer.logprobs("hello world"), await scorer.logprobs("hello world", given="in in in")
    assert plain.logprobs.shape == told.logprobs.shape
    assert not np.allclose(plain.logprobs, told.logprobs, atol=1e-3)
    before = [loaded.tokenizer.bos, *loaded.tokenizer.encode("in in in")]
    wanted = reference(loaded, before, loaded.tokenizer.encode("hello world"))
    np.testing.assert_allclose(told.logprobs, wanted, atol=0.05)


async def test_a_text_longer_than_the_context_is_read_in_windows(engine, loaded):
    text = "hello world in the 12 worlds " * 60
    got = await EngineScorer(engine).logprobs(text, given="hello")
    ids = loaded.tokenizer.encode(text)
    assert len(got.logprobs) == len(ids) > loaded.context
    before = [loaded.tokenizer.bos, *loaded.tokenizer.encode("hello")]
    first = 256 - len(before)
    np.testing.assert_allclose(got.logprobs[:first], reference(loaded, before, ids[:first]), atol=0.05)
    start = first - first // 4
    second = reference(loaded, before, ids[start : start + first])
    np.testing.assert_allclose(got.logprobs[first : start + first], second[first - start :], atol=0.05)


@given(st.integers(0, 500), st.integers(2, 90))
def test_windows_cover_every_token_once(count, room):
    made = list(windows(count, room))
    assert [i for _, new, end in made for i in range(new, end)] == list(range(count))
    assert all(0 <= start <= new < end <= start + room for start, new, end in made)
    assert all(start < new for start, new, _ in made[1:] if room >= 4)


async def test_a_long_text_takes_many_short_steps(engine):
    steps = engine._loop.loaded.engine.steps
    got = await EngineScorer(engine).logprobs("hello world " * 400)
    assert engine._loop.loaded.engine.steps - steps > len(got.logprobs) / 256


async def test_an_empty_text_has_no_scores(engine):
    assert len((await EngineScorer(engine).logprobs("")).logprobs) == 0


async def test_a_text_beyond_all_bounds_is_refused(engine, monkeypatch):
    monkeypatch.setattr("trimtab.backends.engine.score._MOST_TOKENS", 10)
    with pytest.raises(ContextTooLong):
        await EngineScorer(engine).logprobs("hello world " * 30)


async def test_cancelling_stops_the_work(engine, ask):
    inner = engine._loop.loaded.engine
    before = inner.steps
    task = asyncio.create_task(EngineScorer(engine).logprobs("hello world in " * 4000))
    while inner.steps < before + 3:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.complete(ask("completions", max_tokens=1))
    while inner.busy:
        await asyncio.sleep(0.001)
    assert inner.steps < before + 12_000 / 256
    inner.check()


async def test_answers_go_on_beside_it(engine, ask):
    long = asyncio.create_task(EngineScorer(engine).logprobs("hello world in " * 3000))
    await asyncio.sleep(0.01)
    answer = await engine.complete(ask("completions", max_tokens=2))
    assert answer.usage.completion > 0
    assert len((await long).logprobs) > 0


async def test_a_model_that_cannot_be_loaded_says_so(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not weights")
    backend = EngineBackend(str(broken))
    await backend.start()
    with pytest.raises(ModelUnavailable):
        await EngineScorer(backend).logprobs("hello")
    await backend.close()
