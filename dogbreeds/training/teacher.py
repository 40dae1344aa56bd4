"""A finished run whose answers another one learns (Beyer et al. 2022, https://arxiv.org/abs/2106.05237)."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import AutoModelForImageClassification

from dogbreeds.errors import UserError
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.run_folder import RunFolder
from dogbreeds.training.context import Context
from dogbreeds.training.models.inspection import flops_per_photo
from dogbreeds.training.models.location import loading


class Teacher:
    """The network of a finished run, which answers what another one is given in training."""

    def __init__(self, run: RunFolder, view: Preprocessing, names: Sequence[str], context: Context) -> None:
        """Load the network.

        Args:
            run: From `dogbreeds.training.teacher_run.open_teacher`.
            view: How the pixels are normalised that it will be given.
            names: The name of each class of the other run, in order.
            context: The process of the other run.

        Raises:
            UserError: It knows other breeds, or transformers can't load it.
        """
        if run.labels != tuple(names):
            raise UserError(
                f"--teacher {run.path}: its {len(run.labels)} breeds are not the {len(names)} of the data, in their "
                "order; name a run on the same --data and --breeds"
            )
        with loading(str(run.path)):
            model = AutoModelForImageClassification.from_pretrained(
                run.path, use_safetensors=True, trust_remote_code=False
            )
        self._model = model.to(context.device, memory_format=torch.channels_last).eval()
        self._size = run.preprocessing.size
        self._temperature = run.calibration.temperature / run.record.logit_scale
        self.flops_per_photo = flops_per_photo(model, self._size)
        """Floating-point operations of one answer."""
        self._autocast = context.accelerator.autocast
        mean, std, my_mean, my_std = (
            torch.tensor(values, device=context.device)[:, None, None]
            for values in (view.mean, view.std, run.preprocessing.mean, run.preprocessing.std)
        )
        self._scale, self._shift = std / my_std, (mean - my_mean) / my_std

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Calibrated probabilities `(B, C)`, float32, of normalised pixels `(B, 3, H, W)` of any size."""
        pixels = pixels * self._scale + self._shift
        if pixels.shape[-1] != self._size:
            pixels = nn.functional.interpolate(pixels, (self._size, self._size), mode="bilinear", antialias=True)
        with self._autocast():
            logits = self._model(pixels).logits
        return (logits.float() / self._temperature).softmax(dim=1)
