"""The router in a dry run: it decides as a gateway would that has just been started, and nothing is drawn by lot."""

from __future__ import annotations

from ...protocol.exchange import Tenant
from ...routing.policy import RoutePolicy

NOTE = (
    "the router decides as for a tenant's first request: audits, shares and spending of a running gateway are not here"
)
_PATIENCE_MS = 5_000


def rehearsing(tenant: Tenant) -> RoutePolicy:
    """The tenant's policy without lots: nothing is audited or explored, and there is time for what is not warm yet."""
    policy = tenant.policy(RoutePolicy)
    changes = {"explore": 0.0, "deadline_ms": _PATIENCE_MS}
    return policy.model_copy(update=changes | ({"audit": 0.0} if policy.scores else {}))
