"""The model card of a run, written from its run.json."""

from pathlib import Path
from typing import Any

from dogbreeds.record import RunRecord

METRICS = {
    "top1": ("accuracy", "top-1 accuracy"),
    "top3": ("top_3_accuracy", "top-3 accuracy"),
    "top5": ("top_5_accuracy", "top-5 accuracy"),
    "macro_f1": ("f1", "macro F1"),
    "log_loss": ("log_loss", "log-loss"),
    "ece": ("expected_calibration_error", "expected calibration error"),
}
"""Figures of run.json: the type and name of each on the Hugging Face Hub."""


def card_metadata(name: str, record: RunRecord) -> dict[str, Any]:
    """The part of a model card that the Hugging Face Hub reads: the task, the data and the figures.

    It states no licence, which depends on the photos and on the weights that training started from; its owner knows
    them. The name of a local folder is not given as a data set or model of the Hub.

    Args:
        name: The run's name.
        record: Its run.json.
    """
    from huggingface_hub import EvalResult, ModelCardData  # takes a second

    data = record.hub.get("data") or Path(record.config["data"]).name
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=data,
            dataset_name=data,
            dataset_split=split,
            metric_type=kind,
            metric_name=shown,
            metric_value=round(float(figures[figure]), 4),
        )
        for split, figures in record.figures.items()
        for figure, (kind, shown) in METRICS.items()
        if figure in figures
    ]
    return ModelCardData(
        # transformers needs model.safetensors, which a serving copy lacks, and an architecture that it knows.
        library_name=None if record.export_command or _is_plain_cnn(record) else "transformers",
        pipeline_tag="image-classification",
        tags=["dogs", "onnx"],
        base_model=record.hub.get("model"),
        datasets=[record.hub["data"]] if "data" in record.hub else None,
        model_name=name,
        eval_results=results,
    ).to_dict()


def model_card(name: str, record: RunRecord, labels: tuple[str, ...]) -> str:
    """The README.md of a run folder, with the metadata that the Hugging Face Hub reads.

    Args:
        name: The run's name.
        record: Its run.json.
        labels: The name of each class.
    """
    from huggingface_hub.utils import yaml_dump

    config, data, calibration = record.config, record.data, record.calibration
    rows = [
        f"| {split} | {f['n']} | {f['top1']:.1%} | {f['top3']:.1%} | {f['macro_f1']:.3f} | {f['log_loss']:.3f} "
        f"| {f['ece']:.1%} | {f['share_not_a_dog']:.1%} |"
        for split, f in record.figures.items()
    ]
    trained = "the classifier alone, on a frozen backbone" if config["freeze_backbone"] else "all weights"
    trained += ", from scratch" if config["from_scratch"] else ""
    seconds = ", ".join(f"{stage} {value:.0f} s" for stage, value in record.seconds.items())
    size = config["image_size"]
    versions = ", ".join(f"{package} {number}" for package, number in record.versions.items())
    commands = f"- `{record.command}`"
    if record.export_command:
        commands += f"\n{_copied(record)}"
    return f"""---
{yaml_dump(card_metadata(name, record), sort_keys=False)}---
# {name}

Tells {len(labels)} dog breeds from a photo. It says what a dog looks like, not what its ancestry is.

| split | n | top-1 | top-3 | macro F1 | log-loss | ECE | called not a dog |
| --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

Probabilities are calibrated by a temperature of {calibration.temperature:.3f}. It and the thresholds were fitted on
the validation photos, on which the best epoch was chosen too: read their row as slightly too good. An answer is called
confident from a probability of {calibration.confident_threshold:.3f} on, and a photo is called not a dog when its
largest logit is less than {calibration.not_a_dog_threshold:.3f} above the mean of its logits.

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
of most architectures, `heat_map` (B, {len(labels)}, h, w). `run.json` holds all options, hashes and figures.
{_loading(record)}{_steps(config)}"""


def _is_plain_cnn(record: RunRecord) -> bool:
    """Whether the architecture is this project's own, of `dogbreeds.training.earlier.convnet`."""
    return record.model_type == "convnet"


def _loading(record: RunRecord) -> str:
    if not _is_plain_cnn(record) or record.export_command:
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


def _copied(record: RunRecord) -> str:
    """How a serving copy was made."""
    text = f"- then `{record.export_command}`: the files that answer, without the weights for PyTorch"
    if record.precision == "int8":
        text += f"""
- it computes with 8-bit numbers. On the same validation photos top-1 is {record.figures["validation"]["top1"]:.1%}, and
  {record.float32_top1:.1%} in float32"""
    if record.float32_milliseconds_per_photo:  # which the oldest 8-bit copies lack
        text += f"""; from file to answer it takes {record.milliseconds_per_photo["median"]:.1f} ms,
  and {record.float32_milliseconds_per_photo["median"]:.1f} ms in float32 ({record.export_hardware})"""
    return text
