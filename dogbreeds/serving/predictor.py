"""A run folder -> answers, with ONNX Runtime and without torch."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dogbreeds.addresses import Place
from dogbreeds.answers import Answer, answers, answers_of
from dogbreeds.calibration import Outputs
from dogbreeds.dog_probe import DogProbe
from dogbreeds.files import sha256
from dogbreeds.images import BadImage, PhotoSource, halved, open_image
from dogbreeds.looks import Look, as_one, combined, first_box, next_box
from dogbreeds.photos import batches, photo_digest, read_bytes, read_photos
from dogbreeds.run_folder import DEFAULT_RUN, RunFolder
from dogbreeds.serving.dog_detector import likeliest_dog
from dogbreeds.serving.every_dog import predict_every_dog
from dogbreeds.serving.network import Network, NetworkFile
from dogbreeds.serving.prediction import Prediction

NUM_AT_ONCE = 8
"""Photos of one dog that are in one forward pass, so that many need no more memory than few."""


class Predictor:
    """Answers from one run folder. Safe to share between threads."""

    def __init__(
        self, run: str | os.PathLike[str] | RunFolder = DEFAULT_RUN, *, num_threads: int | None = None
    ) -> None:
        """Load a run.

        Args:
            run: A run folder; by default the one that comes with the project.
            num_threads: Cores for one forward pass, also of the dog detector; by default all that this process may use.

        Raises:
            UserError: The run folder is missing or damaged, or its model can't be used.
        """
        self.run = run if isinstance(run, RunFolder) else RunFolder.open(Path(run))
        file = _network_file(self.run)
        if file.is_limited:
            from dogbreeds.serving.trial import try_out

            # A copy that `export` is making has no hash yet.
            try_out(file, self.run.record.sha256.get(self.run.record.serving_model) or sha256(self.run.onnx))
        self._network = Network(file, num_threads=num_threads)
        self._likeliest_dog = partial(likeliest_dog, num_threads=num_threads)
        self.output_names = self._network.output_names
        """What the model gives; models of older versions and those of some architectures lack some."""

    def only(self, breeds: Sequence[str]) -> "Predictor":
        """The same model, whose answers name some of its breeds only.

        Args:
            breeds: As for `RunFolder.only`.

        Raises:
            UserError: As of `RunFolder.only`.
        """
        limited = copy(self)
        limited.run = self.run.only(breeds)
        return limited

    def predict(self, photo: PhotoSource, *, top_k: int = 5, every_dog: bool = True) -> Prediction:
        """Open a photo and answer it, and each dog of it where there are several.

        Args:
            photo: Path, bytes or PIL image.
            top_k: How many breeds to name, at least 1.
            every_dog: Look for several dogs, which takes longer than the answer to the photo as a whole.

        Raises:
            BadImage: The photo can't be read; the message is a sentence for the person.
        """
        started = time.perf_counter()
        image = open_image(photo, at_least=self.run.preprocessing.decoded_side)
        answer = partial(self.predict_images, top_k=top_k)
        prediction = predict_every_dog(image, answer) if every_dog else answer([image])[0]
        return replace(prediction, seconds=time.perf_counter() - started)

    def predict_images(self, images: Sequence[Image.Image], *, top_k: int = 5) -> list[Prediction]:
        """Answer several photos, each as a whole, in one forward pass.

        Args:
            images: At least one; each upright and RGB, as from `dogbreeds.images.open_image`.
            top_k: As for `predict`.
        """
        started = time.perf_counter()
        dogs = [[photo] for photo in self.look_closely(images)]
        return [prediction for prediction, _ in self.answer_dogs(dogs, top_k, started)]

    def predict_one_dog(self, images: Iterable[Image.Image], *, top_k: int = 5) -> tuple[Prediction, int]:
        """One answer from several photos of the same dog.

        Args:
            images: At least one; as for `predict_images`. A few of them are in use at a time.
            top_k: As for `predict`.

        Returns:
            The answer, and the index of the image that speaks most for its breed; heat map and region are of that one.
        """
        started = time.perf_counter()
        photos = [photo for batch in batches(images, NUM_AT_ONCE) for photo in self.look_closely(batch)]
        return self.answer_dogs([photos], top_k, started)[0]

    def look_closely(self, images: Sequence[Image.Image]) -> list["LookedAt"]:
        """Find what `answer_dogs` needs.

        Args:
            images: As for `predict_images`.
        """
        images = [halved(image, self.run.preprocessing.decoded_side) for image in images]
        looks = self._look(images, self.output_names)
        return [LookedAt(image.size, own) for image, own in zip(images, looks, strict=True)]

    def answer_dogs(
        self, dogs: Sequence[Sequence["LookedAt"]], top_k: int, started: float
    ) -> list[tuple[Prediction, int]]:
        """The answer to each dog, and which of its photos speaks most for the most probable breed.

        Args:
            dogs: The photos of each, at least one of at least one.
            top_k: As for `predict`.
            started: When the question came, by `time.perf_counter`.
        """
        run = self.run
        outputs = Outputs.concatenate([as_one(Outputs.concatenate([each.outputs for each in own])) for own in dogs])
        probabilities, verdicts = run.calibration.apply(outputs, run.is_listed)
        answered = answers_of(probabilities, verdicts, run.calibration, run.labels, top_k=top_k)
        seconds = time.perf_counter() - started
        found = []
        for answer, row, photos in zip(answered, probabilities, dogs, strict=True):
            label = run.labels.index(answer.breeds[0].breed)
            all_looks = [(look, index) for index, photo in enumerate(photos) for look in photo.looks]
            best, index = max(all_looks, key=lambda each: each[0].logits[label] - each[0].logits.mean())
            heat_map = None if best.heat_map is None else evidence(best.heat_map, label)
            region = _shares(best.box, photos[index].size)
            prediction = Prediction(
                **vars(answer), probabilities=row, heat_map=heat_map, region=region, seconds=seconds
            )
            found.append((prediction, index))
        return found

    def outputs(self, images: Sequence[Image.Image]) -> Outputs:
        """What the network finds in photos, all looks together.

        Args:
            images: As for `predict_images`.
        """
        images = [halved(image, self.run.preprocessing.decoded_side) for image in images]
        needed = [
            name for name in self.output_names if self.run.calibration.sure_margin is not None or name != "heat_map"
        ]
        return Outputs.concatenate([combined(looks) for looks in self._look(images, needed)])

    def features(self, photo: PhotoSource) -> np.ndarray:
        """Open a photo and find its features, `(1, D)`, which the model must give.

        Raises:
            BadImage: The photo can't be read.
        """
        features = self.outputs([open_image(photo, at_least=self.run.preprocessing.decoded_side)]).features
        assert features is not None
        return features

    def read_outputs(
        self, sources: Iterable[Place | bytes], batch_size: int
    ) -> Iterator[tuple[str, Outputs] | BadImage]:
        """Open photos on all cores, and run the network on this many at a time.

        Yields:
            For each photo, in order, its digest and the `outputs`, one row; or why it can't be read.
        """

        def load(source: Place | bytes) -> tuple[str, Image.Image]:
            content = read_bytes(source)
            return photo_digest(content), open_image(content, at_least=self.run.preprocessing.decoded_side)

        for batch in batches(read_photos(sources, load, num_ahead=2 * batch_size), batch_size):
            images = [photo[1] for photo in batch if not isinstance(photo, BadImage)]
            rows = iter(self.outputs(images).rows() if images else ())
            for photo in batch:
                yield photo if isinstance(photo, BadImage) else (photo[0], next(rows))

    def answer_images(self, images: Sequence[Image.Image | BadImage], *, top_k: int = 5) -> list[Answer | BadImage]:
        """Answer photos that were opened before; faster than `predict_images`, without heat maps.

        Args:
            images: Each upright and RGB, or why it could not be read.
            top_k: As for `predict`.

        Returns:
            The answer to each photo; a `BadImage` stays in its place.
        """
        opened = [image for image in images if not isinstance(image, BadImage)]
        found = iter(self.answers(self.outputs(opened), top_k) if opened else ())
        return [image if isinstance(image, BadImage) else next(found) for image in images]

    def answers(self, outputs: Outputs, top_k: int) -> list[Answer]:
        """The answers to photos of which the `outputs` are known."""
        run = self.run
        return answers(outputs, run.calibration, run.labels, top_k=top_k, listed=run.is_listed)

    def _look(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[list[Look]]:
        """All looks at each photo, those of the same number in one forward pass.

        Args:
            images: The photos.
            names: The network's outputs to compute.
        """
        preprocessing = self.run.preprocessing
        looks: list[list[Look]] = [[] for _ in images]
        boxes = {index: preprocessing.region(*image.size) for index, image in enumerate(images)}
        if self.run.calibration.sure_margin is not None and "heat_map" in names:
            boxes = {index: first_box(images[index].size, centre) for index, centre in boxes.items()}
        while boxes:
            pixels = np.stack([preprocessing(images[index], box) for index, box in boxes.items()])
            found = self._network.run(names, pixels)
            for row, (index, box) in enumerate(boxes.items()):
                looks[index].append(Look(box, **{name: values[row] for name, values in found.items()}))
            nexts = {
                index: next_box(
                    looks[index], images[index].size, self.run.calibration, partial(self._likeliest_dog, images[index])
                )
                for index in boxes
            }
            boxes = {index: box for index, box in nexts.items() if box is not None}
        return looks

    def warm_up(self) -> None:
        """Answer a blank photo, because the first answer takes longer than the later ones."""
        self.predict(Image.new("RGB", (self.run.preprocessing.size, self.run.preprocessing.size)))

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits `(B, C)` of pixels `(B, 3, H, W)`, one look at each, before calibration."""
        return self._network.run(["logits"], pixels)["logits"]


