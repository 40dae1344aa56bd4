"""Is every dog of a photo found, and answered as well as alone? And is a photo of one dog answered as before?

    python tests/benchmarks/several_dogs.py --dogs DATA --other-photos FOLDER --single-dogs FOLDER

The scenes are made in memory from photos that are cropped to the dog (Stanford's, of the run's validation split), so
that the box of each dog is known: half of them are collages of two to four, the others have as many pasted at random
places of a photo without a dog, each as high as 28 to 60 % of it. A dog is boxed if a box of the answer has an
intersection over union of at least 0.5 with its own; each box is of one dog at most. The constants of
dogbreeds/serving/dog_detector.py were chosen on the scenes of --seed 1.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageOps

from dogbreeds.errors import one_line_errors
from dogbreeds.images import open_image
from dogbreeds.looks import Box
from dogbreeds.metrics import share_with_interval
from dogbreeds.photos import photo_files
from dogbreeds.research.evaluate import photos_of
from dogbreeds.run_folder import DEFAULT_RUN
from dogbreeds.serving.every_dog import predict_every_dog
from dogbreeds.serving.prediction import Dog, Prediction
from dogbreeds.serving.predictor import Predictor

MIN_IOU = 0.5
CELL = 320
"""Width and height of a photo in a collage, pixels."""
LAYOUTS = {2: [(2,), (1, 1)], 3: [(3,), (1, 1, 1)], 4: [(2, 2), (4,)]}
"""Of a collage: how many photos each row has."""
SIZE = (1280, 720)
HEIGHTS = (0.28, 0.6)
"""Of a pasted photo, as a share of the scene's."""

Scene = tuple[Image.Image, list[Box]]


def collage(rng: np.random.Generator, dogs: list[Image.Image]) -> Scene:
    """The photos beside each other."""
    rows = LAYOUTS[len(dogs)][rng.integers(2)]
    places = [(column * CELL, row * CELL) for row, num in enumerate(rows) for column in range(num)]
    picture = Image.new("RGB", (max(rows) * CELL, len(rows) * CELL))
    for dog, place in zip(dogs, places, strict=True):
        picture.paste(dog.resize((CELL, CELL), Image.Resampling.BICUBIC), place)
    return picture, [(x, y, x + CELL, y + CELL) for x, y in places]


def pasted(rng: np.random.Generator, dogs: list[Image.Image], background: Image.Image) -> Scene:
    """The photos at random places of another, none over another."""
    picture, boxes = ImageOps.fit(background, SIZE, Image.Resampling.BICUBIC), []
    while len(boxes) < len(dogs):
        side = round(rng.uniform(*HEIGHTS) * SIZE[1])
        x, y = (int(rng.integers(0, room - side)) for room in SIZE)
        box = (x, y, x + side, y + side)
        if not any(overlap(box, other) for other in boxes):
            picture.paste(dogs[len(boxes)].resize((side, side), Image.Resampling.BICUBIC), (x, y))
            boxes.append(box)
    return picture, boxes


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    shared = max(0, width) * max(0, height)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (area - shared)


@dataclass
class Tally:
    """What came of some scenes, or of some clips."""

    boxed: list[bool] = field(default_factory=list)
    """For each dog."""
    right: list[bool] = field(default_factory=list)
    """For each dog that is boxed: whether its most probable breed is right ..."""
    right_alone: list[bool] = field(default_factory=list)
    """... and that of its photo alone."""
    num_others: int = 0
    """Boxes that are of none of the dogs."""

    def count(
        self,
        answers: list[tuple[Dog, list[Box | None]]],
        size: tuple[int, int],
        shown: Iterable[int],
        breeds: list[str],
        alone: list[str],
    ) -> None:
        """Compare answers with what is shown.

        Args:
            answers: Each with where the dogs are in the picture that its box lies in; None where one is not shown.
            size: Width and height of the pictures, pixels.
            shown: The dogs that count, by their index.
            breeds: Of each dog.
            alone: What a photo of each is answered.
        """
        left = [
            (tuple(edge * side for edge, side in zip(dog.box, size * 2, strict=True)), dog, boxes)
            for dog, boxes in answers
        ]
        for number in shown:
            shared = [overlap(box, boxes[number]) if boxes[number] else 0.0 for box, _, boxes in left]
            self.boxed.append(max(shared, default=0.0) >= MIN_IOU)
            if self.boxed[-1]:
                _, dog, _ = left.pop(shared.index(max(shared)))
                self.right.append(dog.prediction.breeds[0].breed == breeds[number])
                self.right_alone.append(alone[number] == breeds[number])
        self.num_others += len(left)


