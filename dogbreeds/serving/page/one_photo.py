"""The tab "One photo": one model's answer to a photo, or the answers of all models side by side."""

import asyncio
from pathlib import Path

import gradio as gr
from PIL import Image

from dogbreeds.images import BadImage
from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page import cards
from dogbreeds.serving.page.components import PhotoInput, turn
from dogbreeds.serving.page.texts import Texts, texts_for
from dogbreeds.serving.turns import Turns
from dogbreeds.serving.uploads import open_copy

_ALL_MODELS = "/"
"""The value of the choice "side by side"; no run has such a name."""


def one_photo_tab(models: ModelSet, answers: Turns, text: gr.I18n) -> PhotoInput:
    """Add the tab to the page.

    Args:
        models: What can answer; the first does unless the person chooses another.
        answers: In which questions wait for their answers.
        text: The page's texts.

    Returns:
        The input for the photo, which the endpoints for programs share.
    """
    several = len(models.names) > 1
    choices = [(name, name) for name in models.names] + ([(text("side_by_side"), _ALL_MODELS)] if several else [])
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

    async def show(upload: Path | None, model: str, request: gr.Request) -> tuple[str, str]:
        texts = texts_for(request.headers.get("accept-language"))
        if upload is None:
            return cards.waiting(texts.waiting), ""
        async with turn(answers, request):
            return await asyncio.to_thread(_shown, upload, model, models, texts)

    gr.on(
        [photo.input, photo.clear, model.change],
        show,
        [photo, model],
        [verdict, details],
        api_visibility="private",
        concurrency_limit=None,
        trigger_mode="always_last",
        show_progress="minimal",
        show_progress_on=[verdict],
    )
    return photo


def _shown(upload: Path, model: str, models: ModelSet, texts: Texts) -> tuple[str, str]:
    try:
        return _answer(open_copy(upload), model, models, texts)
    except BadImage as error:
        return cards.problem(texts.problem(error), texts), ""


def _answer(photo: Image.Image, model: str, models: ModelSet, texts: Texts) -> tuple[str, str]:
    """The verdict and the details below it, as HTML."""
    if model == _ALL_MODELS:
        predictions = models.compare(photo)
        return cards.agreement(list(predictions.values()), texts), cards.side_by_side(predictions, models, photo, texts)
    prediction = models.predict(model, photo)
    verdict = cards.headline(prediction, len(models.labels(model)), texts)
    return verdict, cards.details(prediction, photo, model, texts)
