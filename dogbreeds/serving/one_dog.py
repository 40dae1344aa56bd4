"""Files -> answers: one to each photo or video, or one to all of them where they show the same dog."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

from PIL import Image

from dogbreeds.images import BadImage, open_image
from dogbreeds.photos import read_photo
from dogbreeds.serving.prediction import Prediction, Shot
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.video import is_video, read_frames
from dogbreeds.serving.video_prediction import predict_video


def predict_files(
    predictor: Predictor, paths: Sequence[str], *, top_k: int, one_dog: bool
) -> Iterator[tuple[Sequence[str], Prediction | BadImage]]:
    """Answer photos and videos.

    Args:
        predictor: What answers.
        paths: Files.
        top_k: How many breeds to name, at least 1.
        one_dog: Give one answer to all files, which show the same dog.

    Yields:
        Files, and the answer to them together, or why one can't be read.
    """
    if one_dog:
        yield from _predict_one_dog(predictor, paths, top_k)
        return
    for path in paths:
        answer = _predict_video if is_video(path) else Predictor.predict
        yield [path], read_photo(path, partial(answer, predictor, top_k=top_k))


def _predict_video(predictor: Predictor, path: str | os.PathLike[str], top_k: int) -> Prediction:
    frames = _open(path, at_least=predictor.run.preprocessing.decoded_side)
    return predict_video(predictor, [shot for shot, _ in frames], lambda number: frames[number][1], top_k=top_k)


def _predict_one_dog(
    predictor: Predictor, paths: Sequence[str], top_k: int
) -> Iterator[tuple[Sequence[str], Prediction | BadImage]]:
    """Why files can't be read, one by one, and the answer to the others."""
    unreadable: dict[str, BadImage] = {}
    shots: list[Shot] = []

    def images() -> Iterator[Image.Image]:
        for path in paths:
            found = read_photo(path, partial(_open, at_least=predictor.run.preprocessing.decoded_side))
            if isinstance(found, BadImage):
                unreadable[path] = found
                continue
            for shot, image in found:
                shots.append(shot)
                yield image

    opened = images()
    first = next(opened, None)
    answer = None if first is None else predictor.predict_one_dog(chain([first], opened), top_k=top_k)
    yield from (([path], error) for path, error in unreadable.items())
    if answer is not None:
        prediction, index = answer
        yield [path for path in paths if path not in unreadable], replace(prediction, decided_by=shots[index])


def _open(path: str | os.PathLike[str], at_least: int) -> list[tuple[Shot, Image.Image]]:
    """A photo, or frames of a video."""
    name = os.fspath(path)
    if is_video(path):
        return [(Shot(name, frame.seconds), frame.image) for frame in read_frames(path, at_least=at_least)]
    return [(Shot(name), open_image(path, at_least=at_least))]
