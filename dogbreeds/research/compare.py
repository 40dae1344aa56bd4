"""Several runs on the same photos: which is better, by how much, at what cost, and whether that could be chance.

`compare` makes a `Comparison` of numbers; `dogbreeds.research.report` shows it.
"""

import csv
import dataclasses
import io
import itertools
import json
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dogbreeds import metrics
from dogbreeds.errors import UserError
from dogbreeds.latency import NUM_PHOTOS
from dogbreeds.predictions import Predictions
from dogbreeds.record import RunRecord
from dogbreeds.research.evaluate import (
    answer_milliseconds,
    classify,
    fixed_cost,
    photos_of,
    rate_intervals,
    training_remarks,
    training_seconds,
)
from dogbreeds.research.photo_finder import PhotoFinder
from dogbreeds.research.provenance import Provenance, pinned
from dogbreeds.research.significance import (
    SIGNIFICANCE_LEVEL,
    PhotoDraws,
    bootstrap_interval,
    calibration_error_by_chance,
    figure_intervals,
    holm,
    interval_of_right,
    mcnemar,
)
from dogbreeds.research.what_differs import Difference, tuning_budget, what_differs
from dogbreeds.run_folder import HISTORY, RunFolder, predictions_file, unique_names
from dogbreeds.serving.predictor import Predictor
from dogbreeds.training.breed_metrics import compute_figures
from dogbreeds.training.options import NEUTRAL_OPTIONS, TrainConfig, recorded_options

NOT_THE_RECIPE = {*NEUTRAL_OPTIONS, "seed", "split_seed", "near_duplicates", "faults"}
"""Options in which two runs of the same recipe may differ."""


@dataclass(frozen=True)
class Entry:
    """One run in a comparison."""

    name: str
    recipe: str
    """The name of the recipe; runs that differ in nothing but the seed share it."""
    predictor: Predictor
    predictions: Predictions
    figures: dict[str, float]
    """`dogbreeds.metrics.summary`, and `top1_low` and `top1_high`, the 95 % interval of top-1."""
    intervals: dict[str, tuple[float, float]]
    """The 95 % interval of each figure, as of `dogbreeds.research.evaluate.Evaluation`."""
    ece_by_chance: tuple[float, float]
    """`dogbreeds.research.significance.calibration_error_by_chance`."""
    breeds: tuple[metrics.BreedFigures, ...]
    cost: dict[str, Any]
    """`dogbreeds.research.evaluate.fixed_cost`; `training_seconds`, including those of the run that it started from;
    the `training_hardware`; and `milliseconds_per_photo` from one file to its answer, measured here in turns with the
    other runs and without a search for several dogs."""
    history: tuple[dict[str, float], ...]
    """history.csv: one row an epoch."""

    @property
    def run(self) -> RunFolder:
        """The run folder."""
        return self.predictor.run

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return int(self.run.record.config["seed"])


@dataclass(frozen=True)
class Pair:
    """Two runs on the same photos."""

    first: str
    second: str
    n: int
    both_right: int
    only_first_right: int
    only_second_right: int
    both_wrong: int
    same_answer: float
    """The share of photos for which both predict the same breed, right or wrong."""
    kappa: float
    """Cohen's kappa of their predictions: 1 where all agree, 0 where no more agree than by chance."""
    kappa_interval: tuple[float, float]
    error_consistency: float
    """Cohen's kappa of being right or wrong: 1 where both fail on the same photos, 0 where no more often than by chance
    (Geirhos et al. 2020, https://arxiv.org/abs/2006.16736)."""
    error_consistency_interval: tuple[float, float]
    top1_difference: float
    """The first's top-1 accuracy minus the second's."""
    top1_interval: tuple[float, float]
    log_loss_difference: float
    log_loss_interval: tuple[float, float]
    p_value: float
    """Of McNemar's exact test."""
    p_value_adjusted: float
    """The same after Holm's correction for the number of pairs on these photos."""

    @property
    def is_significant(self) -> bool:
        """Whether chance is an unlikely reason for the difference in top-1."""
        return self.p_value_adjusted < SIGNIFICANCE_LEVEL


