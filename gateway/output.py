"""What a call asks of its target about its answer's length: a cap, how much to think, and the hint that it is given.

Decided anew for each target, since a fallback may not be able to do what the first one can. Where the tenant's policy
changes nothing and nobody asked for a forecast, nothing is read. The decisions are routing's (cap.py, reasoning.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..protocol.errors import InvalidRequest
from ..protocol.exchange import Exchange, Part, ReceiptLine
from ..protocol.messages import Request
from ..protocol.tokens import estimate_bytes
from ..routing import cap as caps
from ..routing import reasoning
from ..routing.cap import Cap
from ..routing.length import Forecast
from ..routing.plan import Lengths
from ..routing.policy import OutputPolicy
from ..routing.reasoning import Effort, Reasoning

if TYPE_CHECKING:
    from .catalogue import Served

FREE = Cap(None, ours=False)

# A client that says any of these has decided how much is thought.
_THOUGHT = ("reasoning_effort", "reasoning", "thinking", "thinking_budget", "enable_thinking", "chat_template_kwargs")
# What cannot be taken up where it was cut, or not so that the seam cannot be told: structure, several answers, figures
# for each token, ends that may lie across the seam, and samplers that count what was said.
_WHOLE = (
    "tools", "functions", "response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
    "structured_outputs", "grammar", "json_schema", "logprobs", "top_logprobs", "stop", "stop_token_ids", "min_tokens",
    "modalities", "audio", "prediction", "best_of", "continue_final_message", "add_generation_prompt",
)  # fmt: skip
_COUNTING = ("frequency_penalty", "presence_penalty", "repetition_penalty")
_NEUTRAL = (0, 1, 1.0, 0.0, None)
_EFFORTS: Mapping[str, Effort] = {
    "none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high",
}  # fmt: skip


class Asked(NamedTuple):
    """`changes`: fields of the request; `expected`: tokens of the middle answer, None where nobody wanted to know;
    `room`: tokens that the model has for an answer, None where nobody knows; `outlined`: written point by point."""

    changes: Mapping[str, object]
    cap: Cap
    expected: int | None
    room: int | None
    parts: tuple[Part, ...] = ()
    outlined: bool = False


NOTHING = Asked({}, FREE, None, None)


def asked(exchange: Exchange, served: Served, outlined: bool = False) -> Asked:
    """Never raises: what cannot be read is left alone."""
    lengths = exchange.facts.get("lengths")
    if not isinstance(lengths, Lengths) or not (lengths.read or exchange.policy(OutputPolicy).changes):
        return NOTHING
    try:
        return _asked(exchange, served, lengths, outlined)
    except InvalidRequest:
        return NOTHING


def _asked(exchange: Exchange, served: Served, lengths: Lengths, outlined: bool) -> Asked:
    policy, request = exchange.policy(OutputPolicy), exchange.working
    told = lengths.of(served.target.name, exchange)
    room = room_of(request, served)
    changes: dict[str, object] = {}
    parts: list[Part] = []
    if policy.reasoning:
        thought = thinking(exchange, served, lengths, told)
        if thought.ours:
            changes |= _thinking_fields(thought, request, served)
            parts.append(Part("thinking", why=thought.effort or f"{thought.budget} tokens"))
    cap = FREE
    # A model that thinks may spend the cap on thoughts, which nobody can take up.
    if (
        policy.cap
        and not outlined
        and served.continues is not None
        and served.thinking is None
        and continuable(request)
    ):
        cap = caps.propose(told, request.max_output, room, can_continue=True)
        if cap.ours:
            changes["max_tokens"] = cap.tokens
            parts.append(Part("cap", why=f"{cap.tokens} tokens"))
    return Asked(changes, cap, max(1, round(told.p50)), room, tuple(parts), outlined)


def room_of(request: Request, served: Served) -> int | None:
    """Tokens that are left for an answer: by the model's own limit, and by its window without the prompt."""
    target = served.target
    left = None if target.context is None else max(1, target.context - estimate_bytes(request.encode()))
    return min((one for one in (left, target.max_output) if one is not None), default=None)


