"""What programs get from the page, and how they ask."""

from typing import Any

from dogbreeds.breeds import GROUPS
from dogbreeds.serving.model_set import Comparison
from dogbreeds.serving.predictor import Prediction

_TEXT_OR_NULL = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_ANSWER_SCHEMA: dict[str, Any] = {
    "verdict": {"anyOf": [{"enum": ["confident", "unsure", "not_a_dog"]}, {"type": "null"}]},
    "breeds": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"breed": {"type": "string"}, "probability": {"type": "number"}},
        },
    },
    "candidates": {"type": "array", "items": {"type": "string"}},
    "group": {"anyOf": [{"enum": list(GROUPS)}, {"type": "null"}]},
}
PREDICTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "The answer of one model; `error` says why there is none.",
    "properties": {
        **_ANSWER_SCHEMA,
        "model": {"type": "string"},
        "seconds": {"type": "number"},
        "error": _TEXT_OR_NULL,
    },
}
COMPARISON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "The answers of all models, whether the best of each is the same, and their joint answer where that "
    "was measured to be the better one.",
    "properties": {
        "answers": {"type": "array", "items": PREDICTION_SCHEMA},
        "agree": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        "together": {"anyOf": [{"type": "object", "properties": _ANSWER_SCHEMA}, {"type": "null"}]},
        "error": _TEXT_OR_NULL,
    },
}

PYTHON = """
from gradio_client import Client, handle_file

client = Client("{url}")
print(client.predict(handle_file("dog.jpg"), "{model}", api_name="/predict"))
print(client.predict(handle_file("dog.jpg"), api_name="/compare"))
""".lstrip()
CURL = """
FILE=$(curl -s -F files=@dog.jpg {url}/gradio_api/upload | tr -d '[]"')
EVENT=$(curl -s {url}/gradio_api/call/predict -H 'Content-Type: application/json' \\
  -d '{{"data": [{{"path": "'$FILE'", "meta": {{"_type": "gradio.FileData"}}}}, "{model}"]}}' \\
  | tr -d '{{}}"' | cut -d: -f2)
curl -sN {url}/gradio_api/call/predict/$EVENT
""".lstrip()
"""What the page tells programmers; a test runs both."""


def prediction_json(model: str, prediction: Prediction) -> dict[str, Any]:
    """One model's answer, as `PREDICTION_SCHEMA` tells."""
    return {**prediction.to_dict(), "model": model, "seconds": prediction.seconds, "error": None}


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """All models' answers, as `COMPARISON_SCHEMA` tells."""
    return {
        "answers": [prediction_json(*item) for item in comparison.predictions.items()],
        "agree": comparison.agree,
        "together": comparison.together and comparison.together.to_dict(),
        "error": None,
    }
