"""Threads of a command on a machine, or in a container, that it has not for itself.

GNU's OpenMP, by which PyTorch shares work, has threads that wait for others spin for some milliseconds before they
sleep. On cores that other processes also want, the thread that is waited for is not running meanwhile, and one step
takes as long as many. It also starts a thread for every core of the machine, whatever part of them a container may use.
Both are read once, when PyTorch is loaded, so this comes before.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

__all__ = ["allowed_cores", "share_cores"]

_SPINS = 1_000  # some 20 microseconds, less than waking takes: PAUSE is 17 ns here (benchmarks/README.md)
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_CGROUP = Path("/sys/fs/cgroup")


def share_cores(environment: MutableMapping[str, str] = os.environ, cgroup: Path = _CGROUP) -> None:
    """Has threads that wait sleep early, and starts no more of them than a container has cores. What the environment
    says of either (``OMP_NUM_THREADS``; ``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT``) stays."""
    if not any(name in environment for name in _WAITING):
        environment["GOMP_SPINCOUNT"] = str(_SPINS)
    allowed = allowed_cores(cgroup)
    if allowed is not None and "OMP_NUM_THREADS" not in environment and allowed < (os.cpu_count() or 1):
        environment["OMP_NUM_THREADS"] = str(allowed)


def allowed_cores(cgroup: Path = _CGROUP) -> int | None:
    """Whole cores that the container's quota of processor time allows, at least one; None without a quota."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:  # version 1
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:  # "max" or -1: as many as there are
        return None
    return max(1, int(quota) // int(period))
