"""How many cores this process may use: those it is bound to, and no more than a container's quota pays for.

Threads beyond the quota are stopped for the rest of each period, while the others wait for them.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def cores(cgroups: Path = _CGROUPS) -> int:
    """At least one."""
    bound = len(os.sched_getaffinity(0))
    quota = _quota(cgroups)
    return bound if quota is None else max(1, min(bound, math.ceil(quota)))


def _quota(cgroups: Path) -> float | None:
    """Cores' worth of time, as the process's own control group says (version 2, then 1); None where nothing does."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((cgroups / name).read_text(encoding="ascii") for name in names).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # "max" is no number: there is no quota
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None
