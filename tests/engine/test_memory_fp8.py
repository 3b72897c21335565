"""Keys and values in 8 bits: as near to the floats as 8 bits permit, and a page's scale goes wherever the page goes.

In Triton's interpreter, which cuts numbers off where a device rounds them to the nearest.
"""

import os
import random
import time
from datetime import UTC, datetime

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before any test imports triton
pytest.importorskip("triton")

from trimtab.backends.engine import attention_kernels, batch_kept
from trimtab.backends.engine.attention import Sight
from trimtab.backends.engine.batch import Batch, Rows
from trimtab.backends.engine.draft import Draft
from trimtab.backends.engine.engine import Engine, Options
from trimtab.backends.engine.gguf_checkpoint import GgufCheckpoint
from trimtab.backends.engine.graphs import CudaGraphs, Graphs
from trimtab.backends.engine.loaded import load
from trimtab.backends.engine.memory import Memory, pages_for
from trimtab.backends.engine.memory_scales import FP8
from trimtab.backends.engine.model import Model
from trimtab.backends.engine.request import Ask, Sampling
from trimtab.backends.engine.schedule import Limits
from trimtab.backends.engine.sequence import Job, Piece, Task
from trimtab.backends.engine.settings import Settings
from trimtab.backends.engine.verify import paths
from trimtab.kernels.switch import forced
from trimtab.protocol.errors import ModelUnavailable

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TREE = Draft((7, 8, 9), (-1, 0, 0), (1.0,) * 3)


@pytest.fixture(autouse=True)
def by_kernels(monkeypatch):
    from trimtab.kernels import interpreter

    interpreter.mend()
    monkeypatch.setattr(attention_kernels, "_BLOCK", 16)
    if DEVICE == "cpu":
        monkeypatch.setattr(batch_kept, "multiprocessors", lambda device: 4)
        monkeypatch.setattr(attention_kernels, "multiprocessors", lambda device: 4)
    with forced("triton"):
        yield


class Uneven:
    """The tiny checkpoint with values a thousandth as large as they were, and outputs a thousand times: without scales
    8 bits would hold nothing of them."""

    def __init__(self, path):
        self._inner = GgufCheckpoint(path)

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def floats(self, name):
        factor = {"v": 1e-3, "o": 1e3}.get(name.split(".")[-1], 1.0)
        return self._inner.floats(name) * factor

    def four_bits(self, name):
        return None


@pytest.fixture(scope="module")
def model(tiny):
    made = Model(Uneven(tiny), "float32", DEVICE)
    made.dtype = torch.float32
    return made


def memory_of(model, pages=40, fp8=True):
    return Memory(model.shape, pages, torch.float32, model.device, 16, turned=False, fp8=fp8)


