"""run.json as a type: how a run was trained, on which data, how good it is, and how its answers are calibrated.

The file has the same keys as the dataclasses here. Optional fields without a value are left out of it.
"""

import dataclasses
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dogbreeds.calibration import Calibration
from dogbreeds.errors import UserError

FORMAT = 1
"""Increased when older code could no longer read a run folder."""

ONNX: Literal["onnx/model.onnx"] = "onnx/model.onnx"
ONNX_8BIT: Literal["onnx/model_quantized.onnx"] = "onnx/model_quantized.onnx"
"""The model for ONNX Runtime, and its copy with 8-bit weights."""

REQUIRED_OPTIONS = ("model", "data", "breeds", "seed", "image_size", "from_scratch", "freeze_backbone")
"""Options that every version has written; others may be missing, and newer versions may add some."""


@dataclass(frozen=True)
class DataRecord:
    """The photos of a run."""

    num_train: int
    num_validation: int
    num_test: int
    left_out: list[dict[str, str]]
    """The `id` of each photo that was not used, and the `reason`."""
    fingerprint: str
    """SHA-256 of the data, however it is split."""
    split_hash: str
    """SHA-256 of the photos and labels of each split."""


@dataclass(frozen=True)
class BaseRun:
    """The run whose weights a run started from."""

    command: str
    seconds: dict[str, float]
    """As in `RunRecord`."""
    data: str
    """Its `DataRecord.split_hash`."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of run.json."""

    created: str
    """When training ended, ISO 8601."""
    command: str
    """The training command."""
    config: dict[str, Any]
    """The training options, flat. A run of another version may lack some, or have some that this version lacks."""
    base_run: BaseRun | None = None
    hub: dict[str, str] = field(default_factory=dict)
    """The ids on the Hugging Face Hub of the `data` and the `model` that training started from, where they have one."""
    data: DataRecord
    num_epochs: int
    """Epochs trained."""
    best_epoch: int
    """The epoch whose weights are kept, from 1."""
    calibration: Calibration
    figures: dict[str, dict[str, float]]
    """For each split `dogbreeds.metrics.summary` and `dogbreeds.answers.answer_rates`, the `seconds` that its
    evaluation took and `photos_per_second`. Runs of older versions lack some."""
    model_type: str | None = None
    """Of config.json."""
    num_parameters: int
    num_trained_parameters: int
    flops_per_photo: int | None = None
    """Floating-point operations of one forward pass."""
    milliseconds_per_photo: dict[str, float] = field(default_factory=dict)
    """From a file to its answer on the CPU, see `dogbreeds.latency`. The oldest runs have none."""
    export_difference: dict[str, float] | None = None
    """Largest difference of each output between PyTorch and ONNX Runtime."""
    seconds: dict[str, float]
    """What each stage of training took, such as `features`, `training` and `export`."""
    time: dict[str, Any] = field(default_factory=dict)
    """What the epochs spent their time on, and the speed reached."""
    hardware: str
    mixed_precision: str
    versions: dict[str, str]
    """Of Python and the libraries."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Of the files that answers are computed from, and of the weights. `run_folder.commit` fills it in."""

    serving_model: Literal["onnx/model.onnx", "onnx/model_quantized.onnx"] = ONNX
    """The model that answers. This and all below is written by `export`."""
    precision: Literal["float32", "int8"] | None = None
    export_command: str | None = None
    export_hardware: str | None = None
    """What the milliseconds of an 8-bit copy were measured on."""
    float32_top1: float | None = None
    """Validation top-1 of the run that an 8-bit copy was made from."""
    float32_products: list[str] | None = None
    """The matrix products of an 8-bit copy that stay float32."""
    float32_milliseconds_per_photo: dict[str, float] | None = None
    """Of the run that an 8-bit copy was made from, measured with it."""

    def to_json(self) -> dict[str, Any]:
        """What run.json holds, `format` first."""
        values = dataclasses.asdict(self)
        if self.serving_model == ONNX:
            del values["serving_model"]
        return {"format": FORMAT} | {name: value for name, value in values.items() if value not in (None, {})}

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> "RunRecord":
        """Read what `to_json` wrote, also by an older version.

        Args:
            values: The content of run.json.
            folder: The run folder, to name it in errors.

        Raises:
            UserError: It is of a newer version, lacks a key, or has a value of a wrong type.
        """
        if values.get("format") != FORMAT:
            raise UserError(f"{folder / 'run.json'} has format {values.get('format')!r}, this version reads {FORMAT}")
        try:
            record: RunRecord = _read(cls, upgrade(values))
            for name in REQUIRED_OPTIONS:
                if name not in record.config:
                    raise KeyError(f"config.{name}")
        except KeyError as error:
            raise UserError(
                f"the run folder {str(folder)!r} is damaged: run.json has no {error}; copy it again or train again"
            ) from None
        except TypeError as error:
            raise UserError(
                f"in the run folder {str(folder)!r} run.json is damaged: its {error}; copy it again or train again"
            ) from None
        return record


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """The content of a run.json of an older version, as this version writes it.

    Fields that an older version did not have are optional in `RunRecord`. Changed were:

    - the shares of the verdicts, which were in a dictionary of their own, `verdicts`.
    """
    figures = values.get("figures")
    if not isinstance(figures, dict):
        return values
    upgraded = {}
    for split, given in figures.items():
        if isinstance(given, dict) and isinstance(verdicts := given.get("verdicts"), dict):
            given = {name: value for name, value in given.items() if name != "verdicts"}
            given |= {f"share_{verdict}": share for verdict, share in verdicts.items()}
        upgraded[split] = given
    return {**values, "figures": upgraded}


def _read(kind: Any, value: Any, key: str = "") -> Any:
    """A value of JSON as one of a type that the dataclasses here use.

    Args:
        kind: The type.
        value: The value; keys that a dataclass does not have are ignored.
        key: Where it is, such as ``data.num_train``.

    Raises:
        KeyError: A required key is missing; its name.
        TypeError: The value is of another type; the message says which.
    """
    inside = f"{key}." if key else ""
    choices, origin = get_args(kind), get_origin(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        types = get_type_hints(kind)
        read = {}
        for each in dataclasses.fields(kind):
            if each.name in value:
                read[each.name] = _read(types[each.name], value[each.name], inside + each.name)
            elif each.default is MISSING and each.default_factory is MISSING:
                raise KeyError(inside + each.name)
        return kind(**read)
    if origin is dict and isinstance(value, dict):
        return {name: _read(choices[1], item, f"{inside}{name}") for name, item in value.items()}
    if origin is list and isinstance(value, list):
        return [_read(choices[0], item, f"{inside}{index}") for index, item in enumerate(value)]
    if origin in (Union, UnionType):  # with None
        return None if value is None else _read(choices[0], value, key)
    if kind is Any or (origin is Literal and value in choices):
        return value
    if isinstance(kind, type) and origin is None and isinstance(value, (int, float) if kind is float else kind):
        return value
    wanted = " or ".join(map(repr, choices)) if origin is Literal else getattr(kind, "__name__", kind)
    raise TypeError(f"{key} is {value!r}, not {wanted}")
