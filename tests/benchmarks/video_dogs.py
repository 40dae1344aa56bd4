"""Is each dog of a video found, followed through the frames, and answered better than from one frame?

    python tests/benchmarks/video_dogs.py --dogs DATA --other-photos FOLDER

The clips are made from photos that are cropped to the dog (Stanford's, of the run's validation split), so that the
place of each dog is known. One to three of them move over a photo without a dog, nearer and farther, before and behind
each other, and some come late or leave early. The camera moves too: frames are blurred, dark or bright. A dog keeps its
pose, so nothing is gained here from its other sides. The constants of dogbreeds/serving/following.py and
video_prediction.py were chosen on the clips of --seed 1.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageOps
from tqdm import tqdm

from dogbreeds.errors import one_line_errors
from dogbreeds.images import open_image
from dogbreeds.looks import Box
from dogbreeds.metrics import share_with_interval
from dogbreeds.photos import photo_files
from dogbreeds.research.evaluate import photos_of
from dogbreeds.run_folder import DEFAULT_RUN
from dogbreeds.serving.prediction import Shot
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.video_prediction import predict_video
from tests.benchmarks.several_dogs import Tally
from tests.benchmarks.video import MAX_BLUR, NUM_FRAMES, RATE, STEPS, exposed

SIZE = (854, 480)
HEIGHTS = (0.35, 0.65)
"""Of a dog's photo, as a share of the frame's height."""
NEARER = 1.3
"""How much larger a dog is at its nearest than in the mean."""
MIN_VISIBLE = 0.5
"""The share of a dog's photo that a frame has to show, or the frame does not show the dog."""
MIN_SHOWN = 3
"""Frames that have to show a dog, or it is not counted."""


@dataclass(frozen=True)
class Scene:
    """One frame, and where each dog is."""

    image: Image.Image
    boxes: list[Box | None]
    """Of each dog, what the frame shows of its photo; None where that is less than `MIN_VISIBLE`."""


def scenes(rng: np.random.Generator, dogs: list[Image.Image], background: Image.Image) -> Iterator[Scene]:
    """The frames of a camera in a hand, before which dogs move; the last dog is in front."""
    width, height = SIZE
    wide = ImageOps.fit(background, (2 * width, 2 * height), Image.Resampling.BICUBIC)
    num = len(dogs)
    phases = rng.uniform(0, 2 * np.pi, (num, 3))
    sides = rng.uniform(*HEIGHTS, num) * height
    # Each has a part of the width as its own, but walks half as far again to each side; some come or leave.
    homes = (rng.permutation(num) + 0.5) / num * width
    comes = np.where(rng.random(num) < 0.3, rng.uniform(-1, 1, num), 0)
    camera = rng.uniform(0, 2 * np.pi, 2)
    for number in range(NUM_FRAMES):
        share = number / (NUM_FRAMES - 1)
        moved = rng.uniform(-1, 1, 2) * MAX_BLUR * SIZE * (rng.random() < 0.5)
        places = []
        for dog in range(num):
            side = sides[dog] * NEARER ** np.sin(2 * np.pi * share + phases[dog, 0])
            x = homes[dog] + 0.75 * width / num * np.sin(2 * np.pi * share + phases[dog, 1])
            x += comes[dog] * 2 * width * (share - 0.5)
            y = 0.6 * height + 0.1 * height * np.sin(4 * np.pi * share + phases[dog, 2])
            places.append((x - side / 2, y - side / 2, x + side / 2, y + side / 2))
        corner = (0.5 + 0.4 * np.sin(2 * np.pi * share + camera)) * SIZE
        pictures = []
        for step in np.linspace(0, 1, STEPS):
            left, top = corner + step * moved
            picture = wide.crop((round(left), round(top), round(left) + width, round(top) + height))
            for photo, (x0, y0, x1, _) in zip(dogs, places, strict=True):
                side = round(x1 - x0)
                x, y = round(x0 - step * moved[0]), round(y0 - step * moved[1])
                picture.paste(photo.resize((side, side), Image.Resampling.BILINEAR), (x, y))
            pictures.append(picture)
        shift = moved / 2
        boxes = [(x0 - shift[0], y0 - shift[1], x1 - shift[0], y1 - shift[1]) for x0, y0, x1, y1 in places]
        yield Scene(exposed(rng, pictures), seen(boxes))


