"""What changed between two texts, or two lists of them, word by word: for people to read. Pure, and bounded in time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

Op = Literal["same", "gone", "new", "cut"]

_WORD = re.compile(r"\[\.\.\.\]|\w+|\n|[^\S\n]+|[^\w\s]")  # our mark for what was left out is one word
_MOST_WORDS = 6_000  # compared word by word; what is longer is compared by lines, and what is longer still not at all
_MOST_LINES = 6_000
_CRUMB = 2  # characters
_MOST_ALIKE = 20_000_000  # pairs of equal words that a comparison may have to look at


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text that stayed, went or came; "cut" stands for some that is not shown."""

    op: Op
    text: str


def pieces(before: str, after: str) -> list[Piece]:
    """How `before` became `after`: the pieces that are not new make up the one, those that are not gone the other."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    if len(old) > _MOST_WORDS or len(new) > _MOST_WORDS:
        old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    head = _alike(old, new)
    tail = _alike(old[head:][::-1], new[head:][::-1])
    middle = _compared(old[head : len(old) - tail], new[head : len(new) - tail])
    return _joined(
        [Piece("same", "".join(old[:head])), *_without_crumbs(middle), Piece("same", "".join(old[len(old) - tail :]))]
    )


def _alike(old: Sequence[str], new: Sequence[str]) -> int:
    """How many at the beginning are the same."""
    return next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def _compared(old: list[str], new: list[str]) -> list[Piece]:
    whole = [Piece("gone", "".join(old)), Piece("new", "".join(new))]
    if max(len(old), len(new)) > max(_MOST_WORDS, _MOST_LINES) or _pairs(old, new) > _MOST_ALIKE:
        return whole
    found: list[Piece] = []
    for tag, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            found.append(Piece("same", "".join(old[i:j])))
        else:
            found += [Piece("gone", "".join(old[i:j])), Piece("new", "".join(new[k:m]))]
    return found


def _pairs(old: list[str], new: list[str]) -> int:
    """What a comparison costs at least: text of few different words is dear."""
    often: dict[str, int] = {}
    for word in new:
        often[word] = often.get(word, 0) + 1
    return sum(often.get(word, 0) for word in old)


def _without_crumbs(found: list[Piece]) -> list[Piece]:
    """The same with a mark or two that happened to stay between two changes counted to both sides of the change."""
    out: list[Piece] = []
    gone = new = ""
    for i, piece in enumerate(found):
        words = (gone + new).strip() and i + 1 < len(found) and found[i + 1].text.strip()
        if piece.op == "same" and not (words and len(piece.text) <= _CRUMB and piece.text.strip()):
            out += [Piece("gone", gone), Piece("new", new), piece]
            gone = new = ""
            continue
        gone += piece.text if piece.op != "new" else ""
        new += piece.text if piece.op != "gone" else ""
    return [*out, Piece("gone", gone), Piece("new", new)]


def only_space(found: Sequence[Piece]) -> int:
    """How many characters of space went, if nothing else did and nothing came; else 0."""
    changed = [piece for piece in found if piece.op != "same"]
    if any(piece.op == "new" or not piece.text.isspace() for piece in changed):
        return 0
    return sum(len(piece.text) for piece in changed)


def _joined(found: Sequence[Piece]) -> list[Piece]:
    out: list[Piece] = []
    for piece in found:
        if not piece.text:
            continue
        if out and out[-1].op == piece.op:
            out[-1] = Piece(piece.op, out[-1].text + piece.text)
        else:
            out.append(piece)
    return out


def folded(found: Sequence[Piece], around: int = 80, most: int = 600, places: int = 12) -> list[Piece]:
    """The same with the middle of long runs left out: `around` characters of what stayed are shown on each side, and
    `most` of what went or came; after `places` changes the rest is only counted."""
    out: list[Piece] = []
    seen = 0
    for i, piece in enumerate(found):
        if piece.op == "same" and seen >= places:
            more = sum(p.op == "same" for p in found[i:-1])
            out.append(Piece("cut", f" … {more} more places …"))
            return out
        seen += piece.op == "same"
        if piece.op == "same":
            head, tail = (0 if i == 0 else around), (0 if i == len(found) - 1 else around)
        else:
            head, tail = most * 2 // 3, most // 3
        hidden = len(piece.text) - head - tail
        if hidden <= 40:
            out.append(piece)
            continue
        out += [Piece(piece.op, piece.text[:head])] if head else []
        what = "unchanged " if piece.op == "same" else ""
        out.append(Piece("cut", f" … {hidden:,} {what}characters … "))
        out += [Piece(piece.op, piece.text[-tail:])] if tail else []
    return out


def paired(before: Sequence[bytes], after: Sequence[bytes]) -> list[tuple[int | None, int | None]]:
    """Which of `after` each of `before` became, in order. None on the right: it is gone; on the left: it is new."""
    pairs: list[tuple[int | None, int | None]] = []
    for tag, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal" or j - i == m - k:
            pairs += zip(range(i, j), range(k, m), strict=True)
            continue
        # Of several that became fewer, the oldest are gone: that is how turns and examples are left out.
        old: list[int | None] = list(range(i, j))
        new: list[int | None] = list(range(k, m))
        short = len(new) - len(old)
        pairs += zip([None] * short + old, [None] * -short + new, strict=True)
    return pairs
