"""Errors that a user can correct, and how a command ends: one line on stderr, or in silence, and an exit status."""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


class UserError(Exception):
    """A mistake that the user can correct: one line that names the bad value and the remedy."""


def first_line(error: Exception) -> str:
    """The first line of another library's error, or its type where it has no message; `printable`."""
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])


def printable(text: str, max_length: int = 300) -> str:
    """A text from a file, for a line on a terminal: its control characters escaped, and cut where it is too long."""
    escaped = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[: max_length + 1])
    return escaped if len(text) <= max_length else escaped[:max_length] + " ..."


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End a command as the shell expects, never with a traceback for what its user or its surroundings did.

    A `UserError` or a missing package becomes one line on stderr and exit status 2, Ctrl-C 130. Where nobody reads what
    is printed any more, such as in ``| head -1``, it ends in silence with 141, and where it can't be written, with one
    line and 2. A command imports what it needs within the block, so that Ctrl-C then is no traceback either.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    with _whole_output():
        try:
            yield
        except UserError as error:
            report(f"error: {error}")
            sys.exit(2)
        except (KeyboardInterrupt, Exception) as error:
            if isinstance(error, KeyboardInterrupt) or _interrupted.is_set():
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C, while threads end, is no traceback
                print("interrupted", file=sys.stderr)
                sys.exit(128 + signal.SIGINT)
            if not isinstance(error, ModuleNotFoundError) or (error.name or "").startswith("dogbreeds"):
                raise
            report(f"error: this needs the package {error.name}: pip install -r requirements.txt")
            sys.exit(2)


_interrupted = threading.Event()
"""Set by Ctrl-C: a compiled module that it interrupts while it is imported raises an `ImportError` instead, or is half
there, which ends in another error later."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


class _Output(io.FileIO):
    """Standard output or error. It remembers why it took no more: the exception may be another one when it arrives."""

    error: OSError | None = None

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.error = error
            raise


@contextmanager
def _whole_output() -> Iterator[None]:
    """Print line by line what is printed within the block, and end the process where that can't be done."""
    if sys.stdout is not sys.__stdout__:  # a test's, or an outer block's
        yield
        return
    if sys.stderr is None:  # closed too: before a file that is opened later gets its number
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # until the process ends
    if sys.stdout is None:
        report("error: standard output is closed: send it to a file, or to /dev/null")
        sys.exit(2)
    before = sys.stdout, sys.stderr
    outputs = [_Output(stream.fileno(), "w", closefd=False) for stream in before]
    sys.stdout, sys.stderr = (
        # A file name need not be valid text.
        io.TextIOWrapper(io.BufferedWriter(output), sys.stdout.encoding, "backslashreplace", line_buffering=True)
        for output in outputs
    )
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        for output in outputs:
            if output.error:
                _end_without(output, output.error)
        sys.stdout, sys.stderr = before


def _end_without(output: _Output, error: OSError) -> None:
    """End the process, as this output takes no more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())  # for what Python still flushes when it ends
    if isinstance(error, BrokenPipeError):
        sys.exit(128 + signal.SIGPIPE)
    report(f"error: can't print ({error.strerror})")
    sys.exit(2)


def is_first_process() -> bool:
    """Whether this is the only process, or the first of those that `accelerate launch` started on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def report(message: str) -> None:
    """Print a line on stderr, once if `accelerate launch` started several processes on this machine."""
    if is_first_process():
        with suppress(OSError):  # nobody reads it
            print(message, file=sys.stderr)
