"""The search for better options: short runs, each with options that Optuna proposes, judged on the validation photos.

A study is a folder that any number of processes work on, each with one trial at a time. The system releases the lock of
a trial that was interrupted in whatever way: its options are tried again.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.trial import TrialState

from dogbreeds.errors import UserError, first_line
from dogbreeds.training.config_file import write_config_file
from dogbreeds.training.datasets.splits import Splits, load_data, with_part_of_training
from dogbreeds.training.inputs import Features
from dogbreeds.training.loop import Diverged, Row
from dogbreeds.training.models.build import build_model
from dogbreeds.training.models.checkpoint import open_checkpoint
from dogbreeds.training.models.registry import ARCHITECTURES, is_plain_cnn, is_pretrained
from dogbreeds.training.options import FREE_OPTIONS, TrainConfig, recorded_options
from dogbreeds.training.train import fit, set_up
from dogbreeds.tuning_folder import BEST, FINISHED, GIVEN, IDENTITY, SECONDS, TOP1, open_study, tuning_folder

_CLASSIFIER: dict[str, FloatDistribution] = {
    "head_learning_rate": FloatDistribution(1e-4, 3e-2, log=True),
    "weight_decay": FloatDistribution(1e-4, 0.3, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
    "label_smoothing": FloatDistribution(0.0, 0.2),
}

_FROM_SCRATCH: dict[str, FloatDistribution] = {"learning_rate": FloatDistribution(1e-4, 1e-2, log=True), **_CLASSIFIER}

SPACES: dict[str, dict[str, FloatDistribution]] = {
    "frozen backbone": _CLASSIFIER,
    "fine-tuning": {"learning_rate": FloatDistribution(3e-6, 1e-3, log=True), **_CLASSIFIER},
    "few weights": {"learning_rate": FloatDistribution(1e-4, 1e-2, log=True), **_CLASSIFIER},
    "from scratch": _FROM_SCRATCH,
    "plain CNN": {**_FROM_SCRATCH, "conv_dropout": FloatDistribution(0.0, 0.5)},
}
"""What is searched: options and their ranges, for a way of training. A range is widened to the value that is given; an
option that is searched on a logarithmic scale and given as 0 stays 0."""

MIN_TRIALS = 5
"""Trials drawn at random before the others are guided by them, and complete ones before another is compared with their
median and pruned. Optuna's own 10 would leave little of a small study to guide."""
FIRST_PRUNED = 2
"""Epochs after which a trial can be pruned first: in the one before, the learning rate still rises."""


def space_of(config: TrainConfig) -> dict[str, FloatDistribution]:
    """The options that are searched for a model, with their ranges."""
    if config.model.freeze_backbone:
        kind = "frozen backbone"
    elif config.model.adapt in ("bitfit", "lora", "vpt"):
        kind = "few weights"
    elif is_plain_cnn(config.model.model):
        kind = "plain CNN"
    else:
        kind = "fine-tuning" if is_pretrained(config.model.model, config.model.from_scratch) else "from scratch"
    ranges = dict(SPACES[kind])
    if config.optim.teacher is not None:
        del ranges["label_smoothing"]  # there are no labels
    given = given_options(config, ranges)
    return {
        name: FloatDistribution(min(each.low, given[name]), max(each.high, given[name]), log=each.log)
        for name, each in ranges.items()
        if given[name] or not each.log
    }


def given_options(config: TrainConfig, names: Iterable[str]) -> dict[str, float]:
    """What the first trial has of these options: what is given, or else the architecture's own."""
    options = config.to_dict()
    if options["conv_dropout"] is None and "conv_dropout" in names:
        options["conv_dropout"] = ARCHITECTURES[config.model.model]().conv_dropout
    return {name: options[name] for name in names}


