"""Guesses from a request's own words, against a scan that is too slow to ship."""

from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.draft_ngrams import LENGTHS, Ngrams, confidence, follow
from trimtab.backends.engine.draft_suffix import SuffixDrafter

texts = st.lists(st.integers(0, 3), min_size=1, max_size=80)


def scan(tokens):
    """Longest indexed n-gram at the end that stood before, and up to eight of its places, the latest first."""
    for n in sorted(LENGTHS, reverse=True):
        tail = tokens[-n:]
        places = [p for p in range(len(tokens) - 1, n - 1, -1) if tokens[p - n : p] == tail][:8]
        if n < len(tokens) + 1 and len(tail) == n and places:
            return n, places
    return None


@given(texts)
def test_a_lookup_finds_what_a_scan_finds(tokens):
    index = Ngrams()
    assert index.grow(tokens, 1000)
    found, wanted = index.find(tokens, tokens), scan(tokens)
    if wanted is None or found is None:
        assert found is None
        assert wanted is None
        return
    n, places = wanted
    assert found.length >= n
    assert set(found.places) <= set(places)
    for place in found.places:
        assert tokens[place - found.length : place] == tokens[-found.length :]
    # Of the longest n-gram, the places with most in common further back are kept, and no other.
    for place in set(places) - set(found.places):
        assert tokens[place - found.length : place] != tokens[-found.length :]


@given(texts, st.lists(st.integers(1, 7), min_size=1, max_size=30))
def test_slices_of_any_size_give_the_same_index(tokens, slices):
    whole, parts = Ngrams(), Ngrams()
    whole.grow(tokens, 1000)
    done = False
    for most in slices * len(tokens):
        done = parts.grow(tokens, most)
    assert done
    assert parts.find(tokens, tokens) == whole.find(tokens, tokens)


@given(texts, st.integers(0, 12))
def test_growing_token_by_token_proposes_what_starting_late_proposes(tokens, most):
    drafter = SuffixDrafter()
    for end in range(1, len(tokens) + 1):
        draft = drafter.propose(tokens[:end], most)
    assert draft == SuffixDrafter().propose(tokens, most)
    assert len(draft.tokens) == len(draft.confidence) <= most
    assert all(0 < c <= 1 for c in draft.confidence)
    assert all(token in tokens for token in draft.tokens)
    assert draft.chain


def test_a_copied_text_is_guessed_with_growing_certainty():
    text = list(range(100, 160))
    draft = SuffixDrafter().propose([1, *text, 2, *text[:10]], 16)
    assert list(draft.tokens) == text[10:26]
    assert list(draft.confidence) == sorted(draft.confidence)
    assert draft.confidence[0] > confidence(5)


def test_a_repetition_goes_on_past_the_end_of_what_there_is():
    draft = SuffixDrafter().propose([9, 1, 2, 3, 1, 2, 3, 1, 2, 3], 8)
    assert list(draft.tokens) == [1, 2, 3, 1, 2, 3, 1, 2]


def test_the_majority_wins_and_the_latest_when_even():
    votes = [5, 1, 5, 2, 5, 1, 5, 1, 5]
    assert SuffixDrafter().propose(votes, 1).tokens == (1,)
    even = [5, 1, 8, 5, 2, 9, 5]
    draft = SuffixDrafter().propose(even, 1)
    assert draft.tokens == (2,)
    assert draft.confidence[0] == confidence(1) / 2


def test_nothing_seen_nothing_said():
    assert SuffixDrafter().propose([1, 2, 3], 8).tokens == ()
    assert SuffixDrafter().propose([], 8).tokens == ()
    assert SuffixDrafter().propose([1, 1], 0).tokens == ()
    assert SuffixDrafter(least=2).propose([7, 1, 7], 8).tokens == ()


def test_seams_are_not_crossed():
    index, tokens = Ngrams(), [1, 2, 3, -1, 4, 5, -1]
    index.grow(tokens, 99)
    assert index.find(tokens, [9, 3]).places == (3,)
    assert follow(tokens, index.find(tokens, [2, 3]), 5) == ([], [])
    assert follow(tokens, index.find(tokens, [1]), 5)[0] == [2, 3]
    assert index.find(tokens, [3, 4]).length == 1


def test_a_hundred_thousand_tokens_of_one_kind_are_indexed_a_slice_at_a_time():
    class Counted(list):
        read = 0

        def __getitem__(self, at):
            Counted.read += len(range(*at.indices(len(self)))) if isinstance(at, slice) else 1
            return super().__getitem__(at)

    for tokens in (Counted([7] * 100_000), Counted([7, 8] * 50_000)):
        drafter, calls = SuffixDrafter(), 0
        while not drafter.prepare(tokens):
            calls += 1
            assert calls < 100
        Counted.read = 0
        draft = drafter.propose(tokens, 16)
        # What one guess looks at does not grow with the text.
        assert Counted.read < 1500
        assert list(draft.tokens) == [tokens[i % 2] for i in range(16)]
