"""Answers that read the best of their pages: the bound bounds, a row chooses alone, enough pages are all of them."""

import random
import time

import pytest
import torch

from trimtab.backends.engine.attention import Sight
from trimtab.backends.engine.attention_quest import Bounds
from trimtab.backends.engine.batch import Batch, Rows
from trimtab.backends.engine.engine import Engine, Options
from trimtab.backends.engine.gguf_checkpoint import GgufCheckpoint
from trimtab.backends.engine.loaded import marks
from trimtab.backends.engine.memory import Memory
from trimtab.backends.engine.model import Model
from trimtab.backends.engine.request import Ask, Sampling
from trimtab.backends.engine.schedule import Limits
from trimtab.backends.engine.sequence import Job, Piece, Task
from trimtab.kernels.attention_quest import reference_page_bounds, reference_page_scores
from trimtab.protocol.errors import ModelUnavailable

PAGE = 16


@pytest.fixture(scope="module", params=["float32", "int8"])
def model(write_gguf, request):
    """By torch, and as this machine does it best."""
    return Model(GgufCheckpoint(write_gguf(**{"llama.block_count": 2})), request.param)


@pytest.fixture(scope="module")
def exactly(write_gguf):
    return Model(GgufCheckpoint(write_gguf(**{"llama.block_count": 2})), "float32")


