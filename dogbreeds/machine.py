"""What this process may use of its machine, and what the machine is called."""

import math
import os
import platform
from pathlib import Path


def num_cores() -> int:
    """The cores that this process may use: fewer than the machine's where it is pinned, or in a limited container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:  # a container's limit (docker run --cpus 2), as Linux's control groups tell it: microseconds of each period
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control groups, or no limit ("max")
        return cores


def processor() -> str:
    """The cores and their maker's name for them, such as ``2 CPU cores (Intel(R) Xeon(R) Platinum 8481C)``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a processor that tells no name
        name = platform.processor() or platform.machine()
    return f"{num_cores()} CPU cores ({name})"
