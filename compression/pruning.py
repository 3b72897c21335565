"""The work of the `prune` stage on one request: what there is to prune, what becomes of it, how it would be sent.

Runs on the pool's threads; no waiting and no clock in here. What was decided about a message before is looked up, not
worked out again. numpy is imported with the first message that is pruned.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ..protocol.exchange import Part
from ..protocol.messages import Request
from ..protocol.tokens import estimate, estimate_bytes
from .deadline import Deadline, OutOfTime
from .gate import Terms, expansion
from .lossless import alone
from .memo import Outcome, Recent, Sizes
from .prefix import Option, extend
from .prunable import Key, Prunable, Says, candidates, keys, prunable
from .sending import Versions
from .spans import Conversation, Span

if TYPE_CHECKING:
    from .conformal import Calibration
    from .material import Material

_JSON_SPACE = re.compile(r"(?<!\s)\s++(?=[:,\]}])|(?<=[:,\[{])\s++")
_HARMLESS = 0.5  # the share of a request down to which the gate expects no longer answers


@dataclass(frozen=True, slots=True)
class Wish:
    """What decides beside the messages: whose request it is, the recall wanted, the question and the texts that the
    caller named, the prices and the floor; `lossless` whether what stays is rewritten without loss afterwards."""

    tenant: str
    recall: float
    terms: Terms
    named: str | None = None
    strings: tuple[str, ...] = ()
    lossless: bool = False

    @property
    def seed(self) -> bytes:
        """The tenant's name in it keeps apart what is remembered."""
        said = repr((self.tenant, self.recall, self.terms.floor, self.strings, self.lossless))
        return extend(b"prune", said.encode("utf-8", "surrogatepass"))


@dataclass(slots=True)
class Plan:
    """One request: what is known of each message, and what is still to do; `late` if there was no time to see.

    `texts` is what the jobs want vectors of: each one's question, then its units.
    """

    conversation: Conversation
    keys: list[Key]
    known: dict[int, Outcome]
    jobs: list[Prunable]
    texts: list[str] = field(default_factory=list)
    late: str | None = None

    @property
    def changes(self) -> bool:
        return any(outcome.changed is not None for outcome in self.known.values())

    @property
    def parts(self) -> list[Part]:
        return [part for _, outcome in sorted(self.known.items()) for part in outcome.parts]

    @property
    def sources(self) -> tuple[str, ...]:
        """The documents of all messages, each once."""
        return tuple(dict.fromkeys(name for _, outcome in sorted(self.known.items()) for name in outcome.sources))

    def decided(self, index: int, outcome: Outcome, outcomes: Recent[Outcome]) -> None:
        """Remember what becomes of a message, for this request and for those that go on from it."""
        self.known[index] = outcome
        for digest in {self.keys[index].asked, self.keys[index].history}:
            outcomes.put(digest, outcome, outcome.size)


def plan(request: Request, wish: Wish, outcomes: Recent[Outcome], deadline: Deadline, reading: Deadline) -> Plan | None:
    """What there is to prune in a request; None where it cannot be read safely.

    Past `deadline` it is a plan of what was decided before, and `late`. Raises OutOfTime past `reading`.
    """
    conversation = Conversation.read(request, reading)
    if conversation is None:
        return None
    made = Plan(conversation, keys(conversation, wish.seed, wish.named), {}, [])
    unknown: list[int] = []
    for index in candidates(conversation):
        known = outcomes.get(made.keys[index].asked)
        if known is None:
            unknown.append(index)
        else:
            made.known[index] = known
    try:
        looked = prunable(conversation, unknown, wish.named, deadline, _reader(wish, deadline))
        found = {one.message: one for one in looked}
    except OutOfTime as e:
        made.late = e.message
        return made
    for index in unknown:
        one = found.get(index)
        if one is not None and one.why is None:
            made.jobs.append(one)
        else:
            parts = (left(index, one.why),) if one and one.why else ()
            made.decided(index, Outcome(parts=parts, sources=sources(one.material if one else None)), outcomes)
    if made.jobs:
        from .evidence import embedded_text  # here, so that numpy is loaded on a thread

        made.texts = [text for job in made.jobs for text in (job.query, *map(embedded_text, job.units))]
    return made


