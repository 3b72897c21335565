"""Whether a value fits a JSON schema, as far as the schema says it in the common keywords.

Keywords that are not known here are passed over, so a value that does not fit may be taken for one that does, never
the other way round. Patterns are not run: a schema is a client's, and a regular expression can take for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DEEPEST = 40
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def conforms(value: Any, schema: Any, depth: int = 0) -> bool:
    if schema is False:
        return False
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return True
    return (
        _typed(value, schema.get("type"))
        and _listed(value, schema)
        and _bounded(value, schema)
        and _combined(value, schema, depth + 1)
        and (not isinstance(value, dict) or _object(value, schema, depth + 1))
        and (not isinstance(value, list) or _array(value, schema, depth + 1))
    )


def _typed(value: Any, wanted: Any) -> bool:
    kinds = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(kinds, list) or not kinds:
        return True
    return any(kind not in _TYPES or _is(value, kind) for kind in kinds if isinstance(kind, str))


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _listed(value: Any, schema: Mapping[str, Any]) -> bool:
    allowed = schema.get("enum")
    if isinstance(allowed, list) and not any(_same(value, each) for each in allowed):
        return False
    return "const" not in schema or _same(value, schema["const"])


def _same(value: Any, other: Any) -> bool:
    # In Python True == 1, in JSON they differ.
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _bounded(value: Any, schema: Mapping[str, Any]) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _within(value, schema.get("minimum"), schema.get("maximum"))
    if isinstance(value, str):
        return _within(len(value), schema.get("minLength"), schema.get("maxLength"))
    if isinstance(value, list):
        return _within(len(value), schema.get("minItems"), schema.get("maxItems"))
    return True


def _within(size: float, least: Any, most: Any) -> bool:
    return not (isinstance(least, int | float) and size < least) and not (isinstance(most, int | float) and size > most)


def _combined(value: Any, schema: Mapping[str, Any], depth: int) -> bool:
    for all_of in _list(schema.get("allOf")):
        if not conforms(value, all_of, depth):
            return False
    ways = _list(schema.get("anyOf")) or _list(schema.get("oneOf"))
    return not ways or any(conforms(value, way, depth) for way in ways)


def _object(value: dict[str, Any], schema: Mapping[str, Any], depth: int) -> bool:
    if any(name not in value for name in _list(schema.get("required")) if isinstance(name, str)):
        return False
    known = schema.get("properties")
    known = known if isinstance(known, Mapping) else {}
    if any(name in value and not conforms(value[name], part, depth) for name, part in known.items()):
        return False
    others = schema.get("additionalProperties", True)
    # Names may be allowed by pattern too, which is not run here.
    if "patternProperties" in schema:
        return True
    return all(conforms(value[name], others, depth) for name in value if name not in known)


def _array(value: list[Any], schema: Mapping[str, Any], depth: int) -> bool:
    first = _list(schema.get("prefixItems"))
    if not all(conforms(item, part, depth) for item, part in zip(value, first, strict=False)):
        return False
    return all(conforms(item, schema.get("items", True), depth) for item in value[len(first) :])


def _list(held: Any) -> list[Any]:
    return held if isinstance(held, list) else []