@dataclass(frozen=True)
class LookedAt:
    """What is known of a photo when it has been looked at."""

    size: tuple[int, int]
    """Width and height, pixels."""
    looks: list[Look]

    @property
    def outputs(self) -> Outputs:
        """Of all looks together, one row."""
        return combined(self.looks)


def _shares(region: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    (left, top, right, bottom), (width, height) = region, size
    return left / width, top / height, right / width, bottom / height


def _network_file(run: RunFolder) -> NetworkFile:
    probe = run.calibration.dog_probe
    return NetworkFile(
        path=str(run.onnx),
        size=run.preprocessing.size,
        num_labels=len(run.labels),
        num_features=None if probe is None else len(DogProbe.from_text(probe).weights),
        logit_scale=run.record.logit_scale,
        is_8bit=run.is_8bit,
        is_limited=not run.is_shipped,
    )


def evidence(heat_maps: np.ndarray, label: int) -> np.ndarray:
    """Where a photo speaks for one class rather than for the others, and more than on average: 0..1.

    Only differences between logits have a meaning, so the maps are taken relative to the mean of all classes.

    Args:
        heat_maps: `(C, h, w)`, the model's own, in units of logits.
        label: The class.

    Returns:
        `(h, w)` float32; the strongest place is 1, places below the average are 0.
    """
    relative = heat_maps[label] - heat_maps.mean(axis=0)
    above = (relative - relative.mean()).clip(min=0)
    return (above / max(above.max(), 1e-12)).astype(np.float32)
