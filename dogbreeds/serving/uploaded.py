"""The answer to an upload: a photo, or a video of one dog."""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.prediction import Prediction, Shot
from dogbreeds.serving.uploads import is_video_copy, open_copy, stored_frames


def answer_upload(models: ModelSet, name: str, copy: Path) -> tuple[Prediction, Image.Image]:
    """One model's answer.

    Args:
        models: What can answer.
        name: Which of them does.
        copy: What `UploadFolder.add` returned.

    Returns:
        The answer, and what it is about: the photo, or the frame of the video that decided.

    Raises:
        BadImage: The upload could not be read, or is deleted by now.
    """
    if not is_video_copy(copy):
        photo = open_copy(copy)
        return models.predict(name, photo), photo
    frames = stored_frames(copy)
    prediction, index = models.predict_one_dog(name, (open_copy(frame.copy) for frame in frames))
    shot = Shot(copy.name, frames[index].seconds)
    return replace(prediction, decided_by=shot), open_copy(frames[index].copy)
