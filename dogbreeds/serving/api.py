"""The replies that programs get from the page."""

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from dogbreeds.answers import BreedProbability
from dogbreeds.breeds import breed_groups
from dogbreeds.calibration import Verdict
from dogbreeds.serving.model_set import agree
from dogbreeds.serving.prediction import Prediction


def _list_groups(schema: dict[str, Any]) -> None:
    schema["enum"] = [*breed_groups()]


class AnswerJson(TypedDict):
    """An answer; null and empty where there is none.

    A dog of an unknown breed has no `breeds`, since these have probabilities: its `candidates` are what it resembles.
    """

    verdict: Verdict | None
    breeds: list[BreedProbability]
    candidates: list[str]
    group: Annotated[str, Field(json_schema_extra=_list_groups)] | None


class FrameJson(TypedDict):
    """A frame of a video: how many seconds after the first one it is shown."""

    seconds: float


class DogJson(AnswerJson):
    """One dog of several; its box is left, top, right and bottom, as shares of the photo's width and height.

    A dog of a video has `decided_by`, the frame that speaks most for the breed; the box is its place in that one.
    """

    box: Annotated[list[float], Field(min_length=4, max_length=4)]
    decided_by: NotRequired[FrameJson]


class PredictionJson(AnswerJson):
    """The answer of one model to a photo as a whole, or to a video; where there is none, `error` says why.

    A photo of several dogs has `dogs` too, from left to right, and a video of several, by when they are first seen; of
    one dog there are none. A video has `decided_by`, the frame that speaks most for the breed.
    """

    dogs: NotRequired[list[DogJson]]
    decided_by: NotRequired[FrameJson]
    model: str
    seconds: float
    error: str | None


class ComparisonJson(TypedDict):
    """The answers of all models, and whether they agree."""

    answers: list[PredictionJson]
    agree: bool | None
    error: str | None


def prediction_json(model: str, prediction: Prediction) -> dict[str, Any]:
    """One model's answer, a `PredictionJson`."""
    found = prediction.to_dict()
    for each in (found, *found.get("dogs", ())):
        if "decided_by" in each:
            # Its path: gradio's client takes what has one for a file, and fetches it.
            del each["decided_by"]["path"]
    return {**found, "model": model, "seconds": prediction.seconds, "error": None}


def comparison_json(predictions: dict[str, Prediction]) -> dict[str, Any]:
    """All models' answers, a `ComparisonJson`.

    Args:
        predictions: By the models' names.
    """
    return {
        "answers": [prediction_json(*item) for item in predictions.items()],
        "agree": agree(predictions.values()),
        "error": None,
    }
