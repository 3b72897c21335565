"""Walking along drafts: chains and trees say what the target would have said, and no more."""

from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.draft import NOTHING, Draft
from trimtab.backends.engine.verify import paths, walk


@st.composite
def drafts(draw):
    tokens = tuple(draw(st.lists(st.integers(0, 2), max_size=12)))
    if draw(st.booleans()):
        return Draft(tokens, (), (0.5,) * len(tokens))
    parents = tuple(draw(st.integers(-1, i - 1)) for i in range(len(tokens)))
    return Draft(tokens, parents, (0.5,) * len(tokens))


def history(draft, row):
    """The draft's tokens on the way to a row."""
    if draft.chain:
        return draft.tokens[:row]
    return tuple(draft.tokens[i - 1] for i in paths(draft)[row][1:])


@given(drafts(), st.integers(0, 99))
def test_what_is_said_is_what_would_have_been_said(draft, salt):
    def target(said):
        return hash((said, salt)) % 3

    asked = []

    def drawn(row):
        asked.append(row)
        return target(history(draft, row))

    way = walk(draft, drawn)
    alone = ()
    for token in way.tokens:
        assert token == target(alone)
        alone += (token,)
    assert asked == way.rows
    assert way.rows[0] == 0
    assert [history(draft, row) for row in way.rows] == [tuple(way.tokens[:i]) for i in range(len(way.rows))]


def test_without_a_draft_one_token_is_said():
    assert walk(NOTHING, lambda row: 7).tokens == [7]


def test_a_walk_can_be_ended():
    assert walk(Draft((1, 1, 1)), lambda row: 1 if row < 2 else None).tokens == [1, 1]
    assert walk(Draft((1,)), lambda row: None).tokens == []


def test_paths_of_a_tree():
    assert paths(Draft((5, 6, 7, 8), (-1, 0, 0, 2))) == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4]]
