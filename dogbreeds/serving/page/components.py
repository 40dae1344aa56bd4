"""The page's ways in for photos, and its way out for programs: gradio's components with this project's rules.

gradio writes a components.pyi beside this file when it is imported; nothing needs that file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from dogbreeds.images import BadImage
from dogbreeds.serving.api import COMPARISON_SCHEMA, PREDICTION_SCHEMA
from dogbreeds.serving.uploads import open_upload, shown_by_browsers


@dataclass(frozen=True)
class Upload:
    """A photo that somebody sent."""

    photo: Image.Image
    """Upright, RGB."""
    can_be_shown: bool
    """Whether a browser shows such a file; HEIC and TIFF it does not."""


class PhotoInput(gr.Image):
    """An image component that opens photos as the rest of the project does.

    gradio's own `preprocess` skips the EXIF rotation and lets truncated files through; see `dogbreeds.images`.
    """

    is_template = True

    def preprocess(self, payload: Any) -> Upload | BadImage | None:  # type: ignore[override]
        """The photo, or what is wrong with it: as a value, so that the page can say it where the answer would be."""
        if payload is None:
            return None
        path = _uploaded(payload.path)
        can_be_shown = shown_by_browsers(path)
        try:
            return Upload(open_upload(path), can_be_shown)
        except BadImage as error:
            return error


class PhotoFiles(gr.File):
    """A file component that gives each file's own name beside its path; gradio's gives a cleaned one."""

    is_template = True

    def preprocess(self, payload: Any) -> list[tuple[str, Path]]:  # type: ignore[override]
        """Name and path of each file; empty where there is none."""
        return _named(payload)


class PhotoFolder(gr.UploadButton):
    """A button for a folder, likewise."""

    is_template = True

    def preprocess(self, payload: Any) -> list[tuple[str, Path]]:  # type: ignore[override]
        """Name and path of each file; empty where there is none."""
        return _named(payload)


class TypedJson(gr.JSON):
    """A JSON value whose shape the page's description for programs tells; people don't see it."""

    is_template = True
    schema: ClassVar[dict[str, Any]]

    def api_info(self) -> dict[str, Any]:
        """The JSON schema of the value."""
        return self.schema


class PredictionJson(TypedJson):
    """The answer of one model."""

    schema = PREDICTION_SCHEMA


class ComparisonJson(TypedJson):
    """The answers of all models."""

    schema = COMPARISON_SCHEMA


def _uploaded(path: str) -> Path:
    """The place of an upload, which is read, coded anew and deleted there.

    gradio itself lets any path of the server through where a question leaves out the `meta` that marks it as a file.

    Raises:
        gradio.Error: It is no upload.
    """
    place = Path(path).resolve()
    if Path(get_upload_folder()).resolve() not in place.parents:
        raise gr.Error("This is no file that was sent to this page.", print_exception=False)
    return place


def _named(payload: Any) -> list[tuple[str, Path]]:
    files = getattr(payload, "root", payload) or []
    named = [(file.orig_name or Path(file.path).name, _uploaded(file.path)) for file in files]
    return [(name, path) for name, path in named if not name.startswith(".")]  # as `index` leaves hidden files out
