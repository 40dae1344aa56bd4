"""The box to choose a photo in, with what there is to know before: what the page does, how right it is, and examples.

What it does in the browser is in photo_picker.js.
"""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page import cards
from dogbreeds.serving.page.components import described_once, uploaded
from dogbreeds.serving.page.head import PICTURES
from dogbreeds.serving.page.texts import Texts
from dogbreeds.serving.upload_route import MAX_FILE
from dogbreeds.serving.video import MAX_BYTES

_SCRIPT = Path(__file__).with_name("photo_picker.js")


@described_once
class SentPhoto(gr.HTML):
    """The photo that was sent: the place of an upload, which `dogbreeds.serving.uploads.open_copy` opens.

    It shows nothing itself, and gives the box its life.
    """

    is_template = True

    def __init__(self) -> None:
        """Begin without a photo."""
        super().__init__(None, html_template="", elem_id="sent", js_on_load=_SCRIPT.read_text(encoding="utf-8"))

    def preprocess(self, payload: Any) -> Path | None:  # type: ignore[override]
        """Where the upload lies; None where there is none."""
        return None if payload is None else uploaded(payload["path"])


def layout(models: ModelSet, texts: Texts, *, takes_videos: bool) -> str:
    """The box as HTML, in one language."""
    working, too_large = texts.working, texts.file_too_large.format(MAX_FILE // 1_000_000)
    if takes_videos:
        working = texts.working_on_either
        too_large = texts.file_or_video_too_large.format(MAX_FILE // 1_000_000, MAX_BYTES // 1_000_000)
    problems = {
        "offline": texts.offline,
        "too_large": too_large,
        "busy": texts.busy,
        "folder": texts.folder_dropped,
        "failed": texts.failed,
    }
    hidden = "".join(
        f'<div hidden data-problem="{name}">{cards.problem(sentence, texts)}</div>'
        for name, sentence in problems.items()
    )
    name = models.names[0]
    rates = cards.rates_in_short(models.first.run, texts)
    return (
        f'<p class="intro lead">{escape(texts.lead.format(len(models.labels(name))))}</p>'
        f'<div class="choose">{_buttons(texts, takes_videos)}<span class="hint">{escape(texts.drop_hint)}</span></div>'
        f'<p role="status" class="status"><span class="working">{escape(working)}</span></p>'
        f'<div role="alert">{hidden}</div>'
        f'<div class="intro examples"><p>{escape(texts.examples)}</p>{_examples(texts)}</div>'
        + (f'<p class="intro rates">{escape(rates)}</p>' if rates else "")
    )


def _buttons(texts: Texts, takes_videos: bool) -> str:
    """For the camera, if the device has one, and for files."""
    take = _button(texts.take_photo, "image/*", from_camera=True)
    if not takes_videos:
        return take + _button(texts.choose_photo, "image/*")
    film = _button(texts.take_video, "video/*", from_camera=True)
    return take + film + _button(texts.choose_photo_or_video, "image/*,video/*")


def _button(text: str, accept: str, *, from_camera: bool = False) -> str:
    kind, capture = (" camera", ' capture="environment"') if from_camera else ("", "")
    return f'<label class="button{kind}">{escape(text)}<input type="file" accept="{accept}"{capture}></label>'


def _examples(texts: Texts) -> str:
    drawings = {
        "white_dog": texts.drawing_white_dog,
        "shaggy_dog": texts.drawing_shaggy_dog,
        "cat": texts.drawing_cat,
    }
    return "".join(
        f'<button type="button"><img src="{PICTURES.name}/{name}.webp" alt="{escape(alt)}" width="160" height="120" '
        'decoding="sync"></button>'
        for name, alt in drawings.items()
    )
