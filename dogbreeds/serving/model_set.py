"""The models of a page: one answers by its name, or all answer the same photo."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dogbreeds.answers import Answer
from dogbreeds.errors import UserError
from dogbreeds.run_folder import unique_names
from dogbreeds.serving.batching import BatchingPredictor
from dogbreeds.serving.ensemble import SHIPPED_ENSEMBLE, Ensemble, model_hash
from dogbreeds.serving.predictor import Prediction, Predictor

TOP_K = 5
"""Breeds that an answer names."""


@dataclass(frozen=True)
class ModelAnswers:
    """The answers of all models to one photo."""

    predictions: dict[str, Prediction]
    """By the models' names."""
    ensemble: Answer | None
    """Their joint answer, where that was measured to be better."""

    @property
    def agree(self) -> bool:
        """Whether all name the same breed, or all none."""
        answers = list(self.predictions.values())
        if any(answer.verdict == "not_a_dog" for answer in answers):
            return all(answer.verdict == "not_a_dog" for answer in answers)
        return len({answer.breeds[0].breed for answer in answers}) == 1


class ModelSet:
    """The models of a page, by the names that it shows."""

    def __init__(self, predictors: Sequence[Predictor], ensemble: Ensemble | None = None) -> None:
        """Name the models.

        Args:
            predictors: At least one.
            ensemble: How to pool their answers.
        """
        names = unique_names([predictor.run for predictor in predictors])
        self.predictors = dict(zip(names, predictors, strict=True))
        self.names = list(self.predictors)
        self.ensemble = ensemble
        self._batching = {name: BatchingPredictor(each, top_k=TOP_K) for name, each in self.predictors.items()}

    @property
    def first(self) -> Predictor:
        """The model that answers unless another is chosen."""
        return self.predictors[self.names[0]]

    def labels(self, name: str) -> tuple[str, ...]:
        """The classes that a model knows."""
        return self.predictors[name].run.labels

    def predict(self, name: str, photo: Image.Image) -> Prediction:
        """One model's answer to an upright RGB photo; simultaneous calls share a batch."""
        return self._batching[name].predict(photo)

    def compare(self, photo: Image.Image) -> ModelAnswers:
        """All models' answers to an upright RGB photo."""
        predictions = {name: self.predict(name, photo) for name in self.names}
        ensemble = None
        if self.ensemble and self.ensemble.is_better:
            by_hash = {model_hash(self.predictors[name].run): each for name, each in predictions.items()}
            ensemble = self.ensemble.answer(by_hash, self.first.run.labels, top_k=TOP_K)
        return ModelAnswers(predictions, ensemble)


def load_ensemble(predictors: Sequence[Predictor], path: Path | None) -> Ensemble | None:
    """The ensemble of these models; None where none was measured.

    Args:
        predictors: The models.
        path: The ensemble.json of their comparison; by default the one that comes with the project, if it is theirs.

    Raises:
        UserError: The file is missing, damaged or about other models.
    """
    if path is None and not SHIPPED_ENSEMBLE.exists():  # a Space with a run of its own
        return None
    ensemble = Ensemble.load(path or SHIPPED_ENSEMBLE)
    runs = [predictor.run for predictor in predictors]
    if ensemble.is_of(runs) and all(run.labels == runs[0].labels for run in runs):
        return ensemble
    if path is not None:
        raise UserError(
            f"{str(path)!r} is about other runs than --run-dir names, or they have their breeds in another order: "
            "compare runs of the same data with each other first"
        )
    return None
