"""What form a request wants its answer in: `response_format`, `tools` and `tool_choice`, read and checked.

Pure; knows JSON Schemas only as values. `grammar.py` makes a grammar of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...protocol.errors import InvalidRequest
from ...protocol.messages import Request

_FIELDS = ("response_format", "tool_choice", "function_call")
_MOST_TEXT = 262_144  # characters of one schema as JSON
_MOST_NODES = 20_000  # objects, lists and values of one schema
_MOST_DEPTH = 64
_MOST_FUNCTIONS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Schema:
    """A JSON Schema as JSON text. `where` is the field it came from; `strict`: what it asks must all be understood."""

    text: str
    where: str
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer must be: a JSON value of `schema`, or calls of `functions`, by name; either, where both are there.

    `several` allows more than one call.
    """

    schema: Schema | None = None
    functions: tuple[tuple[str, Schema], ...] = ()
    several: bool = False


def read_form(request: Request) -> Form | None:
    """None where any text will do. Raises InvalidRequest naming the field, down to the place inside a schema."""
    if not any(name in request.fields for name in _FIELDS):
        return None
    schema = _response_format(request.get("response_format"))
    functions = dict(_functions(request))
    wanted = _wanted(request, functions)
    several = request.get("parallel_tool_calls") is not False
    if wanted is not None:
        return Form(None, tuple((name, functions[name]) for name in wanted), several and len(wanted) > 0)
    if schema is not None and functions and request.get("tool_choice") != "none":
        return Form(schema, tuple(functions.items()), several)
    return None if schema is None else Form(schema)


def _response_format(form: Any) -> Schema | None:
    kind = form.get("type") if isinstance(form, dict) else None
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        return Schema('{"type":"object"}', "response_format")
    if kind != "json_schema":
        raise InvalidRequest(
            f"'response_format' must be of type text, json_object or json_schema, not {str(kind)[:40]!r}",
            param="response_format.type",
        )
    inner, where = form.get("json_schema"), "response_format.json_schema"
    if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
        raise InvalidRequest(f"'{where}.schema' must be a JSON Schema object", param=f"{where}.schema")
    return _checked(inner["schema"], f"{where}.schema", inner.get("strict") is True)


def _functions(request: Request) -> Iterator[tuple[str, Schema]]:
    for field, unwrap in (("tools", True), ("functions", False)):
        listed = request.get(field)
        if listed is None:
            continue
        if not isinstance(listed, list) or len(listed) > _MOST_FUNCTIONS:
            raise InvalidRequest(f"'{field}' must be a list of at most {_MOST_FUNCTIONS} functions", param=field)
        for i, tool in enumerate(listed):
            where = f"{field}[{i}]"
            if unwrap and not (isinstance(tool, dict) and tool.get("type", "function") == "function"):
                raise InvalidRequest(f"'{where}' must be of type 'function'", param=where)
            yield _function(tool.get("function") if unwrap else tool, f"{where}.function" if unwrap else where)


def _function(function: Any, where: str) -> tuple[str, Schema]:
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"'{where}.name' must be 1 to 64 letters, digits, underscores, dots or dashes", param=f"{where}.name"
        )
    parameters = function.get("parameters")
    if parameters is None or parameters == {}:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"'{where}.parameters' must be a JSON Schema object", param=f"{where}.parameters")
    if not parameters.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"}:
        parameters = {"type": "object", **parameters}  # arguments are an object, whether or not that was said
    return name, _checked(parameters, f"{where}.parameters", function.get("strict") is True)


def _wanted(request: Request, functions: Mapping[str, Schema]) -> list[str] | None:
    """The names of which one must be called; None where none must."""
    field = "tool_choice" if request.get("tool_choice") is not None else "function_call"
    choice = request.get(field)
    if choice in (None, "none", "auto"):
        return None
    if choice in ("required", "any"):
        if not functions:
            raise InvalidRequest(f"'{field}' is '{choice}' but there are no 'tools'", param=field)
        return list(functions)
    return _named(choice, functions, field)


def _named(choice: Any, functions: Mapping[str, Schema], field: str) -> list[str] | None:
    kind = choice.get("type", "function") if isinstance(choice, dict) else None
    if kind == "allowed_tools":
        allowed = choice.get("allowed_tools")
        listed = allowed.get("tools") if isinstance(allowed, dict) else None
        if not isinstance(allowed, dict) or not isinstance(listed, list) or not listed:
            raise InvalidRequest(f"'{field}.allowed_tools.tools' must be a list of functions", param=field)
        if not all(isinstance(tool, dict) for tool in listed):
            raise InvalidRequest(f"'{field}.allowed_tools.tools' must be a list of functions", param=field)
        if allowed.get("mode", "auto") == "auto":
            return None
        return [name for tool in listed for name in _one(tool, functions, field)]
    if kind != "function":
        raise InvalidRequest(f"'{field}' must be none, auto, required or an object that names a function", param=field)
    return _one(choice, functions, field)


def _one(choice: Mapping[str, Any], functions: Mapping[str, Schema], field: str) -> list[str]:
    inner = choice.get("function", choice)
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str) or name not in functions:
        raise InvalidRequest(f"'{field}' names {str(name)[:64]!r}, which is none of the functions given", param=field)
    return [name]


def _checked(schema: dict[str, Any], where: str, strict: bool) -> Schema:
    """Its size and depth are bounded before anything recursive sees it."""
    nodes, waiting = 0, [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        nodes += 1
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        if depth > _MOST_DEPTH or nodes + len(inner) + len(waiting) > _MOST_NODES:
            limit = f"nested more than {_MOST_DEPTH} deep" if depth > _MOST_DEPTH else "too large"
            raise InvalidRequest(f"the schema in '{where}' is {limit}", param=where)
        waiting += [(item, depth + 1) for item in inner]
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    if len(text) > _MOST_TEXT:
        raise InvalidRequest(f"the schema in '{where}' is longer than {_MOST_TEXT} characters", param=where)
    return Schema(text, where, strict)
