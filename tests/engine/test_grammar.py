"""Answers kept to a form: real schemas, generated ones, hostile ones, drafts, and ends that come in time."""

import contextlib
import json
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Bpe
from tokenizers import models, pre_tokenizers

from trimtab.backends.engine.draft import Draft
from trimtab.backends.engine.grammar import Grammar
from trimtab.backends.engine.grammar_compile import Compiler, Vocabulary
from trimtab.backends.engine.grammar_request import Form, Schema, read_form
from trimtab.protocol.errors import InvalidRequest
from trimtab.protocol.messages import Request

WORDS = [
    "name", "age", "items", '{"', '":', '",', '"}', "true", "false", "null", "12", " world", "<tool_call>", "arg",
    "uments", "}\n", "]}", "  ", '\\"',
]  # fmt: skip
END = 256


def vocabulary():
    """Every byte, an end, a second end, and words of several bytes; as the longest match splits a text."""
    texts = [bytes([b]) for b in range(256)] + [b"", b""] + [w.encode() for w in WORDS]
    ids = {data: i for i, data in enumerate(texts) if data}

    def encode(text):
        data, out = text.encode(), []
        while data:
            n = next(n for n in range(min(len(data), 16), 0, -1) if data[:n] in ids)
            out.append(ids[data[:n]])
            data = data[n:]
        return out

    return Vocabulary(texts, lambda i: f"<|{i}|>", frozenset([END, END + 1]), encode)


WORD = vocabulary()
COMPILER = Compiler(WORD)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 18, "maximum": 120},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
        "next": {"anyOf": [{"$ref": "#/$defs/link"}, {"type": "null"}]},
    },
    "required": ["name", "age", "tags", "next"],
    "additionalProperties": False,
    "$defs": {"link": {"type": "object", "properties": {"to": {"const": "x"}}, "required": ["to"],
                       "additionalProperties": False}},
}  # fmt: skip


def form(schema, strict=True):
    return Form(Schema(json.dumps(schema), "response_format.json_schema.schema", strict))


def begin(schema, most=1000, strict=True):
    return Grammar(COMPILER.compile(form(schema, strict)), most)


def said(tokens):
    return b"".join(WORD.bytes[t] for t in tokens)


def write(grammar, noise, most):
    """An answer as a model of no mind writes it: any token that the mask allows, settled."""
    out = []
    while not grammar.complete and len(out) < most:
        allowed = grammar.mask().nonzero()[0]
        token = grammar.settle(int(noise.choice(allowed)))
        assert grammar.mask()[token]
        grammar.take(token)
        out.append(token)
    return out


@pytest.mark.parametrize("seed", range(12))
def test_any_answer_parses_fits_and_ends_in_time(seed):
    most = 60 + 25 * seed
    tokens = write(begin(PERSON, most), random.Random(seed), most)
    value = json.loads(said(tokens))
    assert set(value) <= set(PERSON["properties"])
    assert 18 <= value["age"] <= 120
    assert 1 <= len(value["tags"]) <= 3
    assert value["next"] in (None, {"to": "x"})
    assert len(value["name"]) <= 12


@pytest.mark.parametrize("most", [2, 3, 8, 20, 100])
def test_an_object_is_closed_before_the_tokens_run_out(most):
    for seed in range(8):
        tokens = write(begin({"type": "object"}, most), random.Random(seed), most)
        assert isinstance(json.loads(said(tokens).decode("utf-8", "replace")), dict)


def test_where_it_cannot_be_closed_in_time_it_goes_on_as_it_can():
    grammar = begin(PERSON, 5)
    assert len(write(grammar, random.Random(0), 5)) == 5
    assert not grammar.complete


schemas = st.recursive(
    st.sampled_from([
        {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}, {"type": "null"},
        {"enum": ["x", 1, None]}, {"const": {"k": [1]}}, {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"},
        {"type": "integer", "minimum": -5, "maximum": 300}, {"type": "string", "minLength": 2, "maxLength": 5},
        {"type": "string", "format": "date"}, {},
    ]),
    lambda inner: st.one_of(
        st.builds(
            lambda item, n: {"type": "array", "items": item, "minItems": n, "maxItems": 3}, inner, st.integers(0, 2)),
        st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner),
        st.builds(
            lambda properties, n: {"type": "object", "properties": properties, "required": sorted(properties)[:n],
                                   "additionalProperties": False},
            st.dictionaries(st.sampled_from(["a", "b b", 'c"', "é"]), inner, max_size=3), st.integers(0, 3)),
    ),
    max_leaves=6,
)  # fmt: skip


