"""Whether a conversation should stay with the model that it is with.

A provider bills the part of a prompt that its cache holds at a fraction. Who switches model loses that, and pays the
whole prompt once; so a switch has to be worth more than the lost prefix, and a margin so that a conversation does not
go back and forth. Both directions are judged alike: a conversation that needed the large model may come down again.
Pure; money is in micro-dollars, time in seconds.
"""

from __future__ import annotations

from typing import NamedTuple

# Providers keep an unused prefix for about five minutes.
CACHE_LIFE_S = 300.0
MARGIN = 0.1


class Pin(NamedTuple):
    """`model`: who answered last, `at`: when, `prefix_tokens`: of its prompt and answer, which its cache may hold."""

    model: str
    at: float
    prefix_tokens: int


class Stay(NamedTuple):
    stays: bool
    lost: int
    reason: str


def lost_prefix(pin: Pin, price_input: int, price_cached: int, now: float, life_s: float = CACHE_LIFE_S) -> int:
    """What leaving `pin.model` wastes, in micro-dollars; 0 once its cache has let go. Prices per million tokens."""
    if not 0 <= now - pin.at < life_s:
        return 0
    return max(0, pin.prefix_tokens * (price_input - price_cached) // 1_000_000)


def stay(pin: Pin | None, wanted: str, gain: float, lost: int, margin: float = MARGIN) -> Stay:
    """Whether to stay with the pinned model although `wanted` was chosen. `gain`: what the switch is worth, quality and
    money together, in micro-dollars: see choose.Choice.advantage."""
    if pin is None or pin.model == wanted:
        return Stay(False, 0, "")
    if gain > lost * (1 + margin):
        return Stay(False, lost, "")
    return Stay(True, lost, f"stays with {pin.model}: switching would lose {lost} microusd of cached prefix")
