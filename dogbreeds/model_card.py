"""The model card of a run, written from its run.json."""

from pathlib import Path
from typing import Any

from dogbreeds.metrics import wilson_interval
from dogbreeds.record import AddedBreed, RunRecord

METRICS = {
    "top1": ("accuracy", "top-1 accuracy"),
    "top3": ("top_3_accuracy", "top-3 accuracy"),
    "top5": ("top_5_accuracy", "top-5 accuracy"),
    "macro_f1": ("f1", "macro F1"),
    "log_loss": ("log_loss", "log-loss"),
    "ece": ("expected_calibration_error", "expected calibration error"),
}
"""Figures of run.json: the type and name of each on the Hugging Face Hub."""

EVERYDAY = "everyday"
"""The figures of photos that are not of the data set; see `RunRecord.figures`."""
HELD_OUT = "held-out"
"""Photos of the data that were held out, of no split of the run's own training."""
_OF_THE_DATA = ("train", "validation", "test", HELD_OUT)
FITTED_ON = {
    "validation": "validation photos",
    "dogs": "photos of dogs",
    "other_photos": "photos without a dog",
    "other_dogs": "photos of dogs of other breeds",
}
"""The kinds of photos of `Calibration.fitted_on`, in words."""
_ADAPTED = {
    "full": "all weights",
    "all": "all weights",  # of older versions
    "lp-ft": "the classifier alone first, then all weights (LP-FT)",
    "bitfit": "the classifier and all biases (BitFit)",
    "lora": "the classifier and low-rank changes of other weights, which these include now (LoRA)",
    "vpt": "the classifier and tokens beside the patches (VPT-Shallow)",
}
"""The values of the option `adapt`, in words."""


def card_metadata(name: str, record: RunRecord) -> dict[str, Any]:
    """The part of a model card that the Hugging Face Hub reads: the task, the data and the figures.

    It states no licence, which depends on the photos and on the weights that training started from; its owner knows
    them. The name of a local folder is not given as a data set or model of the Hub.

    Args:
        name: The run's name.
        record: Its run.json.
    """
    from huggingface_hub import ModelCardData  # takes a second

    results = [
        eval_result(record, split, *metric, figures[figure])
        for split, figures in record.figures.items()
        for figure, metric in METRICS.items()
        if figure in figures
    ]
    return ModelCardData(
        # transformers needs model.safetensors and an architecture that it knows.
        library_name="transformers" if record.has_weights and not _is_plain_cnn(record) else None,
        pipeline_tag="image-classification",
        tags=["dogs", "onnx"],
        base_model=record.hub.get("model"),
        datasets=[record.hub["data"]] if "data" in record.hub else None,
        model_name=name,
        eval_results=results,
    ).to_dict()


def eval_result(
    record: RunRecord, split: str, kind: str, shown: str, value: float, *, data: str | None = None, **details: Any
) -> Any:
    """One figure as an `EvalResult` of the Hub's library.

    Args:
        record: The run's.
        split: Of its data, or `EVERYDAY` or the name of another set of photos.
        kind: The type of the figure on the Hub.
        shown: Its name there.
        value: The figure.
        data: The id of its data on the Hub; by default as training recorded it.
        details: Other fields of `EvalResult`.
    """
    from huggingface_hub import EvalResult

    data = data or record.hub.get("data") or Path(record.config["data"]).name
    name = data if split in _OF_THE_DATA else "everyday photos" if split == EVERYDAY else split
    return EvalResult(
        task_type="image-classification",
        task_name="Image Classification",
        dataset_type=name.replace(" ", "-"),
        dataset_name=name,
        dataset_split=split,
        metric_type=kind,
        metric_name=shown,
        metric_value=round(float(value), 4),
        **details,
    )


