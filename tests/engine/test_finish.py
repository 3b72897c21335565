"""Stop strings and what may be shown before them."""

from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.finish import Finish
from trimtab.backends.engine.request import Choice


class Letters:
    """A detokenizer whose tokens are indices of texts."""

    def __init__(self, texts):
        self.texts = texts

    def feed(self, token):
        return self.texts[token]

    def flush(self):
        return ""


def walk(texts, stops):
    """What was shown at each token, the tokens shown with it, and whether a stop was found."""
    finish, shown, tokens = Finish(Letters(texts), stops), [], []
    for i in range(len(texts)):
        text, choices = finish.feed(Choice(i))
        shown.append(text)
        tokens += [c.token for c in choices]
        if finish.stopped:
            return shown, tokens, True
    text, choices = finish.flush()
    return [*shown, text], tokens + [c.token for c in choices], False


small = st.text(alphabet="ab", min_size=0, max_size=4)


@given(st.lists(small, max_size=12), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3))
def test_what_is_shown_ends_before_the_first_stop_to_be_whole(texts, stops):
    shown, tokens, stopped = walk(texts, stops)
    text = "".join(texts)
    assert stopped == any(s in text for s in stops)
    if not stopped:
        assert "".join(shown) == text
        assert tokens == list(range(len(texts)))
        return
    seen = ""
    for piece in texts:  # one token after another, as the engine sees them
        seen += piece
        found = [seen.find(s) for s in stops if s in seen]
        if found:
            assert "".join(shown) == seen[: min(found)]
            break


@given(st.lists(small, max_size=12), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3))
def test_nothing_shown_is_taken_back(texts, stops):
    shown, _, stopped = walk(texts, stops)
    if stopped:
        for cut in range(len(shown)):
            assert not any(s in "".join(shown[:cut]) for s in stops)


def test_text_without_a_stop_in_sight_is_shown_at_once():
    assert walk(["one", " two"], ["STOP"])[0] == ["one", " two", ""]


def test_a_possible_beginning_waits_and_is_given_back():
    assert walk(["a S", "T", "art"], ["STOP"])[0] == ["a ", "", "STart", ""]


def test_the_earliest_stop_wins_not_the_first_in_the_list():
    assert walk(["xAyB"], ["B", "A"])[0] == ["x"]


def test_tokens_come_with_their_text():
    finish = Finish(Letters(["a", "S", "x"]), ["ST"])
    assert [c.token for c in finish.feed(Choice(0))[1]] == [0]
    assert finish.feed(Choice(1)) == ("", ())
    text, choices = finish.feed(Choice(2))
    assert (text, [c.token for c in choices]) == ("Sx", [1, 2])