def prune(
    made: Plan, wish: Wish, vectors: Any, calibration: Calibration | None, deadline: Deadline
) -> dict[int, Outcome]:
    """What becomes of each job's message. `vectors` are those of the plan's texts. Raises OutOfTime."""
    outcomes: dict[int, Outcome] = {}
    at = 0
    for job in made.jobs:
        after = at + 1 + len(job.units)
        outcomes[job.message] = _pruned(made.conversation, job, wish, vectors[at:after], calibration, deadline)
        at = after
    return outcomes


def versions(made: Plan, tools: bytes, sizes: Sizes, deadline: Deadline) -> tuple[Versions, float]:
    """The request as it came and as it could be, and the share of it that would be left, of what is not taken out
    without loss. Raises OutOfTime."""
    conversation = made.conversation
    tokens = sizes.of(conversation, deadline)
    changed: list[bytes | None] = []
    after: list[int] = []
    harmless = 0
    for message, whole in zip(conversation.messages, tokens, strict=True):
        outcome = Outcome() if message.frozen else made.known.get(message.index, Outcome())
        changed.append(outcome.changed or conversation.raw[message.start : message.end])
        after.append(max(1, whole - outcome.saved))
        harmless += outcome.harmless
    size = estimate_bytes(tools) if tools else 0
    both = Versions(conversation, tuple(changed), tuple(tokens), tuple(after), Option(tools, tools, size, size))
    return both, sum(after) / max(1, sum(tokens) - harmless)


def left(message: int, why: str) -> Part:
    return Part("left whole", f"messages[{message}]", why=why)


def _pruned(
    conversation: Conversation,
    job: Prunable,
    wish: Wish,
    vectors: Any,
    calibration: Calibration | None,
    deadline: Deadline,
) -> Outcome:
    from .conformal import shipped
    from .material import without
    from .pruner import Aim, select

    assert job.material is not None
    floor = _worthwhile_floor(conversation.messages[job.message].end // 4, wish.terms)
    aim = Aim(wish.recall, floor, (*wish.strings, *_respelt(wish)))
    chosen = select(job.material, job.query, vectors[0], vectors[1:], aim, calibration or shipped(), deadline)
    if chosen.why is not None:
        return Outcome(parts=(left(job.message, chosen.why),), sources=sources(job.material))
    said: dict[Span, str] = {}
    pruned = harmless = 0
    for span, passage in zip(job.spans, job.material.passages, strict=True):
        text = without(passage, job.units, chosen.kept)
        if text != passage.text:
            said[span] = text
            read = estimate(passage.text)
            pruned += read - estimate(text)
            harmless += estimate(span.text) - read
    where = f"messages[{job.message}]"
    parts: list[Part] = []
    for kind, count in sorted(chosen.counts.items()):
        # The tokens of all kinds together, on the first of them.
        parts.append(Part(_named(kind, count), where, 0 if parts else pruned, count))
    if harmless:
        parts.append(Part("what stays rewritten without loss", where, harmless))
    changed = conversation.message_bytes(job.message, said)
    return Outcome(changed, pruned + harmless, tuple(parts), harmless, sources(job.material))


def sources(material: Material | None) -> tuple[str, ...]:
    """A name for each document: the first 16 hex digits of the SHA-256 of its text, space around it aside."""
    texts = [p.text[block.start : block.end] for p in material.passages for block in p.blocks] if material else []
    return tuple(hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:16] for text in texts)


def _reader(wish: Wish, deadline: Deadline) -> Says:
    return cache(partial(alone, deadline=deadline)) if wish.lossless else attrgetter("text")


def _respelt(wish: Wish) -> Iterator[str]:
    """The texts to keep as JSON would have them without the space between its tokens."""
    for text in wish.strings if wish.lossless else ():
        short = _JSON_SPACE.sub("", text)
        if short != text:
            yield short


def _worthwhile_floor(tokens: int, terms: Terms) -> float:
    """How little of a request of so many tokens is worth keeping: below half of it, answers are expected to grow."""
    if terms.floor >= _HARMLESS:
        return terms.floor
    saved = (_HARMLESS - terms.floor) * tokens * terms.weights.input
    lost = (expansion(terms.floor) - 1) * terms.output * terms.weights.output
    return terms.floor if saved > lost else _HARMLESS


def _named(kind: str, count: int) -> str:
    name = {"item": "list item", "row": "table row", "code": "code block"}.get(kind, kind)
    return f"{name} left out" if count == 1 else f"{name}s left out"