def model_card(name: str, record: RunRecord, labels: tuple[str, ...]) -> str:
    """The README.md of a run folder, with the metadata that the Hugging Face Hub reads.

    Args:
        name: The run's name.
        record: Its run.json.
        labels: The name of each class.
    """
    from huggingface_hub.utils import yaml_dump

    config, data = record.config, record.data
    # Older versions had no other way, newer ones may have more.
    adapted = _ADAPTED.get(str(config.get("adapt", "full")), "some weights")
    trained = "the classifier alone, on a frozen backbone" if config["freeze_backbone"] else adapted
    trained += ", from scratch" if config["from_scratch"] else ""
    seconds = ", ".join(f"{stage} {value:.0f} s" for stage, value in record.seconds.items())
    size = config["image_size"]
    versions = ", ".join(f"{package} {number}" for package, number in record.versions.items())
    commands = f"- `{record.command}`"
    if record.export_command:
        commands += f"\n{_copied(record)}"
    commands += "".join(f"\n{_added(breed)}" for breed in record.added_breeds or ())
    return f"""---
{yaml_dump(card_metadata(name, record), sort_keys=False)}---
# {name}

Tells {len(labels)} dog breeds from a photo. It says what a dog looks like, not what its ancestry is.

{_figures(record)}

{_answers(record)}

In brackets: 95 % interval (Wilson).

{_calibration(record)}

## How it was made

{commands}
- base: `{config["model"]}`; trained: {trained} ({record.num_trained_parameters:,} of {record.num_parameters:,}
  parameters), best of {record.num_epochs} epochs: {record.best_epoch}, seed {config["seed"]}
- data: `{config["data"]}`; {data.num_train:,} training, {data.num_validation:,} validation and
  {data.num_test:,} test photos, disjoint by content; split `{data.split_hash[:16]}`
- {record.hardware}; {seconds}
- {versions}

## What to know

Photos of Stanford Dogs come from ImageNet, which most pre-trained backbones have seen; figures on them flatter every
such model. Mixed breeds get the pure breeds they look like.

`{record.serving_model}` takes `pixel_values` (B, 3, {size}, {size}) and gives `logits` (B, {len(labels)}) and,
of most architectures, `features` (B, D) and `heat_map` (B, {len(labels)}, h, w). `run.json` holds all options, hashes
and figures.
{_loading(record)}{_steps(config)}"""


