"""A YAML file as plain data that remembers where everything stood.

Read with PyYAML's safe constructor from composed nodes, because only nodes know their lines. A key written twice, which
YAML readers commonly take silently, is a problem here. Knows nothing of what the keys mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from .problem import Mark, Path, Problem

_MAP = "tag:yaml.org,2002:map"
_SEQ = "tag:yaml.org,2002:seq"
_STR = "tag:yaml.org,2002:str"
_DATE = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
# Aliases let a small file stand for a huge one; no honest configuration comes near this many values.
LARGEST = 100_000


@dataclass(slots=True)
class Document:
    """`data` is what the file says; `problems` is what is wrong with it as YAML, and then `data` may be partial."""

    source: str
    data: Any = None
    problems: list[Problem] = field(default_factory=list)
    _keys: dict[Path, Mark] = field(default_factory=dict)
    _values: dict[Path, Mark] = field(default_factory=dict)

    def mark(self, path: Path) -> Mark:
        """Where the key at `path` stands; for a path that is not in the file, the nearest section above it."""
        while path and path not in self._keys and path not in self._values:
            path = path[:-1]
        return self._keys.get(path) or self._values.get(path) or Mark()

    def holds(self, path: Path) -> bool:
        return path in self._values

    def problem(self, path: Path, cause: str) -> Problem:
        return Problem(self.source, self.mark(path), path, cause)


def parse(text: str, source: str) -> Document:
    """Read one YAML document. Never raises: a file that is no YAML has its one problem and no data."""
    document = Document(source)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            document.data = _Reader(document).value(node, ())
    except yaml.MarkedYAMLError as e:
        place = e.problem_mark or e.context_mark
        mark = _mark(place) if place is not None else Mark()
        cause = " ".join(part for part in (e.context, e.problem) if part)
        document.problems.append(Problem(source, mark, (), f"is not valid YAML: {cause}{_hint(e.problem)}"))
    except yaml.reader.ReaderError as e:
        mark = _at(text, e.position)
        document.problems.append(Problem(source, mark, (), "holds a control character that YAML does not allow"))
    except RecursionError:
        document.problems.append(Problem(source, Mark(), (), "is nested too deeply"))
    except _TooLarge as e:
        document.problems.append(Problem(source, e.mark, (), f"stands for more than {LARGEST} values"))
    return document


class _TooLarge(Exception):
    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark


class _Reader:
    """Walks the nodes of one document, once for each path that leads to them."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._constructor = SafeConstructor()
        self._open: set[int] = set()
        self._count = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        mark = _mark(node.start_mark)
        self._document._values[path] = mark
        self._count += 1
        if self._count > LARGEST:
            raise _TooLarge(mark)
        if id(node) in self._open:
            return self._wrong(mark, path, "contains itself, through an alias")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == _SEQ:
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            return self._scalar(node, path, mark)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node, inherited in self._pairs(node, path):
            key, mark = self._key(key_node, path), _mark(key_node.start_mark)
            inner = (*path, key)
            if key not in data:
                self._document._keys[inner] = mark
                data[key] = self.value(value_node, inner)
            elif not inherited:
                first = self._document._keys[inner].line
                self._wrong(mark, inner, f"is written twice; the first one stands in line {first}")
        return data

    def _pairs(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """The mapping's own pairs, then those that `<<` merges in, which its own override."""
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            else:
                yield key_node, value_node, False
        for source in merged:
            mark = _mark(source.start_mark)
            if not isinstance(source, yaml.MappingNode):
                self._wrong(mark, path, "`<<` merges sections only")
            elif id(source) in self._open:
                self._wrong(mark, path, "contains itself, through `<<`")
            else:
                self._open.add(id(source))
                yield from ((key, value, True) for key, value, _ in self._pairs(source, path))
                self._open.discard(id(source))

    def _key(self, node: yaml.Node, path: Path) -> str:
        if isinstance(node, yaml.ScalarNode):
            if node.tag != _STR:
                self._wrong(_mark(node.start_mark), (*path, node.value), "a key must be text: put it in quotes")
            return str(node.value)
        self._wrong(_mark(node.start_mark), path, "a key must be text, not a list or a section")
        return "?"

    def _scalar(self, node: yaml.Node, path: Path, mark: Mark) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.tag == _DATE:
            return node.value  # no configuration holds dates, but versions look like them (2024-10-21)
        try:
            return self._constructor.construct_object(node, deep=True)
        except yaml.constructor.ConstructorError:
            return self._wrong(mark, path, f"the tag {node.tag} is not allowed; plain YAML only")
        except (ValueError, OverflowError):
            return self._wrong(mark, path, "is not a value that YAML can read; put it in quotes if it is text")

    def _wrong(self, mark: Mark, path: Path, cause: str) -> None:
        self._document.problems.append(Problem(self._document.source, mark, path, cause))


def _mark(mark: yaml.Mark) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _at(text: str, position: int) -> Mark:
    before = text[:position]
    return Mark(before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


def _hint(problem: str | None) -> str:
    if problem and "\\t" in problem:
        return " (indent with spaces, not tabs)"
    if problem and "mapping values are not allowed" in problem:
        return " (put text that holds `: ` in quotes, and check the indentation)"
    return ""
