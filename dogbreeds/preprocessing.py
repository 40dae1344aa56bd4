"""From an RGB image to the pixels that a model sees, its "view" of the photo.

The evaluation in training, the command line and the page all call `Preprocessing`. It is read from the checkpoint's
`preprocessor_config.json`, in the format of transformers, so `transformers.pipeline` sees the same pixels. That format
has no fields for the steps `grayscale`, `equalize`, `blur` and `zca`. They are stored there under a key of this
project, `STEPS`, which transformers ignores: it then gives other pixels than this project.
"""

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from pydantic import Field

from dogbreeds.errors import UserError, first_line
from dogbreeds.images import halved
from dogbreeds.json_types import checked

Fit = Literal["crop", "squash"]

PREPROCESSOR = "preprocessor_config.json"
STEPS = "dogbreeds_steps"
"""The key of `preprocessor_config.json` with the steps; absent if there are none."""
MAX_SIDE = 2048
"""Of a view, pixels: its normalised pixels take 50 MB. Classifiers of photos see at most 800 or so."""
MAX_KERNEL = 31
"""Of a whitening, pixels: each of its places costs a pass over the view. Training fits 5."""
BLUR = 2 / 224
"""Standard deviation of the Gaussian blur, as a fraction of the view's side: 2 pixels of 224, the default of Pillow's
filter. It is a fraction because random views are cut from a larger copy of the photo."""

# Of pixels from 0 to 1, or from 0 to 255: nothing is far outside of that.
_Mean = Annotated[float, Field(ge=-1e3, le=1e3)]
_Std = Annotated[float, Field(ge=1e-4, le=1e3)]


@dataclass(frozen=True)
class _Numbers:
    """What a `preprocessor_config.json` says of the numbers. What this view always does must not be switched off."""

    image_mean: tuple[_Mean, _Mean, _Mean]
    image_std: tuple[_Std, _Std, _Std]
    do_resize: Literal[True] = True
    do_rescale: Literal[True] = True
    rescale_factor: Annotated[float, Field(ge=0.999 / 255, le=1.001 / 255)] = 1 / 255
    do_normalize: Literal[True] = True
    do_center_crop: bool = False


