"""Whether any answer to a JSON Schema comes to an end: an object that must hold one like itself never does.

A grammar of such a schema compiles, and the model would write until its tokens are used up. Looks only at what must be
there (required properties, least items, references); whatever else is wrong with a schema is the compiler's to say.
Pure.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

_ROUNDS = 32  # each finds what ends one reference deeper; a schema that needs more is believed to end


def ends(schema: Any) -> bool:
    """Whether a value of this schema can be finite."""
    targets = {ref: _target(schema, ref) for ref in _references(schema)}
    known = {ref for ref, target in targets.items() if target is None}  # those are not followed
    for _ in range(_ROUNDS if targets else 0):
        more = {ref for ref, target in targets.items() if ref not in known and _finite(target, known)}
        if not more:
            return _finite(schema, known)
        known |= more
    return True


def _finite(schema: Any, known: set[str]) -> bool:
    """The same where it is known which references end."""
    if not isinstance(schema, dict) or "enum" in schema or "const" in schema:
        return True
    if isinstance(schema.get("$ref"), str) and schema["$ref"] not in known:
        return False
    if not all(_finite(part, known) for part in _list(schema.get("allOf"))):
        return False
    for choice in ("anyOf", "oneOf"):
        parts = _list(schema.get(choice))
        if parts and not any(_finite(part, known) for part in parts):
            return False
    return any(_finite_as(kind, schema, known) for kind in _list(schema.get("type")) or [schema.get("type")])


def _finite_as(kind: Any, schema: dict[str, Any], known: set[str]) -> bool:
    if kind == "object":
        return _finite_object(schema, known)
    return _finite_array(schema, known) if kind == "array" else True


def _finite_object(schema: dict[str, Any], known: set[str]) -> bool:
    properties = schema.get("properties")
    required = [name for name in _list(schema.get("required")) if isinstance(name, str)]
    return not isinstance(properties, dict) or all(_finite(properties.get(name), known) for name in required)


def _finite_array(schema: dict[str, Any], known: set[str]) -> bool:
    least = schema.get("minItems")
    if not isinstance(least, int) or least < 1:
        return True
    first = _list(schema.get("prefixItems"))
    items = [schema.get("items")] if least > len(first) else []
    return all(_finite(part, known) for part in [*first[:least], *items])


def _references(schema: Any) -> set[str]:
    found, waiting = set[str](), [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                found.add(value["$ref"])
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return found


def _target(root: Any, reference: str) -> Any:
    """What a reference inside the schema points to (RFC 6901); None where that is nothing, or elsewhere."""
    if not reference.startswith("#"):
        return None
    value = root
    for part in unquote(reference[1:]).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
