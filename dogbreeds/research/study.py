"""A study: every cell of a plan is trained once, by however many processes, and a killed one goes on where it was.

cells/<model-way>/<cell>/       a finished cell: run.json, history.csv and the probabilities of all photos held out
features/                       those of frozen backbones, which cells share (`dogbreeds.training.feature_file`)
seen.json                       whether the backbones have seen the photos
report/                         see `dogbreeds.research.study_report`; made again each time
"""

import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from dogbreeds.errors import UserError
from dogbreeds.files import partial_path, read_json, write_json
from dogbreeds.model_card import EVERYDAY
from dogbreeds.photo_paths import Shard
from dogbreeds.record import RunRecord
from dogbreeds.research.study_plan import Cell, Plan, Recipe
from dogbreeds.run_folder import RECORD, STATE
from dogbreeds.training.backbones import Backbone, compute_backbone, seen
from dogbreeds.training.base_run import find_base
from dogbreeds.training.context import Context
from dogbreeds.training.datasets.splits import Splits, load_data, with_training_photos_of
from dogbreeds.training.feature_file import FeatureFile
from dogbreeds.training.locks import BeingMade, locked
from dogbreeds.training.loop import Diverged
from dogbreeds.training.models.build import build_model
from dogbreeds.training.models.checkpoint import open_checkpoint
from dogbreeds.training.options import FREE_OPTIONS, TrainConfig, recorded_options
from dogbreeds.training.save_run import save_answers
from dogbreeds.training.train import finish, fit, set_up

FEATURES = "features"
SEEN = "seen.json"


def finished_cells(plan: Plan) -> dict[Cell, RunRecord]:
    """The cells that are trained, with their records.

    Raises:
        UserError: A cell in the folder, finished or begun, has other options than the plan gives it.
    """
    found = {}
    for cell in plan.cells:
        folder = cell.config.run.output_dir
        begun = partial_path(folder) / STATE / "config.json"
        if (folder / RECORD).is_file():
            found[cell] = RunRecord.from_json(read_json(folder / RECORD), folder)
            _check_same_options(cell, folder, found[cell].config)
        elif begun.is_file():
            _check_same_options(cell, partial_path(folder), read_json(begun))
    return found


def _check_same_options(cell: Cell, folder: Path, recorded: dict[str, Any]) -> None:
    then = recorded_options(recorded)
    for name, now in cell.config.to_dict().items():
        if name not in FREE_OPTIONS and name != "mixed_precision" and then.get(name) != now:
            raise UserError(
                f"the cell {str(folder)!r} has another {name}: it was {then.get(name)!r}, in the plan it is {now!r}; "
                "give the plan another output_dir, or remove the cell"
            )


def run_study(plan: Plan, shard: Shard | None = None) -> tuple[list[Cell], list[Cell]]:
    """Train the cells that are not trained yet.

    Args:
        plan: Which cells there are.
        shard: The part of the cells that is this process's; None for all. Without it, several processes share the cells
            too: one that another process trains is left to it.

    Returns:
        The cells that are still not trained, as other shards or processes have them; and those that can't be, for their
        loss is no number any more.

    Raises:
        UserError: A cell is impossible, which is found before any is trained; or the data, a model or a folder is not
            as it must be.
        SystemExit: The process got SIGTERM.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a study trains in one process: instead of accelerate launch, start the command several times")
    done = finished_cells(plan)
    todo = [cell for cell in plan.cells if cell not in done and (shard is None or cell.name in shard)]
    mine = f" in shard {shard.number}/{shard.count}" if shard else ""
    print(f"{len(plan.cells)} cells: {len(done)} are trained, {len(todo)} are left{mine}", flush=True)
    if todo:
        trainer = _Trainer(plan)
        trainer.check(done)
        spent: list[tuple[int, float]] = []
        for number, cell in enumerate(todo, 1):
            trainer.prepare(cell)  # whose time says nothing of that of other cells
            started = time.perf_counter()
            try:
                what = trainer.train(cell)
            except Diverged as error:
                print(f"{cell}: {error}", file=sys.stderr)
                _divergence(cell).write_text(str(error), encoding="utf-8")
                continue
            except SystemExit:
                print("stopped by SIGTERM: the same command continues", file=sys.stderr)
                raise
            if what is None:
                print(f"{number} of {len(todo)}: {cell}: another process has it", flush=True)
                continue
            spent.append((cell.images_per_breed, time.perf_counter() - started))
            left = [each.images_per_breed for each in todo[number:]]
            print(f"{number} of {len(todo)}: {cell}: {what}, {spent[-1][1]:.0f} s; {_left(spent, left)}", flush=True)
    unfinished = [cell for cell in plan.cells if not _is_finished(cell)]
    diverged = [cell for cell in unfinished if _divergence(cell).is_file()]
    return [cell for cell in unfinished if cell not in diverged], diverged


def _is_finished(cell: Cell) -> bool:
    return (cell.config.run.output_dir / RECORD).is_file()


def _divergence(cell: Cell) -> Path:
    """The file that tells other processes that a cell's loss is no number any more."""
    return partial_path(cell.config.run.output_dir) / STATE / "diverged.txt"


