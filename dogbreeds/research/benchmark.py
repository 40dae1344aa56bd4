"""One protocol for any number of runs: the same folders of photos for all, a row for each, figures with intervals.

A run is judged on the photos that its training held out, and, where folders of them are given, on everyday photos, on
photos without a dog and on dogs of breeds that it does not know. `dogbreeds.research.benchmark_report` writes the
figures, and which photos they are of.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from dogbreeds.calibration_photos import DIGEST_DIGITS, fitted_on, num_fitted_on
from dogbreeds.errors import UserError, first_line
from dogbreeds.metrics import wilson_interval
from dogbreeds.model_card import EVERYDAY, FITTED_ON, HELD_OUT
from dogbreeds.photos import photo_files, places_by_digest
from dogbreeds.research.evaluate import (
    Evaluation,
    OtherData,
    check_known,
    evaluate,
    latencies,
    photos_of,
    recorded_photos,
)
from dogbreeds.research.provenance import Provenance, pinned
from dogbreeds.research.what_differs import Difference, what_differs
from dogbreeds.run_folder import RunFolder, unique_names
from dogbreeds.serving.calibrate import find_outputs, verdict_shares
from dogbreeds.serving.predictor import Predictor
from dogbreeds.split_file import SPLITS, load_splits, load_trained_on
from dogbreeds.training.datasets.checks import LeftOut, concatenated
from dogbreeds.training.datasets.sources import Photos, PhotoSources, read_dataset

OTHERS = ("other_photos", "other_dogs")
WORDS = {
    HELD_OUT: "held out in training",
    EVERYDAY: "everyday photos",
    **{kind: FITTED_ON[kind] for kind in OTHERS},
}
"""The sets in words."""

MANIFEST = "photos.csv"


@dataclass(frozen=True)
class Judged:
    """A run on one set of photos."""

    digests: tuple[str, ...]
    """The SHA-256 of each photo that could be opened."""
    labels: tuple[str, ...]
    """The breed of each; empty for one without a known breed."""
    photos_hash: str
    """Of both, whatever their order."""
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """95 %."""
    num_unreadable: int
    """Photos that could not be opened, and are in none of the above."""
    remarks: tuple[str, ...]
    """What flatters the run, and what it can't answer."""
    evaluation: Evaluation | None = None
    """Of photos of breeds that the run knows."""

    @property
    def n(self) -> int:
        """The number of photos."""
        return len(self.digests)

    @classmethod
    def of_breeds(cls, evaluation: Evaluation) -> "Judged":
        """On photos of breeds that the run knows."""
        found = evaluation.predictions
        labels = tuple(found.names[label] for label in found.labels)
        return cls(
            digests=found.digests,
            labels=labels,
            photos_hash=found.photos_hash,
            figures=evaluation.figures,
            intervals=evaluation.intervals,
            num_unreadable=len(evaluation.unreadable),
            remarks=evaluation.remarks,
            evaluation=evaluation,
        )

    @classmethod
    def of_others(cls, predictor: Predictor, kind: str, photos: Photos, progress: bool) -> "Judged":
        """On photos of something else, for their verdicts."""
        found = find_outputs(predictor, FITTED_ON[kind], list(map(Path, photos.ids)), photos.labels, progress)
        shares = verdict_shares(found.outputs, predictor.run.calibration)
        figures = {f"share_{verdict}": share for verdict, share in shares.items()}
        num, num_fitted = len(found.digests), num_fitted_on(predictor.run, found.digests)
        remark = f"{num_fitted:,} of the {num:,} {WORDS[kind]} fitted the calibration of {predictor.run.name}"
        return cls(
            digests=found.digests,
            labels=("",) * num,
            photos_hash=hashlib.sha256("\n".join(sorted(found.digests)).encode()).hexdigest(),
            figures=figures,
            intervals={name: wilson_interval(round(share * num), num) for name, share in figures.items()},
            num_unreadable=len(photos) - num,
            remarks=(f"{remark}, which flatters its verdicts",) if num_fitted else (),
        )


