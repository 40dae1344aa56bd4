"""A file of training options (TOML), as `--config` takes it and tuning writes it."""

import json
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dogbreeds.errors import UserError
from dogbreeds.files import atomic_write
from dogbreeds.training.options import CONFIG, OPTIONS, TrainConfig, nearest_option

NOT_A_RECIPE = ("output_dir", "overwrite", "resume")
"""Options that are not written: they belong to one start of a run."""

ABOUT = "about"
"""A table that a file may have for facts that are no options, as the recipes of the earlier systems do."""

TUNING_TRIALS = "tuning_trials"
"""The fact that tuning writes: how many trials its options were chosen from."""

_RANGE_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "value_error", "too_short")


def read_config_file(path: Path) -> dict[str, Any]:
    """The options that a file names, as `dogbreeds.training.options.resolve` takes them.

    Args:
        path: Lines such as ``learning_rate = 3e-4``, ``freeze_backbone = true`` or ``model = "vit_tiny"``.

    Raises:
        UserError: There is no such file, it is no TOML, or it names an unknown option or a value that is out of range.
            Whether options exclude each other is checked when they are combined with the command line.
    """
    where = f"--config {str(path)!r}"
    given = read_toml(path, where)
    given.pop(ABOUT, None)
    if given.pop("tensorboard", False):  # an option of older versions, which wrote it into every file of tuning
        given.setdefault("tracker", ["tensorboard"])
    if given.get("adapt") == "all":  # of older versions, which wrote it beside freeze_backbone, and that decided
        del given["adapt"]
    values = checked_options(given, where)
    if "seed" in values:  # which decided the split too, before that had a seed of its own
        values.setdefault("split_seed", values["seed"])
    return values


def read_tuning_trials(path: Path) -> int:
    """How many trials of `--tune` chose the options of a file; 0 where it is no file of tuning.

    Args:
        path: As for `read_config_file`.

    Raises:
        UserError: There is no such file, it is no TOML, or says another thing than a number of trials.
    """
    where = f"--config {str(path)!r}"
    about = read_toml(path, where).get(ABOUT)
    num_trials = about.get(TUNING_TRIALS, 0) if isinstance(about, dict) else 0
    if type(num_trials) is not int or num_trials < 0:
        raise UserError(f"{where}: {TUNING_TRIALS} is {num_trials!r}, must be a whole number of trials, 0 or more")
    return num_trials


def read_toml(path: Path, where: str) -> dict[str, Any]:
    """The content of a TOML file.

    Args:
        path: The file.
        where: How messages name it.

    Raises:
        UserError: There is no such file, or it is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{where} can't be read: {error.strerror}") from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise UserError(f"{where} is no TOML file, with lines such as epochs = 5: {error}") from None


def checked_options(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options as TOML has them, as the types that `dogbreeds.training.options.resolve` takes.

    Args:
        given: By their names, in which "-" and "_" are the same.
        where: They stand, for messages.

    Raises:
        UserError: An option is unknown, or a value is of another type or out of range.
    """
    values = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in OPTIONS:
            raise UserError(f"{where} has an unknown option {key!r}: {nearest_option(name)}")
        values[name] = _checked(name, value, where)
    return values


def _checked(name: str, value: Any, where: str) -> Any:
    """The value as the option's type; strictly, for TOML has types of its own."""
    option = OPTIONS[name]
    # As JSON, in which pydantic takes lists for tuples and texts for paths even when it is strict.
    kind: TypeAdapter[Any] = TypeAdapter(option.type, config=CONFIG)
    try:
        if not (
            isinstance(value, list) and any(isinstance(item, bool) for item in value)
        ):  # which pydantic takes for 0
            return kind.validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        if error.errors()[0]["type"] in _RANGE_ERRORS:
            flag = name.replace("_", "-")
            raise UserError(f"{where}: --{flag} {value}: must be {option.must_be}") from None
    raise UserError(f"{where}: {name} is {value!r}, must be {option.type_in_words}")


def write_config_file(path: Path, config: TrainConfig, found: Collection[str], comment: str, num_trials: int) -> None:
    """Write all options that make up a recipe; nothing is left to the preset of the script that reads them.

    Args:
        path: The file, which is replaced as a whole if it exists.
        config: The options.
        found: Those to set apart, above the others.
        comment: One line above those.
        num_trials: How many trials they were chosen from.
    """
    plain = {key: value for key, value in config.to_dict().items() if key not in NOT_A_RECIPE and value is not None}
    if config.optim.weight_decay is None:  # the default depends on the optimiser
        del plain["weight_decay"]
    first = {key: plain.pop(key) for key in found}

    def lines(values: dict[str, Any]) -> list[str]:  # JSON's strings, numbers and lists are TOML's
        return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]

    text = "\n".join([f"# {comment}", *lines(first), "", "# As they were given:", *lines(plain)])
    text += f"\n\n[{ABOUT}]\n{TUNING_TRIALS} = {num_trials}"
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
