"""The cores of this machine: their number, a pool that uses all of them, and their name."""

import ctypes
import math
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def num_cores() -> int:
    """The cores that this process may use: fewer than the machine's if it is pinned, or in a limited container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:  # a container's limit (docker run --cpus 2) in Linux's control groups: microseconds of each period
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control groups, or no limit ("max")
        return cores


def num_cores_each() -> int:
    """This process's share of the cores, if `accelerate launch` or torchrun started several on this machine."""
    return max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def on_all_cores(function: Callable[[Item], Result], items: Iterable[Item], num_ahead: int) -> Iterator[Result]:
    """The function's result for each item, in order, computed by one thread for each core.

    Args:
        function: Takes one item; several threads call it at a time.
        items: Any number; the caller's thread iterates over them, `num_ahead` ahead of the results it uses.
        num_ahead: Items that may be in progress or done ahead of the result in use. It limits the memory; with too few,
            cores wait for a slow item.
    """
    ahead: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_cores()) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > num_ahead:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:  # so that Ctrl-C does not wait for them
                future.cancel()


def num_bytes_of_memory() -> int:
    """The memory of this machine, or of a limited container."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows: as much as every machine has that runs a browser
        memory = 4 * 2**30
    try:  # as in `num_cores`
        return min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return memory


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for what is allocated next, instead of giving it back to the system.

    Training on a CPU allocates and frees the same large tensors in every step. By default each is mapped again, and the
    system clears its pages: half of the time of MobileNetV2's step (tests/benchmarks/training_speed.py).
    """
    trim_threshold, mmap_max = -1, -4
    _set_allocator({mmap_max: 0, trim_threshold: 2**31 - 1})


def share_freed_memory() -> None:
    """Have the C library keep freed memory in one or two places, instead of one for each thread, and little of it.

    Work goes to a thread that is free. Each place keeps what one photo or another has needed, so that the memory of a
    server would grow for days (tests/benchmarks/load.py), and that of `index` with the number of large photos
    (tests/benchmarks/odd_files.py). What is as large as a photo goes back to the system: between smaller blocks that
    stay it would leave gaps.
    """
    arena_max, mmap_threshold = -8, -3
    _set_allocator({arena_max: 2, mmap_threshold: 2**20})


def _set_allocator(settings: Mapping[int, int]) -> None:
    """Set what mallopt(3) describes. Only glibc has these settings; elsewhere nothing happens."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    for setting, value in settings.items():
        mallopt(setting, value)


def processor() -> str:
    """The number of cores and the processor's name, such as ``2 CPU cores (Intel(R) Xeon(R) Platinum 8481C)``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a processor without a name there
        name = platform.processor() or platform.machine()
    return f"{num_cores()} CPU cores ({name})"
