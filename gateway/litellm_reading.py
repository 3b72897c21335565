"""Reading a LiteLLM file section by section, so that nothing in it is dropped without a word.

What a reader takes from a section is supported; whatever is left when it is finished is named, with its line. The
reader also remembers which place in the file each value of ours came from, for the errors that only show later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import Config
from .config_tree import validate
from .problem import Path, Problem
from .yaml_document import Document

_REFERENCE = "os.environ/"


class Translation:
    """A LiteLLM file on its way to a configuration: `data` is ours, `unsupported` is what has no place in it."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.document = document
        self.environ = dict(environ)
        self.data: dict[str, Any] = {}
        self.problems: list[Problem] = []
        self.unsupported: list[Problem] = []
        self._origins: dict[Path, Path] = {}

    def config(self) -> tuple[Config | None, list[Problem]]:
        """The configuration, or everything in the way of one, placed where the LiteLLM file says it."""
        found, config = validate(self.data, self.environ)
        placed = [self.document.problem(self.origin(path), cause) for path, cause in found]
        errors = [*self.document.problems, *self.problems, *placed]
        return (None if errors else config), errors

    def place(self, ours: Path, theirs: Path) -> None:
        self._origins[ours] = theirs

    def origin(self, ours: Path) -> Path:
        """Where in the LiteLLM file the value at our path came from."""
        for length in range(len(ours), 0, -1):
            if ours[:length] in self._origins:
                return self._origins[ours[:length]]
        return ()

    def wrong(self, path: Path, cause: str) -> None:
        self.problems.append(self.document.problem(path, cause))

    def leave(self, path: Path, cause: str = "is not supported") -> None:
        self.unsupported.append(self.document.problem(path, cause))

    def text(self, value: Any, path: Path) -> Any:
        """The value with `os.environ/NAME` looked up; None where the variable is missing, which is a problem."""
        if not (isinstance(value, str) and value.startswith(_REFERENCE)):
            return value
        name = value.removeprefix(_REFERENCE)
        if not self.environ.get(name):
            self.wrong(path, f"the environment variable {name} is not set")
        return self.environ.get(name) or None


class Reading:
    """One section of the file. `ours` is where its values go; a missing or empty section has nothing to take."""

    def __init__(self, translation: Translation, path: Path, data: Any, ours: Path = ()) -> None:
        self.translation = translation
        self.path = path
        self.ours = ours
        self._left: dict[str, Any] = dict(data) if isinstance(data, dict) else {}
        if data is not None and not isinstance(data, dict):
            translation.wrong(path, "must be a section of `key: value` lines")

    def section(self, key: str) -> Reading:
        return Reading(self.translation, (*self.path, key), self._left.pop(key, None), self.ours)

    def take(self, key: str, ours: Path | None = None) -> Any:
        """The value, with references to the environment looked up; `ours` is where in this section's place it goes."""
        value = self._left.pop(key, None)
        self._place(key, value, ours)
        return self.translation.text(value, (*self.path, key))

    def secret(self, key: str, ours: Path | None = None) -> Any:
        """The value as our files write a secret: the reference stays one, so that no error can show what it is."""
        value = self._left.pop(key, None)
        self._place(key, value, ours)
        return as_reference(value)

    def leave(self, key: str, cause: str) -> None:
        """Name `key` as unsupported, for a reason of its own, if it asks for anything."""
        if asks(self._left.pop(key, None)):
            self.translation.leave((*self.path, key), cause)

    def rest(self) -> dict[str, Any]:
        """Everything not taken yet, for a backend that understands it."""
        rest = {key: value for key, value in self._left.items() if value is not None}
        self._left.clear()
        return rest

    def finish(self) -> None:
        """Name what nobody took."""
        for key in list(self._left):
            self.leave(key, "is not supported")

    def _place(self, key: str, value: Any, ours: Path | None) -> None:
        if ours is not None and value is not None:
            self.translation.place((*self.ours, *ours), (*self.path, key))


def as_reference(value: Any) -> Any:
    """`os.environ/NAME`, anywhere inside the value, as `env:NAME`."""
    if isinstance(value, str) and value.startswith(_REFERENCE):
        return "env:" + value.removeprefix(_REFERENCE)
    if isinstance(value, dict):
        return {key: as_reference(inner) for key, inner in value.items()}
    return [as_reference(inner) for inner in value] if isinstance(value, list) else value


def asks(value: Any) -> bool:
    """Whether a setting asks for anything: one that is off, empty or left blank may be passed over in silence."""
    return value is not None and value is not False and value not in ("", [], {})