def read(model, memory, sight=None):
    """The logits of a text read in pieces: a prompt, tokens, a few rows, a tree."""
    chance = random.Random(3)
    tokens, pages, at, out = [chance.randrange(90) for _ in range(31)], list(range(5, 0, -1)), 0, []
    for end, tree in ((21, ()), (22, ()), (24, ()), (25, TREE.tokens), (29, ())):
        piece = [*tokens[at:end], *tree]
        rows = Rows(piece, at, pages[: -(-(at + len(piece)) // 16)], range(len(piece)), paths(TREE) if tree else ())
        out.append(model.forward(Batch([rows], memory, 4, sight or ALL, model.tiles), memory))
        at = end
    return torch.cat(out)


ALL = Sight()


@pytest.mark.parametrize("sight", [ALL, Sight(window=9, sinks=3)], ids=["all", "window"])
@pytest.mark.parametrize(("mode", "most"), [("torch", 0.08), ("triton", 0.3 if DEVICE == "cpu" else 0.08)])
def test_logits_are_near_those_of_floats(model, sight, mode, most):
    """Rounded to the nearest, a number is 3 % off; cut off, twice to three times that."""
    with forced(mode):
        kept, floats = memory_of(model), memory_of(model, fp8=False)
        found, exact = read(model, kept, sight), read(model, floats, sight)
    error = ((found - exact).square().mean() / exact.square().mean()).sqrt()
    assert 0.01 < error < most
    used = kept.scales.values[:, 4:6]
    assert (kept.keys.dtype, kept.values.dtype) == (FP8, FP8)
    assert (used < 0.01).all(), "values are a thousandth of what they usually are"
    assert (kept.scales.values[:, :4] == 1).all(), "a page without rows has no scale"


def whole(memory, page):
    """Keys and values of one page as numbers."""
    s = memory.scales
    return torch.stack(
        [x[:, page].float() * y[:, page, :, None, None] for x, y in ((memory.keys, s.keys), (memory.values, s.values))]
    )


def filled(model):
    memory = memory_of(model, 4)
    for x, scale in ((memory.keys, memory.scales.keys), (memory.values, memory.scales.values)):
        x.copy_(torch.randn(x.shape))
        scale.copy_(2.0 ** torch.randint(-3, 3, scale.shape))
    return memory


def test_a_copied_page_takes_its_scale_along(model):
    memory = filled(model)
    before = whole(memory, 2)
    memory.copy([(2, 4)])
    assert whole(memory, 4).equal(before)
    assert whole(memory, 2).equal(before)


def test_moved_positions_are_written_in_the_other_pages_scale(model):
    memory = filled(model)
    first, third, scales = whole(memory, 1), whole(memory, 3), memory.scales.keys.clone()
    memory.move([16 + 5, 16 + 7, 48 + 2], [48 + 1, 16 + 6, 48 + 3])
    torch.testing.assert_close(whole(memory, 3)[..., 1, :], first[..., 5, :], atol=2**-6, rtol=0)
    assert whole(memory, 1)[..., 6, :].equal(first[..., 7, :])
    assert whole(memory, 3)[..., 3, :].equal(third[..., 2, :])
    assert whole(memory, 3)[..., 4:, :].equal(third[..., 4:, :])
    assert memory.scales.keys.equal(scales)


def answers(model, tokenizer, tasks, pages=40, together=True, most=5, **options):
    """The tokens of each task's answers; greedy."""
    with torch.inference_mode():
        memory = memory_of(model, pages)
        engine = Engine(model, tokenizer, memory, 100, time.perf_counter, Options(Limits(4, 32, 16), **options))
        said = []
        for prompt, n in tasks:
            found = {}

            def tell(events, found=found):
                for event in events or ():
                    if isinstance(event, Piece):
                        found.setdefault(event.choice, []).extend(choice.token for choice in event.tokens)

            said.append(found)
            ask = Ask(Sampling(temperature=0), seed=0, n=n, most=most, stops=())
            engine.add(Job([Task(tokenizer.encode(prompt), ask)], tell))
            while engine.busy and not together:
                engine.step()
        while engine.busy:
            engine.step()
        engine.check()
    return said, engine


LONG = "world hello world hello in the hell hello 12 world"


def test_a_page_found_again_a_fork_and_a_preempted_answer_say_the_same(model, loaded):
    """Whatever was computed beside them: alone, again over known pages, forked behind a prompt, and resumed."""
    alone, _ = answers(model, loaded.tokenizer, [(LONG, 1)], draft=0, prefixes=False)
    again, engine = answers(model, loaded.tokenizer, [(LONG, 1), (LONG, 1)], together=False, draft=0)
    assert len(engine.prefixes) > 0
    forked, _ = answers(model, loaded.tokenizer, [(LONG, 2)], draft=0)
    assert again == [alone[0], alone[0]]
    assert forked == [{0: alone[0][0], 1: alone[0][0]}]
    other, _ = answers(model, loaded.tokenizer, [("hello 12", 1)], draft=0, most=14)
    short, engine = answers(model, loaded.tokenizer, [("hello 12", 1)] * 2, pages=3, draft=0, most=14)
    assert engine.preempted
    assert short == [other[0], other[0]]


@pytest.mark.parametrize("tree", [False, True], ids=["chains", "trees"])
def test_guesses_change_no_answer(model, loaded, tree):
    prompt = "hello world hello world hello world"
    plain, _ = answers(model, loaded.tokenizer, [(prompt, 1)], draft=0, most=9)
    found, _ = answers(model, loaded.tokenizer, [(prompt, 1)], tree=tree, most=9)
    assert found == plain


def test_captured_steps_read_and_write_the_same(model):
    first, second = memory_of(model), memory_of(model)
    read(model, first)
    read(model, second)
    graphs = Graphs(model, second, Sight(), 80, CudaGraphs() if DEVICE == "cuda" else lambda launch: launch)
    for step in range(3):
        rows = [Rows([40 + step, 3], 29 + 2 * step, [5, 4, 3], range(2))]  # the third step opens a page
        eager = model.forward(Batch(rows, first, 4, Sight(), model.tiles), first)
        found = graphs.logits(rows)
        torch.testing.assert_close(found, eager, atol=2e-3, rtol=2e-3)
    assert first.scales.keys.equal(second.scales.keys)
    assert first.scales.values.equal(second.scales.values)
    assert (second.scales.values[:, 3] != 1).all()


def test_a_device_that_cannot_says_so(tiny):
    def opened(**options):
        return load(tiny, lambda: datetime(2026, 1, 1, tzinfo=UTC), Settings(threads=1, kv_mb=16, kv="fp8", **options))

    if DEVICE == "cpu":
        with (
            forced(""),
            pytest.raises(ModelUnavailable, match=r"kv: fp8 needs an NVIDIA GPU of compute capability 8\.9"),
        ):
            opened()
    with pytest.raises(ModelUnavailable, match="best_pages exclude"):
        opened(best_pages=4)
    loaded = opened(compute="float32")
    assert loaded.engine._memory.keys.dtype == FP8
    shape = loaded.engine.model.shape
    assert pages_for(shape, 16, FP8) == 4 * pages_for(shape, 16, torch.float32)
