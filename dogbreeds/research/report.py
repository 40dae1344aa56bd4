"""A comparison as a page that opens anywhere, the same as Markdown, and its numbers as JSON and CSV.

`content` says what the report says, as the blocks of `dogbreeds.research.document`, which shows them.
"""

import io
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dogbreeds import metrics
from dogbreeds.images import open_image
from dogbreeds.research import plots
from dogbreeds.research.compare import Comparison, Entry, Group, Pair, mean_and_deviation, recipe_of
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
from dogbreeds.run_folder import whole_or_absent, write_json
from dogbreeds.serving.ensemble import ENSEMBLE_FILE, Ensemble
from dogbreeds.serving.heat_map import overlay

NUM_WORST = 6
"""Breeds shown of those a run tells worst."""
NUM_DISAGREEMENTS = 4
"""Photos shown that one run gets right and the other wrong, each way."""
COSTS = {
    "milliseconds": "milliseconds from file to answer",
    "model_megabytes": "size of the model served, MB",
    "training_seconds": "training time, seconds",
}
"""What accuracy is plotted against, and its words for an axis."""
THUMBNAIL = 200
"""Height and width of a photo in the report, pixels."""


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write comparison.html, comparison.md with its pictures, comparison.json, CSV files for each run, and ensemble.json.

    The last tells the page what the runs reach together.

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
        Ensemble.measure(
            [entry.run for entry in entries],
            [entry.predictions.probabilities for entry in entries],
            comparison.main.predictions.labels,
        ).save(unfinished / ENSEMBLE_FILE)
        for entry in comparison.main.entries:
            entry.predictions.write_tables(unfinished, f"-{_file_name(comparison.main, entry)}")


# What the report says


def content(comparison: Comparison) -> list[Block]:
    """The report, block by block."""
    group = comparison.main
    entries = group.entries
    return [
        Heading(" against ".join(entry.recipe for entry in entries), 1),
        *_answer(comparison),
        *_tables(comparison),
        Heading("What accuracy costs"),
        Charts(
            [
                Picture(
                    f"cost-{key}.png",
                    plots.accuracy_against_cost(entries, key, words),
                    f"Top-1 of each run with its 95 % interval against {words}.",
                )
                for key, words in COSTS.items()
            ]
        ),
        *_significance(comparison),
        *_seeds(comparison),
        Heading("How they learned"),
        Text(
            "The loss in training is taken with random views of the photos and while the weights still change, so it "
            "is not to be compared with that on validation."
        ),
        Charts(
            [
                Picture("losses.png", plots.losses(entries), "Cross-entropy after each epoch, for each run."),
                Picture("validation-top1.png", plots.validation_top1(entries), "Validation top-1 after each epoch."),
            ]
        ),
        Heading("Do the probabilities mean what they say?"),
        Text(
            "Of all answers given with 80 %, 80 % should be right: then the line lies on the diagonal. The bars show "
            "which share of the answers has which confidence."
        ),
        Charts(
            [
                Picture(
                    f"reliability-{_file_name(group, entry)}.png",
                    plots.reliability_diagram(entry),
                    f"Accuracy against confidence of {entry.name}, before and after calibration.",
                )
                for entry in entries
            ]
        ),
        Heading("Breed by breed"),
        *_breed_by_breed(group),
        *_worst(comparison),
        *_disagreements(comparison),
        *_confusion(group),
        *_small_print(comparison),
    ]


def _answer(comparison: Comparison) -> list[Block]:
    group = comparison.main
    best = max(group.entries, key=lambda entry: entry.figures["top1"])
    blocks: list[Block] = []
    for pair in group.pairs:
        if best.name in (pair.first, pair.second):
            blocks += [Text(words, prominent=True) for words in _verdict(comparison, pair, best.name)]
    figures = group.together
    gain = figures["top1"] - best.figures["top1"]
    than = f"{_points(abs(gain))} {'more' if gain > 0 else 'less'} than" if gain else "as many as"
    blocks.append(
        Text(
            f"All together (the mean of their probabilities) reach {_percent(figures['top1'])}, {than} the best alone, "
            f"and at least one is right on {_percent(_any_right(group))}."
        )
    )
    return [*blocks, *(Text(f"**Note:** {remark}") for remark in comparison.remarks)]


