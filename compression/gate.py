"""The arithmetic of a change: what a request costs as it is, and what it costs changed, the provider's cache included.

Pure. It knows numbers only: no text, no clock, no memory. Costs are in micro-dollars per million tokens times tokens
(so a picodollar is the unit); where a model's price is not known the weights are relative and the decision is the same
at any scale.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..protocol.exchange import Price

# Expected answer tokens grow when a prompt keeps little. A pre-registered trial (358 runs, arXiv 2603.23525) found
# total cost at -27.9 % where half was kept and at +1.8 % where a fifth was. If half costs no extra output, the prompt
# is 0.558 of the cost; the second figure then asks for 2.05 times the output at a fifth: 3.5 for each unit below half.
_HARMLESS = 0.5
_EXPANSION = 3.5

# A provider may count this much less than an estimate says (protocol/tokens.py); of indented JSON it counts a quarter
# less than is left of the estimate once the spaces went. Little is lost by changing a bit later, much by too early.
_UNSURE = 1.3

# Once fewer conversations than this go on for each that does not, what a first turn saves is worth more than the risk.
_SELDOM = 1 / 32

# What a beginning costs when read from a cache, against fresh input and output, where nobody said.
_NOMINAL = (1.0, 0.1, 4.0)


@dataclass(frozen=True, slots=True)
class CacheRules:
    """How a provider caches. `minimum`: the shortest beginning it keeps, in tokens; `step`: it keeps multiples of this;
    `write`: what a token costs when it is stored, times fresh input; `marked`: only up to a `cache_control` mark."""

    minimum: int = 1024
    step: int = 128
    write: float = 1.0
    marked: bool = False

    def cached(self, beginning: int, marked: int = 0) -> int:
        """How many tokens of a beginning that was sent before are read from the cache."""
        held = min(beginning, marked) if self.marked else beginning
        return 0 if held < self.minimum else held - held % self.step


OPENAI = CacheRules()
ANTHROPIC = CacheRules(step=1, write=1.25, marked=True)
PAGES = CacheRules(minimum=0, step=16)  # the bundled engine's, and those of the servers that people run themselves
NO_GAIN = "nothing to gain"
_CLAUDE = re.compile(r"claude|anthropic", re.IGNORECASE)
_OPENAI = re.compile(r"(?:^|/)(?:gpt-(?!oss)|chatgpt|codex|o\d|gemini|grok)", re.IGNORECASE)  # and those who do alike


def cache_rules(backend: str, model: str = "") -> CacheRules:
    """The rules of a backend kind, or of the provider that an upstream's model name gives away."""
    if backend != "engine" and _CLAUDE.search(model):
        return ANTHROPIC
    return OPENAI if backend != "engine" and _OPENAI.search(model) else PAGES


@dataclass(frozen=True, slots=True)
class Weights:
    """What a fresh, a cached and an output token cost; `money` says whether that is money or only relative."""

    input: float
    cached: float
    output: float
    money: bool

    @classmethod
    def of(cls, price: Price) -> Weights:
        """A price of nothing (a machine of one's own) still weighs: its prefill takes time."""
        if not price.known or not (price.input or price.output):
            return cls(*_NOMINAL, money=False)
        return cls(price.input, price.cached_input, price.output, money=True)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way of sending a request: its prompt's `tokens`, those of its beginning that was sent before, and the share
    of the request that lossy tiers left (1.0: only lossless ones were at work)."""

    tokens: int
    beginning: int = 0
    keep: float = 1.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What a decision is made under.

    `marked`   tokens up to the last `cache_control` mark
    `output`   expected tokens of the answer
    `again`    how often this prompt is expected again as the beginning of a longer one
    `grows`    whether that is certain, because the conversation is under way
    `seconds`  that the change still adds to the request's time; `usd_per_s` what one is worth (money prices only)
    `floor`    the share of the request that lossy tiers must leave
    """

    weights: Weights
    rules: CacheRules = OPENAI
    marked: int = 0
    output: int = 512
    again: float = 1.0
    grows: bool = True
    seconds: float = 0.0
    usd_per_s: float = 0.0
    floor: float = 0.5

    @classmethod
    def of(cls, price: Price, backend: str, model: str = "", **others: float) -> Terms:
        return cls(Weights.of(price), cache_rules(backend, model), **others)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Decision:
    """`chosen` is an index into the candidates; `reason` is for the receipt. `saved_microusd` is what the answer is
    expected to cost less (lost discount and longer answers taken off); None where there is no price."""

    chosen: int
    reason: str | None
    saved_microusd: int | None


def cost_now(candidate: Candidate, terms: Terms, *, original: bool = False) -> float:
    """What this request is expected to cost sent like this, waiting included."""
    waiting = 0.0 if original or not terms.weights.money else terms.seconds * terms.usd_per_s * 1e12
    return _prompt_cost(candidate, terms) + _output_cost(candidate, terms) + waiting


def cost_again(candidate: Candidate, terms: Terms, *, original: bool = False) -> float:
    """What reading the same prompt again costs, in the requests of this conversation that are expected to follow.

    A changed prompt that is too short for the provider to cache is read at the full price. The original is taken to be
    cached, however short: it would be sooner than the changed one, and that is what must not be lost.
    """
    rules, weights = terms.rules, terms.weights
    held = min(candidate.tokens, terms.marked) if rules.marked else candidate.tokens
    if held < rules.minimum and (rules.marked or not original):
        held = 0
    return terms.again * (held * weights.cached + (candidate.tokens - held) * weights.input)


