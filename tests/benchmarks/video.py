"""Is the answer from all frames of a clip better than that from one frame?

    python tests/benchmarks/video.py --dogs LABELLED

The clips are made from photos, each of another dog: a window moves over the photo and turns nearer and away, as of a
camera in a hand, and is encoded as MPEG-4. In some frames the dog is cut off, blurred by the motion, dark or bright.
So a clip shows its dog from one side only: what is gained here is from better frames, not from other sides of a dog.
Photos that the run's calibration was fitted on are left out, or with --fitted used alone: choices were made on those.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import tyro
from PIL import Image, ImageEnhance

from dogbreeds.answers import Answer
from dogbreeds.breeds import label_name
from dogbreeds.calibration_photos import DIGEST_DIGITS, fitted_on
from dogbreeds.errors import one_line_errors
from dogbreeds.images import open_image
from dogbreeds.metrics import share_with_interval
from dogbreeds.photos import photo_digest, photo_files
from dogbreeds.research.significance import bootstrap_interval
from dogbreeds.run_folder import DEFAULT_RUN
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.video import read_frames

NUM_FRAMES = 12
RATE = 2
"""Frames a second, as many as `read_frames` takes."""
SIZE = (480, 360)
SHARES = (0.5, 1.0)
"""Of the photo's width or height, that a frame shows."""
STEPS = 6
"""Pictures whose mean is a frame: the camera moves while the shutter is open."""
MAX_BLUR = 0.08
"""Of the frame, that the camera moves in that time."""
BRIGHTNESS = (0.5, 1.5)


def clip(rng: np.random.Generator, photo: Image.Image) -> Iterator[Image.Image]:
    """The frames of a hand-held camera that shows a photo."""
    turns = rng.uniform(0, 2 * np.pi, 3)
    for number in range(NUM_FRAMES):
        phase = 2 * np.pi * number / NUM_FRAMES
        share = SHARES[0] + (SHARES[1] - SHARES[0]) * (0.5 + 0.5 * np.sin(phase + turns[0]))
        scale = share * min(photo.width / SIZE[0], photo.height / SIZE[1])
        width, height = SIZE[0] * scale, SIZE[1] * scale
        room = np.array([photo.width - width, photo.height - height])
        x, y = (0.5 + 0.5 * np.sin([phase + turns[1], 2 * phase + turns[2]])) * room
        moved = rng.uniform(-1, 1, 2) * MAX_BLUR * (width, height) * (rng.random() < 0.5)
        pictures = []
        for step in np.linspace(0, 1, STEPS):
            left = float(np.clip(x + step * moved[0], 0, photo.width - width))
            top = float(np.clip(y + step * moved[1], 0, photo.height - height))
            box = (left, top, left + width, top + height)
            pictures.append(photo.resize(SIZE, Image.Resampling.BILINEAR, box=box))
        yield exposed(rng, pictures)


def exposed(rng: np.random.Generator, pictures: list[Image.Image]) -> Image.Image:
    """A frame of what a camera sees while its shutter is open, too dark or too bright."""
    frame = np.mean([np.asarray(picture, np.float32) for picture in pictures], axis=0)
    picture = Image.fromarray(frame.round().astype(np.uint8))
    return ImageEnhance.Brightness(picture).enhance(rng.uniform(*BRIGHTNESS))


def write_clip(path: Path, frames: Iterator[Image.Image]) -> None:
    """Encode frames as a video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, width=SIZE[0], height=SIZE[1], pix_fmt="yuv420p")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def chosen(predictor: Predictor, dogs: Path, num: int, fitted: bool, rng: np.random.Generator) -> list[Path]:
    """Some photos, of those that the calibration was fitted on, or of the others."""
    known = fitted_on(predictor.run)
    files = [file for file in photo_files(dogs) if (photo_digest(file.read_bytes())[:DIGEST_DIGITS] in known) == fitted]
    return [files[index] for index in rng.permutation(len(files))[:num]]


class Tally:
    """How many answers are right, and how many of the confident ones."""

    def __init__(self) -> None:
        self.right: list[float] = []
        """For each clip; a share where several frames answer it."""
        self.confident: list[bool] = []
        """For each confident answer, whether it is right."""
        self.num = 0

    def count(self, answers: list[Answer], breed: str) -> None:
        """Take the answers to one clip."""
        right = [answer.breeds[0].breed == breed for answer in answers]
        self.right.append(float(np.mean(right)))
        self.num += len(answers)
        self.confident += [
            is_right for answer, is_right in zip(answers, right, strict=True) if answer.verdict == "confident"
        ]


def main(dogs: Path, run_dir: Path = DEFAULT_RUN, num: int = 150, seed: int = 0, fitted: bool = False) -> None:
    """Print how often the answers from all frames, from the middle one and from each are right, and what they take."""
    predictor, rng = Predictor(run_dir), np.random.default_rng(seed)
    predictor.warm_up()
    tallies = {name: Tally() for name in ("all frames", "middle frame", "each frame")}
    seconds: dict[str, list[float]] = {"reading": [], "answering": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for file in chosen(predictor, dogs, num, fitted, rng):
            write_clip(path, clip(rng, open_image(file)))
            started = time.perf_counter()
            frames = [frame.image for frame in read_frames(path, at_least=predictor.run.preprocessing.decoded_side)]
            seconds["reading"].append(time.perf_counter() - started)
            assert len(frames) == NUM_FRAMES
            started = time.perf_counter()
            together, _ = predictor.predict_one_dog(frames)
            seconds["answering"].append(time.perf_counter() - started)
            alone = predictor.predict_images(frames)
            breed = label_name(file.relative_to(dogs).parts[0])
            for name, answers in zip(tallies, ([together], [alone[NUM_FRAMES // 2]], alone), strict=True):
                tallies[name].count(answers, breed)
    print("| answer from | top-1 | confident | ... of which right |")
    print("| --- | --- | --- | --- |")
    for name, tally in tallies.items():
        num_confident = len(tally.confident)
        top1 = np.array(tally.right)
        interval = share_with_interval(float(top1.mean()), len(top1))
        share = float(np.mean(tally.confident))
        # Frames of one clip are too much alike for an interval.
        right = share_with_interval(share, num_confident) if tally.num == len(top1) else f"{share:.1%}"
        print(f"| {name} | {interval} | {num_confident / tally.num:.1%} | {right} |")
    whole = np.array(tallies["all frames"].right)
    for name in ("middle frame", "each frame"):
        gained = whole - np.array(tallies[name].right)
        low, high = bootstrap_interval(gained)
        print(f"all frames against {name}: {100 * gained.mean():+.1f} points ({100 * low:.1f} to {100 * high:.1f})")
    print(", ".join(f"{what}: {1000 * np.median(each):.0f} ms a clip (median)" for what, each in seconds.items()))


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main)
