"""What a study found: curves, intervals over seeds and photos, and which differences are more than chance.

templates/study.md.jinja says what the report says. All figures are computed from the predictions of the cells.
"""

import itertools
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dogbreeds import metrics
from dogbreeds.errors import UserError
from dogbreeds.files import read_json, whole_or_absent, write_csv
from dogbreeds.model_card import EVERYDAY
from dogbreeds.predictions import Predictions
from dogbreeds.record import RunRecord
from dogbreeds.research import plots
from dogbreeds.research.document import render, write_document
from dogbreeds.research.evaluate import training_seconds
from dogbreeds.research.provenance import Provenance
from dogbreeds.research.significance import (
    SIGNIFICANCE_LEVEL,
    CrossedDraws,
    SeedVariance,
    are_alike,
    holm,
    interval_and_p_value,
    interval_of_alike,
    interval_of_right,
    interval_over_seeds,
    sign_flip,
)
from dogbreeds.research.study import SEEN, finished_cells
from dogbreeds.research.study_plan import Cell, Plan, Recipe
from dogbreeds.research.what_differs import Difference, tuning_budget, what_differs
from dogbreeds.run_folder import predictions_file

REPORT = "report"
PLAN = "plan.toml"
FIGURES = {"top1": "top-1", "ece": "ECE", "log_loss": "log-loss"}
"""What is reported, and its name."""


@dataclass(frozen=True)
class Figure:
    """A figure of a recipe at one number of images, over the seeds."""

    of_seeds: tuple[float, ...]
    value: float
    """Their mean."""
    low: float
    high: float
    """The 95 % interval over seeds and photos."""


@dataclass(frozen=True)
class Point:
    """A recipe with a number of images per breed, judged on one set of photos."""

    recipe: Recipe
    images_per_breed: int
    seeds: tuple[int, ...]
    figures: dict[str, Figure]
    """Of `FIGURES`."""
    seconds: tuple[float, ...]
    """What training took with each seed, with its part of the features."""
    right: np.ndarray
    """`(seeds, photos)`, bool."""
    losses: np.ndarray
    """`(seeds, photos)`, each photo's log-loss."""


@dataclass(frozen=True)
class Pair:
    """Two recipes with as many images, on the same photos and with the same seeds."""

    first: Recipe
    second: Recipe
    images_per_breed: int
    difference: float
    """In top-1, the first's less the second's."""
    interval: tuple[float, float]
    log_loss_difference: float
    log_loss_interval: tuple[float, float]
    p_value: float
    """Of no difference in top-1."""
    p_value_adjusted: float
    """After Holm's correction for all pairs on these photos."""

    @property
    def is_significant(self) -> bool:
        """Whether chance in seeds and photos is an unlikely reason for the difference in top-1."""
        return self.p_value_adjusted < SIGNIFICANCE_LEVEL

    @property
    def start(self) -> str:
        """Whether both begin alike."""
        if self.first.start == self.second.start:
            return f"same ({self.first.start})"
        return f"{self.first.start} against {self.second.start}"


@dataclass(frozen=True)
class Judged:
    """All that a study found on one set of photos."""

    split: str
    num_photos: int
    photos_hash: str
    seen: dict[str, str]
    """By recipe, whether its backbone has seen these photos."""
    points: tuple[Point, ...]
    pairs: tuple[Pair, ...]

    @property
    def words(self) -> str:
        """The photos in words."""
        return {"test": "test photos", "validation": "validation photos"}.get(self.split, "everyday photos")

    def point(self, recipe: Recipe, images_per_breed: int) -> Point | None:
        """A point, if a cell of it is trained."""
        found = (p for p in self.points if (p.recipe, p.images_per_breed) == (recipe, images_per_breed))
        return next(found, None)

    def leaders(self, images_per_breed: int) -> tuple[Point, list[str]] | None:
        """The point with the best top-1, and the recipes that no difference shows to be worse."""
        points = [point for point in self.points if point.images_per_breed == images_per_breed]
        if not points:
            return None
        best = max(points, key=lambda point: point.figures["top1"].value)
        worse = {
            pair.second if pair.difference > 0 else pair.first
            for pair in self.pairs
            if pair.images_per_breed == images_per_breed
            and best.recipe in (pair.first, pair.second)
            and pair.is_significant
        }
        # Not only those that make a pair with the best: without a seed in common there is none.
        even = [point.recipe.name for point in points if point is not best and point.recipe not in worse]
        return best, even


