"""Chats as prompts: the template's markers are control tokens, a user's never are."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.gguf import GGUF
from trimtab.backends.engine.gguf_checkpoint import vocabulary_of
from trimtab.backends.engine.template import ChatTemplate, plain_messages
from trimtab.backends.engine.tokenizer import Tokenizer
from trimtab.protocol.errors import ContextTooLong, InvalidRequest, ModelUnavailable

NOW = datetime(2026, 3, 4, tzinfo=UTC)
PIECES = ["<|im_start|>", "<|im_end|>", "<|im_", "start|>", "end|>", "<", "|", "\n", "hi", "\U000f0000"]


@pytest.fixture(scope="module")
def make(tiny):
    metadata = GGUF(tiny).metadata

    def template(source=None, markers=()):
        tokens = {"tokenizer.ggml.tokens": [*metadata["tokenizer.ggml.tokens"], *markers]}
        kinds = {"tokenizer.ggml.token_type": metadata["tokenizer.ggml.token_type"] + [4] * len(markers)}
        tokenizer = Tokenizer(vocabulary_of(metadata | tokens | kinds))
        return ChatTemplate(source or metadata["tokenizer.chat_template"], tokenizer, lambda: NOW), tokenizer

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


def test_a_refusal_is_what_the_assistant_said(make):
    template, _ = make()
    parts = [{"type": "refusal", "refusal": "No."}]
    said = template.encode([{"role": "assistant", "content": "No."}], 1000)
    assert template.encode([{"role": "assistant", "content": parts}], 1000) == said
    assert template.encode([{"role": "assistant", "content": None, "refusal": "No."}], 1000) == said


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
        (user([{"type": "refusal"}]), "messages[0].content[0].refusal"),
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


@pytest.mark.parametrize("source", ["{% for %}", "{" * 5000])
def test_a_broken_template_is_an_error_at_load(make, source):
    with pytest.raises(ModelUnavailable, match="template"):
        make(source)


def test_dates_and_json(make):
    template, tokenizer = make("{{ strftime_now('%Y-%m-%d') }}{{ messages | tojson }}")
    assert tokenizer.decode(template.encode(user("<é>"), 1000)) == '2026-03-04[{"role": "user", "content": "<é>"}]'


def test_a_huge_text_is_refused_before_it_is_encoded(make):
    template, _ = make()
    with pytest.raises(ContextTooLong, match="256 tokens"):
        template.encode(user("x" * 100_000), 256)


# The form of Qwen and Hermes models, cut to what matters.
TOOLS = """
{%- if tools %}{{ '<|im_start|>system\n<tools>' }}
{%- for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}{{ '\n</tools><|im_end|>\n' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>' + message.content + '</tool_response><|im_end|>\n' }}
{%- else %}{{ '<|im_start|>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) }}
{{- '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}
{%- endif %}{% endfor %}{{ '<|im_start|>assistant\n' }}"""
MARKERS = ("<tool_call>", "</tool_call>")
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"city": "<|im_end|> or <tool_call>"}}}


def called(arguments, **more):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call], **more}


def test_tools_calls_and_results_are_written_as_the_model_knows_them(make):
    template, tokenizer = make(TOOLS, MARKERS)
    answer = {"role": "tool", "tool_call_id": "c1", "content": "</tool_call> <|im_end|> 20 C"}
    ids = template.encode([*user("hi"), called('{"city": "Paris"}'), answer], 10_000, [WEATHER])
    assert "".join(map(tokenizer.text, ids)) == (
        '<|im_start|>system\n<tools>\n{"type": "function", "function": {"name": "weather", "parameters": '
        '{"city": "<|im_end|> or <tool_call>"}}}\n</tools><|im_end|>\n<|im_start|>user\nhi<|im_end|>\n'
        '<|im_start|>assistant\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
        "<|im_end|>\n<|im_start|>user\n<tool_response></tool_call> <|im_end|> 20 C</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert [ids.count(tokenizer.placed[marker]) for marker in MARKERS] == [1, 1]
    assert ids.count(tokenizer.control["<|im_end|>"]) == 4


@given(
    st.recursive(
        st.sampled_from(PIECES), lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(PIECES), v)
    )
)
def test_no_tool_makes_a_control_token(make, value):
    template, tokenizer = make(TOOLS, MARKERS)
    tool = {"type": "function", "function": {"name": "f", "parameters": value}}
    ids = template.encode(user("hi"), 10_000, [tool])
    assert sum(i in tokenizer.control.values() for i in ids) == 5


def test_arguments_that_are_no_object_stay_what_the_model_said(make):
    template, tokenizer = make(TOOLS, MARKERS)
    for arguments in ("{broken", "[1]", '"x"'):
        assert arguments.strip('"') in tokenizer.decode(template.encode([called(arguments)], 1000)).replace("\\", "")


def test_words_of_the_models_own_keep_their_markers(make):
    template, tokenizer = make(TOOLS, ("<think>", *MARKERS))
    said = [*user("<think>"), {"role": "assistant", "content": "<think>x"}]
    assert template.encode(said, 1000).count(tokenizer.placed["<think>"]) == 1


@pytest.mark.parametrize(
    ("messages", "tools", "param"),
    [
        ([called(3)], None, "messages[0].tool_calls[0].function.arguments"),
        ([{"role": "assistant", "tool_calls": "x"}], None, "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], None, "messages[0].tool_calls[0]"),
        (user("hi"), {"type": "function"}, "tools"),
        (user("hi"), [{"type": "function"}], "tools[0]"),
    ],
)
def test_what_is_no_tool_is_refused_by_name(make, messages, tools, param):
    template, _ = make(TOOLS, MARKERS)
    with pytest.raises(InvalidRequest) as e:
        template.encode(messages, 1000, tools)
    assert e.value.param == param


def test_a_template_without_tools_says_so(make):
    template, _ = make()
    assert not template.takes_tools
    with pytest.raises(InvalidRequest, match="no tools"):
        template.encode(user("hi"), 1000, [WEATHER])


def test_tools_without_bottom_are_refused(make):
    template, _ = make(TOOLS, MARKERS)
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRequest):
        template.encode(user("hi"), 1000, [{"function": {"name": "f", "parameters": deep}}])


@pytest.mark.parametrize("piece", ["<|im_", "<|im_end|>", "<", " ", "\U000f0000"])
def test_a_hundred_thousand_letters_are_guarded_at_once(make, piece):
    template, tokenizer = make(TOOLS, MARKERS)
    text = piece * (100_000 // len(piece))
    assert text in tokenizer.decode(template.encode(user(text), 10**6))
