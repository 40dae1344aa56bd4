"""One process at a time makes a run, or another output."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dogbreeds.errors import UserError


class BeingMade(UserError):
    """Another process makes what is to be made."""


@contextmanager
def locked(output: Path, *, doing: str = "making the run", option: str = "--output-dir") -> Iterator[None]:
    """Keep every other process from making this; where several train together, the main one does so for all.

    The lock is a file beside it, which is removed at the end. A process that is killed holds it no more.

    Args:
        output: A run folder, or a file.
        doing: What the other process does with it, in the message.
        option: That names another output.

    Raises:
        BeingMade: Another process makes it.
        UserError: The lock can't be written.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    lock = FileLock(output.with_name(output.name + ".lock"))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
        while not Path(lock.lock_file).exists():  # removed by the process before, after it was opened here
            lock.release()
            lock.acquire(blocking=False)
    except Timeout:
        raise BeingMade(f"another process is {doing} {str(output)!r}: wait for it, or give another {option}") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"can't lock {lock.lock_file!r} ({reason}): give another {option}") from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps a file that is open
            Path(lock.lock_file).unlink()
        lock.release()
