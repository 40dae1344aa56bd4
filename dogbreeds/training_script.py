"""The command line of the training scripts: read the options, then train one run or several, or tune."""

import argparse
import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro

from dogbreeds.errors import UserError, one_line_errors
from dogbreeds.training.options import TrainConfig

SeedList = Annotated[tuple[str, ...], tyro.conf.arg(metavar="0,1,...")]
ConfigFile = Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE")]


def run_training_script(preset: TrainConfig, description: str | None) -> None:
    """What train_vit.py and train_cnn_baseline.py do: read the options over a preset, and train or tune."""
    with one_line_errors():
        given = _over_preset(preset, _config_file(sys.argv[1:]))

        def main(
            options: Annotated[TrainConfig, tyro.conf.arg(name="")] = given,
            config: ConfigFile = None,
            seeds: SeedList = (),
            tune: int | None = None,
            tune_fraction: float | None = None,
        ) -> None:
            """Train one run, or one for each of several seeds, or search for better options.

            Args:
                options: The options.
                config: A TOML file of options, such as tuning writes; those on the command line go before.
                seeds: Train once with each of these seeds, separated by commas, into OUTPUT_DIR-seed0 and so on, so
                    that `python -m dogbreeds compare` can tell the recipe from the luck of its seed.
                tune: Train this many short trials with other rates and regularisation (weight decay only if there is
                    one), and write the options of the best, by validation loss, with a report into OUTPUT_DIR.study.
                    The same command goes on where it was, and can be given several times at once.
                tune_fraction: Share of the training photos that each trial uses; all by default.
            """
            del config  # read above, as what the options are read over
            if tune is not None:
                _tune(options, tune, tune_fraction, seeds)
            elif tune_fraction is not None:
                raise UserError(f"--tune-fraction {tune_fraction:g}: give it with --tune")
            else:
                _train(options, seeds)

        tyro.cli(main, description=description)


def _config_file(arguments: list[str]) -> Path | None:
    """The file that --config names: it must be read before the other options, which are read over it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, nargs="?")  # without a file, it is tyro that complains
    config: Path | None = parser.parse_known_args(arguments)[0].config
    return config


def _over_preset(preset: TrainConfig, path: Path | None) -> TrainConfig:
    """What the command line is read over.

    Whether its options go together is not checked yet, because the command line may change some of them.
    """
    if path is None:
        return preset
    from dogbreeds.training.config_file import read_config_file

    values = {**vars(preset), **read_config_file(path)}
    unchecked: TrainConfig = object.__new__(TrainConfig)
    for name, value in values.items():
        object.__setattr__(unchecked, name, value)
    return unchecked


def _train(options: TrainConfig, seeds: tuple[str, ...]) -> None:
    configs = one_for_each_seed(options, seeds)
    from dogbreeds.files import partial_path
    from dogbreeds.run_folder import check_output
    from dogbreeds.training.trainer import train  # takes seconds, which --help and a mistyped option need not wait

    if seeds and options.resume:  # a series goes on where it was interrupted
        configs = [
            dataclasses.replace(each, resume=partial_path(each.output_dir).is_dir())
            for each in configs
            if not each.output_dir.exists()
        ]
    for each in configs:  # nothing is trained if one of them can't be
        check_output(each.output_dir, overwrite=each.overwrite, resume=each.resume)
    for each in configs:
        train(each)


def _tune(options: TrainConfig, num_trials: int, fraction: float | None, seeds: tuple[str, ...]) -> None:
    for flag, is_given in (("--seeds", seeds), ("--resume", options.resume), ("--overwrite", options.overwrite)):
        if is_given:
            raise UserError(f"--tune and {flag} exclude each other: leave {flag} out; a study goes on by itself")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--tune trains in one process: instead of accelerate launch, start the command several times")
    from dogbreeds.study import BEST, REPORT, study_folder
    from dogbreeds.training.tuning import tune

    if not tune(options, num_trials, 1.0 if fraction is None else fraction):
        return
    from dogbreeds.research.tuning_report import summary, write_tuning_report

    folder = study_folder(options.output_dir)
    write_tuning_report(folder, folder / REPORT)
    print(summary(folder))
    command = ["python", sys.argv[0], "--config", str(folder / BEST), "--output-dir", str(options.output_dir)]
    print(f"report: {folder / REPORT}\ntrain with what was found:\n    {shlex.join(command)}")


def one_for_each_seed(config: TrainConfig, seeds: tuple[str, ...]) -> list[TrainConfig]:
    """The same options with each of several seeds, each in a run folder of its own; without seeds the options alone.

    Raises:
        UserError: A seed is no whole number from 0 on, or is named twice.
    """
    listed = [text.strip() for entry in seeds for text in entry.split(",") if text.strip()]
    if not all(text.isdecimal() for text in listed):
        raise UserError(f"--seeds {','.join(listed)}: must be whole numbers separated by commas, such as 0,1,2")
    numbers = [int(text) for text in listed]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds {','.join(listed)}: names a seed twice")
    return [
        dataclasses.replace(
            config, seed=seed, output_dir=config.output_dir.with_name(f"{config.output_dir.name}-seed{seed}")
        )
        for seed in numbers
    ] or [config]
