"""What is asked of the machine and of its C library."""

import subprocess
import sys

import pytest

COUNT_ARENAS = """
import ctypes, os, sys, tempfile, threading
from dogbreeds.machine import share_freed_memory

libc = ctypes.CDLL(None)
if not hasattr(libc, "malloc_info"):
    sys.exit("no glibc")
if sys.argv[1] == "shared":
    share_freed_memory()
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(8)

def allocate():
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fdopen.restype = ctypes.c_void_p
with tempfile.TemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fdopen(os.dup(file.fileno()), b"w"))
    libc.malloc_info(0, stream)
    libc.fflush(stream)
    file.seek(0)
    print(file.read().count(b"<heap nr="))
"""


def num_arenas(how: str) -> int:
    """Where a process of eight threads keeps freed memory."""
    found = subprocess.run([sys.executable, "-c", COUNT_ARENAS, how], capture_output=True, text=True)
    if "no glibc" in found.stderr:
        pytest.skip("another C library than glibc")
    return int(found.stdout)


def test_threads_share_freed_memory():
    assert num_arenas("shared") <= 2 < num_arenas("apart")