def _left(spent: Sequence[tuple[int, float]], left: Sequence[int]) -> str:
    """How many cells are left, and when they are likely to be trained, in words.

    Args:
        spent: Of each cell that this process trained its images per breed, and its seconds.
        left: The images per breed of the others.
    """
    if not left:
        return "none left"
    images, seconds = np.array(spent).T
    # A part of the time grows with the photos
    rise, start = np.polyfit(images, seconds, 1) if len(set(images)) > 1 else (0.0, seconds.mean())
    duration = timedelta(seconds=round(float(np.maximum(start + rise * np.array(left), seconds.min()).sum())))
    return f"{len(left)} left, about {duration}, until {datetime.now() + duration:%Y-%m-%d %H:%M}"


class _Trainer:
    """Trains cells, with the photos and features that they share."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._splits, self._checkpoint = cache(self._load), cache(open_checkpoint)
        self._backbones: dict[str, tuple[Backbone, Splits]] = {}

    def check(self, done: dict[Cell, RunRecord]) -> None:
        """Find what can't be trained, before anything is; note whether the backbones have seen the photos.

        Raises:
            UserError: A model can't be had, or not in one of the ways; there are fewer photos of a breed than the plan
                asks for; or the cells that are trained are of other photos.
        """
        seen_by = {}
        for recipe in self._plan.recipes:  # before photos are decoded
            with _impossible(recipe, in_all_ways=True):
                self._checkpoint(recipe.config.model.model)
        for recipe in self._plan.recipes:
            splits, config = self._photos(recipe), recipe.config
            if recipe is self._plan.recipes[0]:
                self._check_photos(splits, done)
            with _impossible(recipe):
                checkpoint = self._checkpoint(config.model.model)
                build_model(config.model, config.preprocessing.image_size, splits.names, checkpoint)
                find_base(config, Context(config.run, config.optim, Path(), quiet=True), splits)
            seen_by[recipe.name] = (
                "no" if config.model.from_scratch else seen(config.model.model, checkpoint, splits.names)
            )
        self._plan.output_dir.mkdir(parents=True, exist_ok=True)
        path = self._plan.output_dir / SEEN
        with FileLock(f"{path}.lock"):  # all processes write it
            write_json(path, seen_by)

    def _check_photos(self, splits: Splits, done: dict[Cell, RunRecord]) -> None:
        for line in splits.in_words():
            print(line)
        counts, most = np.bincount(splits.train.labels), self._plan.images_per_breed[-1]
        if most > counts.max():
            raise UserError(
                f"the plan asks for {most} training images per breed, and no breed has more than {counts.max()}: give "
                f"at most {counts.max()}{self._or_more_images(splits)}"
            )
        if num_fewer := int((counts < most).sum()):
            print(f"note: {num_fewer} of {len(counts)} breeds have fewer than {most} training photos: all are used")
        for cell, record in done.items():
            if record.data.split_hash != splits.split_hash:
                raise UserError(
                    f"the cell {str(cell.config.run.output_dir)!r} was trained on another split or other photos: give "
                    "the plan another output_dir, or remove the cell"
                )

    def _or_more_images(self, splits: Splits) -> str:
        """The other remedy for too few training photos, if the plan itself leaves photos out."""
        limit = self._plan.recipes[0].config.data.images_per_breed
        own = (splits.train, splits.validation, splits.test)
        num_used = np.bincount(np.concatenate([photos.labels for photos in own if photos]))
        if limit is None or num_used.max() < limit:
            return ""
        return f", or raise images_per_breed ({limit}), which counts the photos that are held out too"

    def prepare(self, cell: Cell) -> None:
        """Compute the features that a cell shares with others, unless they are there."""
        if _shares_features(cell.config):
            self._backbone(cell.recipe)

    def train(self, cell: Cell) -> str | None:
        """Train a cell; what came of it, in words. None where it is left to the process that does so already."""
        config, splits = cell.config, self._photos(cell.recipe)
        try:
            with locked(config.run.output_dir):
                if _is_finished(cell):
                    return None
                config = config.replace(resume=partial_path(config.run.output_dir).is_dir())
                mine, features = with_training_photos_of(splits, config), None
                if _shares_features(config):
                    backbone, all_photos = self._backbone(cell.recipe)
                    features = backbone.of_run(all_photos, mine)
                run = set_up(config, splits=mine, features=features, quiet=True)
                fit(run)
                finish(run, save_answers)
        except BeingMade:
            return None
        record = RunRecord.from_json(read_json(config.run.output_dir / RECORD), config.run.output_dir)
        shown = [split for split in (_held_out(record), EVERYDAY) if split in record.figures]
        return ", ".join(f"{split} top-1 {record.figures[split]['top1']:.1%}" for split in shown)

    def _photos(self, recipe: Recipe) -> Splits:
        """All photos, as a recipe's runs store them; the split is the same for all recipes."""
        return self._splits(recipe.config.preprocessing, recipe.config.random_views)

    def _load(self, preprocessing: object, random_views: bool) -> Splits:
        config = next(
            recipe.config
            for recipe in self._plan.recipes
            if (recipe.config.preprocessing, recipe.config.random_views) == (preprocessing, random_views)
        )
        return load_data(config, everyday=self._plan.everyday, progress=sys.stderr.isatty())

    def _backbone(self, recipe: Recipe) -> tuple[Backbone, Splits]:
        """The features of all photos, from the file that the cells of a model share."""
        config = recipe.config
        key = hashlib.sha256(repr((config.model.model, config.preprocessing)).encode()).hexdigest()[:16]
        if key not in self._backbones:
            splits, file = self._photos(recipe), self._plan.output_dir / FEATURES / f"{key}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            context = Context(config.run, config.optim, Path(), quiet=True)
            with FileLock(f"{file}.lock"):  # another process waits for them
                print(f"features of {recipe.model}", flush=True)
                checkpoint, known = self._checkpoint(config.model.model), FeatureFile(file, splits)
                name = config.model.model
                found = compute_backbone(name, checkpoint, config.preprocessing, splits, context, known)
            self._backbones[key] = found, splits
        return self._backbones[key]


@contextmanager
def _impossible(recipe: Recipe, *, in_all_ways: bool = False) -> Iterator[None]:
    """Say of which recipe of the plan a mistake is, and how to leave it out, unless the model can't be had at all."""
    try:
        yield
    except UserError as error:
        remedy = "" if in_all_ways else "; or name the models that the way is for, in a line such as models = [...]"
        raise UserError(
            f"the model {recipe.model!r} can't be trained in the way {recipe.way!r}: {error}{remedy}"
        ) from None


def _shares_features(config: TrainConfig) -> bool:
    """Whether a run is given the features of its photos; whitening is fitted on the photos of each run."""
    return config.trains_on_features and config.preprocessing.whitening != "zca"


def _held_out(record: RunRecord) -> str:
    return "test" if record.data.num_test else "validation"
