"""gradio's components with this project's rules: inputs for photos, and outputs for programs.

gradio writes a components.pyi beside this file when it is imported; nothing needs that file.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import gradio as gr
from fastapi import Request
from gradio.context import LocalContext
from gradio.utils import get_upload_folder
from pydantic import TypeAdapter

from dogbreeds.serving.answer_queue import AnswerQueue, NobodyListens
from dogbreeds.serving.api import ComparisonJson, PredictionJson
from dogbreeds.serving.page.texts import Texts, texts_for

Component = TypeVar("Component", bound=type[gr.components.Component])


def described_once(component: Component) -> Component:
    """Keep the JSON schema of a component's values: gradio asks for it for each visit, and makes it anew.

    As a decorator, since gradio takes a class for one of its own only if that is its first base.
    """
    make = component.api_info

    def api_info(self: Any) -> dict[str, Any]:
        if not hasattr(self, "_json_schema"):
            self._json_schema = make(self)
        return self._json_schema

    component.api_info = api_info  # type: ignore[method-assign]
    return component


@described_once
class PhotoInput(gr.Image):
    """The photo of a program; its value is the place of an upload, which `dogbreeds.serving.uploads.open_copy` opens.

    gradio's own `preprocess` skips the EXIF rotation and lets truncated files through.
    """

    is_template = True

    def preprocess(self, payload: Any) -> Path | None:  # type: ignore[override]
        """Where the upload lies; None where there is none."""
        return None if payload is None else uploaded(payload.path)


@described_once
class PhotoFiles(gr.File):
    """A file component that gives each file's own name beside its path; gradio's gives a cleaned one."""

    is_template = True

    def preprocess(self, payload: Any) -> list[tuple[str, Path]]:  # type: ignore[override]
        """Name and path of each file; empty where there is none."""
        # Read in gradio 6.31.0: several files come as a pydantic RootModel, ListFiles, whose `root` is the list.
        files = getattr(payload, "root", payload) or []
        named = [(file.orig_name or Path(file.path).name, uploaded(file.path)) for file in files]
        return [(name, path) for name, path in named if not name.startswith(".")]  # as `index` leaves hidden files out


@described_once
class PhotoFolder(gr.UploadButton):
    """A button to choose a folder; review_files.js gives its files to `PhotoFiles`, which sends them."""

    is_template = True


@described_once
class BreedsInput(gr.HTML):
    """The breeds that come into question; none where all do."""

    is_template = True

    def preprocess(self, payload: Any) -> list[str]:  # type: ignore[override]
        """Their names."""
        return payload or []

    def api_info(self) -> dict[str, Any]:
        """The JSON schema of the value."""
        return {"type": "array", "items": {"type": "string"}}

    def example_payload(self) -> list[str]:
        """What the description of the endpoints shows."""
        return ["Beagle", "Pug"]


class TypedJson(gr.JSON):
    """A JSON value whose type is published in the description of the endpoints; people don't see it."""

    is_template = True
    json_schema: ClassVar[dict[str, Any]]

    def api_info(self) -> dict[str, Any]:
        """The JSON schema of the value."""
        return self.json_schema


class PredictionOutput(TypedJson):
    """The answer of one model."""

    json_schema = TypeAdapter(PredictionJson).json_schema()


class ComparisonOutput(TypedJson):
    """The answers of all models."""

    json_schema = TypeAdapter(ComparisonJson).json_schema()


def texts_of(request: gr.Request | Request) -> Texts:
    """The language that a person has chosen on the page, or else that of the browser."""
    return texts_for(request.query_params.get("lang") or request.headers.get("accept-language"))


def address_of(request: gr.Request) -> str:
    """Whose question it is: the address that the gateway has found."""
    assert request.client is not None
    return request.client.host


@asynccontextmanager
async def turn(answers: AnswerQueue, request: gr.Request) -> AsyncIterator[None]:
    """Wait until it is a question's turn.

    Raises:
        gradio.Error: Nobody waits for the answer any more.
    """
    # Not documented (read in gradio 6.31.0): it forgets the questions of who went away only before they begin.
    page, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    assert page is not None
    queue = page._queue
    event = queue.event_ids_to_events.get(event_id or "")
    assert event is not None and event.session_hash is not None

    def is_forgotten() -> bool:
        return event.session_hash not in queue.pending_messages_per_session

    try:
        async with answers.turn(address_of(request), event.session_hash, lambda: not event.alive or is_forgotten()):
            yield
    except NobodyListens:
        if is_forgotten():  # gradio keeps 2,000 sessions, and would log a traceback when it looks for another
            event.alive = False
        raise gr.Error("Nobody waits for this answer.", print_exception=False) from None


def uploaded(path: str) -> Path:
    """The path of an upload, which may be read and deleted; nothing else passes `dogbreeds.serving.questions`."""
    resolved = Path(path).resolve()
    # get_upload_folder is not documented (read in gradio 6.31.0): GRADIO_TEMP_DIR, which serve() sets, or the default.
    assert Path(get_upload_folder()).resolve() in resolved.parents
    return resolved
