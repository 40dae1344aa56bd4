"""The plan of a study: a TOML file -> its cells, each a training run, checked before anything runs. Imports no torch.

    output_dir = "runs/study"
    data = "data/stanford-dogs-224"              # and any other option that all cells share
    train_images_per_breed = [5, 20, 80]
    seeds = [0, 1, 2]

    [models.MobileNetV2]                         # any number, each with its options
    model = "google/mobilenet_v2_1.0_224"

    [ways."new rows"]                            # any number: sets of options, each for all models ...
    freeze_backbone = true

    [ways."known rows"]
    models = ["MobileNetV2"]                     # ... or for these
    freeze_backbone = true
    keep_known_breeds = true

The cells are all combinations of a model, a way, images per breed and a seed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dogbreeds.errors import UserError
from dogbreeds.training.config_file import checked_options, read_toml
from dogbreeds.training.datasets.sources import check_is_there
from dogbreeds.training.models.location import check_model_is_there
from dogbreeds.training.options import FREE_OPTIONS, OPTIONS, TrainConfig, resolve

OF_ALL_CELLS = {name for name, option in OPTIONS.items() if option.group == "data"}
"""Options that must be the same in all cells, which are judged on the same photos."""

OF_NO_CELL = {
    "seed", "train_fraction", "train_images_per_breed", "other_photos", "other_dogs", "overwrite", "resume",
    "tracker",
}  # fmt: skip
"""Options that a plan can't set: it has its own for them, or a study has no use for them."""


CELLS = "cells"
"""The folder of the cells in that of the study."""


def _each_once(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("each once")
    return values


Listed = Annotated[list[Annotated[int, Field(strict=True, ge=0, lt=2**32)]], Field(min_length=1)]


class _Own(BaseModel):
    """The keys of a plan that are no training options."""

    model_config = ConfigDict(extra="forbid")

    train_images_per_breed: Annotated[Listed, AfterValidator(_each_once), AfterValidator(sorted)]
    seeds: Annotated[Listed, AfterValidator(_each_once)]
    models: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    ways: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    everyday: str | None = None
    everyday_seen: Literal["yes", "no", "not known"] = "not known"


_MUST_BE = {
    "train_images_per_breed": "a list of whole numbers from 1, each once, such as [5, 20, 80]",
    "seeds": "a list of whole numbers from 0, each once, such as [0, 1, 2]",
    "models": 'tables such as [models.MobileNetV2], each with a line such as model = "mobilenet_v2"',
    "ways": "tables such as [ways.classifier], each with a line such as freeze_backbone = true",
    "everyday": "a folder of photos, in quotes",
    "everyday_seen": '"yes", "no" or "not known": whether the backbones have seen the everyday photos',
}


@dataclass(frozen=True)
class Recipe:
    """A model, trained in one way: what runs have in common that differ in their photos and seed alone."""

    model: str
    """Its name in the plan."""
    way: str
    config: TrainConfig

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.model}, {self.way}"

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return re.sub(r"[^\w.-]+", "_", f"{self.model}-{self.way}")

    @property
    def start(self) -> str:
        """What the classifier begins with."""
        return "known rows" if self.config.model.keep_known_breeds else "new rows"


@dataclass(frozen=True)
class Cell:
    """One training run of a study."""

    recipe: Recipe
    images_per_breed: int
    seed: int

    @cached_property
    def config(self) -> TrainConfig:
        """All its options."""
        return self.recipe.config.replace(
            train_images_per_breed=self.images_per_breed,
            seed=self.seed,
            output_dir=self.recipe.config.run.output_dir / self.name,
        )

    @property
    def name(self) -> str:
        """Its folder in that of the cells."""
        return f"{self.recipe.folder}/{self.images_per_breed}-per-breed-seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.recipe.name}, {self.images_per_breed} images per breed, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What a study trains."""

    recipes: tuple[Recipe, ...]
    images_per_breed: tuple[int, ...]
    seeds: tuple[int, ...]
    output_dir: Path
    everyday: str | None
    """Other photos of the breeds, on which all cells are judged too."""
    everyday_seen: str
    """Whether the backbones have seen them, as the plan says."""
    text: str
    """The file."""

    @property
    def cells(self) -> list[Cell]:
        """All cells, in the order in which they run: small ones first, so that all curves begin early."""
        return [
            Cell(recipe, images, seed)
            for images in self.images_per_breed
            for seed in self.seeds
            for recipe in self.recipes
        ]