def continuable(request: Request) -> bool:
    """Whether an answer that was cut can be taken up where it ended, with nobody the wiser."""
    if request.kind != "chat" or request.n > 1 or request.max_output is not None:
        return False
    fields = request.fields
    if any(name in fields and request.get(name) not in (None, False, []) for name in _WHOLE):
        return False
    if any(name in fields and request.get(name) not in _NEUTRAL for name in _COUNTING):
        return False
    # The same seed gives the same draws from the beginning: a second part would repeat them.
    return request.get("seed") is None or request.get("temperature") == 0


def thinking(exchange: Exchange, served: Served, lengths: Lengths, told: Forecast) -> Reasoning:
    """How much the target is to think about this, and what that sets aside."""
    request = exchange.working
    own = _own_thinking(request)
    room, most = room_of(request, served), request.max_output
    limits = [one for one in (room, most) if one is not None]
    # What the answer needs comes first: thinking has the rest.
    rest = max(0, min(limits) - round(told.p999 * caps.MARGIN)) if limits else None
    allowed = exchange.policy(OutputPolicy).reasoning and not any(request.fields.get(n) is not None for n in _THOUGHT)
    return reasoning.plan(served.thinking, reasoning.hardness(lengths.cues), allowed, own, rest)


def _own_thinking(request: Request) -> Effort | int | None:
    """The client's own effort or budget, as far as it can be read."""
    effort = request.get("reasoning_effort")
    if isinstance(effort, str) and effort in _EFFORTS:
        return _EFFORTS[effort]
    said = request.get("thinking")
    budget = said.get("budget_tokens") if isinstance(said, dict) else None
    return budget if isinstance(budget, int) and not isinstance(budget, bool) and budget > 0 else None


def _thinking_fields(thought: Reasoning, request: Request, served: Served) -> dict[str, object]:
    if thought.effort is not None:
        return {"reasoning_effort": thought.effort}
    fields: dict[str, object] = {"thinking": {"type": "enabled", "budget_tokens": thought.budget}}
    if request.max_output is None and served.target.max_output is not None:
        fields["max_tokens"] = served.target.max_output  # providers want it above the budget
    return fields


def reserve(exchange: Exchange, served: Served, lengths: Lengths, floor: int) -> int:
    """Tokens to set aside for one answer without a client's limit: the forecast's P99 and the thinking beside it.

    `floor` is what is set aside at least until a route's own answers speak: money fails closed.
    """
    told = lengths.of(served.target.name, exchange)
    most = served.target.max_output
    visible = caps.reserve(told, None, most)
    if told.seen < caps.TRUSTED:
        visible = max(visible, floor if most is None else min(floor, most))
    thought = thinking(exchange, served, lengths, told) if served.thinking is not None else None
    whole = visible if thought is None else reasoning.whole(visible, thought)
    return whole if most is None else min(whole, most)


def note(exchange: Exchange, parts: tuple[Part, ...]) -> None:
    """Write on the plan's line what was asked of a target, once for each."""
    line = plan_line(exchange.receipt.lines)
    if line is not None:
        line.parts = [*line.parts, *(part for part in parts if part not in line.parts)]


def continued(exchange: Exchange) -> None:
    """Count one more part on the plan's line."""
    line = plan_line(exchange.receipt.lines)
    if line is not None:
        before = next((part.count for part in line.parts if part.what == "continued"), 0)
        kept = [part for part in line.parts if part.what != "continued"]
        line.parts = [*kept, Part("continued", count=before + 1)]


def outlined(exchange: Exchange, points: int) -> None:
    """Write on the plan's line what became of an outline; 0 points: it was let go."""
    lengths = exchange.facts.get("lengths")
    if isinstance(lengths, Lengths):
        lengths.hinted = lengths.hinted or points > 0  # its length says nothing of other answers
    note(exchange, (Part("outlined", count=points) if points else Part("not outlined", why="its outline was no list"),))


def plan_line(lines: list[ReceiptLine]) -> ReceiptLine | None:
    return next((line for line in reversed(lines) if line.stage == "plan"), None)


def finished(reasons: tuple[str, ...]) -> bool:
    """Whether an answer ended by itself, so that its length is its own."""
    return bool(reasons) and all(reason in ("stop", "tool_calls", "function_call", "end_turn") for reason in reasons)
