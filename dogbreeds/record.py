"""run.json as a type: how a run was trained, on which data, how good it is, and how its answers are calibrated.

The file has the same keys as the dataclasses here. Optional fields without a value are left out of it.
"""

import dataclasses
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, WrapValidator

from dogbreeds.calibration import Calibration, Temperature
from dogbreeds.dog_probe import DogProbe
from dogbreeds.errors import UserError
from dogbreeds.json_types import Count, Finite, Text, checked

FORMAT = 1
"""Increased when older code could no longer read a run folder."""

ONNX: Literal["onnx/model.onnx"] = "onnx/model.onnx"
ONNX_8BIT: Literal["onnx/model_quantized.onnx"] = "onnx/model_quantized.onnx"
"""The model for ONNX Runtime, and its copy with 8-bit weights."""


@dataclass(frozen=True)
class RequiredOptions:
    """The options that every version has written; others may be missing, and newer versions may add some."""

    model: Text
    data: Text
    breeds: list[Text]
    seed: int
    image_size: Count
    from_scratch: bool
    freeze_backbone: bool


def _check_only(value: Any, check: Callable[[Any], Any]) -> Any:
    check(value)
    return value


Numbers = dict[Text, Annotated[Finite, WrapValidator(_check_only)]]
"""Of which whole ones stay `int`: pydantic would make them `float`."""


def _with_shares(figures: Any) -> Any:
    """Figures as this version writes them: older versions had the verdicts' shares in a dictionary of their own."""
    if isinstance(figures, dict) and isinstance(verdicts := figures.get("verdicts"), dict):
        shares = {f"share_{verdict}": share for verdict, share in verdicts.items()}
        return {**{name: value for name, value in figures.items() if name != "verdicts"}, **shares}
    return figures


def _check_shares(figures: dict[str, float]) -> dict[str, float]:
    for name, value in figures.items():
        if not 0 <= value <= 1 and name.startswith(("top", "macro_f1", "ece", "share_")):
            raise ValueError(f"a share for {name}: {value}")
    return figures


Figures = Annotated[Numbers, BeforeValidator(_with_shares), AfterValidator(_check_shares)]


@dataclass(frozen=True)
class DataRecord:
    """The photos of a run."""

    num_train: Count
    num_validation: Count
    num_test: Count
    left_out: list[dict[str, str]]
    """The `id` of each photo that was not used, and the `reason`."""
    fingerprint: Text
    """SHA-256 of the data, however it is split."""
    split_hash: Text
    """SHA-256 of the photos and labels of each split, also of those that were then not trained on."""


@dataclass(frozen=True)
class BaseRun:
    """The run whose weights a run started from."""

    command: Text
    seconds: Numbers
    """As in `RunRecord`."""
    data: Text
    """Its `DataRecord.split_hash`."""