@dataclass(frozen=True, eq=False)
class Zca:
    """Convolutional ZCA whitening: removes the correlation of pixels with their neighbours and of channels.

    ZCA (Bell & Sejnowski 1997, "The independent components of natural scenes are edge filters") of whole photos would
    need a covariance matrix of 150,528 x 150,528 values. That of patches of k x k x 3 values is small. Photos have the
    same statistics everywhere, so the matrix's rows for the central pixel of a patch can whiten every pixel, as a
    convolution. `dogbreeds.training.earlier.zca` fits it.
    """

    kernel: np.ndarray
    """float32 `(3, 3, k, k)`: output channel, input channel, row, column; k is odd."""
    bias: np.ndarray
    """float32 `(3,)`: added to each output channel, which gives it a mean of about 0."""

    def __post_init__(self) -> None:
        side = self.kernel.shape[-1] if self.kernel.ndim == 4 else 0
        if self.kernel.shape != (3, 3, side, side) or side % 2 == 0 or self.bias.shape != (3,):
            raise ValueError(f"a zca kernel of the shape {self.kernel.shape} with a bias of {self.bias.shape}")
        if not (np.isfinite(self.kernel).all() and np.isfinite(self.bias).all()):
            raise ValueError("a zca kernel that is not finite")
        if side > MAX_KERNEL:
            raise ValueError(f"a zca kernel of {side} pixels, more than {MAX_KERNEL}")
        assert self.kernel.dtype == self.bias.dtype == np.float32, (self.kernel.dtype, self.bias.dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Zca):
            return NotImplemented
        return np.array_equal(self.kernel, other.kernel) and np.array_equal(self.bias, other.bias)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Whiten normalised pixels, float32 `(3, H, W)` to the same shape; the outermost pixels pad the edges."""
        _, height, width = pixels.shape
        side = self.kernel.shape[-1]
        padded = np.pad(pixels, ((0, 0), *[(side // 2, side // 2)] * 2), mode="edge")
        # One small product for each position of the kernel: a large one would copy every pixel k x k times first.
        whitened = np.repeat(self.bias[:, None], height * width, axis=1)
        for row, column in np.ndindex(side, side):
            part = padded[:, row : row + height, column : column + width].reshape(3, -1)
            whitened += self.kernel[:, :, row, column] @ part
        return whitened.reshape(pixels.shape)

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return {"kernel": self.kernel.tolist(), "bias": self.bias.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Zca":
        """The inverse of `to_dict`.

        Raises:
            ValueError: A value is missing or no number, or the shapes are not those of a kernel and its bias.
        """
        try:
            return cls(np.asarray(values["kernel"], np.float32), np.asarray(values["bias"], np.float32))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"zca is incomplete or not understood: {error}") from None


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the pixels that a model sees."""

    size: int = 224
    """Height and width of the view, pixels."""
    fit: Fit = "crop"
    """``crop``: the shorter side is scaled to `shortest_edge` and the centre is cropped; ``squash``: both sides are
    scaled to `size`, whatever the photo's aspect ratio."""
    shortest_edge: int | None = None
    """With ``crop``, the length to which the shorter side is scaled, pixels; None means `size`."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    grayscale: bool = False
    """Whether all three channels are the luma of ITU-R BT.601, as in Pillow's mode ``L``."""
    equalize: bool = False
    """Whether the histogram of the luma (Y of YCbCr) is equalised. Colours stay: Pillow's `ImageOps.equalize` of RGB
    equalises each channel, which would change the colour of a coat (Gonzalez & Woods, Digital Image Processing, 3rd
    ed., section 6.5.4)."""
    blur: bool = False
    """Whether the view is blurred with a Gaussian; see `BLUR`."""
    zca: Zca | None = None
    """The whitening of the normalised pixels, if any."""

    def __post_init__(self) -> None:
        assert self.fit in ("crop", "squash"), self.fit
        for side in (self.size, self.size if self.shortest_edge is None else self.shortest_edge):
            if type(side) is not int or not 1 <= side <= MAX_SIDE:
                raise UserError(f"a view of {reprlib.repr(side)} pixels: must be a whole number from 1 to {MAX_SIDE}")
        if self.shortest_edge is not None and self.shortest_edge < self.size:
            raise UserError(f"a view of {self.size} pixels can't be cut from a shortest edge of {self.shortest_edge}")

    def __call__(self, image: Image.Image, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
        """Turn an RGB image into normalised pixels.

        Args:
            image: An upright RGB image, from `dogbreeds.images.open_image`.
            box: The part of it to see, as from `region`, which is the default.

        Returns:
            float32 array `(3, size, size)`, channels R, G, B: values of 0..1 less `mean`, divided by `std`, and then
            whitened if there is a `zca`.
        """
        cut = self.cut(image, box)
        pixels = np.empty((3, self.size, self.size), dtype=np.float32)
        for channel, (scale, shift) in enumerate(zip(*self.scale_and_shift(), strict=True)):
            np.multiply(cut[..., channel], scale, out=pixels[channel], dtype=np.float32)
            pixels[channel] -= shift
        return self.zca(pixels) if self.zca else pixels

    def cut(self, image: Image.Image, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
        """Crop and scale an upright RGB image to uint8 `(size, size, 3)`, before it is normalised.

        Without a box, a photo is first halved to `decoded_side`, if `open_image` has not done so: how it was opened
        changes nothing. With one, which is in the image's own pixels, the caller has done so.
        After the scaling `grayscale`, `equalize` and `blur` follow, in this order. (Training with random views keeps
        the whole photo, with ``squash`` and the same steps: there they apply to the whole photo, before the random
        crop.)
        """
        assert image.mode == "RGB", f"the view takes RGB images, not {image.mode}"
        if box is None:
            image = halved(image, self.decoded_side)
            box = self.region(image.width, image.height)
        # The same pixels as from scaling the whole photo and then cropping, in one step that does less.
        view = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if self.grayscale:
            view = view.convert("L").convert("RGB")
        if self.equalize:
            luma, *colours = view.convert("YCbCr").split()
            view = Image.merge("YCbCr", (ImageOps.equalize(luma), *colours)).convert("RGB")
        if self.blur:
            view = view.filter(ImageFilter.GaussianBlur(BLUR * self.size))
        return np.asarray(view)

    @property
    def decoded_side(self) -> int:
        """The length, in pixels, that the shorter side of a decoded photo keeps: twice what it is scaled to.

        With this factor, a photo that was reduced in decoding looks the same after scaling; Pillow's `thumbnail` has
        the same default (`reducing_gap=2.0`).
        """
        return 2 * (self.shortest_edge or self.size)

    @property
    def geometry(self) -> dict[str, Any]:
        """The parameters of `cut`: with the same ones it gives the same pixels, whatever the normalisation."""
        return {"size": self.size, "fit": self.fit, "shortest_edge": self.shortest_edge, **self._8bit_steps}

    @property
    def _8bit_steps(self) -> dict[str, bool]:
        """The steps of `cut` that are on."""
        steps = {"grayscale": self.grayscale, "equalize": self.equalize, "blur": self.blur}
        return {name: True for name, is_done in steps.items() if is_done}

    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """The normalisation of 8-bit values, two `(3,)` float32: multiply by the first, subtract the second."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return 1.0 / (255.0 * std), mean / std

    def region(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a photo of this size that the model sees: left, top, right, bottom, in the photo's pixels."""
        if self.fit == "squash":
            return 0.0, 0.0, float(width), float(height)
        # transformers scales to whole pixels and crops at a whole pixel; this is where that crop lies in the photo.
        shortest_edge = self.shortest_edge or self.size
        scaled = [int(shortest_edge * side / min(width, height)) for side in (width, height)]
        starts = [(side - self.size) // 2 for side in scaled]
        (left, right), (top, bottom) = (
            (start * side / whole, (start + self.size) * side / whole)
            for start, side, whole in zip(starts, (width, height), scaled, strict=True)
        )
        return left, top, right, bottom

    def to_preprocessor_config(self, image_processor_type: str) -> dict[str, Any]:
        """The same view for `transformers.AutoImageProcessor`, except for the steps under `STEPS`, which it ignores.

        So `transformers.pipeline` gives a model that was trained with any of those steps other pixels than in training.

        Args:
            image_processor_type: The transformers class that belongs to the model, such as ``ViTImageProcessor``.
        """
        square = {"height": self.size, "width": self.size}
        crop = self.fit == "crop"
        steps = {**self._8bit_steps, **({"zca": self.zca.to_dict()} if self.zca else {})}
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
            **({STEPS: steps} if steps else {}),
        }

    def to_timm_config(self) -> dict[str, Any]:
        """The same view as the keys of `pretrained_cfg`, from which timm and transformers' TimmWrapper build theirs.

        Where the crop can't lie in the middle, theirs may lie one pixel beside this one.
        """
        # They scale to floor(size / crop_pct): the half keeps a rounding error from losing a pixel.
        edge = self.shortest_edge or self.size
        return {
            "input_size": [3, self.size, self.size],
            "interpolation": "bilinear",
            "crop_pct": 1.0 if edge == self.size else self.size / (edge + 0.5),
            "crop_mode": "squash" if self.fit == "squash" else "center",
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_preprocessor_config(cls, config: dict[str, Any], file: Path = Path(PREPROCESSOR)) -> "Preprocessing":
        """Read a run's `preprocessor_config.json`.

        Args:
            config: The file's content.
            file: It, to name its folder in errors.

        Raises:
            UserError: The file is damaged, or asks for something this view can't do (another filter, a view that is not
                square, a step that is not known).
        """
        numbers = checked(_Numbers, config, file)
        try:
            return cls._from_numbers(config, numbers)
        except UserError as error:
            raise UserError(f"{str(file)!r} can't be used: {error}") from None

    @classmethod
    def _from_numbers(cls, config: dict[str, Any], numbers: _Numbers) -> "Preprocessing":
        try:
            size = config["size"]
            if config.get("resample", 2) != Image.Resampling.BILINEAR:
                raise UserError(f"its resample {reprlib.repr(config['resample'])} is not 2 (bilinear)")
            is_cropped = numbers.do_center_crop
            view = config["crop_size"] if is_cropped else size
            height, width = (view, view) if isinstance(view, int) else (view["height"], view["width"])
            shortest_edge = size if isinstance(size, int) or not is_cropped else size["shortest_edge"]
        except (KeyError, TypeError) as error:
            raise UserError(f"it is incomplete or not understood: {first_line(error)}") from None
        if shortest_edge is None:
            raise UserError("it is incomplete: its size has no shortest_edge")
        if height != width:
            raise UserError(f"a view of {height!r:.20} x {width!r:.20} is not square")
        steps = _read_steps(config.get(STEPS, {}))
        fit: Fit = "crop" if is_cropped else "squash"
        edge = shortest_edge if is_cropped and shortest_edge != height else None
        return cls(height, fit, edge, numbers.image_mean, numbers.image_std, **steps)


def _read_steps(values: Any) -> dict[str, Any]:
    """The steps of a `preprocessor_config.json`, as the fields of a `Preprocessing`."""
    if not isinstance(values, dict):
        raise UserError(
            f"its {STEPS} is {reprlib.repr(values)}, not an object of steps; copy the run folder again or train again"
        )
    steps = dict(values)
    for name, value in values.items():
        try:
            if name == "zca":
                steps[name] = Zca.from_dict(value)
            elif name not in ("grayscale", "equalize", "blur") or not isinstance(value, bool):
                raise ValueError(f"{name} {reprlib.repr(value)} is no step that this version knows")
        except ValueError as error:
            raise UserError(f"its {STEPS}: {first_line(error)}; copy the run folder again or train again") from None
    return steps
