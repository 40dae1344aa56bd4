"""The run that another one starts from, and that no photo is held out now that it or a teacher was trained on."""

from dataclasses import dataclass, field
from pathlib import Path

from dogbreeds.errors import UserError
from dogbreeds.files import read_json
from dogbreeds.record import BaseRun, RunRecord
from dogbreeds.run_folder import RECORD
from dogbreeds.split_file import SPLITS, load_trained_on
from dogbreeds.training.context import Context
from dogbreeds.training.datasets.splits import Splits
from dogbreeds.training.models.checkpoint import base_run_folder
from dogbreeds.training.options import TrainConfig, recorded_options


@dataclass(frozen=True)
class Base:
    """What a run knows of the run that it starts from."""

    record: BaseRun | None = None
    """For run.json; None where it starts from no run."""
    trained_on: dict[str, str] = field(default_factory=dict)
    """By digest, the breed of each photo that the weights, or the teacher's, were trained on; as far as is known."""


def find_base(config: TrainConfig, context: Context, splits: Splits, *, remedy: str | None = None) -> Base:
    """The run whose folder, here or on the Hub, `--model` names.

    Differences in what the two runs see of a photo are printed.

    Args:
        config: All options.
        context: The process.
        splits: The photos.
        remedy: What to do about a leak; by default which options of training to give.

    Raises:
        UserError: It, or the teacher, was trained on photos that are held out here.
    """
    name, teacher = config.model.model, config.optim.teacher
    before: dict[str, str] = {}
    if teacher is not None:
        _, before = _without_held_out(str(teacher), teacher, context, splits, remedy)
    folder = None if config.model.from_scratch else base_run_folder(name)
    if folder is None:
        return Base(trained_on=before)
    record, trained_on = _without_held_out(name, folder, context, splits, remedy)
    mine = config.to_dict()
    for option in vars(config.preprocessing):
        if (theirs := record.config.get(option, mine[option])) != mine[option]:
            context.say(f"note: {name!r} was trained with {option} {theirs!r}, this run with {mine[option]!r}")
    return Base(BaseRun(record.command, record.seconds, record.data.split_hash), {**before, **trained_on})


def _without_held_out(
    name: str, folder: Path, context: Context, splits: Splits, remedy: str | None
) -> tuple[RunRecord, dict[str, str]]:
    """The record of a run, and the photos that it was trained on, of which none is held out here."""
    record = RunRecord.from_json(read_json(folder / RECORD), folder)
    stored = load_trained_on(folder / SPLITS)
    trained_on = stored or {}
    same_data = record.data.fingerprint == splits.fingerprint
    held_out = {digest for split in splits.held_out for digest in splits[split].digests.tolist()}
    # A run of a version that did not store its split has the hashes alone.
    another_split = not stored and same_data and record.data.split_hash != splits.split_hash
    if another_split or not held_out.isdisjoint(trained_on):
        then = recorded_options(record.config)
        options = (
            f"give the --split-seed ({then['split_seed']}), --near-duplicates ({then['near_duplicates']}), --faults "
            f"({then['faults'] or 'none'}), --validation-fraction and --test-fraction that it was trained with"
            + ("" if same_data else ", and the same --data and --breeds")
        )
        raise UserError(f"the run {name!r} was trained on photos that are held out here: {remedy or options}")
    if not stored and not same_data:
        context.say(f"note: {name!r} does not say which photos it was trained on; some may be held out here")
    return record, trained_on
