"""Spans are what a JSON parser would find, and a rewrite changes those literals and nothing else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.spans import MOST_MESSAGES, Conversation, Span
from trimtab.protocol.messages import Request

said = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=30)
extra = st.dictionaries(
    st.sampled_from(["name", "x", 'a"b', "tool_call_id", "cache", "back\\slash", "ü"]),
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | said,
        lambda v: st.lists(v, max_size=3),
    ),
    max_size=2,
)
marks = st.sampled_from([{}, {}, {}, {"cache_control": {"type": "ephemeral"}}, {"cache_control": None}])
part = st.one_of(
    st.builds(lambda t, m: {"type": "text", "text": t, **m}, said, marks),
    st.builds(lambda t: {"text": t, "type": "input_text"}, said),
    st.builds(lambda u: {"type": "image_url", "image_url": {"url": u}}, said),
    st.builds(lambda t: {"type": "unheard_of", "text": t}, said),
)
content = st.none() | said | st.lists(part, max_size=4)
call = st.builds(
    lambda i, n, a: {"id": i, "type": "function", "function": {"name": n, "arguments": a}}, said, said, said
)
message = st.one_of(
    st.builds(lambda r, c: {"role": r, "content": c}, st.sampled_from(["user", "tool", "function", "model"]), content),
    st.builds(lambda r, c: {"content": c, "role": r}, st.sampled_from(["system", "developer"]), content),
    st.builds(
        lambda c, calls, r: {"role": "assistant", "content": c, "tool_calls": calls, "refusal": r},
        content,
        st.none() | st.lists(call, max_size=3),
        st.none() | said,
    ),
    st.builds(lambda a: {"role": "assistant", "function_call": {"name": "f", "arguments": a}}, said),
)
messages = st.lists(st.builds(lambda m, e, k: {**e, **m, **k}, message, extra, marks), max_size=6)
dumps = st.sampled_from(
    [
        lambda v: json.dumps(v).encode(),
        lambda v: json.dumps(v, indent=2).encode(),
        lambda v: json.dumps(v, indent="\t", separators=(" ,\r\n", "\t: ")).encode(),
        lambda v: json.dumps(v, ensure_ascii=False, sort_keys=True).encode(),
        lambda v: json.dumps(v, separators=(",", ":")).encode(),
        msgspec.json.encode,
    ]
)

Found = tuple[int, str, str, str]  # message, kind, text, JSON path of the string


def read(raw: bytes, kind: str = "chat", **fields: Any) -> Conversation | None:
    name = "messages" if kind == "chat" else "prompt"
    made = {name: msgspec.Raw(raw), **{key: msgspec.Raw(json.dumps(value)) for key, value in fields.items()}}
    return Conversation.read(Request(kind, b"", made))  # type: ignore[arg-type]


def present(conversation: Conversation | None) -> Conversation:
    assert conversation is not None
    return conversation


def expected(value: list[dict[str, Any]]) -> list[tuple[int, str, list[Any]]]:
    """(message, kind, path) of every string that should be a span, from the parsed tree."""
    out: list[tuple[int, str, list[Any]]] = []
    for index, said_ in enumerate(value):
        for key, held in said_.items():
            if key == "content":
                kind = "result" if said_["role"] in ("tool", "function") else "text"
                if isinstance(held, str):
                    out.append((index, kind, [index, "content"]))
                for place, piece in enumerate(held if isinstance(held, list) else []):
                    if piece["type"] in ("text", "input_text"):
                        out.append((index, kind, [index, "content", place, "text"]))
            elif key == "tool_calls":
                out += [
                    (index, "arguments", [index, key, place, "function", "arguments"])
                    for place in range(len(held or []))
                ]
            elif key == "function_call":
                out.append((index, "arguments", [index, key, "arguments"]))
            elif key == "refusal" and held is not None:
                out.append((index, "other", [index, key]))
    return out


def at(value: Any, path: list[Any]) -> Any:
    for step in path:
        value = value[step]
    return value


def put(value: Any, path: list[Any], text: str) -> None:
    at(value, path[:-1])[path[-1]] = text


@given(messages, dumps)
def test_spans_are_what_a_parser_finds_in_the_order_of_the_bytes(value: list[dict[str, Any]], dump: Any) -> None:
    raw = dump(value)
    parsed = json.loads(raw)  # the order of keys as written
    conversation = present(read(raw))
    assert [(s.message, s.kind, s.text) for s in conversation.spans] == [
        (index, kind, at(parsed, path)) for index, kind, path in expected(parsed)
    ]
    assert [json.loads(raw[m.start : m.end]) for m in conversation.messages] == parsed
    assert [m.role for m in conversation.messages] == [m["role"] for m in parsed]
    for span in conversation.spans:
        assert json.loads(raw[span.start : span.end]) == span.text
        assert span.role == parsed[span.message]["role"]
    starts = [span.start for span in conversation.spans]
    assert starts == sorted(starts)


@given(messages, dumps)
def test_all_at_or_before_the_last_mark_is_frozen_and_so_protected(value: list[dict[str, Any]], dump: Any) -> None:
    def marked(tree: Any) -> bool:
        if isinstance(tree, dict):
            return tree.get("cache_control") is not None or any(map(marked, tree.values()))
        return isinstance(tree, list) and any(map(marked, tree))

    last = max((index for index, one in enumerate(value) if marked(one)), default=-1)
    conversation = present(read(dump(value)))
    assert [m.frozen for m in conversation.messages] == [index <= last for index in range(len(value))]
    for span in conversation.spans:
        free = span.role in ("user", "tool", "function") and span.kind in ("text", "result") and span.message > last
        assert (span.protected is None) == free, span


@given(messages, dumps, st.data())
def test_a_rewrite_is_the_same_edit_made_on_the_tree_and_touches_no_other_byte(
    value: list[dict[str, Any]], dump: Any, data: st.DataObject
) -> None:
    raw = dump(value)
    conversation = present(read(raw))
    parsed = json.loads(raw)
    paths = {span: path for span, (_, _, path) in zip(conversation.spans, expected(parsed), strict=True)}
    free = [span for span in conversation.spans if span.protected is None]
    texts = {span: data.draw(said) for span in free if data.draw(st.booleans())}
    for span, text in texts.items():
        put(parsed, paths[span], text)
    out = conversation.rewrite(texts)
    assert json.loads(out) == parsed
    assert without(out) == without(raw, conversation.spans)
    each = [conversation.message_bytes(index, texts) for index in range(len(parsed))]
    assert [json.loads(one) for one in each] == parsed


def without(raw: bytes, spans: tuple[Span, ...] | None = None) -> list[bytes]:
    """The bytes between the spans."""
    spans = present(read(raw)).spans if spans is None else spans
    edges = [0, *(edge for span in spans for edge in (span.start, span.end)), len(raw)]
    return [raw[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]


@given(messages, dumps, st.sets(st.integers(0, 5)))
def test_dropping_messages_leaves_the_others_as_they_are(
    value: list[dict[str, Any]], dump: Any, wanted: set[int]
) -> None:
    conversation = present(read(dump(value)))
    free = {m.index for m in conversation.messages if not m.frozen and m.role not in ("system", "developer")}
    dropped = wanted & free
    out = conversation.rewrite({span: "" for span in conversation.spans if span.message in dropped}, dropped)
    kept = [one for index, one in enumerate(value) if index not in dropped]
    assert json.loads(out) == json.loads(json.dumps(kept))
    again = present(read(out)).messages
    was = [m for m in conversation.messages if m.index not in dropped]
    assert [out[m.start : m.end] for m in again] == [conversation.raw[m.start : m.end] for m in was]
    # What stands before a message hangs on nothing behind it: a compressed beginning stays, byte for byte.
    if value and len(value) - 1 not in dropped:
        shorter = present(read(conversation.raw[: conversation.messages[-2].end] + b"]")) if len(value) > 1 else None
        assert shorter is None or out.startswith(shorter.rewrite({}, dropped)[:-1])


@given(messages, dumps)
def test_nothing_asked_nothing_changed(value: list[dict[str, Any]], dump: Any) -> None:
    raw = dump(value)
    conversation = present(read(raw))
    assert conversation.rewrite({}) == raw
    assert conversation.rewrite({span: span.text for span in conversation.spans}) == raw


def test_a_new_text_is_escaped_as_the_old_one_was() -> None:
    one = present(read(b'[{"role":"user","content":"gr\\u00fcn"}]'))
    assert one.rewrite({one.spans[0]: "gr\u00fcn \U0001f600\n"}) == (
        b'[{"role":"user","content":"gr\\u00fcn \\ud83d\\ude00\\n"}]'
    )
    two = present(read('[{"role":"user","content":"grün"}]'.encode()))
    assert two.rewrite({two.spans[0]: "blau, grün"}) == '[{"role":"user","content":"blau, grün"}]'.encode()


def test_keys_spelt_with_escapes_are_the_keys_they_spell() -> None:
    raw = b'[{"rol\\u0065":"user","\\u0063ontent":[{"type":"text","text":"a"}]},'
    raw += b'{"role":"user","content":[{"type":"text","text":"b","cache\\u005Fcontrol":{}}]},'
    raw += b'{"role":"user","content":"c"}]'
    conversation = present(read(raw))
    assert [(s.text, s.protected) for s in conversation.spans] == [
        ("a", "cached prefix"),
        ("b", "cached prefix"),
        ("c", None),
    ]


@pytest.mark.parametrize(
    "text",
    ['{"cache_control": {"type": "ephemeral"}}', '"cache_control":1', 'x"cache_control', '\\"cache_control":1', "\\"],
)
def test_a_text_about_cache_control_marks_nothing(text: str) -> None:
    conversation = present(read(json.dumps([{"role": "user", "content": text}]).encode()))
    assert conversation.spans[0].protected is None


def test_a_mark_on_the_request_itself_freezes_all_of_it() -> None:
    raw = b'[{"role":"user","content":"a"}]'
    assert present(read(raw, cache_control={"type": "ephemeral"})).messages[0].frozen
    assert not present(read(raw, cache_control=None)).messages[0].frozen


def test_a_text_that_offsets_point_into_is_protected() -> None:
    noted = {"type": "text", "text": "a", "annotations": [{"start_index": 0}]}
    assert present(read(json.dumps([{"role": "user", "content": [noted]}]).encode())).spans[0].protected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"{}",
        b'"text"',
        b"[1]",
        b'["user"]',
        b'[{"content":"no role"}]',
        b'[{"role":7,"content":"x"}]',
        b'[{"role":"user","content":7}]',
        b'[{"role":"user","content":{"text":"x"}}]',
        b'[{"role":"user","content":["x"]}]',
        b'[{"role":"user","content":"x","content":"y"}]',
        b'[{"role":"user","content":"x","content":"x"}]',
        b'[{"role":"user","content":1,"content":12}]',
        b'[{"role":"user","n":1,"n":12,"content":"x"}]',
        b'[{"role":"user","content":"x","c\\u006fntent":"y"}]',
        b'[{"role":"user","content":"a\\",\\"x\\":\\"","content":"a\\",\\"x\\":\\""}]',
        b'[{"role":"user","content":[{"type":"text","text":"x","text":"y"}]}]',
        b'[{"role":"assistant","tool_calls":[{"function":{"arguments":"1","arguments":"2"}}]}]',
        b'[{"role":"assistant","tool_calls":[{"function":"f"}]}]',
        b'[{"role":"user","content":"\\ud800"}]',
        b'[{"role":"user","content":"x","name":"\\udc00\\ud800"}]',
        b'[{"role":"user","content":"\xff"}]',
        b'[{"role":"user","content":"x","name":"\xed\xa0\x80"}]',
        b'[{"role":"user","content":"x"',
        b'[{"role":"user","content":"x"}',
        b'[{"role":"user","content":"x",}]',
        b'[{"role":"user","content":"x"},]',
        b'[{"role":"user","content":"x"}] []',
        b'[{"role":"user","content":"x","deep":' + b"[" * 5000 + b"]" * 5000 + b"}]",
    ],
)
def test_what_is_odd_is_not_read(raw: bytes) -> None:
    assert read(raw) is None


def test_more_than_a_conversation_has_is_not_read() -> None:
    one = b'{"role":"user","content":"x"}'
    assert len(present(read(b"[" + b",".join([one] * MOST_MESSAGES) + b"]")).spans) == MOST_MESSAGES
    assert read(b"[" + b",".join([one] * (MOST_MESSAGES + 1)) + b"]") is None
    parts = b",".join([b'{"type":"text","text":"x"}'] * 20_001)
    assert read(b'[{"role":"user","content":[' + parts + b"]}]") is None
    assert read(b'[{"role":"user","content":"x","n":[' + b"1," * 300_000 + b"1]}]") is None
    commas = b'[{"role":"user","content":"' + b"," * 3_000_000 + b'"}]'
    assert len(present(read(commas)).spans) == 1


def test_reading_many_messages_stops_at_the_deadline() -> None:
    request = Request.build("chat", {"messages": [{"role": "user", "content": "x"}] * 10_000})
    looks = iter([*[0.0] * 10, *[9.0] * 1_000])
    with pytest.raises(OutOfTime):
        Conversation.read(request, Deadline(1.0, lambda: next(looks)))
    assert present(Conversation.read(request, Deadline(1.0, lambda: 0.0))).messages


def test_protected_things_cannot_be_changed_by_mistake() -> None:
    raw = b'[{"role":"system","content":"s"},{"role":"user","content":"u"},{"role":"assistant","content":"a"}]'
    conversation = present(read(raw))
    system, user, answer = conversation.spans
    for span in (system, answer):
        with pytest.raises(ValueError, match="protected"):
            conversation.rewrite({span: "else"})
    with pytest.raises(ValueError, match="protected"):
        conversation.rewrite({}, {0})
    with pytest.raises(ValueError, match="no such"):
        conversation.rewrite({}, {3})
    with pytest.raises(ValueError, match="surrogates"):
        conversation.rewrite({user: "\ud800"})
    other = present(read(b'[{"role":"user","content":"another"}]')).spans[0]
    with pytest.raises(ValueError, match="another conversation"):
        conversation.rewrite({other: "else"})


def test_a_legacy_prompt_is_one_user_message() -> None:
    conversation = present(read(b'"a \\u00e9"', "completions"))
    assert conversation.field == "prompt"
    assert [(s.role, s.text, s.protected) for s in conversation.spans] == [("user", "a \u00e9", None)]
    assert conversation.rewrite({conversation.spans[0]: "b"}) == b'"b"'
    with pytest.raises(ValueError, match="no such"):
        conversation.rewrite({}, {0})
    assert read(b'["a","b"]', "completions") is None
    assert read(b"[1,2]", "completions") is None
    assert read(b'"a"', "completions", echo=True) is None
    assert read(b'"a"', "completions", suffix="tail") is None
    assert present(read(b'"a"', "completions", echo=False)).spans


def test_a_request_without_messages_has_nothing_to_read() -> None:
    assert Conversation.read(Request("chat", b"", {})) is None
    assert Conversation.read(Request("embeddings", b"", {"prompt": msgspec.Raw(b'"x"')})) is None


def test_a_result_knows_its_tool() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "read_file", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "read it"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
        {"role": "tool", "tool_call_id": "c2", "content": "y"},
        {"role": "function", "name": "search", "content": "z"},
    ]
    found = Conversation.read(Request.build("chat", {"model": "m", "messages": messages}))
    assert found is not None
    assert [(span.kind, span.tool) for span in found.spans if span.kind == "result"] == [
        ("result", "read_file"),
        ("result", ""),
        ("result", "search"),
    ]