def too_short(candidate: Candidate, original: Candidate, terms: Terms) -> bool:
    """Whether a lossless change has to wait until what it leaves is long enough for the provider to cache.

    It does in a conversation that is under way: made earlier, it could only be regretted. On a first turn it does where
    the original is long enough by itself, or the next turn would lose a discount that it has now; unless this tenant's
    hardly ever have a next turn. What was changed before stays so. Lossy changes take out so much that they may pay all
    the same.
    """
    rules, weights = terms.rules, terms.weights
    if candidate.keep < 1 or rules.marked or weights.cached >= weights.input:
        return False
    waits = terms.grows or (terms.again > _SELDOM and original.tokens >= rules.minimum)
    return waits and candidate.tokens < rules.minimum * _UNSURE


def rounding(terms: Terms) -> float:
    """What a change has to save now, before any of it is cached: the discount on one of the provider's steps.

    Only whole steps are cached. A prompt that is a few tokens shorter falls below a step that the original reaches on
    some later turn, and on which one nobody knows beforehand. One that is shorter by this much gains on such a turn
    too, as long as it is shorter by no more than a step; longer changes have gained more by then than one step takes.
    It weighs less where the conversation may end here, and nothing where a change was made before.
    """
    rules, weights = terms.rules, terms.weights
    return min(1.0, terms.again) * rules.step * max(0.0, weights.input - weights.cached)


def expansion(keep: float) -> float:
    """Expected answer tokens, times those of the unchanged request, when lossy tiers left `keep` of it."""
    return 1.0 + _EXPANSION * max(0.0, _HARMLESS - keep)


def decide(candidates: Sequence[Candidate], terms: Terms, instead: int = 0) -> Decision:
    """The cheapest candidate now and on the next turn that costs no more now than the first, which is the original,
    and less than it by what rounding may take later.

    Equal ones: the earlier. One below the floor, or too short, is not looked at. `instead`: tokens of the original's
    beginning that would be cached if nothing had ever been changed; it bears on what is said to be saved, not on the
    choice.
    """
    first = candidates[0]
    limit, least, chosen = cost_now(first, terms, original=True) - rounding(terms), _whole(first, terms), 0
    for i, candidate in enumerate(candidates[1:], 1):
        if candidate.keep < terms.floor or too_short(candidate, first, terms):
            continue
        now = cost_now(candidate, terms)
        if now <= limit and now + cost_again(candidate, terms) < least:
            least, chosen = now + cost_again(candidate, terms), i
    return Decision(chosen, None if chosen else _why_not(candidates, terms), _saved(candidates, chosen, terms, instead))


def worth_trying(most: int, seconds: float, terms: Terms) -> bool:
    """Whether a tier that takes `seconds` could pay at all if it took out `most` tokens."""
    return not terms.weights.money or seconds * terms.usd_per_s * 1e12 <= most * terms.weights.input


def _whole(original: Candidate, terms: Terms) -> float:
    return cost_now(original, terms, original=True) + cost_again(original, terms, original=True)


def _prompt_cost(candidate: Candidate, terms: Terms) -> float:
    weights = terms.weights
    cached = min(candidate.tokens, terms.rules.cached(candidate.beginning, terms.marked))
    written = max(0, min(candidate.tokens, terms.marked) - cached) if terms.rules.marked else 0
    premium = written * weights.input * (terms.rules.write - 1)
    return (candidate.tokens - cached) * weights.input + cached * weights.cached + premium


def _output_cost(candidate: Candidate, terms: Terms) -> float:
    return terms.output * terms.weights.output * expansion(candidate.keep)


def _saved(candidates: Sequence[Candidate], chosen: int, terms: Terms, instead: int) -> int | None:
    if not terms.weights.money:
        return None
    if not chosen and instead <= candidates[0].beginning:
        return 0
    unchanged = replace(candidates[0], beginning=max(candidates[0].beginning, instead))
    before, after = (_prompt_cost(c, terms) + _output_cost(c, terms) for c in (unchanged, candidates[chosen]))
    return round((before - after) / 1e6)


def _why_not(candidates: Sequence[Candidate], terms: Terms) -> str:
    first, others = candidates[0], candidates[1:]
    if all(c.tokens >= first.tokens for c in others):
        return NO_GAIN
    if all(c.keep < terms.floor for c in others):
        return f"less than the floor of {terms.floor:g} would be left"
    allowed = [c for c in others if c.keep >= terms.floor]
    if any(_prompt_cost(c, terms) < _prompt_cost(first, terms) for c in allowed):
        spared = cost_now(first, terms, original=True) - min(cost_now(c, terms) for c in allowed)
        if 0 <= spared < rounding(terms):
            return "it saves less than the provider's cache may lose by rounding"
        if spared >= 0:
            return "it would be too short for the provider's cache on the next turn"
        return "the wait or a longer answer would cost more than it saves"
    return "the provider's cache of what was sent before is worth more"
