"""The command line of the training scripts: read the options, then train one run or several, or tune."""

import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import tyro

from dogbreeds.errors import UserError, one_line_errors

if TYPE_CHECKING:
    from dogbreeds.training.options import TrainConfig


def _task_flag(kind: Any, metavar: str, description: str) -> Any:
    return Annotated[kind, tyro.conf.arg(metavar=metavar, help=description, help_behavior_hint="")]


_TASK = {
    "config": _task_flag(
        Path, "FILE", "A TOML file of options, such as tuning writes; those on the command line take precedence."
    ),
    "seeds": _task_flag(
        tuple[str, ...],
        "0,1,...",
        "Train once with each of these seeds, separated by commas, into OUTPUT_DIR-seed0 and so on, so that `python -m "
        "dogbreeds compare` can tell the recipe from the luck of its seed.",
    ),
    "tune": _task_flag(
        int,
        "TRIALS",
        "Train this many short trials with other rates and regularisation (weight decay only if there is one), and "
        "write the options of the best, by validation loss, with a report into OUTPUT_DIR.study. The same command "
        "continues the study, and several processes may run it at once.",
    ),
    "tune_fraction": _task_flag(float, "SHARE", "Share of the training photos that each trial uses; all by default."),
}
"""What to do with the options: flags of the command line that are none of `TrainConfig`."""


def run_training_script(preset: Mapping[str, Any], description: str | None) -> None:
    """What train_vit.py and train_cnn_baseline.py do: read the options over a preset, and train or tune.

    Args:
        preset: Options that hold unless a file or the command line gives others.
        description: What `--help` says above the options.
    """
    with one_line_errors():
        from dogbreeds.training.config_file import read_config_file, read_tuning_trials
        from dogbreeds.training.options import resolve

        given: dict[str, Any] = tyro.cli(
            _command_line(preset), description=description, config=(tyro.conf.OmitArgPrefixes,)
        )
        task = {name: given.pop(name) for name in _TASK if name in given}
        from_file = read_config_file(task["config"]) if "config" in task else {}
        num_trials = read_tuning_trials(task["config"]) if "config" in task else 0
        config = resolve(preset, from_file, given)
        seeds = task.get("seeds", ())
        if "tune" in task:
            _tune(config, task["tune"], task.get("tune_fraction"), seeds)
        elif "tune_fraction" in task:
            raise UserError(f"--tune-fraction {task['tune_fraction']:g}: give it with --tune")
        else:
            _train(config, seeds, num_trials)


def _command_line(preset: Mapping[str, Any]) -> Any:
    """All flags as a dictionary type, whose values are those that were given and no others."""
    from dogbreeds.training.options import OPTIONS

    def flag(name: str, kind: Any, default: Any) -> Any:
        shown = "" if default in (dataclasses.MISSING, None, ()) else f"(default: {default})"
        return Annotated[kind, tyro.conf.arg(help=OPTIONS[name].description, help_behavior_hint=shown)]

    flags = {each.name: flag(each.name, each.type, preset.get(each.name, each.default)) for each in OPTIONS.values()}
    return TypedDict("Options", {**_TASK, **flags}, total=False)  # type: ignore[operator]


def _train(config: "TrainConfig", seeds: tuple[str, ...], num_trials: int) -> None:
    configs = one_for_each_seed(config, seeds)
    _check_inputs(config)
    from dogbreeds.files import partial_path
    from dogbreeds.run_folder import RECORD, check_output
    from dogbreeds.training.locks import locked
    from dogbreeds.training.models.location import ask_hub

    if seeds and config.run.resume:  # a series is continued where it was interrupted
        done = [each for each in configs if (each.run.output_dir / RECORD).is_file()]
        for each in done:
            _check_has_these_options(each)
            print(f"the run {str(each.run.output_dir)!r} is complete")
        configs = [
            each.replace(resume=partial_path(each.run.output_dir).is_dir()) for each in configs if each not in done
        ]
    for each in configs:
        check_output(each.run.output_dir, overwrite=each.run.overwrite, resume=each.run.resume)
    for each in configs:  # nothing is trained if one of them can't be
        with locked(each.run.output_dir):
            check_output(each.run.output_dir, overwrite=each.run.overwrite, resume=each.run.resume)
    if configs:
        ask_hub(config.model.model)
    from dogbreeds.training.context import part_processes  # these take seconds, which a mistake need not wait
    from dogbreeds.training.train import train

    for each in configs:
        train(each, tuning_trials=num_trials)
    part_processes()


