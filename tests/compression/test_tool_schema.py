"""What schemas say for nothing goes; what they say stays, spelt as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline
from trimtab.compression.tool_schema import tidy
from trimtab.compression.tool_sharing import share

LEAF = st.sampled_from([None, True, 1.5, "", "words ", [], ["a"], {}, {"required": [], "description": "value "}])
KEYS = ["type", "required", "description", "properties", "items", "anyOf", "default", "enum", "const", "$defs", "x"]
SCHEMAS = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
)


def without(value: Any, place: str = "schema") -> Any:
    """The same by another way, over what Python reads."""
    if place == "schemas":
        return [without(one) for one in value] if isinstance(value, list) else value
    if not isinstance(value, dict) or place == "value":
        return value
    if place == "named":
        return {name: without(one) for name, one in value.items()}
    kinds = {"properties": "named", "$defs": "named", "items": "schema", "anyOf": "schemas"}
    made = {key: without(one, kinds.get(key, "value")) for key, one in value.items() if key != "required" or one != []}
    if isinstance(made.get("description"), str):
        made["description"] = made["description"].rstrip()
    return made


@given(SCHEMAS)
def test_only_what_says_nothing_goes(schema: Any) -> None:
    raw = json.dumps(schema, separators=(",", ":")).encode()
    made = tidy(raw)
    assert json.loads(made) == without(schema)
    assert tidy(made) == made
    assert made is raw or len(made) < len(raw)


@given(SCHEMAS)
def test_whitespace_alone_is_no_reason_to_write_it_anew(schema: Any) -> None:
    raw = json.dumps(without(schema), indent=2).encode()
    assert tidy(raw) is raw


def test_values_and_properties_of_that_name_stay() -> None:
    raw = (
        b'{"type":"object","properties":{"required":{"type":"array","default":[]},"description":{"type":"string"},'
        b'"a":{"const":{"required":[],"description":"x "},"default":1.00,"maximum":1e400}},"required":["a"]}'
    )
    assert tidy(raw) is raw
    assert tidy(b'{"required":[],"maximum":1.00,"minimum":-0}') == b'{"maximum":1.00,"minimum":-0}'


def test_a_deep_schema_is_read_as_far_as_it_pays() -> None:
    deep = b'{"items":' * 200 + b'{"required":[]}' + b"}" * 200
    assert tidy(deep) is deep


@pytest.mark.parametrize("strict", [True, False])
def test_a_strict_tool_says_that_nothing_is_required(strict: bool) -> None:
    schema = {"type": "object", "properties": {}, "required": []}
    tools = [{"type": "function", "function": {"name": "now", "strict": strict, "parameters": schema}}]
    made = share(json.dumps(tools).encode(), Deadline(5))
    if strict:
        assert made is None
    else:
        assert made is not None
        assert made[1].tokens > 0
        assert json.loads(made[0])[0]["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize("schema", [b"3", b"[]", b'{"required": 3}', b'{"properties":{"a":"\xff "},"required":[]}'])
def test_what_is_no_schema_is_left_alone(schema: bytes) -> None:
    assert share(b'[{"name":"a","input_schema":' + schema + b"}]", Deadline(5)) is None


def test_a_number_too_long_to_compare_leaves_the_tools_alone() -> None:
    raw = b'[{"name":"a","parameters":{"maximum":' + b"9" * 5000 + b',"required":[]}}]'
    assert share(raw, Deadline(5)) is None
