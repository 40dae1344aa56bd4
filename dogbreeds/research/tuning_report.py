"""A study as one self-contained page: what was found, which options mattered, and every trial."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization.matplotlib import (
    plot_optimization_history,
    plot_parallel_coordinate,
    plot_param_importances,
)

from dogbreeds.files import atomic_write
from dogbreeds.research import plots
from dogbreeds.research.document import Block, Charts, Heading, LargeChart, Picture, Table, Text, to_html
from dogbreeds.study import BEST, FINISHED, GIVEN, IDENTITY, SECONDS, TOP1, open_study

MIN_FOR_IMPORTANCE = 4
"""Complete trials from which the importance of the options is computed."""

LOSS = "validation loss"


def write_tuning_report(folder: Path, output: Path) -> None:
    """Write the page.

    Args:
        folder: A study folder with a complete trial.
        output: The HTML file; one that exists is replaced.
    """
    with atomic_write(output) as temporary:
        temporary.write_text(to_html(content(open_study(folder))), encoding="utf-8")


def summary(folder: Path) -> str:
    """One line: how many trials a study has, and the best of them."""
    return _answer(open_study(folder))


def content(study: optuna.Study) -> list[Block]:
    """The report, block by block."""
    identity, given = study.user_attrs[IDENTITY], study.user_attrs[GIVEN]
    best = study.best_trial
    found = [[name, _number(given[name]), _number(best.params[name])] for name in given]
    options = ", ".join(f"{name} {_number(value)}" for name, value in best.params.items())
    return [
        Heading(f"Tuning {identity['model']}", 1),
        Text(_answer(study), prominent=True),
        Text(
            f"Searched on `{identity['data']}`, {identity['epochs']} epochs a trial, with "
            f"{identity['tune_fraction']:.0%} of the training photos. The best trial was chosen on the validation "
            "photos that all trials were evaluated on: its figures are slightly too good, the more so the more trials "
            "there are. No test photo was used; the test photos show what the options are worth, after training with "
            "them."
        ),
        Table(
            ["", "given", "found"],
            found,
            f"The options that were searched; `{BEST}` holds all options, with those that were not searched.",
        ),
        *_course(study),
        Heading("Options and loss"),
        LargeChart(
            Picture(
                "parallel-coordinates.png",
                _picture(lambda: plot_parallel_coordinate(study, list(given), target_name=LOSS), size=(12, 5)),
                "Parallel coordinates: a line for each complete trial from its validation loss through the value of "
                f"each option; darker is better. The best: {options}; {best.value:.4f}.",
            )
        ),
        Heading("Every trial"),
        _trials(study),
    ]


def _course(study: optuna.Study) -> list[Block]:
    """How the loss fell, and which options it depends on where there are enough trials to say."""
    pictures = [
        Picture(
            "history.png",
            _picture(lambda: plot_optimization_history(study, target_name=LOSS), log_loss=True),
            "Validation loss of each complete trial, and the best so far.",
        )
    ]
    blocks: list[Block] = [Heading("How the search went"), Charts(pictures)]
    losses = [trial.value for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])]
    if len(losses) < MIN_FOR_IMPORTANCE or len(set(losses)) < 2:
        text = f"The importance of the options is computed from {MIN_FOR_IMPORTANCE} complete trials on."
        return [*blocks, Text(text)]
    # Each option's share of the variance of the loss, by functional ANOVA (Hutter et al. 2014,
    # https://proceedings.mlr.press/v32/hutter14.html)
    evaluator = FanovaImportanceEvaluator(seed=0)
    importance = get_param_importances(study, evaluator=evaluator)
    pictures.append(
        Picture(
            "importance.png",
            _picture(lambda: plot_param_importances(study, evaluator, target_name=LOSS)),
            "Importance of each option: " + ", ".join(f"{name} {share:.0%}" for name, share in importance.items()),
        )
    )
    return blocks


def _picture(plot: Callable[[], Any], *, size: tuple[float, float] = (6.4, 4.8), log_loss: bool = False) -> bytes:
    """A plot of Optuna's as a PNG file. Its style, its window system and its figure do not outlast the call."""
    from matplotlib import pyplot

    pyplot.switch_backend("agg")  # opens no window
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        axes = plot()
    figure = axes.figure
    figure.set_size_inches(size)
    if log_loss:
        axes.set_yscale("log")  # with some options, next to nothing is learned
    try:
        return plots.png(figure)
    finally:
        pyplot.close(figure)


def _answer(study: optuna.Study) -> str:
    finished = study.get_trials(deepcopy=False, states=FINISHED)
    pruned = sum(trial.state is TrialState.PRUNED for trial in finished)
    best = study.best_trial
    words = (
        f"{len(finished)} trials, {pruned} of them pruned: the best has a validation loss of {best.value:.4f} and a "
        f"top-1 of {best.user_attrs[TOP1]:.1%} (trial {best.number})"
    )
    given = next((trial for trial in finished if trial.params == study.user_attrs[GIVEN]), None)
    if given is None or given.state is not TrialState.COMPLETE:
        return f"{words}."
    if given.number == best.number:
        return f"{words}, which has the options as they were given."
    return f"{words}; the options as they were given have {given.value:.4f} and {given.user_attrs[TOP1]:.1%}."


def _trials(study: optuna.Study) -> Table:
    names = list(study.user_attrs[GIVEN])
    # A pruned trial has no loss to rank, though Optuna gives it that of its last epoch.
    complete = sorted(study.get_trials(states=[TrialState.COMPLETE]), key=lambda trial: trial.values)
    pruned = study.get_trials(states=[TrialState.PRUNED])
    return Table(
        ["trial", LOSS, "top-1", "epochs", "seconds", *names],
        [_row(trial, f"{trial.value:.4f}", names) for trial in complete]
        + [_row(trial, "pruned", names) for trial in pruned],
        "The best first. A trial was pruned because half of the complete trials were better after as many epochs, or "
        "because its loss was not a number. Interrupted trials are left out: their options were tried again.",
    )


def _row(trial: FrozenTrial, loss: str, names: list[str]) -> list[str]:
    return [
        str(trial.number),
        loss,
        "–" if TOP1 not in trial.user_attrs else f"{trial.user_attrs[TOP1]:.1%}",
        str(len(trial.intermediate_values)),
        f"{trial.user_attrs[SECONDS]:.0f}",
        *(_number(trial.params[name]) for name in names),
    ]


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
