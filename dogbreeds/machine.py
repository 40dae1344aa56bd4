"""What this process may use of its machine, how it uses all of it, and what the machine is called."""

import ctypes
import math
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def num_cores() -> int:
    """The cores that this process may use: fewer than the machine's where it is pinned, or in a limited container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:  # a container's limit (docker run --cpus 2), as Linux's control groups tell it: microseconds of each period
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control groups, or no limit ("max")
        return cores


def num_cores_each() -> int:
    """This process's share of the cores, where `accelerate launch` or torchrun started several on this machine."""
    return max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def on_all_cores(function: Callable[[Item], Answer], items: Iterable[Item], num_ahead: int) -> Iterator[Answer]:
    """The function's answers to some items, in their order, computed by one thread for each core.

    Args:
        function: Of one item; to be called from several threads.
        items: However many; they are asked for when their turn comes.
        num_ahead: Items that may be at work or done ahead of the one whose answer is being used, so that memory is
            bounded and no core stands still behind a slow one.
    """
    ahead: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(num_cores()) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > num_ahead:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:  # Ctrl-C does not wait for those
                future.cancel()


def has_8bit_products() -> bool:
    """Whether the CPU is known to multiply and add 8-bit numbers without overflow (VNNI on x86)."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for what is allocated next, instead of giving it back to the system.

    Training on a CPU allocates and frees the same large tensors in every step. By default each is mapped anew, and the
    system clears its pages: half of the time of MobileNetV2's step (tests/benchmarks/training_speed.py). Only glibc has
    these settings; elsewhere nothing happens. See mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    trim_threshold, mmap_max = -1, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def processor() -> str:
    """The cores and their maker's name for them, such as ``2 CPU cores (Intel(R) Xeon(R) Platinum 8481C)``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a processor that tells no name
        name = platform.processor() or platform.machine()
    return f"{num_cores()} CPU cores ({name})"
