"""Copy the part of a run that serving needs, in float32 or 8-bit numbers, without the weights for PyTorch."""

import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from dogbreeds import metrics, run_folder, split_file
from dogbreeds.answers import answer_rates
from dogbreeds.calibration import Calibration, softmax
from dogbreeds.errors import UserError
from dogbreeds.files import read_json, whole_or_absent, write_json
from dogbreeds.images import open_image
from dogbreeds.machine import processor
from dogbreeds.model_card import in_8_bit, model_card
from dogbreeds.record import RunRecord
from dogbreeds.research.evaluate import classify, latencies, splits_of
from dogbreeds.run_folder import RunFolder, predictions_file
from dogbreeds.serving.predictor import Predictor
from dogbreeds.training.breed_metrics import compute_figures
from dogbreeds.training.calibrated_logits import divide_logits

Precision = Literal["auto", "int8", "float32"]

MAX_TOP1_LOSS = 0.003
"""How much validation top-1 a model may lose to 8-bit arithmetic, as a share of the photos."""


class NotWorthIt(UserError):
    """8-bit arithmetic would lose too many right answers, or save no time."""


def export_serving_copy(
    run_dir: Path, output: Path, *, precision: Precision = "auto", data: str | None = None, progress: bool = True
) -> Path:
    """Write a run folder with the files of a run that serving needs.

    With "float32" it has the run's own model and figures. With "int8" its model computes with 8-bit numbers, which
    makes it less than a third of the size and on most CPUs faster; it is measured on the run's validation photos, and
    has no figures of other splits. It is calibrated again on these photos, but if other photos had a part in the run's
    calibration, which are not at hand, it keeps that. "auto" is "int8" where that is faster here and costs no more
    than `MAX_TOP1_LOSS`, otherwise "float32". Which it is, and why, is printed.

    Args:
        run_dir: The run.
        output: The folder to make.
        precision: Of the arithmetic.
        data: The path or id of the run's data now; by default that of its training. "float32" does not read it.
        progress: Show progress bars.

    Returns:
        `output`.

    Raises:
        UserError: The run is damaged or 8-bit already, `output` exists, the photos are not the run's, or, with "int8",
            it would lose too many right answers.
    """
    run = RunFolder.open(run_dir)
    if run.is_8bit:
        raise UserError(f"{str(run_dir)!r} is an 8-bit copy already: name the run that it was made from")
    command = ["export", str(run_dir), "--output", str(output), "--precision", precision]
    command += [] if data is None else ["--data", data]
    with whole_or_absent(output) as partial:
        _copy_files(run, partial, run_folder.CONFIG, run_folder.PREPROCESSOR, run_folder.HISTORY)
        for name in (split_file.SPLITS, run_folder.CALIBRATION_PHOTOS, predictions_file(split_file.ADDED)):
            if (run.path / name).exists():  # not every run has them
                _copy_files(run, partial, name)
        (partial / run_folder.ONNX).parent.mkdir()
        record = None
        if precision != "float32":
            try:
                record = _make_8bit(run, partial, data, must_be_faster=precision == "auto", progress=progress)
            except NotWorthIt as error:
                if precision == "int8":
                    raise
                print(f"{error}: the copy is float32", file=sys.stderr)
                (partial / run_folder.ONNX_8BIT).unlink()
        if record:
            _name_8bit(partial / run_folder.CONFIG)
            print(f"{output.name}: {' '.join(in_8_bit(record).split())}", file=sys.stderr)
        record = record or _copy_float32(run, partial)
        divide_logits(partial / record.serving_model, record.calibration.temperature / record.logit_scale)
        record = replace(
            record,
            built_in_temperature=record.calibration.temperature,
            precision="float32" if record.serving_model == run_folder.ONNX else "int8",
            export_command=shlex.join(["python", "-m", "dogbreeds", *command]),
        )
        card = model_card(output.name, record, run.labels)
        (partial / run_folder.CARD).write_text(card, encoding="utf-8")
        run_folder.commit(partial, output, record)
    return output


