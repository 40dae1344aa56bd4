"""A run with all its parts, as `dogbreeds.training.train.set_up` makes it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogbreeds.training.base_run import Base
from dogbreeds.training.context import Context
from dogbreeds.training.datasets.splits import Splits
from dogbreeds.training.inputs import Features, Inputs
from dogbreeds.training.learner import Learner
from dogbreeds.training.loop import Loop
from dogbreeds.training.options import TrainConfig
from dogbreeds.training.profiling import time_record
from dogbreeds.training.saved_states import SavedStates


@dataclass(frozen=True)
class Run:
    """One run of training."""

    config: TrainConfig
    context: Context
    splits: Splits
    base: Base
    """The run that it starts from."""
    inputs: Inputs
    features: Features
    """Those of a frozen backbone."""
    learner: Learner
    loop: Loop
    saved_states: SavedStates | None
    """None for a run of which nothing is saved."""
    partial: Path
    """The folder in which the run folder is made."""
    flops_per_photo: int
    """Floating-point operations of one forward pass of the network."""
    peak: float | None
    """Floating-point operations a second that the device reaches, if that was measured."""

    def time_record(self) -> dict[str, Any]:
        """Where the time of the epochs went, and the speed that was reached."""
        # A backward pass is two forward passes, one for the inputs' gradients and one for the weights'.
        num_passes = 0 if self.inputs.head_only else 1 if self.config.model.freeze_backbone else 3
        return time_record(
            self.loop.progress.time_spent,
            self.loop.progress.num_photos,
            flops_per_photo=num_passes * self.flops_per_photo / self.context.num_processes,
            peak=self.peak,
        )