@dataclass(frozen=True)
class Row:
    """A run in the table."""

    name: str
    run: RunFolder
    split: Literal["validation", "test", "held-out"]
    """That of its training, whose photos it is judged on; `HELD_OUT` if those of a manifest are none of its own."""
    judged: dict[str, Judged]
    """By set of photos: `HELD_OUT`, and of `EVERYDAY` and `OTHERS` those that there are."""
    milliseconds: float
    """From a file to its answer, the median, measured in turns with the other runs."""

    @property
    def remarks(self) -> list[str]:
        """Those of all sets, each once."""
        return list(dict.fromkeys(remark for judged in self.judged.values() for remark in judged.remarks))


@dataclass(frozen=True)
class Benchmark:
    """The result of `benchmark`."""

    rows: tuple[Row, ...]
    places: dict[str, str]
    """Where the photos of each set were, but for those that were held out."""
    provenance: Provenance
    num_left_out: dict[str, int] = field(default_factory=dict)
    """By set, the photos that one of the runs knew before, and on which therefore none is judged."""

    @property
    def what_differs(self) -> list[Difference]:
        """What the runs differ in besides their figures."""
        return what_differs([[row.run.record] for row in self.rows])

    @property
    def unreadable(self) -> list[LeftOut]:
        """Photos of known breeds that could not be opened; of the others `find_outputs` tells while it runs."""
        found = [judged.evaluation for row in self.rows for judged in row.judged.values() if judged.evaluation]
        return list(dict.fromkeys(photo for evaluation in found for photo in evaluation.unreadable))

    @property
    def photos(self) -> dict[tuple[str, str], tuple[Judged, list[str]]]:
        """The different photos of each set: by set and hash, one run on them, and the names of all."""
        found: dict[tuple[str, str], tuple[Judged, list[str]]] = {}
        for row in self.rows:
            for kind, judged in row.judged.items():
                found.setdefault((kind, judged.photos_hash), (judged, []))[1].append(row.name)
        return found


def benchmark(
    run_dirs: Sequence[Path],
    *,
    data: str | None = None,
    everyday: str | None = None,
    other_photos: Path | None = None,
    other_dogs: Path | None = None,
    manifest: Path | None = None,
    progress: bool = True,
) -> Benchmark:
    """Judge runs by one protocol.

    Args:
        run_dirs: Run folders, each once.
        data: Where the data is that they were trained on; by default where it was then.
        everyday: Photos of breeds that they know, as for `dogbreeds.training.datasets.sources.read_dataset`.
        other_photos: Photos without a dog.
        other_dogs: Dogs of breeds that they do not know.
        manifest: photos.csv of an earlier benchmark, whose photos are used, and no others, those held out too. Without
            it, those photos of the folders are left out that one of the runs was trained or calibrated on.
        progress: Show progress bars.

    Raises:
        UserError: A run is missing or damaged, or was trained on other data; a folder is missing, holds a breed that a
            run does not know, or lacks photos of the manifest.
    """
    runs = [RunFolder.open(path) for path in run_dirs]
    names = unique_names(runs)
    arguments = {"run_dirs": pinned(runs, run_dirs), "data": data, "everyday": everyday, "manifest": manifest}
    arguments |= {"other_photos": other_photos, "other_dogs": other_dogs}
    held_out_in = [data or run.record.config["data"] for run in runs]
    read = [*run_dirs, *held_out_in, everyday, other_photos, other_dogs, manifest]
    provenance = Provenance.of("benchmark", arguments, read)
    folders = {kind: path for kind, path in zip(OTHERS, (other_photos, other_dogs), strict=True) if path}
    given = {EVERYDAY: concatenated(list(read_dataset(everyday, option="--everyday").values()))} if everyday else {}
    given |= {kind: _unlabelled(folder) for kind, folder in folders.items()}
    wanted = read_manifest(manifest) if manifest else None
    if everyday:
        for run in runs:
            check_known(run, given[EVERYDAY])
    used: set[str] = set().union(*map(known_photos, runs))
    chosen = {kind: _choose(kind, photos, used, wanted) for kind, photos in given.items()}
    predictors = [Predictor(run) for run in runs]
    held_out = [_held_out(*each, wanted) for each in zip(predictors, held_out_in, strict=True)]
    milliseconds = latencies(predictors, held_out[0][1])
    rows = []
    for name, predictor, (split, photos), speed in zip(names, predictors, held_out, milliseconds, strict=True):
        judged = {HELD_OUT: Judged.of_breeds(evaluate(predictor, photos, progress=progress))}
        for kind, others in chosen.items():
            judged[kind] = (
                Judged.of_breeds(evaluate(predictor, others, progress=progress))
                if kind == EVERYDAY
                else Judged.of_others(predictor, kind, others, progress)
            )
        rows.append(Row(name, predictor.run, split, judged, speed["median"]))
    places = {kind: str(place) for kind, place in {EVERYDAY: everyday, **folders}.items() if place}
    num_left_out = {} if wanted else {kind: len(given[kind]) - len(photos) for kind, photos in chosen.items()}
    return Benchmark(tuple(rows), places, provenance, num_left_out)