def _figures(record: RunRecord) -> str:
    """How often the most probable breeds are right, a row for each split."""
    lines = ["| split | n | top-1 | top-3 | macro F1 | log-loss | ECE |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for split, found in record.figures.items():  # those of older versions lack some
        shown = [_share(found.get("top1"), found.get("n", 0)), _percent(found.get("top3"))]
        shown += [_number(found.get("macro_f1")), _number(found.get("log_loss")), _percent(found.get("ece"))]
        lines.append(f"| {split} | {found.get('n', '-')} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _answers(record: RunRecord) -> str:
    """Which answers are given, a row for each split and for each kind of other photos."""
    lines = [
        "| photos | n | confident | of these right | not sure | of these hold the breed | another breed | not a dog |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for split, found in record.figures.items():
        num, confident, unsure = (found.get(name, 0) for name in ("n", "share_confident", "share_unsure"))
        shown = [
            _share(found.get("share_confident"), num),
            _share(found.get("top1_confident"), confident * num),
            _share(found.get("share_unsure"), num),
            _share(found.get("candidates_right"), unsure * num),
            _share(found.get("share_unknown_breed"), num),
            _share(found.get("share_not_a_dog"), num),
        ]
        lines.append(f"| {split} | {found.get('n', '-')} | {' | '.join(shown)} |")
    checked = record.figures.get(EVERYDAY, {})
    for kind in ("other_photos", "other_dogs"):
        if num_others := checked.get(f"n_{kind}"):
            sure, unknown, no_dog = (
                _share(checked.get(f"{kind}_{verdict}"), num_others)
                for verdict in ("confident", "unknown_breed", "not_a_dog")
            )
            lines.append(f"| {FITTED_ON[kind]} | {num_others} | {sure} | - | - | - | {unknown} | {no_dog} |")
    return "\n".join(lines)


def _calibration(record: RunRecord) -> str:
    """What the verdicts mean, and what their thresholds were fitted on."""
    calibration = record.calibration
    score = "its largest logit is less than {:.3f} above the mean of its logits"
    lines = [f"Probabilities are calibrated by a temperature of {calibration.temperature:.3f}. {_fitted_on(record)}"]
    lines.append(_for_others(record))
    lines.append(f"- confident: from a probability of {calibration.confident_threshold:.3f} on")
    if calibration.confident_score is not None:
        lines[-1] += f", unless {score.format(calibration.confident_score)}"
    if calibration.unknown_breed_threshold is not None:
        lines.append(f"- another breed: a dog, but {score.format(calibration.unknown_breed_threshold)}")
    lines.append(f"- not a dog: {score.format(calibration.not_a_dog_threshold)}")
    if calibration.dog_probe is not None:
        lines[-1] += f", or a linear probe of its features gives less than {calibration.dog_probe_threshold:.3f}"
    if calibration.unknown_breed_threshold is None:
        lines.append("- A dog of another breed is given one of its breeds, or called not a dog.")
    return "\n".join([*lines[:2], "", *lines[2:]])


def _for_others(record: RunRecord) -> str:
    """What the logits of the model's files are to those who use them without this project."""
    missing = record.calibration.temperature / record.logit_scale
    if abs(missing - 1) < 1e-6:
        return """The logits of its files are divided by it already: other libraries give calibrated probabilities too.
The thresholds are for the logits before that."""
    return f"""With other libraries, divide the logits of its files by {missing:.3f} for calibrated probabilities; times
{record.logit_scale:.3f} they are those of the thresholds."""


def _fitted_on(record: RunRecord) -> str:
    """Which photos the calibration was fitted on, and which figures are of it."""
    fitted_on = {kind.replace(" ", "_"): num for kind, num in record.calibration.fitted_on.items()}
    named = ", ".join(f"{num:,} {FITTED_ON.get(kind, kind)}" for kind, num in fitted_on.items())
    text = f"It and the thresholds were\nfitted on {named or 'the validation photos'}"
    if record.calibration_command:
        return f"""{text} by
`{record.calibration_command}`.
The row "{EVERYDAY}" and those below it are of photos that fitted nothing; the rows above it are from before."""
    return f"{text}. The best epoch was\nchosen on the validation photos too: read their row as slightly too good."


def _share(share: float | None, num: float) -> str:
    """A share with its 95 % interval, or "-" where it was not measured."""
    if share is None or not round(num):
        return "-"
    low, high = wilson_interval(round(share * num), round(num))
    return f"{share:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _is_plain_cnn(record: RunRecord) -> bool:
    """Whether the architecture is this project's own, of `dogbreeds.training.earlier.convnet`."""
    return record.model_type == "convnet"


def _in_javascript(model_type: str) -> str:
    if model_type in ("timm_wrapper", "convnet"):
        return "\ntransformers.js does not know this architecture; ONNX Runtime answers with it in any language.\n"
    return "\ntransformers.js opens it with `pipeline`, without the verdicts that `run.json` is for.\n"


_WITHOUT_WEIGHTS = """
`AutoModelForImageClassification` and `pipeline` of transformers do not open this folder: it has the ONNX model alone,
no weights for PyTorch. `python -m dogbreeds predict --run-dir` does, with the verdicts, and so does ONNX Runtime.
"""


def _loading(record: RunRecord) -> str:
    if not record.has_weights:
        return _WITHOUT_WEIGHTS + ("" if record.model_type is None else _in_javascript(record.model_type))
    if not _is_plain_cnn(record):
        return ""
    return """
`AutoModelForImageClassification.from_pretrained` loads it after `import dogbreeds.training.earlier.convnet`, which
registers this architecture with transformers.
"""


def _steps(config: dict[str, Any]) -> str:
    """The steps of pre-processing that transformers does not have; empty for most runs."""
    steps = [name for name in ("grayscale", "equalize") if config.get(name)]
    if config.get("whitening", "none") != "none":
        steps.append(f"whitening {config['whitening']}")
    if not steps:
        return ""
    return f"""
It was trained on photos after {", ".join(steps)}. This project does the same before each answer;
`transformers.pipeline` does not, and shows it other pixels than it knows.
"""


def _added(breed: AddedBreed) -> str:
    """How a breed was added."""
    return f"""- then `{breed.command}`: {breed.name}, from {breed.num_photos} photos and without training.
  {breed.num_recognised} of them are recognised by the others; {breed.loss:.1%} of the validation photos lost their
  right answer to it. All figures above are from before. The weights for PyTorch do not know it, and are left out"""


def _copied(record: RunRecord) -> str:
    """How a serving copy was made."""
    text = f"- then `{record.export_command}`: the files that answer, without the weights for PyTorch"
    return f"{text}\n- {in_8_bit(record)}" if record.precision == "int8" else text


def in_8_bit(record: RunRecord) -> str:
    """What an 8-bit copy loses and saves, in the lines of its card."""
    top1 = record.figures.get("validation", {}).get("top1")
    text = f"""it computes with 8-bit numbers. On the same validation photos top-1 is {_percent(top1)}, and
  {_percent(record.float32_top1)} in float32"""
    times = (record.milliseconds_per_photo, record.float32_milliseconds_per_photo or {})
    fast, slow = (each.get("median") for each in times)
    if fast is not None and slow is not None:  # which the oldest 8-bit copies lack
        text += f"""; from file to answer it takes {fast:.1f} ms,
  and {slow:.1f} ms in float32 ({record.export_hardware})"""
    return text
