"""What a user is told when something of theirs is wrong."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake the user can mend: one line that names the bad value and the remedy."""


def first_line(error: Exception) -> str:
    """The first line of another library's error, or its type where it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a `UserError` or a missing package into one line on stderr and exit status 2, and Ctrl-C into 130."""
    try:
        yield
    except UserError as error:
        _say(str(error))
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("dogbreeds"):
            raise
        _say(f"this needs the package {error.name}: pip install -r requirements.txt")
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _say(message: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of several training processes, one on each machine speaks
        print(f"error: {message}", file=sys.stderr)