def timed(answer: Callable[[Image.Image], Prediction], photo: Image.Image, milliseconds: list[float]) -> Prediction:
    """The answer to a photo; how long it took is noted."""
    started = time.perf_counter()
    prediction = answer(photo)
    milliseconds.append(1000 * (time.perf_counter() - started))
    return prediction


class Answers:
    """The answers of one predictor, with and without looking for every dog, and their times."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.milliseconds: dict[str, list[float]] = {"as a whole": [], "with every dog": []}

    def to(self, photo: Image.Image) -> Prediction:
        """The answer with every dog, after that to the whole."""
        whole, every = self.milliseconds.values()
        timed(lambda image: self.predictor.predict_images([image])[0], photo, whole)
        return timed(lambda image: predict_every_dog(image, self.predictor.predict_images), photo, every)

    def __str__(self) -> str:
        return ", ".join(f"{statistics.median(each):.0f} ms {what}" for what, each in self.milliseconds.items())


def main(
    dogs: str,
    other_photos: Path,
    single_dogs: tuple[Path, ...] = (),
    run_dir: Path = DEFAULT_RUN,
    num: int = 300,
    seed: int = 0,
) -> None:
    """Print for each kind of scene how many dogs are boxed and right, and what looking for them takes."""
    predictor, rng = Predictor(run_dir), np.random.default_rng(seed)
    predictor.warm_up()
    photos, backgrounds = photos_of(predictor, dogs, "validation"), photo_files(other_photos)
    tallies = {kind: Tally() for kind in ("collage", "pasted", "both")}
    answers = Answers(predictor)
    for number in range(num):
        chosen = rng.choice(len(photos), 2 + number // 2 % 3, replace=False)
        pictures = [open_image(photos.sources[index]) for index in chosen]
        breeds = [photos.names[photos.labels[index]] for index in chosen]
        alone = [answer.breeds[0].breed for answer in predictor.predict_images(pictures)]
        kind = ("collage", "pasted")[number % 2]
        background = open_image(backgrounds[rng.integers(len(backgrounds))])
        scene, boxes = collage(rng, pictures) if kind == "collage" else pasted(rng, pictures, background)
        answer = answers.to(scene)
        for name in (kind, "both"):
            tallies[name].count([(dog, boxes) for dog in answer.dogs], scene.size, range(len(boxes)), breeds, alone)
    print("| scenes | dogs | boxed | right of these | right alone | other boxes |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, tally in tallies.items():
        shares = (tally.boxed, tally.right, tally.right_alone)
        cells = [share_with_interval(float(np.mean(share)), len(share)) for share in shares]
        print(f"| {name} | {len(tally.boxed)} | {' | '.join(cells)} | {tally.num_others} |")
    print(f"a scene, median: {answers}")
    for folder in single_dogs:
        print_single(predictor, folder)


def print_single(predictor: Predictor, folder: Path) -> None:
    """Print which photos of a folder get several dogs, and what looking for them takes."""
    answers, files = Answers(predictor), photo_files(folder)
    side = predictor.run.preprocessing.decoded_side
    several = [file for file in files if answers.to(open_image(file, at_least=side)).dogs]
    share = share_with_interval(len(several) / len(files), len(files))
    print(f"{folder}: {share} of {len(files)} photos get several dogs")
    print(f"a photo, median: {answers}", *several, sep="\n  ")


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main)
