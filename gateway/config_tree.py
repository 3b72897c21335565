"""Plain data in, the configuration out, or everything that is wrong with it in plain sentences.

The shape is read off the types: which keys a section may hold, and what pydantic means by its paths. Knows no files.
"""

from __future__ import annotations

import copy
import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import UnionType
from typing import Any, Literal, Union

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .config import Config
from .config_checks import CROSS
from .model_config import BACKENDS
from .nearest import suggestion
from .problem import Path

_PLAIN = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text; put it in quotes if it looks like something else",
    "tuple_type": "must be a list",
    "dict_type": "must be a section of `key: value` lines",
    "mapping_type": "must be a section of `key: value` lines",
    "model_type": "must be a section of `key: value` lines",
    "model_attributes_type": "must be a section of `key: value` lines",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must not be empty; leave it out instead",
    "string_too_long": "is longer than {max_length} characters",
    "missing": "is missing",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One error: its path in the file, its cause, and whether it lies across sections or in a key's own name."""

    path: Path
    cause: str
    crossing: bool = False
    name: bool = False


def validate(data: Any, environ: Mapping[str, str]) -> tuple[list[tuple[Path, str]], Config | None]:
    """Plain data to a configuration, or to everything that is wrong with it as (path, cause)."""
    context = {"environ": environ}
    try:
        return [], Config.model_validate(data, context=context)
    except ValidationError as e:
        found = _findings(e, data)
    if isinstance(data, dict) and not any(finding.crossing for finding in found):
        # pydantic looks across sections only where each is right. So mend a copy, for the sake of the second look.
        try:
            Config.model_validate(_mended(data, found), context=context)
        except ValidationError as e:
            found += [f for f in _findings(e, data) if f.crossing and not _touches(f.path, found)]
    return [(finding.path, finding.cause) for finding in found], None


def _mended(data: dict[str, Any], found: list[Finding]) -> dict[str, Any]:
    """A copy without what is broken. What others may refer to, and what is counted in a list, gets a stand-in."""
    tree = copy.deepcopy(data)
    for number, finding in enumerate(sorted(found, key=lambda f: len(f.path), reverse=True)):
        whole = _replaced_whole(finding.path)
        parent, step = _parent(tree, whole)
        if isinstance(parent, list) and isinstance(step, int) and step < len(parent):
            parent[step] = f"sha256:{number:064x}" if whole[2:3] == ("keys",) else f"?{number}"
        elif isinstance(parent, dict):
            parent.pop(step, None)
            if whole[:1] == ("models",) and len(whole) == 2 and not finding.name:
                parent[step] = {"backend": "fake"}
    return tree


def _replaced_whole(path: Path) -> Path:
    if path[:1] == ("models",):
        return path[:2]
    return path[:4] if path[:1] == ("tenants",) and path[2:3] == ("keys",) else path


def _parent(tree: Any, path: Path) -> tuple[Any, str | int]:
    for step in path[:-1]:
        if isinstance(tree, list):
            tree = tree[step] if isinstance(step, int) and step < len(tree) else None
        else:
            tree = tree.get(step) if isinstance(tree, dict) else None
    return tree, path[-1] if path else ""


def _touches(path: Path, found: list[Finding]) -> bool:
    return any(path[: len(other.path)] == other.path or other.path[: len(path)] == path for other in found)


def _findings(error: ValidationError, data: Any) -> list[Finding]:
    found = [_finding(detail) for detail in error.errors(include_url=False, include_input=False)]
    # A key may be written as its bare hash: what is wrong inside the section that stands for it is wrong there.
    return [replace(f, path=f.path[:-1]) if isinstance(_parent(data, f.path)[0], str) else f for f in found]


def _finding(detail: ErrorDetails) -> Finding:
    loc, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    path = _in_file(loc)
    if kind == "extra_forbidden":
        backend = loc[2] if _is_tagged(loc) else None
        return Finding(path, "unknown key" + suggestion(str(path[-1]), known_keys(path[:-1], backend)))
    if kind == "union_tag_not_found":
        return Finding(path, f"needs `backend`, one of {', '.join(BACKENDS)}")
    if kind == "union_tag_invalid":
        cause = "there is no such backend" + suggestion(str(context.get("tag")), BACKENDS)
        return Finding((*path, "backend"), cause)
    if kind in ("value_error", "assertion_error"):
        return Finding(path, str(context["error"]), name=loc[-1:] == ("[key]",))
    cause = _PLAIN[kind].format(**context) if kind in _PLAIN else detail["msg"]
    return Finding(path, cause, crossing=kind == CROSS, name=loc[-1:] == ("[key]",))


def _in_file(loc: Path) -> Path:
    """pydantic's path without what it adds: the tag of a model's backend, and the marker of a key's own error."""
    path = loc[:-1] if loc[-1:] == ("[key]",) else loc
    return (*path[:2], *path[3:]) if _is_tagged(path) else path


def _is_tagged(loc: Path) -> bool:
    return len(loc) > 2 and loc[0] == "models" and loc[2] in BACKENDS


def known_keys(path: Path, backend: str | int | None = None) -> list[str]:
    """The keys that the section at `path` may hold, for a model of that backend; empty where any may stand."""
    kinds: list[Any] = [Config]
    for step in path:
        kinds = [inner for kind in kinds for inner in _below(kind, step)]
        if len(kinds) > 1 and backend is not None:
            kinds = [kind for kind in kinds if backend in typing.get_args(kind.model_fields["backend"].annotation)]
    return sorted({name for kind in kinds if _is_section(kind) for name in kind.model_fields})


def _below(kind: Any, step: str | int) -> list[Any]:
    if _is_section(kind):
        return _sections(kind.model_fields[step].annotation) if step in kind.model_fields else []
    arguments = typing.get_args(kind)
    if isinstance(step, int):
        return _sections(arguments[0]) if arguments else []
    return _sections(arguments[1]) if len(arguments) == 2 else []


def _sections(annotation: Any) -> list[Any]:
    """What may stand here, with Annotated, Optional and unions taken apart."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _sections(typing.get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for part in typing.get_args(annotation) for kind in _sections(part)]
    keeps = _is_section(annotation) or origin in (tuple, Mapping)
    return [annotation] if keeps and origin is not Literal else []


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
