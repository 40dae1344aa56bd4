"""What a benchmark writes: the table, all figures, the photos that they are of, and files for the Hugging Face Hub."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dogbreeds.files import whole_or_absent, write_csv
from dogbreeds.model_card import EVERYDAY, FITTED_ON, METRICS, eval_result
from dogbreeds.research.benchmark import HELD_OUT, MANIFEST, WORDS, Benchmark, Judged, Row
from dogbreeds.research.document import render, write_document, write_table
from dogbreeds.run_folder import predictions_file

BY_CHANCE = "ece_by_chance"
"""`Evaluation.ece_by_chance`; its upper end in benchmark.csv is what 95 % of the draws do not exceed."""

COLUMNS = (
    (HELD_OUT, "top1", "top-1"),
    (HELD_OUT, "ece", "ECE"),
    (HELD_OUT, BY_CHANCE, "ECE by chance"),
    (EVERYDAY, "top1", "top-1"),
    (EVERYDAY, "ece", "ECE"),
    (EVERYDAY, BY_CHANCE, "ECE by chance"),
    (EVERYDAY, "share_confident", "confident"),
    (EVERYDAY, "top1_confident", "of these right"),
    ("other_photos", "share_not_a_dog", "not a dog"),
    ("other_dogs", "share_unknown_breed", "another breed"),
    ("other_dogs", "share_confident", "a breed, confident"),
)
"""What the table shows: of which set which figure, and its name. benchmark.csv has all figures."""

VERDICTS = {
    "share_not_a_dog": ("not_a_dog_rate", "called not a dog"),
    "share_unknown_breed": ("unknown_breed_rate", "called another breed"),
    "share_confident": ("confident_rate", "given a breed, confident"),
}
"""Figures of photos of something else: the type and name of each on the Hub, as `METRICS` has those of breeds."""

MODEL_INDEX = "model-index.yaml"
"""For the metadata of a model card."""
EVAL_RESULTS = ".eval_results"
"""The folder of a model repository that the Hub reads for the page of a data set
(https://huggingface.co/docs/hub/eval-results)."""
TASK = "default"
"""Of a data set that names no tasks."""

_FIGURES_HEADER = ["run", "set", "n", "photos", "figure", "value", "low", "high"]
_MANIFEST_HEADER = ["set", "photos", "sha256", "label"]


def in_words(benchmark: Benchmark) -> str:
    """The table as Markdown, with its photos, what the runs differ in, and what flatters them."""
    columns = [
        (f"{WORDS[kind]}: {shown}", [_with_interval(row.judged[kind], figure) for row in benchmark.rows])
        for kind, figure, shown in COLUMNS
        if kind in benchmark.rows[0].judged
    ]
    return render("benchmark.md.jinja", benchmark=benchmark, columns=columns, words=WORDS)


def write_benchmark_table(benchmark: Benchmark, path: Path) -> None:
    """Write the tables alone as the ending of the name says (`write_table`); CSV has all figures.

    Raises:
        UserError: The file can't be written.
    """
    write_table(path, in_words(benchmark), _FIGURES_HEADER, list(_figures(benchmark)))


def write_benchmark(benchmark: Benchmark, folder: Path, dataset_id: str | None = None) -> None:
    """Write the report (`write_document`), benchmark.csv with all figures, photos.csv, report.json, and a folder a run.

    That of a run has its answers photo by photo (`dogbreeds.predictions`), and its figures for the Hub:
    model-index.yaml, and .eval_results/ where the photos that were held out are of a data set of the Hub.

    Args:
        benchmark: From `dogbreeds.research.benchmark.benchmark`.
        folder: The folder to make.
        dataset_id: The data set's id on the Hub; by default as training recorded it.

    Raises:
        UserError: The folder exists already or can't be made.
    """
    with whole_or_absent(folder) as unfinished:
        write_document(unfinished, "benchmark", in_words(benchmark), {})
        write_csv(unfinished / "benchmark.csv", [_FIGURES_HEADER, *_figures(benchmark)])
        write_csv(unfinished / MANIFEST, [_MANIFEST_HEADER, *_photos(benchmark)])
        benchmark.provenance.save(unfinished)
        for row in benchmark.rows:
            of_run = unfinished / row.name
            of_run.mkdir(parents=True)
            for kind, judged in row.judged.items():
                if judged.evaluation:
                    judged.evaluation.predictions.save(of_run / predictions_file(kind))
            _write_for_hub(row, of_run, dataset_id or row.run.record.hub.get("data"))


def _with_interval(judged: Judged, figure: str) -> str:
    """A figure in per cent, with its interval or what it is at most; a dash where there is none, as of no photos."""
    if figure == BY_CHANCE and judged.evaluation:
        return "{:.1%}, at most {:.1%}".format(*judged.evaluation.ece_by_chance)
    if figure not in judged.figures:
        return "–"
    low, high = judged.intervals[figure]
    return f"{judged.figures[figure]:.1%} ({100 * low:.1f}-{100 * high:.1f})"


def _figures(benchmark: Benchmark) -> Iterator[list[Any]]:
    for row in benchmark.rows:
        for kind, judged in row.judged.items():
            for name, (low, high) in judged.intervals.items():
                yield [row.name, kind, judged.n, judged.photos_hash, name, judged.figures[name], low, high]
            if judged.evaluation:
                mean, at_most = judged.evaluation.ece_by_chance
                yield [row.name, kind, judged.n, judged.photos_hash, BY_CHANCE, mean, "", at_most]


def _photos(benchmark: Benchmark) -> Iterator[list[Any]]:
    for (kind, hashed), (judged, _) in benchmark.photos.items():
        for digest, label in sorted(zip(judged.digests, judged.labels, strict=True)):
            yield [kind, hashed, digest, label]


def _write_for_hub(row: Row, folder: Path, dataset_id: str | None) -> None:
    from huggingface_hub import EvalResultEntry, ModelCardData, eval_result_entries_to_yaml  # takes a second
    from huggingface_hub.utils import yaml_dump

    metadata = ModelCardData(model_name=row.name, eval_results=list(_eval_results(row, dataset_id))).to_dict()
    (folder / MODEL_INDEX).write_text(yaml_dump(metadata, sort_keys=False), encoding="utf-8")
    if not dataset_id:
        return
    judged = row.judged[HELD_OUT]
    entry = EvalResultEntry(
        dataset_id=dataset_id,
        task_id=TASK,
        value=round(judged.figures["top1"], 4),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        notes=f"top-1 {_with_interval(judged, 'top1')}, 95 % interval, on {judged.n:,} {row.split} photos (SHA-256 "
        f"{judged.photos_hash})",
    )
    file = folder / EVAL_RESULTS / f"{dataset_id.split('/')[-1]}.yaml"
    file.parent.mkdir()
    file.write_text(yaml_dump(eval_result_entries_to_yaml([entry]), sort_keys=False), encoding="utf-8")


def _eval_results(row: Row, dataset_id: str | None) -> Iterator[Any]:
    """Every figure as an `EvalResult`, with the number and hash of the photos, and the interval, as arguments."""
    for kind, judged in row.judged.items():
        split = row.split if kind == HELD_OUT else FITTED_ON.get(kind, kind)
        for figure, metric in (METRICS if judged.evaluation else VERDICTS).items():
            yield eval_result(
                row.run.record,
                split,
                *metric,
                judged.figures[figure],
                data=dataset_id,
                dataset_args={"num_photos": judged.n, "photos_sha256": judged.photos_hash},
                metric_args={"interval_95": [round(bound, 4) for bound in judged.intervals[figure]]},
            )
