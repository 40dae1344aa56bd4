"""The last part of a run: the best weights are judged, calibrated and exported, and the run folder is completed."""

import copy
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from dogbreeds import run_folder
from dogbreeds.addresses import Place
from dogbreeds.answers import answer_rates
from dogbreeds.calibration import Calibration, Outputs, softmax
from dogbreeds.calibration_photos import Use, uses, write_uses
from dogbreeds.files import write_csv, write_json
from dogbreeds.hub import HubId
from dogbreeds.images import BadImage, PhotoSource, open_image
from dogbreeds.latency import NUM_PHOTOS, milliseconds_per_photo
from dogbreeds.model_card import model_card
from dogbreeds.photos import photo_digest, photo_files, read_bytes, read_photos
from dogbreeds.predictions import Predictions
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.record import ONNX, RunRecord
from dogbreeds.split_file import SPLITS, TRAINED_BEFORE, save_splits
from dogbreeds.training.breed_metrics import compute_figures
from dogbreeds.training.calibrated_logits import divide_logits
from dogbreeds.training.context import Context
from dogbreeds.training.evaluation import predict_logits
from dogbreeds.training.export import export_serving_model
from dogbreeds.training.inputs import Inputs
from dogbreeds.training.loop import photo_errors_as_user_errors
from dogbreeds.training.models.inspection import classifier_of
from dogbreeds.training.models.registry import resolve_model
from dogbreeds.training.options import TrainConfig
from dogbreeds.training.run import Run
from dogbreeds.versions import versions

Logits = dict[str, tuple[np.ndarray, np.ndarray]]
"""For each split that is held out its logits `(N, C)` and labels `(N,)`."""


def judge(model: nn.Module, inputs: Inputs, context: Context) -> Logits:
    """The logits of the splits that are held out, in float32 whatever training used, for that is what is served."""
    logits = {}
    with photo_errors_as_user_errors(), closing(inputs):
        for split in inputs.held_out:
            with context.timed(f"evaluation of {split}"):
                logits[split] = predict_logits(model, inputs, split, context, exact=True)
    return logits


def save_run(run: Run, logits: Logits) -> None:
    """Calibrate, export and complete the run folder; by the main process.

    Args:
        run: Trained, with its best weights loaded.
        logits: From `judge`.
    """
    config, context, partial, names = run.config, run.context, run.partial, run.splits.names
    model = copy.deepcopy(run.learner.full_model).cpu().float().eval()
    with context.timed("export"):
        exported = export_serving_model(model, partial / ONNX, config.preprocessing.image_size)
    if exported.why_no_heat_map:
        context.say(f"the run is served without heat maps: {exported.why_no_heat_map}")
    calibration, outputs = _calibrate(run, logits)
    built_in_temperature = _build_in_temperature(model, calibration.temperature, run)
    _save_checkpoint(model, run.inputs.preprocessing, partial)
    figures = _save_predictions(run, outputs, logits, calibration, tables=True)
    _save_splits(run)
    _save_history(run)
    record = _record(
        run,
        calibration,
        figures,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        milliseconds_per_photo=_milliseconds_per_photo(run),
        export_difference=exported.differences,
        built_in_temperature=built_in_temperature,
    )
    (partial / run_folder.CARD).write_text(model_card(config.run.output_dir.name, record, names), encoding="utf-8")
    run_folder.commit(partial, config.run.output_dir, record)
    for split, found in figures.items():
        context.say(
            f"{split}: n {found['n']}, top-1 {found['top1']:.1%}, top-3 {found['top3']:.1%}, "
            f"top-5 {found['top5']:.1%}, macro F1 {found['macro_f1']:.3f}, log-loss {found['log_loss']:.3f}, "
            f"ECE {found['ece']:.1%}, {found['photos_per_second']:.0f} photos/s"
        )
    context.say(f"saved to {config.run.output_dir}")


def save_answers(run: Run, logits: Logits) -> None:
    """Complete a folder of the answers alone, without the model: one of the cells of a study, of which there are many.

    It has run.json, history.csv and the probabilities of all photos that are held out.

    Args:
        run: As for `save_run`.
        logits: From `judge`.
    """
    outputs, labels = {split: Outputs(found) for split, (found, _) in logits.items()}, logits["validation"][1]
    calibration = Calibration.fit(outputs["validation"], labels, fitted_on={"validation": len(labels)})
    figures = _save_predictions(run, outputs, logits, calibration, tables=False)
    _save_history(run)
    num_parameters = sum(parameter.numel() for parameter in run.learner.full_model.parameters())
    record = _record(run, calibration, figures, num_parameters=num_parameters)
    run_folder.complete(run.partial, run.config.run.output_dir, record)