def _check_has_these_options(config: "TrainConfig") -> None:
    """Refuse a complete run of a series whose options were others than those of the runs to come."""
    from dogbreeds.files import read_json
    from dogbreeds.record import RunRecord
    from dogbreeds.run_folder import RECORD
    from dogbreeds.training.options import NEUTRAL_OPTIONS, recorded_options

    folder = config.run.output_dir
    then = recorded_options(RunRecord.from_json(read_json(folder / RECORD), folder).config)
    for name, now in config.to_dict().items():
        if name not in NEUTRAL_OPTIONS and then[name] != now:
            raise UserError(
                f"the complete run {str(folder)!r} has another {name}: it was {then[name]!r}, now it is {now!r}; give "
                "it as it was, or another --output-dir"
            )


def _check_inputs(config: "TrainConfig") -> None:
    """Refuse what can be refused before PyTorch is imported."""
    from dogbreeds.photos import photo_files
    from dogbreeds.training.datasets.diagnosis import Diagnosis
    from dogbreeds.training.datasets.sources import check_is_there
    from dogbreeds.training.models.location import check_model_is_there
    from dogbreeds.training.models.registry import check_has_weights
    from dogbreeds.training.teacher_run import open_teacher

    config.check_options_apply()
    check_model_is_there(config.model.model)
    check_has_weights(config.model)
    open_teacher(config)
    check_is_there(config.data.data)
    for folder in (config.data.other_photos, config.data.other_dogs):
        if folder is not None:
            photo_files(folder)
    if config.data.faults is not None:
        Diagnosis.load(config.data.faults)


def _tune(config: "TrainConfig", num_trials: int, fraction: float | None, seeds: tuple[str, ...]) -> None:
    given = {"--seeds": bool(seeds), "--resume": config.run.resume, "--overwrite": config.run.overwrite}
    for flag, is_given in given.items():
        if is_given:
            raise UserError(f"--tune and {flag} exclude each other: leave {flag} out; a study is continued by itself")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--tune trains in one process: instead of accelerate launch, start the command several times")
    _check_inputs(config)
    from dogbreeds.training.models.location import ask_hub

    ask_hub(config.model.model)
    from dogbreeds.training.tuning import tune
    from dogbreeds.tuning_folder import BEST, REPORT, tuning_folder

    if not tune(config, num_trials, 1.0 if fraction is None else fraction):
        return
    from dogbreeds.research.tuning_report import summary, write_tuning_report

    folder = tuning_folder(config.run.output_dir)
    write_tuning_report(folder, folder / REPORT)
    print(summary(folder))
    command = ["python", sys.argv[0], "--config", str(folder / BEST), "--output-dir", str(config.run.output_dir)]
    print(f"report: {folder / REPORT}\ntrain with what was found:\n    {shlex.join(command)}")


def one_for_each_seed(config: "TrainConfig", seeds: tuple[str, ...]) -> list["TrainConfig"]:
    """The same options with each of several seeds, each in a run folder of its own; without seeds the options alone.

    Raises:
        UserError: A seed is no whole number from 0 on, or is named twice.
    """
    listed = [text.strip() for entry in seeds for text in entry.split(",") if text.strip()]
    if not all(text.isdecimal() for text in listed) or (seeds and not listed):
        raise UserError(f"--seeds {','.join(listed)}: must be whole numbers separated by commas, such as 0,1,2")
    numbers = [int(text) for text in listed]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds {','.join(listed)}: names a seed twice")
    output_dir = config.run.output_dir
    return [
        config.replace(seed=seed, output_dir=output_dir.with_name(f"{output_dir.name}-seed{seed}")) for seed in numbers
    ] or [config]
