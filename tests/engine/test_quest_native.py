"""The native choice of pages against the rule that torch computes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.kernels.switch import native

if not native(torch.device("cpu")):
    pytest.skip("this CPU has no VNNI in vectors of 512 bits", allow_module_level=True)

from trimtab.backends.engine.attention import Sight, Span
from trimtab.backends.engine.attention_native import Plan
from trimtab.backends.engine.attention_quest import Bounds, Chosen
from trimtab.backends.engine.native import Tape
from trimtab.backends.engine.quest_native import Choice
from trimtab.kernels.native import F16, F32, Program
from trimtab.kernels.native_quest import write_chosen, write_noted

HEADS, KV_HEADS, HEAD, PAGE, MOST = 6, 2, 16, 16, 40


class Kept:
    """What the choice wants of a memory."""

    def __init__(self, keys):
        self.page, self.turned, self.keys = keys.shape[-1], True, keys[None]
        self.values = torch.zeros((1, *keys.transpose(-1, -2).shape), dtype=keys.dtype)
        self.bounds = Bounds(self)


def program(kept, page=PAGE):
    program = Program()
    write_noted(program, KV_HEADS, HEAD, page, kept)
    write_chosen(program, HEADS, KV_HEADS, HEAD, page, kept)
    return program.compile()


COMPILED = {torch.float32: program(F32), torch.float16: program(F16)}


def drawn(random, size, whole):
    x = random.integers(-2, 3, size) if whole else random.standard_normal(size)
    return torch.from_numpy(x.astype(np.float32))


def native_choice(memory, spans, sight, q, parts):
    """For each row and key head, the pages it reads and the visible end."""
    count = len(q)
    qkv = torch.cat((q.view(count, -1), torch.full((count, 2 * KV_HEADS * HEAD), torch.nan)), 1).contiguous()
    plan, rows = Plan.of(spans, PAGE, sight), np.array([count])
    words = np.array([plan.starts, plan.counts, plan.ends, plan.biases])
    tape, choice = Tape(), Choice(COMPILED[memory.keys.dtype], memory.bounds, words, MOST, parts)
    choice.add_chosen(tape, 0, rows, qkv)
    choice.lay_out(plan)
    tape.run(parts)
    starts, counts, ends, biases = choice.plan
    assert (biases == -1).all()
    lists = choice.lists.reshape(-1)
    return [(lists[a : a + n].tolist(), end) for a, n, end in zip(starts, counts, ends, strict=True)]


def rule(memory, spans, sight, q):
    """The same by what attention_quest.py sorts."""
    found, chosen = [], Chosen(spans, memory, HEADS, sight)
    best = chosen._bounds(q, 0).sort(stable=True, descending=True).indices
    rows = [(span, p) for span in spans for p in span.positions()]
    for (span, p), each in zip(rows, best, strict=True):
        count = p // PAGE + 1
        limit = count if p < span.exact else min(count, sight.best)
        for kv in range(KV_HEADS):
            numbers = sorted(each[kv, :limit].tolist())
            found.append(([span.pages[i] for i in numbers], (limit - 1) * PAGE + p % PAGE + 1))
    return found


@given(
    seed=st.integers(0, 2**32),
    best=st.integers(2, 12),
    whole=st.booleans(),
    halves=st.booleans(),
    parts=st.integers(1, 2),
)
@settings(max_examples=60, deadline=None)
def test_pages_are_chosen_as_by_torch(seed, best, whole, halves, parts):
    """Whole numbers are summed exactly and often equal: there the order of equal bounds shows."""
    random = np.random.default_rng(seed)
    keys = drawn(random, (MOST + 5, KV_HEADS, HEAD, PAGE), whole)
    memory = Kept(keys.to(torch.float16) if halves else keys)
    memory.bounds.note(memory, 0, torch.arange(MOST + 5))
    memory.bounds.least[0, 3:9], memory.bounds.most[0, 3:9] = memory.bounds.least[0, 2], memory.bounds.most[0, 2]
    spans = []
    for _ in range(3):
        before, count = int(random.integers(0, MOST * PAGE - 20)), int(random.integers(1, 20))
        pages = random.permutation(MOST + 5)[: -(-(before + count) // PAGE)].tolist()
        exact = int(random.choice([0, before + count // 2, before + count]))
        spans.append(Span(sum(s.count for s in spans), count, before, pages, exact=exact))
    q = drawn(random, (sum(s.count for s in spans), HEADS, HEAD), whole)
    assert native_choice(memory, spans, Sight(best=best), q, parts) == rule(memory, spans, Sight(best=best), q)


@pytest.mark.parametrize(("kept", "page"), [(torch.float32, 16), (torch.float16, 64)])
def test_bounds_are_those_of_torch(kept, page):
    keys = drawn(np.random.default_rng(1), (30, KV_HEADS, HEAD, page), False).to(kept)
    memory, exact = Kept(keys), Kept(keys)
    span = Span(0, 6 * page - 3, 2 * page - 2, np.random.default_rng(0).permutation(30)[:8].tolist())
    plan = Plan.of([span], page, Sight(best=4))
    words = np.array([plan.starts, plan.counts, plan.ends, plan.biases])
    compiled = program({torch.float32: F32, torch.float16: F16}[kept], page)
    tape, choice = Tape(), Choice(compiled, memory.bounds, words, MOST, 2)
    choice.add_noted(tape, 0, memory.keys[0])
    choice.lay_out(plan)
    tape.run(2)
    assert plan.filled.tolist() == span.pages[1:7]
    exact.bounds.note(exact, 0, torch.tensor(span.pages[1:7]))
    assert torch.equal(memory.bounds.least, exact.bounds.least)
    assert torch.equal(memory.bounds.most, exact.bounds.most)
    assert memory.bounds.most.any()


def test_what_is_no_number_chooses_within_bounds():
    memory = Kept(torch.full((MOST, KV_HEADS, HEAD, PAGE), torch.nan))
    memory.bounds.note(memory, 0, torch.arange(0, MOST, 2))
    q = torch.randn((2, HEADS, HEAD))
    q[1] = -torch.nan
    span = Span(0, 2, MOST * PAGE - 2, list(range(MOST)))
    for pages, end in native_choice(memory, [span], Sight(best=5), q, 1):
        assert len(set(pages)) == 5 == len(pages)
        assert pages == sorted(pages)
        assert (pages[0], pages[-1]) == (0, MOST - 1)
        assert end in (5 * PAGE - 1, 5 * PAGE)