def _save_history(run: Run) -> None:
    history = run.loop.progress.history
    header = list(history[0])
    write_csv(run.partial / run_folder.HISTORY, [header, *([row[name] for name in header] for row in history)])


def _record(run: Run, calibration: Calibration, figures: dict[str, dict[str, float]], **of_model: Any) -> RunRecord:
    """What run.json says of a run; `of_model` is what only its model tells."""
    context, progress = run.context, run.loop.progress
    # Of features that several runs share, this run's part of the time
    seconds = {"features": sum(run.features.seconds.get(split, 0.0) for split in ("train", "validation"))}
    seconds = {**(seconds if run.features.seconds else {}), **context.seconds}
    return RunRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=_command(context.num_processes),
        config=run.config.to_dict(),
        tuning_trials=run.tuning_trials,
        base_run=run.base.record,
        hub=from_hub(run.config),
        data=run.splits.to_record(),
        num_epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        calibration=calibration,
        figures=figures,
        model_type=run.learner.full_model.config.model_type,
        num_trained_parameters=run.learner.num_trained_parameters,
        flops_per_photo=run.flops_per_photo,
        seconds={name: round(value, 1) for name, value in seconds.items()},
        time=run.time_record(),
        hardware=context.hardware,
        mixed_precision=context.accelerator.mixed_precision,
        versions=versions("torch", "torchvision", "transformers", "accelerate", "onnxruntime"),
        **of_model,
    )


def _save_checkpoint(model: Any, view: Preprocessing, folder: Path) -> None:
    """Write the weights, the architecture and the view, with which transformers sees what this project does."""
    image_processor = "ViTImageProcessor" if model.config.model_type == "vit" else "MobileNetV2ImageProcessor"
    if pretrained_cfg := getattr(model.config, "pretrained_cfg", None):
        # Of a timm network transformers (5.24.0) reads the view from config.json, unless that names a processor.
        model.config.pretrained_cfg = {**pretrained_cfg, **view.to_timm_config()}
        model.config.image_processor_type = image_processor
    model.save_pretrained(folder)
    write_json(folder / run_folder.PREPROCESSOR, view.to_preprocessor_config(image_processor))


@torch.no_grad()
def _build_in_temperature(model: Any, temperature: float, run: Run) -> float | None:
    """Divide the logits of the model, and of its export, by the temperature; None if the model has no such layer."""
    side = run.config.preprocessing.image_size
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = model(pixels).logits / temperature
    last = classifier_of(model)[1]
    # LeViT's logits are the mean of two such layers.
    all_heads = [
        each for each in model.modules() if isinstance(each, nn.Linear) and each.out_features == last.out_features
    ]
    for heads in ([last], all_heads):
        before = [(parameter, parameter.clone()) for head in heads for parameter in head.parameters()]
        for parameter, _ in before:
            parameter.div_(temperature)
        if torch.allclose(model(pixels).logits, expected, atol=1e-4, rtol=1e-4):
            divide_logits(run.partial / ONNX, temperature)
            return temperature
        for parameter, value in before:
            parameter.copy_(value)
    run.context.say(
        "note: other libraries give this model's probabilities before calibration: its card says what to do"
    )
    return None


def _calibrate(run: Run, logits: Logits) -> tuple[Calibration, dict[str, Outputs]]:
    """Fit the calibration on validation photos and those of `--other-photos` and `--other-dogs`.

    Returns:
        The calibration, and the outputs for each split; with features if there are other photos to tell dogs from.
    """
    data, splits = run.config.data, run.splits
    outputs = {split: Outputs(found) for split, (found, _) in logits.items()}
    folders = {"other_photos": data.other_photos, "other_dogs": data.other_dogs}
    files = {kind: photo_files(folder) for kind, folder in folders.items() if folder is not None}
    others: dict[str, Outputs] = {}
    used: list[Use] = []
    with photo_errors_as_user_errors(), run.context.timed("calibration"):
        if files:
            if data.other_photos is not None:
                outputs = {
                    split: replace(_outputs(run, splits[split].sources, may_skip=False)[0], logits=found)
                    for split, (found, _) in logits.items()
                }
            for kind, paths in files.items():
                others[kind], digests = _outputs(run, paths, may_skip=True)
                used += uses(kind.replace("_", " "), digests, [False] * len(digests))
            write_uses(run.partial / run_folder.CALIBRATION_PHOTOS, used)
    counts = {kind: len(found) for kind, found in {"validation": outputs["validation"], **others}.items()}
    calibration = Calibration.fit(outputs["validation"], logits["validation"][1], **others, fitted_on=counts)
    return calibration, outputs


