"""`trimtab explain REQUEST.json`: what every stage would do to a request, and why, without sending it anywhere.

The stages are the gateway's own (only `recall` is told of, not run), on a gateway that is made from the configuration
and never opened: no ledger, no limits taken, no upstream called. Only the models that a stage reads with (an embedder,
a scorer) are started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...backends.base import Backend, Call, Stream
from ...backends.registry import Unusable, create, open_scorer
from ...cache.policy import CachePolicy
from ...cache.recall import Recall
from ...compression.policy import CompressionPolicy
from ...protocol.errors import InvalidRequest, NotSupported, TrimtabError
from ...protocol.exchange import Caller, Exchange, Tenant
from ...protocol.messages import Answer, Request
from ...routing.policy import RoutePolicy
from .. import anthropic, output, responses
from ..admit import allow
from ..config import Config, default_config
from ..config_file import ConfigError, load_config
from ..ledger import Ledger
from ..limits import Ask, impossible
from ..limits_local import LocalLimiter
from ..live import Gateway, Live
from ..model_config import ModelConfig
from ..prompt_size import prompt_tokens
from .explain_recall import NOTE, explain_recall
from .explain_route import NOTE as ROUTED
from .explain_route import rehearsing

Protocol = Literal["chat", "completions", "messages", "responses"]
PROTOCOLS: tuple[Protocol, ...] = ("chat", "completions", "messages", "responses")
_LARGEST = 64 << 20  # bytes of a request that is read here
_PATIENCE_MS = 60_000.0


class Refused(Exception):
    """What makes an explanation impossible, in words for the person at the terminal; `status` is the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Told:
    """What is known after the walk. Tokens are estimates; `notes` say what the dry run left out."""

    exchange: Exchange
    tokens_before: int
    tokens_after: int
    notes: tuple[str, ...]

    @property
    def saved_microusd(self) -> int | None:
        """What the stages reckoned; None where no price is known."""
        known = [line.saved_microusd for line in self.exchange.receipt.lines if line.saved_microusd is not None]
        return sum(known) if known else None


def run(args: argparse.Namespace) -> int:
    """0: explained; 1: the configuration or the request is wrong; 2: the command line is."""
    try:
        config = _config(args.config)
        tenant = _tenant(config, args.tenant)
        request = parse(_read(args.request), args.protocol)
        told = asyncio.run(explain(config, tenant, request))
    except (Refused, ConfigError, TrimtabError, Unusable) as e:
        print(visible(f"trimtab: {e}"), file=sys.stderr)
        return e.status if isinstance(e, Refused) else 1
    if args.json:
        said = json.dumps(as_json(told), ensure_ascii=False, indent=2)
        print(said.encode("utf-8", "backslashreplace").decode())  # which writes a lone surrogate as JSON does
    else:
        from .explain_text import show

        show(told, full=args.full)
    return 0


def _config(path: Path | None) -> Config:
    return default_config(os.environ) if path is None else load_config(path)


def _tenant(config: Config, name: str | None) -> Tenant:
    names = list(config.tenants)
    if name is None and len(names) == 1:
        name = names[0]
    if name is None:
        raise Refused(f"the file has several tenants; say which with --tenant: {', '.join(names)}", 2)
    if name not in config.tenants:
        raise Refused(f"there is no tenant '{name}'; there are: {', '.join(names)}", 2)
    return config.tenants[name].resolved(name)


def _read(path: str) -> bytes:
    try:
        if path == "-":
            body = sys.stdin.buffer.read(_LARGEST + 1)
        else:
            with open(path, "rb") as file:
                body = file.read(_LARGEST + 1)
    except OSError as e:
        raise Refused(f"{path} cannot be read: {e.strerror}") from e
    if len(body) > _LARGEST:
        raise Refused(f"{path} is larger than {_LARGEST >> 20} MB")
    return body


def parse(body: bytes, protocol: Protocol | None = None) -> Request:
    """The request as chat or completion, whatever protocol it is in. Raises InvalidRequest."""
    protocol = protocol or _guess(Request.parse("chat", body))
    if protocol == "messages":
        return anthropic.to_chat(body)
    if protocol == "responses":
        return responses.to_chat(body)
    return Request.parse("chat" if protocol == "chat" else "completions", body)


def _guess(asked: Request) -> Protocol:
    fields = asked.fields
    if "prompt" in fields and "messages" not in fields:
        return "completions"
    if "input" in fields and "messages" not in fields:
        return "responses"
    if "messages" not in fields:
        raise InvalidRequest("this is no request that we know: it has neither 'messages' nor 'prompt' nor 'input'")
    tools = asked.get("tools")
    named = isinstance(tools, list) and any(isinstance(tool, dict) and "input_schema" in tool for tool in tools)
    blocks = any(mark in bytes(fields["messages"]) for mark in (b'"tool_result"', b'"tool_use"'))
    return "messages" if "system" in fields or named or blocks else "chat"


