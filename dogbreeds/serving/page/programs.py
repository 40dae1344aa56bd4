"""What the page offers to programs: two endpoints, and examples of how to call them."""

import asyncio
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.route_utils import get_root_url

from dogbreeds.answers import NO_ANSWER
from dogbreeds.errors import UserError
from dogbreeds.images import BadImage
from dogbreeds.serving.answer_queue import AnswerQueue
from dogbreeds.serving.api import comparison_json, prediction_json
from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page.components import (
    BreedsInput,
    ComparisonOutput,
    PhotoInput,
    PredictionOutput,
    texts_of,
    turn,
)
from dogbreeds.serving.page.texts import ENGLISH
from dogbreeds.serving.uploaded import answer_upload
from dogbreeds.serving.uploads import open_copy

_EXAMPLES = Path(__file__).with_name("examples.md")
"""What the page shows; a test runs both examples."""


def examples_section(page: gr.Blocks, models: ModelSet, text: gr.I18n) -> None:
    """Add the section "Use it from a program" to the page."""
    with gr.Accordion(text("program"), open=False):
        program = gr.Markdown(elem_id="program")

    def tell_programs(request: gr.Request) -> str:
        texts = texts_of(request)
        assert request.request is not None
        # get_root_url is not documented (read in gradio 6.31.0): it honours the proxy of a Space. It can be replaced by
        # the headers x-forwarded-proto and x-forwarded-host, or without these the request's own base_url.
        address = get_root_url(request.request, request.request.url.path, None)
        return _EXAMPLES.read_text(encoding="utf-8").format(text=texts.program_text, url=address, model=models.names[0])

    page.load(tell_programs, None, program, api_visibility="private", queue=False, show_progress="hidden")


def program_endpoints(models: ModelSet, answers: AnswerQueue) -> None:
    """Add the endpoints `predict` and `compare`; their components are invisible.

    Args:
        models: What can answer.
        answers: In which questions wait for their answers.
    """

    async def predict(
        photo: Path | None,
        request: gr.Request,
        model: str = models.names[0],
        only_breeds: list[str] | None = None,
    ) -> dict[str, Any]:
        """Tell the breed of the dog, and of each of several, on a photo, or in a video if the page takes videos.

        Args:
            photo: The photo, or the video.
            request: Whose question it is.
            model: The name of the model that shall answer.
            only_breeds: The breeds that come into question, two or more, in English or French; by default all.

        Returns:
            The verdict (confident, unsure, unknown_breed or not_a_dog), the five most probable breeds with their
            probabilities, the look-alikes and the breed group of an unsure answer, and the seconds it took; or why
            there is no answer. A dog of an unknown breed has the breeds that it resembles, without probabilities. Of
            several dogs, the answer to each is in `dogs`.
        """
        async with turn(answers, request):
            return await asyncio.to_thread(_predicted, photo, model, only_breeds or [], models)

    async def compare(photo: Path | None, request: gr.Request, only_breeds: list[str] | None = None) -> dict[str, Any]:
        """Ask all models about the same photo.

        Args:
            photo: The photo.
            request: Whose question it is.
            only_breeds: As for `predict`.

        Returns:
            The answer of each, and whether they agree.
        """
        async with turn(answers, request):
            return await asyncio.to_thread(_compared, photo, only_breeds or [], models)

    photo = PhotoInput(type="pil", visible=False)
    answer = PredictionOutput(visible=False)
    model = gr.Radio(models.names, value=models.names[0], label="model", visible=False)
    only_breeds = BreedsInput(None, label="only_breeds", visible=False)
    trigger = gr.Button(visible=False)
    trigger.click(predict, [photo, model, only_breeds], answer, api_name="predict", concurrency_limit=None)
    comparison = ComparisonOutput(visible=False)
    trigger.click(compare, [photo, only_breeds], comparison, api_name="compare", concurrency_limit=None)


def _predicted(photo: Path | None, model: str, only_breeds: list[str], models: ModelSet) -> dict[str, Any]:
    try:
        limited = models.only([model], only_breeds)
        return prediction_json(model, answer_upload(limited, model, _sent(photo))[0])
    except (BadImage, UserError) as error:
        return {**NO_ANSWER, "model": model, "seconds": 0.0, "error": _sentence(error)}


def _compared(photo: Path | None, only_breeds: list[str], models: ModelSet) -> dict[str, Any]:
    try:
        return comparison_json(models.only(models.names, only_breeds).compare(open_copy(_sent(photo))))
    except (BadImage, UserError) as error:
        return {"answers": [], "agree": None, "error": _sentence(error)}


def _sentence(error: BadImage | UserError) -> str:
    """Why there is no answer: what the command line says of a list of breeds, and the page of a photo."""
    return ENGLISH.problem(error) if isinstance(error, BadImage) else str(error)


def _sent(photo: Path | None) -> Path:
    if photo is None:
        raise BadImage("No photo was sent.", "empty")
    return photo
