"""A study as one self-contained page: what was found, what mattered, and every trial."""

from pathlib import Path
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from dogbreeds.files import atomic_write
from dogbreeds.research import plots
from dogbreeds.research.document import Block, Charts, Heading, LargeChart, Picture, Table, Text, to_html
from dogbreeds.study import BEST, FINISHED, GIVEN, IDENTITY, SECONDS, TOP1, open_study

MIN_FOR_IMPORTANCE = 4
"""Complete trials from which the importance of options is said."""


def write_tuning_report(folder: Path, output: Path) -> None:
    """Write the page.

    Args:
        folder: A study folder with a complete trial.
        output: The HTML file; one that is there is replaced.
    """
    with atomic_write(output) as temporary:
        temporary.write_text(to_html(content(open_study(folder))), encoding="utf-8")


def summary(folder: Path) -> str:
    """One line: how many trials a study has, and the best of them."""
    return _answer(open_study(folder))


def content(study: optuna.Study) -> list[Block]:
    """The report, block by block."""
    identity = study.user_attrs[IDENTITY]
    finished = study.get_trials(states=FINISHED)
    complete = [trial for trial in finished if trial.state is TrialState.COMPLETE]
    best = study.best_trial
    pictures = [
        Picture("history.png", plots.tuning_history(finished), "Validation loss of each trial, and the best so far.")
    ]
    importance = _importance(study, complete)
    if importance:
        ranked = ", ".join(f"{name} {share:.0%}" for name, share in importance.items())
        pictures.append(
            Picture("importance.png", plots.option_importance(importance), f"Importance of each option: {ranked}.")
        )
    return [
        Heading(f"Tuning {identity['model']}", 1),
        Text(_answer(study), prominent=True),
        Text(
            f"Searched on `{identity['data']}`, {identity['epochs']} epochs a trial, with "
            f"{identity['tune_fraction']:.0%} of the training photos. The best was chosen on the validation photos "
            "that all were judged on: its figures are slightly too good, the more so the more trials there are. No "
            "test photo was used; what the options are worth is told by the test photos, after training with them."
        ),
        Table(
            ["", "given", "found"],
            [
                [name, _number(study.user_attrs[GIVEN][name]), _number(value)]
                for name, value in _in_order(study, best.params).items()
            ],
            f"The options that were searched; all of them, with those that were not, are in `{BEST}`.",
        ),
        Heading("How the search went"),
        Charts(pictures),
        *(
            []
            if importance
            else [Text(f"Which options mattered can be said from {MIN_FOR_IMPORTANCE} complete trials on.")]
        ),
        Heading("Options and loss"),
        LargeChart(
            Picture(
                "parallel-coordinates.png",
                plots.parallel_coordinates(complete),
                "Parallel coordinates: a line for each complete trial through the value of each option to its "
                f"validation loss. The best, in orange: {_options(best)}; {best.value:.4f}.",
            )
        ),
        Heading("Every trial"),
        Table(
            ["trial", "validation loss", "top-1", "epochs", "seconds", *_names(study)],
            [_row(study, trial) for trial in sorted(finished, key=_rank)],
            "The best first. A trial was pruned because after as many epochs half of the complete ones were better, "
            "or because its loss was no number any more. Trials that were interrupted are not "
            "here: their options were tried again.",
        ),
    ]


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
        return f"{words}, which is the options as they were given."
    return f"{words}; the options as they were given have {given.value:.4f} and {given.user_attrs[TOP1]:.1%}."


def _importance(study: optuna.Study, complete: list[FrozenTrial]) -> dict[str, float]:
    """Of each option its share of the variance of the loss (functional ANOVA); empty where there is too little."""
    losses = {trial.value for trial in complete}
    if len(complete) < MIN_FOR_IMPORTANCE or len(losses) < 2:
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def _loss(trial: FrozenTrial) -> float | None:
    """After the best epoch; a pruned trial has none, though Optuna gives it that of its last epoch."""
    return trial.value if trial.state is TrialState.COMPLETE else None


def _rank(trial: FrozenTrial) -> tuple[bool, float]:
    loss = _loss(trial)
    return loss is None, trial.number if loss is None else loss


def _row(study: optuna.Study, trial: FrozenTrial) -> list[str]:
    return [
        str(trial.number),
        "pruned" if (loss := _loss(trial)) is None else f"{loss:.4f}",
        "–" if TOP1 not in trial.user_attrs else f"{trial.user_attrs[TOP1]:.1%}",
        str(len(trial.intermediate_values)),
        f"{trial.user_attrs[SECONDS]:.0f}",
        *(_number(value) for value in _in_order(study, trial.params).values()),
    ]


def _names(study: optuna.Study) -> list[str]:
    return list(study.user_attrs[GIVEN])


def _in_order(study: optuna.Study, params: dict[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in _names(study)}


def _options(trial: FrozenTrial) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in trial.params.items())


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
