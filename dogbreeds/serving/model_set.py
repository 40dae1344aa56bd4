"""The models of a page: one answers by its name, or all answer the same photo."""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import partial

from PIL import Image

from dogbreeds.answers import Answer
from dogbreeds.run_folder import unique_names
from dogbreeds.serving.every_dog import predict_every_dog
from dogbreeds.serving.prediction import Prediction, Shot
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.video_prediction import predict_video

TOP_K = 5
"""Breeds that an answer names."""


class ModelSet:
    """The models of a page, by the names that it shows."""

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        """Name the models.

        Args:
            predictors: At least one.
        """
        names = unique_names([predictor.run for predictor in predictors])
        self.predictors = dict(zip(names, predictors, strict=True))
        self.names = list(self.predictors)

    @property
    def first(self) -> Predictor:
        """The model that answers unless another is chosen."""
        return self.predictors[self.names[0]]

    def labels(self, name: str) -> tuple[str, ...]:
        """The classes that a model knows."""
        return self.predictors[name].run.labels

    def num_listed(self, name: str) -> int | None:
        """How many of them come into question; None if all do."""
        listed = self.predictors[name].run.listed
        return None if listed is None else len(listed)

    def only(self, names: Sequence[str], breeds: Sequence[str]) -> "ModelSet":
        """Some of the models, whose answers name some of their breeds only.

        Args:
            names: Which models.
            breeds: As for `RunFolder.only`.

        Raises:
            UserError: As of `RunFolder.only`.
        """
        limited = copy(self)
        limited.predictors = {name: self.predictors[name].only(breeds) for name in names}
        limited.names = list(names)
        return limited

    def predict(self, name: str, photo: Image.Image) -> Prediction:
        """One model's answer to an upright RGB photo, and to each dog of it."""
        return predict_every_dog(photo, partial(self.predictors[name].predict_images, top_k=TOP_K))

    def predict_video(self, name: str, shots: Sequence[Shot], open_frame: Callable[[int], Image.Image]) -> Prediction:
        """One model's answer to frames of a video; see `dogbreeds.serving.video_prediction.predict_video`."""
        return predict_video(self.predictors[name], shots, open_frame, top_k=TOP_K)

    def compare(self, photo: Image.Image) -> dict[str, Prediction]:
        """All models' answers to an upright RGB photo as a whole, by the models' names."""
        return {name: predictor.predict_images([photo], top_k=TOP_K)[0] for name, predictor in self.predictors.items()}


def agree(answers: Iterable[Answer]) -> bool:
    """Whether all name the same breed, or all see a dog of another breed, or all no dog."""
    named = {
        (answer.verdict,) if answer.verdict in ("unknown_breed", "not_a_dog") else ("breed", answer.breeds[0].breed)
        for answer in answers
    }
    return len(named) == 1
