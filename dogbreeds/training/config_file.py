"""A file of training options (TOML), as `--config` takes it and tuning writes it."""

import difflib
import json
import math
import tomllib
import types
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dogbreeds.errors import UserError
from dogbreeds.files import atomic_write
from dogbreeds.training.options import TrainConfig

OF_ONE_START = ("output_dir", "overwrite", "resume")
"""Options that are not written: they are no part of a recipe."""


GOES_WITH_ANY = {"output_dir": "run", "model": "vit", "test_fraction": 0.0, "validation_fraction": 1e-9}
"""Options beside which every other is judged for itself."""


def read_config_file(path: Path) -> dict[str, Any]:
    """The options that a file names, as `TrainConfig` takes them.

    Args:
        path: Lines such as ``learning_rate = 3e-4``, ``freeze_backbone = true`` or ``model = "vit_tiny"``.

    Raises:
        UserError: There is no such file, it is no TOML, or it names an unknown option or a value that is out of range.
            Whether the options go together is for `TrainConfig` to say, when the command line has gone over them.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {str(path)!r} can't be read: {error.strerror}") from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise UserError(f"--config {str(path)!r} is no TOML file, with lines such as epochs = 5: {error}") from None
    types_of = get_type_hints(TrainConfig)
    values = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in types_of:
            near = difflib.get_close_matches(name, types_of, n=1)
            hint = f"did you mean {near[0]}?" if near else "--help lists all options"
            raise UserError(f"--config {str(path)!r} has an unknown option {key!r}: {hint}")
        if not _is_a(value, types_of[name]):
            raise UserError(f"--config {str(path)!r}: {key} is {value!r}, must be {_words(types_of[name])}")
        try:
            values[name] = getattr(TrainConfig.from_dict({**GOES_WITH_ANY, name: value}), name)
        except UserError as error:
            raise UserError(f"--config {str(path)!r}: {error}") from None
    return values


def write_config_file(path: Path, config: TrainConfig, found: Collection[str], comment: str) -> None:
    """Write all options that make up a recipe; nothing is left to the preset of the script that reads them.

    Args:
        path: The file, which is replaced as a whole if it is there.
        config: The options.
        found: Those to set apart, above the others.
        comment: One line above those.
    """
    plain = {key: value for key, value in config.to_dict().items() if key not in OF_ONE_START and value is not None}
    if config.weight_decay is None:  # which another optimiser would not have
        del plain["weight_decay"]
    first = {key: plain.pop(key) for key in found}

    def lines(values: dict[str, Any]) -> list[str]:  # JSON's strings, numbers and lists are TOML's
        return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]

    text = "\n".join([f"# {comment}", *lines(first), "", "# As they were given:", *lines(plain)])
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value of TOML can stand for an option of this type."""
    origin = get_origin(kind)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if origin in (Union, types.UnionType):
        return any(_is_a(value, each) for each in get_args(kind))
    if origin is tuple:
        return isinstance(value, list) and all(_is_a(each, get_args(kind)[0]) for each in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str if kind is Path else kind)


def _words(kind: Any) -> str:
    """What a person is told that an option of this type must be."""
    origin = get_origin(kind)
    if origin is Literal:
        return " or ".join(json.dumps(choice) for choice in get_args(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(_words(each) for each in get_args(kind) if each is not types.NoneType)
    if origin is tuple:
        return f"a list, each {_words(get_args(kind)[0])}"
    plain = {bool: "true or false", int: "a whole number", float: "a number"}
    return plain.get(kind, "a text in quotes")
