"""How many CPUs this program may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs that the affinity of the process and the quota of its container leave to it, at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root)
    return count if math.isinf(quota) else max(1, min(count, math.ceil(quota)))


def _quota(root: Path) -> float:
    """The least quota of the process's control groups, version 2 or 1, in CPUs."""
    least = math.inf
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            bases = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            bases = [root / "sys/fs/cgroup" / controllers, root / "sys/fs/cgroup/cpu"]
        else:
            continue
        # Inside a container the path may be as the host sees it; then the quota is at the root of what is mounted.
        own = Path(path.lstrip("/"))
        for base in bases:
            for group in (own, *own.parents):
                least = min(least, _quota_of(base / group))
    return least


def _quota_of(group: Path) -> float:
    quota, period = (_read(group / "cpu.max").split() or ["max", "1"])[:2]
    if quota == "max":
        quota, period = (
            _read(group / "cpu.cfs_quota_us").strip() or "-1",
            _read(group / "cpu.cfs_period_us").strip() or "0",
        )
    try:
        return float(quota) / float(period) if float(quota) > 0 and float(period) > 0 else math.inf
    except ValueError:
        return math.inf


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