def _verdict(comparison: Comparison, pair: Pair, best: str) -> list[str]:
    """What the figures say of two runs: over the seeds first where there are several, then on these photos."""
    group = comparison.main
    said = []
    if len(comparison.groups) > 1:
        differences = comparison.differences(recipe_of(group, pair.first), recipe_of(group, pair.second))
        mean, deviation = mean_and_deviation(differences)
        ahead, behind = (pair.first, pair.second) if mean >= 0 else (pair.second, pair.first)
        num_ahead = sum(difference * mean > 0 for difference in differences)
        said.append(
            f"Over {len(differences)} seeds {recipe_of(group, ahead)} is right more often than "
            f"{recipe_of(group, behind)} by {100 * abs(mean):.1f} ± {100 * deviation:.1f} points, with {num_ahead} of "
            f"{len(differences)} seeds."
        )
    other = pair.second if pair.first == best else pair.first
    sign = 1 if pair.first == best else -1
    low, high = sorted(sign * edge for edge in pair.top1_interval)
    figures = {entry.name: entry.figures for entry in group.entries}
    corrected = ", Holm-corrected" if len(group.pairs) > 1 else ""
    said.append(
        f"On the same {pair.n:,} photos {best} is right on {_percent(figures[best]['top1'])}, {other} on "
        f"{_percent(figures[other]['top1'])}: a difference of {_points(sign * pair.top1_difference)} (95 % interval "
        f"{100 * low:+.1f} to {100 * high:+.1f}; McNemar p = {_p_value(pair.p_value_adjusted)}{corrected}). "
        + (
            "Between these two checkpoints that is more than the chance of the photos."
            if pair.is_real
            else "These photos do not settle which is better."
        )
    )
    return said


def _tables(comparison: Comparison) -> list[Block]:
    group = comparison.main
    n = len(group.predictions)
    rows = [(entry.name, entry.figures) for entry in group.entries] + [("all together", group.together)]
    columns: dict[str, Callable[[dict[str, float]], str]] = {
        "top-1": lambda f: f"{_percent(f['top1'])} ({100 * f['top1_low']:.1f} to {100 * f['top1_high']:.1f})",
        "top-3": lambda f: _percent(f["top3"]),
        "top-5": lambda f: _percent(f["top5"]),
        "macro precision": lambda f: _percent(f["macro_precision"]),
        "macro recall": lambda f: _percent(f["macro_recall"]),
        "macro F1": lambda f: _percent(f["macro_f1"]),
    }
    calibration: dict[str, Callable[[dict[str, float]], str]] = {
        "cross-entropy": lambda f: _number(f.get("cross_entropy"), ".3f"),
        "log-loss": lambda f: f"{f['log_loss']:.3f}",
        "ECE before": lambda f: _percent(f.get("ece_uncalibrated")),
        "ECE": lambda f: _percent(f["ece"]),
        "Brier before": lambda f: _number(f.get("brier_uncalibrated"), ".4f"),
        "Brier": lambda f: f"{f['brier']:.4f}",
    }
    costs: dict[str, Callable[[dict[str, Any]], str]] = {
        "parameters": lambda c: f"{c['num_parameters']:,}",
        "trained": lambda c: f"{c['num_trained_parameters']:,}",
        "GFLOPs a photo": lambda c: _number(c["flops_per_photo"] and c["flops_per_photo"] / 1e9, ".2f"),
        "model, MB": lambda c: f"{c['model_megabytes']:.1f}",
        "ms a photo, median": lambda c: f"{c['milliseconds_per_photo']['median']:.1f}",
        "p95": lambda c: f"{c['milliseconds_per_photo']['p95']:.1f}",
        "training, s": lambda c: f"{c['training_seconds']:,.0f}",
        "trained on": lambda c: c["training_hardware"],
    }

    def table(columns: dict[str, Any], rows: Sequence[tuple[str, Any]], caption: str) -> Table:
        return Table(
            ["", *columns], [[name, *(show(values) for show in columns.values())] for name, values in rows], caption
        )

    cost_rows = [(entry.name, entry.cost) for entry in group.entries]
    return [
        Heading("The figures"),
        table(columns, rows, f"{n:,} photos: {_photos_judged(comparison)}. In brackets: 95 % interval (Wilson)."),
        table(
            calibration,
            rows,
            "Lower is better. Cross-entropy and “before” are those of a model's own probabilities, the rest those "
            "after calibration by one temperature; the mean of all together is not calibrated again. Log-loss is the "
            "score of Kaggle's Dog Breed Identification.",
        ),
        table(
            costs,
            cost_rows,
            "Milliseconds from one file to its answer, one at a time and the runs in turns, on "
            f"{comparison.latency_photos}; {comparison.hardware}. Training includes computing the features of a frozen "
            "backbone, and the run that another started from; compare it on the same hardware only. A multiplication "
            "and an addition count as two FLOPs.",
        ),
    ]


