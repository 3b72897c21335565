"""A configuration file, ours or LiteLLM's: read, checked, and every fault named with its line.

    check_file(path) -> Report      everything that is wrong, or that will have no effect
    load_config(path) -> Config     the same, or ConfigError

All faults are reported at once. None repeats a value, which may be a secret.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Literal

from .config import Config
from .config_notes import notes
from .config_tree import validate
from .litellm_config import is_litellm, translate
from .problem import ConfigError, Mark, Problem
from .yaml_document import Document, parse

__all__ = ["ConfigError", "Report", "check_file", "check_text", "load_config"]

LARGEST = 4 * 1024 * 1024  # bytes; a configuration is read by people


@dataclass(frozen=True, slots=True)
class Report:
    """What `trimtab check` says. `config` is there if and only if there are no errors."""

    source: str
    kind: Literal["trimtab", "litellm"]
    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    config: Config | None = None


def load_config(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Config:
    """The configuration in a file. Raises ConfigError with every fault in it, unreadable file included."""
    report = check_file(path, environ)
    if report.config is None:
        raise ConfigError(report.errors)
    return report.config


def check_file(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Report:
    """Check a file without serving it. `environ` is where env:NAME looks; the process's own if not given."""
    source = os.fspath(path)
    try:
        with FilePath(path).open("rb") as file:
            data = file.read(LARGEST + 1)
        text = data.decode("utf-8-sig")
    except OSError as e:
        return _unreadable(source, f"cannot be read: {e.strerror}")
    except UnicodeDecodeError as e:
        return _unreadable(source, f"is not UTF-8 text (byte {e.start})")
    if len(data) > LARGEST:
        return _unreadable(source, f"is larger than {LARGEST} bytes")
    return check_text(text, source, environ)


def check_text(text: str, source: str, environ: Mapping[str, str] | None = None) -> Report:
    """The same for a text that is not in a file; `source` is what the messages call it."""
    environ = os.environ if environ is None else environ
    document = parse(text, source)
    if document.data is None and document.problems:
        return Report(source, "trimtab", errors=tuple(document.problems))
    if document.data is not None and not isinstance(document.data, dict):
        return _unreadable(source, "must hold `key: value` lines at its top level")
    return _litellm(document, environ) if is_litellm(document.data) else _trimtab(document, environ)


def _unreadable(source: str, cause: str) -> Report:
    return Report(source, "trimtab", errors=(Problem(source, None, (), cause),))


def _trimtab(document: Document, environ: Mapping[str, str]) -> Report:
    found, config = validate(document.data, environ)
    errors = [*document.problems, *(document.problem(path, cause) for path, cause in found)]
    if errors or config is None:
        return Report(document.source, "trimtab", errors=_sorted(errors))
    warnings = [document.problem(path, cause) for path, cause in notes(config, document.data)]
    return Report(document.source, "trimtab", warnings=_sorted(warnings), config=config)


def _litellm(document: Document, environ: Mapping[str, str]) -> Report:
    translation = translate(document, environ)
    config, errors = translation.config()
    if config is None:
        return Report(document.source, "litellm", _sorted(errors), _sorted(translation.unsupported))
    placed = [document.problem(translation.origin(path), cause) for path, cause in notes(config, translation.data)]
    return Report(document.source, "litellm", warnings=_sorted([*translation.unsupported, *placed]), config=config)


def _sorted(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(dict.fromkeys(sorted(problems, key=lambda problem: (problem.mark or Mark(), problem.cause))))
