"""Matrices and whole models in few bits: what is written is read, and GPTQ hurts less than plain rounding."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine import quantize_job as job
from trimtab.backends.engine.checkpoint import open_checkpoint, unpack
from trimtab.backends.engine.descent import descended
from trimtab.backends.engine.gguf_checkpoint import GgufCheckpoint
from trimtab.backends.engine.gptq import Hessian, to_least_error
from trimtab.backends.engine.perplexity import compared, last_states, perplexity
from trimtab.backends.engine.quantize import Plan, quantize
from trimtab.backends.engine.reference import Reference
from trimtab.backends.engine.rounding import fitted_grid, grid_of, to_nearest
from trimtab.backends.engine.tokenizer import Tokenizer
from trimtab.gateway.cli import main
from trimtab.protocol.errors import ModelUnavailable

TEXTS = [[5, 100, 7, 7, 230, 41, 3, 99, 12, 64], [8, 9, 10, 44, 5, 6, 200], list(range(3, 60))]


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 99), st.sampled_from([2, 3, 4, 8]), st.sampled_from([8, 32, 64]), st.floats(-3, 3))
def test_the_nearest_point_is_at_most_half_a_step_away(seed, bits, group, shift):
    weight = normal(seed, 6, 64) + shift
    rounded = to_nearest(weight, bits, group)
    away = (rounded.floats() - weight).abs().view(6, -1, group)
    # The scale's own rounding to float16 moves the ends a little, and zero must be a point.
    assert (away <= rounded.grid.scale[:, :, None] * (0.51 + 2**-11 * 2**bits)).all()
    np.testing.assert_allclose(unpack(rounded.four_bits()), rounded.floats(), atol=1e-5) if bits == 4 else None


def correlated(seed, rows, inputs=96):
    """Rows whose inputs move together, some much more than others."""
    mix = normal(1, inputs, inputs) / 10 + torch.diag(normal(2, inputs).exp())
    return normal(seed, rows, inputs) @ mix


def seen(x):
    moments = Hessian(x.shape[1])
    for part in x.split(300):
        moments.add(part)
    return moments


def harm(rounded, weight, x):
    return float(((rounded.floats() - weight) @ x.T).square().mean())


@pytest.mark.parametrize("symmetric", [False, True])
def test_gptq_disturbs_the_products_less_than_rounding_to_nearest(symmetric):
    x, weight, fresh = correlated(3, 2000), normal(4, 40, 96), correlated(5, 2000)
    torch.testing.assert_close(seen(x).mean(), x.T @ x / 2000, rtol=1e-3, atol=1e-2)
    ours = to_least_error(weight, seen(x).damped(), 4, 32, symmetric)
    assert harm(ours, weight, fresh) < 0.5 * harm(to_nearest(weight, 4, 32, symmetric), weight, fresh)


def test_few_rows_are_trusted_less():
    x, weight, fresh = correlated(3, 60), normal(4, 40, 96), correlated(5, 2000)
    moments = seen(x).mean()
    trusting = moments + torch.diag((0.01 * moments.diagonal().mean()).expand(96))
    ours, nearest = to_least_error(weight, seen(x).damped(), 4, 32), to_nearest(weight, 4, 32)
    assert harm(ours, weight, fresh) < 0.9 * harm(to_least_error(weight, trusting, 4, 32), weight, fresh)
    assert harm(ours, weight, fresh) < harm(nearest, weight, fresh)


@given(st.integers(0, 99), st.booleans(), st.sampled_from([16, 32, 96]))
def test_a_descent_never_ends_higher(seed, symmetric, group):
    x, weight = correlated(seed, 300), normal(seed + 1, 8, 96)
    start = to_nearest(weight, 4, group, symmetric)
    end = descended(weight, seen(x).mean(), start)
    assert harm(end, weight, x) <= harm(start, weight, x) * (1 + 1e-3)  # scales are rounded to float16
    assert end.q.max() <= 15
    assert torch.equal(end.grid.scale.half().float(), end.grid.scale)
    # What is there already stays: no error, no slope.
    again = descended(end.floats(), seen(x).mean(), end)
    torch.testing.assert_close(again.floats(), end.floats(), rtol=2e-3, atol=1e-6)


@given(st.integers(0, 99), st.booleans())
def test_a_fitted_grid_is_never_worse_and_forgets_an_outlier(seed, symmetric):
    weight, matters = normal(seed, 8, 64), normal(seed + 1, 64).square()
    weight[:, 40] = 8
    matters[40] = 0

    def error(grid):
        parts = weight.view(8, 2, 32)
        q = (parts / grid.scale[..., None] + grid.zero[..., None]).round().clamp(0, 15)
        away = ((q - grid.zero[..., None]) * grid.scale[..., None] - parts).square()
        return (away * matters.view(2, 32)).sum(-1)

    wide, fitted = grid_of(weight, 4, 32, symmetric), fitted_grid(weight, matters, 4, 32, symmetric)
    assert (error(fitted) <= error(wide)).all()
    assert error(fitted)[:, 1].sum() < 0.9 * error(wide)[:, 1].sum()


def test_inputs_that_were_never_seen_are_rounded_to_nearest():
    weight, x = normal(6, 8, 64), normal(7, 500, 64)
    x[:, 5] = 0
    rounded = to_least_error(weight, seen(x).damped(), 4, 32)
    scale, zero = rounded.grid.scale[:, 0], rounded.grid.zero[:, 0]
    assert torch.equal(rounded.q[:, 5].float(), (weight[:, 5] / scale + zero).round().clamp(0, 15))
    nothing = to_least_error(weight, Hessian(64).damped(), 4, 32)
    nearest = to_nearest(weight, 4, 32)
    assert (nothing.floats() - weight).norm() <= (nearest.floats() - weight).norm()


def test_fewer_rows_than_inputs_are_enough_and_no_numbers_are_an_error():
    x = normal(8, 3, 64)
    assert to_least_error(normal(9, 8, 64), seen(x).damped(), 4, 32).q.shape == (8, 64)
    assert to_least_error(normal(9, 8, 64), x.T @ x / 3, 4, 32).q.shape == (8, 64)
    with pytest.raises(RuntimeError):
        to_least_error(normal(9, 8, 64), torch.full((64, 64), float("nan")), 4, 32)


@pytest.fixture(scope="module")
def original(write_gguf):
    return GgufCheckpoint(write_gguf("F32"))


def test_perplexity_is_that_of_the_logits(original):
    reference = Reference(original)
    losses = [
        torch.nn.functional.cross_entropy(reference.forward(t)[:-1], torch.tensor(t[1:]), reduction="none")
        for t in TEXTS
    ]
    assert perplexity(reference, TEXTS) == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-5)


def test_a_cost_is_that_of_the_logits(original):
    reference = Reference(original)
    old = last_states(reference, TEXTS)
    new = [x + 0.3 * normal(i, *x.shape) for i, x in enumerate(old)]
    was, now = (
        torch.cat([torch.log_softmax(reference.logits(x[:-1]), -1) for x in states]).double() for states in (old, new)
    )
    tokens = torch.cat([torch.tensor(ids[1:]) for ids in TEXTS])[:, None]
    surprises = [-table.gather(1, tokens) for table in (was, now)]
    cost = compared(reference, old, new, TEXTS)
    assert cost.before == pytest.approx(float(surprises[0].mean().exp()), rel=1e-5)
    assert cost.after == pytest.approx(float(surprises[1].mean().exp()), rel=1e-5)
    assert cost.divergence == pytest.approx(float((was.exp() * (was - now)).sum(-1).mean()), rel=1e-3)
    spread = float((surprises[1] - surprises[0]).std(correction=0)) / len(tokens) ** 0.5
    assert cost.error == pytest.approx(cost.after / cost.before * spread, rel=1e-4)
    unchanged = compared(reference, old, old, TEXTS)
    assert (unchanged.loss, unchanged.error, unchanged.divergence) == (0, 0, 0)


@pytest.mark.parametrize("method", ["gptq", "rtn"])
def test_a_written_model_is_the_one_that_was_measured(original, method, tmp_path):
    told = []
    cost = quantize(original, Plan(method), TEXTS, TEXTS, tmp_path / "out", lambda *at: told.append(at))
    assert told == [(i, 4) for i in (1, 2, 3, 4)]
    checkpoint = open_checkpoint(tmp_path / "out")
    # Norms and the embedding are float16 in the file.
    assert perplexity(Reference(checkpoint), TEXTS) == pytest.approx(cost.after, rel=2e-3)
    assert cost.before == pytest.approx(perplexity(Reference(original), TEXTS))
    assert checkpoint.four_bits("layers.1.down").group == 32
    assert checkpoint.template == original.template
    assert len({f.stat().st_mode for f in (tmp_path / "out").iterdir()}) == 1  # who may read one may read all


def test_a_written_tokenizer_reads_the_same(original, tmp_path):
    quantize(original, Plan("rtn"), [], TEXTS, tmp_path)
    ours, theirs = (Tokenizer(c.vocabulary) for c in (open_checkpoint(tmp_path), original))
    text = "hello world 12 <|im_end|> naïve 🙂"
    assert ours.encode(text) == theirs.encode(text)
    assert (ours.ends, ours.control, ours.begin) == (theirs.ends, theirs.control, theirs.begin)


def test_groups_that_do_not_fit_are_an_error_before_any_work(original):
    with pytest.raises(ModelUnavailable, match="hidden width is 64") as e:
        quantize(original, Plan(group=48), TEXTS, TEXTS)
    assert "64, 96" in e.value.detail


def test_texts_that_measure_never_calibrate(original, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"text number {i}"}) + "\n" for i in range(40)))
    calibrate, measure = job.pieces(Tokenizer(original.vocabulary), [path], 10_000)
    assert (len(calibrate), len(measure)) == (30, 10)
    assert not {tuple(t) for t in calibrate} & {tuple(t) for t in measure}
    assert len(job.pieces(Tokenizer(original.vocabulary), [path], 100)[0]) < 30


def test_python_itself_has_texts(original):
    calibrate, measure = job.pieces(Tokenizer(original.vocabulary), [], 5000)
    assert sum(map(len, calibrate)) >= 5000
    assert measure


def test_the_command_writes_a_model_and_says_what_it_cost(write_gguf, tmp_path, capsys):
    out = tmp_path / "small"
    command = ["quantize", str(write_gguf("F16")), "--tokens", "600", "--out", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "perplexity" in said
    assert f"serve it with  weights: {out}" in said
    assert open_checkpoint(out).shape.layers == 2
    assert main(command) == 1
    assert "already holds a model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--group", "48"], "groups of 48"),
        (["--bits", "3", "--out", "x"], "only 4 bits"),
        (["--data", "no-such-file"], "no-such-file"),
    ],
)
def test_what_cannot_be_done_is_said(write_gguf, capsys, words, says):
    assert main(["quantize", str(write_gguf("F32")), "--tokens", "300", *words]) == 1
    assert says in capsys.readouterr().err


def test_a_line_without_a_text_is_named(tmp_path, write_gguf, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "?"}\n')
    assert main(["quantize", str(write_gguf("F32")), "--data", str(path)]) == 1
    assert "none of the fields text" in capsys.readouterr().err