@dataclass(frozen=True)
class Study:
    """All numbers of a report."""

    plan: Plan
    records: dict[Cell, RunRecord]
    """Of the cells that are trained."""
    judged: tuple[Judged, ...]

    @property
    def recipes(self) -> list[Recipe]:
        """Those with a trained cell."""
        return [recipe for recipe in self.plan.recipes if any(cell.recipe is recipe for cell in self.records)]

    @property
    def what_differs(self) -> list[Difference]:
        """What the recipes differ in."""
        return what_differs(self._records_of_recipes())

    @property
    def tuning_budget(self) -> str:
        """How many trials chose the options of each recipe, in a sentence."""
        return tuning_budget(self._records_of_recipes())

    def _records_of_recipes(self) -> list[list[RunRecord]]:
        """Of each recipe one cell: with as many images and the same seed, if there are such."""
        of_recipe: dict[Recipe, dict[tuple[int, int], RunRecord]] = {}
        for cell, record in self.records.items():
            of_recipe.setdefault(cell.recipe, {})[cell.images_per_breed, cell.seed] = record
        found = [of_recipe[recipe] for recipe in self.recipes]
        common = next((key for key in found[0] if all(key in each for each in found)), None)
        return [[each[common] if common else next(iter(each.values()))] for each in found]


def read_study(plan: Plan) -> Study:
    """Compute the figures of the cells that are trained.

    Raises:
        UserError: None is, or the predictions of one are gone, damaged, or of other photos than the others'.
    """
    records = finished_cells(plan)
    if not records:
        raise UserError(f"no cell of {str(plan.output_dir)!r} is trained yet: run the study without --report-only")
    has_test = all(record.data.num_test for record in records.values())
    splits = ["test" if has_test else "validation", *([EVERYDAY] if plan.everyday is not None else [])]
    file = plan.output_dir / SEEN
    seen = read_json(file) if file.is_file() else {}
    draws = cache(CrossedDraws)
    judged = []
    for split in splits:
        found = {cell: _predictions(cell, split) for cell in records}
        _check_same_photos(found)
        points = _points(plan, found, records, draws)
        first = next(iter(found.values()))
        marks = {
            recipe.name: plan.everyday_seen if split == EVERYDAY else str(seen.get(recipe.name, "not known"))
            for recipe in plan.recipes
        }
        judged.append(Judged(split, len(first), first.photos_hash, marks, points, _pairs(points)))
    return Study(plan, records, tuple(judged))


def _predictions(cell: Cell, split: str) -> Predictions:
    folder = cell.config.run.output_dir
    try:
        return Predictions.load(folder / predictions_file(split))
    except UserError as error:
        raise UserError(f"{error}; remove {str(folder)!r}, and run the study again, which trains this cell") from None


def _check_same_photos(found: dict[Cell, Predictions]) -> None:
    first = next(iter(found))
    for cell, each in found.items():
        if each.digests != found[first].digests or each.names != found[first].names:
            raise UserError(
                f"the cells {str(first.config.run.output_dir)!r} and {str(cell.config.run.output_dir)!r} were judged "
                "on other photos: remove the one that is not of this study, and run the study again"
            )


