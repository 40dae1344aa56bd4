"""The figures of the shipped runs in the docs, README.md and their cards are those of the files that are shipped.

Predictions of the validation photos are kept, so their figures are computed anew. Of the everyday photos run.json has
the shares, and calibration-photos.csv says which photos they are of; intervals are computed from both. Tables of
study.md are those of the reports in docs/reports.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pytest
from conftest import ROOT

from dogbreeds.calibration_photos import read_uses
from dogbreeds.metrics import wilson_interval
from dogbreeds.model_card import model_card
from dogbreeds.predictions import Predictions
from dogbreeds.research.compare import compare
from dogbreeds.run_folder import PRETRAINED, SHIPPED_RUNS, RunFolder, predictions_file
from dogbreeds.training.breed_metrics import compute_figures

FILES = (ROOT / "README.md", ROOT / "dogbreeds/docs/results.md", ROOT / "dogbreeds/docs/study.md")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in FILES}
LITE, MOBILE, VIT = (RunFolder.open(PRETRAINED / name) for name in ("efficientnet_lite2", "mobilenet_v2", "vit_tiny"))
COLUMNS = {"EfficientNet-Lite2": LITE, "MobileNetV2": MOBILE, "ViT-Ti/16": VIT}


@dataclass(frozen=True)
class Cell:
    """What must stand in a table: in the row of this title, and the column of this name."""

    page: str
    column: str
    row: str
    text: str
    is_whole: bool = True
    """Whether nothing follows it in the cell: the number of a command, or an interval that needs the photos."""

    def __str__(self) -> str:
        return f"{self.page}: {self.row} | {self.column}"


@dataclass(frozen=True)
class Sentence:
    """What must stand in the text, however its lines are broken."""

    page: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text[:60]}"


def percent(value: float) -> str:
    return f"{100 * value:.1f}".replace("100.0", "100")


def with_interval(value: float, num: float, to: str = "-") -> str:
    low, high = wilson_interval(round(value * num), round(num))
    return f"{percent(value)} % ({percent(low)}{to}{percent(high)})"


def shares(run: RunFolder) -> dict[str, tuple[float, float]]:
    """By its name in run.json, each share of the everyday photos and the number of photos that it is of."""
    found = run.record.figures["everyday"]
    n, cats, dogs = (found[name] for name in ("n", "n_other_photos", "n_other_dogs"))
    sure, unsure = n * found["share_confident"], n * found["share_unsure"]
    numbers = {
        "top1": n,
        "share_confident": n,
        "top1_confident": sure,
        "share_unsure": n,
        "candidates_right": unsure,
        "named_right": sure + unsure,
        "share_unknown_breed": n,
        "share_not_a_dog": n,
        "other_photos_not_a_dog": cats,
        "other_dogs_confident": dogs,
        "other_dogs_unknown_breed": dogs,
    }
    return {name: (found[name], num) for name, num in numbers.items()}


def shown(run: RunFolder, name: str, to: str = "-") -> str:
    return with_interval(*shares(run)[name], to)


ANSWERS = {
    "top-1": "top1",
    "a breed, confident": "share_confident",
    "... of which right": "top1_confident",
    "not sure: one of these": "share_unsure",
    "... of which these hold the breed": "candidates_right",
    "a breed, sure or not, that is right": "named_right",
    "another breed, or a mix": "share_unknown_breed",
    "no dog": "share_not_a_dog",
    "cats: no dog": "other_photos_not_a_dog",
    "dogs of unknown breeds: a breed, confident": "other_dogs_confident",
    "... another breed, or a mix": "other_dogs_unknown_breed",
}
"""Rows of "What the answers mean", commands 59, 61 and 62."""

PROTOCOL = {
    "everyday photos: top-1": "top1",
    "everyday photos: confident": "share_confident",
    "... of these right": "top1_confident",
    "cats: no dog": "other_photos_not_a_dog",
    'dogs of other breeds: "another breed"': "other_dogs_unknown_breed",
    "dogs of other breeds: a breed, confident": "other_dogs_confident",
}
"""Rows of "One protocol for the shipped runs" in study.md, which has the same photos."""


def answers() -> Iterator[Cell]:
    for column, run in COLUMNS.items():
        everyday, validation = run.record.figures["everyday"], run.record.figures["validation"]
        answers_column = f"{column} (default)" if run is LITE else column
        rows = {title: shown(run, name) for title, name in ANSWERS.items()}
        rows["ECE"] = f"{percent(everyday['ece'])} %"
        rows["... estimated without labels"] = f"{percent(everyday['named_right_estimated'])} %"
        for title, text in rows.items():
            yield Cell("results.md", answers_column, title, text)
        first = "top-1 of validation, one look, seen"
        yield Cell("results.md", answers_column, first, f"{percent(validation['top1'])} %", is_whole=run is not LITE)
        yield Cell("study.md", column, "everyday photos: ECE", f"{percent(everyday['ece'])} (", is_whole=False)
        assert run.record.flops_per_photo
        for title, text in {
            "parameters, millions": f"{run.record.num_parameters / 1e6:.2f}",
            "arithmetic of a photo, one look, GFLOPs": f"{run.record.flops_per_photo / 1e9:.2f}",
        }.items():
            yield Cell("study.md", column, title, text)
        for title, name in PROTOCOL.items():
            value, num = shares(run)[name]
            low, high = wilson_interval(round(value * num), round(num))
            yield Cell("study.md", column, title, f"{100 * value:.1f} ({100 * low:.1f}-{100 * high:.1f})")


def other_cells() -> Iterator[Cell]:
    """Shipped runs beside others that are not shipped."""
    validation = VIT.record.figures["validation"]
    yield Cell(
        "results.md",
        "measured",
        "step 2 with 8-bit arithmetic, 7.9 MB (shipped)",
        f"top-1 {percent(validation['top1'])} %, top-3 {percent(validation['top3'])} %, log-loss "
        f"{validation['log_loss']:.3f}, ECE {percent(validation['ece'])} %; float32 "
        f"{percent(VIT.record.float32_top1 or 0)} %",
    )
    for column, run in (("shipped: classifier", MOBILE), ("labels alone (shipped)", VIT)):
        sure = f"{percent(shares(run)['share_confident'][0])} %; {shown(run, 'top1_confident')}"
        yield Cell("results.md", column, "... 813 of them that fitted nothing", shown(run, "top1"))
        yield Cell("results.md", column, "... of these confident; of which right", sure)
    float32 = f"{percent(VIT.record.float32_top1 or 0)} % (float32)"
    yield Cell("results.md", "labels alone (shipped)", "1,200 validation photos, one look, seen", float32)
    column, unknown = "shipped: classifier", "dogs of unknown breeds: a breed, confident"
    yield Cell("results.md", column, "cats: no dog", shown(MOBILE, "other_photos_not_a_dog"))
    yield Cell("results.md", column, unknown, shown(MOBILE, "other_dogs_confident"))
    yield Cell("results.md", "default", f"123 {unknown}", shown(LITE, "other_dogs_confident"))
    first = percent(LITE.record.figures["validation"]["top1"])
    yield Cell("results.md", "default", "validation, one look, seen", f"{first} %")
    yield Cell("README.md", "measured", "EfficientNet-Lite2 of the page", f"{first} %")
    for title, run in (
        ("... 813 everyday photos, 21 breeds", LITE),
        ("MobileNetV2 of the page, the same", MOBILE),
        ("ViT-Ti of the page, the same", VIT),
    ):
        yield Cell("README.md", "measured", title, shown(run, "top1", " to "))


def sentences() -> Iterator[Sentence]:
    everyday = [LITE.record.figures["everyday"][name] for name in ("n", "n_other_photos", "n_other_dogs")]
    yield Sentence("results.md", "({} dogs of 21 breeds, {} cats, {} dogs of 3 unknown breeds)".format(*everyday))
    yield Sentence("study.md", "{} everyday photos, {} cats and {} dogs of breeds that no".format(*everyday))
    mobile, vit = (percent(shares(run)["top1"][0]) for run in (MOBILE, VIT))
    yield Sentence("study.md", f"MobileNetV2 are level on everyday photos ({vit} and {mobile} %, ")
    yield Sentence("results.md", f"top-1 {mobile} and {vit} % on the same {everyday[0]} photos")

    def whole(name: str) -> str:
        value, num = shares(LITE)[name]
        low, high = wilson_interval(round(value * num), round(num))
        return f"{value:.0%} ({low:.0%} to {high:.0%})".replace("%", "")

    sure = whole("share_confident").replace(" (", " % (95 % interval ")
    right = whole("top1_confident").replace(" (", " % (")
    cats = round(everyday[1] * shares(LITE)["other_photos_not_a_dog"][0])
    yield Sentence(
        "README.md",
        f"({everyday[0]} of 21 breeds), the first is confident on {sure}, and right on {right} of these; {cats} of "
        f"{everyday[1]} cats are none of its breeds",
    )


def report_rows(name: str) -> list[dict[str, str]]:
    with (ROOT / "dogbreeds/docs/reports" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


BACKBONES = {
    "models/efficientnet_lite2": "EfficientNet-Lite2",
    "models/mobilenet_v2_1.0_224": "MobileNetV2",
    "models/vit_tiny_patch16_224": "ViT-Ti/16",
}

CORRUPTED = {
    "as it is": "as it is",
    "noise": "noise",
    "blur": "blurred",
    "brightness": "too bright",
    "contrast": "little contrast",
    "JPEG": "JPEG of low quality",
    "pixels": "large pixels",
    "grey": "little or no colour",
    "small": "smaller, on a plain ground",
    "covered": "a part covered",
    "shuffled": "parts change places",
}
"""The rows of "Photos made worse" in study.md, by the names in the report."""


WAYS = {
    "classifier": "classifier",
    "LP-FT": "LP-FT",
    "and LoRA": "classifier and LoRA",
    "and prompts": "classifier and prompts",
    "and all weights": "all weights",
}


def reports() -> Iterator[Cell]:
    """Commands 4 to 7 of study.md."""
    for name, photos, of in (
        ("probe-pets", "pets", ""),
        ("probe-dogs", "dogs, seen", ""),
        ("probe-dogs", "everyday", "everyday "),
    ):
        for row in report_rows(name):
            top1, low, high = (100 * float(row[of + column]) for column in ("top-1", "low", "high"))
            title = f"{photos}: {BACKBONES[row['backbone']]}"
            yield Cell("study.md", row["classifier"], title, f"{top1:.1f} % ({low:.1f}-{high:.1f})")
    for row in report_rows("adapting-figures"):
        if row["figure"] == "top1":
            title = f"{'everyday' if row['photos'] == 'everyday' else 'test, seen'}: {WAYS[row['way']]}"
            top1, low, high = (100 * float(row[column]) for column in ("value", "low", "high"))
            yield Cell("study.md", row["model"], title, f"{top1:.1f} ({low:.1f}-{high:.1f})")
    rows = report_rows("robustness")
    for column, run in COLUMNS.items():
        for corruption, title in CORRUPTED.items():
            mine = [row for row in rows if (row["run"], row["corruption"]) == (run.path.name, corruption)]
            assert [row["severity"] for row in mine] == (["0"] if corruption == "as it is" else ["1", "3", "5"])
            top1 = fmean(100 * float(row["top1"]) for row in mine)
            yield Cell("study.md", column, title, f"{top1:.1f} (", is_whole=False)


def comparisons() -> Iterator[Cell | Sentence]:
    """What `compare` finds in the predictions that the runs keep: command 9 of either page."""
    names = {run.path.name: column.partition("/")[0] for column, run in COLUMNS.items()}
    group = compare([LITE.path, MOBILE.path, VIT.path], show_photos=False, progress=False).main
    for pair in group.pairs:
        row = f"{names[pair.first]} and {names[pair.second]}, validation (seen)"
        for column, value, (low, high) in (
            ("kappa", pair.kappa, pair.kappa_interval),
            ("error consistency", pair.error_consistency, pair.error_consistency_interval),
        ):
            yield Cell("study.md", column, row, f"{value:.3f} ({low:.3f}-{high:.3f})")
        yield Cell("study.md", "both wrong", row, f"{pair.both_wrong}")
    pair = group.pairs[-1]  # MobileNetV2 and the ViT
    assert pair.p_value_adjusted < 0.0001
    low, high = (f"{100 * bound:+.1f}" for bound in pair.top1_interval)
    yield Sentence(
        "results.md",
        f"The shipped MobileNetV2 beats the shipped ViT by {100 * pair.top1_difference:.1f} points ({low} to {high}, "
        "p < 0.0001",
    )
    eces = []
    for entry in group.entries[1:]:
        (low, high), (mean, most) = entry.intervals["ece"], entry.ece_by_chance
        eces.append([percent(value) for value in (entry.figures["ece"], low, high, mean, most)])
    yield Sentence(
        "results.md",
        "of the shipped MobileNetV2 it is {} % (95 % interval {} to {}), and {} % in the mean, {} % at most, if every "
        "probability meant what it says; of the shipped ViT-Ti {} % ({} to {}), {} % and {} % by chance.".format(
            *eces[0], *eces[1]
        ),
    )


def cells_of(page: str, column: str, title: str) -> list[str]:
    """What stands in the tables of a page in this row and column."""
    found, header = [], None
    for line in page.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else None
        if row is None:
            header = None
        elif header is None:
            header = row
        elif row[0] == title and column in header[1:]:
            found.append(row[header.index(column)])
    return found


def fault(expected: Cell | Sentence, pages: dict[str, str]) -> str:
    """What is wrong, by its row and column, with what should stand there; empty if it does."""
    page = pages[expected.page]
    if isinstance(expected, Sentence):
        return "" if expected.text in re.sub(r"\s+", " ", page) else f"{expected}... should be: {expected.text}"
    there = cells_of(page, expected.column, expected.row)
    begins = [cell if expected.is_whole else cell[: len(expected.text)] for cell in there]
    return "" if begins == [expected.text] else f"{expected}: {there} should be {expected.text}"


def check_each_digit(expected: Cell | Sentence) -> None:
    """If one of its digits is another on the page, that is told with its row."""
    page = re.sub(r"\s+" if isinstance(expected, Sentence) else r"[^\S\n]+", " ", PAGES[expected.page])
    for place in (each.start() for each in re.finditer(r"\d", expected.text)):
        other = expected.text[:place] + str((int(expected.text[place]) + 1) % 10) + expected.text[place + 1 :]
        told = fault(expected, {expected.page: page.replace(expected.text, other)})
        assert told.startswith(str(expected)), other


FROM_FILES = [*answers(), *other_cells(), *sentences(), *reports()]


@pytest.mark.parametrize("expected", FROM_FILES, ids=str)
def test_a_figure_of_the_docs_is_that_of_the_files(expected):
    assert not fault(expected, PAGES)


def test_a_wrong_digit_is_found_and_its_row_named():
    for expected in FROM_FILES:
        check_each_digit(expected)


@pytest.mark.slow  # the whole comparison takes a quarter of a minute
def test_comparisons_of_the_shipped_runs_are_those_of_their_predictions():
    for expected in comparisons():
        assert not fault(expected, PAGES)
        check_each_digit(expected)


@pytest.mark.parametrize("path", SHIPPED_RUNS, ids=lambda path: path.name)
def test_the_figures_of_validation_are_those_of_the_predictions(path: Path):
    recorded = RunFolder.open(path).record.figures["validation"]
    predictions = Predictions.load(path / predictions_file("validation"))
    computed = compute_figures(predictions.probabilities, predictions.labels, predictions.probabilities)
    assert recorded["n"] == len(predictions) == 1200
    for name in ("top1", "top3", "top5", "macro_f1", "log_loss", "ece", "brier"):
        assert recorded[name] == pytest.approx(computed[name], abs=1e-5), name


@pytest.mark.parametrize("path", SHIPPED_RUNS, ids=lambda path: path.name)
def test_everyday_figures_are_of_the_photos_that_are_listed(path: Path):
    run = RunFolder.open(path)
    everyday, uses = run.record.figures["everyday"], read_uses(run)
    for kind, name in (("dogs", "n"), ("other photos", "n_other_photos"), ("other dogs", "n_other_dogs")):
        counts = {use: sum(each[1:] == (kind, use) for each in uses) for use in ("check", "fit")}
        assert counts == {"check": everyday[name], "fit": run.calibration.fitted_on[kind]}, kind
    assert sorted(uses) == sorted(read_uses(LITE)), "the same photos for all three"


@pytest.mark.parametrize("path", SHIPPED_RUNS, ids=lambda path: path.name)
def test_the_card_of_a_shipped_run_is_what_its_record_gives(path: Path):
    run = RunFolder.open(path)
    assert (path / "README.md").read_text(encoding="utf-8") == model_card(run.name, run.record, run.labels)
