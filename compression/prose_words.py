"""Which words of a prose text may go, and which do: self-information under a budget. Pure, and vectorised.

Words go whole, with the space behind them; what ends a line or a sentence, or may be a name, a number or a negation
stays, so that punctuation and line breaks stand as they did. Scripts without spaces between words have none that go.
This module knows nothing of models: it is handed a log-probability for every token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_TOKEN = re.compile(r"\S+")
_WORD = re.compile(r"[^\W\d_\u0e00-\uffff]{1,30}(?:['’-][^\W\d_\u0e00-\uffff]{1,30}){0,3}[,;]?")
_INLINE_SPACE = re.compile(r"[ \t]+(?=\S)")
_SPREAD = 0.2  # how far a segment's share may lie from the policy's, as LLMLingua's budget controller lets it
_CONTRAST = 1.0  # nats that a nat of relevance to the question counts


class Scored(Protocol):
    """The tokens of a text: where each starts and ends in characters, and its log-probability in nats."""

    @property
    def starts(self) -> NDArray[np.int64]: ...

    @property
    def ends(self) -> NDArray[np.int64]: ...

    @property
    def logprobs(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Words:
    """The words of some segments of a text, in order. `ends` includes the space behind a word that may go; `segment`
    numbers the segment of each, `free` says which may go."""

    starts: Ints
    ends: Ints
    segment: Ints
    free: Flags


def words(text: str, segments: Sequence[tuple[int, int]], protected: Sequence[tuple[int, int]]) -> Words:
    """The words of `text` inside `segments` (in order, apart from each other); none that touches `protected` is
    free."""
    found = [(m, i) for i, (a, b) in enumerate(segments) for m in _TOKEN.finditer(text, a, b)]
    starts = np.array([m.start() for m, _ in found], dtype=np.int64)
    bare = np.array([m.end() for m, _ in found], dtype=np.int64)
    plain = np.array([_WORD.fullmatch(m[0]) is not None for m, _ in found], dtype=np.bool_)
    spaces = [_INLINE_SPACE.match(text, m.end(), segments[i][1]) for m, i in found]
    ends = np.array([end if space is None else space.end() for space, end in zip(spaces, bare, strict=True)])
    followed = np.array([space is not None for space in spaces], dtype=np.bool_)
    free = plain & followed & ~_touched(len(text), starts, bare, protected)
    return Words(starts, ends.astype(np.int64), np.array([i for _, i in found], dtype=np.int64), free)


def _touched(length: int, starts: Ints, ends: Ints, ranges: Sequence[tuple[int, int]]) -> Flags:
    """Which of the words share a character with one of the ranges."""
    change = np.zeros(length + 1, dtype=np.int64)
    if ranges:
        bounds = np.array(ranges, dtype=np.int64)
        np.add.at(change, bounds[:, 0], 1)
        np.add.at(change, bounds[:, 1], -1)
    before = np.concatenate([[0], np.cumsum(np.cumsum(change[:-1]) > 0)])
    return np.asarray(before[ends] > before[starts])


def by_word(found: Words, scored: Scored) -> tuple[Floats, Floats]:
    """The log-probability of each word, and its size in tokens: what its tokens sum to. Both of shape (words,)."""
    # A token begins with the space before its word, so its last character says whose it is.
    last = np.maximum(scored.ends - 1, scored.starts)
    owner = np.searchsorted(found.starts, last, side="right") - 1
    inside = (owner >= 0) & (last < found.ends[owner])
    count = len(found.starts)
    logs = np.bincount(owner[inside], weights=scored.logprobs[inside], minlength=count)
    return logs.astype(np.float64), np.bincount(owner[inside], minlength=count).astype(np.float64)


def going(found: Words, logs: Floats, sizes: Floats, keep: float, asked: Floats | None = None) -> Flags:
    """Which words go: the least surprising, until `keep` of all tokens is left, never less.

    `asked` are the log-probabilities given the question: a word that the question makes likelier is worth more
    (LongLLMLingua's contrast, arXiv 2310.06839). A segment that surprises more keeps a larger share.
    """
    worth = -logs if asked is None else -logs + _CONTRAST * (asked - logs)
    most = (1 - keep) * sizes.sum()
    gone = _lowest_by_segment(found, worth, sizes, _allowances(found, logs, sizes, keep))
    rest = found.free & ~gone
    order = np.flatnonzero(rest)[np.argsort(worth[rest], kind="stable")]
    left = most - sizes[gone].sum()
    gone[order[np.cumsum(sizes[order]) <= left]] = True
    return gone


def _allowances(found: Words, logs: Floats, sizes: Floats, keep: float) -> Floats:
    """How many tokens each segment may lose: more where it is less surprising a token than the text as a whole."""
    tokens = np.bincount(found.segment, weights=sizes)
    surprise = -np.bincount(found.segment, weights=logs) / np.maximum(tokens, 1)
    usual = -logs.sum() / max(sizes.sum(), 1)
    share = (1 - keep) * (1 - np.clip(surprise / max(usual, 1e-9) - 1, -_SPREAD, _SPREAD))
    allowed = share * tokens
    return np.asarray(allowed * min(1.0, (1 - keep) * tokens.sum() / max(float(allowed.sum()), 1e-9)))


def _lowest_by_segment(found: Words, worth: Floats, sizes: Floats, allowed: Floats) -> Flags:
    """Each segment's free words of the lowest worth, within its allowance."""
    free = np.flatnonzero(found.free)
    order = free[np.lexsort((worth[free], found.segment[free]))]
    segment = found.segment[order]
    total = np.cumsum(sizes[order])
    first = np.searchsorted(segment, segment, side="left")
    before = np.concatenate([[0.0], total])[first]
    gone = np.zeros(len(found.starts), dtype=np.bool_)
    gone[order[total - before <= allowed[segment]]] = True
    return gone


def without(text: str, start: int, end: int, found: Words, gone: Flags) -> str:
    """`text[start:end]` without the words that are gone."""
    out, at = [], start
    for a, b in zip(found.starts[gone].tolist(), found.ends[gone].tolist(), strict=True):
        out.append(text[at:a])
        at = b
    return "".join([*out, text[at:end]])
