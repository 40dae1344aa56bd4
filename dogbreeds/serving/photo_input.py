"""The page's way in for a photo.

gradio writes a photo_input.pyi beside this file when it is imported; nothing needs that file.
"""

from typing import Any

import gradio as gr
from PIL import Image

from dogbreeds.images import BadImage, open_image


class PhotoInput(gr.Image):
    """An image component that opens photos as the rest of the project does.

    gradio's own `preprocess` skips the EXIF rotation and lets truncated files through; see `dogbreeds.images`.
    """

    is_template = True

    def preprocess(self, payload: Any) -> Image.Image | BadImage | None:  # type: ignore[override]
        """The photo, or what is wrong with it: as a value, so that the page can say it where the answer would be."""
        if payload is None:
            return None
        try:
            return open_image(payload.path)
        except BadImage as error:
            return error
