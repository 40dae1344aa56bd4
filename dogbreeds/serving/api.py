"""The replies that programs get from the page."""

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on

from dogbreeds.answers import BreedProbability
from dogbreeds.breeds import breed_groups
from dogbreeds.calibration import Verdict
from dogbreeds.serving.model_set import ModelAnswers
from dogbreeds.serving.predictor import Prediction


def _list_groups(schema: dict[str, Any]) -> None:
    schema["enum"] = [*breed_groups()]


class AnswerJson(TypedDict):
    """An answer to one photo: a model's, or the joint one; null and empty where there is none."""

    verdict: Verdict | None
    breeds: list[BreedProbability]
    candidates: list[str]
    group: Annotated[str, Field(json_schema_extra=_list_groups)] | None


class PredictionJson(AnswerJson):
    """The answer of one model; `error` says why there is none."""

    model: str
    seconds: float
    error: str | None


class ComparisonJson(TypedDict):
    """The answers of all models, whether they agree, and their joint answer where that was measured to be better."""

    answers: list[PredictionJson]
    agree: bool | None
    together: AnswerJson | None
    error: str | None


def prediction_json(model: str, prediction: Prediction) -> dict[str, Any]:
    """One model's answer, a `PredictionJson`."""
    return {**prediction.to_dict(), "model": model, "seconds": prediction.seconds, "error": None}


def comparison_json(answers: ModelAnswers) -> dict[str, Any]:
    """All models' answers, a `ComparisonJson`."""
    return {
        "answers": [prediction_json(*item) for item in answers.predictions.items()],
        "agree": answers.agree,
        "together": answers.ensemble and answers.ensemble.to_dict(),
        "error": None,
    }
