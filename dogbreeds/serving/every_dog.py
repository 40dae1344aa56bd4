"""A photo of several dogs: a box and an answer for each.

The boxes are those of a detector, and each is answered as a photo of its own. What the classifier calls no dog is left
out, such as the cat beside one, unless the detector is sure of it: then the answer says that it may be hard to see.
A photo in which fewer than two are left has one answer, as if nobody had looked.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from PIL import Image

from dogbreeds.looks import Box
from dogbreeds.serving.dog_detector import dog_detector
from dogbreeds.serving.prediction import Dog, Prediction, Shares

Predict = Callable[[Sequence[Image.Image]], Sequence[Prediction]]
"""Answers several photos, each upright and RGB."""


def predict_every_dog(photo: Image.Image, predict: Predict) -> Prediction:
    """Answer a photo as a whole, and each dog where there are several.

    Args:
        photo: Upright and RGB.
        predict: What answers.
    """
    started = time.perf_counter()
    found = dog_detector().find(photo)
    found = found if len(found) > 1 else []
    close_ups = [close_up(photo, each.box) for each in found]
    seconds = time.perf_counter() - started
    whole, *others = (replace(each, seconds=each.seconds + seconds) for each in predict([photo, *close_ups]))
    answers = zip(found, others, strict=True)
    dogs = tuple(dog_at(each.box, photo.size, answer) for each, answer in answers if each.is_sure or is_dog(answer))
    return replace(whole, dogs=dogs) if len(dogs) > 1 else whole


def is_dog(answer: Prediction) -> bool:
    """Whether the classifier takes what it saw for a dog, of whatever breed."""
    return answer.verdict != "not_a_dog"


def close_up(photo: Image.Image, box: Box) -> Image.Image:
    """What is in a box, as a square: so were the photos that the models were trained on.

    Args:
        photo: Upright and RGB.
        box: Pixels.
    """
    side = max(1, round(max(box[2] - box[0], box[3] - box[1])))
    return photo.resize((side, side), Image.Resampling.BILINEAR, box=box)


def dog_at(box: Box, size: tuple[int, int], answer: Prediction) -> Dog:
    """A dog, of which the answer to its close-up is known.

    Args:
        box: Where it is, pixels.
        size: Width and height of the photo, pixels.
        answer: Its `region` is a part of the box.
    """
    left, top, right, bottom = (edge / side for edge, side in zip(box, size * 2, strict=True))
    width, height = right - left, bottom - top
    region: Shares = (
        left + answer.region[0] * width,
        top + answer.region[1] * height,
        left + answer.region[2] * width,
        top + answer.region[3] * height,
    )
    return Dog((left, top, right, bottom), replace(answer, region=region))