def _outputs(run: Run, photos: Sequence[Place | bytes], *, may_skip: bool) -> tuple[Outputs, list[str]]:
    """What the exported model finds in photos, and their digests.

    Args:
        run: With its exported model.
        photos: Paths, or what files hold.
        may_skip: Report what can't be read, and leave it out.

    Raises:
        BadImage: A photo can't be read, and may not be left out.
    """
    session = onnxruntime.InferenceSession(run.partial / ONNX, providers=["CPUExecutionProvider"])
    preprocessing = run.inputs.preprocessing

    def load(photo: Place | bytes) -> tuple[str, np.ndarray]:
        content = read_bytes(photo)
        return photo_digest(content), preprocessing(open_image(content, at_least=preprocessing.decoded_side))[None]

    found, digests = [], []
    for photo, loaded in zip(photos, read_photos(photos, load), strict=True):
        if isinstance(loaded, BadImage):
            if not may_skip:
                raise loaded
            run.context.say(f"left out {photo if isinstance(photo, Path) else 'a photo'}: {loaded}")
        else:
            digest, pixels = loaded
            found.append(Outputs(*session.run(["logits", "features"], {"pixel_values": pixels})))
            digests.append(digest)
    return Outputs.concatenate(found), digests


def _save_predictions(
    run: Run, outputs: dict[str, Outputs], logits: Logits, calibration: Calibration, *, tables: bool
) -> dict[str, dict[str, float]]:
    """Write the probabilities of each split, and if asked for their tables; the figures of each."""
    figures, temperature = {}, calibration.temperature
    for split, (_, labels) in logits.items():
        photos, probabilities = run.splits[split], calibration.probabilities(outputs[split].logits)
        digests = tuple(photos.digests.tolist())
        predictions = Predictions(photos.ids, digests, labels, photos.names, probabilities, temperature)
        predictions.save(run.partial / run_folder.predictions_file(split))
        if tables:
            predictions.write_tables(run.partial, f"-{split}")
        # Of the photos, even where their features were computed long before
        seconds = run.context.seconds[f"evaluation of {split}"] + run.features.seconds.get(split, 0.0)
        figures[split] = {
            **compute_figures(probabilities, labels, softmax(outputs[split].logits)),
            **answer_rates(outputs[split], labels, calibration, run.splits.names),
            "seconds": seconds,
            "photos_per_second": len(labels) / seconds,
        }
    return figures


def _save_splits(run: Run) -> None:
    """Write which photo is in which split, with those that only the run it started from was trained on."""
    digests = {split: run.splits[split].digests.tolist() for split in ("train", *run.splits.held_out)}
    labels = {split: [run.splits.names[label] for label in run.splits[split].labels] for split in digests}
    here = {digest for found in digests.values() for digest in found}
    before = {digest: label for digest, label in run.base.trained_on.items() if digest not in here}
    if before:
        digests[TRAINED_BEFORE], labels[TRAINED_BEFORE] = list(before), list(before.values())
    save_splits(run.partial / SPLITS, digests, labels)


def _milliseconds_per_photo(run: Run) -> dict[str, float]:
    """How long the exported model takes on one validation photo, from the file to the answer, on the CPU."""
    session = onnxruntime.InferenceSession(run.partial / ONNX, providers=["CPUExecutionProvider"])
    preprocessing, photos = run.inputs.preprocessing, run.splits.validation.sources

    def answer(photo: PhotoSource) -> Any:
        image = open_image(photo, at_least=preprocessing.decoded_side)
        return session.run(None, {"pixel_values": preprocessing(image)[None]})

    return milliseconds_per_photo([answer], [photos[index] for index in range(min(len(photos), NUM_PHOTOS))])[0]


def _command(num_processes: int) -> str:
    launcher = ["accelerate", "launch", "--num_processes", str(num_processes)] if num_processes > 1 else ["python"]
    script, *arguments = sys.argv
    program = ["-m", "dogbreeds"] if Path(script).name == "__main__.py" else [script]
    return shlex.join([*launcher, *program, *arguments])


def from_hub(config: TrainConfig) -> dict[str, str]:
    """Which of the data and the model's weights are the Hugging Face Hub's, by their ids, for the model card."""
    named = {"data": config.data.data}
    if not config.model.from_scratch:
        named["model"] = resolve_model(config.model.model)
    return {what: text for what, text in named.items() if HubId.parse(text) and not Path(text).exists()}