def fits(value, schema):
    """The part of JSON Schema that `schemas` draws from."""
    if "anyOf" in schema:
        return any(fits(value, s) for s in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None), "array": list,
             "object": dict}  # fmt: skip
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return False
    if kind == "array":
        return schema["minItems"] <= len(value) <= 3 and all(fits(v, schema["items"]) for v in value)
    if kind == "object":
        properties = schema["properties"]
        return set(schema["required"]) <= set(value) and all(
            k in properties and fits(v, properties[k]) for k, v in value.items()
        )
    if kind == "string":
        return schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9)
    return schema.get("minimum", value) <= value <= schema.get("maximum", value) if kind == "integer" else True


@settings(deadline=None, max_examples=60)
@given(schemas, st.integers(0, 10**6))
def test_generated_schemas_are_kept(schema, seed):
    tokens = write(begin(schema, 400), random.Random(seed), 400)
    text = said(tokens).decode("utf-8", "replace")
    assert fits(json.loads(text), schema), (schema, text)


@settings(deadline=None, max_examples=40)
@given(schemas, st.integers(0, 10**6), st.data())
def test_taking_back_is_as_if_never_taken(schema, seed, data):
    grammar, noise = begin(schema), random.Random(seed)

    def state():
        return grammar.complete, grammar.mask().tolist(), grammar.way_out()

    states, tokens = [state()], []
    for _ in range(12):
        if grammar.complete:
            break
        tokens.append(int(noise.choice(grammar.mask().nonzero()[0])))
        grammar.take(tokens[-1])
        states.append(state())
    back = data.draw(st.integers(0, len(tokens)))
    grammar.rollback(back)
    at = len(tokens) - back
    assert state() == states[at]
    for token, before in zip(tokens[at:], states[at + 1 :], strict=True):
        grammar.take(token)
        assert state() == before


def test_the_end_may_come_where_the_value_is_whole_and_only_there():
    grammar = begin({"type": "integer"})
    assert not grammar.accepts(END)
    grammar.take(ord("4"))
    assert grammar.accepts(END)
    assert grammar.accepts(END + 1)
    assert grammar.accepts(ord("2"))
    grammar.take(END)
    assert grammar.complete
    grammar.rollback(1)
    assert not grammar.complete
    grammar.take(ord("2"))
    assert not grammar.accepts(ord("x"))


def test_blanks_do_not_go_on_for_ever():
    grammar = begin({"type": "object"})
    grammar.take(ord("{"))
    for _ in range(32):
        assert grammar.accepts(ord(" "))
        grammar.take(ord(" "))
    assert not grammar.accepts(ord(" "))


def test_a_draft_loses_what_is_forbidden_before_it_is_verified():
    grammar = begin(PERSON)
    good = WORD.encode('{"name": "Ada", "age": 3')
    sure = tuple(0.5 for _ in good)
    assert grammar.filter(Draft(tuple(good), (), sure, "suffix"), 99).tokens[: len(good)] == tuple(good)
    bad = WORD.encode('{"name": 5')
    kept = grammar.filter(Draft(tuple(bad), (), tuple(0.5 for _ in bad), "suffix"), 99)
    assert said(kept.tokens) == b'{"name": "'[: len(said(kept.tokens))]
    assert kept.tokens[: len(bad) - 2] == tuple(bad[:-2])
    assert len(grammar.filter(Draft(tuple(good), (), sure, "suffix"), 3).tokens) == 3


def test_what_is_forced_is_guessed_for_nothing_and_says_so():
    grammar = begin({"const": "abcdef"})
    draft = grammar.filter(Draft(), 99)
    assert said(draft.tokens) == b'"abcdef"'[: len(said(draft.tokens))]
    assert len(draft.tokens) >= 4
    assert set(draft.confidence) == {1.0}
    assert {draft.source_of(i) for i in range(len(draft.tokens))} == {"grammar"}
    mixed = grammar.filter(Draft((ord('"'), ord("a"), ord("x")), (), (0.3, 0.3, 0.3), "suffix"), 5)
    assert mixed.sources == ("suffix", "suffix", "grammar", "grammar", "grammar")
    assert mixed.confidence == (0.3, 0.3, 1.0, 1.0, 1.0)
    before = grammar.mask().tolist()
    assert before == grammar.mask().tolist()


