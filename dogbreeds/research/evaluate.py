"""One run on a labelled set: what it answers, how good that is, and what it costs."""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from tqdm import tqdm

from dogbreeds import metrics
from dogbreeds.addresses import Place
from dogbreeds.answers import answer_rates, num_rated
from dogbreeds.calibration import Outputs, softmax
from dogbreeds.calibration_photos import num_fitted_on
from dogbreeds.errors import UserError
from dogbreeds.files import whole_or_absent, write_json
from dogbreeds.images import BadImage, PhotoSource, open_image
from dogbreeds.latency import NUM_PHOTOS, milliseconds_per_photo
from dogbreeds.machine import processor
from dogbreeds.photos import read_digests, read_photo
from dogbreeds.predictions import Predictions
from dogbreeds.record import RunRecord
from dogbreeds.research.significance import calibration_error_by_chance, figure_intervals
from dogbreeds.run_folder import RunFolder, predictions_file
from dogbreeds.serving.predictor import Predictor
from dogbreeds.split_file import SPLITS, load_splits, load_trained_on
from dogbreeds.training.breed_metrics import compute_figures
from dogbreeds.training.datasets.checks import LeftOut, concatenated
from dogbreeds.training.datasets.sources import Photos, read_dataset
from dogbreeds.training.datasets.splits import load_data
from dogbreeds.training.options import TrainConfig, recorded_options

BATCH_SIZE = 32

NUM_CONFUSED = 5
"""Breeds that the printed summary names."""

