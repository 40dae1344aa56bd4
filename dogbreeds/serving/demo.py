"""The web page: a photo goes in, a breed and its probability come out. Only this and photo_input.py import gradio."""

import errno
import os
import socket
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from dogbreeds.errors import UserError
from dogbreeds.images import BadImage
from dogbreeds.serving.heat_map import overlay
from dogbreeds.serving.photo_input import PhotoInput
from dogbreeds.serving.predictor import Prediction, Predictor
from dogbreeds.serving.together import MAX_TOGETHER, TogetherPredictor

MAX_UPLOAD = "25mb"
MAX_WAITING = 64
"""Photos that may wait for an answer; one more is told that the page is busy."""
CACHE_SECONDS = 600
"""Uploads older than this are deleted, and looked for this often."""
TOP_K = 5

CSS = """
.gradio-container { max-width: 960px !important; width: 100%; margin: 0 auto !important; }
#verdict { font-size: 1.15rem; min-height: 4.5rem; }
#verdict .answer { font-size: 1.6rem; font-weight: 650; line-height: 1.25; }
#verdict .problem { border-left: 4px solid #b91c1c; padding-left: .75rem; }
#details { opacity: .8; }
"""

ABOUT = """
Drop a photo with one dog on it, filling most of the picture. The answer says what the dog **looks like**, not what its
ancestry is: a mixed breed gets the pure breeds it resembles.

Each percentage is calibrated: of many answers given 80 %, about 80 % are right on photos like those of Stanford Dogs.
The heat map shows which places in the photo speak for the first breed; the greyed border was not looked at.
Photos are deleted from this server within 20 minutes and used for nothing else.
"""


def build_page(predictors: Sequence[Predictor]) -> gr.Blocks:
    """Lay out the page.

    Args:
        predictors: The models that can answer, at least one; the first answers unless the person chooses another.
    """
    by_name = {
        _unique_name(predictor, predictors): TogetherPredictor(predictor, top_k=TOP_K) for predictor in predictors
    }
    names = list(by_name)

    def predict(photo: Image.Image | BadImage | None, model: str) -> tuple[str, Any, Any, str]:
        """Tell the breed of the dog on a photo.

        Args:
            photo: The photo.
            model: The name of the model that shall answer.

        Returns:
            The verdict in words (HTML), the probabilities of the five most probable breeds, the heat map over the
            photo, and which model answered in what time.
        """
        if photo is None:
            return _WAITING, _hidden(), _hidden(), ""
        if isinstance(photo, BadImage):
            return f'<p class="problem" role="alert">{escape(str(photo))}</p>', _hidden(), _hidden(), ""
        predictor = by_name[model]
        prediction = predictor.predict(photo)
        return (
            _in_words(prediction, len(predictor.run.labels)),
            gr.Label({candidate.breed: candidate.probability for candidate in prediction.breeds}, visible=True),
            gr.Image(overlay(photo, prediction), visible=True),
            f"Answered by {model} in {prediction.seconds * 1000:.0f} ms.",
        )

    with gr.Blocks(title="Dog breeds", analytics_enabled=False, delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as page:
        gr.Markdown("# What breed is this dog?")
        with gr.Row():
            with gr.Column():
                photo = PhotoInput(
                    label="Photo",
                    sources=["upload", "clipboard", "webcam"],
                    type="pil",
                    height=340,
                    elem_id="photo",
                )
                model = gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1, elem_id="model")
            with gr.Column():
                verdict = gr.HTML(_WAITING, elem_id="verdict")
                candidates = gr.Label(
                    label="Most probable breeds",
                    num_top_classes=TOP_K,
                    show_heading=False,
                    visible=False,
                    elem_id="candidates",
                )
                details = gr.Markdown(elem_id="details")
                heat_map = gr.Image(
                    label="Where the model looked",
                    interactive=False,
                    visible=False,
                    buttons=["download", "fullscreen"],
                    alt_text="The photo with a heat map: bright places speak for the first breed.",
                    elem_id="heat_map",
                )
        with gr.Accordion("What the answer means", open=False):
            gr.Markdown(ABOUT)
        gr.on(
            [photo.change, model.change],
            predict,
            [photo, model],
            [verdict, candidates, heat_map, details],
            api_name="predict",
            concurrency_limit=MAX_TOGETHER,
            show_progress="minimal",
        )
    return page.queue(max_size=MAX_WAITING)


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
    predictors = [Predictor(Path(run_dir)) for run_dir in run_dirs]
    for predictor in predictors:
        predictor.warm_up()
    page = build_page(predictors)
    page.launch(
        server_name=host,
        server_port=port,
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        max_file_size=MAX_UPLOAD,
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


_WAITING = "<p>Drop, paste, choose or take a photo of a dog, and its breed appears here.</p>"


def _hidden() -> dict[str, Any]:
    return gr.update(value=None, visible=False)


def _in_words(prediction: Prediction, num_breeds: int) -> str:
    best = prediction.breeds[0]
    breed, percent = escape(best.breed), f"{best.probability:.0%}".replace("%", " %")
    if prediction.verdict == "not_a_dog":
        answer = f"This does not look like one of my {num_breeds} breeds."
        remark = "It may be no dog, or the dog is hard to see. What it resembles most is listed below."
    elif prediction.verdict == "unsure":
        answer = f"Not sure: perhaps {breed} ({percent})."
        remark = "Look at the other candidates too, or try a photo with the dog closer."
    else:
        answer = f"{breed} ({percent})"
        remark = "This is what the dog looks like, not its ancestry."
    return f'<div role="status"><p class="answer">{answer}</p><p>{remark}</p></div>'


def _unique_name(predictor: Predictor, predictors: Sequence[Predictor]) -> str:
    """The run's name, with its folder where two runs have the same name."""
    same = [other for other in predictors if other.run.name == predictor.run.name]
    return predictor.run.name if len(same) == 1 else str(predictor.run.path)