@dataclass(frozen=True)
class Group:
    """Runs that were evaluated on the same photos: one of each recipe."""

    entries: tuple[Entry, ...]
    pairs: tuple[Pair, ...]
    order: np.ndarray
    """The breeds that occur, with similar ones side by side: indices into the classes."""

    @property
    def predictions(self) -> Predictions:
        """Of the first run; the photos and labels are those of all."""
        return self.entries[0].predictions

    @property
    def photos_hash(self) -> str:
        """The SHA-256 of the contents and labels of the photos."""
        return self.predictions.photos_hash

    def entry(self, name: str) -> Entry:
        """The run of this name."""
        return next(entry for entry in self.entries if entry.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for comparison.json."""
        return {
            "n": len(self.predictions),
            "photos_sha256": self.photos_hash,
            "runs": {
                entry.name: {
                    "recipe": entry.recipe,
                    "seed": entry.seed,
                    "figures": entry.figures,
                    "intervals": entry.intervals,
                    "ece_by_chance": entry.ece_by_chance,
                    "cost": entry.cost,
                    "breeds": [dataclasses.asdict(breed) for breed in entry.breeds],
                    "history": list(entry.history),
                    "command": entry.run.record.command,
                    "split_hash": entry.run.record.data.split_hash,
                    "versions": entry.run.record.versions,
                }
                for entry in self.entries
            },
            "pairs": [dataclasses.asdict(pair) for pair in self.pairs],
        }


@dataclass(frozen=True)
class Comparison:
    """All numbers of a report."""

    split: str | None
    """The split of the photos; None for all of `data`."""
    data: str | None
    """The labelled set on which the runs were evaluated; None for the predictions that they hold."""
    groups: tuple[Group, ...]
    """One for each seed, the lowest first."""
    photos: PhotoFinder
    latency_photos: str
    """A description of the photos that were timed: those of the runs, or a generated one."""
    remarks: tuple[str, ...]
    """What a reader must know about the choice of photos: what was left out, and why the figures may be too good."""
    provenance: Provenance
    """What `compare` was called with, and where the latencies were measured."""

    @property
    def command(self) -> str:
        """The command line that makes the report of this comparison."""
        return _command(**self.provenance.arguments)

    @property
    def main(self) -> Group:
        """The photos that the report shows in detail."""
        return self.groups[0]

    @property
    def what_differs(self) -> list[Difference]:
        """What the recipes differ in, before anyone reads which is better."""
        return what_differs(self._records_of_recipes())

    @property
    def tuning_budget(self) -> str:
        """How many trials chose the options of each recipe, in a sentence."""
        return tuning_budget(self._records_of_recipes())

    def _records_of_recipes(self) -> list[list[RunRecord]]:
        entries = [entry for group in self.groups for entry in group.entries]
        recipes = [entry.recipe for entry in self.main.entries]
        return [[entry.run.record for entry in entries if entry.recipe == recipe] for recipe in recipes]

    def over_seeds(self, recipe: str) -> dict[str, tuple[float, float]]:
        """The mean and standard deviation (n - 1) of a recipe's figures over its seeds."""
        rows = [entry.figures for group in self.groups for entry in group.entries if entry.recipe == recipe]
        left_out = ("n", "top1_low", "top1_high")
        return {key: mean_and_deviation([row[key] for row in rows]) for key in rows[0] if key not in left_out}

    def differences(self, first: str, second: str) -> list[float]:
        """The difference in top-1 of two recipes, seed by seed."""
        return [
            pair.top1_difference
            for group in self.groups
            for pair in group.pairs
            if (group.entry(pair.first).recipe, group.entry(pair.second).recipe) == (first, second)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for comparison.json."""
        recipes = [entry.recipe for entry in self.main.entries] if len(self.groups) > 1 else []
        return {
            "command": self.command,
            **self.provenance.to_dict(),
            "split": self.split,
            "data": self.data,
            "recipes": [entry.recipe for entry in self.main.entries],
            "what_differs": {each.what: list(each.values) for each in self.what_differs},
            "remarks": list(self.remarks),
            "latency_photos": self.latency_photos,
            "groups": [group.to_dict() for group in self.groups],
            "over_seeds": {recipe: self.over_seeds(recipe) for recipe in recipes},
        }


def compare(
    run_dirs: Sequence[Path],
    *,
    split: str | None = None,
    data: str | None = None,
    photos: str | None = None,
    show_photos: bool = True,
    common: bool = False,
    progress: bool = True,
) -> Comparison:
    """Compare runs on the same photos.

    Args:
        run_dirs: Two or more run folders. Runs that differ in nothing but the seed are one recipe; then every recipe
            needs as many seeds, and the runs of a seed need the same photos. The lowest seed is shown in detail.
        split: Of the predictions that the runs hold, "test" or "validation"; by default test where all runs have it.
            With `data`, any split of that.
        data: Evaluate the runs on this labelled set (see `dogbreeds.training.datasets.sources.read_dataset`) instead of
            by the predictions that they hold.
        photos: Where the photos of the predictions are, to show and to time; by default `data`, or what runs name.
        show_photos: Whether to look for photos at all.
        common: Use the photos that all runs have, where they were not evaluated on the same ones.
        progress: Show progress bars while runs are evaluated.

    Raises:
        UserError: A run is missing or damaged, has no such predictions, knows other breeds, or was evaluated on other
            photos than the rest.
    """
    runs = _open(run_dirs)
    arguments: dict[str, Any] = {"run_dirs": pinned(runs, run_dirs), "split": split, "data": data, "photos": photos}
    arguments |= {"show_photos": show_photos, "common": common}
    provenance = Provenance.of("compare", arguments, [*run_dirs, data, photos])
    predictors = [Predictor(run) for run in runs]
    remarks: list[str] = []
    if data is None:
        split = split or _common_split(runs)
        predictions = [_stored(run, split) for run in runs]
    else:
        predictions = [_computed(predictor, data, split, progress, remarks) for predictor in predictors]
    predictions = [_sorted(given.reordered(runs[0].labels), remarks) for given in predictions]
    if common:
        predictions = _in_common(predictions, remarks)
    for run, given in zip(runs, predictions, strict=True):
        remarks += training_remarks(run, given.digests)
    finder = PhotoFinder.for_runs(runs, photos or data) if show_photos else PhotoFinder(None)
    names = unique_names(runs)
    recipes = _recipe_names(runs, names)
    groups = _grouped(runs, names, recipes, predictions)
    costs, latency_photos = _costs(predictors, finder, predictions[0])
    entries = [_entry(*of_run) for of_run in zip(names, recipes, predictors, predictions, costs, strict=True)]
    return Comparison(
        split=split,
        data=data,
        groups=tuple(_group([entries[i] for i in members]) for members in groups),
        photos=finder,
        latency_photos=latency_photos,
        remarks=tuple(dict.fromkeys(remarks)),
        provenance=provenance,
    )


# Which photos


def _open(run_dirs: Sequence[Path]) -> list[RunFolder]:
    if len(run_dirs) < 2:
        raise UserError("a comparison needs two or more run folders: compare RUN RUN [RUN ...] --output DIR")
    runs = [RunFolder.open(path) for path in run_dirs]
    if len({run.path for run in runs}) < len(runs):
        raise UserError("a run folder is named twice: name each once")
    for run in runs[1:]:
        _check_same_breeds(runs[0], run)
    return runs


def _check_same_breeds(first: RunFolder, second: RunFolder) -> None:
    if other := sorted(set(first.labels) ^ set(second.labels)):
        raise UserError(
            f"the runs {first.name!r} and {second.name!r} know other breeds ({len(first.labels)} and "
            f"{len(second.labels)}; only one knows {other[0]!r}): compare runs that were trained on the same breeds"
        )


def _common_split(runs: Sequence[RunFolder]) -> str:
    for split in ("test", "validation"):
        if all((run.path / predictions_file(split)).is_file() for run in runs):
            return split
    raise UserError(
        "the runs have no predictions of the same split: evaluate them on a labelled set with --data, or train them on "
        "the same splits"
    )


def _stored(run: RunFolder, split: str) -> Predictions:
    path = run.path / predictions_file(split)
    if not path.is_file():
        raise UserError(
            f"the run {run.name!r} holds no predictions of a {split} split: choose another --split, or evaluate the "
            "runs on a labelled set with --data"
        )
    predictions = Predictions.load(path)
    if predictions.names != run.labels:
        raise UserError(f"{str(path)!r} is damaged: its breeds are not those of the run")
    return predictions


def _computed(predictor: Predictor, data: str, split: str | None, progress: bool, remarks: list[str]) -> Predictions:
    answers = classify(predictor, photos_of(predictor, data, split), progress=progress)
    for photo in answers.unreadable:
        remarks.append(f"left out {photo.id}: {photo.reason}")
    return answers.predictions(predictor.run)


def _sorted(predictions: Predictions, remarks: list[str]) -> Predictions:
    """In the order of the photos' content, which is the same for all runs; each photo once."""
    _, first_of_each = np.unique(predictions.digests, return_index=True)
    if num_copies := len(predictions) - len(first_of_each):
        remarks.append(f"left out {num_copies:,} copies of other photos")
    return predictions.select(first_of_each)


def _in_common(predictions: Sequence[Predictions], remarks: list[str]) -> list[Predictions]:
    """The photos, by their content, that all runs have with the same label."""
    keys = [list(zip(given.digests, given.labels.tolist(), strict=True)) for given in predictions]
    shared = set.intersection(*map(set, keys))
    if not shared:
        raise UserError("the runs were evaluated on no photo in common: evaluate them on one labelled set with --data")
    if num_dropped := len(set.union(*map(set, keys))) - len(shared):
        num_all = num_dropped + len(shared)
        remarks.append(f"left out {num_dropped:,} of {num_all:,} photos, which the runs do not all have")
    return [
        given.select(np.array([i for i, key in enumerate(mine) if key in shared]))
        for given, mine in zip(predictions, keys, strict=True)
    ]


def _seeds(run: RunFolder) -> tuple[int, int]:
    """What the runs of one recipe differ in: the seed of the split, and that of the training."""
    options = recorded_options(run.record.config)
    return options["split_seed"], options["seed"]


def _grouped(
    runs: Sequence[RunFolder], names: Sequence[str], recipes: Sequence[str], predictions: Sequence[Predictions]
) -> list[list[int]]:
    """The runs that are compared photo by photo: indices, one of each recipe, seed by seed."""
    if len(set(recipes)) == 1:
        raise UserError(
            f"all runs are of one recipe, {recipes[0]!r}, and differ in the seed alone: name runs of another one too"
        )
    keys = [(recipe, *_seeds(run)) for recipe, run in zip(recipes, runs, strict=True)]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            twice = names[keys.index(key)]
            raise UserError(f"{twice!r} and {names[index]!r} have the same options and seeds: name one of them")
    sets: dict[tuple[str, ...], list[int]] = {}
    for index, given in enumerate(predictions):
        sets.setdefault((*given.digests, *map(str, given.labels)), []).append(index)
    groups = []
    for members in sets.values():
        of_recipe = [[index for index in members if recipes[index] == recipe] for recipe in dict.fromkeys(recipes)]
        if len({len(mine) for mine in of_recipe}) > 1:
            raise UserError(_why_not_grouped(members, names, predictions))
        if len(of_recipe[0]) > 1:
            _check_same_seeds(of_recipe, runs, names)
        for mine in of_recipe:
            mine.sort(key=lambda index: _seeds(runs[index]))
        groups += [list(group) for group in zip(*of_recipe, strict=True)]
    return sorted(groups, key=lambda group: _seeds(runs[group[0]]))


def _check_same_seeds(of_recipe: Sequence[Sequence[int]], runs: Sequence[RunFolder], names: Sequence[str]) -> None:
    """Several runs of each recipe must have the same seeds: a difference seed by seed is of runs of the same seed."""
    common = set.intersection(*({_seeds(runs[index]) for index in mine} for mine in of_recipe))
    alone = [index for mine in of_recipe for index in mine if _seeds(runs[index]) not in common]
    if alone:
        described = ["{!r} (--split-seed {} --seed {})".format(names[index], *_seeds(runs[index])) for index in alone]
        raise UserError(
            f"the runs {', '.join(described)} have seeds that not all recipes have on the same photos: "
            "name runs of the same seeds of each recipe, or one run of each"
        )


def _why_not_grouped(members: Sequence[int], names: Sequence[str], predictions: Sequence[Predictions]) -> str:
    here = members[0]
    other = next((index for index in range(len(names)) if index not in members), None)
    if other is None:
        return (
            "the recipes have different numbers of seeds on the same photos: name as many runs of each recipe "
            f"({', '.join(names)})"
        )
    num_shared = len(set(predictions[here].digests) & set(predictions[other].digests))
    return (
        f"the runs {names[here]!r} and {names[other]!r} were evaluated on different photos ({num_shared} of "
        f"{len(predictions[here])} and {len(predictions[other])} in common): train them on the same data with the same "
        "--split-seed, use --common for the photos that all share, or --data for another labelled set"
    )


# What is compared


def _command(
    run_dirs: Sequence[str], split: str | None, data: str | None, photos: str | None, show_photos: bool, common: bool
) -> str:
    options = {"--split": split, "--data": data, "--photos": photos}
    words = ["python", "-m", "dogbreeds", "compare", *run_dirs, "--output", "REPORT"]
    words += [word for option, value in options.items() if value is not None for word in (option, value)]
    words += [] if show_photos else ["--without-photos"]
    return shlex.join(words + (["--common"] if common else []))


def _recipe_names(runs: Sequence[RunFolder], names: Sequence[str]) -> list[str]:
    """A name for each run's recipe: that of its first run, without the seed where there are several."""

    def options(run: RunFolder) -> str:
        config = run.record.config
        with suppress(UserError):  # what this version does not know counts as it is recorded
            config = {**config, **TrainConfig.from_dict(config).to_dict()}
        kept = {key: value for key, value in config.items() if key not in NOT_THE_RECIPE}
        if config.get("images_per_breed") is None:  # else the seed draws other photos from the same data
            kept["data"] = run.record.data.fingerprint
        return json.dumps([kept, run.is_8bit], sort_keys=True)

    recipes = [options(run) for run in runs]
    named: dict[str, str] = {}
    for run, name, recipe in zip(runs, names, recipes, strict=True):
        seed = run.record.config["seed"]
        without_seed = re.sub(rf"[-_]?(seed|s)?[-_]?{seed}$", "", name) or name
        named.setdefault(recipe, without_seed if recipes.count(recipe) > 1 else name)
    if len(set(named.values())) < len(named):  # two recipes whose names differ in nothing but the seed
        named = {recipe: names[recipes.index(recipe)] for recipe in named}
    return [named[recipe] for recipe in recipes]


def _costs(
    predictors: Sequence[Predictor], finder: PhotoFinder, predictions: Predictions
) -> tuple[list[dict[str, Any]], str]:
    first = range(min(len(predictions), NUM_PHOTOS))
    found = [finder.find(predictions.ids[index], predictions.digests[index]) for index in first]
    sources: list[Any] = [file for file in found if file is not None]
    what = f"{len(sources)} of the photos"
    if not sources:
        sources, what = [_generated_jpeg()] * NUM_PHOTOS, "a generated JPEG of 500 x 375 pixels"
    timed = answer_milliseconds(predictors, sources)
    costs = []
    for predictor, milliseconds in zip(predictors, timed, strict=True):
        record = predictor.run.record
        costs.append(
            {
                **fixed_cost(predictor.run),
                "milliseconds_per_photo": milliseconds,
                "training_seconds": training_seconds(record),
                "training_hardware": record.hardware,
            }
        )
    return costs, what


def _generated_jpeg() -> bytes:
    """A picture of the size of the data set's photos, as hard to decode as they are."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def _entry(name: str, recipe: str, predictor: Predictor, predictions: Predictions, cost: dict[str, Any]) -> Entry:
    run = predictor.run
    uncalibrated = predictions.uncalibrated(run.calibration.temperature)
    low, high = metrics.wilson_interval(int(predictions.right.sum()), len(predictions))
    scored = predictions.probabilities, predictions.labels, uncalibrated
    figures = compute_figures(*scored)
    intervals = {**rate_intervals(figures), **figure_intervals(*scored)}
    figures |= {"top1_low": low, "top1_high": high}
    breeds = metrics.breed_figures(predictions.probabilities, predictions.labels, predictions.names)
    try:
        with (run.path / HISTORY).open(newline="") as file:
            history = tuple({key: float(value) for key, value in row.items()} for row in csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise UserError(f"run folder {str(run.path)!r} is damaged: {HISTORY} can't be read ({error})") from None
    by_chance = calibration_error_by_chance(predictions.probabilities.max(axis=1))
    return Entry(name, recipe, predictor, predictions, figures, intervals, by_chance, tuple(breeds), cost, history)


def _group(entries: Sequence[Entry]) -> Group:
    pairs = list(itertools.combinations(entries, 2))
    p_values = [mcnemar(first.predictions.right, second.predictions.right) for first, second in pairs]
    return Group(
        tuple(entries),
        tuple(_pair(*pair, p, adjusted) for pair, p, adjusted in zip(pairs, p_values, holm(p_values), strict=True)),
        order_by_similarity([entry.predictions for entry in entries]),
    )


def _pair(first: Entry, second: Entry, p_value: float, p_value_adjusted: float) -> Pair:
    one, other = first.predictions, second.predictions
    assert one.digests == other.digests and np.array_equal(one.labels, other.labels)
    by_top1 = one.right.astype(float) - other.right.astype(float)
    rows = np.arange(len(one))
    mine, theirs = (given.probabilities[rows, one.labels].clip(1e-15) for given in (one, other))
    by_loss = np.log(theirs) - np.log(mine)
    draws = PhotoDraws(len(one))
    return Pair(
        first=first.name,
        second=second.name,
        n=len(one),
        both_right=int((one.right & other.right).sum()),
        only_first_right=int((one.right & ~other.right).sum()),
        only_second_right=int((~one.right & other.right).sum()),
        both_wrong=int((~one.right & ~other.right).sum()),
        same_answer=float((one.predicted == other.predicted).mean()),
        kappa=_kappa(one.predicted, other.predicted),
        kappa_interval=draws.of_kappa(one.predicted, other.predicted),
        error_consistency=_kappa(one.right, other.right),
        error_consistency_interval=draws.of_kappa(one.right.astype(int), other.right.astype(int)),
        top1_difference=float(by_top1.mean()),
        top1_interval=interval_of_right(by_top1),
        log_loss_difference=float(by_loss.mean()),
        log_loss_interval=bootstrap_interval(by_loss),
        p_value=p_value,
        p_value_adjusted=p_value_adjusted,
    )


def _kappa(first: np.ndarray, second: np.ndarray) -> float:
    from sklearn.metrics import cohen_kappa_score

    return 1.0 if np.array_equal(first, second) else float(cohen_kappa_score(first, second))


def order_by_similarity(predictions: Sequence[Predictions]) -> np.ndarray:
    """The breeds that occur in the labels, ordered so that those confused with each other are neighbours.

    Average-linkage clustering of how much probability two breeds give each other, over all runs, with the leaves in
    optimal order (Bar-Joseph et al. 2001, https://doi.org/10.1093/bioinformatics/17.suppl_1.S22).

    Returns:
        Indices into the classes.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    present = np.unique(predictions[0].labels)
    if len(present) < 3:
        return present
    means = [metrics.confusion_probabilities(one.probabilities, one.labels) for one in predictions]
    given = np.mean(means, axis=0)[np.ix_(present, present)]
    distance = 1 - np.sqrt(np.maximum((given + given.T) / 2, 0))  # the root spreads the many small confusions
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return present[leaves_list(tree)]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Of the values of several seeds: the mean, and the standard deviation with n - 1."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
