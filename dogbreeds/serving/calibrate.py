"""Calibrate a run on photos of one's own: temperature, thresholds and dog probe, without torch.

A part of the given photos, chosen by a hash of their content, fits nothing: the figures of the split "everyday" in
run.json are theirs.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import get_args

import numpy as np
from tqdm import tqdm

from dogbreeds import metrics
from dogbreeds.addresses import reason
from dogbreeds.answers import answer_rates, num_rated
from dogbreeds.breeds import label_name
from dogbreeds.calibration import (
    KNOWN_PASS_RATE,
    MIN_LABELLED,
    MIN_OTHERS,
    NAMING,
    Calibration,
    Outputs,
    Verdict,
    dog_score,
)
from dogbreeds.calibration_photos import read_uses, uses, write_uses
from dogbreeds.errors import UserError, report
from dogbreeds.files import atomic_write, write_json
from dogbreeds.images import BadImage
from dogbreeds.looks import ENOUGH
from dogbreeds.model_card import model_card
from dogbreeds.photo_paths import open_paths
from dogbreeds.photos import is_list, photo_files
from dogbreeds.run_folder import CALIBRATION_PHOTOS, CARD, RECORD, RunFolder
from dogbreeds.serving.predictor import Predictor

CHECK_SHARE = 0.4
"""Of the photos, those that only check."""
BATCH_SIZE = 16
OTHER_VERDICTS: tuple[Verdict, ...] = ("confident", "unknown_breed", "not_a_dog")
"""Verdicts on other photos and other dogs whose shares are figures."""


@dataclass(frozen=True)
class Folder:
    """The photos of one folder, and what the network finds in them."""

    kind: str
    """dogs, other photos or other dogs."""
    outputs: Outputs
    labels: np.ndarray
    """`(N,)`; -1 of other photos and other dogs."""
    digests: tuple[str, ...]
    paths: tuple[Path, ...]

    @property
    def checks(self) -> np.ndarray:
        """`(N,)` bool: the photos that only check."""
        return np.array([int(digest[:8], 16) < CHECK_SHARE * 16**8 for digest in self.digests])

    def select(self, chosen: np.ndarray) -> "Folder":
        """The photos of which this is true, `(N,)` bool."""
        return replace(
            self,
            outputs=self.outputs.select(chosen),
            labels=self.labels[chosen],
            digests=tuple(compress(self.digests, chosen)),
            paths=tuple(compress(self.paths, chosen)),
        )


def calibrate(
    run_dir: Path,
    data: Path,
    *,
    other_photos: Path | None = None,
    other_dogs: Path | None = None,
    looks: bool | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Fit a run's calibration anew, check it, and write both to its run.json and card.

    What the run can do and will not be able to do without other photos is named before the work begins.

    Args:
        run_dir: A local run folder.
        data: Dogs of breeds that the run knows, one sub-folder a breed or a labelled list; not what the run was trained
            on.
        other_photos: Photos without a dog, a folder or a list.
        other_dogs: Dogs of breeds that the run does not know, or of mixed breed, likewise.
        looks: Let the run look closer where a first look is not sure; see `dogbreeds.looks`. By default it does so if
            it did before.
        progress: Show progress bars.

    Returns:
        The figures of the photos that only check, as in run.json.

    Raises:
        UserError: A folder is missing; has too few photos, breeds that the run does not know, or only one; the run is
            damaged, on the Hub, or can't be written.
    """
    if not run_dir.is_dir():
        raise UserError(f"there is no run folder {str(run_dir)!r}: calibrate changes a local one; copy it here first")
    run = RunFolder.open(run_dir)
    _check_writable(run)
    files = _labelled_files(data, run)
    others = {"other photos": other_photos, "other dogs": other_dogs}
    other_files = {kind: photo_files(folder) for kind, folder in others.items() if folder is not None}
    _say_what_is_lost(run, other_photos, other_dogs)
    if looks is None:
        looks = run.calibration.sure_margin is not None
    if looks:
        run = _with_looks(run, data, files, progress)
    else:
        one_look = replace(run.calibration, sure_margin=None, seen_score=None)
        run = replace(run, record=replace(run.record, calibration=one_look))
    predictor = Predictor(run)
    if "features" not in predictor.output_names and other_photos is not None:
        report(f"note: the model of {run.name!r} gives no features: train it again for the dog probe")
    dogs = find_outputs(predictor, "dogs", list(files), np.array(list(files.values())), progress)
    _check_enough(dogs, MIN_LABELLED, data)
    found = {"dogs": dogs}
    for kind, paths in other_files.items():
        found[kind] = find_outputs(predictor, kind, paths, np.full(len(paths), -1), progress)
        _check_enough(found[kind], MIN_OTHERS, others[kind])
    calibration = _fit(found, run.calibration)
    figures = _figures(calibration, found, run)
    _save(run, calibration, figures, found)
    return figures


