"""The `plan` stage: how long will the answer be?

It reads the prompt only where somebody wants to know: a reservation, a queue, the engine, a router, a policy. What it
says is on the exchange as `facts["lengths"]`, for each model that is asked about. It changes the request in one case, a
tenant's opt-in hint. It calls nobody and waits for nothing; caps and thinking budgets depend on who answers and are
asked for in gateway/output.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from ..protocol.embedded import asked, vector_of
from ..protocol.errors import InvalidRequest
from ..protocol.exchange import Exchange, Part
from ..protocol.messages import Request
from . import length_cues, shape
from .length import Forecast, Key, LengthPlanner
from .length_cues import Cues
from .policy import OutputPolicy

HINTED = "/hint"
_STRUCTURED = ("tools", "functions", "response_format")
_turns = msgspec.json.Decoder(list[msgspec.Raw])
_turn = msgspec.json.Decoder(dict[str, msgspec.Raw])
_role = msgspec.json.Decoder(dict[str, Any])


class Lengths:
    """How long the answer to one request will be, by model. The prompt is read when somebody first asks.

    `hinted` once a hint was appended: its answer teaches nothing about the ones without.
    """

    __slots__ = ("_basis", "_cues", "_planner", "_request", "_route", "_tenant", "_told", "hinted")

    def __init__(self, planner: LengthPlanner, exchange: Exchange) -> None:
        # Not the exchange itself: it holds this, and a circle is let go late.
        self._planner = planner
        self._request = exchange.original
        self._tenant = exchange.tenant.name
        self._route = exchange.receipt.model
        self._cues: Cues | None = None
        self._basis: tuple[float, ...] | None = None
        self._told: dict[str, Forecast] = {}
        self.hinted = False

    @property
    def read(self) -> bool:
        """Whether anybody has asked."""
        return self._basis is not None

    @property
    def cues(self) -> Cues:
        if self._cues is None:
            self._cues = length_cues.read(self.text)
        return self._cues

    @property
    def text(self) -> str:
        """What is to be answered; empty where that cannot be told."""
        try:
            return asked(self._request) or ""
        except InvalidRequest:
            return ""  # bytes that are no UTF-8, say, which some upstreams take

    def basis(self, exchange: Exchange | None = None) -> tuple[float, ...]:
        """The same for all models; with the vector that a stage has left on the exchange, if one has."""
        if self._basis is None:
            vector = None if exchange is None else vector_of(exchange, self.text)
            self._basis = self._planner.prior.basis(self.cues, vector)
        return self._basis

    def of(self, model: str, exchange: Exchange | None = None) -> Forecast:
        """Tokens of one answer of `model` (a target's name), the client's own limit kept."""
        known = self._told.get(model)
        if known is None:
            most = self._request.max_output
            known = self._told[model] = self._planner.told(self.key(model), self.basis(exchange), most)
        return known

    def key(self, model: str) -> Key:
        """A tool's call, a JSON object and a text have lengths of their own."""
        kind = "".join("/" + name for name in _STRUCTURED if name in self._request.fields)
        return Key(model, self._tenant, (self._route if self._route != model else "") + kind)

    def learn(self, model: str, tokens: int) -> None:
        key = self.key(model)
        self._planner.learn(key._replace(route=key.route + HINTED) if self.hinted else key, self.basis(), tokens)

    def seen(self, model: str) -> int:
        return self._planner.seen(self.key(model))


def lengths(planner: LengthPlanner, exchange: Exchange) -> Lengths:
    """The exchange's own; whoever comes first leaves it there."""
    known = exchange.facts.get("lengths")
    if isinstance(known, Lengths):
        return known
    made = exchange.facts["lengths"] = Lengths(planner, exchange)
    return made


class Plan:
    """`wanted`: whether a model wants to know how long its answer will be (it has a queue, or memory to set aside)."""

    name = "plan"
    waits = False

    def __init__(
        self, planner: LengthPlanner | None = None, wanted: Callable[[str], bool] = lambda model: False
    ) -> None:
        self._planner = LengthPlanner() if planner is None else planner  # an empty one is false
        self._wanted = wanted

    async def __call__(self, exchange: Exchange) -> None:
        policy = exchange.policy(OutputPolicy)
        if not policy.plan:
            exchange.note(self.name, "off", "the policy has it off")
            return
        if exchange.original.kind == "embeddings" or not exchange.targets:
            exchange.note(self.name, "off", "no text is generated")
            return
        known = lengths(self._planner, exchange)
        first = exchange.targets[0].name
        if not (known.read or exchange.pair is not None or policy.changes or self._wanted(first)):
            exchange.note(self.name, "left alone", "nobody asks how long")
            return
        told = known.of(first, exchange)
        parts = [] if policy.shape.style is None else self._shape(exchange, policy.shape, known, told)
        exchange.note(self.name, "planned", length=rounded(told), parts=parts)

    def _shape(self, exchange: Exchange, policy: shape.ShapePolicy, known: Lengths, told: Forecast) -> list[Part]:
        request = exchange.working
        if request.kind != "chat":
            return []
        structured = bool(named(known.cues, "code", "json")) or any(name in request.fields for name in _STRUCTURED)
        counts = known.cues.asked is not None or bool(named(known.cues, "brief", "detailed"))
        made = shape.plan(policy, told, conversation(exchange), counts, structured)
        if made.arm == "off":
            return []
        if made.hint is not None:
            hinted = with_hint(request, made)
            if hinted is None:
                return []
            exchange.working, known.hinted = hinted, True
        return [Part(made.arm, where="messages", why=policy.style)]


def rounded(told: Forecast) -> tuple[int, int, int, int]:
    """P50, P90, P99, P99.9 in whole tokens, as a receipt says them."""
    return round(told.p50), round(told.p90), round(told.p99), round(told.p999)


def named(cues: Cues, *names: str) -> float:
    return sum(cues.values[length_cues.NAMES.index(name)] for name in names)


def conversation(exchange: Exchange) -> str:
    """What a conversation's requests have in common: the tenant, who asks, and everything up to its first question."""
    digest = hashlib.blake2b(f"{exchange.tenant.name}\0{exchange.receipt.end_user or ''}\0".encode(), digest_size=16)
    for raw in _listed(exchange.original):
        digest.update(raw)
        if _role_of(raw) == "user":
            break
    return digest.hexdigest()


def with_hint(request: Request, made: shape.Shape) -> Request | None:
    """The request with the hint at the end of its last turn, every byte before it as it was; None where the last turn
    is no user's text."""
    turns = _listed(request)
    if not turns or _role_of(turns[-1]) != "user":
        return None
    whole, last = bytes(request.fields["messages"]), bytes(turns[-1])
    turn = dict(_turn.decode(last))
    content = msgspec.json.decode(turn["content"]) if "content" in turn else None
    said: object
    if isinstance(content, str):
        said = shape.appended(content, made)
    elif isinstance(content, list) and made.hint is not None:
        said = [*content, {"type": "text", "text": made.hint}]
    else:
        return None
    turn["content"] = msgspec.Raw(msgspec.json.encode(said))
    at = whole.rindex(last)
    return request.with_fields(messages=msgspec.Raw(whole[:at] + msgspec.json.encode(turn) + whole[at + len(last) :]))


def _listed(request: Request) -> list[msgspec.Raw]:
    try:
        return _turns.decode(request.fields["messages"])
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def _role_of(raw: msgspec.Raw) -> object:
    try:
        return _role.decode(raw).get("role")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