def _points(
    plan: Plan,
    found: dict[Cell, Predictions],
    records: dict[Cell, RunRecord],
    draws: Callable[[int, int], CrossedDraws],
) -> tuple[Point, ...]:
    points = []
    for recipe, images in itertools.product(plan.recipes, plan.images_per_breed):
        cells = [cell for cell in found if (cell.recipe, cell.images_per_breed) == (recipe, images)]
        if not cells:
            continue
        each = [found[cell] for cell in cells]
        rows = np.arange(len(each[0]))
        of_label = np.stack([one.probabilities[rows, one.labels] for one in each])
        right = np.stack([one.right for one in each])
        losses = -np.log(of_label.clip(1e-15))
        confidence = np.stack([one.probabilities.max(axis=1) for one in each])
        drawn = draws(len(cells), len(rows))
        errors = [metrics.expected_calibration_error(one.probabilities, one.labels) for one in each]
        figures = {
            "top1": _figure(right.mean(axis=1), drawn.of_mean(right), right=right),
            "ece": _figure(errors, drawn.of_calibration_error(confidence, right), right=right, is_biased=True),
            "log_loss": _figure(losses.mean(axis=1), drawn.of_mean(losses), most=np.inf),
        }
        seconds = tuple(training_seconds(records[cell]) for cell in cells)
        seeds = tuple(cell.seed for cell in cells)
        points.append(Point(recipe, images, seeds, figures, seconds, right, losses))
    return tuple(points)


def _figure(
    of_seeds: Sequence[float],
    draws: np.ndarray,
    *,
    right: np.ndarray | None = None,
    is_biased: bool = False,
    most: float = 1.0,
) -> Figure:
    """A figure with its interval.

    Args:
        of_seeds: The figure of each.
        draws: The figure in each of `CrossedDraws`.
        right: The answers `(seeds, photos)` of which it is a share; None where it is none.
        is_biased: The draws lie higher than the figure: their spread is laid around it.
        most: What it can be.
    """
    values = tuple(map(float, of_seeds))
    mean = float(np.mean(values))
    low, high = interval_over_seeds(np.array(values), draws + (mean - draws.mean()) if is_biased else draws)
    if right is not None and are_alike(right):
        low, high = interval_of_alike(mean, (low, high), right.shape[1])
    return Figure(values, mean, max(0.0, min(mean, low)), min(most, max(mean, high)))


def _pairs(points: Sequence[Point]) -> tuple[Pair, ...]:
    """All pairs of recipes with as many images, in the order of the images; of the seeds that both have."""
    found = []
    for _, of_size in itertools.groupby(sorted(points, key=_images), key=_images):
        found += _pairs_of_a_size(list(of_size))
    adjusted = holm([pair.p_value for pair in found])
    return tuple(replace(pair, p_value_adjusted=p_value) for pair, p_value in zip(found, adjusted, strict=True))


def _images(point: Point) -> int:
    return point.images_per_breed


def _pairs_of_a_size(points: Sequence[Point]) -> list[Pair]:
    """The pairs, whose p-values are not corrected yet."""
    pairs, by_top1, by_loss = [], [], []
    for first, second in itertools.combinations(points, 2):
        if seeds := [seed for seed in first.seeds if seed in second.seeds]:
            mine, theirs = ([point.seeds.index(seed) for seed in seeds] for point in (first, second))
            pairs.append((first, second))
            by_top1.append(first.right[mine].astype(float) - second.right[theirs])
            by_loss.append(first.losses[mine] - second.losses[theirs])
    of_top1, of_loss = (SeedVariance.of(differences, len(points)) for differences in (by_top1, by_loss))
    found = []
    for (first, second), top1, loss in zip(pairs, by_top1, by_loss, strict=True):
        interval, p_value = interval_and_p_value(top1, of_top1)
        if not np.ptp(top1):  # no photo and no seed tells another from it
            interval, p_value = interval_of_right(top1[0]), sign_flip(top1[0])
        found.append(
            Pair(
                first=first.recipe,
                second=second.recipe,
                images_per_breed=first.images_per_breed,
                difference=float(top1.mean()),
                interval=interval,
                log_loss_difference=float(loss.mean()),
                log_loss_interval=interval_and_p_value(loss, of_loss)[0],
                p_value=p_value,
                p_value_adjusted=1.0,
            )
        )
    return found


# What is written