class Text:
    """One sequence, whose prompt has `exact` tokens."""

    def __init__(self, model, sight, exact, pages=16, turned=None):
        self.model, self.sight, self.exact, self.length, self.said = model, sight, exact, 0, []
        self.memory = Memory(model.shape, pages, model.kept, model.device, PAGE, turned)
        if sight.best is not None:
            self.memory.bounds = Bounds(self.memory)
        self.pages = list(range(pages, 0, -1))

    def rows(self, tokens, wanted=None):
        used = self.pages[: -(-(self.length + len(tokens)) // PAGE)]
        wanted = range(len(tokens)) if wanted is None else wanted
        marked = [i for i, token in enumerate(self.said + tokens) if token in self.sight.marks]
        return Rows(tokens, self.length, used, wanted, (), marked, self.exact)

    def forward(self, tokens):
        batch = Batch([self.rows(tokens)], self.memory, self.model.shape.heads, self.sight, self.model.tiles)
        logits = self.model.forward(batch, self.memory)
        self.length += len(tokens)
        self.said = self.said + tokens
        return logits


@pytest.fixture
def every_layer(monkeypatch):
    """A model of two layers has none but the first two, which are read whole."""
    for user in ("attention_quest", "attention_kernels"):
        monkeypatch.setattr(f"trimtab.backends.engine.{user}.WHOLE_LAYERS", 0)


def some(count, seed=0):
    chance = random.Random(seed)
    return [chance.randrange(250) for _ in range(count)]


def test_enough_pages_are_all_of_them_to_the_bit(model, every_layer):
    tokens = some(150)
    whole, best = Text(model, Sight(), 0), Text(model, Sight(best=10), 40)
    for a, b in ((0, 40), (40, 41), (41, 47), (47, 130), (130, 150)):
        assert torch.equal(whole.forward(tokens[a:b]), best.forward(tokens[a:b]))


def test_a_few_pages_are_something_else_and_near_it(model, every_layer):
    tokens = some(200)
    whole, best, fewer = (Text(model, Sight(best=n), 180) for n in (None, 8, 2))
    for text in (whole, best, fewer):
        prompt = text.forward(tokens[:180])
        assert torch.equal(prompt, Text(model, Sight(), 0).forward(tokens[:180]))  # prompts are read whole
    exact, near, far = (text.forward(tokens[180:]) for text in (whole, best, fewer))
    assert 0 < (near - exact).square().mean() < (far - exact).square().mean()


@pytest.mark.parametrize("seed", range(4))
def test_a_row_chooses_alone_in_whatever_pieces_and_whatever_was_guessed_before(model, every_layer, seed):
    chance, tokens, sight = random.Random(seed), some(230, seed), Sight(best=4)
    alone = Text(model, sight, 100)
    alone.forward(tokens[:100])
    expected = torch.cat([alone.forward([token]) for token in tokens[100:]])
    text, got, at = Text(model, sight, 100), [], 100
    text.forward(tokens[:37])
    text.forward(tokens[37:100])
    while at < len(tokens):
        count = min(len(tokens) - at, chance.choice([1, 2, 7, 33]))
        wrong = some(chance.choice([0, 3, 20]), at)[: 240 - at - count]  # guesses that fill pages and are rejected
        got.append(text.forward(tokens[at : at + count] + wrong)[:count])
        at += count
        text.length = at
    assert torch.equal(torch.cat(got), expected)


def test_beside_others_a_row_reads_the_same(model, every_layer):
    texts = [(some(60, 1), 40), (some(130, 2), 100), (some(200, 3), 190), (some(90, 4), 90)]
    sight = Sight(best=3)
    memory = Memory(model.shape, 64, model.kept, model.device, PAGE)
    memory.bounds = Bounds(memory)
    expected, batch, free = [], [], iter(range(1, 65))
    for tokens, exact in texts:
        one = Text(model, sight, exact)
        one.forward(tokens[:exact])
        expected.append(one.forward(tokens[exact:] or tokens[-1:]))
        pages = [next(free) for _ in range(-(-(len(tokens) + 1) // PAGE))]
        head = Rows(tokens[:exact], 0, pages[: -(-exact // PAGE)], [], (), (), exact)
        model.forward(Batch([head], memory, model.shape.heads, sight, model.tiles), memory)
        new = tokens[exact:] or tokens[-1:]
        batch.append(Rows(new, exact, pages[: -(-(exact + len(new)) // PAGE)], range(len(new)), (), (), exact))
    got = model.forward(Batch(batch, memory, model.shape.heads, sight, model.tiles), memory)
    assert torch.equal(got, torch.cat(expected))


def test_bounds_are_those_of_the_kernels_room(model, every_layer):
    text = Text(model, Sight(best=4), 70)
    text.forward(some(70))
    memory, full = text.memory, torch.tensor(text.pages[:4], dtype=torch.int32)
    assert memory.bounds is not None
    keys = memory.keys[1].transpose(-1, -2)
    least, most = torch.zeros_like(memory.bounds.least[1]), torch.zeros_like(memory.bounds.most[1])
    reference_page_bounds(keys, full, torch.full((4,), PAGE, dtype=torch.int32), least, most)
    assert torch.equal(memory.bounds.least[1, full], least[full.long()])
    assert torch.equal(memory.bounds.most[1, full], most[full.long()])
    q = torch.randn((1, model.shape.heads, model.shape.head))
    table = torch.tensor([text.pages[:5]], dtype=torch.int32)
    scores = reference_page_scores(
        q, least, most, table, torch.tensor([0, 1]), torch.tensor([71]), PAGE, torch.float32
    )[0]
    group = model.shape.heads // model.shape.kv_heads
    exact = torch.einsum("hd,pkds->hkps", q[0], memory.keys[1, table[0].long()].float())
    for kv in range(model.shape.kv_heads):
        for page in range(1, 4):
            assert exact[kv * group : (kv + 1) * group, kv, page].max() <= scores[kv, page] + 1e-5


@pytest.fixture
def always(monkeypatch):
    """Every guess is verified, worth it or not."""

    def every(self, wants, rows, kv, room, others=0):
        for want in wants:
            want.record.last, want.record.chances = want.draft, [0.5] * len(want.draft.tokens)
        return [want.draft.cut(12) for want in wants]

    monkeypatch.setattr("trimtab.backends.engine.draft_length.Lengths.choose", every)


@pytest.mark.parametrize("sight", [Sight(best=4), Sight(window=32, marks=frozenset({245}))], ids=["best", "marks"])
def test_the_kernels_room_reads_the_same_pages_row_by_row(exactly, every_layer, sight):
    tokens = [token % 240 for token in some(200, 9)]
    tokens[30] = 245
    got = []
    for turned in (True, False):
        text = Text(exactly, sight, 150, turned=turned)
        parts = [text.forward(tokens[:100]), text.forward(tokens[100:150])]
        got.append(torch.cat([*parts, *[text.forward([token]) for token in tokens[150:]]]))
    torch.testing.assert_close(got[0], got[1], atol=1e-4, rtol=1e-4)


def test_an_engine_says_the_same_with_guesses_without_and_short_of_memory(loaded, every_layer, always):
    model = loaded.engine.model
    prompts = [
        loaded.tokenizer.encode("hello world in the 12 worlds, hold the old word in hell. " * n) for n in (2, 3, 4)
    ]

    def said(pages=64, **options):
        memory = Memory(model.shape, pages, model.kept, model.device, PAGE)
        engine = Engine(
            model, loaded.tokenizer, memory, 256, time.perf_counter, Options(sight=Sight(best=3), **options)
        )
        out = [[] for _ in prompts]
        for prompt, events in zip(prompts, out, strict=True):
            never = dict.fromkeys(loaded.tokenizer.ends, -100.0)
            ask = Ask(Sampling(temperature=0.7, logprobs=0, logit_bias=never), seed=3, n=1, most=40, stops=())
            engine.add(Job([Task(prompt, ask)], lambda told, events=events: events.extend(told or ())))
        while engine.busy:
            engine.step()
        engine.check()
        return [[(t.token, t.logprob) for e in each if isinstance(e, Piece) for t in e.tokens] for each in out], engine

    usual, _ = said(draft=0)
    assert usual == said()[0] == said(tree=True)[0] == said(limits=Limits(2, 24, 9))[0]
    short, engine = said(pages=(len(prompts[-1]) + 40) // PAGE + 3)
    assert engine.preempted
    assert short == usual


def test_global_tokens_are_seen_through_the_window(model):
    tokens = [token % 240 for token in some(140)]
    tokens[20] = 245
    near, marked, whole = (
        Text(model, sight, 0) for sight in (Sight(window=32), Sight(window=32, marks=frozenset({245})), Sight())
    )
    pieces = ((0, 60), (60, 61), (61, 90), (90, 140))
    got = [torch.cat([text.forward(tokens[a:b]) for a, b in pieces]) for text in (near, marked, whole)]
    assert torch.equal(got[0][:40], got[1][:40])
    assert not torch.equal(got[0][60:], got[1][60:])
    assert not torch.equal(got[1][60:], got[2][60:])
    alone = Text(model, Sight(window=32, marks=frozenset({245})), 0)
    assert torch.equal(torch.cat([alone.forward([token]) for token in tokens]), got[1])
    every = Text(model, Sight(window=32, marks=frozenset(range(250))), 0)
    assert torch.equal(every.forward(tokens), got[2])


def test_a_global_token_is_one_token(loaded):
    found = marks(["<|im_start|>", "h"], loaded.tokenizer)
    assert found == {loaded.tokenizer.placed["<|im_start|>"], *loaded.tokenizer.encode("h")}
    with pytest.raises(ModelUnavailable, match="'xyz' is 3 tokens"):
        marks(["xyz"], loaded.tokenizer)