@dataclass(frozen=True)
class AddedBreed:
    """A breed that a run got after its training, by `add-breed`."""

    name: Text
    num_photos: Count
    """That it was added from ..."""
    num_recognised: Count
    """... and how many of these are of this breed to the others."""
    loss: Finite
    """The share of the validation photos, of the breeds before, that were right and are of the new breed now."""
    command: Text


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of run.json."""

    created: Text
    """When training ended, ISO 8601."""
    command: Text
    """The training command."""
    config: dict[str, Any]
    """The training options, flat. A run of another version may lack some, or have some that this version lacks."""
    tuning_trials: Count | None = None
    """How many trials of a search for options chose these; 0 if none did. Older runs do not tell."""
    base_run: BaseRun | None = None
    hub: dict[Text, Text] = field(default_factory=dict)
    """The ids on the Hugging Face Hub of the `data` and the `model` that training started from, where they have one."""
    data: DataRecord
    num_epochs: Count
    """Epochs trained."""
    best_epoch: Count
    """The epoch whose weights are kept, from 1."""
    calibration: Calibration
    figures: dict[Text, Figures]
    """For each split `dogbreeds.metrics.summary` and `dogbreeds.answers.answer_rates`, the `seconds` that its
    evaluation took and `photos_per_second`. Runs of older versions lack some. "everyday" is of
    `dogbreeds.serving.calibrate`."""
    model_type: Text | None = None
    """Of config.json."""
    num_parameters: Count
    num_trained_parameters: Count
    flops_per_photo: Count | None = None
    """Floating-point operations of one forward pass."""
    milliseconds_per_photo: Numbers = field(default_factory=dict)
    """From a file to its answer on the CPU, see `dogbreeds.latency`. The oldest runs have none."""
    export_difference: Numbers | None = None
    """Largest difference of each output between PyTorch and ONNX Runtime."""
    seconds: Numbers
    """What each stage of training took, such as `features`, `training` and `export`."""
    time: dict[str, Any] = field(default_factory=dict)
    """What the epochs spent their time on, and the speed reached."""
    hardware: Text
    mixed_precision: Text
    versions: dict[Text, Text]
    """Of Python and the libraries."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Of the files that answers are computed from, and of the weights. `run_folder.commit` fills it in."""

    built_in_temperature: Temperature | None = None
    """What the logits of the model's files are divided by already, so that their softmax gives others, who know nothing
    of `calibration`, calibrated probabilities; None in older runs: nothing."""

    calibration_command: Text | None = None
    """The command that fitted the calibration after training; the figures of "everyday" are from it, those of other
    splits of the calibration before."""

    added_breeds: list[AddedBreed] | None = None
    """In order. The weights for PyTorch do not know them, and are left out; the figures are from before."""

    serving_model: Literal["onnx/model.onnx", "onnx/model_quantized.onnx"] = ONNX
    """The model that answers. This and all below is written by `export`."""
    precision: Literal["float32", "int8"] | None = None
    export_command: Text | None = None
    export_hardware: Text | None = None
    """What the milliseconds of an 8-bit copy were measured on."""
    float32_top1: Finite | None = None
    """Validation top-1 of the run that an 8-bit copy was made from."""
    float32_products: list[Text] | None = None
    """The matrix products of an 8-bit copy that stay float32."""
    float32_milliseconds_per_photo: Numbers | None = None
    """Of the run that an 8-bit copy was made from, measured with it."""

    @property
    def has_weights(self) -> bool:
        """Whether the run folder holds the weights for PyTorch."""
        return not (self.export_command or self.added_breeds)

    @property
    def logit_scale(self) -> float:
        """What makes the model's logits those that were trained, of which all of `calibration` is."""
        return self.built_in_temperature or 1.0

    def to_json(self) -> dict[str, Any]:
        """What run.json holds, `format` first."""
        values = dataclasses.asdict(self)
        values["calibration"] = _without_empty(values["calibration"])
        if self.serving_model == ONNX:
            del values["serving_model"]
        return {"format": FORMAT} | _without_empty(values)

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> "RunRecord":
        """Read what `to_json` wrote, also by an older version.

        Args:
            values: The content of run.json.
            folder: The run folder, to name it in errors.

        Raises:
            UserError: It is of a newer version, lacks a key, or has a value of a wrong type or out of range.
        """
        file = folder / "run.json"
        if values.get("format") != FORMAT:
            raise UserError(f"{file} has format {reprlib.repr(values.get('format'))}, this version reads {FORMAT}")
        record = checked(cls, values, file)
        checked(RequiredOptions, record.config, file, within=("config",))
        try:
            if record.calibration.dog_probe is not None:
                DogProbe.from_text(record.calibration.dog_probe)
        except ValueError:
            raise UserError(
                f"the run folder {str(folder)!r} is damaged: run.json is damaged: its calibration.dog_probe is not "
                "what a fit gives; copy it again or train again"
            ) from None
        return record


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, {})}