def write_study_report(study: Study, command: str, folder: Path | None = None) -> Path:
    """Write the report of a study; the folder, where an older one is replaced.

    It holds the report (`dogbreeds.research.document.write_document`), figures.csv and pairs.csv; and
    plan.toml and report.json, by which it can be made again.

    Args:
        study: From `read_study`.
        command: The command line that makes the report.
        folder: The folder to make; by default in that of the study.

    Raises:
        UserError: The folder can't be made.
    """
    folder = folder or study.plan.output_dir / REPORT
    cells = [cell.config.run.output_dir for cell in study.records]
    pictures = plots.in_all_formats(_pictures(study))
    markdown = render(
        "study.md.jinja",
        study=study,
        figures=FIGURES,
        command=command,
        today=f"{datetime.now(UTC):%Y-%m-%d}",
        num_seeds=len(study.plan.seeds),
    )
    shutil.rmtree(folder, ignore_errors=True)
    with whole_or_absent(folder) as unfinished:
        write_document(unfinished, "study", markdown, pictures)
        write_csv(unfinished / "figures.csv", _figure_rows(study))
        write_csv(unfinished / "pairs.csv", _pair_rows(study))
        (unfinished / PLAN).write_text(study.plan.text, encoding="utf-8")
        Provenance.of("study", {}, cells).save(unfinished)
    return folder


def _pictures(study: Study) -> dict[str, Any]:
    """The figures of matplotlib, by the names of their files."""
    found = {}
    for judged in study.judged:
        for name, words in FIGURES.items():
            scale, unit = (1, "") if name == "log_loss" else (100, ", %")
            axis = f"{words} on {judged.words}{unit}"
            found[f"{name}-{judged.split}"] = plots.curves(
                _curves(study, judged, name, scale), "images per breed", axis
            )
        axis = f"top-1 on {judged.words}, %"
        curves = _curves(study, judged, "top1", 100, against_seconds=True)
        found[f"seconds-{judged.split}"] = plots.curves(curves, "training time, seconds", axis, against_time=True)
    return found


def _curves(
    study: Study, judged: Judged, figure: str, scale: float, *, against_seconds: bool = False
) -> list[plots.Curve]:
    curves = []
    for recipe in study.recipes:
        points = [point for point in judged.points if point.recipe is recipe]
        found = [point.figures[figure] for point in points]
        own = [
            list(point.seconds) if against_seconds else [point.images_per_breed] * len(point.seeds) for point in points
        ]
        mark = " (seen)" if judged.seen[recipe.name] == "yes" else ""
        curves.append(
            plots.Curve(
                name=recipe.name + mark,
                x=[float(np.mean(values)) for values in own],
                y=[scale * each.value for each in found],
                low=[scale * each.low for each in found],
                high=[scale * each.high for each in found],
                runs=[
                    (x, scale * y)
                    for xs, each in zip(own, found, strict=True)
                    for x, y in zip(xs, each.of_seeds, strict=True)
                ],
            )
        )
    return curves


def _figure_rows(study: Study) -> Iterable[list[Any]]:
    yield ["photos", "seen", "model", "way", "images_per_breed", "seeds", "figure", "value", "low", "high", "of_seeds"]
    for judged in study.judged:
        for point in judged.points:
            what = [point.recipe.model, point.recipe.way, point.images_per_breed, " ".join(map(str, point.seeds))]
            for name, figure in point.figures.items():
                values = [figure.value, figure.low, figure.high, " ".join(map(str, figure.of_seeds))]
                yield [judged.split, judged.seen[point.recipe.name], *what, name, *values]
            seconds = ["", "", " ".join(map(str, point.seconds))]
            if judged is study.judged[0]:
                yield ["", "", *what, "training_seconds", float(np.mean(point.seconds)), *seconds]


def _pair_rows(study: Study) -> Iterable[list[Any]]:
    yield [
        "photos", "images_per_breed", "first", "second", "start", "top1_difference", "low", "high", "p", "p_holm",
        "log_loss_difference", "log_loss_low", "log_loss_high",
    ]  # fmt: skip
    for judged in study.judged:
        for pair in judged.pairs:
            yield [
                judged.split, pair.images_per_breed, pair.first.name, pair.second.name, pair.start, pair.difference,
                *pair.interval, pair.p_value, pair.p_value_adjusted, pair.log_loss_difference, *pair.log_loss_interval,
            ]  # fmt: skip
