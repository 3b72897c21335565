"""What a tool's JSON Schema says for nothing: `"required": []`, and space behind a description.

Without `required` nothing is required (JSON Schema, Validation, 6.5.3), so an empty list says what its absence does. A
schema in strict mode stays as it is: there the list has to stand. Only places that hold schemas are looked at, never
values (`default`, `enum`, `const`, `examples`), and what comes out is compared before it is used. It knows nothing of
tools beside their schemas.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

_SCHEMA = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_DEEPEST = 32  # levels that are looked into: each is written anew by the one around it
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


def tidy(schema: bytes) -> bytes:
    """The schema without them, all else spelt as it came; the very same bytes where there is nothing to take out.

    Raises msgspec.DecodeError, ValueError or RecursionError where it is no JSON that can be read.
    """
    made = _tidied(schema, 0)
    return made if len(made) < len(schema) and _same(json.loads(schema), json.loads(made)) else schema


def _tidied(raw: bytes, depth: int) -> bytes:
    if raw[:1] != b"{" or depth > _DEEPEST:
        return raw  # true, false, or no schema at all
    fields = _fields.decode(raw)
    kept = {key: bytes(value) for key, value in fields.items() if not _empty(key, bytes(value))}
    made = {key: _value(key, value, depth + 1) for key, value in kept.items()}
    if len(kept) == len(fields) and made == kept:
        return raw
    return _encode({key: msgspec.Raw(value) for key, value in made.items()})


def _value(key: str, raw: bytes, depth: int) -> bytes:
    if key == "description" and raw[:1] == b'"':
        text = _text.decode(raw)
        return raw if text == text.rstrip() else _encode(text.rstrip())
    if key in _NAMED and raw[:1] == b"{":
        named = {name: bytes(one) for name, one in _fields.decode(raw).items()}
        made = {name: _tidied(one, depth) for name, one in named.items()}
        return raw if made == named else _encode({name: msgspec.Raw(one) for name, one in made.items()})
    if key in _SCHEMAS and raw[:1] == b"[":
        listed = [bytes(one) for one in _list.decode(raw)]
        tidied = [_tidied(one, depth) for one in listed]
        return raw if tidied == listed else _encode([msgspec.Raw(one) for one in tidied])
    return _tidied(raw, depth) if key in _SCHEMA else raw


def _empty(key: str, raw: bytes) -> bool:
    return key == "required" and raw[:1] == b"[" and not _list.decode(raw)


def _same(old: Any, new: Any) -> bool:
    """Whether nothing else is missing or different, wherever it stands."""
    if isinstance(old, dict) and isinstance(new, dict):
        gone = old.keys() - new.keys()
        if new.keys() - old.keys() or gone - {"required"} or (gone and old["required"] != []):
            return False
        return all(_same_text(key, old[key], value) or _same(old[key], value) for key, value in new.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    return type(old) is type(new) and bool(old == new)


def _same_text(key: str, old: Any, new: Any) -> bool:
    return key == "description" and isinstance(old, str) and isinstance(new, str) and old.rstrip() == new
