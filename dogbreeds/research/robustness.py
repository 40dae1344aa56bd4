"""How runs answer photos that are made worse (`dogbreeds.research.corruptions`), the same photos for all.

Each run answers as it is served, with its own view and looks. Of a photo, what is random is decided by its content, so
runs are compared photo by photo, whenever they are judged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dogbreeds import metrics
from dogbreeds.calibration import Verdict
from dogbreeds.calibration_photos import DIGEST_DIGITS
from dogbreeds.errors import UserError
from dogbreeds.files import whole_or_absent, write_csv
from dogbreeds.images import BadImage, open_image
from dogbreeds.photos import places_by_digest
from dogbreeds.research.benchmark import known_photos
from dogbreeds.research.corruptions import CORRUPTIONS, NUM_SEVERITIES, corrupted, to_scale
from dogbreeds.research.document import PICTURES, render
from dogbreeds.research.evaluate import check_known, missing_answers, training_remarks
from dogbreeds.research.plots import top1_by_severity
from dogbreeds.research.significance import bootstrap_interval, calibration_error, holm, sign_flip
from dogbreeds.run_folder import RunFolder, unique_names
from dogbreeds.serving.predictor import Predictor
from dogbreeds.training.datasets.checks import LeftOut, concatenated
from dogbreeds.training.datasets.sources import Photos, read_dataset

PLAIN = ("as it is", 0)
"""The photo itself, as corruption and severity."""

_HEADER = ["run", "corruption", "severity", "sha256", "label", "breed", "probability", "verdict"]


@dataclass(frozen=True)
class Answers:
    """Those of one run, `(conditions, photos)`; the first condition is `PLAIN`."""

    name: str
    right: np.ndarray
    """Whether the most probable breed is."""
    predicted: np.ndarray
    """Its label."""
    confidence: np.ndarray
    """Its probability."""
    verdicts: np.ndarray
    remarks: tuple[str, ...]
    """What flatters the run, and what it can't answer."""


@dataclass(frozen=True)
class Score:
    """How good a run's answers are under some conditions together."""

    top1: float
    interval: tuple[float, float]
    """95 %: photos are drawn again, each with all of its conditions."""
    ece: float
    share_confident: float
    top1_confident: float | None
    """Of the confident answers, those that are right; None if there are none."""


@dataclass(frozen=True)
class Difference:
    """How much less one run loses than another, from the photo as it is to the one made worse, in shares."""

    first: str
    second: str
    corruption: str
    less_lost: float
    interval: tuple[float, float]
    p_value: float
    """`sign_flip`, corrected (`holm`) for the number of differences."""