def _name_8bit(config: Path) -> None:
    """Tell transformers.js which model to load: by default that is onnx/model.onnx, which an 8-bit copy lacks."""
    write_json(config, {**read_json(config), "transformers.js_config": {"dtype": "q8"}})


def _copy_float32(run: RunFolder, partial: Path) -> RunRecord:
    """Copy the model and the predictions; the record of the copy."""
    held_out = [predictions_file(split) for split in ("validation", "test") if split in run.record.figures]
    _copy_files(run, partial, run_folder.ONNX, *held_out)
    return run.record


def _copy_files(run: RunFolder, partial: Path, *names: str) -> None:
    for name in names:
        try:
            shutil.copyfile(run.path / name, partial / name)
        except OSError as error:
            raise UserError(f"can't copy {str(run.path / name)!r}: {error.strerror}") from None


def _make_8bit(run: RunFolder, partial: Path, data: str | None, *, must_be_faster: bool, progress: bool) -> RunRecord:
    """Make the 8-bit model with training photos, evaluate and calibrate it on the validation photos; its record."""
    from dogbreeds.training.quantize import NUM_PHOTOS, quantize_onnx  # takes a second, which a float32 copy saves

    try:
        splits = splits_of(run, data or run.record.config["data"], ["train", "validation"])
    except UserError as error:
        raise UserError(f"{error}; name the run's photos with --data, or copy it with --precision float32") from None
    train, validation = splits["train"], splits["validation"]
    some = np.linspace(0, len(train) - 1, min(NUM_PHOTOS, len(train)), dtype=int)
    opened = (open_image(train.sources[index], at_least=run.preprocessing.decoded_side) for index in some)
    pixels = np.stack([run.preprocessing(image) for image in opened])
    stay_float32 = quantize_onnx(run.onnx, partial / run_folder.ONNX_8BIT, pixels)
    copy = replace(run, path=partial, record=replace(run.record, serving_model=run_folder.ONNX_8BIT))
    float32, int8 = Predictor(run), Predictor(copy)
    expected, answers = (classify(predictor, validation, progress=progress) for predictor in (float32, int8))
    float32_top1, top1 = (
        metrics.top_k_accuracy(found.outputs.logits, found.labels, 1) for found in (expected, answers)
    )
    if float32_top1 - top1 > MAX_TOP1_LOSS + 1e-9:
        raise NotWorthIt(
            f"with 8-bit arithmetic the run {run.name!r} would lose too much: top-1 {top1:.1%} on validation instead "
            f"of {float32_top1:.1%}" + ("" if must_be_faster else "; use --precision float32")
        )
    float32_milliseconds, milliseconds = latencies([float32, int8], validation)
    if must_be_faster and milliseconds["median"] >= float32_milliseconds["median"]:
        raise NotWorthIt(
            f"with 8-bit arithmetic the run {run.name!r} would be no faster here: {milliseconds['median']:.1f} ms a "
            f"photo instead of {float32_milliseconds['median']:.1f} ms"
        )
    calibration = run.calibration
    if calibration.fitted_on.keys() <= {"validation"}:  # what another one was fitted on is not at hand
        fitted = Calibration.fit(answers.outputs, answers.labels, fitted_on={"validation": len(answers.labels)})
        calibration = replace(fitted, sure_margin=calibration.sure_margin, seen_score=calibration.seen_score)
    predictions = answers.predictions(replace(copy, record=replace(copy.record, calibration=calibration)))
    predictions.save(partial / predictions_file("validation"))
    return replace(
        copy.record,
        calibration=calibration,
        figures={
            "validation": {
                **compute_figures(predictions.probabilities, answers.labels, softmax(answers.outputs.logits)),
                **answer_rates(answers.outputs, answers.labels, calibration, run.labels),
                "seconds": answers.seconds,
                "photos_per_second": len(predictions) / answers.seconds,
            }
        },
        float32_top1=float32_top1,
        float32_products=stay_float32,
        export_hardware=processor(),  # on which the times here were measured
        milliseconds_per_photo=milliseconds,
        float32_milliseconds_per_photo=float32_milliseconds,
        export_difference=None,  # was of the float32 model and PyTorch
    )
