"""What the recipes of a comparison differ in: without it, nobody knows what a difference in accuracy is due to."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dogbreeds.errors import UserError
from dogbreeds.looks import SPREADS
from dogbreeds.record import RunRecord
from dogbreeds.training.options import NEUTRAL_OPTIONS, OPTIONS, TrainConfig, recorded_options

_TOLD_OTHERWISE = {*NEUTRAL_OPTIONS, "data", "seed", "split_seed", "augment", "mixed_precision", "freeze_backbone"}
"""Options that have no line of their own: they do not change the result, or a line says what came of them."""


@dataclass(frozen=True)
class Difference:
    """One thing in which not all recipes are the same."""

    what: str
    values: tuple[str, ...]
    """Of each recipe, in the order of the comparison."""

    def __str__(self) -> str:
        return f"{self.what}: {' | '.join(self.values)}"


def what_differs(recipes: Sequence[Sequence[RunRecord]]) -> list[Difference]:
    """What the recipes differ in, in the order of the options.

    Args:
        recipes: For each recipe the records of its runs, which differ in their seeds alone.
    """
    facts = [_facts(runs) for runs in recipes]
    names = dict.fromkeys(name for each in facts for name in each)
    rows = (Difference(name, tuple(each.get(name, "-") for each in facts)) for name in names)
    return [row for row in rows if len(set(row.values)) > 1]


def tuning_budget(recipes: Sequence[Sequence[RunRecord]]) -> str:
    """How many trials chose the options of each recipe, in a sentence; the one with more has more chances to look good.

    Args:
        recipes: As for `what_differs`.
    """
    budgets = {_facts(runs)["tuning trials"] for runs in recipes}
    if len(budgets) > 1:
        return "They were not tuned alike: see the tuning trials."
    (trials,) = budgets
    if trials == "not recorded":
        return "How many trials tuned them is not recorded."
    return "None of them was tuned." if trials == "none" else f"Each was tuned by {trials} trials."


def _facts(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Everything about a recipe that may explain its figures, in words."""
    record = runs[0]
    options = recorded_options(record.config)
    words = shlex.split(record.command)
    facts = {"started from": record.base_run.command if record.base_run else "the model alone"}
    facts |= {
        name.replace("_", " "): _in_words(options[name])
        for name in OPTIONS
        if name not in _TOLD_OTHERWISE and name in options
    }
    return {
        **facts,
        "random views": _random_views(record.config),
        "weights trained": f"{record.num_trained_parameters:,} of {record.num_parameters:,}",
        "tuning (options from a file)": (file := _after(words, "--config")),
        "tuning trials": _trials(record, file),
        "photos trained on": _each(runs, lambda run: f"{run.data.num_train:,}"),
        "split (SHA-256)": _each(runs, lambda run: run.data.split_hash[:16]),
        "seeds": _each(runs, lambda run: run.config["seed"]),
        "split seeds": _each(runs, lambda run: recorded_options(run.config)["split_seed"]),
        "arithmetic in training": record.mixed_precision,
        "arithmetic in serving": record.precision or "float32",
        "looks in serving": "one" if record.calibration.sure_margin is None else f"up to {1 + len(SPREADS)}",
        "calibration": "python -m dogbreeds calibrate" if record.calibration_command else "of the training",
    }


def _each(runs: Sequence[RunRecord], fact: Any) -> str:
    """What a fact of the runs is, each value once."""
    return ", ".join(dict.fromkeys(str(fact(run)) for run in runs))


def _random_views(config: dict[str, Any]) -> str:
    try:
        return _in_words(TrainConfig.from_dict(config).random_views)
    except UserError:  # an option that this version does not know
        return "unknown"


def _trials(record: RunRecord, file: str) -> str:
    """How many trials chose the options: of two recipes, the one with more has more chances to look good."""
    if record.tuning_trials is None and file != "none":
        return "not recorded"
    return str(record.tuning_trials or "none")


def _after(words: Sequence[str], flag: str) -> str:
    """The value of a flag in a command line."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == flag or word.startswith(f"{flag}="):
            return following if word == flag else word.partition("=")[2]
    return "none"


def _in_words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "all"
    return f"{value:g}" if isinstance(value, float) else str(value)
