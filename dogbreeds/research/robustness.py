"""How runs answer photos that are made worse (`dogbreeds.research.corruptions`), the same photos for all.

Each run answers as it is served, with its own view and looks. Of a photo, what is random is decided by its content, so
runs are compared photo by photo, whenever they are judged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dogbreeds import metrics
from dogbreeds.calibration_photos import DIGEST_DIGITS
from dogbreeds.errors import UserError
from dogbreeds.files import whole_or_absent, write_csv
from dogbreeds.images import BadImage, open_image
from dogbreeds.photos import places_by_digest, read_photos
from dogbreeds.research.benchmark import known_photos
from dogbreeds.research.corruptions import CORRUPTIONS, NUM_SEVERITIES, corrupted, to_scale
from dogbreeds.research.document import PICTURES, render, write_document
from dogbreeds.research.evaluate import check_known, missing_answers, training_remarks
from dogbreeds.research.kept_answers import KeptAnswers, keep_answers
from dogbreeds.research.plots import in_all_formats, top1_by_severity
from dogbreeds.research.provenance import Provenance, pinned
from dogbreeds.research.significance import (
    PhotoDraws,
    bootstrap_interval,
    calibration_error,
    calibration_error_by_chance,
    holm,
    interval_of_right,
    sign_flip,
)
from dogbreeds.run_folder import RunFolder, serving_files, unique_names
from dogbreeds.serving.predictor import Predictor
from dogbreeds.training.datasets.checks import LeftOut, concatenated
from dogbreeds.training.datasets.sources import Photos, read_dataset

PLAIN = ("as it is", 0)
"""The photo itself, as corruption and severity."""

NUM_AHEAD = 2
"""Photos that are made worse while others are answered: each is about 8 MB."""

_SCORES_HEADER = [
    "run", "corruption", "severity", "n", "top1", "low", "high",
    "ece", "ece_low", "ece_high", "ece_by_chance", "ece_by_chance_at_most",
    "confident", "confident_low", "confident_high",
    "top1_confident", "top1_confident_low", "top1_confident_high",
]  # fmt: skip
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
    top1_interval: tuple[float, float]
    """95 %, as all intervals: photos are drawn again, each with all of its conditions (`PhotoDraws`)."""
    ece: float
    ece_interval: tuple[float, float]
    ece_by_chance: tuple[float, float]
    """`calibration_error_by_chance`: the mean, and what it exceeds in 5 %."""
    share_confident: float
    confident_interval: tuple[float, float]
    top1_confident: float | None = None
    """Of the confident answers, those that are right; None if there are none."""
    top1_confident_interval: tuple[float, float] | None = None


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
    provenance: Provenance

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
            top1_interval=_interval(right),
            ece=calibration_error(bins, (right - confidence).ravel()),
            ece_interval=self._draws.of_calibration_error(confidence, right),
            ece_by_chance=calibration_error_by_chance(confidence),
            share_confident=float(sure.mean()),
            confident_interval=_interval(sure),
            top1_confident=float(right[sure].mean()) if sure.any() else None,
            top1_confident_interval=self._draws.of_share(right & sure, sure) if sure.any() else None,
        )

    @cached_property
    def _draws(self) -> PhotoDraws:
        return PhotoDraws(len(self.labels))

    @cached_property
    def by_condition(self) -> dict[tuple[str, int], Score]:
        """The score of each run under each condition, by its name and the condition's position."""
        return {(run.name, row): self.score(run, [row]) for run in self.runs for row in range(len(self.conditions))}

    @cached_property
    def by_corruption(self) -> dict[tuple[str, str], Score]:
        """The score of each run under each corruption of all severities, by their names; `PLAIN` is one of them."""
        names = [PLAIN[0], *self.corruptions]
        return {(run.name, name): self.score(run, self.rows_of(name)) for run in self.runs for name in names}

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
            Difference(*names, float(less_lost.mean()), interval_of_right(less_lost), p_value)
            for (names, less_lost), p_value in zip(found.items(), p_values, strict=True)
        ]

    def __str__(self) -> str:
        return render("robustness.md.jinja", found=self, picture=None)

    def save(self, folder: Path) -> None:
        """Write the report (`write_document`), robustness.csv, and answers.csv with the answer to each photo.

        Raises:
            UserError: The folder exists already or can't be made.
        """
        with whole_or_absent(folder) as unfinished:
            text = render("robustness.md.jinja", found=self, picture=f"{PICTURES}/robustness.png")
            pictures = in_all_formats({"robustness": top1_by_severity(self._curves())})
            write_document(unfinished, "robustness", text, pictures)
            write_csv(unfinished / "robustness.csv", [_SCORES_HEADER, *self._scores()])
            write_csv(unfinished / "answers.csv", [_HEADER, *self._answers()])
            self.provenance.save(unfinished)

    def _curves(self) -> dict[str, dict[str, list[tuple[float, float, float, float]]]]:
        """By corruption and run: severity, top-1 and its interval, from the photo as it is."""
        return {
            corruption: {
                run.name: [self._point(run, row) for row in (0, *self.rows_of(corruption))] for run in self.runs
            }
            for corruption in self.corruptions
        }

    def _point(self, run: Answers, row: int) -> tuple[float, float, float, float]:
        score = self.by_condition[run.name, row]
        return self.conditions[row][1], score.top1, *score.top1_interval

    def _scores(self) -> Iterator[list[object]]:
        for run in self.runs:
            for index, condition in enumerate(self.conditions):
                score = self.by_condition[run.name, index]
                yield [
                    run.name, *condition, len(self.labels), score.top1, *score.top1_interval,
                    score.ece, *score.ece_interval, *score.ece_by_chance,
                    score.share_confident, *score.confident_interval,
                    score.top1_confident, *(score.top1_confident_interval or (None, None)),
                ]  # fmt: skip

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
    unfinished: Path | None = None,
    progress: bool = True,
) -> Robustness:
    """Let runs answer photos as they are, and made worse, which none of them was trained or calibrated on.

    Args:
        run_dirs: Run folders with the same breeds, each once.
        data: As for `dogbreeds.training.datasets.sources.read_dataset`.
        num_photos: How many are drawn, by a hash of their content.
        severities: Of each corruption, 1 to `NUM_SEVERITIES`.
        unfinished: Where answers are kept (`keep_answers`), also for more photos; nowhere if None.
        progress: Show a progress bar.

    Raises:
        UserError: A run is missing or damaged, knows other breeds than the first or lacks one of the data; a severity
            does not exist; no photo or severity is asked for; no photo is left; answers can't be kept.
    """
    if num_photos < 1:
        raise UserError(f"--num-photos {num_photos}: must be 1 or more")
    if not severities:
        raise UserError(f"--severities: name one or more, from 1 to {NUM_SEVERITIES}")
    if wrong := [each for each in severities if not 1 <= each <= NUM_SEVERITIES]:
        raise UserError(f"--severities {wrong[0]}: must be from 1 to {NUM_SEVERITIES}")
    severities = sorted(set(severities))
    runs = [RunFolder.open(path) for path in run_dirs]
    if other := next((run for run in runs if run.labels != runs[0].labels), None):
        raise UserError(f"{other.name} knows other breeds than {runs[0].name}: compare runs of the same breeds")
    arguments = {"run_dirs": pinned(runs, run_dirs), "data": data, "num_photos": num_photos}
    arguments |= {"severities": severities}
    provenance = Provenance.of("robustness", arguments, [*run_dirs, data])
    photos = concatenated(list(read_dataset(data).values()))
    check_known(runs[0], photos)
    conditions = (PLAIN, *((name, severity) for name in CORRUPTIONS for severity in severities))
    drawn = _Drawn(photos, set().union(*map(known_photos, runs)))
    with keep_answers(unfinished, _made_from(runs, conditions)) as kept:
        digests = drawn.answer([Predictor(run) for run in runs], conditions, num_photos, kept, progress)
        answers = [kept[digest] for digest in digests]
    names = runs[0].labels
    labels = np.array([names.index(drawn.breed(digest)) for digest in digests])
    return Robustness(
        runs=tuple(
            _answers_of(name, run, [of_photo[index] for of_photo in answers], labels, digests)
            for index, (name, run) in enumerate(zip(unique_names(runs), runs, strict=True))
        ),
        conditions=conditions,
        labels=labels,
        names=names,
        digests=digests,
        data=data,
        unreadable=tuple(drawn.unreadable),
        num_known=drawn.num_known,
        provenance=provenance,
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


def _made_from(runs: Sequence[RunFolder], conditions: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """What determines the answers to a photo."""
    files = [{name: run.record.sha256[name] for name in serving_files(run.record)} for run in runs]
    worse = [[name, CORRUPTIONS[name][1][severity - 1]] for name, severity in conditions[1:]]
    return {"runs": files, "calibrations": [vars(run.calibration) for run in runs], "made worse": worse}


class _Drawn:
    """Photos that no run knows, each once, those with the smallest digests first."""

    def __init__(self, photos: Photos, known: set[str]) -> None:
        self._photos = photos
        self._place_of, not_read = places_by_digest(photos.sources)
        self._digests = sorted(digest for digest in self._place_of if digest[:DIGEST_DIGITS] not in known)
        self.num_known = len(self._place_of) - len(self._digests)
        self.unreadable = [LeftOut(photos.ids[place], str(error)) for place, error in not_read.items()]

    def breed(self, digest: str) -> str:
        """The breed of a photo."""
        return self._photos.names[self._photos.labels[self._place_of[digest]]]

    def answer(
        self,
        predictors: Sequence[Predictor],
        conditions: Sequence[tuple[str, int]],
        num_photos: int,
        kept: KeptAnswers,
        progress: bool,
    ) -> tuple[str, ...]:
        """Complete the answers to this many photos that can be read: their digests."""

        def make_worse(digest: str) -> list[Image.Image]:
            if digest in kept:
                return []
            photo, seed = to_scale(open_image(self._photos.sources[self._place_of[digest]])), int(digest[:8], 16)
            return [photo, *(corrupted(photo, name, severity, seed) for name, severity in conditions[1:])]

        digests: list[str] = []
        opened = zip(self._digests, read_photos(self._digests, make_worse, num_ahead=NUM_AHEAD), strict=True)
        with tqdm(
            total=min(num_photos, len(self._digests)), desc="answering", unit="photo", disable=not progress
        ) as bar:
            for digest, worse in opened:
                if isinstance(worse, BadImage):
                    self.unreadable.append(LeftOut(self._photos.ids[self._place_of[digest]], str(worse)))
                    continue
                if worse:
                    kept[digest] = [_answered(predictor, worse) for predictor in predictors]
                digests.append(digest)
                bar.update()
                if len(digests) == num_photos:
                    break
        if not digests:
            raise UserError(
                f"none of the {len(self._photos):,} photos is left: {self.num_known:,} were used to train or to "
                f"calibrate one of the runs, and {len(self.unreadable):,} can't be read"
            )
        return tuple(digests)


def _answered(predictor: Predictor, images: list[Image.Image]) -> dict[str, list[Any]]:
    """What a run says of a photo under each condition, as values for JSON."""
    probabilities, verdicts = predictor.run.calibration.apply(predictor.outputs(images))
    best = {"predicted": probabilities.argmax(axis=1).tolist(), "confidence": probabilities.max(axis=1).tolist()}
    return {**best, "verdicts": verdicts}


def _answers_of(
    name: str, run: RunFolder, answers: list[dict[str, list[Any]]], labels: np.ndarray, digests: tuple[str, ...]
) -> Answers:
    predicted, confidence, verdicts = (
        np.array([photo[key] for photo in answers]).T for key in ("predicted", "confidence", "verdicts")
    )
    return Answers(
        name=name,
        right=predicted == labels,
        predicted=predicted,
        confidence=confidence,
        verdicts=verdicts,
        remarks=(*training_remarks(run, digests), *missing_answers(run)),
    )
