"""Add a breed to a run from a few photos of it, without training and without torch.

The model's `logits` and `heat_map` get one more class, computed from the others' (`dogbreeds.serving.new_breed`). All
else stays as it is: the answers to dogs of the breeds before, and what calibrates them.
"""

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dogbreeds import run_folder
from dogbreeds.breeds import label_name
from dogbreeds.errors import UserError, printable, report
from dogbreeds.files import check_absent, whole_or_absent, write_json
from dogbreeds.json_types import is_plain
from dogbreeds.model_card import model_card
from dogbreeds.photos import photo_files
from dogbreeds.predictions import Predictions
from dogbreeds.preprocessing import PREPROCESSOR
from dogbreeds.record import AddedBreed, RunRecord
from dogbreeds.run_folder import RunFolder, predictions_file
from dogbreeds.serving.calibrate import Folder, find_outputs
from dogbreeds.serving.new_breed import NewLogit, left_out_margins, smaller_group
from dogbreeds.serving.predictor import Predictor
from dogbreeds.split_file import ADDED, SPLITS, load_splits, save_splits

MAX_NAME = 200
"""Characters, as of every label."""
MIN_PHOTOS = 5
"""Of the new breed."""
MAX_MARGIN_ODD = -1.0
"""A photo that falls short of the breed of the others by this, and is confidently of a known one, does not fit."""


def add_breed(name: str, photos: Path, run_dir: Path, output: Path, *, progress: bool = True) -> str:
    """Write a copy of a run that knows one more breed.

    Args:
        name: Of the breed.
        photos: A folder of at least `MIN_PHOTOS` photos of it; five to twenty are enough.
        run_dir: The run.
        output: The run folder to make. It has no weights for PyTorch.
        progress: Show a progress bar.

    Returns:
        How well the breed is recognised, and what that costs the others, in words.

    Raises:
        UserError: The run knows the breed, is damaged, or holds no predictions for its validation photos; there are too
            few photos on which a dog is seen, or some that do not fit the others, which are named; `output` exists.
    """
    check_absent(output)
    run = RunFolder.open(run_dir)
    name = _new_name(name, run)
    validation = _predictions(run, "validation")
    files = photo_files(photos)
    found = _with_a_dog(find_outputs(Predictor(run), name, files, np.full(len(files), -1), progress), run)
    of_validation = _logits(validation, run)
    others = of_validation
    if _holds(run, ADDED):
        others = np.concatenate([others, _logits(_predictions(run, ADDED), run)])
    margins = _checked_margins(found, photos, others, run)
    new = NewLogit.fit(found.outputs.logits, others)
    lost = validation.labels[validation.right & (new.margin(of_validation) > 0)]
    added = AddedBreed(
        name=name,
        num_photos=len(found.digests),
        num_recognised=int((margins > 0).sum()),
        loss=len(lost) / len(validation),
        command=shlex.join(["python", "-m", "dogbreeds", *sys.argv[1:]]),
    )
    _save(run, output, replace(run.record, added_breeds=[*(run.record.added_breeds or ()), added]), new, found)
    return _in_words(added, Counter(run.labels[label] for label in lost), len(validation), output)


def _new_name(text: str, run: RunFolder) -> str:
    """The name as the data set's breeds are called, if the run does not know it."""
    name = label_name(text)
    if not 0 < len(name) <= MAX_NAME or not is_plain(name):
        raise UserError(f"{printable(text)!r} is no name of a breed: give another NAME")
    if known := [label for label in run.labels if label.casefold() == name.casefold()]:
        raise UserError(f"the run {run.name!r} knows {known[0]!r} already: give another name, or use it as it is")
    return name


def _holds(run: RunFolder, split: str) -> bool:
    return (run.path / predictions_file(split)).is_file()


def _predictions(run: RunFolder, split: str) -> Predictions:
    predictions = Predictions.load(run.path / predictions_file(split))
    if predictions.names != run.labels:
        raise UserError(f"{str(run.path / predictions_file(split))!r} is damaged: its breeds are not those of the run")
    return predictions


def _with_a_dog(found: Folder, run: RunFolder) -> Folder:
    """The photos on which the run sees a dog; the others, which say nothing of the breed, are named and left out."""
    verdicts = run.calibration.apply(found.outputs)[1]
    is_dog = np.array([verdict != "not_a_dog" for verdict in verdicts])
    for i in np.flatnonzero(~is_dog):
        report(f"left out {found.paths[i]}: no dog is seen on it: crop it to the dog, if there is one")
    return found.select(is_dog)


def _checked_margins(found: Folder, folder: Path, others: np.ndarray, run: RunFolder) -> np.ndarray:
    """The `left_out_margins` of photos of one breed.

    Raises:
        UserError: There are too few, or some do not fit; these are named.
    """
    num = len(found.paths)
    if num < MIN_PHOTOS:
        raise UserError(
            f"{str(folder)!r} holds {num} photos of the new breed: add {MIN_PHOTOS - num} or more, at least "
            f"{MIN_PHOTOS} are needed"
        )
    probabilities, verdicts = run.calibration.apply(found.outputs)
    logits = found.outputs.logits
    margins = left_out_margins(logits, others)
    stranger = smaller_group(logits, others)
    if not stranger.any():
        stranger = (margins < MAX_MARGIN_ODD) & (np.array(verdicts) == "confident")
    if stranger.any():
        like = [run.labels[label] for label in probabilities.argmax(axis=1)]
        names = ", ".join(f"{found.paths[i].name} (like {like[i]})" for i in np.flatnonzero(stranger))
        raise UserError(
            f"the photos in {str(folder)!r} are not of one breed: these do not fit the others: {names}; take them out"
        )
    return margins


