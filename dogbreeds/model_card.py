"""The model card of a run, written from its run.json."""

from pathlib import Path
from typing import Any

from dogbreeds.run_folder import serving_files

METRICS = {
    "top1": ("accuracy", "top-1 accuracy"),
    "top3": ("top_3_accuracy", "top-3 accuracy"),
    "top5": ("top_5_accuracy", "top-5 accuracy"),
    "macro_f1": ("f1", "macro F1"),
    "log_loss": ("log_loss", "log-loss"),
    "ece": ("expected_calibration_error", "expected calibration error"),
}
"""Figures of run.json, and the type and name that each has on the Hugging Face Hub."""


def card_metadata(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """What the Hugging Face Hub reads of a model card: what it is of, and how good.

    It claims no licence: that of a checkpoint follows from its photos and from the weights it began with, which its
    owner knows. Nor is a folder's name, as data or model, taken for one on the Hub.

    Args:
        name: The run's name.
        record: What run.json says.
    """
    from huggingface_hub import EvalResult, ModelCardData  # takes a second

    on_hub = record.get("hub", {})
    data = on_hub.get("data") or Path(record["config"]["data"]).name
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
        for split, figures in record["figures"].items()
        for figure, (kind, shown) in METRICS.items()
        if figure in figures
    ]
    return ModelCardData(
        # transformers wants model.safetensors, which a serving copy lacks, and an architecture that it knows
        library_name=None if "export_command" in record or _is_plain_cnn(record) else "transformers",
        pipeline_tag="image-classification",
        tags=["dogs", "onnx"],
        base_model=on_hub.get("model"),
        datasets=[on_hub["data"]] if "data" in on_hub else None,
        model_name=name,
        eval_results=results,
    ).to_dict()


def model_card(name: str, record: dict[str, Any], labels: tuple[str, ...]) -> str:
    """The README.md of a run folder, with the metadata that the Hugging Face Hub reads.

    Args:
        name: The run's name.
        record: What run.json says.
        labels: The name of each class.
    """
    from huggingface_hub.utils import yaml_dump

    config, data, calibration = record["config"], record["data"], record["calibration"]
    rows = [
        f"| {split} | {f['n']} | {f['top1']:.1%} | {f['top3']:.1%} | {f['macro_f1']:.3f} | {f['log_loss']:.3f} "
        f"| {f['ece']:.1%} | {_not_a_dog(f):.1%} |"
        for split, f in record["figures"].items()
    ]
    trained = "the classifier alone, on a frozen backbone" if config["freeze_backbone"] else "all weights"
    trained += ", from scratch" if config["from_scratch"] else ""
    seconds = ", ".join(f"{stage} {value:.0f} s" for stage, value in record["seconds"].items())
    size = config["image_size"]
    versions = ", ".join(f"{package} {number}" for package, number in record["versions"].items())
    commands = f"- `{record['command']}`"
    if "export_command" in record:
        commands += f"\n{_copied(record)}"
    return f"""---
{yaml_dump(card_metadata(name, record), sort_keys=False)}---
# {name}

Tells {len(labels)} dog breeds from a photo. It says what a dog looks like, not what its ancestry is.

| split | n | top-1 | top-3 | macro F1 | log-loss | ECE | called not a dog |
| --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

Probabilities are calibrated by a temperature of {calibration["temperature"]:.3f}. It and the thresholds were fitted on
the validation photos, on which the best epoch was chosen too: read their row as slightly too good. An answer is called
confident from a probability of {calibration["confident_threshold"]:.3f} on, and a photo is called not a dog when its
largest logit is less than {calibration["not_a_dog_threshold"]:.3f} above the mean of its logits.

## How it was made

{commands}
- base: `{config["model"]}`; trained: {trained} ({record["num_trained_parameters"]:,} of {record["num_parameters"]:,}
  parameters), best of {record["num_epochs"]} epochs: {record["best_epoch"]}, seed {config["seed"]}
- data: `{config["data"]}`; {data["num_train"]:,} training, {data["num_validation"]:,} validation and
  {data["num_test"]:,} test photos, disjoint by content; split `{data["split_hash"][:16]}`
- {record["hardware"]}; {seconds}
- {versions}

## What to know

Photos of Stanford Dogs come from ImageNet, which most pre-trained backbones have seen; figures on them flatter every
such model. Mixed breeds get the pure breeds they look like.

`{serving_files(record)[-1]}` takes `pixel_values` (B, 3, {size}, {size}) and gives `logits` (B, {len(labels)}) and,
of most architectures, `heat_map` (B, {len(labels)}, h, w). `run.json` holds all options, hashes and figures.
{_loading(record)}{_steps(config)}"""


def _is_plain_cnn(record: dict[str, Any]) -> bool:
    """Whether the architecture is this project's own, of `dogbreeds.training.earlier.convnet`."""
    return record.get("model_type") == "convnet"


def _loading(record: dict[str, Any]) -> str:
    if not _is_plain_cnn(record) or "export_command" in record:
        return ""
    return """
`AutoModelForImageClassification.from_pretrained` loads it after `import dogbreeds.training.earlier.convnet`, which tells
transformers of this architecture.
"""


def _steps(config: dict[str, Any]) -> str:
    """What this project does to a photo and transformers can't; nothing for most runs and all earlier ones."""
    steps = [name for name in ("grayscale", "equalize") if config.get(name)]
    if config.get("whitening", "none") != "none":
        steps.append(f"whitening {config['whitening']}")
    if not steps:
        return ""
    return f"""
It was trained on photos after {", ".join(steps)}. This project does the same before each answer;
`transformers.pipeline` does not, and shows it other pixels than it knows.
"""


def _copied(record: dict[str, Any]) -> str:
    """How the serving part of a run was made from the whole."""
    text = f"- then `{record['export_command']}`: what answers are computed from, without the weights for PyTorch"
    if record["precision"] == "int8":
        top1 = record["figures"]["validation"]["top1"]
        milliseconds, float32 = (
            record[name]["median"] for name in ("milliseconds_per_photo", "float32_milliseconds_per_photo")
        )
        text += f"""
- it computes with 8-bit numbers. On the same validation photos top-1 is {top1:.1%}, and
  {record["float32_top1"]:.1%} in float32; from file to answer it takes {milliseconds:.1f} ms,
  and {float32:.1f} ms in float32 ({record["export_hardware"]})"""
    return text


def _not_a_dog(figures: dict[str, Any]) -> float:
    """The share that was called not a dog; earlier runs have it elsewhere."""
    return float(figures["share_not_a_dog"] if "share_not_a_dog" in figures else figures["verdicts"]["not_a_dog"])
