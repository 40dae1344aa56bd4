"""The serving part of a run, to be given away: what answers are computed from, without the weights for PyTorch."""

import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from dogbreeds import metrics, run_folder
from dogbreeds.calibration import Calibration, softmax
from dogbreeds.errors import UserError
from dogbreeds.machine import processor
from dogbreeds.research.evaluate import classify, latencies, photos_of
from dogbreeds.run_folder import RunFolder, predictions_file
from dogbreeds.serving.predictor import Predictor
from dogbreeds.training.model_card import model_card

Precision = Literal["int8", "float32"]

MAX_TOP1_LOSS = 0.003
"""How much of its top-1 on the validation photos a model may lose to 8-bit weights, as a share of the photos."""


def export_serving_copy(
    run_dir: Path, output: Path, *, precision: Precision = "int8", data: str | None = None, progress: bool = True
) -> Path:
    """Write a run folder that answers as a run does, and is a small part of it.

    With "float32" it is the run's own model, with its figures. With "int8" the weights are 8-bit numbers, which makes
    it a quarter of the size; the copy is measured and calibrated anew on the run's validation photos. Figures of
    other splits are left out, for the 8-bit model was not measured on them.

    Args:
        run_dir: The run.
        output: The folder to make.
        precision: Of the weights.
        data: Where the run's photos are now; by default where its training found them. "float32" needs none.
        progress: Show progress bars.

    Returns:
        `output`.

    Raises:
        UserError: The run is damaged or 8-bit already, `output` exists, the photos are not the run's, or 8-bit
            weights would cost too many right answers.
    """
    run = RunFolder.open(run_dir)
    if run.is_8bit:
        raise UserError(f"{str(run_dir)!r} is an 8-bit copy already: name the run that it was made from")
    command = ["export", str(run_dir), "--output", str(output), "--precision", precision]
    command += [] if data is None else ["--data", data]
    with run_folder.whole_or_absent(output) as partial:
        _copy_files(run, partial, run_folder.CONFIG, run_folder.PREPROCESSOR, run_folder.HISTORY)
        record = {
            **(_copy_float32(run, partial) if precision == "float32" else _make_8bit(run, partial, data, progress)),
            "precision": precision,
            "export_command": shlex.join(["python", "-m", "dogbreeds", *command]),
        }
        card = model_card(output.name, record, run.labels)
        (partial / run_folder.CARD).write_text(card, encoding="utf-8")
        run_folder.commit(partial, output, record)
    return output


def _copy_float32(run: RunFolder, partial: Path) -> dict[str, Any]:
    """Copy the model and the predictions as they are; the record."""
    (partial / run_folder.ONNX).parent.mkdir()
    _copy_files(run, partial, run_folder.ONNX, *(predictions_file(split) for split in run.record["figures"]))
    return run.record


def _copy_files(run: RunFolder, partial: Path, *names: str) -> None:
    for name in names:
        try:
            shutil.copyfile(run.path / name, partial / name)
        except OSError as error:
            raise UserError(f"can't copy {str(run.path / name)!r}: {error.strerror}") from None


def _make_8bit(run: RunFolder, partial: Path, data: str | None, progress: bool) -> dict[str, Any]:
    """Make the 8-bit model, judge and calibrate it on the validation photos; the record."""
    from dogbreeds.training.export import quantize_onnx  # imports torch, which a float32 copy need not wait for

    quantize_onnx(run.onnx, partial / run_folder.ONNX_8BIT)
    copy = replace(run, path=partial, record={**run.record, "serving_model": run_folder.ONNX_8BIT})
    float32, int8 = Predictor(run), Predictor(copy)
    photos = photos_of(float32, data or run.record["config"]["data"], "validation")
    expected, answers = (classify(predictor, photos, progress=progress) for predictor in (float32, int8))
    for photo in answers.unreadable:
        print(f"left out {photo.id}: {photo.reason}", file=sys.stderr)
    float32_top1, top1 = (metrics.top_k_accuracy(found.logits, found.labels, 1) for found in (expected, answers))
    if float32_top1 - top1 > MAX_TOP1_LOSS + 1e-9:
        raise UserError(
            f"with 8-bit weights the run {run.name!r} would lose too much: top-1 {top1:.1%} on validation instead "
            f"of {float32_top1:.1%}; use --precision float32"
        )
    calibration = Calibration.fit(answers.logits, answers.labels)
    predictions = answers.predictions(replace(copy, calibration=calibration))
    predictions.save(partial / predictions_file("validation"))
    record = {
        **copy.record,
        "calibration": calibration.to_dict(),
        "figures": {
            "validation": {
                **metrics.summary(predictions.probabilities, answers.labels, softmax(answers.logits)),
                "verdicts": calibration.verdict_shares(answers.logits),
                "seconds": answers.seconds,
                "photos_per_second": len(predictions) / answers.seconds,
            }
        },
        "float32_top1": float32_top1,
        "export_hardware": processor(),  # that of the times here
        "milliseconds_per_photo": latencies([int8], photos)[0],
    }
    record.pop("export_difference", None)  # between the float32 model and PyTorch
    return record
