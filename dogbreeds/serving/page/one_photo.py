"""The tab "One photo": one model's answer to a photo, or the answers of all models side by side."""

import asyncio
from pathlib import Path

import gradio as gr
from gradio.i18n import I18nData

from dogbreeds.images import BadImage
from dogbreeds.serving.answer_queue import AnswerQueue
from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page import breed_list, cards, several_dogs, share
from dogbreeds.serving.page.components import BreedsInput, texts_of, turn
from dogbreeds.serving.page.photo_picker import SentPhoto
from dogbreeds.serving.page.texts import Texts
from dogbreeds.serving.uploaded import answer_upload
from dogbreeds.serving.uploads import open_copy

ALL_MODELS = "/"
"""The value of the choice "side by side"; no run has such a name."""


def model_choice(models: ModelSet, text: gr.I18n) -> gr.Radio:
    """What answers, on both tabs; to be rendered below them, since nobody needs to choose.

    Args:
        models: The first answers unless another is chosen.
        text: The page's texts.
    """
    choices: list[tuple[str | I18nData, str]] = [(text("best"), models.names[0])]
    choices += [(name, name) for name in models.names[1:]]
    if len(models.names) > 1:
        choices.append((text("side_by_side"), ALL_MODELS))
    return gr.Radio(
        choices,
        value=models.names[0],
        label=text("model"),
        info=text("model_info"),
        elem_id="model",
        render=False,
    )


def one_photo_tab(
    models: ModelSet, answers: AnswerQueue, model: gr.Radio, only_breeds: BreedsInput, text: gr.I18n
) -> None:
    """Add the tab to the page.

    Args:
        models: What can answer.
        answers: In which questions wait for their answers.
        model: Which of them does.
        only_breeds: The breeds that come into question.
        text: The page's texts.
    """
    with gr.Tab(text("one_photo")), gr.Column(elem_id="one-photo"):
        gr.HTML(text("picker_html"), elem_id="photo")
        photo = SentPhoto()
        verdict = gr.HTML("", elem_id="verdict")
        picture = gr.HTML("", elem_id="picture", js_on_load=several_dogs.SCRIPT)
        details = gr.HTML("", elem_id="details", js_on_load=share.SCRIPT)

    async def show(photo: Path | None, model: str, only_breeds: list[str], request: gr.Request) -> tuple[str, str, str]:
        if photo is None:
            return "", "", ""
        async with turn(answers, request):
            verdict, picture, details = await asyncio.to_thread(
                _shown, photo, model, only_breeds, models, texts_of(request)
            )
            return f'<div data-photo="{photo.parent.name}">{verdict}</div>', picture, details

    asked = gr.on(
        [photo.input, model.change, only_breeds.input],
        show,
        [photo, model, only_breeds],
        [verdict, picture, details],
        api_visibility="private",
        concurrency_limit=None,
        trigger_mode="always_last",
        show_progress="hidden",
    )
    # What photo_picker.js hears of it.
    tell = "(detail) => { document.dispatchEvent(new CustomEvent('answered', { detail })); }"
    asked.success(None, [verdict], js=tell)


def _shown(upload: Path, model: str, only_breeds: list[str], models: ModelSet, texts: Texts) -> tuple[str, str, str]:
    """The verdict, the photo with its heat map and the details, as HTML."""
    names = models.names if model == ALL_MODELS else [model]
    if problem := breed_list.problem(models, names, only_breeds, texts):
        return cards.problem(problem, texts), "", ""
    models = models.only(names, only_breeds)
    try:
        if model == ALL_MODELS:
            photo = open_copy(upload)
            predictions = models.compare(photo)
            verdict = cards.agreement(list(predictions.values()), texts)
            return verdict, "", cards.side_by_side(predictions, models, photo, texts)
        prediction, pictures = answer_upload(models, model, upload)
    except BadImage as error:
        return cards.problem(texts.problem(error), texts), "", ""
    say = several_dogs if prediction.dogs else cards
    verdict = say.headline(prediction, len(models.labels(model)), texts, num_listed=models.num_listed(model))
    details = say.details(prediction, model, texts) + share.buttons(texts)
    return verdict, say.picture(prediction, pictures, texts), details