def verdict_shares(outputs: Outputs, calibration: Calibration) -> dict[Verdict, float]:
    """Of photos of something else, how many get each of `OTHER_VERDICTS`."""
    verdicts = calibration.apply(outputs)[1]
    return {verdict: verdicts.count(verdict) / len(verdicts) for verdict in OTHER_VERDICTS}


def in_words(figures: dict[str, float]) -> str:
    """The figures of `calibrate`, each rate with its 95 % interval."""
    n = int(figures["n"])

    rates = {name: metrics.share_with_interval(figures[name], num) for name, num in num_rated(figures).items()}
    lines = [f"checked on {n} photos that fitted nothing (95 % intervals):", f"top-1 {rates['top1']}"]
    lines.append(f"ECE {figures['ece']:.1%}")
    lines += [f"{verdict.replace('_', ' ')}: {rates[f'share_{verdict}']}" for verdict in get_args(Verdict)]
    if "top1_confident" in rates:
        lines.append(f"confident, of which right: {rates['top1_confident']}")
    if "named_right" in figures:
        num_named = round(n * sum(figures[f"share_{verdict}"] for verdict in NAMING))
        right = metrics.share_with_interval(figures["named_right"], num_named)
        lines.append(f"a breed, sure or not, of which right: {right}, estimated {figures['named_right_estimated']:.1%}")
    if "candidates_right" in rates:
        lines.append(f"unsure, of which the candidates hold the breed: {rates['candidates_right']}")
    for kind in ("other_photos", "other_dogs"):
        if num := int(figures.get(f"n_{kind}", 0)):
            named = [
                f"{verdict.replace('_', ' ')} {metrics.share_with_interval(figures[f'{kind}_{verdict}'], num)}"
                for verdict in OTHER_VERDICTS
            ]
            lines.append(f"{num} {kind.replace('_', ' ')}: {', '.join(named)}")
    return "\n".join(lines)


def _check_writable(run: RunFolder) -> None:
    """Refuse a run that could not be saved, before any work is done."""
    if not os.access(run.path, os.W_OK | os.X_OK):
        raise UserError(f"can't write in the run folder {str(run.path)!r}: calibrate changes it; name a copy of it")
    read_uses(run)


def _say_what_is_lost(run: RunFolder, other_photos: Path | None, other_dogs: Path | None) -> None:
    """Name what the run can do, and will not without photos to fit it on."""
    before = run.calibration
    if before.dog_probe is not None and other_photos is None:
        report(f"note: {run.name!r} loses its dog probe, which finds photos without a dog: --other-photos keeps it")
    if before.unknown_breed_threshold is not None and other_dogs is None:
        report(f"note: {run.name!r} loses the answer unknown_breed, a dog of no breed of it: --other-dogs keeps it")


def _labelled_files(data: Path, run: RunFolder) -> dict[Path, int]:
    """The photos of a list, or of a folder with one sub-folder a breed, each with the run's label."""
    if is_list(data):
        with open_paths(data) as listed:
            named = {listed.file(path): label_name(label) for path, label in listed.labelled().items()}
    else:
        named = {path: label_name(path.relative_to(data).parts[0]) for path in photo_files(data)}
    labels = {}
    for path, name in named.items():
        if path.parent == data or name not in run.labels:
            what = (
                f"the photo {path.name!r} is in no sub-folder" if path.parent == data else f"{name!r} is no breed of it"
            )
            raise UserError(
                f"{str(data)!r} can't calibrate the run {run.name!r}: {what}; it needs one sub-folder a breed, "
                "or a list with labels"
            )
        labels[path] = run.labels.index(name)
    if len(set(labels.values())) < 2:
        raise UserError(f"{str(data)!r} holds one breed: a calibration needs two or more, and as many as there are")
    return labels


def _with_looks(run: RunFolder, data: Path, files: dict[Path, int], progress: bool) -> RunFolder:
    """The run, looking again where a first look says too little; what is too little is fitted on first looks."""
    one_look = replace(run, record=replace(run.record, calibration=replace(run.calibration, sure_margin=None)))
    first = find_outputs(Predictor(one_look), "first looks", list(files), np.array(list(files.values())), progress)
    _check_enough(first, MIN_LABELLED, data)
    outputs, labels = first.outputs.select(~first.checks), first.labels[~first.checks]
    looking = replace(
        run.calibration,
        sure_margin=ENOUGH * Calibration.fit(outputs, labels).temperature,
        seen_score=float(np.quantile(dog_score(outputs.logits), 1 - KNOWN_PASS_RATE)),
    )
    return replace(run, record=replace(run.record, calibration=looking))


