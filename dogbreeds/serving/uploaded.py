"""The answer to an upload: a photo or a video."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.prediction import Prediction, Shot
from dogbreeds.serving.uploads import is_video_copy, open_copy, stored_frames

Pictures = Mapping[Shot | None, Image.Image]
"""What an answer, or that to each of its dogs, is about, by `decided_by`: the photo, or frames of the video."""


def answer_upload(models: ModelSet, name: str, copy: Path) -> tuple[Prediction, Pictures]:
    """One model's answer.

    Args:
        models: What can answer.
        name: Which of them does.
        copy: What `UploadFolder.add` returned.

    Returns:
        The answer, and what it is about.

    Raises:
        BadImage: The upload could not be read, or is deleted by now.
    """
    if not is_video_copy(copy):
        photo = open_copy(copy)
        return models.predict(name, photo), {None: photo}
    frames = stored_frames(copy)
    copies = {Shot(copy.name, frame.seconds): frame.copy for frame in frames}
    prediction = models.predict_video(name, list(copies), lambda number: open_copy(frames[number].copy))
    answers = [dog.prediction for dog in prediction.dogs] or [prediction]
    return prediction, {shot: open_copy(copies[shot]) for answer in answers if (shot := answer.decided_by)}
