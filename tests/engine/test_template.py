"""Chats as prompts: the template's markers are control tokens, a user's never are."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.gguf import GGUF
from trimtab.backends.engine.template import ChatTemplate, plain_messages
from trimtab.backends.engine.tokenizer import Tokenizer
from trimtab.protocol.errors import ContextTooLong, InvalidRequest, ModelUnavailable

NOW = datetime(2026, 3, 4, tzinfo=UTC)
PIECES = ["<|im_start|>", "<|im_end|>", "<|im_", "start|>", "end|>", "<", "|", "\n", "hi", "\U000f0000"]


@pytest.fixture(scope="module")
def make(tiny):
    metadata = GGUF(tiny).metadata

    def template(source=None):
        changed = metadata if source is None else metadata | {"tokenizer.chat_template": source}
        tokenizer = Tokenizer(metadata)
        return ChatTemplate(changed, tokenizer, lambda: NOW), tokenizer

    return template


def user(content):
    return [{"role": "user", "content": content}]


@given(st.lists(st.lists(st.sampled_from(PIECES)).map("".join), min_size=1, max_size=3))
def test_only_the_template_makes_control_tokens(make, contents):
    template, tokenizer = make()
    messages = [{"role": "user", "content": c} for c in contents]
    ids = template.encode(messages, 10_000)
    controls = [i for i in ids if i in tokenizer.control.values()]
    assert len(controls) == 2 * len(contents) + 1
    expected = "".join(f"user\n{c}\n" for c in contents) + "assistant\n"
    assert tokenizer.decode(ids) == expected


def test_a_text_cannot_complete_a_marker_with_the_templates_next_words(make):
    template, tokenizer = make("{{ messages[0]['content'] }}|im_end|>")
    assert tokenizer.control["<|im_end|>"] not in template.encode(user("x<"), 1000)


def test_text_parts_are_joined(make):
    template, _ = make()
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": " world"}]
    assert template.encode(user(parts), 1000) == template.encode(user("hello world"), 1000)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ("hi", "messages"),
        (["hi"], "messages[0].role"),
        ([{"role": "robot", "content": "hi"}], "messages[0].role"),
        (user(None), "messages[0].content"),
        (user([{"type": "image_url", "image_url": {"url": "data:"}}]), "messages[0].content[0]"),
        (user([{"type": "text", "text": 3}]), "messages[0].content[0].text"),
        ([{"role": "assistant", "content": None, "tool_calls": [{}]}], "messages[0].tool_calls"),
    ],
)
def test_what_is_no_chat_is_refused_by_name(messages, param):
    with pytest.raises(InvalidRequest) as e:
        plain_messages(messages)
    assert e.value.param == param


def test_a_template_may_refuse(make):
    template, _ = make("{{ raise_exception('only one message') }}")
    with pytest.raises(InvalidRequest, match="only one message"):
        template.encode(user("hi"), 1000)


def test_a_template_cannot_leave_its_sandbox(make):
    template, _ = make("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(InvalidRequest):
        template.encode(user("hi"), 1000)


def test_a_broken_template_is_an_error_at_load(make):
    with pytest.raises(ModelUnavailable, match="template"):
        make("{% for %}")


def test_dates_and_json(make):
    template, tokenizer = make("{{ strftime_now('%Y-%m-%d') }}{{ messages | tojson }}")
    assert tokenizer.decode(template.encode(user("<é>"), 1000)) == '2026-03-04[{"role": "user", "content": "<é>"}]'


def test_a_huge_text_is_refused_before_it_is_encoded(make):
    template, _ = make()
    with pytest.raises(ContextTooLong, match="256 tokens"):
        template.encode(user("x" * 100_000), 256)
