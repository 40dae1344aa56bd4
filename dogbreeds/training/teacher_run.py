"""The run folder of a teacher, checked without PyTorch, so that a mistake need not wait for it."""

from dogbreeds.errors import UserError
from dogbreeds.run_folder import RECORD, WEIGHTS, RunFolder
from dogbreeds.training.options import TrainConfig


def open_teacher(config: TrainConfig) -> RunFolder | None:
    """The run that `--teacher` names, checked as far as that can be done without the photos.

    Raises:
        UserError: It is no run folder, has no weights for PyTorch, or has another view of a photo.
    """
    folder = config.optim.teacher
    if folder is None:
        return None
    if not (folder / RECORD).is_file():
        raise UserError(f"--teacher {folder}: no run folder, {RECORD} is missing; name the folder of a finished run")
    run, mine = RunFolder.open(folder), config.preprocessing.build()
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"--teacher {folder}: {WEIGHTS} is missing, the weights for PyTorch; copy it too or train it again"
        )
    for step in ("fit", "grayscale", "equalize", "blur", "zca"):
        if getattr(mine, step) != getattr(run.preprocessing, step):
            raise UserError(
                f"--teacher {folder}: it has another view of a photo ({step}); give its --fit, --grayscale, --equalize "
                "and --whitening, which can't be zca"
            )
    return run