@dataclass(frozen=True)
class Robustness:
    """The result of `robustness`."""

    runs: tuple[Answers, ...]
    conditions: tuple[tuple[str, int], ...]
    """Corruption and severity."""
    labels: np.ndarray
    """`(photos,)`, of `names`."""
    names: tuple[str, ...]
    digests: tuple[str, ...]
    data: str
    unreadable: tuple[LeftOut, ...]
    num_known: int
    """Photos that were left out because a run was trained or calibrated on them."""

    @property
    def corruptions(self) -> list[str]:
        """Each once, without `PLAIN`."""
        return list(dict.fromkeys(name for name, _ in self.conditions[1:]))

    def rows_of(self, corruption: str) -> list[int]:
        """The conditions of a corruption, by their positions."""
        return [index for index, (name, _) in enumerate(self.conditions) if name == corruption]

    def score(self, run: Answers, rows: list[int]) -> Score:
        """A run's score under these conditions."""
        right, confidence = run.right[rows], run.confidence[rows]
        sure = run.verdicts[rows] == "confident"
        bins = metrics.confidence_bins(confidence.ravel())
        return Score(
            top1=float(right.mean()),
            interval=_interval(right),
            ece=calibration_error(bins, (right - confidence).ravel()),
            share_confident=float(sure.mean()),
            top1_confident=float(right[sure].mean()) if sure.any() else None,
        )

    def differences(self) -> list[Difference]:
        """Of each two runs, for each corruption."""
        found: dict[tuple[str, str, str], np.ndarray] = {}
        for first, second in combinations(self.runs, 2):
            ahead = first.right.astype(float) - second.right
            for corruption in self.corruptions:
                less_lost = ahead[self.rows_of(corruption)].mean(axis=0) - ahead[0]
                found[first.name, second.name, corruption] = less_lost
        p_values = holm([sign_flip(less_lost) for less_lost in found.values()])
        return [
            Difference(*names, float(less_lost.mean()), bootstrap_interval(less_lost), p_value)
            for (names, less_lost), p_value in zip(found.items(), p_values, strict=True)
        ]

    def __str__(self) -> str:
        return render("robustness.md.jinja", found=self, picture=None)

    def save(self, folder: Path) -> None:
        """Write robustness.md with its picture, robustness.csv, and answers.csv with the answer to each photo.

        Raises:
            UserError: The folder exists already or can't be made.
        """
        with whole_or_absent(folder) as unfinished:
            (unfinished / PICTURES).mkdir()
            picture = f"{PICTURES}/robustness.png"
            (unfinished / picture).write_bytes(top1_by_severity(self._curves()))
            text = render("robustness.md.jinja", found=self, picture=picture)
            (unfinished / "robustness.md").write_text(text, encoding="utf-8")
            header = ["run", "corruption", "severity", "n", "top1", "low", "high", "ece", "confident", "top1_confident"]
            write_csv(unfinished / "robustness.csv", [header, *self._scores()])
            write_csv(unfinished / "answers.csv", [_HEADER, *self._answers()])

    def _curves(self) -> dict[str, dict[str, list[tuple[float, float, float, float]]]]:
        """By corruption and run: severity, top-1 and its interval, from the photo as it is."""
        return {
            corruption: {
                run.name: [self._point(run, row) for row in (0, *self.rows_of(corruption))] for run in self.runs
            }
            for corruption in self.corruptions
        }

    def _point(self, run: Answers, row: int) -> tuple[float, float, float, float]:
        score = self.score(run, [row])
        return self.conditions[row][1], score.top1, *score.interval

    def _scores(self) -> Iterator[list[object]]:
        for run in self.runs:
            for index, condition in enumerate(self.conditions):
                score = self.score(run, [index])
                values = [score.top1, *score.interval, score.ece, score.share_confident, score.top1_confident]
                yield [run.name, *condition, len(self.labels), *values]

    def _answers(self) -> Iterator[list[object]]:
        for run in self.runs:
            for index, condition in enumerate(self.conditions):
                for photo, digest in enumerate(self.digests):
                    label, predicted = (self.names[each] for each in (self.labels[photo], run.predicted[index, photo]))
                    confidence = f"{run.confidence[index, photo]:.6f}"
                    yield [run.name, *condition, digest, label, predicted, confidence, run.verdicts[index, photo]]


