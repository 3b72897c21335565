"""The lossless tier's own inspector: reads what a stage wrote, turns each edit back, and compares.

It trusts no stage: it rebuilds the text from the edits, parses JSON again, expands folds and references from what the
request says. What it is not told, it does not know: it sees one text at a time, before and after one stage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from ..protocol.errors import GatewayError
from . import duplicates, log_lines
from .deadline import Deadline
from .edit import Edit
from .json_text import valid

_STRING = re.compile(r'("[^"\\]*+(?:\\.[^"\\]*+)*+")')
_SPACE = " \t\n"

Said = Callable[[int], str]


class Refused(GatewayError):
    """What a stage wrote is not what it read, in fewer words. The message says what does not hold, and no text."""

    code = "verifier_refused"


def verify(before: str, after: str, edits: Sequence[Edit], said: Said, deadline: Deadline) -> None:
    """Raises Refused where a change cannot be undone, or anything else than the changes is different; OutOfTime.

    `said(message)` is all that a message says as the model will see it, as far as it has been read (counted from 0).
    """
    at = 0  # in `after`
    last = 0  # in `before`
    for edit in edits:
        deadline.check()
        kept = before[last : edit.start]
        if not last <= edit.start <= edit.end or not after.startswith(kept + edit.new, at):
            raise Refused("the text around a change is another")
        at += len(kept) + len(edit.new)
        last = edit.end
        if not _holds(edit, before[edit.start : edit.end], said):
            raise Refused(f"{edit.what}: what was left out cannot be had back")
    if after[at:] != before[last:]:
        raise Refused("the text behind the changes is another")


def _holds(edit: Edit, was: str, said: Said) -> bool:
    match edit.what:
        case "JSON whitespace":
            return same_json(was, edit.new)
        case "JSON escapes":
            return same_json(was, edit.new, escapes=True)
        case "trailing space":
            return _same_space(was, edit.new)
        case "repeated log lines":
            return log_lines.expand(edit.new, len(was)) == was
        case "duplicate blocks":
            found = duplicates.references(edit.new)
            return len(found) == 1 and duplicates.expand(found[0], said(found[0].message), len(was)) == was


def same_json(before: str, after: str, *, escapes: bool = False) -> bool:
    """Whether both are valid JSON with the same tokens in the same spelling; only space between them may differ.

    `escapes`: strings may be spelt otherwise if they say the same.
    """
    if not (valid(before) and valid(after)):
        return False
    was, now = _STRING.split(before), _STRING.split(after)
    # Every second part is a string. Between them, validity sees to it that space never joins two tokens into one.
    if "".join('"'.join(was[::2]).split()) != "".join('"'.join(now[::2]).split()):
        return False
    old, new = was[1::2], now[1::2]
    return old == new or (escapes and _say_the_same(old, new))


def _say_the_same(old: Sequence[str], new: Sequence[str]) -> bool:
    if len(old) != len(new):
        return False
    return all(a == b or msgspec.json.decode(a) == msgspec.json.decode(b) for a, b in zip(old, new, strict=True))


def _same_space(was: str, new: str) -> bool:
    """Nothing but space; the same line breaks, or two blank lines for more; the same indentation; a hard break kept."""
    if was.strip(_SPACE) or new.strip(_SPACE):
        return False
    breaks = was.count("\n")
    if new.count("\n") != min(breaks, 3) or was.rpartition("\n")[2] != new.rpartition("\n")[2]:
        return False
    ending = was.partition("\n")[0]
    return breaks > 1 or not (len(ending) > 1 and ending == " " * len(ending)) or new.startswith("  ")
