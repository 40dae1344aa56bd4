"""The web page: photos go in, breeds and their probabilities come out."""

import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from dogbreeds.errors import UserError
from dogbreeds.serving import zero_gpu
from dogbreeds.serving.gateway import gateway_lifespan
from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page import cards
from dogbreeds.serving.page.components import separate_uploads
from dogbreeds.serving.page.many_photos import many_photos_tab
from dogbreeds.serving.page.one_photo import one_photo_tab
from dogbreeds.serving.page.programs import examples_section, program_endpoints
from dogbreeds.serving.page.texts import ENGLISH, FRENCH, Texts
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.uploads import private_upload_folder

MAX_UPLOAD = "40mb"
MAX_WAITING = 64
"""Requests that may wait for an answer; the next one is told that the page is busy."""
CACHE_SECONDS = 600
"""Uploads older than this are deleted; also the time between two searches for such."""
MAX_SESSIONS = 256
"""Visits whose last answers are kept, with a description of the whole page for each. gradio counts a request of a
program as a visit too."""

_HERE = Path(__file__).parent


def build_page(models: ModelSet, text: gr.I18n) -> gr.Blocks:
    """Lay out the page.

    Args:
        models: What can answer; the first does unless the person chooses another.
        text: What the page says, from `page_texts`.
    """
    with gr.Blocks(title="Dog breeds", analytics_enabled=False, delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as page:
        gr.HTML(text("heading"))
        photo = one_photo_tab(models, text)
        many_photos_tab(models, text, CACHE_SECONDS)
        with gr.Accordion(text("about"), open=False):
            gr.Markdown(text("about_all"))
        examples_section(page, models, text)
        program_endpoints(models, photo)
    return page.queue(max_size=MAX_WAITING, api_open=False)  # every request goes through the queue


def page_texts(models: ModelSet) -> gr.I18n:
    """What the page says before any request, in each language; the browser picks its own."""
    return gr.I18n(**{texts.language: _first_texts(models, texts) for texts in (ENGLISH, FRENCH)})


def _first_texts(models: ModelSet, texts: Texts) -> dict[str, str]:
    rates = [cards.rates(predictor.run, name, texts) for name, predictor in models.predictors.items()]
    return {
        **texts.sentences,
        "heading": f"<h1>{texts.title}</h1>",
        "waiting_html": cards.waiting(texts.waiting),
        "waiting_many_html": cards.waiting(texts.waiting_many),
        "about_all": "\n\n".join([texts.about_text, *rates]),
    }


def serve(run_dirs: Sequence[str | os.PathLike[str]], host: str | None, port: int | None) -> None:
    """Load the runs and serve the page until interrupted.

    Args:
        run_dirs: Run folders.
        host: Address to listen on; None for this machine alone, or what GRADIO_SERVER_NAME says.
        port: Port to listen on; None for the first free one from 7860 on, or what GRADIO_SERVER_PORT says.

    Raises:
        UserError: A run folder is missing or damaged, or the port is in use.
    """
    if not run_dirs:
        raise UserError("--run-dir names no run folder")
    _check_address(host, port)
    zero_gpu.declare()
    predictors = [Predictor(Path(run_dir)) for run_dir in run_dirs]
    for predictor in predictors:
        predictor.warm_up()
    models = ModelSet(predictors)
    text = page_texts(models)
    uploads = private_upload_folder()
    # Read in gradio 6.31.0: it keeps the last 10,000 events and computes statistics of them after each answer, which no
    # option turns off.
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    separate_uploads()
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
    """Try to listen there. gradio takes every failure for a port in use, and tries a hundred ports."""
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
