"""A report of `compare`, computed again: does each of its values come out as it was?"""

import inspect
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogbreeds.errors import UserError
from dogbreeds.files import read_json
from dogbreeds.research.compare import compare

MEASURED = {"cost", "latency_photos"}
"""Keys of what is measured anew each time."""
SURROUNDINGS = ("versions", "hardware")
"""Keys of what may explain a difference."""
TOLERANCE = 1e-6
"""Relative: other processors sum in another order."""


@dataclass(frozen=True)
class Change:
    """A value that came out otherwise."""

    place: str
    """Its keys in comparison.json, with dots between."""
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.place}: then {json.dumps(self.then)}, now {json.dumps(self.now)}"


@dataclass(frozen=True)
class Reproduction:
    """What came of it."""

    num_same: int
    """Values that came out as they were."""
    changes: list[Change]
    """Those that did not, or are there once only."""
    surroundings: list[Change]
    """Other packages and hardware than then."""


def reproduce(report: Path, *, progress: bool = True) -> Reproduction:
    """Compare the same runs again, in the same way; relative paths are meant from the current folder.

    Args:
        report: A folder that `dogbreeds.research.report.write_report` has made.
        progress: As for `compare`.

    Raises:
        UserError: The report is missing or damaged or of an older version, or its runs can't be compared any more.
    """
    then = read_json(report / "comparison.json")
    try:
        options = {**then["arguments"]}
        run_dirs = [Path(run) for run in options.pop("run_dirs")]
        inspect.signature(compare).bind(run_dirs, **options)
    except (KeyError, TypeError):
        raise UserError(f"{str(report)!r} does not say how it was made: make it anew with `compare`") from None
    now = json.loads(json.dumps(compare(run_dirs, **options, progress=progress).to_dict()))
    pairs = list(_pairs(then, now, ""))
    different = [Change(*each) for each in pairs if not _is_same(*each[1:])]
    surroundings = [each for each in different if each.place.split(".")[0] in SURROUNDINGS]
    changes = [each for each in different if each not in surroundings]
    return Reproduction(len(pairs) - len(different), changes, surroundings)


def _pairs(then: Any, now: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Each single value of both, by its place; None where one of them has none."""
    if isinstance(then, list) and isinstance(now, list):
        then, now = dict(enumerate(then)), dict(enumerate(now))
    if not (isinstance(then, dict) and isinstance(now, dict)):
        yield place, then, now
        return
    for key in dict.fromkeys([*then, *now]):
        if key not in MEASURED:
            yield from _pairs(then.get(key), now.get(key), f"{place}.{key}" if place else str(key))


def _is_same(then: Any, now: Any) -> bool:
    if isinstance(then, float) and isinstance(now, float | int):
        return math.isclose(then, now, rel_tol=TOLERANCE, abs_tol=1e-12)
    return bool(then == now)
