"""Frames of a video -> one answer to all of it, and one to each dog where several are in the picture together.

Each dog is answered from all of its close-ups, by the rules for several photos of one dog.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from dogbreeds.photos import batches
from dogbreeds.serving.dog_detector import Found, dog_detector
from dogbreeds.serving.every_dog import close_up, dog_at, is_dog
from dogbreeds.serving.following import Sighting, followed
from dogbreeds.serving.prediction import Dog, Prediction, Shot
from dogbreeds.serving.predictor import NUM_AT_ONCE, LookedAt, Predictor

MIN_SIGHTINGS = 2
"""Frames in which a dog has to be found; in fewer it is more often no dog, or one that was lost from sight."""
MAX_CLOSE_UPS = 96
"""Three dogs in 32 frames. Of more, every second frame is used, or every third and so on: a pack takes no longer."""


@dataclass(frozen=True)
class _Frame:
    """What is known of a frame when it has been searched."""

    size: tuple[int, int]
    """Width and height, pixels."""
    found: list[Found]


def predict_video(
    predictor: Predictor, shots: Sequence[Shot], open_frame: Callable[[int], Image.Image], *, top_k: int = 5
) -> Prediction:
    """Answer a video.

    Args:
        predictor: What answers.
        shots: The frames, at least one, in their order.
        open_frame: Opens a frame, by its index, upright and RGB. A few are in use at a time; some are opened twice.
        top_k: As for `Predictor.predict`.

    Returns:
        The answer to the video as a whole, and in its `dogs`, by the frame in which they are first seen, those that are
        in a frame together with another. Each has the frame that decided, and the box is its place in that one.
    """
    started = time.perf_counter()
    frames: list[_Frame] = []
    photos: list[LookedAt] = []
    for batch in batches(range(len(shots)), NUM_AT_ONCE):
        images = [open_frame(number) for number in batch]
        frames += [_Frame(image.size, dog_detector().find(image)) for image in images]
        photos += predictor.look_closely(images)
    ((whole, index),) = predictor.answer_dogs([photos], top_k, started)
    dogs: list[Dog] = []
    if any(len(frame.found) > 1 for frame in frames):
        close_ups = _close_ups(predictor, frames, open_frame)
        dogs = _each_dog(predictor, shots, frames, close_ups, top_k, started)
    return replace(whole, dogs=tuple(dogs), decided_by=shots[index], seconds=time.perf_counter() - started)


def _close_ups(
    predictor: Predictor, frames: Sequence[_Frame], open_frame: Callable[[int], Image.Image]
) -> list[list[LookedAt]]:
    """What is known of each dog that is found in each frame; empty for frames that are left out."""
    step = math.ceil(sum(len(frame.found) for frame in frames) / MAX_CLOSE_UPS)
    close_ups: list[list[LookedAt]] = [[] for _ in frames]
    for number in range(0, len(frames), step):
        if found := frames[number].found:
            image = open_frame(number)
            close_ups[number] = predictor.look_closely([close_up(image, each.box) for each in found])
    return close_ups


def _each_dog(
    predictor: Predictor,
    shots: Sequence[Shot],
    frames: Sequence[_Frame],
    close_ups: Sequence[Sequence[LookedAt]],
    top_k: int,
    started: float,
) -> list[Dog]:
    paths = followed([[each.outputs for each in seen] for seen in close_ups])
    paths = [path for path in paths if len(path) >= min(MIN_SIGHTINGS, len(frames))]
    if len(paths) < 2:
        return []
    answers = predictor.answer_dogs([[close_ups[at][which] for at, which in path] for path in paths], top_k, started)
    are_dogs = [pair for pair in zip(paths, answers, strict=True) if is_dog(pair[1][0])]
    dogs = []
    for path, (answer, index) in are_dogs:
        if any(_meet(path, other) for other, _ in are_dogs if other is not path):
            at, which = path[index]
            answer = replace(answer, decided_by=shots[at])
            dogs.append(dog_at(frames[at].found[which].box, frames[at].size, answer))
    return dogs


def _meet(one: Sequence[Sighting], other: Sequence[Sighting]) -> bool:
    """Whether two dogs are in a frame together. One alone may be the other, lost from sight and not known again."""
    return bool({at for at, _ in one} & {at for at, _ in other})
