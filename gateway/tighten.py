"""A tenant's compression policy as one request wants it: never allowing more than the operator does.

Pure. A wish for more is refused and not clipped, so that nobody believes to have what they have not.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from ..compression.policy import CompressionPolicy
from ..protocol.errors import Forbidden, InvalidRequest
from .nearest import suggestion

# Which way is tighter. What a request may not say at all is in neither: dropping turns without the summary that an
# operator asked for would lose more, not less.
_MORE = frozenset({"recall", "keep", "above", "floor", "usd_per_s"})
_LESS = frozenset({"deadline_ms"})


def tightened(policy: CompressionPolicy, wished: Any, where: str = "policy") -> CompressionPolicy:
    """`policy` with what was `wished` in its place, in the shape of the file's section `compress`.

    Raises InvalidRequest for a wrong shape or value, Forbidden for one that would allow more; both name the place.
    """
    merged = _merged(policy, wished, where)
    try:
        return CompressionPolicy.model_validate(merged)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        place = ".".join([where, *map(str, first["loc"])])
        raise InvalidRequest(f"'{place}': {first['msg']}", param=place) from None


def _merged(policy: BaseModel, wished: Any, where: str) -> dict[str, Any]:
    if not isinstance(wished, dict):
        raise InvalidRequest(f'\'{where}\' must be an object, such as {{"context": {{"enabled": false}}}}', param=where)
    known = type(policy).model_fields
    made = {name: getattr(policy, name) for name in known}
    for name, value in wished.items():
        place = f"{where}.{name[:100]}"
        if name not in known:
            raise InvalidRequest(f"'{place}' is an unknown key{suggestion(name[:100], known)}", param=place)
        own = made[name]
        made[name] = _merged(own, value, place) if isinstance(own, BaseModel) else _tighter(name, own, value, place)
    return {name: value.model_dump() if isinstance(value, BaseModel) else value for name, value in made.items()}


def _tighter(name: str, own: Any, value: Any, place: str) -> Any:
    if type(value) is type(own) or (isinstance(own, float) and type(value) is int):
        value = float(value) if isinstance(own, float) else value
        if value == own or _allowed(name, own, value):
            return value
        raise Forbidden(f"'{place}' is {_said(own)} for this tenant, and a request may only tighten it", param=place)
    raise InvalidRequest(f"'{place}' must be {_KINDS.get(type(own), 'what the tenant has')}", param=place)


def _allowed(name: str, own: Any, value: Any) -> bool:
    if isinstance(own, bool):
        return own and name != "summarise"
    return (name in _MORE and value > own) or (name in _LESS and value < own)


_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