SUMMARY = (
    ("n", "{n}"),
    ("  trained on", "{num_trained_on}"),
    ("top-1", "{top1}"),
    ("top-3", "{top3}"),
    ("top-5", "{top5}"),
    ("macro precision", "{macro_precision}"),
    ("macro recall", "{macro_recall}"),
    ("macro F1", "{macro_f1}"),
    ("  over breeds", "{num_breeds}"),
    ("ECE", "{ece}"),
    ("  by chance", "{by_chance}"),
    ("  uncalibrated", "{ece_uncalibrated}"),
    ("top-1 confident", "{top1_confident}"),
    ("confident", "{share_confident}"),
    ("unsure", "{share_unsure}"),
    ("  in candidates", "{candidates_right}"),
    ("  group named", "{share_group}"),
    ("  group right", "{group_right}"),
    ("unknown breed", "{share_unknown_breed}"),
    ("not a dog", "{share_not_a_dog}"),
    ("cross-entropy", "{cross_entropy}"),
    ("log-loss", "{log_loss}"),
    ("Brier score", "{brier}"),
    ("  uncalibrated", "{brier_uncalibrated}"),
    ("seconds", "{seconds:.1f} ({photos_per_second:.0f} photos a second)"),
    ("ms a photo", "{median:.1f} median, {p95:.1f} p95"),
    ("parameters", "{num_parameters:,}, of which trained {num_trained_parameters:,}"),
    ("model, MB", "{model_megabytes:.1f}"),
    ("GFLOPs a photo", "{gigaflops_per_photo:.2f}"),
    ("hardware", "{hardware}"),
)
"""The lines of the printed summary, figures with their 95 % intervals. One whose figure an evaluation does not have is
left out."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. `str` gives a summary to print."""

    figures: dict[str, float]
    """`dogbreeds.metrics.summary`, the share of each verdict, and top-1 among the confident answers where there are
    any."""
    breeds: tuple[metrics.BreedFigures, ...]
    """Each breed that occurs in the photos."""
    cost: dict[str, Any]
    """`seconds` of the whole evaluation and `photos_per_second`, decoding included; `milliseconds_per_photo` from one
    file to its answer (`dogbreeds.latency`); `dogbreeds.research.evaluate.fixed_cost`; and the `hardware`."""
    predictions: Predictions
    unreadable: tuple[LeftOut, ...]
    """Labelled photos that could not be opened and so are not in the figures."""
    num_trained_on: int | None
    """How many of the photos the run was trained on; None for runs of older versions, which did not record it."""
    remarks: tuple[str, ...]
    """Why the figures may be too good, and what the run can't answer."""
    intervals: dict[str, tuple[float, float]]
    """The 95 % interval of each figure: of rates `dogbreeds.metrics.wilson_interval`, of the others
    `dogbreeds.research.significance.figure_intervals`."""
    ece_by_chance: tuple[float, float]
    """`dogbreeds.research.significance.calibration_error_by_chance` of the calibrated probabilities."""

    @property
    def absent_breeds(self) -> tuple[str, ...]:
        """The breeds of the model that have no photos here, which the macro figures leave out."""
        present = {breed.breed for breed in self.breeds}
        return tuple(name for name in self.predictions.names if name not in present)

    def to_dict(self) -> dict[str, Any]:
        """Figures, their intervals and cost, as plain values for JSON."""
        counts = {"num_unreadable": len(self.unreadable), "num_trained_on": self.num_trained_on}
        return {**self.figures, **self._certainty(), **self.cost, **counts}

    def _certainty(self) -> dict[str, Any]:
        return {
            "intervals": self.intervals,
            "ece_by_chance": self.ece_by_chance,
            "absent_breeds": list(self.absent_breeds),
        }

    def __str__(self) -> str:
        rated = num_rated(self.figures)
        rates = {name: metrics.share_with_interval(self.figures[name], num) for name, num in rated.items()}
        spreads = {name: self._with_interval(name) for name in self.intervals if name not in rated}
        values = {**self.cost["milliseconds_per_photo"], **self.cost, **self.figures, **spreads, **rates}
        values["num_breeds"] = f"{len(self.breeds)} of {len(self.predictions.names)}"
        values["by_chance"] = "{:.1%} if every probability were right, at most {:.1%}".format(*self.ece_by_chance)
        if self.unreadable:
            values["n"] = f"{values['n']} of {values['n'] + len(self.unreadable)}"
        if self.cost["flops_per_photo"]:
            values["gigaflops_per_photo"] = self.cost["flops_per_photo"] / 1e9
        if self.num_trained_on is not None:
            values["num_trained_on"] = self.num_trained_on
        lines = []
        for name, form in SUMMARY:
            with suppress(KeyError):
                lines.append(f"{name:<15} {form.format_map(values)}")
        lines.append("\nmost confused breeds")
        for breed in metrics.most_confused(self.breeds, NUM_CONFUSED):
            others = ", ".join(f"{other.breed} {other.count}" for other in breed.mistaken_for if other.count)
            mistakes = f"; mistaken for {others}" if others else ""
            lines.append(f"  {breed.breed}: {breed.recall:.0%} of {breed.n}{mistakes}")
        if absent := self.absent_breeds:
            more = f" and {len(absent) - NUM_CONFUSED:,} more" if len(absent) > NUM_CONFUSED else ""
            lines.append(
                "\nwithout photos here, so left out of the macro figures, and never the wrong label, which flatters "
                f"precision and F1: {', '.join(absent[:NUM_CONFUSED])}{more}"
            )
        lines.append("\nin brackets: 95 % intervals, for other photos of this kind")
        return "\n".join(lines)

    def _with_interval(self, name: str) -> str:
        """A figure that is no share of the photos, with its interval: in per cent, or as a number."""
        value, (low, high) = self.figures[name], self.intervals[name]
        if name.startswith(("macro", "ece")):
            return f"{value:.1%} ({100 * low:.1f}-{100 * high:.1f})"
        return f"{value:.3f} ({low:.3f}-{high:.3f})"

    def save(self, folder: Place) -> None:
        """Write evaluation.json, breeds.csv, both confusion matrices as CSV, and predictions.parquet.

        Raises:
            UserError: The folder exists already or can't be made.
        """
        unreadable = [dataclasses.asdict(photo) for photo in self.unreadable]
        record = {
            "figures": self.figures,
            **self._certainty(),
            "cost": self.cost,
            "num_trained_on": self.num_trained_on,
            "unreadable": unreadable,
        }
        with whole_or_absent(folder) as unfinished:
            write_json(unfinished / "evaluation.json", record)
            self.predictions.write_tables(unfinished)
            self.predictions.save(unfinished / "predictions.parquet")