def read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """The digests and breeds of the photos of each set, from the photos.csv of an earlier benchmark.

    Raises:
        UserError: The file is missing or damaged, or its runs held out different photos.
    """
    found: dict[str, dict[str, str]] = {}
    held_out = set()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["set"], {})[row["sha256"]] = row["label"]
                if row["set"] == HELD_OUT:
                    held_out.add(row["photos"])
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"--manifest {str(path)!r} can't be read as the {MANIFEST} of a benchmark ({first_line(error)})"
        ) from None
    if len(held_out) > 1:
        raise UserError(
            f"--manifest {str(path)!r} has {len(held_out)} different sets of {HELD_OUT} photos, as its runs held out "
            f"different ones: keep the rows of one set, such as {min(held_out)[:DIGEST_DIGITS]}..."
        )
    return found


def _unlabelled(folder: Path) -> Photos:
    files = photo_files(folder)
    return Photos(tuple(map(str, files)), PhotoSources(files), np.full(len(files), -1), ())


def known_photos(run: RunFolder) -> set[str]:
    """The first `DIGEST_DIGITS` of the digests of all photos that a run was trained or calibrated on."""
    trained_on = load_trained_on(run.path / SPLITS) or {}
    return fitted_on(run) | {digest[:DIGEST_DIGITS] for digest in trained_on}


def _choose(kind: str, photos: Photos, used: set[str], wanted: dict[str, dict[str, str]] | None) -> Photos:
    """Of these photos, each once, those that are wanted, or that no run knew before."""
    place_of, unreadable = places_by_digest(photos.sources)
    if wanted is None:
        unknown = [place for digest, place in place_of.items() if digest[:DIGEST_DIGITS] not in used]
        # A file that can't be read stays, to be named with those that can't be decoded.
        chosen = sorted([*unknown, *unreadable])
        if not chosen:
            raise UserError(
                f"all {len(photos):,} {WORDS[kind]} were used to train or to calibrate one of the runs: give others"
            )
        return photos.select(chosen)
    if missing := wanted.get(kind, {}).keys() - place_of.keys():
        raise UserError(
            f"{len(missing):,} of the {len(wanted[kind]):,} {WORDS[kind]} of the manifest are not in the folder, such "
            f"as {min(missing)[:DIGEST_DIGITS]}...: give the folder of the earlier benchmark"
        )
    if kind not in wanted:
        raise UserError(f"the manifest has no {WORDS[kind]}: leave their folder out, or the manifest")
    return photos.select(sorted(place_of[digest] for digest in wanted[kind]))


def _held_out(
    predictor: Predictor, data: str, wanted: dict[str, dict[str, str]] | None
) -> tuple[Literal["validation", "test", "held-out"], Photos]:
    """The manifest's photos, else the split on which nothing was chosen, if training had one, else validation."""
    run = predictor.run
    if wanted is None or HELD_OUT not in wanted:
        split: Literal["validation", "test"] = "test" if run.record.data.num_test else "validation"
        return split, photos_of(predictor, data, split)
    try:
        photos = recorded_photos(data, {HELD_OUT: wanted[HELD_OUT]})[HELD_OUT]
    except OtherData as error:
        raise UserError(
            f"{data!r} does not hold the photos of the manifest, {error}: name the data of the earlier benchmark with "
            "--data"
        ) from None
    check_known(run, photos)
    own = load_splits(run.path / SPLITS) or {}
    of_own: list[Literal["validation", "test"]] = ["test", "validation"]
    found = (name for name in of_own if wanted[HELD_OUT].items() <= own.get(name, {}).items())
    return next(found, "held-out"), photos
