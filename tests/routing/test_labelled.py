"""A log's lines become labelled prompts, or an error that says which line and why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.labelled import Labelled, Unreadable, labelled, models, read


def test_routellms_names_are_the_pairs() -> None:
    row = {"prompt": "p", "weak_ok": 0, "strong_ok": 1, "weak_answer": "a", "subject": "law"}
    assert labelled(row) == Labelled("p", {"small": 0.0, "large": 1.0}, {"small": "a"}, topic="law")


def test_what_is_said_by_name_outweighs_the_old_names() -> None:
    assert labelled({"prompt": "p", "weak_ok": 0, "good": {"small": 1}}).good == {"small": 1.0} | {}


def test_a_chats_last_user_text_is_the_prompt() -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": [{"type": "text", "text": "second"}, {"type": "image_url", "image_url": {}}]},
    ]
    assert labelled({"messages": messages}).prompt == "second"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is no JSON"),
        ("[]", "line 2 is no JSON object"),
        ('{"good": {"small": 1}}', "needs a 'prompt'"),
        ('{"prompt": "   "}', "needs a 'prompt'"),
        ('{"prompt": "p", "good": 1}', "must name the models"),
        ('{"prompt": "p", "good": {"small": 2}}', "a number from 0 to 1"),
        ('{"prompt": "p", "good": {"small": NaN}}', "a number from 0 to 1"),
        ('{"prompt": "p", "weak_ok": "yes"}', "a number from 0 to 1"),
        ('{"prompt": "p", "tokens": {"small": -1}}', "a whole number"),
        ('{"prompt": "p", "logprobs": {"small": 0.1}}', "0 at most"),
        ('{"prompt": "p", "logprobs": {"small": NaN}}', "0 at most"),
        ('{"prompt": "p", "at": "noon"}', "seconds since 1970"),
        ('{"prompt": "p", "at": Infinity}', "seconds since 1970"),
    ],
)
def test_a_bad_line_is_named(line: str, said: str) -> None:
    with pytest.raises(Unreadable, match=said) as caught:
        list(read(['{"prompt": "fine"}', line]))
    assert "line 2" in str(caught.value)


def test_blank_lines_are_nothing() -> None:
    assert [row.prompt for row in read(["", '{"prompt": "p"}\n', "  \n"])] == ["p"]


def test_models_come_by_how_often_they_are_labelled() -> None:
    rows = [Labelled("a", {"x": 1.0}), Labelled("b", {"y": 1.0, "x": 0.0})]
    assert models(rows) == ["x", "y"]


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["prompt", "messages", "good", "weak_ok", "tokens", "logprobs", "at", "answers"]), _json
    )
)
def test_any_line_is_read_or_refused_in_words(row: dict[str, Any]) -> None:
    try:
        (found,) = read([json.dumps(row)])
    except Unreadable:
        return
    assert found.prompt.strip()
    assert all(0 <= value <= 1 for value in found.good.values())
