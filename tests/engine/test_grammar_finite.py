"""Schemas that no answer can come to the end of, and those that look like them."""

import pytest

from trimtab.backends.engine.grammar_finite import ends

NODE = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
TEXT = {"type": "string"}


def holding(value, **more):
    return {"type": "object", "properties": {"a": value}, "required": ["a"], **more}


@pytest.mark.parametrize(
    "schema",
    [
        NODE,
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"$defs": {"a": holding({"$ref": "#/$defs/b"}), "b": holding({"$ref": "#/$defs/a"})}, "$ref": "#/$defs/b"},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"type": "array", "prefixItems": [TEXT, {"$ref": "#"}], "minItems": 2},
        holding({"anyOf": [{"$ref": "#"}, {"allOf": [TEXT, {"$ref": "#"}]}]}),
        {"definitions": {"a/b": holding({"$ref": "#/definitions/a~1b"})}, **holding({"$ref": "#/definitions/a~1b"})},
        {"type": ["object", "array"], **{k: v for k, v in NODE.items() if k != "type"}, "minItems": 1, "items": NODE},
    ],
)
def test_what_holds_itself_never_ends(schema):
    assert not ends(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        TEXT,
        {**NODE, "required": []},
        {**NODE, "type": ["object", "null"]},
        holding({"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "array", "prefixItems": [TEXT, {"$ref": "#"}], "minItems": 1},
        {"$defs": {"a": holding({"$ref": "#/$defs/b"}), "b": TEXT}, "$ref": "#/$defs/a"},
        {"$ref": "#/$defs/none"},
        {"$ref": "http://elsewhere/schema.json"},
        {"enum": [1], "$ref": "#"},
        {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},  # may be a text as well
        {"type": "object", "properties": 5, "required": "a"},
        {"type": 3, "$defs": {"a": {"$ref": "#"}}},
        {"type": [["object"]], "$defs": {"a": {"$ref": "#"}}},
        {"type": "object", "required": [["a"], None], "properties": {}},
    ],
)
def test_what_may_leave_itself_out_ends(schema):
    assert ends(schema)


def test_a_long_chain_of_references_is_believed_at_once():
    count = 4000
    chain = {f"n{i}": holding({"$ref": f"#/$defs/n{i + 1}"}) for i in range(count)} | {f"n{count}": TEXT}
    assert ends({"$defs": chain, "$ref": "#/$defs/n0"})