def test_a_tree_keeps_its_allowed_branches():
    grammar = begin({"enum": ["ab", "cd"]})
    tree = Draft(tuple(b'"acxbdb'), (-1, 0, 0, 0, 1, 2, 2), (0.5,) * 7, "trie")
    assert bytes(grammar.filter(tree, 99).tokens) == b'"acbd'
    assert grammar.filter(tree, 99).parents == (-1, 0, 0, 1, 2)


def test_drafts_stop_at_the_end():
    grammar = begin({"const": 1})
    assert grammar.filter(Draft((ord("1"), END, 5), (), (0.5,) * 3, "s"), 9).tokens[:1] == (ord("1"),)
    grammar.take(ord("1"))
    assert grammar.complete or grammar.accepts(END)
    if not grammar.complete:
        grammar.take(END)
    assert grammar.filter(Draft((5,), (), (0.5,), "s"), 9).tokens == ()


CALLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"city": {"$ref": "#/$defs/c"}}, "required": ["city"],
        "additionalProperties": False, "$defs": {"c": {"enum": ["Oslo", "Rome"]}}}}},
    {"type": "function", "function": {"name": "now"}},
]  # fmt: skip


def ask(**fields):
    return read_form(Request.build("chat", {"model": "m", "messages": [], **fields}))


@pytest.mark.parametrize("seed", range(4))
def test_a_forced_call_is_a_call(seed):
    one = ask(tools=CALLS, tool_choice={"type": "function", "function": {"name": "weather"}}, parallel_tool_calls=False)
    text = said(write(Grammar(COMPILER.compile(one), 300), random.Random(seed), 300)).decode()
    assert text.startswith("<tool_call>\n{")
    assert text.endswith("}\n</tool_call>")
    call = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    assert call["name"] == "weather"
    assert call["arguments"]["city"] in ("Oslo", "Rome")


def test_required_calls_may_be_any_and_several():
    grammar = Grammar(COMPILER.compile(ask(tools=CALLS, tool_choice="required")), 999)
    now = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    for token in WORD.encode(now + "\n" + now):
        assert grammar.accepts(token)
        grammar.take(token)
    assert grammar.accepts(END)


def test_a_schema_with_tools_at_hand_leaves_the_choice():
    both = ask(tools=CALLS, response_format={"type": "json_object"})
    grammar = Grammar(COMPILER.compile(both), 999)
    assert grammar.accepts(ord("{"))
    assert grammar.accepts(ord("<"))


def test_what_needs_no_grammar_has_none():
    assert ask() is None
    assert ask(response_format={"type": "text"}) is None
    assert ask(tools=CALLS) is None
    assert ask(tools=CALLS, tool_choice="auto") is None
    assert ask(tools=CALLS, tool_choice="none") is None
    named = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "name": "now"}]},
    }
    assert [name for name, _ in ask(tools=CALLS, tool_choice=named).functions] == ["now"]
    assert [name for name, _ in ask(functions=[CALLS[1]["function"]], function_call={"name": "now"}).functions] == [
        "now"
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": []}}},
         "response_format.json_schema.schema"),
        ({"tools": CALLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": CALLS, "tool_choice": {"type": "function", "function": {"name": "sun"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": {}, "tool_choice": "required"}, "tools"),
        ({"tools": [{"type": "magic"}], "tool_choice": "required"}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}], "tool_choice": "required"},
         "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": 5}}], "tool_choice": "required"},
         "tools[0].function.parameters"),
    ],
)  # fmt: skip
def test_what_is_no_form_is_named(fields, param):
    with pytest.raises(InvalidRequest) as raised:
        ask(**fields)
    assert raised.value.param == param


