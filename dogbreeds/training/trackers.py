"""The trackers that a run tells of its steps and epochs, which are accelerate's."""

from collections.abc import Iterator
from contextlib import contextmanager

from dogbreeds.errors import UserError, first_line
from dogbreeds.training.context import Context
from dogbreeds.training.options import TrainConfig

PROJECT = "dogbreeds"
"""What trackers file all runs under."""


@contextmanager
def tracking(config: TrainConfig, context: Context, run_id: str, step: int) -> Iterator[None]:
    """Start the trackers of a run, in the main process, and finish them at the end, however that comes.

    Args:
        config: The run's options, which the trackers are told.
        context: Its process; what its `accelerator.log` is told goes to them.
        run_id: The same when the run is resumed.
        step: Of the optimiser, that it continues after; 0 for a new run.

    Raises:
        UserError: One can't be started, such as Weights & Biases without a login.
    """
    known_by = {"name": f"{config.run.output_dir.name}-{run_id[:8]}", "config": config.to_dict(), "resume": "allow"}
    of_each = {
        # Steps that a killed process took after its last checkpoint are taken, and told, again
        "tensorboard": {"purge_step": step + 1},
        "trackio": known_by,
        "wandb": {**known_by, "id": run_id},
    }
    accelerator = context.accelerator
    try:
        accelerator.init_trackers(PROJECT, init_kwargs=of_each)
    except Exception as error:  # each raises its own
        raise UserError(
            f"--tracker {' '.join(config.run.tracker)} can't be started ({first_line(error)}): mend that and continue "
            "with --resume, or leave it out"
        ) from None
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()  # `end_training` would part the processes too, which train the next run of a series
