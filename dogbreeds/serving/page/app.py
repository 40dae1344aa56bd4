"""The web page: photos go in, breeds and their probabilities come out. Only this and components.py import gradio."""

import errno
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.route_utils import get_root_url

from dogbreeds.answers import NO_ANSWER
from dogbreeds.errors import UserError
from dogbreeds.images import BadImage
from dogbreeds.serving import zero_gpu
from dogbreeds.serving.api import CURL, PYTHON, comparison_json, prediction_json
from dogbreeds.serving.batching import MAX_BATCH_SIZE
from dogbreeds.serving.gateway import gateway_lifespan
from dogbreeds.serving.model_set import ModelSet, ensemble_of
from dogbreeds.serving.page import cards
from dogbreeds.serving.page.components import (
    ComparisonJson,
    PhotoFiles,
    PhotoFolder,
    PhotoInput,
    PredictionJson,
    Upload,
)
from dogbreeds.serving.page.many_photos import MAX_FILES, Row, answer_many, to_csv
from dogbreeds.serving.page.texts import ENGLISH, FRENCH, Texts, texts_for
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.uploads import own_folder

MAX_UPLOAD = "40mb"
MAX_WAITING = 64
"""Photos that may wait for an answer; one more is told that the page is busy."""
MAX_LIBRARIES = 2
"""Sets of many photos that are answered at a time."""
TABLE_SECONDS = 1.0
"""How often the table of many photos is drawn anew while it grows."""
CACHE_SECONDS = 600
"""Uploads older than this are deleted, and looked for this often."""
MAX_SESSIONS = 256
"""Visits whose last answers are kept; gradio keeps a description of the whole page with each, and counts each question
of a program as a visit."""

_HERE = Path(__file__).parent
_ALL_MODELS = "/"
"""What the page sends for a model when all shall answer; no run has such a name."""


