"""One thing that is wrong in a configuration, and the error that carries them all."""

from __future__ import annotations

from dataclasses import dataclass

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file; both numbers start at 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """Where, on which path of the tree, and why. It never repeats a value, which may be a secret."""

    source: str
    mark: Mark | None
    path: Path
    cause: str

    def __str__(self) -> str:
        where = self.source if self.mark is None else f"{self.source}:{self.mark.line}:{self.mark.column}"
        return f"{where}: {dotted(self.path)}: {self.cause}" if self.path else f"{where}: {self.cause}"


class ConfigError(Exception):
    """A configuration that cannot be served. It is for the operator's eyes: its text holds paths, but no secret.

    Not of the tree in protocol/errors.py, because no request ever meets it.
    """

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def dotted(path: Path) -> str:
    """`tenants.acme.keys[0]`; a name that holds a point is quoted, so that the path stays readable."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (f'"{step}"' if "." in step else step)
    return text
