"""Prometheus metrics. Every label's values come from the configuration or a fixed list, so none can grow without bound.

The children of each metric are looked up once and kept: a label look-up a request would cost more than the increment.
With several workers (gateway/workers.py sets PROMETHEUS_MULTIPROC_DIR) each scrape answers for all of them together.
"""

from __future__ import annotations

import os
from collections import Counter as Counter_
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from ..cache.store import Held
from ..protocol.exchange import Receipt, ReceiptLine, Routed
from ..routing.shape_effect import Effects
from .metrics_reasons import reason_class
from .slots import Slots

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OVERHEAD = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)

# What stores count (cache/store_memory.py, cache/store_redis.py).
_EVENTS = frozenset(("deleted", "dropped", "errors", "evicted", "expired", "foreign", "mismatched", "refused", "slow"))

_QUANTILES = ("p50", "p90", "p99", "p999")
_SMALLER = frozenset(("prune", "compress"))
_SKIPPED = frozenset(("left alone", "left out", "undone"))


class Metrics:
    """One registry a gateway; tests and embedded uses do not share global state."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._told: Counter_[str] = Counter_()  # how far counts that others keep are in their metrics
        self._of_requests()
        self._of_compression()
        self._of_the_cache()
        self._of_lengths()
        self._of_routes()
        self._of_queues()
        self._of_the_process()

    def _of_requests(self) -> None:
        self._requests = self._counter(
            "trimtab_requests", "Requests admitted.", "tenant", "model", "kind", "outcome", "status"
        )
        self._tokens = self._counter("trimtab_tokens", "Tokens, as settled.", "tenant", "model", "direction")
        self._spend = self._counter("trimtab_spend_usd", "Money spent, as settled.", "tenant", "model")
        self._saved = self._counter("trimtab_saved_usd", "Money saved net of its cost.", "tenant", "model")
        self._rejected = self._counter("trimtab_rejected", "Requests refused before any work.", "code")
        self._attempts = self._counter("trimtab_upstream_attempts", "Calls of upstreams beyond the first.", "model")
        self._duration = self._histogram(
            "trimtab_request_seconds", "From arrival to the last byte.", _SECONDS, "model", "kind"
        )
        self._first = self._histogram(
            "trimtab_first_byte_seconds", "From arrival to the first byte.", _SECONDS, "model"
        )
        self._overhead = Histogram(
            "trimtab_overhead_seconds",
            "Time in the gateway before the upstream's.",
            buckets=_OVERHEAD,
            registry=self.registry,
        )

    def _of_compression(self) -> None:
        self._removed = self._counter(
            "trimtab_compression_tokens_saved", "Tokens taken out of prompts (estimates).", "stage"
        )
        self._skipped = self._counter(
            "trimtab_compression_skipped",
            "Requests that a stage left as they were, other than for being small.",
            "stage",
            "reason",
        )
        self._unverified = Counter(
            "trimtab_compression_verifier_refusals",
            "Rewritings that were not provably the same, so that the original went.",
            registry=self.registry,
        )

    def _of_the_cache(self) -> None:
        self._recalled = self._counter(
            "trimtab_cache_lookups", "What the cache found, by request.", "tenant", "outcome"
        )
        self._verdicts = self._counter(
            "trimtab_cache_verdicts", "What callers said of its answers.", "tenant", "verdict"
        )
        self._stored = self._counter(
            "trimtab_cache_store_events", "What went wrong in its store, or was let go.", "event"
        )
        self.cache_store_up = Gauge(
            "trimtab_cache_store_up",
            "1 while the cache's store answers.",
            multiprocess_mode="livemin",
            registry=self.registry,
        )
        self._entries = self._gauge("trimtab_cache_entries", "Answers kept in this process.", "tenant")
        self._bytes = self._gauge("trimtab_cache_bytes", "Bytes of answers kept in this process.", "tenant")

    def _of_lengths(self) -> None:
        self._foreseen = self._counter(
            "trimtab_length_forecasts",
            "Answers that ended by themselves, by the lowest quantile that was at least as long.",
            "model",
            "within",
        )
        self._planned = self._counter(
            "trimtab_length_plans", "What was asked of a model about its answer's length.", "model", "what"
        )
        self._arms = self._gauge("trimtab_hint_answers", "Answers with a hint, and held out.", "tenant", "style", "arm")
        self._arm_tokens = self._gauge("trimtab_hint_tokens", "Their tokens.", "tenant", "style", "arm")
        self._arm_verdicts = self._gauge(
            "trimtab_hint_verdicts", "What callers said of them.", "tenant", "style", "arm", "verdict"
        )
        self._change = self._gauge(
            "trimtab_hint_length_change",
            "Hinted answers' length over the others', less one, for the same questions: the middle, the 95 % interval.",
            "tenant",
            "style",
            "bound",
        )

    def _of_routes(self) -> None:
        self._routes = self._counter(
            "trimtab_route_decisions", "Which side of a pair was chosen, and what decided.", "tenant", "side", "why"
        )
        self._fell_back = self._counter(
            "trimtab_route_fallbacks", "Requests that another model answered than the one chosen.", "tenant", "chosen"
        )
        self._large = self._gauge("trimtab_route_large_share", "The large model's part of late.", "tenant", "route")
        self._drifts = self._gauge("trimtab_route_drift", "1 while the drift alarm rings.", "tenant", "route")
        self._route_audits = self._counter(
            "trimtab_route_audits", "What both models' answers were found to be.", "result"
        )
        self._route_words = self._counter(
            "trimtab_route_words", "What was said of routed answers, or told of them.", "word"
        )

    def _of_queues(self) -> None:
        self._waited = self._histogram("trimtab_queue_wait_seconds", "Waiting for a model's slot.", _SECONDS, "model")
        self._unplaced = self._counter("trimtab_queue_unserved", "Who waited for a slot and got none.", "model", "why")
        self._depth = self._gauge("trimtab_queue_depth", "Requests that wait for a model's slot.", "model")
        self._busy = self._gauge("trimtab_queue_busy", "Slots of a model that are taken.", "model")
        self._engine = {
            "pages": self._gauge(
                "trimtab_engine_pages",
                "Pages of 64 tokens of the bundled engine's memory for keys and values: free, cached, used.",
                "model",
                "state",
            ),
            "answers": self._gauge(
                "trimtab_engine_answers", "Answers in the bundled engine: running, waiting.", "model", "state"
            ),
        }

    def _of_the_process(self) -> None:
        self.in_flight = Gauge(
            "trimtab_in_flight_requests",
            "Requests being answered.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.ready = Gauge(
            "trimtab_ready", "1 when readiness answers 200.", multiprocess_mode="livemin", registry=self.registry
        )
        self.reloads = cache(
            Counter(
                "trimtab_config_reloads", "Reloads of the configuration.", ["result"], registry=self.registry
            ).labels
        )
        self.ledger_buffered = Gauge(
            "trimtab_ledger_buffered", "Receipts not written yet.", multiprocess_mode="livesum", registry=self.registry
        )
        self.circuit_open = cache(
            Gauge(
                "trimtab_circuit_open",
                "1 while a model is left alone.",
                ["model"],
                multiprocess_mode="livemax",
                registry=self.registry,
            ).labels
        )

    def _counter(self, name: str, doc: str, *labels: str) -> Callable[..., Any]:
        return cache(Counter(name, doc, labels, registry=self.registry).labels)

    def _histogram(self, name: str, doc: str, buckets: tuple[float, ...], *labels: str) -> Callable[..., Any]:
        return cache(Histogram(name, doc, labels, buckets=buckets, registry=self.registry).labels)

    def _gauge(self, name: str, doc: str, *labels: str) -> Callable[..., Any]:
        """One whose workers' values are added up."""
        return cache(Gauge(name, doc, labels, multiprocess_mode="livesum", registry=self.registry).labels)

    def settled(self, receipt: Receipt) -> None:
        """Count one closed receipt."""
        tenant, model = receipt.tenant, receipt.target or "none"
        self._requests(tenant, model, receipt.kind, receipt.outcome, str(receipt.status)).inc()
        if receipt.usage is not None:
            self._tokens(tenant, model, "input").inc(receipt.usage.prompt)
            self._tokens(tenant, model, "output").inc(receipt.usage.completion)
        if receipt.cost_microusd:
            self._spend(tenant, model).inc(receipt.cost_microusd / 1e6)
        if receipt.saved_microusd > 0:
            self._saved(tenant, model).inc(receipt.saved_microusd / 1e6)
        if receipt.attempts > 1:
            self._attempts(model).inc(receipt.attempts - 1)
        if receipt.total_ms is not None:
            self._duration(model, receipt.kind).observe(receipt.total_ms / 1000)
        if receipt.stream and receipt.first_byte_ms is not None:
            self._first(model).observe(receipt.first_byte_ms / 1000)

        for line in receipt.lines:
            if line.stage in _SMALLER:
                self._smaller(line)
            elif line.stage == "recall" and line.did != "off":
                self._recalled(tenant, line.did).inc()
            elif line.stage == "route" and receipt.routed is not None:
                self._routed_to(receipt, receipt.routed)
            elif line.stage == "plan" and line.length is not None:
                self._lengths(line, model, receipt)
            elif line.stage == "queue" and line.ms is not None:
                self._waited(model).observe(line.ms / 1000)

    def _smaller(self, line: ReceiptLine) -> None:
        if line.reason == "too small":
            return  # most requests: not worth a microsecond of each
        if line.did in _SKIPPED:
            self._skipped(line.stage, reason_class(line.reason)).inc()
        elif line.tokens_before is not None and line.tokens_after is not None:
            self._removed(line.stage).inc(max(0, line.tokens_before - line.tokens_after))
        for part in line.parts:
            if part.what == "verifier refused":
                self._unverified.inc()

    def _lengths(self, line: ReceiptLine, model: str, receipt: Receipt) -> None:
        for part in line.parts:
            self._planned(model, part.what).inc(part.count)
        if receipt.outcome == "ok" and receipt.usage is not None and not receipt.usage.estimated and line.length:
            tokens = receipt.usage.completion
            named = zip(_QUANTILES, line.length, strict=True)
            self._foreseen(model, next((name for name, most in named if tokens <= most), "beyond")).inc()

    def _routed_to(self, receipt: Receipt, routed: Routed) -> None:
        side = {routed.small: "small", routed.large: "large"}.get(routed.chose, "other")
        self._routes(receipt.tenant, side, routed.why).inc()
        if receipt.target and receipt.target != routed.chose and receipt.attempts:
            self._fell_back(receipt.tenant, side).inc()

    def router(self, tenant: str, route: str, large: float | None, drifts: bool) -> None:
        """How a tenant's route stands."""
        if large is not None:
            self._large(tenant, route).set(large)
        self._drifts(tenant, route).set(1 if drifts else 0)

    def route_events(self, audits: Mapping[str, int], words: Mapping[str, int]) -> None:
        self._catch_up("route audits", audits, lambda result: self._route_audits(result))
        self._catch_up("route words", words, lambda word: self._route_words(word))

    def queued(self, model: str, slots: Slots) -> None:
        """How a model's queue stands, and what became of those who left it."""
        self._depth(model).set(slots.waiting)
        self._busy(model).set(slots.busy)
        self._catch_up("queue:" + model, slots.counts, lambda why: self._unplaced(model, why))

    def measured(self, model: str, counts: Mapping[tuple[str, str], int]) -> None:
        """How the memory and the answers of a model on the bundled engine stand."""
        for (what, state), count in counts.items():
            self._engine[what](model, state).set(count)

    def shaped(self, effects: Effects) -> None:
        """What hints do, as measured so far."""
        for (tenant, style), effect in effects.known.items():
            for name in ("hint", "holdout"):
                tally = effect.arm(name)
                self._arms(tenant, style, name).set(tally.answers)
                self._arm_tokens(tenant, style, name).set(tally.tokens)
                self._arm_verdicts(tenant, style, name, "wrong").set(tally.wrong)
                self._arm_verdicts(tenant, style, name, "right").set(tally.right)
            if (change := effect.change) is not None:
                for bound, value in zip(("middle", "low", "high"), change, strict=True):
                    self._change(tenant, style, bound).set(value)

    def _catch_up(self, whose: str, counts: Mapping[str, int], metric: Callable[[str], Any]) -> None:
        for name, count in counts.items():
            behind = count - self._told[f"{whose}:{name}"]
            if behind > 0:
                metric(name).inc(behind)
                self._told[f"{whose}:{name}"] = count

    def verdict(self, tenant: str, said: str) -> None:
        self._verdicts(tenant, said).inc()

    def stored(self, counts: Mapping[str, int]) -> None:
        """Bring the metric up to what a store has counted so far."""
        for event, count in counts.items():
            if count > self._told[event]:
                self._stored(event if event in _EVENTS else "other").inc(count - self._told[event])
                self._told[event] = count

    def held(self, owner: str, held: Held) -> None:
        """What one owner has in the cache. Public namespaces have none, and a label that no tenant's name can be."""
        self._entries(owner or "public:").set(held.entries)
        self._bytes(owner or "public:").set(held.bytes)

    def overhead(self, seconds: float) -> None:
        self._overhead.observe(seconds)

    def rejected(self, code: str) -> None:
        self._rejected(code).inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        if not shared():
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def shared() -> bool:
    """Whether this process is one of several workers that report together."""
    return bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
