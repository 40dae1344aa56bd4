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
from dogbreeds.training.profiling import bottleneck
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
    tuning_trials: int = 0
    """See `RunRecord.tuning_trials`."""

    def time_record(self) -> dict[str, Any]:
        """Where the time of the epochs went, and the speed that was reached; empty where none was trained."""
        progress, seconds = self.loop.progress, self.loop.progress.time_spent
        if not seconds:
            return {}
        total = sum(seconds.values())
        photos_per_second_in_steps = progress.num_photos / (total - seconds["evaluation"] - seconds["saving"])
        record: dict[str, Any] = {
            "seconds": {phase: round(value, 6) for phase, value in seconds.items()},
            "photos_per_second": progress.num_photos / total,
            "photos_per_second_in_steps": photos_per_second_in_steps,
            "bottleneck": bottleneck(seconds),
        }
        if self.peak:
            # A backward pass is two forward passes, one for the inputs' gradients and one for the weights', of which
            # BitFit and VPT need none and LoRA that of some layers, which is not counted. On features that were
            # computed before, there is none through the network.
            backward = 2 if self.config.model.adapt in ("full", "lp-ft") else 1
            num_passes = 0 if self.inputs.head_only else 1 if self.config.model.freeze_backbone else 1 + backward
            teacher = self.learner.teacher
            flops = num_passes * self.flops_per_photo + (teacher.flops_per_photo if teacher else 0)
            flops_per_second = flops / self.context.num_processes * photos_per_second_in_steps
            record["measured_peak_flops"] = self.peak
            record["share_of_peak"] = flops_per_second / self.peak or None
        return record