def find_outputs(predictor: Predictor, kind: str, paths: Sequence[Path], labels: np.ndarray, progress: bool) -> Folder:
    """Run the network on photos; those that can't be read, or come again, are named and left out."""
    outputs: list[Outputs] = []
    kept: list[int] = []
    first_paths: dict[str, Path] = {}  # of each photo, by its digest
    found = predictor.read_outputs(paths, BATCH_SIZE)
    for index, photo in enumerate(tqdm(found, kind, len(paths), unit="photo", disable=not progress)):
        if isinstance(photo, BadImage):
            report(f"left out {paths[index]}: {photo}")
        elif (first := first_paths.setdefault(photo[0], paths[index])) != paths[index]:
            report(f"left out {paths[index]}: it is the same photo as {first}")
        else:
            outputs.append(photo[1])
            kept.append(index)
    if not kept:
        raise UserError(f"none of the {len(paths)} {kind} can be opened")
    return Folder(kind, Outputs.concatenate(outputs), labels[kept], tuple(first_paths), tuple(first_paths.values()))


def _check_enough(folder: Folder, needed: int, place: Path | None) -> None:
    num = int((~folder.checks).sum())
    if num < needed:
        missing = int(np.ceil((needed - num) / (1 - CHECK_SHARE)))
        raise UserError(
            f"{str(place)!r} holds too few photos for a threshold: {len(folder.labels)}, of which {num} fit it and the "
            f"others check it; about {missing} more are needed"
        )


def _fit(found: dict[str, Folder], looking: Calibration) -> Calibration:
    """The calibration on the photos that do not check, for the looks that they were found with."""
    fitting = {kind: each.outputs.select(~each.checks) for kind, each in found.items()}
    calibration = Calibration.fit(
        fitting["dogs"],
        found["dogs"].labels[~found["dogs"].checks],
        other_photos=fitting.get("other photos"),
        other_dogs=fitting.get("other dogs"),
        fitted_on={kind: len(outputs) for kind, outputs in fitting.items()},
    )
    return replace(calibration, sure_margin=looking.sure_margin, seen_score=looking.seen_score)


def _figures(calibration: Calibration, found: dict[str, Folder], run: RunFolder) -> dict[str, float]:
    """The figures of the photos that only check."""
    checking = {kind: each.outputs.select(each.checks) for kind, each in found.items()}
    labels = found["dogs"].labels[found["dogs"].checks]
    probabilities = calibration.probabilities(checking["dogs"].logits)
    figures: dict[str, float] = {
        "n": len(labels),
        "top1": metrics.top_k_accuracy(probabilities, labels, 1),
        "top3": metrics.top_k_accuracy(probabilities, labels, 3),
        "top5": metrics.top_k_accuracy(probabilities, labels, 5),
        "log_loss": metrics.log_loss(probabilities, labels),
        "ece": metrics.expected_calibration_error(probabilities, labels),
        **answer_rates(checking["dogs"], labels, calibration, run.labels),
    }
    named = np.isin(calibration.apply(checking["dogs"])[1], NAMING)
    if named.any() and calibration.right_threshold is not None:
        best = probabilities[named].max(axis=1)
        figures["named_right"] = float((probabilities[named].argmax(axis=1) == labels[named]).mean())
        figures["named_right_estimated"] = float((best >= calibration.right_threshold).mean())
    for kind, outputs in checking.items():
        if kind != "dogs" and len(outputs):
            name = kind.replace(" ", "_")
            figures[f"n_{name}"] = len(outputs)
            for verdict, share in verdict_shares(outputs, calibration).items():
                figures[f"{name}_{verdict}"] = share
    return figures


def _save(run: RunFolder, calibration: Calibration, figures: dict[str, float], found: dict[str, Folder]) -> None:
    """Write run.json, the card, and which photos were used for what.

    The list of photos is replaced before the calibration, and holds the photos of both until that is replaced too: if
    this is stopped in between, no photo that fitted the run's calibration is missing for those who warn of it.
    """
    record = replace(
        run.record,
        calibration=calibration,
        figures={**run.record.figures, "everyday": figures},
        calibration_command=shlex.join(["python", "-m", "dogbreeds", *sys.argv[1:]]),
    )
    text = model_card(run.name, record, run.labels)
    used = [row for kind, folder in found.items() for row in uses(kind, folder.digests, folder.checks.tolist())]
    of_both = dict.fromkeys([*used, *read_uses(run)])
    try:
        with (  # all is written before the first is replaced, and the last is replaced first
            atomic_write(run.path / CARD) as card,
            atomic_write(run.path / RECORD) as new_record,
            atomic_write(run.path / CALIBRATION_PHOTOS) as photos,
        ):
            card.write_text(text, encoding="utf-8")
            write_json(new_record, record.to_json())
            write_uses(photos, of_both)
        if len(of_both) > len(used):
            with atomic_write(run.path / CALIBRATION_PHOTOS) as photos:
                write_uses(photos, used)
    except OSError as error:
        raise UserError(
            f"can't write in the run folder {str(run.path)!r} ({reason(error)}): solve that and give the same command "
            "again"
        ) from None
