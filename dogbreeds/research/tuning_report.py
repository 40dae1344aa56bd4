"""A study as one self-contained page: what was found, which options mattered, and every trial."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState
from optuna.visualization.matplotlib import (
    plot_optimization_history,
    plot_parallel_coordinate,
    plot_param_importances,
)

from dogbreeds.files import atomic_write
from dogbreeds.research import plots
from dogbreeds.research.document import render, to_html
from dogbreeds.tuning_folder import BEST, FINISHED, GIVEN, IDENTITY, SECONDS, TOP1, open_study

MIN_FOR_IMPORTANCE = 4
"""Complete trials from which the importance of the options is computed."""

LOSS = "validation loss"


def write_tuning_report(folder: Path, output: Path) -> None:
    """Write the page.

    Args:
        folder: A study folder with a complete trial.
        output: The HTML file; one that exists is replaced.
    """
    markdown, pictures = _content(open_study(folder))
    with FileLock(folder / "study.lock"), atomic_write(output) as temporary:  # processes may end their trials together
        temporary.write_text(to_html(markdown, pictures), encoding="utf-8")


def summary(folder: Path) -> str:
    """One line: how many trials a study has, and the best of them."""
    return _answer(open_study(folder))


def _content(study: optuna.Study) -> tuple[str, dict[str, bytes]]:
    """The report as Markdown, and its pictures by file name."""
    given = study.user_attrs[GIVEN]
    # A pruned trial has no loss to rank, though Optuna gives it that of its last epoch.
    complete = sorted(study.get_trials(states=[TrialState.COMPLETE]), key=lambda trial: trial.values)
    losses = [trial.value for trial in complete]
    pictures = {
        "history.png": _picture(lambda: plot_optimization_history(study, target_name=LOSS), log_loss=True),
        "parallel-coordinates.png": _picture(
            lambda: plot_parallel_coordinate(study, list(given), target_name=LOSS), size=(12, 5)
        ),
    }
    importance: dict[str, float] = {}
    if len(losses) >= MIN_FOR_IMPORTANCE and len(set(losses)) > 1:
        # Each option's share of the variance of the loss, by functional ANOVA (Hutter et al. 2014,
        # https://proceedings.mlr.press/v32/hutter14.html)
        evaluator = FanovaImportanceEvaluator(seed=0)
        importance = get_param_importances(study, evaluator=evaluator)
        pictures["importance.png"] = _picture(lambda: plot_param_importances(study, evaluator, target_name=LOSS))
    markdown = render(
        "tuning.md.jinja",
        answer=_answer(study),
        identity=study.user_attrs[IDENTITY],
        given=given,
        best=study.best_trial,
        best_file=BEST,
        importance=importance,
        min_for_importance=MIN_FOR_IMPORTANCE,
        trials=[*complete, *study.get_trials(states=[TrialState.PRUNED])],
        top1=TOP1,
        seconds=SECONDS,
        loss=LOSS,
    )
    return markdown, pictures


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
        return plots.in_format(figure, "png")
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
