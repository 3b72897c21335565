"""Guesses from a text that came with the request: the walk beside the answer, and finding back to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.draft import NOTHING
from trimtab.backends.engine.draft_given import GivenDrafter, read_prediction
from trimtab.backends.engine.guess import Guesses, close
from trimtab.protocol.errors import InvalidRequest
from trimtab.protocol.messages import Request

PROMPT = [900, 901, 902]
TEXT = list(range(100, 140))


def steps(text, answer, most=8):
    """Passes of the model that an answer takes with the text as its draft, and the guesses at each."""
    drafter, tokens, taken = GivenDrafter(text, len(PROMPT)), list(PROMPT), 0
    end = len(PROMPT) + len(answer)
    while len(tokens) < end:
        rest = answer[len(tokens) - len(PROMPT) :]
        draft = drafter.propose(tokens, most)
        assert len(draft.tokens) == len(draft.confidence) <= most
        assert all(0 < c <= 1 for c in draft.confidence)
        right = next((i for i, (a, b) in enumerate(zip(draft.tokens, rest, strict=False)) if a != b), len(draft.tokens))
        tokens += rest[: right + 1]
        taken += 1
    return taken


def test_the_very_text_takes_one_step_for_all_that_is_guessed():
    assert steps(TEXT, TEXT) == 5


@pytest.mark.parametrize(
    ("answer", "most"),
    [
        ([*TEXT[:10], 7, *TEXT[11:]], 7),  # a word for a word
        (TEXT[:10] + TEXT[20:], 6),  # words left out
        ([*TEXT[:10], 7, 8, 9, *TEXT[10:]], 10),  # words put in
        ([7, *TEXT], 8),  # another beginning, as where the first word has no space before it
        (TEXT[20:] + TEXT[:20], 9),  # the halves in another order
        ([*TEXT, 1, 2, 3], 9),  # words after the end
    ],
)
def test_after_a_difference_the_walk_goes_on(answer, most):
    assert steps(TEXT, answer) <= most


def test_a_common_word_far_away_is_no_place_to_go_on_from():
    text = [*TEXT, *[5] * 40, 300, 301]
    drafter = GivenDrafter(text, 3)
    drafter.propose([*PROMPT, *TEXT[:4]], 4)
    assert drafter.propose([*PROMPT, *TEXT[:4], 300], 4).tokens != (301,)
    assert drafter.propose([*PROMPT, *TEXT[:4], 300, *TEXT[10:12]], 2).tokens == tuple(TEXT[12:14])


def test_confidence_falls_while_lost_and_grows_on_the_way():
    drafter = GivenDrafter(TEXT, 3)
    first = drafter.propose(PROMPT, 1).confidence[0]
    along = drafter.propose(PROMPT + TEXT[:9], 1).confidence[0]
    lost = drafter.propose([*PROMPT, *TEXT[:9], 1, 2, 3, 4], 1).confidence[0]
    assert lost < first < along


@given(
    st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 9)
)
def test_any_text_with_any_answer_guesses_only_its_own_words(text, answer, most):
    assert 1 <= steps(text, answer, most) <= len(answer)


def test_a_tree_goes_on_from_other_places_too():
    text = [2, 3, 4, 9, 9, 9, 2, 3, 7, 8]
    tree = GivenDrafter(text, 3, tree=True).propose([*PROMPT, 2, 3], 8)
    assert GivenDrafter(text, 3).propose([*PROMPT, 2, 3], 8).chain
    assert tree.tokens[0] == 4
    assert {token for token, parent in zip(tree.tokens, tree.parents, strict=True) if parent == -1} == {4, 7}
    assert {tree.source_of(i) for i in range(len(tree.tokens))} == {"given"}
    assert len(GivenDrafter(text, 3, tree=True).propose([*PROMPT, 2, 3], 3).tokens) == 3
    assert GivenDrafter(text, 3, tree=True).propose(PROMPT, 3).chain


def test_a_text_of_one_word_a_hundred_thousand_times_over():
    drafter = GivenDrafter([7] * 100_000, 1)
    assert drafter.propose([1, 7, 7, 8, 7], 4).tokens == (7,) * 4


def test_the_prediction_of_a_request():
    def ask(**fields):
        return read_prediction(Request.build("chat", {"model": "m", **fields}))

    assert ask() is None
    assert ask(prediction=None) is None
    assert ask(prediction={"type": "content", "content": "hello"}) == "hello"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert ask(prediction={"type": "content", "content": parts}) == "ab"
    for wrong in (
        "x",
        {"type": "image", "content": "x"},
        {"content": 5},
        {"content": [{"text": 1}]},
        {"content": ["a"]},
    ):
        with pytest.raises(InvalidRequest, match="prediction"):
            ask(prediction=wrong)


def test_a_prediction_is_told_what_came_true_though_an_earlier_answer_said_the_same():
    """The trie of finished answers is surer of these words than the prediction is; both have them."""
    guesses = Guesses(most=8)
    earlier = guesses.open("acme", len(PROMPT), ())
    assert earlier is not None
    for _ in range(3):
        close(earlier, [*PROMPT, *TEXT], whole=True)
    predicted = guesses.open("acme", len(PROMPT), ([*TEXT[:12], 7, *TEXT[13:]],))
    assert predicted is not None
    [draft] = guesses.propose([(predicted, [*PROMPT, *TEXT[:8]], 8)])
    assert (draft.source, draft.tokens) == ("trie", tuple(TEXT[8:16]))
    assert predicted.predicted(draft) == 4  # of the 8 that the trie has
    assert predicted.predicted(NOTHING) == 0
