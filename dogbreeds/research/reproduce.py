"""A report, computed again as it was asked for: does each of its values come out as it was?"""

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter, ValidationError, validate_call

from dogbreeds.errors import UserError, first_line
from dogbreeds.files import read_json, write_json
from dogbreeds.hub import HubId
from dogbreeds.research.provenance import PROVENANCE
from dogbreeds.run_folder import RunFolder

COMPARISON = "comparison.json"

MEASURED = {"cost", "latency_photos"}
"""Keys of what is measured anew each time."""
SURROUNDINGS = ("versions", "hardware", "inputs")
"""Keys of what may explain a difference."""
TOLERANCE = 1e-6
"""Relative: other processors sum in another order."""
TOLERANCE_OF_NETWORKS = 1e-5
"""Absolute, where networks compute in 32 bits again: AVX2 in place of AVX-512 changed CKA by up to 4e-7. A photo that
is answered otherwise changes a share by more, of up to 100,000 photos."""

TABLES = {
    "benchmark.csv": ("run", "set", "figure"),
    "robustness.csv": ("run", "corruption", "severity"),
    "layers.csv": ("network", "layer", "other", "layer of other"),
    "attention.csv": ("network", "layer", "head"),
    "probe.csv": ("backbone", "classifier"),
    "figures.csv": ("photos", "model", "way", "images_per_breed", "figure"),
    "pairs.csv": ("photos", "images_per_breed", "first", "second"),
}
"""Of each table of figures the columns that say what a row is of."""

OLD = {"benchmark.csv": "benchmark", "robustness.csv": "robustness", "layers.csv": "layers", "study.md": "study"}
"""What reports have that older versions made, and the command that did."""


@dataclass(frozen=True)
class Change:
    """A value that came out otherwise."""

    place: str
    """Its keys in the JSON file, with dots between; or its table, row and column."""
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
    """Other packages, hardware, run folders and models than then."""
    is_of_predictions: bool
    """Whether the figures come from predictions that the runs keep, so that none answered again."""


def reproduce(report: Path, *, progress: bool = True) -> Reproduction:
    """Make a report again, from the same and in the same way; relative paths are meant from the current folder.

    Args:
        report: A folder that `compare`, `benchmark`, `robustness`, `layers`, `probe` or `study` has made.
        progress: Show progress bars.

    Raises:
        UserError: The report is missing or damaged or of an older version, or what it was made from is gone.
    """
    then = _values(report)
    command, arguments = str(then.get("report", "compare")), then.get("arguments")
    if command not in _AGAIN:
        raise UserError(f"{str(report)!r} is of the command {command!r}, which this version lacks: use a newer one")
    if not isinstance(arguments, dict):
        raise _not_said(report, command)
    with TemporaryDirectory() as folder:
        again = Path(folder) / "report"
        try:
            _check_inputs(then)
            _AGAIN[command](report, again, arguments, progress)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "inputs"
            raise UserError(f"{str(report)!r} says wrongly how it was made: {where}: {fault['msg']}") from None
        now = _values(again)
    is_of_predictions = command == "study" or (command == "compare" and arguments.get("data") is None)
    tolerance = 1e-12 if is_of_predictions else TOLERANCE_OF_NETWORKS
    pairs = list(_pairs(then, now, ""))
    if "inputs" not in then:  # of an older version of `compare`, which did not say all that is said now
        pairs = [pair for pair in pairs if pair[1] is not None]
    different = [Change(*each) for each in pairs if not _is_same(*each[1:], tolerance)]
    surroundings = [each for each in different if each.place.split(".")[0] in SURROUNDINGS]
    changes = [each for each in different if each not in surroundings]
    return Reproduction(len(pairs) - len(different), changes, surroundings, is_of_predictions)


# What a report says


def _values(report: Path) -> dict[str, Any]:
    """All values of a report: of its JSON file, and of its tables of figures."""
    if (report / COMPARISON).is_file():
        return read_json(report / COMPARISON)
    if not (report / PROVENANCE).is_file():
        if command := next((command for name, command in OLD.items() if (report / name).is_file()), None):
            raise _not_said(report, command)
        what = f"there is neither {PROVENANCE} nor {COMPARISON} in it" if report.is_dir() else "it is no folder"
        raise UserError(f"{str(report)!r} is no report: {what}")
    values = read_json(report / PROVENANCE)
    for name, columns in TABLES.items():
        if (report / name).is_file():
            values |= _of_table(report / name, columns)
    return values


