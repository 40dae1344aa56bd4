"""One run on a labelled set."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from dogbreeds import metrics
from dogbreeds.errors import UserError
from dogbreeds.images import BadImage, open_image
from dogbreeds.machine import num_cores
from dogbreeds.serving.predictor import Predictor
from dogbreeds.training.config import TrainConfig
from dogbreeds.training.data import LeftOut, Photos, prepare, read_dataset

BATCH_SIZE = 32


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    figures: dict[str, float]
    """`dogbreeds.metrics.summary` of the calibrated probabilities, the share of each verdict, and top-1 among the
    confident answers where there are any."""
    unreadable: tuple[LeftOut, ...]
    """Labelled photos that could not be opened and so are not in the figures."""


def evaluate(predictor: Predictor, photos: Photos, *, progress: bool = True) -> Evaluation:
    """Classify labelled photos and score the calibrated probabilities.

    Args:
        predictor: The run to judge.
        photos: From `photos_of`.
        progress: Show a progress bar.

    Raises:
        UserError: The photos have a breed that the model does not know, or none can be opened.
    """
    run = predictor.run
    unknown = [name for name in photos.names if name not in run.labels]
    if unknown:
        raise UserError(
            f"the run {run.name!r} does not know {len(unknown)} of the breeds in this data, such as {unknown[0]!r}: "
            "leave their photos out, or use a run that was trained on them"
        )
    label_of = np.array([run.labels.index(name) for name in photos.names])
    logits, labels, unreadable = [], [], []
    bar = tqdm(total=len(photos), desc="evaluating", unit="photo", disable=not progress)
    with bar:
        for indices, pixels, bad in _views(predictor, photos):
            unreadable += bad
            if len(indices):
                logits.append(predictor.logits(pixels))
                labels.append(label_of[photos.labels[indices]])
            bar.update(len(indices) + len(bad))
    if not logits:
        raise UserError("none of the photos can be opened")
    all_logits, all_labels = np.concatenate(logits), np.concatenate(labels)
    assert len(all_labels) + len(unreadable) == len(photos), (len(all_labels), len(unreadable), len(photos))
    verdicts = run.calibration.verdicts(all_logits)
    shares = {f"share_{name}": verdicts.count(name) / len(verdicts) for name in ("confident", "unsure", "not_a_dog")}
    probabilities = run.calibration.probabilities(all_logits)
    figures = {**metrics.summary(probabilities, all_labels), **shares}
    confident = np.array(verdicts) == "confident"
    if confident.any():
        figures["top1_confident"] = metrics.top_k_accuracy(probabilities[confident], all_labels[confident], 1)
    return Evaluation(figures, tuple(unreadable))


def photos_of(predictor: Predictor, data: str, split: str | None = None) -> Photos:
    """The labelled photos to judge a run on.

    Args:
        predictor: The run.
        data: As for `dogbreeds.training.data.read_dataset`.
        split: A split of the data. One that the data does not bring is cut as the run's training cut it, and is
            refused if that gives other photos. By default test, else validation, else all there is.

    Raises:
        UserError: There is no such data or split.
    """
    given = read_dataset(data)
    if split is None:
        split = next(name for name in ("test", "validation", "train") if name in given)
        if split == "train" and data == predictor.run.record["config"]["data"]:
            print(
                f"note: the run {predictor.run.name!r} was trained on most of these photos; --split validation judges "
                "it on those held out",
                file=sys.stderr,
            )
    elif split not in given:
        return _cut_again(predictor, data, split)
    photos = given[split]
    if predictor.run.record["config"]["breeds"]:  # a run on a part of the breeds is judged on that part
        known = [label for label, name in enumerate(photos.names) if name in predictor.run.labels]
        kept = np.flatnonzero(np.isin(photos.labels, known))
        if len(kept) < len(photos):
            print(
                f"left out {len(photos) - len(kept)} photos of breeds that the run was not trained on", file=sys.stderr
            )
            photos = photos.select(kept)
        if not len(kept):
            raise UserError(f"{data!r} has no photos of the breeds that the run {predictor.run.name!r} knows")
    present = np.unique(photos.labels)
    names = tuple(photos.names[label] for label in present)
    return replace(photos, names=names, labels=np.searchsorted(present, photos.labels))


def _cut_again(predictor: Predictor, data: str, split: str) -> Photos:
    record = predictor.run.record
    if split not in ("validation", "test"):
        raise UserError(f"there is no split {split!r} in {data!r}: use train, validation or test")
    print(f"{data!r} has no {split} split; cutting it as in the training of {predictor.run.name!r}", file=sys.stderr)
    splits = prepare(replace(TrainConfig.from_dict(record["config"]), data=data), progress=False)
    if splits.split_hash != record["data"]["split_hash"]:
        raise UserError(
            f"{data!r} has no {split} split, and it is not the data that the run {predictor.run.name!r} was trained on"
        )
    photos = splits.validation if split == "validation" else splits.test
    if photos is None:
        raise UserError(f"the run {predictor.run.name!r} was trained without a test split (--test-fraction 0)")
    return photos


def _views(predictor: Predictor, photos: Photos) -> Iterator[tuple[np.ndarray, np.ndarray, list[LeftOut]]]:
    """Batches of indices, pixels and the photos that can't be opened; decoding goes on ahead of the model."""
    view = predictor.run.view

    def load(index: int) -> np.ndarray | LeftOut:
        try:
            return view(open_image(photos.sources[index]))
        except BadImage as error:
            return LeftOut(photos.ids[index], str(error))

    starts = range(0, len(photos), BATCH_SIZE)
    batches = [range(start, min(start + BATCH_SIZE, len(photos))) for start in starts]
    with ThreadPoolExecutor(num_cores()) as pool:
        ahead = [pool.submit(load, index) for index in batches[0]]
        for number, batch in enumerate(batches):
            loaded = [future.result() for future in ahead]
            ahead = [pool.submit(load, index) for index in batches[number + 1]] if number + 1 < len(batches) else []
            good = [(index, view_) for index, view_ in zip(batch, loaded, strict=True) if isinstance(view_, np.ndarray)]
            bad = [item for item in loaded if isinstance(item, LeftOut)]
            indices = np.array([index for index, _ in good], dtype=np.int64)
            yield indices, np.stack([pixels for _, pixels in good]) if good else np.empty(0), bad
