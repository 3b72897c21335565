"""What one message offers for pruning: its documents, cut into units, and what it says beside them.

Also how a text looks with some of its units left out. Which ones is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..protocol.tokens import estimate
from .abstain import Asked
from .block import Block
from .deadline import Deadline
from .documents import blocks, instruction
from .units import Unit, units

MARK = "[...]"
RECORD_MARK = '{"_omitted": %d}'  # the same for JSON, where a record has to stand
_PASSAGE = 150  # characters of a record's longest string from which on it is a text rather than a value
_RECORD_KEY = '"_omitted"'
_WHOLE = frozenset({"tag", "numbered", "section", "chunk"})  # documents that go with what announces them


def length(text: str) -> int:
    """In bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def size(text: str) -> int:
    """Tokens, by bytes: cheap enough to ask of everything."""
    return length(text) // 4 + 1


@dataclass(frozen=True, slots=True)
class Passage:
    """One text. `units[first:last]` of its material are cut from its `blocks`; the first block is document `base`."""

    text: str
    blocks: tuple[Block, ...]
    base: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Material:
    """The texts of one message with the units of all of them in one list."""

    passages: tuple[Passage, ...]
    units: tuple[Unit, ...]

    @property
    def kind(self) -> Asked:
        """What it is mostly: prose, records with a passage in each, or rows, short records and log lines."""
        values = [unit for unit in self.units if unit.kind in ("row", "record", "line")]
        if len(values) * 2 <= len(self.units):
            return "prose"
        return "passages" if sum(map(holds_passage, values)) * 2 > len(values) else "data"


def holds_passage(unit: Unit) -> bool:
    """Whether it is a record with a text in it, such as a search result, rather than one of values."""
    longest = max(unit.text.split('"'), key=len)
    return unit.kind == "record" and len(longest) >= _PASSAGE and longest.count(" ") * 10 >= len(longest)


def read(texts: Sequence[str], *, results: bool, deadline: Deadline | None = None) -> Material:
    """The documents in `texts`; a tool's result in which none is announced is one document. Raises OutOfTime."""
    passages: list[Passage] = []
    found: list[Unit] = []
    base = 0
    for text in texts:
        parts = blocks(text, deadline)
        if results and not parts and text.strip():
            parts = (Block(0, len(text), "context", "", 0, len(text)),)
        first = len(found)
        for number, block in enumerate(parts):
            found += _cut(text, block, base + number, len(found), deadline)
        passages.append(Passage(text, parts, base, first, len(found)))
        base += len(parts)
    return Material(tuple(passages), tuple(found))


def announcements(material: Material) -> Iterator[tuple[int, int]]:
    """Documents that go as a whole if no unit of theirs stays, and the tokens of what announces and closes them."""
    for passage in material.passages:
        for number, block in enumerate(passage.blocks):
            if block.kind in _WHOLE:
                around = passage.text[block.start : block.body_start] + passage.text[block.body_end : block.end]
                yield passage.base + number, estimate(around)


def pruned_before(text: str) -> bool:
    """Whether there is a mark of ours in it: such a text stays as it is."""
    return MARK in text or _RECORD_KEY in text


def beside(text: str, parts: Sequence[Block]) -> str:
    """What a text says outside its documents: where there are documents, this is the instruction."""
    said = (text[start:end].strip() for start, end in instruction(text, parts))
    return "\n".join(part for part in said if part)


def without(passage: Passage, found: Sequence[Unit], kept: Sequence[bool]) -> str:
    """The passage's text with the units that are not `kept` left out, and one mark in the place of each gap."""
    out, at = [], 0
    for start, end, records in _gaps(passage, found, kept):
        out += [passage.text[at:start], RECORD_MARK % records if records else MARK]
        at = end
    return "".join([*out, passage.text[at:]])


def _cut(text: str, block: Block, document: int, first: int, deadline: Deadline | None) -> list[Unit]:
    start, end = block.body_start, block.body_end
    if block.kind == "record":
        return [Unit(text[start:end], block.title, document, start, end, "record")]
    return units(text, start, end, document, block.title, first, deadline)


_Gap = tuple[int, int, int]  # from, to, and how many records, if it is records


def _gaps(passage: Passage, found: Sequence[Unit], kept: Sequence[bool]) -> list[_Gap]:
    """What to cut out, in order: neighbours with nothing between them are one gap."""
    gaps: list[_Gap] = []
    for start, end, records in _cuts(passage, found, kept):
        if gaps:
            last_start, last_end, last_records = gaps[-1]
            between = passage.text[last_end:start].strip()
            if between == "" and not records and not last_records:
                gaps[-1] = (last_start, end, 0)
                continue
            # A comma between array elements, or nothing between the lines of JSON Lines.
            if between in ("", ",") and records and last_records:
                gaps[-1] = (last_start, end, records + last_records)
                continue
        gaps.append((start, end, records))
    return gaps


def _cuts(passage: Passage, found: Sequence[Unit], kept: Sequence[bool]) -> Iterator[_Gap]:
    at = passage.first
    while at < passage.last:
        document = found[at].document
        after = at + 1
        while after < passage.last and found[after].document == document:
            after += 1
        block = passage.blocks[document - passage.base]
        if block.kind in _WHOLE and not any(kept[at:after]):
            yield block.start, block.end, 0
        else:
            for index in range(at, after):
                if not kept[index]:
                    unit = found[index]
                    yield unit.start, unit.end, int(unit.kind == "record")
        at = after