def build_page(models: ModelSet, text: gr.I18n) -> gr.Blocks:
    """Lay out the page.

    Args:
        models: Who can answer; the first does unless the person chooses another.
        text: What the page says, from `page_texts`.
    """
    several = len(models.names) > 1
    choices = [(name, name) for name in models.names] + ([(text("side_by_side"), _ALL_MODELS)] if several else [])

    def show(upload: Upload | BadImage | None, model: str, request: gr.Request) -> tuple[str, str, Any]:
        texts = _texts(request)
        if upload is None:
            return cards.waiting(texts.waiting), "", gr.skip()
        if isinstance(upload, BadImage):
            return cards.problem(texts.problem(upload), texts), "", gr.skip()
        if model == _ALL_MODELS:
            comparison = models.compare(upload.photo)
            said = cards.agreement(comparison, models, texts)
            more = cards.side_by_side(comparison, models, upload.photo, texts)
        else:
            prediction = models.predict(model, upload.photo)
            said = cards.headline(prediction, len(models.labels(model)), texts)
            more = cards.details(prediction, upload.photo, model, texts)
        return said, more, gr.skip() if upload.can_be_shown else upload.photo

    def predict(photo: Upload | BadImage | None, model: str) -> dict[str, Any]:
        """Tell the breed of the dog on a photo.

        Args:
            photo: The photo.
            model: The name of the model that shall answer.

        Returns:
            The verdict (confident, unsure or not_a_dog), the five most probable breeds with their probabilities, the
            look-alikes and the breed group of an unsure answer, and the seconds it took; or why there is no answer.
        """
        if not isinstance(photo, Upload):
            return {**NO_ANSWER, "model": model, "seconds": 0.0, "error": _why_not(photo)}
        return prediction_json(model, models.predict(model, photo.photo))

    def compare(photo: Upload | BadImage | None) -> dict[str, Any]:
        """Ask all models about the same photo.

        Args:
            photo: The photo.

        Returns:
            The answer of each, whether they agree, and their joint answer where that was measured to be the better one.
        """
        if not isinstance(photo, Upload):
            return {"answers": [], "agree": None, "together": None, "error": _why_not(photo)}
        return comparison_json(models.compare(photo.photo))

    def show_many(
        files: list[tuple[str, Path]], request: gr.Request
    ) -> Iterator[tuple[Any, Any, Any, str, str, Any, Any]]:
        texts = _texts(request)
        if not files:
            return
        if len(files) > MAX_FILES:
            for _, path in files:
                path.unlink(missing_ok=True)
            message = cards.problem(texts.too_many.format(len(files), MAX_FILES), texts)
            yield *_ready(), message, "", gr.update(visible=False), []
            return
        rows: list[Row] = []
        shown_at = 0.0
        running = (gr.update(interactive=False), gr.update(interactive=False), gr.update(visible=True))
        yield *running, cards.progress(0, len(files), texts), "", gr.skip(), []
        for batch in answer_many(models.first, files):
            rows += batch
            status = cards.progress(len(rows), len(files), texts)
            table = gr.skip()
            if time.monotonic() - shown_at > TABLE_SECONDS:
                table, shown_at = _table(rows, models.names[0], texts), time.monotonic()
            yield *running, status, "", table, [_without_thumbnail(row) for row in rows]
        yield *_ready(), *_finished(rows, texts.done, texts), _table(rows, models.names[0], texts), gr.skip()

    def stop_many(rows: list[Row], request: gr.Request) -> tuple[Any, Any, Any, str, str]:
        texts = _texts(request)
        return *_ready(), *_finished(rows, texts.stopped, texts)

    def tell_programs(request: gr.Request) -> str:
        texts = _texts(request)
        assert request.request is not None
        address = get_root_url(request.request, request.request.url.path, None)
        python, curl = (example.format(url=address, model=models.names[0]) for example in (PYTHON, CURL))
        return f"{texts.program_text}\n\n```python\n{python}```\n\ncurl:\n\n```sh\n{curl}```"

    with gr.Blocks(title="Dog breeds", analytics_enabled=False, delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as page:
        gr.HTML(text("heading"))
        with gr.Tab(text("one_photo")), gr.Row():
            with gr.Column(min_width=300):
                photo = PhotoInput(
                    label=text("photo"),
                    sources=["upload", "clipboard", "webcam"],
                    type="pil",
                    height=340,
                    buttons=[],
                    elem_id="photo",
                )
                model = gr.Radio(choices, value=models.names[0], label=text("model"), visible=several, elem_id="model")
            with gr.Column(min_width=300, scale=2):
                verdict = gr.HTML(text("waiting_html"), elem_id="verdict")
                details = gr.HTML("", elem_id="details")
        with gr.Tab(text("many_photos")):
            with gr.Row():
                files = PhotoFiles(label=text("photos"), file_count="multiple", height=180, elem_id="files", scale=3)
                with gr.Column(min_width=160):
                    folder = PhotoFolder(text("folder"), file_count="directory", elem_id="folder")  # type: ignore[arg-type]
                    stop = gr.Button(text("stop"), variant="stop", visible=False, elem_id="stop")
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
            rows = gr.State([], time_to_live=CACHE_SECONDS)
        with gr.Accordion(text("about"), open=False):
            gr.Markdown(text("about_all"))
        with gr.Accordion(text("program"), open=False):
            program = gr.Markdown(elem_id="program")

        gr.on(
            [photo.input, photo.clear, model.change],
            show,
            [photo, model],
            [verdict, details, photo],
            api_visibility="private",
            concurrency_limit=MAX_BATCH_SIZE,
            trigger_mode="always_last",
            show_progress="minimal",
            show_progress_on=[verdict],
        )
        runs: list[Any] = [
            source.upload(
                show_many,
                [source],
                [files, folder, stop, status, download, table, rows],
                api_visibility="private",
                concurrency_limit=MAX_LIBRARIES,
                concurrency_id="many",
                show_progress="hidden",
            )
            for source in (files, folder)
        ]
        stop.click(
            stop_many,
            [rows],
            [files, folder, stop, status, download],
            cancels=runs,
            api_visibility="private",
            queue=False,
        )
        page.load(tell_programs, None, program, api_visibility="private", queue=False, show_progress="hidden")

        # What programs call has components of its own kind, which nobody sees.
        answer = PredictionJson(visible=False)
        one_model = gr.Radio(models.names, value=models.names[0], label="model", visible=False)
        asked = gr.Button(visible=False)
        asked.click(predict, [photo, one_model], answer, api_name="predict", concurrency_limit=MAX_BATCH_SIZE)
        comparison = ComparisonJson(visible=False)
        asked.click(compare, [photo], comparison, api_name="compare", concurrency_limit=MAX_BATCH_SIZE)
    return page.queue(max_size=MAX_WAITING, api_open=False)  # nobody passes the queue by


def page_texts(models: ModelSet) -> gr.I18n:
    """What the page says before anything is asked, in its languages; the browser picks its own."""
    return gr.I18n(
        **{
            texts.language: {
                **asdict(texts),
                "heading": f"<h1>{texts.title}</h1>",
                "waiting_html": cards.waiting(texts.waiting),
                "waiting_many_html": cards.waiting(texts.waiting_many),
                "about_all": f"{texts.about_text}\n\n{_all_rates(models, texts)}",
            }
            for texts in (ENGLISH, FRENCH)
        }
    )


def serve(
    run_dirs: Sequence[str | os.PathLike[str]], host: str | None, port: int | None, joint: Path | None = None
) -> None:
    """Load the runs and serve the page until interrupted.

    Args:
        run_dirs: Run folders.
        host: Address to listen on; None for this machine alone, or what GRADIO_SERVER_NAME says.
        port: Port to listen on; None for the first free one from 7860 on, or what GRADIO_SERVER_PORT says.
        joint: The ensemble.json of a comparison of these runs; by default the one that comes with the project, if it is
            about them.

    Raises:
        UserError: A run folder or the ensemble.json is missing or damaged or about other runs, or the port is in use.
    """
    if not run_dirs:
        raise UserError("--run-dir names no run folder")
    _check_address(host, port)
    zero_gpu.declare()
    predictors = [Predictor(Path(run_dir)) for run_dir in run_dirs]
    for predictor in predictors:
        predictor.warm_up()
    models = ModelSet(predictors, ensemble_of(predictors, joint))
    text = page_texts(models)
    uploads = own_folder()
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"  # of 10,000 it would make its statistics anew after each answer
    page = build_page(models, text)
    page.launch(
        server_name=host,
        server_port=port,
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css_paths=_HERE / "page.css",
        js=(_HERE / "page.js").read_text(encoding="utf-8"),
        favicon_path=_HERE / "icon.svg",
        pwa=True,
        i18n=text,
        max_file_size=MAX_UPLOAD,
        state_session_capacity=MAX_SESSIONS,
        app_kwargs={"lifespan": gateway_lifespan(uploads, CACHE_SECONDS)},
        enable_monitoring=False,
        run_history=False,
        footer_links=["api"],
        ssr_mode=False,
        share=False,
    )


def _check_address(host: str | None, port: int | None) -> None:
    """Try the address: gradio itself takes every failure for a port in use, and tries a hundred ports."""
    host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"--port {port}: must be from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use: give another with --port") from None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} is not allowed to this user: give one from 1024 on with --port") from None
        raise UserError(f"--host {host} is no address of this machine ({error.strerror})") from None


