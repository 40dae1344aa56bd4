"""A pre-trained checkpoint: its config, its labels, and the pixel format that it was trained on."""

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoImageProcessor, PreTrainedConfig
from transformers.utils import cached_file

import dogbreeds.training.earlier.convnet  # noqa: F401  # makes transformers know it
from dogbreeds.errors import UserError, first_line
from dogbreeds.hub import HubId, announce, download
from dogbreeds.run_folder import PREPROCESSOR, RECORD
from dogbreeds.split_file import SPLITS
from dogbreeds.training.models.adapters import without_teacher
from dogbreeds.training.models.location import check_model_is_there, loading
from dogbreeds.training.models.registry import ARCHITECTURES, CHECKPOINTS, resolve_model

DEFAULT_SIZE = 224
"""Height and width of what a network sees of which nothing else is known, pixels."""


@dataclass(frozen=True)
class InputFormat:
    """How red, green and blue from 0 to 1 are normalised for a checkpoint."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    is_bgr: bool = False
    """Whether the channels are in the order blue, green, red."""


class Checkpoint:
    """A checkpoint on the Hub or in a folder, whose files are read when they are first needed, and once."""

    def __init__(self, source: str) -> None:
        """Name the checkpoint.

        Args:
            source: A Hub id or a folder.
        """
        self.source = source

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The checkpoint's own config, with its own labels in `id2label`.

        Raises:
            UserError: There is no such checkpoint, or transformers can't read it.
        """
        with loading(self.source):
            return without_teacher(AutoConfig.from_pretrained(self.source, trust_remote_code=False))

    @cached_property
    def input_format(self) -> InputFormat:
        """What the checkpoint's own image processor does to pixels, measured on black, white and red.

        The numbers in its file are not enough: some processors normalise twice (EfficientNet), or not at all and
        reverse the channels (MobileViT).

        Raises:
            UserError: transformers does not understand the checkpoint's preprocessor_config.json.
        """
        if self._processed is None:
            facts = self._timm_facts
            return InputFormat(tuple(facts.get("mean", InputFormat.mean)), tuple(facts.get("std", InputFormat.std)))
        black, white, red = self._processed[:, :, self._processed.shape[2] // 2, self._processed.shape[3] // 2]
        std = 1 / (white - black)
        mean = -black * std
        return InputFormat(_rounded(mean), _rounded(std), is_bgr=bool(red[2] == white[2] and red[0] == black[0]))

    @cached_property
    def image_size(self) -> int:
        """Height and width of what the checkpoint was trained to see, pixels: what its own image processor gives.

        Raises:
            UserError: As of `input_format`.
        """
        if self._processed is not None:
            return int(self._processed.shape[-1])
        size = self._timm_facts.get("input_size") or getattr(self.config, "image_size", None) or DEFAULT_SIZE
        size = size[-1] if isinstance(size, list | tuple) else size
        return size if isinstance(size, int) else DEFAULT_SIZE

    @property
    def _timm_facts(self) -> dict[str, Any]:
        """What a checkpoint of timm has in its config.json; others have nothing there."""
        return getattr(self.config, "pretrained_cfg", None) or {}

    @cached_property
    def _processed(self) -> np.ndarray | None:
        """What the own image processor makes of black, white and red: `(3, 3, H, W)`; None where there is none."""
        if not _has_file(self.source, PREPROCESSOR):
            return None
        colours = ((0, 0, 0), (255, 255, 255), (255, 0, 0))
        photos = [np.full((DEFAULT_SIZE, DEFAULT_SIZE, 3), colour, np.uint8) for colour in colours]
        try:
            # The file is named, because transformers would read the config.json of a run on a network of timm instead.
            processor = AutoImageProcessor.from_pretrained(
                self.source, image_processor_filename=PREPROCESSOR, trust_remote_code=False
            )
            pixels = np.asarray(processor(photos, return_tensors="np")["pixel_values"], np.float64)
            if pixels.ndim != 4:
                raise ValueError(f"it gives pixels of the shape {pixels.shape}")
        except Exception as error:  # each processor raises its own
            raise UserError(f"the {PREPROCESSOR} of {self.source!r} is not understood: {first_line(error)}") from None
        return pixels


def open_checkpoint(model: str) -> Checkpoint | None:
    """The checkpoint that `--model` names, with its config read; None for an architecture, which has no weights.

    So that a mistake is told before photos are decoded.

    Raises:
        UserError: There is no such checkpoint, or transformers can't read its config.
    """
    if model in ARCHITECTURES:
        return None
    check_model_is_there(model)
    source = resolve_model(model)
    if not Path(source).is_dir():
        if "/" not in source:
            near = difflib.get_close_matches(model, [*CHECKPOINTS, *ARCHITECTURES], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "dogbreeds/docs/training.md lists the names"
            raise UserError(f"the model {model!r} is no folder here, and no name of this project or of timm: {hint}")
        announce(source)
    checkpoint = Checkpoint(source)
    _ = checkpoint.config
    return checkpoint


def base_run_folder(model: str) -> Path | None:
    """The run that a training starts from, if `--model` names one: a local run folder, or one published on the Hub.

    Args:
        model: As `--model`.

    Returns:
        A folder with the run's run.json, and its splits.parquet if it has one. For a run on the Hub it holds only these
        two files, so `RunFolder.open` can't open it. None for any other checkpoint and for architectures.

    Raises:
        UserError: A model on the Hub can't be reached, and is not in the local cache.
    """
    folder, hub_id = Path(model), HubId.parse(model)
    if not folder.is_dir() and hub_id and model not in ARCHITECTURES and model not in CHECKPOINTS:
        folder, _ = download(hub_id, (RECORD, SPLITS))
    return folder if (folder / RECORD).is_file() else None


def _rounded(values: np.ndarray) -> tuple[float, float, float]:
    """As in the checkpoint's file, without the rounding errors of float32."""
    red, green, blue = (round(float(value), 6) + 0.0 for value in values)  # no -0.0
    return red, green, blue


def _has_file(source: str, name: str) -> bool:
    try:
        return cached_file(source, name) is not None
    except OSError:
        return False
