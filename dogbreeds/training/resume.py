"""The folder of an unfinished run; a resumed run is the same run."""

import json
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from dogbreeds import run_folder
from dogbreeds.errors import UserError
from dogbreeds.files import partial_path, read_json, write_json
from dogbreeds.training.context import Context
from dogbreeds.training.datasets.splits import Splits
from dogbreeds.training.options import FREE_OPTIONS, TrainConfig, recorded_options


def begin_run(config: TrainConfig, context: Context, splits: Splits) -> Path:
    """The folder in which a run is made, until it is complete.

    A new run's is made by the main process, once data and model were found to be good; a resumed run's must be of the
    same options, photos and number of processes, but for more epochs.

    Raises:
        UserError: The folder can't be made, or the run to resume was begun with something else.
    """
    partial, identity, problem = partial_path(config.run.output_dir), _identity(config, context, splits), ""
    if context.is_main:
        try:
            run_folder.begin(config.run.output_dir, resume=config.run.resume)
            file = partial / run_folder.STATE / "config.json"
            if not file.exists():  # a run that was killed just after it began is resumed from its beginning
                file.parent.mkdir(exist_ok=True)
                write_json(file, identity)
        except UserError as error:
            problem = str(error)
        except OSError as error:
            problem = f"can't write in {str(partial)!r} ({error.strerror}): make room, or give another --output-dir"
    [problem] = broadcast_object_list([problem])  # the main process's, in every process
    if problem:
        raise UserError(problem)
    if config.run.resume:
        state = partial / run_folder.STATE
        try:
            then = recorded_options(read_json(state / "config.json"))
        except UserError:
            raise UserError(f"the state in {str(state)!r} can't be read: start again with --overwrite") from None
        num_epochs = then["epochs"]
        then["epochs"] = max(num_epochs, config.optim.epochs)
        for name, now in json.loads(json.dumps(identity)).items():
            if now != then.get(name):
                if name == "split_hash":
                    raise UserError(
                        "can't resume with other photos or labels: give those that the run began with, or start again "
                        "with --overwrite"
                    )
                raise UserError(
                    f"can't resume with another {name}: it was {then.get(name)!r}, now it is {now!r}; give it as it "
                    "was, or start again with --overwrite"
                )
        if config.optim.epochs != num_epochs:
            _prolong(num_epochs, config, context, state / "config.json", identity)
    return partial


def _prolong(num_epochs: int, config: TrainConfig, context: Context, file: Path, identity: dict[str, Any]) -> None:
    """Note that the run has more epochs from now on, and say what that does to it.

    Args:
        num_epochs: What it had.
        config: Now.
        context: The process.
        file: What the run was begun with.
        identity: What it goes on with.
    """
    context.say(f"the run goes on to {config.optim.epochs} epochs instead of {num_epochs}")
    if config.optim.schedule == "cosine" or config.optim.warmup_fraction:
        context.say(
            f"note: from here the learning rate is that of a run of {config.optim.epochs} epochs; the epochs before "
            f"had that of one of {num_epochs}, so the result is not what {config.optim.epochs} epochs at once give"
        )
    if context.is_main:
        write_json(file, identity)


def _identity(config: TrainConfig, context: Context, splits: Splits) -> dict[str, Any]:
    """What must be the same for a resumed run to be the same run."""
    options = {name: value for name, value in config.to_dict().items() if name not in FREE_OPTIONS}
    return {
        **options,
        # As accelerate has them, for its own configuration can set them too
        "mixed_precision": context.accelerator.mixed_precision,
        "gradient_accumulation_steps": context.accelerator.gradient_accumulation_steps,
        "num_processes": context.num_processes,
        "split_hash": splits.split_hash,
    }