def _save(run: RunFolder, output: Path, record: RunRecord, new: NewLogit, found: Folder) -> None:
    """Write the run folder with one more breed, the last of `record.added_breeds`."""
    assert record.added_breeds
    labels = (*run.labels, record.added_breeds[-1].name)
    with whole_or_absent(output) as partial:
        for file in (PREPROCESSOR, run_folder.HISTORY, run_folder.CALIBRATION_PHOTOS):
            if (run.path / file).is_file():
                shutil.copyfile(run.path / file, partial / file)
        write_json(partial / run_folder.CONFIG, run_folder.with_label(run.config, labels[-1]))
        model = onnx.load(run.onnx)
        add_class(model.graph, new, record.logit_scale)
        (partial / record.serving_model).parent.mkdir()
        onnx.save(model, partial / record.serving_model)
        for split in ("validation", "test"):
            if _holds(run, split):
                _with_breed(_predictions(run, split), run, new, labels).save(partial / predictions_file(split))
        _added_predictions(run, new, found, labels).save(partial / predictions_file(ADDED))
        if splits := load_splits(run.path / SPLITS):
            splits[ADDED] = {**splits.get(ADDED, {}), **dict.fromkeys(found.digests, labels[-1])}
            save_splits(
                partial / SPLITS,
                {split: list(photos) for split, photos in splits.items()},
                {split: list(photos.values()) for split, photos in splits.items()},
            )
        (partial / run_folder.CARD).write_text(model_card(output.name, record, labels), encoding="utf-8")
        run_folder.commit(partial, output, record)


def add_class(graph: onnx.GraphProto, new: NewLogit, logit_scale: float) -> None:
    """Give the `logits` of a serving model, and its `heat_map` if it has one, one more class behind the others.

    Args:
        graph: The model's.
        new: The class, for logits as they were trained.
        logit_scale: See `RunRecord`.
    """
    num = len(new.weights)
    for output in graph.output:
        name = output.name
        if name not in ("logits", "heat_map"):
            continue
        before, added, weights, bias = (f"{name}_{what}_{num}" for what in ("of", "added_to", "weights", "bias"))
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [before if each == name else each for each in names]
        shape = (1, num) if name == "logits" else (1, num, 1, 1)
        graph.initializer.append(numpy_helper.from_array(new.weights.reshape(shape), weights))
        constant = new.bias / logit_scale if name == "logits" else new.bias
        graph.initializer.append(numpy_helper.from_array(np.array([constant], np.float32), bias))
        graph.node.append(
            helper.make_node("Gemm", [before, weights, bias], [added], name=added, transB=1)
            if name == "logits"
            else helper.make_node("Conv", [before, weights, bias], [added], name=added)
        )
        graph.node.append(helper.make_node("Concat", [before, added], [name], name=f"{name}_with_{num}", axis=1))
        output.type.tensor_type.shape.dim[1].dim_value = num + 1


def _with_breed(predictions: Predictions, run: RunFolder, new: NewLogit, labels: Sequence[str]) -> Predictions:
    """The same with the probability of one more breed."""
    logits = new.appended(_logits(predictions, run))
    return replace(
        predictions,
        names=tuple(labels),
        probabilities=run.calibration.probabilities(logits),
        temperature=run.calibration.temperature,
    )


def _logits(predictions: Predictions, run: RunFolder) -> np.ndarray:
    return predictions.logits(run.calibration.temperature)


def _added_predictions(run: RunFolder, new: NewLogit, found: Folder, labels: Sequence[str]) -> Predictions:
    """Those for the photos that breeds were added from: the next breed is told from them too."""
    added = Predictions(
        ids=tuple(path.name for path in found.paths),
        digests=found.digests,
        labels=np.full(len(found.digests), len(labels) - 1),
        names=tuple(labels),
        probabilities=run.calibration.probabilities(new.appended(found.outputs.logits)),
        temperature=run.calibration.temperature,
    )
    if not _holds(run, ADDED):
        return added
    before = _with_breed(_predictions(run, ADDED), run, new, labels)
    return Predictions(
        before.ids + added.ids,
        before.digests + added.digests,
        np.concatenate([before.labels, added.labels]),
        added.names,
        np.concatenate([before.probabilities, added.probabilities]),
        added.temperature,
    )


def _in_words(added: AddedBreed, lost: Counter[str], num: int, output: Path) -> str:
    of = ", ".join(f"{count} of {label}" for label, count in lost.most_common(3))
    return (
        f"{added.name}: of its {added.num_photos} photos, {added.num_recognised} are recognised by the others; of "
        f"{num:,} validation photos, {lost.total()} lost their right answer to it{f' ({of})' if of else ''}\n{output}"
    )