def _significance(comparison: Comparison) -> list[Block]:
    rows = [
        [
            f"{pair.first} less {pair.second}",
            _top1_difference(pair),
            f"{pair.log_loss_difference:+.3f} ({pair.log_loss_interval[0]:+.3f} to {pair.log_loss_interval[1]:+.3f})",
            str(pair.both_right),
            str(pair.only_first_right),
            str(pair.only_second_right),
            str(pair.both_wrong),
            _p_value(pair.p_value),
            _p_value(pair.p_value_adjusted),
            _percent(pair.same_answer),
            f"{pair.kappa:.3f}",
        ]
        for pair in comparison.main.pairs
    ]
    header = [
        "", "top-1, points", "log-loss", "both right", "only the first", "only the second", "both wrong", "McNemar p",
        "p, Holm", "same answer", "kappa",
    ]  # fmt: skip
    return [
        Heading("Is the difference real?"),
        Table(
            header,
            rows,
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
        rows.append([recipe or "all together", *cells, "{:.3f} ± {:.3f}".format(*values["log_loss"])])
    pairs = [
        [
            f"{pair.first} less {pair.second}",
            f"{pair.n:,}",
            _top1_difference(pair),
            _p_value(pair.p_value),
        ]
        for group in comparison.groups
        for pair in group.pairs
    ]
    return [
        Heading(f"Over {len(comparison.groups)} seeds"),
        Table(
            ["", *keys.values(), "log-loss"],
            rows,
            "Mean ± standard deviation (n - 1). A seed decides the training, and the split where the data brings none.",
        ),
        Table(["", "photos", "top-1, points (95 %)", "McNemar p"], pairs, "Seed by seed."),
    ]


def _breed_by_breed(group: Group) -> list[Block]:
    first = group.entries[0]
    return [
        Charts(
            [
                Picture(
                    f"breeds-{_file_name(group, other)}.png",
                    plots.breed_by_breed(group, first, other),
                    f"Mean probability of the right breed, {first.name} against {other.name}, a point a breed.",
                )
                for other in group.entries[1:]
            ]
        )
    ]


def _worst(comparison: Comparison) -> list[Block]:
    blocks: list[Block] = [
        Heading("The breeds told worst"),
        Text(
            "By recall, then by mean probability of the right breed. Beside each breed: what its photos are taken for, "
            "with the number of photos and the mean probability."
        ),
    ]
    group = comparison.main
    for entry in group.entries:
        worst = sorted(entry.breeds, key=lambda breed: (breed.recall, breed.mean_probability))[:NUM_WORST]
        rows = [
            [
                breed.breed,
                str(breed.n),
                _percent(breed.recall),
                _percent(breed.precision),
                _percent(breed.mean_probability),
                "; ".join(f"{m.breed} {m.count} ({m.mean_probability:.0%})" for m in breed.mistaken_for),
            ]
            for breed in worst
        ]
        header = ["", "photos", "recall", "precision", "mean P", "mistaken for"]
        blocks += [Heading(entry.name, 3), Table(header, rows)]
        if comparison.photos:
            blocks.append(Gallery([row for breed in worst if (row := _mistake(comparison, entry, breed))]))
    return blocks


def _mistake(comparison: Comparison, entry: Entry, breed: metrics.BreedFigures) -> list[Picture]:
    """The photo of a breed that is most surely taken for another, beside the plainest photo of that other."""
    predictions = entry.predictions
    label = predictions.names.index(breed.breed)
    confidence = predictions.probabilities.max(axis=1)
    mistakes = np.flatnonzero((predictions.labels == label) & ~predictions.right)
    if not len(mistakes):
        return []
    index = int(mistakes[np.argmax(confidence[mistakes])])
    taken_for = int(predictions.predicted[index])
    name = f"{_file_name(comparison.main, entry)}-{label}"
    pictures = [
        _photo(
            comparison,
            index,
            f"mistaken-{name}.jpg",
            f"{breed.breed}, taken for {predictions.names[taken_for]} ({confidence[index]:.0%})",
        )
    ]
    examples = np.flatnonzero(predictions.labels == taken_for)
    if len(examples):
        example = int(examples[np.argmax(predictions.probabilities[examples, taken_for])])
        pictures.append(
            _photo(comparison, example, f"example-{name}.jpg", f"{predictions.names[taken_for]}, for comparison")
        )
    return [picture for picture in pictures if picture]


def _disagreements(comparison: Comparison) -> list[Block]:
    group = comparison.main
    blocks: list[Block] = [Heading("Where one is right and the other wrong")]
    if not comparison.photos:
        return [*blocks, Text("No photos are shown, for the data they come from was not at hand or not wanted.")]
    first = group.entries[0]
    for other in group.entries[1:]:
        for right, wrong in ((first, other), (other, first)):
            blocks += [Heading(f"{right.name} right, {wrong.name} wrong", 3), *_only_right(comparison, right, wrong)]
    blocks.append(
        Text(
            "Each heat map shows what speaks for the breed that the run itself names, bright where most; what is "
            "greyed was not looked at. Shown are the photos on which the two are surest of their different answers."
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
        image = _image(comparison, int(index))
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


def _confusion(group: Group) -> list[Block]:
    blocks: list[Block] = [
        Heading("Who is taken for whom"),
        Text(
            "Breeds that are confused with each other stand together, in the same order for all runs. The colour goes "
            "by the square root, so that a few per cent are seen. The numbers are in the CSV files beside this page, "
            "with the breeds too that have no photos here."
        ),
    ]
    for form, words in (("counts", "answers"), ("probabilities", "mean probabilities")):
        for entry in group.entries:
            blocks.append(
                LargeChart(
                    Picture(
                        f"confusion-{form}-{_file_name(group, entry)}.png",
                        plots.confusion_matrix(entry, group.order, form),
                        f"Confusion matrix of {entry.name}, {words}.",
                    )
                )
            )
    return blocks


def _small_print(comparison: Comparison) -> list[Block]:
    rows = []
    for group in comparison.groups:
        for entry in group.entries:
            record = entry.run.record
            data = record["data"]
            base = [record["base_run"]["command"]] if "base_run" in record else []
            rows.append(
                [
                    entry.name,
                    " then ".join(f"`{command}`" for command in [*base, record["command"]]),
                    "nothing" if record["config"]["from_scratch"] else f"`{record['config']['model']}`",
                    f"`{record['config']['data']}`: {data['num_train']:,} training, "
                    f"{data['num_validation']:,} validation, {data['num_test']:,} test photos",
                    f"`{data['split_hash'][:16]}`",
                    f"`{group.photos_hash[:16]}`",
                    str(entry.seed),
                    f"{record['best_epoch']} of {record['num_epochs']}",
                    _versions(record["versions"]),
                    record["hardware"],
                ]
            )
    header = [
        "", "command", "began with", "data", "split (SHA-256)", "photos judged (SHA-256)", "seed", "best epoch",
        "versions", "hardware",
    ]  # fmt: skip
    photos = f"`{comparison.photos.data}`" if comparison.photos else "none"
    return [
        Heading("What a careful reader asks"),
        Text(
            "**Have the models seen these photos before?** Stanford Dogs is a part of ImageNet. Where the photos are "
            "of Stanford Dogs, a backbone that was pre-trained on ImageNet has very probably seen these very ones, "
            "with these labels if it was trained on the 1,000 classes. That flatters such a run, and not all of them "
            "equally. A run that began with nothing has seen its own training photos only."
        ),
        *(
            [
                Text(
                    "**Were these photos used for choosing?** Yes: the best epoch, the temperature and the thresholds "
                    "were chosen on the validation photos, which makes these figures slightly too good."
                )
            ]
            if comparison.split == "validation"
            else []
        ),
        Table(header, rows),
        Text(
            f"Made by `{comparison.command}` on {datetime.now(UTC):%Y-%m-%d}; {comparison.hardware}; "
            f"{_versions(comparison.versions)}; photos from {photos}. Every figure can be computed again from the "
            "predictions of the runs, photo by photo: `predictions-*.parquet`, or with --data what `evaluate --output` "
            "writes."
        ),
    ]


def _photos_judged(comparison: Comparison) -> str:
    if comparison.data is None:
        return f"{comparison.split} split, held out from training"
    return f"`{comparison.data}`" + (f", {comparison.split} split" if comparison.split else "")


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{package} {number}" for package, number in versions.items())


def _any_right(group: Group) -> float:
    return float(np.any([entry.predictions.right for entry in group.entries], axis=0).mean())


def _photo(comparison: Comparison, index: int, name: str, caption: str) -> Picture | None:
    image = _image(comparison, index)
    return _thumbnail(image, name, caption) if image is not None else None


def _image(comparison: Comparison, index: int) -> Image.Image | None:
    """A photo of the main group, or None where it can't be had."""
    predictions = comparison.main.predictions
    file = comparison.photos.find(predictions.ids[index], predictions.digests[index])
    return open_image(file) if file is not None else None


def _thumbnail(image: Image.Image, name: str, caption: str) -> Picture:
    file = io.BytesIO()
    ImageOps.pad(image, (THUMBNAIL, THUMBNAIL), color="white").save(file, "JPEG", quality=80)
    return Picture(name, file.getvalue(), caption, caption)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}\u202f%"


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"


def _top1_difference(pair: Pair) -> str:
    low, high = pair.top1_interval
    return f"{100 * pair.top1_difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _file_name(group: Group, entry: Entry) -> str:
    """The run's name as a part of a file's name; different for each run."""
    plain = [re.sub(r"[^\w.-]+", "_", other.name) for other in group.entries]
    mine = plain[group.entries.index(entry)]
    return mine if plain.count(mine) == 1 else f"{mine}-{group.entries.index(entry) + 1}"
