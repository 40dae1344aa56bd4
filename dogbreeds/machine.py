"""What this process may use of its machine."""

import math
import os
from pathlib import Path


def num_cores() -> int:
    """The cores that this process may use: fewer than the machine's where it is pinned, or in a limited container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:  # a container's limit (docker run --cpus 2), as Linux's control groups tell it: microseconds of each period
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control groups, or no limit ("max")
        return cores
