"""Labelled prompts from files, with their vectors: what `trimtab route fit` and `trimtab route eval` work on.

Reading and embedding only; what is fitted or judged stands in routing/.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...backends.embed import Embedder, EmbedOptions, open_embedder
from ...routing.features import features
from ...routing.labelled import LARGE, SMALL, Labelled, Unreadable, models, read

Array = NDArray[Any]
_TOGETHER = 64  # texts embedded between two moves of the bar


class Unusable(Exception):
    """What makes the work impossible, in words for the person at the terminal."""


@dataclass(frozen=True)
class Prompts:
    """Rows that both models of a pair have labels for. `form`: features; `small`, `large`: how good, 0 to 1."""

    rows: list[Labelled]
    pair: tuple[str, str]
    vectors: Array
    form: Array
    small: Array
    large: Array

    @property
    def topics(self) -> list[str] | None:
        named = [row.topic for row in self.rows]
        return [name for name in named if name] if all(named) and len(set(named)) > 1 else None

    @property
    def answers(self) -> list[str] | None:
        """The small model's, if every row has one."""
        found = [row.answers.get(self.pair[0]) for row in self.rows]
        return [text for text in found if text is not None] if all(text is not None for text in found) else None


def rows_of(paths: Sequence[Path]) -> list[Labelled]:
    """All rows of the files, gzipped or not, in their order. Raises Unusable."""
    found: list[Labelled] = []
    for path in paths:
        try:
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rt", encoding="utf-8") as lines:
                found += read(lines)
        except Unreadable as e:
            raise Unusable(f"{path}: {e}") from None
        except (OSError, EOFError, UnicodeDecodeError) as e:
            raise Unusable(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}") from None
    if not found:
        raise Unusable("the file has no rows; each line is a JSON object with 'prompt' and 'good'")
    return found


def pair_of(rows: Sequence[Labelled], small: str | None, large: str | None) -> tuple[str, str]:
    """The two models that labels are of: those named, else `small` and `large`, else the only two there are."""
    named = models(rows)
    if not named:
        raise Unusable('no row has labels; a line says {"prompt": "...", "good": {"small": 1, "large": 1}}')
    for name in (small, large):
        if name is not None and name not in named:
            raise Unusable(f"no row has a label of '{name}'; there are labels of {', '.join(named)}")
    if small and large:
        return small, large
    if not (small or large) and {SMALL, LARGE} <= set(named):
        return SMALL, LARGE
    raise Unusable(f"say which of {', '.join(named)} is the small model and which the large: --small NAME --large NAME")


def embedded(rows: Sequence[Labelled], pair: tuple[str, str], options: EmbedOptions) -> Prompts:
    """The rows that have both labels, embedded under a progress bar.

    Raises Unusable, MissingExtra, ModelUnavailable.
    """
    kept = [row for row in rows if pair[0] in row.good and pair[1] in row.good]
    if not kept:
        raise Unusable(f"no row has labels of both {pair[0]} and {pair[1]}")
    texts = [row.prompt for row in kept]
    return Prompts(
        kept,
        pair,
        asyncio.run(_vectors(texts, options)),
        np.array([features(text) for text in texts], dtype=np.float32),
        np.array([row.good[pair[0]] for row in kept]),
        np.array([row.good[pair[1]] for row in kept]),
    )


def bar() -> Progress:
    """A progress bar on a terminal's standard error; nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    from rich.console import Console

    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


async def _vectors(texts: list[str], options: EmbedOptions) -> Array:
    async with aclosing(_Closing(open_embedder(options))) as held:
        with bar() as progress:
            task = progress.add_task("embedding", total=len(texts))
            found = []
            for at in range(0, len(texts), _TOGETHER):
                found.append(await held.embedder.embed(texts[at : at + _TOGETHER]))
                progress.advance(task, min(_TOGETHER, len(texts) - at))
    return np.concatenate(found)


class _Closing:
    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    async def aclose(self) -> None:
        await self.embedder.close()