def read_plan(path: Path, *, trains: bool = True) -> Plan:
    """Read a plan, and check all that can be checked without the models and the photos.

    Args:
        path: The file.
        trains: Whether cells are to be trained, for which the photos must be there.

    Raises:
        UserError: There is no such file, or it is no TOML; a key or an option is unknown or has a wrong value; a way is
            for a model that there isn't; or options exclude each other.
    """
    where = f"the plan {str(path)!r}"
    given = read_toml(path, where)
    given = {key.replace("-", "_"): value for key, value in given.items()}
    own = {key: given.pop(key) for key in _Own.model_fields if key in given}
    if "output_dir" not in given:
        raise UserError(f'{where}: output_dir is missing: add a line such as output_dir = "runs/study"')
    checked = _own_keys(own, where)
    common = _options(given, where, OF_NO_CELL)
    _check_ways(checked, where)
    recipes = tuple(
        _recipe(model, way, checked, common, where)
        for way, options in checked.ways.items()
        for model in options.get("models", checked.models)
    )
    for recipe in recipes:
        if twice := [other.name for other in recipes if other.folder == recipe.folder and other is not recipe]:
            raise UserError(f"{where}: {recipe.name!r} and {twice[0]!r} have one folder name: rename one of them")
    if trains:
        for recipe in recipes:
            check_model_is_there(recipe.config.model.model)
        check_is_there(recipes[0].config.data.data, option=f"data in {where}")
        if checked.everyday is not None:
            check_is_there(checked.everyday, option=f"everyday in {where}")
    return Plan(
        recipes,
        tuple(checked.train_images_per_breed),
        tuple(checked.seeds),
        common["output_dir"],
        checked.everyday,
        checked.everyday_seen,
        path.read_text(encoding="utf-8"),
    )


def _own_keys(given: Mapping[str, Any], where: str) -> _Own:
    try:
        found = _Own.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        key = str(problem["loc"][0])
        what = "is missing" if problem["type"] == "missing" else f"is {given[key]!r}"
        raise UserError(f"{where}: {key} {what}, must be {_MUST_BE[key]}") from None
    if found.train_images_per_breed[0] < 1:
        raise UserError(f"{where}: train_images_per_breed is {found.train_images_per_breed}, must be from 1 on")
    return found


def _options(given: Mapping[str, Any], where: str, refused: set[str]) -> dict[str, Any]:
    """Training options of a table."""
    for key in given:
        name = key.replace("-", "_")
        if name in refused:
            remedy = "leave it out" if name in OF_NO_CELL else "give it above all tables, for all cells alike"
            raise UserError(f"{where} sets {name}, which can't be set there: {remedy}")
    return checked_options(given, where)


def _check_ways(plan: _Own, where: str) -> None:
    for name, options in plan.models.items():
        if not isinstance(options.get("model"), str):
            raise UserError(f'{where}: the model {name!r} names no model: add a line such as model = "mobilenet_v2"')
    for name, options in plan.ways.items():
        models = options.get("models", list(plan.models))
        unknown = [model for model in models if model not in plan.models] if isinstance(models, list) else [models]
        if unknown or not models:
            raise UserError(
                f"{where}: the way {name!r} is for the models {models!r}: name some of {', '.join(plan.models)}, in a "
                "list"
            )


def _recipe(model: str, way: str, plan: _Own, common: dict[str, Any], where: str) -> Recipe:
    tables = {
        f"the model {model!r}": plan.models[model],
        f"the way {way!r}": {key: value for key, value in plan.ways[way].items() if key != "models"},
    }
    refused = OF_ALL_CELLS | OF_NO_CELL | {"output_dir"} | FREE_OPTIONS
    options = [_options(table, f"{where}: {name}", refused) for name, table in tables.items()]
    if both := sorted(options[0].keys() & options[1].keys()):
        raise UserError(f"{where}: {' and '.join(tables)} both set {both[0]}: leave it out of one of them")
    try:
        config = resolve(common, *options)
        config = config.replace(output_dir=config.run.output_dir / CELLS)
        config.check_options_apply()
    except UserError as error:
        raise UserError(f"{where}: {' with '.join(tables)}: {error}") from None
    return Recipe(model, way, config)
