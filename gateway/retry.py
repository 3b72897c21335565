"""When to try again: a pure schedule with a budget, so that retries cannot become an outage of their own.

A retry happens only before the first byte has gone to the client. All retries together stay within a share of recent
calls (20 %, never fewer than 3 in a burst), waits are jittered, and a `Retry-After` is obeyed up to the wait we accept.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..protocol.errors import (
    CircuitOpen,
    ContextTooLong,
    GatewayError,
    TrimtabError,
    UpstreamAnswered,
    UpstreamError,
    UpstreamRefusedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)


@dataclass(slots=True)
class RetryBudget:
    """A token bucket filled by calls: each call adds `share` of a retry, up to `burst`."""

    share: float = 0.2
    burst: float = 3.0
    _tokens: float = 3.0

    def call(self) -> None:
        self._tokens = min(self.burst, self._tokens + self.share)

    def take(self) -> bool:
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` counts the first call too. Seconds."""

    attempts: int = 2
    base: float = 0.25
    longest: float = 8.0
    longest_retry_after: float = 5.0

    def wait(self, error: TrimtabError, attempt: int, jitter: float) -> float | None:
        """Seconds to wait before calling the same target again, or None to leave it.

        `attempt` is the number of calls made so far, `jitter` a random number in [0, 1). A timeout is not tried on the
        same target: whoever was too slow is likely to be so again, and the client has waited already.
        """
        hopeless = isinstance(error, UpstreamTimeout | CircuitOpen | GatewayError | UpstreamRefusedKey)
        if attempt >= self.attempts or hopeless or too_long(error) or not worth_another(error):
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= self.longest_retry_after else None
        if isinstance(error, UpstreamUnreachable) and attempt == 1:
            return 0.0
        return min(self.longest, self.base * float(2 ** (attempt - 1))) * (0.5 + jitter / 2)


def worth_another(error: TrimtabError) -> bool:
    """Whether another call, here or at a fallback, could go better."""
    if too_long(error):
        return True  # somebody else's context may be larger
    if isinstance(error, UpstreamAnswered):
        return error.transient
    if isinstance(error, GatewayError | UpstreamRefusedKey):
        return True  # a backend of ours that is full, not loaded, or has no such verb, or a key that one refuses
    return isinstance(error, UpstreamError) and error.retryable


def too_long(error: TrimtabError) -> bool:
    """Whether the request does not fit the model's context, as we say it or as an upstream does."""
    if isinstance(error, UpstreamAnswered):
        return error.upstream_status in (400, 413) and b'"context_length_exceeded"' in error.body
    return isinstance(error, ContextTooLong)
