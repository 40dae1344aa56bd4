"""A comparison as a page that opens anywhere, the same as Markdown and LaTeX, and its numbers as JSON and CSV.

templates/comparison.md.jinja says what the report says; this computes what it shows.
"""

import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from dogbreeds import metrics
from dogbreeds.files import whole_or_absent, write_json
from dogbreeds.images import open_image
from dogbreeds.research import plots
from dogbreeds.research.compare import Comparison, Entry, Pair, mean_and_deviation
from dogbreeds.research.document import render, write_document
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
THUMBNAIL = 200
"""Height and width of a photo in the report, pixels."""


class Photo(NamedTuple):
    """A small picture of the report."""

    file: Markup
    caption: str


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write a comparison to a folder.

    It holds the report (`dogbreeds.research.document.write_document`), comparison.json, and CSV files for each run.

    Args:
        comparison: From `dogbreeds.research.compare.compare`.
        folder: The folder to make.

    Raises:
        UserError: The folder exists or can't be made, or a photo can't be read.
    """
    with whole_or_absent(folder) as unfinished:
        report = _Report(comparison)
        markdown = render("comparison.md.jinja", **report.values())
        write_document(unfinished, "comparison", markdown, report.pictures)
        write_json(unfinished / "comparison.json", comparison.to_dict())
        for entry in comparison.main.entries:
            entry.predictions.write_tables(unfinished, f"-{report.files[entry.name]}")


class _Report:
    """The values of the template, and the pictures that it shows."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._group = comparison.main
        names = [entry.name for entry in self._group.entries]
        plain = [re.sub(r"[^\w.-]+", "_", name) for name in names]
        self.files = {
            name: Markup(file if plain.count(file) == 1 else f"{file}-{number}")
            for number, (name, file) in enumerate(zip(names, plain, strict=True), 1)
        }
        """Each run's name as a part of a file's name; different for each run."""
        self.pictures: dict[str, bytes] = {}
        """The content of each picture by file name."""

    def values(self) -> dict[str, Any]:
        """The values of the template."""
        comparison, group = self._comparison, self._group
        self._draw_charts()
        best = max(group.entries, key=lambda entry: entry.figures["top1"])
        confused = {entry.name: metrics.most_confused(entry.breeds, NUM_CONFUSED) for entry in group.entries}
        mistakes = {
            entry.name: [row for breed in confused[entry.name] if (row := self._mistake(entry, breed.breed))]
            for entry in group.entries
        }
        return {
            "comparison": comparison,
            "group": group,
            "best": best,
            "verdicts": [self._verdict(pair, best) for pair in group.pairs if best.name in (pair.first, pair.second)],
            "any_right": np.any([entry.predictions.right for entry in group.entries], axis=0).mean(),
            "costs": COSTS,
            "over_seeds": [(entry.recipe, comparison.over_seeds(entry.recipe)) for entry in group.entries],
            "files": self.files,
            "confused": confused,
            "mistakes": mistakes,
            "disagreements": list(self._disagreements()) if comparison.photos else [],
            "without_heat_map": [
                entry.name for entry in group.entries if "heat_map" not in entry.predictor.output_names
            ],
            "today": f"{datetime.now(UTC):%Y-%m-%d}",
        }

    def _draw_charts(self) -> None:
        group, entries = self._group, self._group.entries
        for key, label in COSTS.items():
            self._draw(f"cost-{key}", plots.accuracy_against_cost(entries, key, label))
        self._draw("losses", plots.losses(entries))
        self._draw("validation-top1", plots.validation_top1(entries))
        for entry in entries:
            file = self.files[entry.name]
            self._draw(f"reliability-{file}", plots.reliability_diagram(entry))
            for form in ("counts", "probabilities"):
                self._draw(f"confusion-{form}-{file}", plots.confusion_matrix(entry, group.order, form))
        for entry in entries[1:]:
            self._draw(f"breeds-{self.files[entry.name]}", plots.breed_by_breed(group, entries[0], entry))

    def _draw(self, name: str, figure: Figure) -> None:
        for file, content in plots.in_all_formats({name: figure}).items():
            self._add(file, content)

    def _add(self, name: str, content: bytes) -> None:
        assert name not in self.pictures, f"two pictures have the name {name}"
        self.pictures[name] = content

    def _verdict(self, pair: Pair, best: Entry) -> dict[str, Any]:
        """How the best run compares to another on these photos, and their recipes over the seeds if there are more."""
        group = self._group
        first, second = (group.entry(name) for name in (pair.first, pair.second))
        other, sign = (second, 1) if first is best else (first, -1)
        low, high = sorted(sign * edge for edge in pair.top1_interval)
        seeds = None
        if len(self._comparison.groups) > 1:
            differences = self._comparison.differences(first.recipe, second.recipe)
            mean, deviation = mean_and_deviation(differences)
            ahead, behind = (first, second) if mean >= 0 else (second, first)
            seeds = {
                "num": len(differences),
                "num_ahead": sum(difference * mean > 0 for difference in differences),
                "ahead": ahead.recipe,
                "behind": behind.recipe,
                "mean": abs(mean),
                "deviation": deviation,
            }
        difference = sign * pair.top1_difference
        return {"pair": pair, "other": other, "difference": difference, "low": low, "high": high, "seeds": seeds}

    # Galleries: rows of photos that belong together

    def _mistake(self, entry: Entry, breed: str) -> list[Photo]:
        """The photo most surely mistaken for another breed, beside the photo of that other breed most surely right."""
        predictions, names = entry.predictions, entry.predictions.names
        label = names.index(breed)
        confidence = predictions.probabilities.max(axis=1)
        mistakes = np.flatnonzero((predictions.labels == label) & ~predictions.right)
        if not len(mistakes):
            return []
        mistake = mistakes[np.argmax(confidence[mistakes])]
        other = predictions.predicted[mistake]
        caption = f"{breed}, mistaken for {names[other]} ({confidence[mistake]:.0%})"
        shown = [("mistaken", mistake, caption)]
        examples = np.flatnonzero(predictions.labels == other)
        if len(examples):
            example = examples[np.argmax(predictions.probabilities[examples, other])]
            shown.append(("example", example, f"{names[other]}, for comparison"))
        return [
            self._add_photo(f"{kind}-{self.files[entry.name]}-{label}", image, caption)
            for kind, index, caption in shown
            if (image := self._open(index)) is not None
        ]

    def _disagreements(self) -> Iterator[dict[str, Any]]:
        """For the first run and each other one, either way: photos on which one is right and the other is wrong."""
        first, *others = self._group.entries
        for other in others:
            for right, wrong in ((first, other), (other, first)):
                chosen = np.flatnonzero(right.predictions.right & ~wrong.predictions.right)
                rows = self._disagreement_photos(right, wrong, chosen)
                yield {"right": right.name, "wrong": wrong.name, "num_photos": len(chosen), "rows": rows}

    def _disagreement_photos(self, right: Entry, wrong: Entry, chosen: np.ndarray) -> list[list[Photo]]:
        """Some of the chosen photos, the surest different answers first, each with the heat map of both runs."""
        predictions = self._group.predictions
        confidence = right.predictions.probabilities.max(axis=1) * wrong.predictions.probabilities.max(axis=1)
        rows: list[list[Photo]] = []
        for index in chosen[np.argsort(-confidence[chosen], kind="stable")]:
            image = self._open(index)
            if image is None:
                continue
            stem = f"{self.files[right.name]}-right-{self.files[wrong.name]}-wrong-{len(rows) + 1}"
            row = [self._add_photo(stem, image, predictions.names[predictions.labels[index]])]
            for which, entry in (("right", right), ("wrong", wrong)):
                heat_map = overlay(image, entry.predictor.predict(image, top_k=1, every_dog=False))
                probabilities = entry.predictions.probabilities[index]
                breed = predictions.names[probabilities.argmax()]
                caption = f"{entry.name}: {breed} ({probabilities.max():.0%})"
                row.append(self._add_photo(f"{stem}-{which}", heat_map, caption))
            rows.append(row)
            if len(rows) == NUM_DISAGREEMENTS:
                break
        return rows

    def _open(self, index: int | np.integer[Any]) -> Image.Image | None:
        """A photo of the main group, or None where it can't be had."""
        predictions = self._group.predictions
        content = self._comparison.photos.find(predictions.ids[index], predictions.digests[index])
        return open_image(content) if content is not None else None

    def _add_photo(self, stem: str, image: Image.Image, caption: str) -> Photo:
        file = io.BytesIO()
        ImageOps.pad(image, (THUMBNAIL, THUMBNAIL), color="white").save(file, "JPEG", quality=80)
        name = Markup(f"{stem}.jpg")
        self._add(name, file.getvalue())
        return Photo(name, caption)
