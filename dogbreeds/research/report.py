"""A comparison as a page that opens anywhere, the same as Markdown, and its numbers as JSON and CSV.

`content` says what the report says, as the blocks of `dogbreeds.research.document`, which shows them.
"""

import io
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dogbreeds import metrics
from dogbreeds.files import whole_or_absent, write_json
from dogbreeds.images import open_image
from dogbreeds.research import plots
from dogbreeds.research.compare import Comparison, Entry, Group, Pair, mean_and_deviation
from dogbreeds.research.document import (
    Block,
    Charts,
    Gallery,
    Heading,
    LargeChart,
    Picture,
    Table,
    Text,
    pictures_of,
    to_html,
    to_markdown,
)
from dogbreeds.serving.ensemble import ENSEMBLE_FILE, Ensemble
from dogbreeds.serving.heat_map import overlay

NUM_CONFUSED = 6
"""Breeds shown of those that a run confuses most."""
NUM_DISAGREEMENTS = 4
"""Photos shown that one run gets right and the other wrong, each way."""
COSTS = {
    "milliseconds": "milliseconds from file to answer",
    "model_megabytes": "size of the model served, MB",
    "training_seconds": "training time, seconds",
}
"""What accuracy is plotted against, and the label of that axis."""
Columns = dict[str, tuple[str, str]]
"""Of each column of a table the header, what the cells show, and the format."""
ACCURACY: Columns = {
    "top-1": ("top1_with_interval", ""),
    "top-3": ("top3", ".1%"),
    "top-5": ("top5", ".1%"),
    "macro precision": ("macro_precision", ".1%"),
    "macro recall": ("macro_recall", ".1%"),
    "macro F1": ("macro_f1", ".1%"),
}
CALIBRATION: Columns = {
    "cross-entropy": ("cross_entropy", ".3f"),
    "log-loss": ("log_loss", ".3f"),
    "ECE before": ("ece_uncalibrated", ".1%"),
    "ECE": ("ece", ".1%"),
    "Brier before": ("brier_uncalibrated", ".4f"),
    "Brier": ("brier", ".4f"),
}
COST: Columns = {
    "parameters": ("num_parameters", ",d"),
    "trained": ("num_trained_parameters", ",d"),
    "GFLOPs a photo": ("gigaflops_per_photo", ".2f"),
    "model, MB": ("model_megabytes", ".1f"),
    "ms a photo, median": ("median", ".1f"),
    "p95": ("p95", ".1f"),
    "training, s": ("training_seconds", ",.0f"),
    "trained on": ("training_hardware", ""),
}
PAIR: Columns = {
    "top-1, points": ("top1", ""),
    "log-loss": ("log_loss", ""),
    "both right": ("both_right", "d"),
    "only the first": ("only_first_right", "d"),
    "only the second": ("only_second_right", "d"),
    "both wrong": ("both_wrong", "d"),
    "McNemar p": ("p", ""),
    "p, Holm": ("p_holm", ""),
    "same answer": ("same_answer", ".1%"),
    "kappa": ("kappa", ".3f"),
}
PAIR_OF_SEED: Columns = {
    "photos": ("n", ",d"),
    "top-1, points (95 %)": ("top1", ""),
    "McNemar p": ("p", ""),
}
BREED: Columns = {
    "photos": ("n", "d"),
    "recall": ("recall", ".1%"),
    "precision": ("precision", ".1%"),
    "mean P": ("mean_probability", ".1%"),
    "mistaken for": ("mistaken_for", ""),
}
THUMBNAIL = 200
"""Height and width of a photo in the report, pixels."""


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write a comparison to a folder.

    It holds comparison.html, comparison.md with its pictures, comparison.json, CSV files for each run, and
    ensemble.json, with which the page combines the runs' answers.

    Args:
        comparison: From `dogbreeds.research.compare.compare`.
        folder: The folder to make.

    Raises:
        UserError: The folder exists or can't be made, or a photo can't be read.
    """
    with whole_or_absent(folder) as unfinished:
        blocks = content(comparison)
        (unfinished / "comparison.html").write_text(to_html(blocks), encoding="utf-8")
        (unfinished / "pictures").mkdir()
        for picture in pictures_of(blocks):
            (unfinished / "pictures" / picture.name).write_bytes(picture.data)
        (unfinished / "comparison.md").write_text(to_markdown(blocks), encoding="utf-8")
        write_json(unfinished / "comparison.json", comparison.to_dict())
        entries = comparison.main.entries
        runs, probabilities = zip(*((entry.run, entry.predictions.probabilities) for entry in entries), strict=True)
        Ensemble.measure(runs, probabilities, comparison.main.predictions.labels).save(unfinished / ENSEMBLE_FILE)
        for entry in entries:
            entry.predictions.write_tables(unfinished, f"-{_file_name(comparison.main, entry)}")


# What the report says


def content(comparison: Comparison) -> list[Block]:
    """The report, block by block."""
    group = comparison.main
    costs = []
    for key, label in COSTS.items():
        chart = plots.accuracy_against_cost(group.entries, key, label)
        costs.append(Picture(f"cost-{key}.png", chart, f"Top-1 of each run with its 95 % interval against {label}."))
    return [
        Heading(" against ".join(entry.recipe for entry in group.entries), 1),
        *_answer(comparison),
        *_tables(comparison),
        Heading("What accuracy costs"),
        Charts(costs),
        *_significance(comparison),
        *_seeds(comparison),
        *_learning_curves(group),
        *_reliability(group),
        *_breed_by_breed(group),
        *_confused(comparison),
        *_disagreements(comparison),
        *_confusion_matrices(group),
        *_small_print(comparison),
    ]


def _answer(comparison: Comparison) -> list[Block]:
    group = comparison.main
    best = max(group.entries, key=lambda entry: entry.figures["top1"])
    blocks: list[Block] = []
    for pair in group.pairs:
        if best.name in (pair.first, pair.second):
            blocks += [Text(words, prominent=True) for words in _verdict(comparison, pair, best.name)]
    figures = group.ensemble
    gain = figures["top1"] - best.figures["top1"]
    any_right = float(np.any([entry.predictions.right for entry in group.entries], axis=0).mean())
    than = f"{_points(abs(gain))} {'more' if gain > 0 else 'less'} than" if gain else "as many as"
    blocks.append(
        Text(
            f"The ensemble (the mean of the runs' probabilities) reaches {_percent(figures['top1'])}, {than} the best "
            f"run alone, and at least one run is right on {_percent(any_right)}."
        )
    )
    return [*blocks, *(Text(f"**Note:** {remark}") for remark in comparison.remarks)]


def _verdict(comparison: Comparison, pair: Pair, best: str) -> list[str]:
    """How two runs compare: over the seeds first where there are several, then on these photos."""
    group = comparison.main
    sentences = []
    if len(comparison.groups) > 1:
        differences = comparison.differences(group.recipe_of(pair.first), group.recipe_of(pair.second))
        mean, deviation = mean_and_deviation(differences)
        ahead, behind = (pair.first, pair.second) if mean >= 0 else (pair.second, pair.first)
        num_ahead = sum(difference * mean > 0 for difference in differences)
        sentences.append(
            f"Over {len(differences)} seeds {group.recipe_of(ahead)} is right more often than "
            f"{group.recipe_of(behind)} by {100 * abs(mean):.1f} ± {100 * deviation:.1f} points, with {num_ahead} of "
            f"{len(differences)} seeds."
        )
    other = pair.second if pair.first == best else pair.first
    sign = 1 if pair.first == best else -1
    low, high = sorted(sign * edge for edge in pair.top1_interval)
    figures = {entry.name: entry.figures for entry in group.entries}
    corrected = ", Holm-corrected" if len(group.pairs) > 1 else ""
    sentences.append(
        f"On the same {pair.n:,} photos {best} is right on {_percent(figures[best]['top1'])}, {other} on "
        f"{_percent(figures[other]['top1'])}: a difference of {_points(sign * pair.top1_difference)} (95 % interval "
        f"{100 * low:+.1f} to {100 * high:+.1f}; McNemar p = {_p_value(pair.p_value_adjusted)}{corrected}). "
        + (
            "Between these two checkpoints, that is more than chance in the choice of photos."
            if pair.is_real
            else "These photos do not decide which is better."
        )
    )
    return sentences


def _tables(comparison: Comparison) -> list[Block]:
    group = comparison.main
    figures = [*((entry.name, entry.figures) for entry in group.entries), ("ensemble", group.ensemble)]
    rows = [(name, {**values, "top1_with_interval": _top1_with_interval(values)}) for name, values in figures]
    costs: list[tuple[str, dict[str, Any]]] = []
    for entry in group.entries:
        gigaflops = entry.cost["flops_per_photo"] and entry.cost["flops_per_photo"] / 1e9
        values = {**entry.cost, **entry.cost["milliseconds_per_photo"], "gigaflops_per_photo": gigaflops}
        costs.append((entry.name, values))
    return [
        Heading("The figures"),
        _table(
            ACCURACY,
            rows,
            f"{len(group.predictions):,} photos: {_photos_evaluated(comparison)}. In brackets: 95 % interval (Wilson).",
        ),
        _table(
            CALIBRATION,
            rows,
            "Lower is better. Cross-entropy and “before” are those of a model's own probabilities, the rest those "
            "after calibration by one temperature; the ensemble is not calibrated again. Log-loss is the score of "
            "Kaggle's Dog Breed Identification.",
        ),
        _table(
            COST,
            costs,
            "Milliseconds from one file to its answer, one at a time and the runs in turns, on "
            f"{comparison.latency_photos}; {comparison.hardware}. Training includes computing the features of a frozen "
            "backbone, and the run that another started from; compare it on the same hardware only. A multiplication "
            "and an addition count as two FLOPs.",
        ),
    ]


def _table(columns: Columns, rows: Iterable[tuple[str, Mapping[str, Any]]], caption: str = "") -> Table:
    """A row for each name; what its values do not have is shown as a dash."""
    cells = [[name, *(_show(values.get(key), form) for key, form in columns.values())] for name, values in rows]
    return Table(["", *columns], cells, caption)


def _top1_with_interval(figures: Mapping[str, float]) -> str:
    return f"{_percent(figures['top1'])} ({100 * figures['top1_low']:.1f} to {100 * figures['top1_high']:.1f})"


def _pair_row(pair: Pair) -> tuple[str, dict[str, Any]]:
    low, high = pair.log_loss_interval
    texts = {
        "top1": "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * x for x in (pair.top1_difference, *pair.top1_interval))),
        "log_loss": f"{pair.log_loss_difference:+.3f} ({low:+.3f} to {high:+.3f})",
        "p": _p_value(pair.p_value),
        "p_holm": _p_value(pair.p_value_adjusted),
    }
    return f"{pair.first} less {pair.second}", {**vars(pair), **texts}


def _significance(comparison: Comparison) -> list[Block]:
    return [
        Heading("Is the difference real?"),
        _table(
            PAIR,
            map(_pair_row, comparison.main.pairs),
            "Differences with the 95 % interval of a paired bootstrap over the photos (10,000 draws). McNemar's exact "
            "test looks at the photos that only one of the two gets right; Holm's correction allows for the number of "
            "pairs. Kappa is Cohen's, of the two runs' answers. All this asks what other photos would change, not "
            "other seeds.",
        ),
    ]


def _seeds(comparison: Comparison) -> list[Block]:
    if len(comparison.groups) == 1:
        return []
    keys = {"top1": "top-1", "top3": "top-3", "macro_f1": "macro F1", "ece": "ECE"}
    rows = []
    for recipe in [*(entry.recipe for entry in comparison.main.entries), None]:
        values = comparison.over_seeds(recipe)
        cells = [f"{100 * values[key][0]:.1f} ± {100 * values[key][1]:.1f} %" for key in keys]
        rows.append([recipe or "ensemble", *cells, "{:.3f} ± {:.3f}".format(*values["log_loss"])])
    pairs = [_pair_row(pair) for group in comparison.groups for pair in group.pairs]
    return [
        Heading(f"Over {len(comparison.groups)} seeds"),
        Table(
            ["", *keys.values(), "log-loss"],
            rows,
            "Mean ± standard deviation (n - 1). A seed decides the training, and the split where the data brings none.",
        ),
        _table(PAIR_OF_SEED, pairs, "Seed by seed."),
    ]


def _learning_curves(group: Group) -> list[Block]:
    losses, top1 = plots.losses(group.entries), plots.validation_top1(group.entries)
    return [
        Heading("How they learned"),
        Text(
            "The training loss is measured on random views of the photos and while the weights still change, so it "
            "can't be compared with the validation loss."
        ),
        Charts(
            [
                Picture("losses.png", losses, "Cross-entropy after each epoch, for each run."),
                Picture("validation-top1.png", top1, "Validation top-1 after each epoch, for each run."),
            ]
        ),
    ]


def _reliability(group: Group) -> list[Block]:
    pictures = []
    for entry in group.entries:
        words = f"Accuracy against confidence of {entry.name}, before and after calibration."
        name = f"reliability-{_file_name(group, entry)}.png"
        pictures.append(Picture(name, plots.reliability_diagram(entry), words))
    return [
        Heading("Do the probabilities mean what they say?"),
        Text(
            "Of all answers given with 80 %, 80 % should be right: then the line lies on the diagonal. The bars show "
            "which share of the answers has which confidence."
        ),
        Charts(pictures),
    ]


def _breed_by_breed(group: Group) -> list[Block]:
    first, *others = group.entries
    pictures = []
    for other in others:
        words = f"Mean probability of the right breed, {first.name} against {other.name}, a point a breed."
        name = f"breeds-{_file_name(group, other)}.png"
        pictures.append(Picture(name, plots.breed_by_breed(group, first, other), words))
    return [Heading("Breed by breed"), Charts(pictures)]


def _confused(comparison: Comparison) -> list[Block]:
    blocks: list[Block] = [
        Heading("The most confused breeds"),
        Text(
            "By recall, then by mean probability of the right breed. Beside each breed: what its photos are mistaken "
            "for, with the number of photos and the mean probability."
        ),
    ]
    for entry in comparison.main.entries:
        confused = metrics.most_confused(entry.breeds, NUM_CONFUSED)
        rows = []
        for breed in confused:
            others = (f"{other.breed} {other.count} ({other.mean_probability:.0%})" for other in breed.mistaken_for)
            rows.append((breed.breed, {**vars(breed), "mistaken_for": "; ".join(others)}))
        blocks += [Heading(entry.name, 3), _table(BREED, rows)]
        if comparison.photos:
            blocks.append(Gallery([row for breed in confused if (row := _mistake(comparison, entry, breed))]))
    return blocks


def _mistake(comparison: Comparison, entry: Entry, breed: metrics.BreedFigures) -> list[Picture]:
    """The photo most surely mistaken for another breed, beside the photo of that other breed most surely right."""
    predictions = entry.predictions
    label = predictions.names.index(breed.breed)
    confidence = predictions.probabilities.max(axis=1)
    mistakes = np.flatnonzero((predictions.labels == label) & ~predictions.right)
    if not len(mistakes):
        return []
    index = mistakes[np.argmax(confidence[mistakes])]
    other = predictions.predicted[index]
    name = f"{_file_name(comparison.main, entry)}-{label}"
    caption = f"{breed.breed}, mistaken for {predictions.names[other]} ({confidence[index]:.0%})"
    shown = [(index, f"mistaken-{name}.jpg", caption)]
    examples = np.flatnonzero(predictions.labels == other)
    if len(examples):
        example = examples[np.argmax(predictions.probabilities[examples, other])]
        shown.append((example, f"example-{name}.jpg", f"{predictions.names[other]}, for comparison"))
    images = [(_image(comparison, which), file, words) for which, file, words in shown]
    return [_thumbnail(image, file, words) for image, file, words in images if image is not None]


def _disagreements(comparison: Comparison) -> list[Block]:
    group = comparison.main
    blocks: list[Block] = [Heading("Where one is right and the other wrong")]
    if not comparison.photos:
        return [*blocks, Text("No photos are shown: they were not found here, or not wanted.")]
    first = group.entries[0]
    for other in group.entries[1:]:
        for right, wrong in ((first, other), (other, first)):
            blocks += [Heading(f"{right.name} right, {wrong.name} wrong", 3), *_only_right(comparison, right, wrong)]
    blocks.append(
        Text(
            "Each heat map shows the evidence for the breed that the run itself predicts, brightest where it is "
            "strongest; what is grey lies outside the model's view. Shown are the photos on which the two runs "
            "are surest of their different answers."
        )
    )
    return blocks


def _only_right(comparison: Comparison, right: Entry, wrong: Entry) -> list[Block]:
    group = comparison.main
    chosen = np.flatnonzero(right.predictions.right & ~wrong.predictions.right)
    if not len(chosen):
        return [Text("There is no such photo.")]
    sureness = right.predictions.probabilities.max(axis=1) * wrong.predictions.probabilities.max(axis=1)
    rows: list[list[Picture]] = []
    for index in chosen[np.argsort(-sureness[chosen], kind="stable")]:
        image = _image(comparison, index)
        if image is None:
            continue
        stem = f"{_file_name(group, right)}-right-{_file_name(group, wrong)}-wrong-{len(rows) + 1}"
        names, labels = group.predictions.names, group.predictions.labels
        row = [_thumbnail(image, f"{stem}.jpg", names[labels[index]])]
        for which, entry in (("right", right), ("wrong", wrong)):
            heat_map = overlay(image, entry.predictor.predict(image, top_k=1))
            probability = entry.predictions.probabilities[index].max()
            words = f"{entry.name}: {names[entry.predictions.predicted[index]]} ({probability:.0%})"
            row.append(_thumbnail(heat_map, f"{stem}-{which}.jpg", words))
        rows.append(row)
        if len(rows) == NUM_DISAGREEMENTS:
            break
    if not rows:
        return [Text(f"Of {len(chosen):,} such photos none is in `{comparison.photos.data}`.")]
    return [Gallery(rows)]


def _confusion_matrices(group: Group) -> list[Block]:
    blocks: list[Block] = [
        Heading("Which breeds are confused"),
        Text(
            "Breeds that are confused with each other stand side by side, in the same order for all runs. The colour "
            "is the square root, so that a few per cent can be seen. The numbers are in the CSV files beside this "
            "page, including the breeds that have no photos here."
        ),
    ]
    for form, words in (("counts", "answers"), ("probabilities", "mean probabilities")):
        for entry in group.entries:
            matrix = plots.confusion_matrix(entry, group.order, form)
            name = f"confusion-{form}-{_file_name(group, entry)}.png"
            blocks.append(LargeChart(Picture(name, matrix, f"Confusion matrix of {entry.name}, {words}.")))
    return blocks


def _small_print(comparison: Comparison) -> list[Block]:
    photos = f"`{comparison.photos.data}`" if comparison.photos else "none"
    blocks: list[Block] = [
        Heading("Limits and sources"),
        Text(
            "**Have the models seen these photos before?** Stanford Dogs is a part of ImageNet. Where the photos are "
            "of Stanford Dogs, a backbone that was pre-trained on ImageNet has very probably seen these very ones, "
            "with these labels if it was trained on the 1,000 classes. That flatters such a run, and not all of them "
            "equally. A run that was trained from scratch has seen its own training photos only."
        ),
    ]
    if comparison.split == "validation":
        blocks.append(
            Text(
                "**Were these photos used to choose?** Yes: the best epoch, the temperature and the thresholds were "
                "chosen on the validation photos, which makes these figures slightly too good."
            )
        )
    return [
        *blocks,
        _provenance(comparison),
        Text(
            f"Made by `{comparison.command}` on {datetime.now(UTC):%Y-%m-%d}; {comparison.hardware}; "
            f"{_versions(comparison.versions)}; photos from {photos}. Every figure can be computed again from the "
            "predictions of the runs, photo by photo: `predictions-*.parquet`, or with --data what `evaluate --output` "
            "writes."
        ),
    ]


def _provenance(comparison: Comparison) -> Table:
    """How each run was made."""
    header = [
        "", "command", "began with", "data", "split (SHA-256)", "photos evaluated (SHA-256)", "seed", "best epoch",
        "versions", "hardware",
    ]  # fmt: skip
    rows = []
    for group, entry in [(each, entry) for each in comparison.groups for entry in each.entries]:
        record = entry.run.record
        config, data = record.config, record.data
        base = [record.base_run.command] if record.base_run else []
        rows.append(
            [
                entry.name,
                " then ".join(f"`{command}`" for command in [*base, record.command]),
                "random weights" if config["from_scratch"] else f"`{config['model']}`",
                f"`{config['data']}`: {data.num_train:,} training, {data.num_validation:,} validation, "
                f"{data.num_test:,} test photos",
                f"`{data.split_hash[:16]}`",
                f"`{group.photos_hash[:16]}`",
                str(entry.seed),
                f"{record.best_epoch} of {record.num_epochs}",
                _versions(record.versions),
                record.hardware,
            ]
        )
    return Table(header, rows)


def _photos_evaluated(comparison: Comparison) -> str:
    if comparison.data is None:
        return f"{comparison.split} split, held out from training"
    return f"`{comparison.data}`" + (f", {comparison.split} split" if comparison.split else "")


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{package} {number}" for package, number in versions.items())


def _image(comparison: Comparison, index: int | np.integer[Any]) -> Image.Image | None:
    """A photo of the main group, or None where it can't be had."""
    predictions = comparison.main.predictions
    file = comparison.photos.find(predictions.ids[index], predictions.digests[index])
    return open_image(file) if file is not None else None


def _thumbnail(image: Image.Image, name: str, caption: str) -> Picture:
    file = io.BytesIO()
    ImageOps.pad(image, (THUMBNAIL, THUMBNAIL), color="white").save(file, "JPEG", quality=80)
    return Picture(name, file.getvalue(), caption, caption)


def _show(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form).replace("%", "\u202f%")


def _percent(value: float | None) -> str:
    return _show(value, ".1%")


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _file_name(group: Group, entry: Entry) -> str:
    """The run's name as a part of a file's name; different for each run."""
    plain = [re.sub(r"[^\w.-]+", "_", other.name) for other in group.entries]
    mine = plain[group.entries.index(entry)]
    return mine if plain.count(mine) == 1 else f"{mine}-{group.entries.index(entry) + 1}"
