"""The model's view of a photo: the one way from an RGB image to the pixels that a model sees.

Training's evaluation, the command line and the page all call `View`; what it does is read from the checkpoint's
`preprocessor_config.json`, in the format of transformers, so that `transformers.pipeline` sees the same.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from dogbreeds.errors import UserError

Fit = Literal["crop", "squash"]


@dataclass(frozen=True)
class View:
    """What a model sees of a photo."""

    size: int = 224
    """Height and width of the view, pixels."""
    fit: Fit = "crop"
    """``crop``: the shorter side is scaled to `shortest_edge` and the centre cut out; ``squash``: both sides are
    scaled to `size`, whatever the photo's proportions."""
    shortest_edge: int | None = None
    """With ``crop``, what the shorter side is scaled to, pixels; None means `size`."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        assert self.fit in ("crop", "squash"), self.fit
        if self.shortest_edge is not None and self.shortest_edge < self.size:
            raise UserError(f"a view of {self.size} pixels can't be cut from a shortest edge of {self.shortest_edge}")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Turn an RGB image into normalised pixels.

        Args:
            image: An upright RGB image, from `dogbreeds.images.open_image`.

        Returns:
            float32 array `(3, size, size)`, channels R, G, B; 0..1 shifted by `mean` and divided by `std`.
        """
        cut = self.cut(image)
        pixels = np.empty((3, self.size, self.size), dtype=np.float32)
        for channel, (scale, shift) in enumerate(zip(*self.scale_and_shift(), strict=True)):
            np.multiply(cut[..., channel], scale, out=pixels[channel], dtype=np.float32)
            pixels[channel] -= shift
        return pixels

    def cut(self, image: Image.Image) -> np.ndarray:
        """The view before it is normalised: uint8 `(size, size, 3)` of an upright RGB image."""
        assert image.mode == "RGB", f"the view takes RGB images, not {image.mode}"
        box = self.region(image.width, image.height)
        # One step, with the same pixels as scaling the whole photo and cutting then, but without the work in between.
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box))

    @property
    def decoded_side(self) -> int:
        """How large, in pixels, the shorter side of a photo must be decoded for this view: twice what is seen of it.

        What Pillow's own `thumbnail` takes as enough for a scaled photo to look the same (`reducing_gap=2.0`).
        """
        return 2 * (self.shortest_edge or self.size)

    @property
    def geometry(self) -> dict[str, Any]:
        """What `cut` depends on; views with the same geometry cut the same pixels, whatever their normalisation."""
        return {"size": self.size, "fit": self.fit, "shortest_edge": self.shortest_edge}

    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """What normalises 8-bit values, each `(3,)` float32: they are multiplied by the first, less the second."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return 1.0 / (255.0 * std), mean / std

    def region(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a photo of this size that the model sees: left, top, right, bottom, in the photo's pixels."""
        if self.fit == "squash":
            return 0.0, 0.0, float(width), float(height)
        # transformers scales to whole pixels and cuts at a whole pixel; this is where that cut lies in the photo.
        shortest_edge = self.shortest_edge or self.size
        scaled = [int(shortest_edge * side / min(width, height)) for side in (width, height)]
        starts = [(side - self.size) // 2 for side in scaled]
        (left, right), (top, bottom) = (
            (start * side / whole, (start + self.size) * side / whole)
            for start, side, whole in zip(starts, (width, height), scaled, strict=True)
        )
        return left, top, right, bottom

    def to_preprocessor_config(self, image_processor_type: str) -> dict[str, Any]:
        """The same view for `transformers.AutoImageProcessor`.

        Args:
            image_processor_type: The transformers class that belongs to the model, such as ``ViTImageProcessor``.
        """
        square = {"height": self.size, "width": self.size}
        crop = self.fit == "crop"
        return {
            "image_processor_type": image_processor_type,
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": self.shortest_edge or self.size} if crop else square,
            "default_to_square": not crop,
            "resample": int(Image.Resampling.BILINEAR),
            "do_center_crop": crop,
            "crop_size": square,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    @classmethod
    def from_preprocessor_config(cls, config: dict[str, Any]) -> "View":
        """Read a checkpoint's `preprocessor_config.json`.

        Raises:
            UserError: The file asks for something this view can't do (another filter, a view that is not square).
        """
        try:
            mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
            size = config["size"]
            if config.get("resample", 2) != Image.Resampling.BILINEAR:
                raise UserError(f"preprocessor_config.json: resample {config['resample']} is not 2 (bilinear)")
            if not config.get("do_center_crop"):
                height, width = (size, size) if isinstance(size, int) else (size["height"], size["width"])
                fit: Fit = "squash"
                shortest_edge = None
            else:
                crop = config["crop_size"]
                height, width = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
                fit, shortest_edge = "crop", size if isinstance(size, int) else size["shortest_edge"]
        except (KeyError, TypeError) as error:
            raise UserError(f"preprocessor_config.json is incomplete or not understood: {error}") from None
        if height != width:
            raise UserError(f"preprocessor_config.json: a view of {height} x {width} is not square")
        return cls(int(height), fit, shortest_edge if shortest_edge != height else None, mean, std)
