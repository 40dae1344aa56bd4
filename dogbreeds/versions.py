"""What a figure was computed with, so that it can be computed again: this code and the packages below it."""

import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_CHECKOUT = Path(__file__).parent.parent


def versions(*packages: str) -> dict[str, str]:
    """The version of each: of this code, of Python and of packages.

    Args:
        packages: Their names on PyPI.

    Raises:
        PackageNotFoundError: One is not installed.
    """
    ours = {"dogbreeds": _of_this_code(), "python": platform.python_version()}
    return ours | {name: version(name) for name in packages}


def _of_this_code() -> str:
    """Its commit if it runs from a checkout, with "-dirty" if files have changed since; else the package's version.

    A folder above may be the checkout of another project, so it is not asked.
    """
    if (_CHECKOUT / ".git").exists():
        with suppress(OSError, subprocess.SubprocessError):  # no git, or it refuses a folder of somebody else
            is_changed = _git("status", "--porcelain", "--untracked-files=no")
            return _git("rev-parse", "--short=12", "HEAD") + ("-dirty" if is_changed else "")
    try:
        return version("dogbreeds")
    except PackageNotFoundError:
        return "unknown"


def _git(*arguments: str) -> str:
    """What it prints. It takes no lock, since nothing is to be written into the checkout."""
    command = ["git", "--no-optional-locks", "-C", str(_CHECKOUT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