def _of_table(file: Path, columns: tuple[str, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            for row in csv.DictReader(opened, strict=True):
                what = ", ".join(row.pop(column) for column in columns)
                values |= {f"{file.name}, {what}, {column}": _parsed(cell) for column, cell in row.items()}
    except (OSError, KeyError, TypeError, AttributeError, ValueError, csv.Error) as error:
        raise UserError(f"{str(file)!r} is damaged: {first_line(error)}") from None
    return values


def _parsed(cell: str) -> Any:
    """A number, or several with spaces between; else the text."""
    try:
        numbers = [float(part) for part in cell.split(" ")]
    except ValueError:
        return cell
    return numbers if len(numbers) > 1 else numbers[0]


def _not_said(report: Path, command: str) -> UserError:
    return UserError(
        f"{str(report)!r} does not say how it was made, as those of older versions don't: make it anew with `{command}`"
    )


# What it was made from

_INPUTS = TypeAdapter(dict[str, dict[str, str | None]])
_RUNS = TypeAdapter(list[str])


def _check_inputs(then: dict[str, Any]) -> None:
    """Refuse what is gone, before it is looked for elsewhere: a path may read like a name on the Hugging Face Hub."""
    if "inputs" in then:
        inputs = _INPUTS.validate_python(then["inputs"])
        places = [(kind, place) for kind, found in inputs.items() for place in found]
    else:
        runs = _RUNS.validate_python(then["arguments"].get("run_dirs"))
        places = [("run folder", run) for run in runs if not _is_on_hub(run)]
    for kind, place in places:
        if not Path(place).exists():
            raise UserError(
                f"the {kind} {place!r} that the report was made from is gone: put it back there; or, if it is there, "
                "start the command in the folder in which the report was made"
            )


def _is_on_hub(run: str) -> bool:
    """Whether a run that is no folder here is one of the Hub, of which older reports keep no commit."""
    if not Path(run).exists() and HubId.parse(run):
        try:
            RunFolder.open(run)
        except UserError:
            return False
        return True
    return False


# Made again, into a new folder. What only some of the reports need is imported there: torch takes seconds.


def _compare(_: Path, again: Path, arguments: dict[str, Any], progress: bool) -> None:
    from dogbreeds.research.compare import compare

    again.mkdir()
    write_json(again / COMPARISON, validate_call(compare)(**arguments, progress=progress).to_dict())


def _benchmark(_: Path, again: Path, arguments: dict[str, Any], progress: bool) -> None:
    from dogbreeds.research.benchmark import benchmark
    from dogbreeds.research.benchmark_report import write_benchmark

    write_benchmark(validate_call(benchmark)(**arguments, progress=progress), again)


def _robustness(_: Path, again: Path, arguments: dict[str, Any], progress: bool) -> None:
    from dogbreeds.research.robustness import robustness

    validate_call(robustness)(**arguments, progress=progress).save(again)


def _layers(_: Path, again: Path, arguments: dict[str, Any], progress: bool) -> None:
    from dogbreeds.research.layers import compare_layers

    validate_call(compare_layers)(**arguments, progress=progress).save(again)


def _probe(_: Path, again: Path, arguments: dict[str, Any], progress: bool) -> None:
    from dogbreeds.research.probe import probe

    validate_call(probe)(**arguments).write(again)


def _study(report: Path, again: Path, arguments: dict[str, Any], progress: bool) -> None:
    from dogbreeds.research.study_plan import read_plan
    from dogbreeds.research.study_report import PLAN, read_study, write_study_report

    write_study_report(read_study(read_plan(report / PLAN, trains=False)), "", again)


_AGAIN: dict[str, Callable[[Path, Path, dict[str, Any], bool], None]] = {
    "compare": _compare,
    "benchmark": _benchmark,
    "robustness": _robustness,
    "layers": _layers,
    "probe": _probe,
    "study": _study,
}


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


def _is_same(then: Any, now: Any, tolerance: float) -> bool:
    if isinstance(then, float) and isinstance(now, float | int):
        is_nan = math.isnan(then) and math.isnan(now)
        return is_nan or math.isclose(then, now, rel_tol=TOLERANCE, abs_tol=tolerance)
    return bool(then == now)
