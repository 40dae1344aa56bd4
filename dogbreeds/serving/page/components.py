"""gradio's components with this project's rules: inputs for photos, and outputs for programs.

gradio writes a components.pyi beside this file when it is imported; nothing needs that file.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
from gradio import route_utils
from gradio.utils import get_upload_folder
from PIL import Image
from pydantic import TypeAdapter

from dogbreeds.images import JPEG_SIDE, BadImage
from dogbreeds.serving.api import ComparisonJson, PredictionJson
from dogbreeds.serving.uploads import open_upload, shown_by_browsers


class _UploadOfItsOwn(route_utils.GradioUploadFile):
    """An upload whose place nobody can know, and nobody shares."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sha.update(secrets.token_bytes())


def separate_uploads() -> None:
    """Give each upload a place with a random name.

    gradio (read in 6.31.0) keeps an upload as <folder>/<hash of the content>/<name>. So people who send the same file
    would share it, and one would replace or delete the other's.
    """
    route_utils.GradioUploadFile = _UploadOfItsOwn  # type: ignore[misc]


@dataclass(frozen=True)
class Upload:
    """A photo that somebody sent."""

    photo: Image.Image
    """Upright, RGB, as large as the models of the page need."""
    path: Path
    """Where it is kept, without its hidden data."""
    can_be_shown: bool
    """Whether a browser shows such a file; HEIC and TIFF it does not."""


class PhotoInput(gr.Image):
    """An image component that opens photos as the rest of the project does.

    gradio's own `preprocess` skips the EXIF rotation and lets truncated files through; see `dogbreeds.images`.
    """

    is_template = True
    at_least: int = JPEG_SIDE
    """The width and height, in pixels, that the models need."""

    def preprocess(self, payload: Any) -> Upload | BadImage | None:  # type: ignore[override]
        """The photo, or what is wrong with it: as a value, which the page shows in place of the answer."""
        if payload is None:
            return None
        path = _uploaded(payload.path)
        can_be_shown = shown_by_browsers(path)
        try:
            return Upload(open_upload(path, at_least=self.at_least), path, can_be_shown)
        except BadImage as error:
            return error


class PhotoFiles(gr.File):
    """A file component that gives each file's own name beside its path; gradio's gives a cleaned one."""

    is_template = True

    def preprocess(self, payload: Any) -> list[tuple[str, Path]]:  # type: ignore[override]
        """Name and path of each file; empty where there is none."""
        return _named(payload)


class PhotoFolder(gr.UploadButton):
    """A button to choose a folder; its files as in `PhotoFiles`."""

    is_template = True

    def preprocess(self, payload: Any) -> list[tuple[str, Path]]:  # type: ignore[override]
        """Name and path of each file; empty where there is none."""
        return _named(payload)


class TypedJson(gr.JSON):
    """A JSON value whose type is published in the description of the endpoints; people don't see it."""

    is_template = True
    json_type: ClassVar[Any]

    def api_info(self) -> dict[str, Any]:
        """The JSON schema of the value."""
        return TypeAdapter(self.json_type).json_schema()


class PredictionOutput(TypedJson):
    """The answer of one model."""

    json_type = PredictionJson


class ComparisonOutput(TypedJson):
    """The answers of all models."""

    json_type = ComparisonJson


def _uploaded(path: str) -> Path:
    """The path of an upload, which may be read, replaced and deleted.

    gradio lets any path of the server through if a request leaves out the `meta` that marks it as a file.

    Raises:
        gradio.Error: It is no upload.
    """
    resolved = Path(path).resolve()
    # get_upload_folder is not documented (read in gradio 6.31.0): GRADIO_TEMP_DIR, which serve() sets, or the default.
    if Path(get_upload_folder()).resolve() not in resolved.parents:
        raise gr.Error("This is no file that was sent to this page.", print_exception=False)
    return resolved


def _named(payload: Any) -> list[tuple[str, Path]]:
    # Read in gradio 6.31.0: several files come as a pydantic RootModel, ListFiles, whose `root` is the list.
    files = getattr(payload, "root", payload) or []
    named = [(file.orig_name or Path(file.path).name, _uploaded(file.path)) for file in files]
    return [(name, path) for name, path in named if not name.startswith(".")]  # as `index` leaves hidden files out
