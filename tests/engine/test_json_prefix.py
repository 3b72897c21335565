"""JSON read byte by byte, against Python's own parser."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.grammar import JsonGrammar
from trimtab.backends.engine.json_prefix import JsonPrefix

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(), values, max_size=4)
written = st.builds(
    lambda value, ascii, indent: json.dumps(value, ensure_ascii=ascii, indent=indent).encode("utf-8", "replace"),
    objects,
    st.booleans(),
    st.sampled_from([None, 1]),
)


@given(written)
def test_every_object_is_accepted_and_complete_only_at_its_end(data):
    state = JsonPrefix()
    for i in range(len(data)):
        assert not state.complete
        state = state.after(data[i : i + 1])
        assert state is not None, data[: i + 1]
    assert state.complete


@given(written, st.data())
def test_closing_makes_any_beginning_whole(data, draw):
    cut = draw.draw(st.integers(0, len(data)))
    closing = JsonPrefix().after(data[:cut]).closing()
    whole = json.loads((data[:cut] + closing).decode("utf-8", "replace"))
    assert isinstance(whole, dict)
    assert len(closing) <= 80


@given(st.binary(max_size=6) | st.text(alphabet='{}[]",:1e-.tru\\ \n', max_size=12).map(str.encode))
def test_what_is_complete_parses(data):
    state = JsonPrefix().after(b"{" + data)
    if state is not None and state.complete:
        assert isinstance(json.loads((b"{" + data).decode()), dict)


@pytest.mark.parametrize(
    "text",
    ["[", "1", " {", "{1", "{,", '{"a",', '{"a":}', '{"a":1,}', '{"a":01', '{"a":+1', '{"a":1.}', '{"a":.5',
     '{"a":[1,]', '{"a":tru}', '{"a":"\n', '{"a":"\\x', '{"a":"\\u00g', '{"a":1e}', '{"a":-}', '{}x', '{"a":1}}',
     '{"a":' + " " * 30,
     '{"a":' + "[" * 40, '{"a":nulll'],
)  # fmt: skip
def test_what_no_object_begins_with_is_refused(text):
    assert JsonPrefix().after(text.encode()) is None


@given(st.integers(2, 90), st.randoms(use_true_random=False))
def test_a_grammar_always_closes_within_its_tokens(most, random):
    vocabulary = [bytes([b]) for b in range(256)] + [b"", b'{"a', b'":', b'": "', b"[[[", b"true", b"12", b"}}"]
    grammar, said = JsonGrammar(vocabulary, most), b""
    for _ in range(most):
        tried = (random.randrange(len(vocabulary)) for _ in range(200))
        token = next((t for t in tried if grammar.accepts(t)), None)
        token = grammar.way_out() if token is None else token
        said += vocabulary[token]
        grammar.take(token)
        if grammar.complete:
            break
    assert isinstance(json.loads(said.decode("utf-8", "replace")), dict)