WHERE = "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("schema", "path", "says"),
    [
        ({"type": "object", "properties": {"a": {"items": {"type": "strin"}}}}, ".properties.a.items", "strin"),
        ({"properties": {"a": {"anyOf": [{"type": "string"}, {"not": {"type": "null"}}]}}}, ".properties.a.anyOf[1]",
         "not"),
        ({"type": "object", "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}}, "required": ["a"]},
         ".properties.a", ""),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, ".properties.a", "/$defs/none"),
        ({"properties": {"a": {"$ref": "https://example.com/s.json"}}}, ".properties.a", "example.com"),
        ({"$defs": {"b": {"type": "string", "pattern": "("}}, "$ref": "#/$defs/b"}, ".$defs.b", "unclosed"),
        ({"type": "string", "pattern": "(?=a)b"}, "", "look-around"),
        ({"type": "string", "format": "klingon"}, "", "klingon"),
        ({"enum": []}, "", ""),
        ({"$defs": {"x": {"$ref": "#/$defs/x"}}, "$ref": "#/$defs/x"}, "", ""),
    ],
)  # fmt: skip
def test_an_impossible_or_unsupported_schema_is_refused_at_its_place(schema, path, says):
    with pytest.raises(InvalidRequest) as raised:
        COMPILER.compile(form(schema))
    assert raised.value.param == WHERE + path
    assert says in raised.value.message
    assert "state" not in raised.value.message


def test_what_is_not_strict_may_ask_what_is_not_understood():
    odd = {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}
    with pytest.raises(InvalidRequest, match="not"):
        begin(odd)
    assert isinstance(json.loads(said(write(begin(odd, 40, strict=False), random.Random(0), 40))), dict)


def deep(n):
    schema = {"type": "string"}
    for _ in range(n):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema", [deep(5000), {"enum": ["x" * 300_000]}, {"enum": list(range(50_000))}], ids=["deep", "long", "many"]
)
def test_a_schema_beyond_its_bounds_is_refused_before_it_is_compiled(schema):
    field = {"type": "json_schema", "json_schema": {"name": "x", "schema": None}}
    request = Request.build("chat", {"model": "m", "response_format": field})
    field["json_schema"]["schema"] = schema
    request._cache["response_format"] = field
    with pytest.raises(InvalidRequest) as raised:
        read_form(request)
    assert raised.value.param == WHERE


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^(.*a.{0,200}){1,200}$"},
        {"type": "string", "pattern": "(a{1000}){1000}"},
        {"type": "string", "pattern": "(a|aa)+(x+x+)+y"},
        {"type": "string", "minLength": 10**7},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**6, "maxItems": 10**7},
        {"allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {"type": "string"}}} for j in range(4)]} for i in range(12)]},
        {"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}},
         "$ref": "#/$defs/n"},
        {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(1000)}},
    ],
)  # fmt: skip
def test_a_hostile_schema_is_refused_or_runs_in_bounded_steps(schema):
    with contextlib.suppress(InvalidRequest):
        assert len(write(begin(schema, 120), random.Random(0), 120)) <= 120


def test_compiled_grammars_are_kept_few_and_made_on_any_thread():
    compiler, made = Compiler(WORD), []
    threads = [threading.Thread(target=lambda: made.append(compiler.compile(form(PERSON)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert compiler.compile(form(PERSON)) is compiler.compile(form(PERSON))
    for i in range(40):
        compiler.compile(form({"const": i}))
    assert len(compiler._kept) <= 32
    # Answers of one grammar do not see one another.
    one, other = Grammar(made[0], 99), Grammar(made[0], 99)
    one.take(ord("{"))
    assert other.accepts(ord("{"))


def test_a_real_tokenizer_masks_whole_words_and_its_forced_tokens_are_its_own():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("n", "a"), ("na", "m"), ("nam", "e")]
    ids = {token: i for i, token in enumerate([*letters, "na", "nam", "name"])}
    bpe = Bpe(models.BPE(vocab=ids, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [*[bytes([_byte(c)]) for c in letters], b"na", b"nam", b"name", b""]
    words = Vocabulary(texts, lambda i: "<|end|>", frozenset([len(texts) - 1]), lambda t: bpe.encode(t).ids)
    grammar = Grammar(Compiler(words).compile(form({"const": "name"})), 99)
    grammar.take(ids['"'])
    assert [texts[i] for i in grammar.mask().nonzero()[0]] == [b"name"]
    assert grammar.filter(Draft(), 9).tokens[0] == ids["name"]


def _byte(letter):
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return ({chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)})[letter]


def test_a_way_out_comes_back_with_what_was_taken_back():
    """It depends on the tokens before it: found once, it is followed; looked for anew, it may be another."""
    grammar = begin({"type": "string", "format": "date"})
    noise, known = random.Random(5118), []
    for _ in range(12):
        known.append(grammar.way_out())
        grammar.take(int(noise.choice(grammar.mask().nonzero()[0])))
        if grammar.complete:
            break
    for way in reversed(known):
        grammar.rollback(1)
        assert grammar.way_out() == way