def robustness(
    run_dirs: Sequence[Path],
    data: str,
    *,
    num_photos: int = 200,
    severities: Sequence[int] = (1, 3, 5),
    progress: bool = True,
) -> Robustness:
    """Let runs answer photos as they are, and made worse, which none of them was trained or calibrated on.

    Args:
        run_dirs: Run folders with the same breeds, each once.
        data: As for `dogbreeds.training.datasets.sources.read_dataset`.
        num_photos: How many are drawn, by a hash of their content.
        severities: Of each corruption, 1 to `NUM_SEVERITIES`.
        progress: Show a progress bar.

    Raises:
        UserError: A run is missing or damaged, knows other breeds than the first or lacks one of the data; a severity
            does not exist; no photo is left.
    """
    if wrong := [each for each in severities if not 1 <= each <= NUM_SEVERITIES]:
        raise UserError(f"--severities {wrong[0]}: must be from 1 to {NUM_SEVERITIES}")
    runs = [RunFolder.open(path) for path in run_dirs]
    if other := next((run for run in runs if run.labels != runs[0].labels), None):
        raise UserError(f"{other.name} knows other breeds than {runs[0].name}: compare runs of the same breeds")
    photos = concatenated(list(read_dataset(data).values()))
    check_known(runs[0], photos)
    chosen, unreadable, num_known = _drawn(photos, num_photos, set().union(*map(known_photos, runs)))
    conditions = (PLAIN, *((name, severity) for name in CORRUPTIONS for severity in severities))
    predictors = [Predictor(run) for run in runs]
    answers: list[list[tuple[np.ndarray, list[Verdict]]]] = [[] for _ in runs]
    bar = tqdm(chosen, "answering", unit="photo", disable=not progress)
    for digest, _, photo in bar:
        seed = int(digest[:8], 16)
        worse = [photo, *(corrupted(photo, name, severity, seed) for name, severity in conditions[1:])]
        for predictor, found in zip(predictors, answers, strict=True):
            found.append(predictor.run.calibration.apply(predictor.outputs(worse)))
    names = runs[0].labels
    labels = np.array([names.index(breed) for _, breed, _ in chosen])
    digests = tuple(digest for digest, _, _ in chosen)
    return Robustness(
        runs=tuple(
            _answers_of(name, run, found, labels, digests)
            for name, run, found in zip(unique_names(runs), runs, answers, strict=True)
        ),
        conditions=conditions,
        labels=labels,
        names=names,
        digests=digests,
        data=data,
        unreadable=tuple(unreadable),
        num_known=num_known,
    )


def _interval(right: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the share of right answers, from `(conditions, photos)`.

    Of one condition, or where each photo is right in all or in none, it is Wilson's: the bootstrap of photos that are
    all alike has no width.
    """
    of_photos = right.mean(axis=0)
    if np.isin(of_photos, (0.0, 1.0)).all():
        return metrics.wilson_interval(int(of_photos.sum()), len(of_photos))
    return bootstrap_interval(of_photos)


def _drawn(photos: Photos, num: int, known: set[str]) -> tuple[list[tuple[str, str, Image.Image]], list[LeftOut], int]:
    """Photos with the smallest digests, each once: digest, breed and the photo to scale; and how many are known."""
    place_of, not_read = places_by_digest(photos.sources)
    unreadable = [LeftOut(photos.ids[place], str(error)) for place, error in not_read.items()]
    is_known = {digest: digest[:DIGEST_DIGITS] in known for digest in place_of}
    num_known = sum(is_known.values())
    chosen: list[tuple[str, str, Image.Image]] = []
    for digest in sorted(digest for digest in place_of if not is_known[digest]):
        if len(chosen) == num:
            break
        index = place_of[digest]
        try:
            chosen.append((digest, photos.names[photos.labels[index]], to_scale(open_image(photos.sources[index]))))
        except BadImage as error:
            unreadable.append(LeftOut(photos.ids[index], str(error)))
    if not chosen:
        raise UserError(
            f"none of the {len(photos):,} photos is left: {num_known:,} were used to train or to calibrate one of the "
            f"runs, and {len(unreadable):,} can't be read"
        )
    return chosen, unreadable, num_known


def _answers_of(
    name: str,
    run: RunFolder,
    found: list[tuple[np.ndarray, list[Verdict]]],
    labels: np.ndarray,
    digests: tuple[str, ...],
) -> Answers:
    probabilities = np.stack([photo for photo, _ in found], axis=1)  # (conditions, photos, C)
    predicted = probabilities.argmax(axis=2)
    return Answers(
        name=name,
        right=predicted == labels,
        predicted=predicted,
        confidence=probabilities.max(axis=2),
        verdicts=np.array([verdicts for _, verdicts in found]).T,
        remarks=(*training_remarks(run, digests), *missing_answers(run)),
    )
