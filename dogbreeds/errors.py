"""Errors that a user can correct, and messages on stderr."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
    """Turn a `UserError` or a missing package into one line on stderr and exit status 2, and Ctrl-C into 130."""
    try:
        yield
    except UserError as error:
        report(f"error: {error}")
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("dogbreeds"):
            raise
        report(f"error: this needs the package {error.name}: pip install -r requirements.txt")
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def is_first_process() -> bool:
    """Whether this is the only process, or the first of those that `accelerate launch` started on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def report(message: str) -> None:
    """Print a line on stderr, once if `accelerate launch` started several processes on this machine."""
    if is_first_process():
        print(message, file=sys.stderr)
