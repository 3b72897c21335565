"""What the gateway knows of its answers' lengths: learnt as requests settle, kept over reloads and restarts.

One planner a process. What it learnt is written beside the ledger, a few hundred kilobytes at most: names of models,
tenants and routes, and numbers; no text. With several workers each learns for itself and the last one to write is
remembered. A file that is damaged, or made for another prior, is begun anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from ..protocol.exchange import Exchange, Receipt
from ..protocol.messages import Usage
from ..routing.length import LengthPlanner
from ..routing.plan import Lengths
from ..routing.policy import OutputPolicy
from ..routing.shape_effect import Effects, arm_of
from .catalogue import Catalogue
from .output import finished

log = logging.getLogger("trimtab.gateway")

MOST_KEYS, MOST_ANSWERS = 1_000, 64  # that are written
EVERY_S = 60.0
LARGEST = 16 << 20  # bytes of a file that is read
SURE = 64  # answers of a route after which only a sample teaches:
SAMPLED = 32  # one in so many where nobody asked how long, and
ASKED = 4  # one in so many where somebody did
_VERSION = 1


class Planning:
    """`path` None: nothing is remembered. `start` reads it, `close` writes it, and so does a chore in between."""

    def __init__(self, path: Path | None = None, planner: LengthPlanner | None = None) -> None:
        self.planner = LengthPlanner() if planner is None else planner  # an empty one is false
        self.effects = Effects()
        self._path = path
        self._learnt = 0
        self._written = 0
        self._passed = 0
        self._sure: set[tuple[str, str, str]] = set()  # names of the configuration
        self._chore: asyncio.Task[None] | None = None

    # Life.

    async def start(self) -> None:
        await asyncio.to_thread(self.read)
        self._chore = asyncio.create_task(self._keep(), name="trimtab-lengths")

    async def close(self) -> None:
        if self._chore is None:
            return
        self._chore.cancel()
        await asyncio.gather(self._chore, return_exceptions=True)
        self._chore = None
        await self._write()

    def only(self, tenants: Iterable[str]) -> None:
        """Forget everybody else: their keys are gone, and so should be what they taught."""
        kept = set(tenants)
        for tenant in self.planner.tenants() - kept:
            self.planner.forget(tenant)
        self._sure.clear()
        for known in [key for key in self.effects.known if key[0] not in kept]:
            del self.effects.known[known]

    # One settled request.

    def learn(self, exchange: Exchange, catalogue: Catalogue, usage: Usage) -> None:
        """From an answer that ended by itself, and whose tokens its model counted. Never raises."""
        lengths = exchange.facts.get("lengths")
        if not isinstance(lengths, Lengths) or not (lengths.read or self._teaches(exchange, lengths)):
            return
        ended = exchange.facts.get("ended", ())
        if len(ended) != 1 or not finished(ended) or usage.estimated or exchange.recalled is not None:
            return
        model = exchange.receipt.target
        served = catalogue.named(model)
        # Where thinking is set aside beside the answer, it is not part of its length.
        tokens = usage.completion - (usage.reasoning if served is not None and served.thinking is not None else 0)
        if tokens <= 0:
            return
        if not lengths.read or self._teaches(exchange, lengths):
            lengths.learn(model, tokens)
            self._learnt += 1
        self._measure(exchange, tokens)

    def _teaches(self, exchange: Exchange, lengths: Lengths) -> bool:
        route = exchange.tenant.name, exchange.receipt.model, exchange.receipt.target
        if route not in self._sure:
            if lengths.seen(route[2]) < SURE:
                return True
            self._sure.add(route)
        # To learn from every answer would cost every request as much as the rest of the walk.
        self._passed += 1
        return self._passed % (ASKED if lengths.read else SAMPLED) == 0

    def _measure(self, exchange: Exchange, tokens: int) -> None:
        """What a hint did, or what its absence did."""
        if exchange.policy(OutputPolicy).shape.style is None:
            return
        if (took := arm_of(exchange.receipt)) is not None:
            style, arm, foreseen = took
            self.effects.add(exchange.tenant.name, style, arm, tokens, foreseen)
            self._learnt += 1

    def judged(self, receipt: Receipt, wrong: bool) -> bool:
        """A caller's word on an answer; whether that answer takes part in the measurement of hints."""
        took = arm_of(receipt)
        if took is not None:
            self.effects.judged(receipt.tenant, took[0], took[1], wrong)
            self._learnt += 1
        return took is not None

    # The file.

    def read(self) -> None:
        """Take over what was written before, if it is ours. Raises nothing."""
        if self._path is None:
            return
        try:
            if self._path.stat().st_size > LARGEST:
                raise ValueError("it is too large")
            raw = msgspec.json.decode(self._path.read_bytes())
            if not isinstance(raw, dict) or raw.get("version") != _VERSION:
                raise ValueError("it is of another version")
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as e:
            log.warning("the lengths in %s cannot be read (%s); they are learnt anew", self._path, e)
            return
        self.planner.load(raw.get("lengths"))
        self.effects.load(raw.get("hints"))

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._write()

    async def _write(self) -> None:
        if self._path is None or self._written == self._learnt:
            return
        learnt, rows = self._learnt, []
        for row in self.planner.rows(MOST_KEYS, MOST_ANSWERS):
            rows.append(row)
            if len(rows) % 32 == 0:
                await asyncio.sleep(0)  # others have requests to serve
        state = {"version": _VERSION, "lengths": rows, "hints": self.effects.to_json()}
        try:
            await asyncio.to_thread(_replace, self._path, state)
        except OSError as e:
            log.warning("the lengths cannot be written to %s: %s", self._path, e.strerror)
            return
        self._written = learnt


def beside(ledger: Path) -> Path:
    """Where a ledger's gateway keeps its lengths."""
    return ledger.with_name(f"{ledger.stem}.lengths.json")


def _replace(path: Path, state: dict[str, Any]) -> None:
    """Whole or not at all, and for its owner only, as the ledger is."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(state))
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