def _all_rates(models: ModelSet, texts: Texts) -> str:
    return "\n\n".join(cards.rates(predictor.run, name, texts) for name, predictor in models.predictors.items())


def _why_not(photo: BadImage | None) -> str:
    return ENGLISH.problem(photo) if photo else "No photo was sent."


def _ready() -> tuple[Any, Any, Any]:
    """Both inputs for many photos open for new ones, and nothing to stop."""
    return gr.update(value=None, interactive=True), gr.update(interactive=True), gr.update(visible=False)


def _without_thumbnail(row: Row) -> Row:
    """What is kept of a row while the page is open: its photo is not."""
    return replace(row, thumbnail="")


def _table(rows: Sequence[Row], model: str, texts: Texts) -> Any:
    """The rows so far, for the page's table."""
    data = [
        [
            row.thumbnail,
            texts.name(row.answer.breeds[0].breed) if row.answer and row.answer.verdict != "not_a_dog" else "",
            _kind(row, texts),
            round(row.answer.breeds[0].probability, 2) if row.answer and row.answer.verdict != "not_a_dog" else None,
            row.file,
        ]
        for row in rows
    ]
    return gr.Dataframe(
        data,
        label=f"{texts.table} ({model})",
        headers=[texts.thumbnail, texts.breed, texts.verdict, texts.probability, texts.file],
        datatype=["html", "str", "str", "number", "str"],
        column_widths=[140, 200, 240, 130, 340],
        visible=True,
    )


def _kind(row: Row, texts: Texts) -> str:
    """What kind of answer a row has, or why it has none."""
    if row.answer is None:
        assert row.error is not None
        return texts.problem(row.error)
    words = {"confident": texts.confident, "unsure": texts.unsure, "not_a_dog": texts.not_a_dog}
    group = f" ({texts.group(row.answer.group)})" if row.answer.group else ""
    return words[row.answer.verdict] + group


def _finished(rows: Sequence[Row], sentence: str, texts: Texts) -> tuple[str, str]:
    """What is said and offered when no more rows come."""
    said = cards.waiting(sentence.format(len(rows), sum(row.error is not None for row in rows)))
    return said, cards.download_link(to_csv(rows), "breeds.csv", texts.download) if rows else ""


def _texts(request: gr.Request) -> Texts:
    return texts_for(request.headers.get("accept-language"))
