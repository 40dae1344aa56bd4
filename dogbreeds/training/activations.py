"""What each layer of a network makes of photos."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from dogbreeds.images import open_image
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.training.models.inspection import blocks_of


@dataclass(frozen=True)
class Activations:
    """Those of a batch of B photos, float32."""

    layers: list[np.ndarray]
    """The output of each of `blocks_of` the model: maps `(B, C, H, W)`, or tokens `(B, N, C)`."""
    attentions: list[np.ndarray]
    """Of each layer, `(B, heads, N, N)`; empty where the model has none, or does not tell."""


def activations(
    model: PreTrainedModel, preprocessing: Preprocessing, photos: Iterable[Sequence[Path]]
) -> Iterator[Activations]:
    """Run a network on batches of photos, on a GPU if there is one.

    Args:
        model: From `dogbreeds.training.backbones.load_backbone`, as the next.
        preprocessing: What it sees of a photo.
        photos: Batches of files that can be read.
    """
    attends = hasattr(model.config, "num_attention_heads")
    if attends:
        model.set_attn_implementation("eager")  # the others do not say what they attend to
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model.eval().to(device)
    for batch in photos:
        pixels = np.stack([preprocessing(open_image(photo, at_least=preprocessing.decoded_side)) for photo in batch])
        yield _of_batch(model, torch.from_numpy(pixels).to(device), attends)


@torch.no_grad()
def _of_batch(model: PreTrainedModel, pixels: torch.Tensor, attends: bool) -> Activations:
    blocks = blocks_of(model)
    found: dict[str, np.ndarray] = {}

    def keep(name: str, output: Any) -> None:
        found[name] = _to_numpy(output[0] if isinstance(output, tuple) else output)

    def hook_of(name: str) -> Any:
        return lambda module, inputs, output: keep(name, output)

    with ExitStack() as hooks:
        for name, block in blocks.items():
            hooks.enter_context(block.register_forward_hook(hook_of(name)))
        outputs = model(pixel_values=pixels, **({"output_attentions": True} if attends else {}))
    attentions = getattr(outputs, "attentions", None) or ()
    return Activations([found[name] for name in blocks], [_to_numpy(each) for each in attentions])


def _to_numpy(values: torch.Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
