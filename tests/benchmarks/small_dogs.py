"""Is a dog found that is small, anywhere on a wide photo? One look against several, and what they take.

    python tests/benchmarks/small_dogs.py --run-dir RUN --dogs LABELLED --other-photos FOLDER

The thresholds are the run's, which `dogbreeds calibrate --looks` has fitted. The scenes are made in memory: a photo of
a dog at 22 % of the width, anywhere on a 16:9 part of another photo.
"""

import statistics
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageOps

from dogbreeds.breeds import label_name
from dogbreeds.errors import UserError, one_line_errors
from dogbreeds.images import open_image
from dogbreeds.metrics import share_with_interval
from dogbreeds.photos import photo_files
from dogbreeds.run_folder import DEFAULT_RUN, RunFolder
from dogbreeds.serving.predictor import Predictor

SIZE = (1280, 720)
WIDTH = 0.22
"""Of the dog's photo, as a share of the scene's."""


def scene(rng: np.random.Generator, dog: Path, background: Path) -> Image.Image:
    """One photo pasted at a random place of another."""
    wide = ImageOps.fit(open_image(background), SIZE, Image.Resampling.BICUBIC)
    small = ImageOps.contain(open_image(dog), (round(WIDTH * SIZE[0]), SIZE[1]), Image.Resampling.BICUBIC)
    wide.paste(small, tuple(int(rng.integers(0, room - side + 1)) for room, side in zip(SIZE, small.size, strict=True)))
    return wide


def main(dogs: Path, other_photos: Path, run_dir: Path = DEFAULT_RUN, num: int = 200, seed: int = 0) -> None:
    """Print for one look and for several which answers are right, which are "not a dog", and the time of each."""
    run, rng = RunFolder.open(run_dir), np.random.default_rng(seed)
    if run.calibration.sure_margin is None:
        raise UserError(f"the run {run.name!r} takes one look at each photo: calibrate it with --looks first")
    one_look = replace(run.record, calibration=replace(run.calibration, sure_margin=None))
    predictors = {"one": Predictor(replace(run, record=one_look)), "several": Predictor(run)}
    dog_files, backgrounds = photo_files(dogs), photo_files(other_photos)
    counts: dict[str, Counter[str]] = {name: Counter() for name in predictors}
    milliseconds: dict[str, list[float]] = {name: [] for name in predictors}
    for _ in range(num):
        dog = dog_files[rng.integers(len(dog_files))]
        photo = scene(rng, dog, backgrounds[rng.integers(len(backgrounds))])
        for name, predictor in predictors.items():
            started = time.perf_counter()
            (answer,) = predictor.predict_images([photo])
            milliseconds[name].append(1000 * (time.perf_counter() - started))
            right = answer.breeds[0].breed == label_name(dog.relative_to(dogs).parts[0])
            named = answer.verdict in ("confident", "unsure")
            counts[name].update({answer.verdict: 1, "right": right, "named": right and named})
    print("| looks | most probable breed right | ... and named | not a dog | unknown breed | ms a photo, median |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, of in counts.items():
        cells = [share_with_interval(of[what] / num, num) for what in ("right", "named", "not_a_dog", "unknown_breed")]
        print(f"| {name} | {' | '.join(cells)} | {statistics.median(milliseconds[name]):.0f} |")


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main)
