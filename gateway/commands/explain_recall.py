"""What the cache would do with a request, said without a store: a dry run has none, and a hit is nothing to foresee.

By the same rules as cache/recall.py, which it leaves alone: nothing is embedded, looked up or kept.
"""

from __future__ import annotations

from ...cache.eligible import exact, fuzzy
from ...cache.freshness import present
from ...cache.key import last_question
from ...cache.policy import CachePolicy
from ...cache.recall import Recall
from ...cache.wishes import Wishes, wishes
from ...protocol.exchange import Exchange

NOTE = "answers that a running gateway keeps are not looked up here: where it has one, only `admit` and `recall` run"


def explain_recall(exchange: Exchange) -> None:
    """Write the stage's line on the receipt."""
    policy = exchange.policy(CachePolicy)
    wished = wishes(exchange.facts.get("cache_field", {}), exchange.headers)
    did, reason = _told(exchange, policy, wished)
    exchange.note(Recall.name, did, reason)


def _told(exchange: Exchange, policy: CachePolicy, wished: Wishes) -> tuple[str, str]:
    if not policy.on:
        return "off", "the policy has it off"
    if wished.neither:
        return "bypass", "the caller asked for it"
    no_repeat = exact(exchange.original, policy) if policy.exact else "the policy has it off"
    no_wording = _no_wording(exchange, policy)
    if no_repeat is not None and no_wording is not None:
        return "bypass", f"{no_repeat}; and no other wording: {no_wording}" if policy.semantic.enabled else no_repeat
    kept = _kept(exchange, policy, wished)
    if not wished.read:
        return "bypass", f"the caller asked for a new answer, {kept}"
    return "would look", f"for {_what(policy, no_repeat, no_wording)}; else the answer is new, {kept}"


def _no_wording(exchange: Exchange, policy: CachePolicy) -> str | None:
    """Why another wording of the question may not answer it."""
    if not policy.semantic.enabled:
        return "the policy has no semantic cache"
    request = exchange.original
    question = last_question(request.get("messages")) if request.kind == "chat" else None
    return "no question to compare" if question is None else fuzzy(request, question, policy)


def _what(policy: CachePolicy, no_repeat: str | None, no_wording: str | None) -> str:
    if no_repeat is not None:
        return f"another wording (no repeat: {no_repeat})"
    if no_wording is None:
        return "a repeat, or another wording"
    return f"a repeat (no other wording: {no_wording})" if policy.semantic.enabled else "a repeat"


def _kept(exchange: Exchange, policy: CachePolicy, wished: Wishes) -> str:
    allowed = min(policy.ttl_s, policy.time_ttl_s) if present(exchange.original) else policy.ttl_s
    seconds = allowed if wished.ttl is None else min(allowed, wished.ttl)
    return f"and kept for {seconds:,.0f} s" if wished.write and seconds >= 1 else "and not kept"
