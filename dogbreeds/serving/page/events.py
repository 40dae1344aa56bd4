"""What can be asked of the page, read from its layout."""

import inspect

import gradio as gr

from dogbreeds.serving.page.components import BreedsInput, PhotoFiles, PhotoInput
from dogbreeds.serving.page.photo_picker import SentPhoto
from dogbreeds.serving.questions import Event, Input


def events(page: gr.Blocks) -> list[Event]:
    """The events of a page, with what they take."""
    return [
        Event(
            number,
            str(function.api_name) if function.api_visibility == "public" else None,
            bool(function.queue),
            tuple(map(_input, function.inputs, _parameters(function))),
        )
        for number, function in page.fns.items()
        if function.fn  # others run in the browser alone
    ]


def _parameters(function: gr.blocks.BlockFunction) -> list[str]:
    """The names of a function's inputs; gradio fills in the request by its type."""
    assert function.fn is not None  # `events`
    parameters = inspect.signature(function.fn).parameters.values()
    return [each.name for each in parameters if each.annotation is not gr.Request]


def _input(component: gr.blocks.Block, name: str) -> Input:
    if isinstance(component, PhotoInput | SentPhoto):
        return Input(name, "photo")
    if isinstance(component, PhotoFiles):
        return Input(name, "photos")
    if isinstance(component, BreedsInput):
        return Input(name, "breeds")
    assert isinstance(component, gr.Radio), f"no rule for the input {name} of the page"
    return Input(name, "choice", tuple(value for _, value in component.choices), component.value)