def tune(config: TrainConfig, num_trials: int, fraction: float = 1.0) -> bool:
    """Search until a study has this many finished trials, and write its best options.

    The objective is the validation loss after a trial's best epoch, as it chooses the best epoch of a run too: top-1
    moves by chance on a small validation split, more than most options move it, while the loss sees every probability.
    It is taken before calibration, which favours options that leave the probabilities as sure as they should be: label
    smoothing has to earn more than it costs.
    Test photos are decoded with the others, to keep the splits disjoint, and then put aside.

    Args:
        config: The options. Those that are searched are the first trial.
        num_trials: Complete or pruned, by all processes together.
        fraction: Share of the training photos that a trial uses.

    Returns:
        Whether all are finished; other processes may have the last of them.

    Raises:
        UserError: A number is out of range, the data or model can't be had, or the study is one of other options or
            can't be written.
    """
    if num_trials < 1:
        raise UserError(f"--tune {num_trials}: must be 1 or more")
    if not 0 < fraction <= 1:
        raise UserError(f"--tune-fraction {fraction:g}: must be above 0 and at most 1")
    config.check_options_apply()
    checkpoint = open_checkpoint(config.model.model)
    splits = with_part_of_training(load_data(config), fraction, config.run.seed)
    # Before there is a study, whose options could not be changed any more
    build_model(config.model, config.preprocessing.image_size, splits.names, checkpoint)
    splits, features = replace(splits, test=None), Features()
    print(
        f"{len(splits.names)} breeds: each trial has {len(splits.train)} training and {len(splits.validation)} "
        "validation photos"
    )

    folder, space = tuning_folder(config.run.output_dir), space_of(config)
    more = {"tune_fraction": fraction, "split_hash": splits.split_hash}
    with _can_be_written(folder):
        study, lock = _begin_or_continue(folder, config, space, more)
        while True:
            with lock:
                claimed = _claim(study, folder, space, num_trials, config.run.seed)
            if claimed is None:
                break
            trial, trial_lock = claimed
            try:
                _run_trial(study, trial, config, splits, features)
                finished = study.get_trials(deepcopy=False, states=FINISHED)
                print(_line(study.trials[trial.number], finished, num_trials), flush=True)
            finally:
                _release(trial_lock)
        with lock:
            finished = study.get_trials(deepcopy=False, states=FINISHED)
            if len(finished) < num_trials:
                print(f"{len(finished)} of {num_trials} trials are finished; the others run in other processes")
                return False
            _write_best(study, folder, config)
    return True


