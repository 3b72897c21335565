"""How much of each guess a step verifies: where the next row is worth more than it costs, nothing included.

The rule is goodput (SmartSpec, arXiv 2406.14066): of all guessed tokens of all answers in the step, take the likeliest
first, as many as make the most tokens a second, by the fitted cost of a step (`draft_cost.py`) and the corrected
chances (`draft_chance.py`). Speculation that does not clearly win is not begun, so a step is hardly ever slower than
one without. Pure: knows nothing of models, and is told the time a step took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .draft import NOTHING, Draft
from .draft_best import paths
from .draft_chance import Chances, Record
from .draft_cost import StepCost

_BEGIN = 1.03  # the gain in goodput at which a step that would draft nothing begins to
_STAY = 1.005  # and at which one whose answers drafted before goes on
_NO_CHANCE = 0.02  # a token less likely is not looked at
_LOOK = (
    32,
    512,
)  # steps without a drafted row after which one has some, to learn what they cost: at first, and at last
_LOOK_CHANCE = 0.25
_PLAIN = (4, 256)  # drafting steps between two without, which show what is to be beaten: at first, and in the end
_DOUBT = 2.0  # tokens that the ledger takes on trust
_LEDGER_FADE = 0.985
_FORGIVE = 0.998
_PRICE_FADE = 0.9
_LONGEST_REST = 256  # steps


@dataclass(frozen=True, slots=True)
class Want:
    """What could be verified of one answer: its record, and all that was guessed."""

    record: Record
    draft: Draft


class Lengths:
    """The controller of one engine. A step asks `choose`, then tells `timed` and, for each answer, `learn`.

    `most` is the longest draft that is ever worth proposing.
    """

    def __init__(self, most: int = 31) -> None:
        self.most = most
        self.cost = StepCost()
        self.chances = Chances()
        self._prices: dict[str, float] = {}  # seconds a guessed token, of drafters that cost anything
        self._ledger = _Ledger()
        self._plain_steps = 0
        self._look_after = _LOOK[0]
        self._plain_due: dict[int, tuple[int, int]] = {}  # by rows: drafting steps left until a plain one, and in all

    def choose(self, wants: Sequence[Want], rows: int, kv_tokens: int, room: int, others: int = 0) -> list[Draft]:
        """What to verify of each want, in their order.

        `rows` are those the step computes without any draft, one or more of each want among them; `kv_tokens` the keys
        and values that it reads, in tokens; `room` is how many rows more there may be; `others` how many answers get a
        token in the step though nothing is guessed for them.
        """
        nodes: list[tuple[float, int, int]] = []
        for w, want in enumerate(wants):
            record = want.record
            record.due = True
            record.last, record.chances = want.draft, self.chances.of(record, want.draft)
            nodes += [(p, w, i) for i, p in enumerate(paths(want.draft, record.chances)) if p >= _NO_CHANCE]
        # Parents first among equals, so that any beginning of the list is made of whole trees.
        nodes.sort(key=lambda node: (-node[0], node[1], node[2]))
        taken = self._best(nodes[: max(0, room)], wants, others, rows, kv_tokens) if nodes else 0
        if taken and self._shall_be_plain(rows):
            taken = 0
        self._ledger.begin(len(wants), sum(chance for chance, _, _ in nodes[:taken]))
        kept: list[list[int]] = [[] for _ in wants]
        for _, w, i in nodes[:taken]:
            kept[w].append(i)
        for want, some in zip(wants, kept, strict=True):
            want.record.drafted = bool(some)
        self._plain_steps = 0 if taken else self._plain_steps + 1
        return [want.draft.only(some) if some else NOTHING for want, some in zip(wants, kept, strict=True)]

    def learn(self, record: Record, emitted: Sequence[int]) -> int:
        """The answer's tokens of this step, the target's own; gives how many of them had been guessed."""
        if record.due:
            self._ledger.add(len(emitted))
            record.due = False
        return self.chances.learn(record, emitted)

    def timed(self, rows: int, kv_tokens: int, seconds: float) -> None:
        """The step took so long, verification included; the rows are all of it, drafts and prompts too."""
        self.cost.learn(rows, kv_tokens, seconds)

    def timed_draft(self, source: str, tokens: int, seconds: float) -> None:
        """A drafter that costs (a model) took so long for so many guesses."""
        if tokens > 0 and seconds >= 0:
            price = seconds / tokens
            self._prices[source] = _PRICE_FADE * self._prices.get(source, price) + (1 - _PRICE_FADE) * price

    def worth(
        self,
        record: Record,
        source: str,
        kv_tokens: int,
        share: float = 0.7,
        answers: int = 1,
        unknown: float = 0.0,
    ) -> int:
        """How many guesses to ask of a drafter that costs, before it has made any; none where they cost more than they
        save: this answer's keys, and its share of what else a step of so many `answers` takes. As long as nothing else
        is known they come true with the chance `share`, and take `unknown` seconds each.

        One that is not asked cannot prove itself, so it is asked for one again after a rest that doubles each time.
        """
        step, seconds = self.cost.seconds(answers, 0), self.cost.seconds
        alone = step / answers + seconds(1, kv_tokens) - seconds(1, 0)
        price = self._prices.get(source, unknown) + seconds(answers + 1, 0) - step
        likely = min(0.95, self.chances.of(record, Draft((0,), (), (share,), source))[0])
        length, path = 0, likely
        while length < self.most and path * alone > price:
            length, path = length + 1, path * likely
        if length:
            record.rest.pop(source, None)
            return length
        return self._after_rest(record, source)

    def _best(
        self, nodes: Sequence[tuple[float, int, int]], wants: Sequence[Want], others: int, rows: int, kv_tokens: int
    ) -> int:
        """How many of the likeliest nodes make the most tokens a second."""
        seconds = self.cost.curve(rows, rows + len(nodes), kv_tokens)
        before = any(want.record.drafted for want in wants)
        tokens = float(len(wants) + others)
        plain = tokens / seconds[0] * (_STAY if before else _BEGIN)
        best, taken = plain, 0
        honest = self._ledger.honesty
        for n, (chance, _, _) in enumerate(nodes, 1):
            tokens += chance * honest
            if tokens / seconds[n] > best:
                best, taken = tokens / seconds[n], n
        if not taken and self._plain_steps >= self._look_after and nodes[0][0] >= _LOOK_CHANCE:
            self._look_after = min(2 * self._look_after, _LOOK[1])
            # No more than double the rows: then it costs no more than a step.
            return sum(chance >= _LOOK_CHANCE for chance, _, _ in nodes[:rows])
        return taken

    def _shall_be_plain(self, rows: int) -> bool:
        """Now and then a step drafts nothing though it would: what is never measured is never known."""
        bucket = rows.bit_length()
        left, whole = self._plain_due.get(bucket, (0, _PLAIN[0]))
        if left > 0:
            self._plain_due[bucket] = (left - 1, whole)
            return False
        self._plain_due[bucket] = (whole, min(2 * whole, _PLAIN[1]))
        return True

    def _after_rest(self, record: Record, source: str) -> int:
        left, had = record.rest.get(source, (4, 4))
        if left > 0:
            record.rest[source] = (left - 1, had)
            return 0
        record.rest[source] = (min(2 * had, _LONGEST_REST), min(2 * had, _LONGEST_REST))
        return 1


class _Ledger:
    """What drafting promised and what it gave, in tokens: the likeliest of many guesses are the overrated ones."""

    def __init__(self) -> None:
        self._promised, self._given = 0.0, 0.0
        self._wants, self._now, self._came = 0, 0.0, 0

    @property
    def honesty(self) -> float:
        """What a promised token is worth; forgotten little by little while nothing is drafted."""
        return min(1.2, (self._given + _DOUBT) / (self._promised + _DOUBT))

    def begin(self, wants: int, promised: float) -> None:
        """Enter the last step, and open the next."""
        fade = _LEDGER_FADE if self._now else _FORGIVE
        self._promised, self._given = self._promised * fade, self._given * fade
        if self._now:
            self._promised += self._now
            self._given += max(0, self._came - self._wants)
        self._wants, self._now, self._came = wants, promised, 0

    def add(self, emitted: int) -> None:
        self._came += emitted