def seen(boxes: list[Box]) -> list[Box | None]:
    """What a frame shows of photos, of which later ones lie over earlier ones."""
    owner = np.full(SIZE[::-1], -1)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        owner[max(0, round(y0)) : max(0, round(y1)), max(0, round(x0)) : max(0, round(x1))] = number
    found: list[Box | None] = []
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        rows, columns = np.nonzero(owner == number)
        is_shown = len(rows) >= MIN_VISIBLE * (x1 - x0) * (y1 - y0)
        found.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if is_shown else None)
    return found


def row(tally: Tally) -> str:
    """Cells of a table."""
    cells = [share_with_interval(float(np.mean(each)), len(each)) for each in (tally.boxed, tally.right)]
    of_all = share_with_interval(sum(tally.right) / len(tally.boxed), len(tally.boxed))
    return f"{' | '.join(cells)} | {np.mean(tally.right_alone):.1%} | {of_all} | {tally.num_others}"


def main(dogs: str, other_photos: Path, run_dir: Path = DEFAULT_RUN, num: int = 150, seed: int = 0) -> None:
    """Print how many dogs are found and right, from all frames and from the middle one, and what that takes."""
    predictor, rng = Predictor(run_dir), np.random.default_rng(seed)
    predictor.warm_up()
    photos, backgrounds = photos_of(predictor, dogs, "validation"), photo_files(other_photos)
    tallies = {"all frames": Tally(), "the middle frame": Tally()}
    seconds: dict[str, list[float]] = {"one answer": [], "with each dog": []}
    several_of_one = []
    for number in tqdm(range(num), unit="clip", disable=None):
        chosen = rng.choice(len(photos), 1 + number % 3, replace=False)
        pictures = [open_image(photos.sources[index]) for index in chosen]
        breeds = [photos.names[photos.labels[index]] for index in chosen]
        alone = [answer.breeds[0].breed for answer in predictor.predict_images(pictures)]
        clip = list(scenes(rng, pictures, open_image(backgrounds[rng.integers(len(backgrounds))])))
        started = time.perf_counter()
        predictor.predict_one_dog([scene.image.copy() for scene in clip])
        seconds["one answer"].append(time.perf_counter() - started)
        shots = [Shot("clip", index / RATE) for index in range(len(clip))]
        answer = predict_video(predictor, shots, lambda index, clip=clip: clip[index].image)
        seconds["with each dog"].append(answer.seconds)
        if len(chosen) == 1:
            several_of_one.append(bool(answer.dogs))
            continue
        shown = [dog for dog in range(len(chosen)) if sum(bool(scene.boxes[dog]) for scene in clip) >= MIN_SHOWN]
        middle = clip[NUM_FRAMES // 2]
        answers = {
            "all frames": [(dog, clip[shots.index(dog.prediction.decided_by)].boxes) for dog in answer.dogs],
            "the middle frame": [(dog, middle.boxes) for dog in predictor.predict(middle.image).dogs],
        }
        for name, tally in tallies.items():
            tally.count(answers[name], SIZE, shown, breeds, alone)
    print("| answers from | dogs found | right of these | right alone | found and right | others |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, tally in tallies.items():
        print(f"| {name} | {row(tally)} |")
    share = share_with_interval(float(np.mean(several_of_one)), len(several_of_one))
    print(f"{len(tallies['all frames'].boxed)} dogs; of {len(several_of_one)} clips of one dog, {share} get several")
    print(", ".join(f"{what}: {statistics.median(each):.2f} s a clip (median)" for what, each in seconds.items()))


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main)
