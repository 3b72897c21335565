"""The port of guesses: drafts cut, thinned and joined stay drafts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.draft import NOTHING, Draft
from trimtab.backends.engine.draft_best import BestDrafter, join, paths, promise, trusting


@st.composite
def drafts(draw):
    size = draw(st.integers(1, 10))
    tokens = tuple(draw(st.lists(st.integers(0, 5), min_size=size, max_size=size)))
    sure = tuple(draw(st.lists(st.sampled_from([0.1, 0.5, 0.9, 1.0]), min_size=size, max_size=size)))
    chain = draw(st.booleans())
    parents = () if chain else tuple(draw(st.integers(-1, i - 1)) for i in range(size))
    return Draft(tokens, parents, sure, draw(st.sampled_from("ab")))


def path(draft, node):
    return () if node < 0 else (*path(draft, draft.parent(node)), draft.tokens[node])


@given(drafts(), st.integers(0, 12))
def test_a_cut_draft_is_the_beginning(draft, length):
    cut = draft.cut(length)
    assert cut.tokens == draft.tokens[:length]
    assert [path(cut, i) for i in range(len(cut.tokens))] == [path(draft, i) for i in range(len(cut.tokens))]


@given(drafts(), st.data())
def test_some_nodes_keep_their_paths(draft, data):
    chosen = set()
    for i in range(len(draft.tokens)):
        if (draft.parent(i) < 0 or draft.parent(i) in chosen) and data.draw(st.booleans()):
            chosen.add(i)
    kept = draft.only(chosen)
    assert [path(kept, i) for i in range(len(kept.tokens))] == [path(draft, i) for i in sorted(chosen)]
    assert kept.confidence == tuple(draft.confidence[i] for i in sorted(chosen))


@given(st.lists(drafts(), min_size=2, max_size=4), st.integers(1, 20))
def test_a_joined_tree_says_what_the_drafts_say_once_and_the_likeliest_of_it(several, most):
    tree = join(several, trusting, most)
    said = [path(tree, i) for i in range(len(tree.tokens))]
    assert len(said) == len(set(said)) <= most
    every = {path(d, i) for d in several for i in range(len(d.tokens))}
    assert set(said) <= every
    assert len(said) == min(most, len(every))
    assert all(tree.source_of(i) in "ab" for i in range(len(said)))
    whole = join(several, trusting, 1000)
    likely = sorted(paths(whole, whole.confidence), reverse=True)
    assert sorted(paths(tree, tree.confidence), reverse=True) == pytest.approx(likely[: len(said)])


class Says:
    name = "says"

    def __init__(self, draft):
        self.draft, self.closed = draft, None

    def propose(self, tokens, most):
        return self.draft.cut(most)

    def close(self, tokens, whole):
        self.closed = whole


def test_the_most_promising_speaks_as_the_judge_sees_it():
    sure, long = Draft((1,), (), (0.9,), "sure"), Draft((2, 3, 4), (), (0.6, 0.6, 0.6), "long")
    assert promise(long, long.confidence) > promise(sure, sure.confidence)
    best = BestDrafter([Says(sure), Says(long), Says(NOTHING)])
    assert best.propose([], 8) == long
    assert best.propose([], 1) == sure
    doubting = BestDrafter(
        [Says(sure), Says(long)], lambda d: [c / 3 if d.source == "long" else c for c in d.confidence]
    )
    assert doubting.propose([], 8) == sure


def test_all_are_told_of_the_end():
    drafters = [Says(NOTHING), Says(NOTHING)]
    BestDrafter(drafters).close([1], True)
    assert [d.closed for d in drafters] == [True, True]
