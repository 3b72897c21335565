"""Guesses from finished answers: what is kept, for whom, and how much of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.draft_trie import AnswerStore, TrieDrafter

PROMPT = [1, 2, 3, 4]


def told(store, salt, prompt, answer):
    TrieDrafter(store, salt, len(prompt)).close([*prompt, *answer], True)


def test_an_answer_once_given_is_guessed_whole_from_its_first_token():
    store, answer = AnswerStore(), list(range(50, 70))
    told(store, b"a", PROMPT, answer)
    draft = TrieDrafter(store, b"a", 4).propose(PROMPT, 64)
    assert list(draft.tokens) == answer
    assert draft.source == "trie"


def test_another_tenant_finds_nothing():
    store = AnswerStore()
    told(store, b"a", PROMPT, [5, 6, 7])
    assert TrieDrafter(store, b"b", 4).propose(PROMPT, 8).tokens == ()


def test_what_did_not_end_by_itself_is_not_kept():
    store = AnswerStore()
    TrieDrafter(store, b"a", 4).close([*PROMPT, 5, 6], False)
    assert len(store) == 0


def test_the_most_frequent_continuation_wins():
    store = AnswerStore()
    for prompt, last in ((10, 7), (11, 8), (12, 7)):
        told(store, b"a", [prompt], [5, 6, last])
    assert TrieDrafter(store, b"a", 1).propose([99, 5, 6], 1).tokens == (7,)


def test_a_tree_holds_every_continuation_likeliest_first():
    store = AnswerStore()
    for prompt, last in ((10, 7), (11, 8), (12, 7)):
        told(store, b"a", [prompt], [5, 6, last, last + 20])
    draft = TrieDrafter(store, b"a", 1, tree=True).propose([99, 5, 6], 9)
    assert set(zip(draft.tokens, draft.parents, strict=True)) == {
        (7, -1), (27, draft.tokens.index(7)), (8, -1), (28, draft.tokens.index(8))}  # fmt: skip
    assert draft.tokens[0] == 7
    assert draft.confidence[0] == pytest.approx(2 * draft.confidence[draft.tokens.index(8)])
    told(store, b"z", [1], [2, 3, 4])
    assert TrieDrafter(store, b"z", 1, tree=True).propose([1, 2], 9).chain


answers = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), min_size=1, max_size=40)


@given(answers, st.integers(20, 200))
def test_no_tenant_keeps_more_than_it_may_and_the_newest_is_there(texts, most):
    store = AnswerStore(tokens=most)
    for i, text in enumerate(texts):
        told(store, b"a", [100 + i, 200 + i], text)
        assert len(store) <= most
    if len(texts[-1]) + 3 < most // 2:
        draft = TrieDrafter(store, b"a", 2).propose([100 + i, 200 + i], 64)
        assert list(draft.tokens) == texts[-1]


def test_all_tenants_together_keep_no_more_than_they_may():
    store = AnswerStore(tokens=100, total=150)
    for tenant in range(20):
        told(store, b"%d" % tenant, PROMPT, [tenant + 30] * 40)
        assert len(store) <= 150 + 50
    assert TrieDrafter(store, b"0", 4).propose(PROMPT, 4).tokens == ()
    assert TrieDrafter(store, b"19", 4).propose(PROMPT, 1).tokens == (49,)


def test_an_answer_said_again_takes_no_room_and_stays_when_others_go():
    store, often = AnswerStore(tokens=200), [40, 41, 42, 43]
    told(store, b"a", PROMPT, often)
    before = len(store)
    told(store, b"a", PROMPT, often)
    assert len(store) == before
    for i in range(60):
        told(store, b"a", [60 + i], [70 + i] * 9)
        told(store, b"a", PROMPT, often)
    assert list(TrieDrafter(store, b"a", 4).propose(PROMPT, 9).tokens) == often
    assert TrieDrafter(store, b"a", 1).propose([60, 70], 1).tokens == ()


@given(answers, st.integers(1, 12))
def test_every_guess_is_something_that_was_said_behind_the_same_words(texts, most):
    store = AnswerStore()
    for text in texts:
        told(store, b"a", [50], text)
    tokens = [50, *texts[0][: len(texts[0]) // 2]]
    for tree in (False, True):
        draft = TrieDrafter(store, b"a", 1, tree=tree).propose(tokens, most)
        assert len(draft.tokens) <= most
        parents = draft.parents or range(-1, len(draft.tokens) - 1)
        for i, parent in enumerate(parents):
            assert parent < i
            path = []
            while i >= 0:
                path.insert(0, draft.tokens[i])
                i = draft.parents[i] if draft.parents else i - 1
            said = [tokens[-2:][-1], *path]
            assert any(said == [50, *text][j : j + len(said)] for text in texts for j in range(len(text) + 1))