async def explain(config: Config, tenant: Tenant, request: Request) -> Told:
    """Walk the stages. Raises what admission would, but for limits, which are reported."""
    gateway = Gateway(config, Ledger(config.ledger.path), LocalLimiter(), backend=_asleep)
    tenant, notes = _rehearsing(tenant)
    exchange = gateway.exchange(gateway.new_id(), request, _caller(config, tenant), [], time.monotonic())
    live = gateway.live
    exchange.targets = allow(exchange.caller, live.catalogue, exchange.original.model)
    exchange.pair = live.catalogue.pair(exchange.original.model)
    await asyncio.to_thread(gateway.planning.read)
    ask = live.admit.ask(exchange)
    _admission(exchange, ask)
    try:
        scored = tenant.policy(RoutePolicy).scores and exchange.pair is not None
        await _load(live, tenant.policy(CompressionPolicy), scored)
        explain_recall(exchange)
        await live.pipeline.optimise(exchange, [s for s in live.pipeline.stages if s.name != Recall.name])
        asked = output.asked(exchange, live.catalogue.served(exchange.targets[0]))
        output.note(exchange, asked.parts)
        exchange.working = exchange.working.with_fields(**asked.changes) if asked.changes else exchange.working
    finally:
        await gateway.close()
    model = exchange.targets[0].upstream_model
    before, after = prompt_tokens(exchange.original, model), prompt_tokens(exchange.working, model)
    return Told(exchange, before, after, notes)


def _caller(config: Config, tenant: Tenant) -> Caller:
    return Caller(tenant, "explain", config.allowed(config.tenants[tenant.name].models))


def _rehearsing(tenant: Tenant) -> tuple[Tenant, tuple[str, ...]]:
    """The tenant without what would cost money, and with time for what a running gateway has loaded and warm."""
    policy = tenant.policy(CompressionPolicy)
    notes = [
        "deadlines are not applied, as nothing is warm yet; a running gateway would leave out what takes too long",
        "no request was sent before this one, as far as the stages know: a provider's cache holds nothing of it",
    ]
    if tenant.policy(CachePolicy).on:
        notes.append(NOTE)
    turns = policy.turns
    if turns.enabled and turns.summarise:
        notes.append("turns that are left out would be summarised by a model; here they are only left out")
        turns = turns.model_copy(update={"summarise": False})
    patient = {"deadline_ms": _PATIENCE_MS}
    changes = {
        **patient,
        "turns": turns,
        "context": policy.context.model_copy(update=patient),
        "prose": policy.prose.model_copy(update=patient),
    }
    route = rehearsing(tenant)
    if route.scores:
        notes.append(ROUTED)
    policies = {**tenant.policies, CompressionPolicy: policy.model_copy(update=changes), RoutePolicy: route}
    return replace(tenant, policies=policies), tuple(notes)


async def _load(live: Live, policy: CompressionPolicy, scored: bool) -> None:
    """Start the models that these policies read with, and have each read a word. What fails, the stages say again."""
    embedder = live.pruning.embedder
    prunes = policy.context.enabled or policy.tools.enabled or policy.demonstrations.enabled
    if embedder is not None and (prunes or scored):
        await embedder.start()
        with contextlib.suppress(TrimtabError):
            await embedder.embed(["word"])
    scorer = live.catalogue.engine(policy.prose.scorer) if policy.prose.enabled else None
    if scorer is not None:
        await scorer.backend.start()
        with contextlib.suppress(TrimtabError, ImportError):
            await (await asyncio.to_thread(open_scorer, scorer.backend)).logprobs("word")


def _admission(exchange: Exchange, ask: Ask) -> None:
    limits = exchange.tenant.limits
    if not limits.any:
        exchange.note("admit", "would be admitted", "no limits")
        return
    never = impossible(limits, ask)
    if never is not None:
        exchange.note("admit", "would be refused", never.message, tokens_before=ask.tokens, cost_microusd=ask.microusd)
        return
    exchange.note(
        "admit", "would reserve", "if the limits leave room", tokens_before=ask.tokens, cost_microusd=ask.microusd
    )


def as_json(told: Told) -> dict[str, Any]:
    """Everything as plain values, for other programs."""
    import msgspec

    exchange = told.exchange
    saved = told.saved_microusd
    return {
        "object": "trimtab.explanation",
        "tenant": exchange.tenant.name,
        "kind": exchange.original.kind,
        "model": exchange.original.model,
        "targets": [target.name for target in exchange.targets],
        "tokens_before": told.tokens_before,
        "tokens_after": told.tokens_after,
        "saved_usd": None if saved is None else saved / 1e6,
        "lines": msgspec.to_builtins(exchange.receipt.lines),
        "notes": list(told.notes),
        "request": json.loads(exchange.working.encode()),
    }


def visible(text: str) -> str:
    """Without what would steer a terminal: a request may hold anything."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


class _Absent:
    """Stands for a backend that cannot be made on this machine, and that nobody calls here."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def complete(self, call: Call) -> Answer:
        raise NotSupported(self._why)

    async def stream(self, call: Call) -> Stream:
        raise NotSupported(self._why)

    def ready(self) -> bool:
        return False


def _asleep(model: ModelConfig) -> Backend:
    try:
        return create(model.backend, model.backend_options())
    except Unusable as e:
        return _Absent(str(e))