@dataclass(frozen=True)
class Classified:
    """A model's raw answers to labelled photos."""

    outputs: Outputs
    """Of the network, before calibration."""
    labels: np.ndarray
    """`(N,)` int64, as the model counts its classes."""
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    """As in `dogbreeds.predictions.Predictions`."""
    unreadable: tuple[LeftOut, ...]
    seconds: float
    """From the first file to the last answer."""

    def predictions(self, run: RunFolder) -> Predictions:
        """The calibrated probabilities that the run gives."""
        probabilities, temperature = run.calibration.probabilities(self.outputs.logits), run.calibration.temperature
        return Predictions(self.ids, self.digests, self.labels, run.labels, probabilities, temperature)


def evaluate(predictor: Predictor, photos: Photos, *, progress: bool = True) -> Evaluation:
    """Classify labelled photos and score the calibrated probabilities.

    Args:
        predictor: The run to evaluate.
        photos: From `photos_of`, or a split from `dogbreeds.training.datasets.splits.load_data`.
        progress: Show a progress bar.

    Raises:
        UserError: The photos have a breed that the model does not know, or none can be opened.
    """
    run = predictor.run
    answers = classify(predictor, photos, progress=progress)
    predictions = answers.predictions(run)
    scored = predictions.probabilities, predictions.labels, softmax(answers.outputs.logits)
    figures = {
        **compute_figures(*scored),
        **answer_rates(answers.outputs, answers.labels, run.calibration, run.labels),
    }
    return Evaluation(
        figures,
        tuple(metrics.breed_figures(predictions.probabilities, predictions.labels, predictions.names)),
        {
            "seconds": answers.seconds,
            "photos_per_second": len(predictions) / answers.seconds,
            "milliseconds_per_photo": latencies([predictor], photos)[0],
            **fixed_cost(run),
            "hardware": processor(),
        },
        predictions,
        answers.unreadable,
        num_trained_on(run, predictions.digests),
        (*training_remarks(run, predictions.digests), *missing_answers(run)),
        {**rate_intervals(figures), **figure_intervals(*scored)},
        calibration_error_by_chance(predictions.probabilities.max(axis=1)),
    )


