"""The tab "Many photos": a table with one row for each uploaded file, answered a few at a time."""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from dogbreeds.answers import Answer
from dogbreeds.images import BadImage
from dogbreeds.photos import batches, read_photos
from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page import breed_list, cards
from dogbreeds.serving.page.components import BreedsInput, PhotoFiles, PhotoFolder, texts_of
from dogbreeds.serving.page.one_photo import ALL_MODELS
from dogbreeds.serving.page.texts import ENGLISH, Texts
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.rows import answer_columns, columns, write_csv
from dogbreeds.serving.uploads import delete_copy, open_copy

MAX_FILES = 500
"""Files that the page takes at a time; `python -m dogbreeds index` takes any number."""
BATCH_SIZE = 8
"""Photos that are answered between two updates of the page."""
NUM_BREEDS = 3
"""Breeds that a row of the CSV file names."""
MAX_CONCURRENT = 2
"""People whose many photos are answered at the same time; the others wait."""
TABLE_SECONDS = 1.0
"""How often the table is drawn again while it grows."""


@dataclass(frozen=True)
class Row:
    """The result for one file."""

    file: str
    """Its own name, without the folder, which browsers don't tell."""
    thumbnail: str
    """An `<img>`, or nothing where the file could not be read."""
    result: Answer | BadImage
    """The answer, or why there is none."""