@contextmanager
def _can_be_written(folder: Path) -> Iterator[None]:
    """Turn what writing a study may raise, as on a full disk, into one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(
            f"can't write the study {str(folder)!r} ({reason}): mend that; the same command continues it"
        ) from None


def _begin_or_continue(
    folder: Path, config: TrainConfig, space: dict[str, FloatDistribution], more: dict[str, Any]
) -> tuple[optuna.Study, FileLock]:
    """Create the study of a folder, or check that the one there is of the same options; the study and its lock."""
    options = {key: value for key, value in config.to_dict().items() if key not in FREE_OPTIONS}
    searched = {f"range of {name}": distribution_to_json(distribution) for name, distribution in space.items()}
    identity = json.loads(json.dumps({**options, **more, **searched}))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't make the folder {str(folder)!r}: {error.strerror}") from None
    lock = FileLock(folder / "study.lock")
    with lock:
        study = open_study(folder)
        if IDENTITY not in study.user_attrs:
            given = given_options(config, space)
            study.set_user_attr(GIVEN, given)
            study.enqueue_trial(given)
            study.set_user_attr(IDENTITY, identity)  # last, so that a study without it is begun again
        then = study.user_attrs[IDENTITY]
    then = {name: value for name, value in recorded_options(then).items() if name in then or name in identity}
    for key in {**then, **identity}:
        if (before := then.get(key)) != (now := identity.get(key)):
            raise UserError(
                f"the study {str(folder)!r} has another {key}: it was {before!r}, now it is {now!r}; give another "
                "--output-dir, or remove the study"
            )
    return study, lock


def _claim(
    study: optuna.Study, folder: Path, space: dict[str, FloatDistribution], num_trials: int, seed: int
) -> tuple[optuna.Trial, FileLock] | None:
    """The next trial with its lock, or None where all are finished or at work; for one process at a time."""
    at_work = 0
    for running in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        lock = _trial_lock(folder, running.number)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            at_work += 1
            continue
        study.enqueue_trial(running.params)  # its process is no more
        study.tell(running.number, state=TrialState.FAIL)
        _release(lock)
    if len(study.get_trials(deepcopy=False, states=FINISHED)) + at_work >= num_trials:
        return None
    # By the number of trials, so that a study that was interrupted goes on as if it had not been.
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=MIN_TRIALS, seed=seed + len(study.trials))
    trial = study.ask(dict(space))
    lock = _trial_lock(folder, trial.number)
    lock.acquire()
    return trial, lock


def _run_trial(
    study: optuna.Study, trial: optuna.Trial, config: TrainConfig, splits: Splits, features: Features
) -> None:
    """Train with the options of a trial, of which only its validation losses are kept, and report them to the study.

    Args:
        study: The study.
        trial: One of it, with the options to try.
        config: All other options.
        splits: The data.
        features: Of a frozen backbone, which no option that is searched changes.
    """
    history: list[Row] = []

    def after_epoch(row: Row) -> None:
        history.append(row)
        epoch = int(row["epoch"])
        trial.report(row["validation_loss"], epoch)
        if epoch < config.optim.epochs and pruner().prune(study, study.trials[trial.number]):
            raise optuna.TrialPruned

    started = time.perf_counter()
    output_dir = tuning_folder(config.run.output_dir) / f"trial-{trial.number}"
    nothing_else = {"tracker": (), "measure_peak": False, "checkpoint_minutes": 0.0}
    options: dict[str, Any] = {**trial.params, **nothing_else, "output_dir": output_dir}
    try:
        fit(set_up(config.replace(**options), splits=splits, features=features, saves=False, quiet=True), after_epoch)
        state = TrialState.COMPLETE
    except (optuna.TrialPruned, Diverged):  # options with which nothing is learned are tried, and bad
        state = TrialState.PRUNED
    except SystemExit:
        print("stopped by SIGTERM: the same command tries this trial's options again, and continues", file=sys.stderr)
        raise
    best = min(history, key=lambda row: row["validation_loss"], default=None)
    trial.set_user_attr(SECONDS, round(time.perf_counter() - started, 1))
    if best:
        trial.set_user_attr(TOP1, best["validation_top1"])
    study.tell(trial, best["validation_loss"] if best and state is TrialState.COMPLETE else None, state)


def pruner() -> optuna.pruners.BasePruner:
    """What ends a trial early: a loss, so far, above the median of the complete trials' after as many epochs."""
    return optuna.pruners.MedianPruner(n_startup_trials=MIN_TRIALS, n_warmup_steps=FIRST_PRUNED)


def _trial_lock(folder: Path, number: int) -> FileLock:
    return FileLock(folder / f"trial-{number}.lock")


def _release(lock: FileLock) -> None:
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)


def _line(trial: optuna.trial.FrozenTrial, finished: list[optuna.trial.FrozenTrial], num_trials: int) -> str:
    """What is said of a finished trial."""
    complete = {other.number: other.values[0] for other in finished if other.state is TrialState.COMPLETE}
    if trial.state is TrialState.COMPLETE:
        how = f"validation loss {trial.value:.4f}, top-1 {trial.user_attrs[TOP1]:.1%}"
    elif trial.intermediate_values:
        epoch = max(trial.intermediate_values)
        how = f"pruned after epoch {epoch} at {trial.intermediate_values[epoch]:.4f}"
    else:
        how = "pruned: the loss is no number any more"
    options = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
    best = " (best so far)" if trial.number in complete and trial.value == min(complete.values()) else ""
    seconds = trial.user_attrs[SECONDS]
    return f"trial {trial.number}, {len(finished)} of {num_trials} finished: {how}{best}, {seconds:.0f} s; {options}"


def _write_best(study: optuna.Study, folder: Path, config: TrainConfig) -> None:
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise UserError(
            "no trial of the study was completed: in each the loss was no number any more; look at the data"
        )
    best = study.best_trial
    found = f"Found by --tune: trial {best.number}, validation loss {best.value:.4f}"
    num_trials = len(study.get_trials(deepcopy=False, states=FINISHED))
    write_config_file(folder / BEST, config.replace(**best.params), best.params, found, num_trials)