def rate_intervals(figures: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """The 95 % interval (`dogbreeds.metrics.wilson_interval`) of each rate in the figures."""
    rated = num_rated(figures)
    return {name: metrics.wilson_interval(round(figures[name] * num), num) for name, num in rated.items()}


def classify(predictor: Predictor, photos: Photos, *, progress: bool = True) -> Classified:
    """Compute a run's answers to labelled photos.

    Raises:
        UserError: The photos have a breed that the model does not know, or none can be opened.
    """
    run = predictor.run
    check_known(run, photos)
    label_of = np.array([run.labels.index(name) for name in photos.names])
    outputs: list[Outputs] = []
    kept: list[int] = []
    digests: list[str] = []
    unreadable: list[LeftOut] = []
    started = time.perf_counter()
    found = predictor.read_outputs(photos.sources, BATCH_SIZE)
    bar = tqdm(found, f"evaluating {run.name}", len(photos), unit="photo", disable=not progress)
    for index, photo in enumerate(bar):
        if isinstance(photo, BadImage):
            unreadable.append(LeftOut(photos.ids[index], str(photo)))
        else:
            kept.append(index)
            digests.append(photo[0])
            outputs.append(photo[1])
    if not kept:
        raise UserError("none of the photos can be opened")
    assert len(kept) + len(unreadable) == len(photos), (len(kept), len(unreadable), len(photos))
    return Classified(
        outputs=Outputs.concatenate(outputs),
        labels=label_of[photos.labels[kept]],
        ids=tuple(photos.ids[index] for index in kept),
        digests=tuple(digests),
        unreadable=tuple(unreadable),
        seconds=time.perf_counter() - started,
    )


def check_known(run: RunFolder, photos: Photos) -> None:
    """Refuse photos of a breed that a run does not know.

    Raises:
        UserError: There are some.
    """
    unknown = [name for name in photos.names if name not in run.labels]
    if unknown:
        raise UserError(
            f"the run {run.name!r} does not know {len(unknown)} of the breeds in this data, such as {unknown[0]!r}: "
            "leave their photos out, or use a run that was trained on them"
        )


def latencies(predictors: Sequence[Predictor], photos: Photos) -> list[dict[str, float]]:
    """The median and 95th percentile of the milliseconds from one file to its answer, for each run, taken in turns."""
    readable = (source for source in photos.sources if not isinstance(read_photo(source, open_image), BadImage))
    some = list(islice(readable, NUM_PHOTOS))
    return answer_milliseconds(predictors, some)


def answer_milliseconds(predictors: Sequence[Predictor], photos: Sequence[PhotoSource]) -> list[dict[str, float]]:
    """`milliseconds_per_photo` of runs; they answer a photo as a whole, without a search for several dogs."""
    return milliseconds_per_photo([partial(predictor.predict, every_dog=False) for predictor in predictors], photos)


def fixed_cost(run: RunFolder) -> dict[str, Any]:
    """What a run costs whatever the machine, as its training noted it, and the size of the model that is served.

    Returns:
        `num_parameters`, `num_trained_parameters`, `flops_per_photo` (None from runs that did not count it) and
        `model_megabytes` (10^6 bytes).
    """
    return {
        "num_parameters": run.record.num_parameters,
        "num_trained_parameters": run.record.num_trained_parameters,
        "flops_per_photo": run.record.flops_per_photo,
        "model_megabytes": run.onnx.stat().st_size / 1e6,
    }


def training_seconds(record: RunRecord) -> float:
    """What training a run took, with the features of a frozen backbone and the run that it started from."""
    stages = [record.seconds, record.base_run.seconds if record.base_run else {}]
    return sum(seconds.get(part, 0.0) for seconds in stages for part in ("features", "training"))


def num_trained_on(run: RunFolder, digests: Sequence[str]) -> int | None:
    """How many photos of these digests a run was trained on; None where an older version did not record it."""
    trained_on = load_trained_on(run.path / SPLITS)
    return None if trained_on is None else sum(digest in trained_on for digest in digests)


def training_remarks(run: RunFolder, digests: Sequence[str]) -> list[str]:
    """What flatters a run: that it was trained on some of the photos that it is evaluated on, or calibrated on them.

    All goes by the photos' content, wherever they are. Runs of older versions recorded the photos that they held out,
    but not those that they were trained on: so nothing is known where none of these photos was held out.
    """
    trained_on, unknown = num_trained_on(run, digests), False
    if trained_on is not None:
        found = f"was trained on {trained_on:,} of these {len(digests):,} photos"
    else:
        files = [run.path / predictions_file(split) for split in ("validation", "test")]
        held_out = {digest for file in files if file.is_file() for digest in Predictions.load(file).digests}
        num_held_out = len(held_out & set(digests))
        found = (
            f"held out only {num_held_out:,} of these {len(digests):,} photos; it was probably trained on the others"
        )
        trained_on, unknown = num_held_out and len(digests) - num_held_out, not num_held_out
    remarks = []
    if unknown:
        remarks = [f"{run.name} does not say which photos it was trained on, so some of these may be among them"]
    if trained_on:
        remarks = [f"{run.name} {found}, which flatters it: --split validation or test evaluates it on those held out"]
    if fitted := num_fitted_on(run, digests):
        remarks.append(
            f"{fitted:,} of these {len(digests):,} photos fitted the calibration of {run.name}, which flatters its ECE "
            "and its verdicts: evaluate it on others"
        )
    return remarks


def missing_answers(run: RunFolder) -> list[str]:
    """A sentence if a run can't give one of the verdicts, as those that only its training calibrated."""
    if run.calibration.unknown_breed_threshold is not None:
        return []
    return [
        f"{run.name} was calibrated without dogs of other breeds, so it never says that a dog is of a breed that it "
        "does not know: python -m dogbreeds calibrate adds that"
    ]


def photos_of(predictor: Predictor, data: str, split: str | None = None) -> Photos:
    """The labelled photos to evaluate a run on.

    Args:
        predictor: The run.
        data: As for `dogbreeds.training.datasets.sources.read_dataset`.
        split: A split of the data. Where the data does not bring it, it is that of the run's training; see `splits_of`.
            By default test, else validation, else all there is.

    Raises:
        UserError: There is no such data or split.
    """
    run = predictor.run
    given = read_dataset(data)
    if split is None:
        split = next(name for name in ("test", "validation", "train") if name in given)
    elif split not in given:
        if split not in ("validation", "test"):
            raise UserError(f"there is no split {split!r} in {data!r}: it has {', '.join(given)}")
        print(f"{data!r} has no {split} split; using that of the training of {run.name!r}", file=sys.stderr)
        try:
            return splits_of(run, data, [split])[split]
        except OtherData as error:
            raise UserError(f"{data!r} has no {split} split, and {error}") from None
    photos = given[split]
    if run.record.config["breeds"]:  # a run on a part of the breeds is evaluated on that part
        known = [label for label, name in enumerate(photos.names) if name in run.labels]
        kept = np.flatnonzero(np.isin(photos.labels, known))
        if len(kept) < len(photos):
            print(
                f"left out {len(photos) - len(kept)} photos of breeds that the run was not trained on", file=sys.stderr
            )
            photos = photos.select(kept)
        if not len(kept):
            raise UserError(f"{data!r} has no photos of the breeds that the run {run.name!r} knows")
    return _without_unused_names(photos)


class OtherData(UserError):
    """The data is not what a run was trained on."""


def splits_of(run: RunFolder, data: str, names: Sequence[str]) -> dict[str, Photos]:
    """Splits of a run's training.

    Their photos are found by their digests, so the data may have got other photos since. Runs of older versions did not
    record their splits: there the data is split again with the run's options, and must be the same.

    Args:
        run: The run.
        data: Where its data is now, as for `dogbreeds.training.datasets.sources.read_dataset`.
        names: Of train, validation and test.

    Raises:
        OtherData: It was trained on other data.
        UserError: The run has no such split, or the data can't be read.
    """
    recorded = load_splits(run.path / SPLITS)
    if recorded is None:
        found = _split_again(run, data)
    else:
        wanted = {name: recorded[name] for name in names if name in recorded}
        try:
            found = recorded_photos(data, wanted)
        except OtherData as error:
            raise OtherData(f"it is not the data that the run {run.name!r} was trained on: {error}") from None
    if missing := set(names) - found.keys():
        raise UserError(f"the run {run.name!r} was trained without a {missing.pop()} split (--test-fraction 0)")
    return {name: found[name] for name in names}


def _split_again(run: RunFolder, data: str) -> dict[str, Photos]:
    # Each photo is read once or twice here: not enough to fill the disk with a pixel cache.
    config = TrainConfig.from_dict(recorded_options(run.record.config)).replace(data=data, cache="off")
    splits = load_data(config, progress=False)
    if splits.split_hash != run.record.data.split_hash:
        raise OtherData(f"it is not the data that the run {run.name!r} was trained on")
    return {name: splits[name] for name in ["train", *splits.held_out]}


def recorded_photos(data: str, splits: dict[str, dict[str, str]]) -> dict[str, Photos]:
    """The photos of splits by their digests, each in the order of the digests, as training has them.

    Args:
        data: Where they are now, as for `dogbreeds.training.datasets.sources.read_dataset`.
        splits: As from `load_splits`: the breed of each digest.

    Raises:
        OtherData: Some are not there.
        UserError: The data can't be read.
    """
    photos = concatenated(list(read_dataset(data).values()))
    index_of: dict[tuple[str, str], int] = {}  # by digest and label
    for index, digest in enumerate(read_digests(photos.sources)):
        if isinstance(digest, str):  # the file can be read
            index_of.setdefault((digest, photos.names[photos.labels[index]]), index)
    found = {}
    for split, label_of in splits.items():
        if missing := label_of.items() - index_of.keys():
            raise OtherData(f"{len(missing):,} of {len(label_of):,} {split} photos are not in it")
        indices = [index_of[photo] for photo in sorted(label_of.items())]
        found[split] = _without_unused_names(photos.select(indices))
    return found


def _without_unused_names(photos: Photos) -> Photos:
    present = np.unique(photos.labels)
    names = tuple(photos.names[label] for label in present)
    return replace(photos, names=names, labels=np.searchsorted(present, photos.labels))