def many_photos_tab(models: ModelSet, model: gr.Radio, only_breeds: BreedsInput, text: gr.I18n) -> None:
    """Add the tab to the page.

    Args:
        models: What can answer.
        model: Which of them does; the first where all shall.
        only_breeds: The breeds that come into question.
        text: The page's texts.
    """
    stopped: dict[str | None, bool] = {}
    """Of each visit whose photos are being answered, whether that shall end. If gradio cancelled it, a progress that is
    on its way would arrive after the end."""
    with gr.Tab(text("many_photos")):
        with gr.Row():
            files = PhotoFiles(
                label=text("photos_at_most"), file_count="multiple", height=180, elem_id="files", scale=3
            )
            with gr.Column(min_width=160):
                folder = PhotoFolder(text("folder"), file_count="directory", elem_id="folder")  # type: ignore[arg-type]
                stop = gr.Button(text("stop"), variant="stop", visible=False, elem_id="stop")
        gr.HTML(text("too_many_html"), elem_id="too-many")
        status = gr.HTML(text("waiting_many_html"), elem_id="status")
        download = gr.HTML("", elem_id="download")
        table = gr.Dataframe(
            label=text("table"),
            interactive=False,
            visible=False,
            show_search="filter",
            wrap=True,
            max_height=640,
            elem_id="table",
        )

    def show_many(
        files: list[tuple[str, Path]], model: str, only_breeds: list[str], request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        visit = request.session_hash
        name = models.names[0] if model == ALL_MODELS else model
        stopped[visit] = False
        texts = texts_of(request)
        try:
            yield from _updates(files, name, only_breeds, models, texts, lambda: stopped.get(visit, False))
        finally:
            stopped.pop(visit, None)

    def stop_many(request: gr.Request) -> None:
        if request.session_hash in stopped:
            stopped[request.session_hash] = True

    for source in (files, folder):
        source.upload(
            show_many,
            [source, model, only_breeds],
            [files, folder, stop, status, download, table],
            api_visibility="private",
            concurrency_limit=MAX_CONCURRENT,
            concurrency_id="many",
            show_progress="hidden",
        )
    stop.click(stop_many, api_visibility="private", queue=False, show_progress="hidden")


def _updates(
    files: list[tuple[str, Path]],
    name: str,
    only_breeds: list[str],
    models: ModelSet,
    texts: Texts,
    is_stopped: Callable[[], bool],
) -> Iterator[tuple[Any, ...]]:
    """What the tab shows while the files are answered: a value for each output of `show_many`."""
    if not files:
        return
    problem = breed_list.problem(models, [name], only_breeds, texts)
    if len(files) > MAX_FILES:
        problem = texts.too_many.format(MAX_FILES)
    if problem:
        for _, path in files:
            delete_copy(path)
        yield *_ready(), cards.problem(problem, texts), "", gr.update(visible=False)
        return
    predictor = models.predictors[name].only(only_breeds)
    rows: list[Row] = []
    drawn_at = 0.0
    running = (gr.update(interactive=False), gr.update(interactive=False), gr.update(visible=True))
    yield *running, cards.progress(0, len(files), texts), "", gr.skip()
    for batch in answer_many(predictor, files):
        rows += batch
        if is_stopped():
            break
        table = gr.skip()
        if time.monotonic() - drawn_at > TABLE_SECONDS:
            table, drawn_at = _table(rows, name, texts), time.monotonic()
        yield *running, cards.progress(len(rows), len(files), texts), "", table
    sentence = texts.done if len(rows) == len(files) else texts.stopped
    yield *_ready(), *_finished(rows, sentence, texts), _table(rows, name, texts)


def _ready() -> tuple[Any, Any, Any]:
    """Both inputs accept files, and there is nothing to stop."""
    return gr.update(value=None, interactive=True), gr.update(interactive=True), gr.update(visible=False)


def _finished(rows: Sequence[Row], sentence: str, texts: Texts) -> tuple[str, str]:
    """The status and the download when no more rows come."""
    status = cards.waiting(sentence.format(len(rows), sum(isinstance(row.result, BadImage) for row in rows)))
    return status, cards.download_link(to_csv(rows), "breeds.csv", texts.download) if rows else ""


def _table(rows: Sequence[Row], model: str, texts: Texts) -> Any:
    """The rows so far, for the page's table."""
    return gr.Dataframe(
        [[row.thumbnail, *_answer_cells(row, texts), row.file] for row in rows],
        label=f"{texts.table} ({model})",
        headers=[texts.thumbnail, texts.breed, texts.verdict, texts.probability, texts.file],
        datatype=["html", "str", "str", "number", "str"],
        column_widths=[140, 200, 240, 130, 340],
        visible=True,
    )


def _answer_cells(row: Row, texts: Texts) -> tuple[str, str, float | None]:
    """Breed, kind of answer and probability; where there is no answer, why."""
    result = row.result
    if isinstance(result, BadImage):
        return "", texts.problem(result), None
    if result.verdict == "not_a_dog":
        return "", texts.not_a_dog, None
    if result.verdict == "unknown_breed":
        names = ", ".join(texts.name(candidate.breed) for candidate in result.candidates)
        return "", f"{texts.unknown_breed}. {texts.resembles.format(names)}", None
    kind = texts.confident if result.verdict == "confident" else texts.unsure
    group = f" ({texts.group(result.group)})" if result.group else ""
    best = result.breeds[0]
    return texts.name(best.breed), kind + group, round(best.probability, 2)


def answer_many(predictor: Predictor, files: Sequence[tuple[str, Path]]) -> Iterator[list[Row]]:
    """Answer uploads in their order, `BATCH_SIZE` at a time; all are deleted, also if the caller stops early.

    Args:
        predictor: The model that answers.
        files: The name and the path of each upload.
    """

    def open_photo(file: tuple[str, Path]) -> tuple[str, Image.Image]:
        photo = open_copy(file[1])
        return cards.thumbnail(photo), photo

    try:
        opened = zip(files, read_photos(files, open_photo, num_ahead=2 * BATCH_SIZE), strict=True)
        for batch in batches(opened, BATCH_SIZE):
            photos = [("", photo) if isinstance(photo, BadImage) else photo for _, photo in batch]
            results = predictor.answer_images([photo for _, photo in photos], top_k=NUM_BREEDS)
            yield [
                Row(name, thumbnail, result)
                for ((name, _), _), (thumbnail, _), result in zip(batch, photos, results, strict=True)
            ]
    finally:
        for _, path in files:
            delete_copy(path)


def to_csv(rows: Sequence[Row]) -> bytes:
    """The rows as a CSV file that no spreadsheet runs as a formula, in UTF-8 with a byte order mark for Excel."""
    text = io.StringIO(newline="")
    write_csv(text, (_csv_cells(row) for row in rows), ["file", *columns(NUM_BREEDS)[1:]])
    return text.getvalue().encode("utf-8-sig", "backslashreplace")


def _csv_cells(row: Row) -> dict[str, str | float]:
    cells = answer_columns(row.result)
    if isinstance(row.result, BadImage):
        cells["error"] = ENGLISH.problem(row.result)
    return {"file": row.file, **cells}
