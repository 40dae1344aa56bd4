"""What frozen backbones are worth: simple classifiers on their features, fitted on the same photos.

The linear probe has its penalty chosen on validation photos, as for CLIP (Radford et al. 2021,
https://arxiv.org/abs/2103.00020, appendix A.3). Nearest neighbours by cosine similarity are those of DINO (Caron et al.
2021, https://arxiv.org/abs/2104.14294), the nearest class mean is that of Mensink et al. 2013
(https://doi.org/10.1109/TPAMI.2013.83), on features of length 1.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from tqdm import tqdm

from dogbreeds import metrics
from dogbreeds.files import whole_or_absent
from dogbreeds.model_card import EVERYDAY
from dogbreeds.research.document import render, write_table
from dogbreeds.research.provenance import NETWORKS, Provenance
from dogbreeds.research.significance import holm, interval_of_right, mcnemar
from dogbreeds.training.backbones import Backbone, compute_backbone, open_backbones, own_size
from dogbreeds.training.base_run import find_base
from dogbreeds.training.context import Context
from dogbreeds.training.datasets.splits import Splits, load_data
from dogbreeds.training.feature_file import FeatureFile
from dogbreeds.training.options import TrainConfig


@dataclass(frozen=True)
class Way:
    """A classifier on features, with at most one setting that is chosen on the validation photos."""

    name: str
    classifier: Pipeline
    setting: str | None = None
    """The parameter that is chosen; None if there is nothing to choose."""
    values: tuple[float, ...] = (0,)
    """From the simplest classifier to the most flexible."""


NEIGHBOURS = "nearest__n_neighbors"


def votes(distances: np.ndarray) -> np.ndarray:
    """How much each neighbour counts, by its cosine distance: with the temperature 0.07 of DINO."""
    return np.exp(-distances / 0.07)


WAYS = (
    Way(
        "linear",
        Pipeline([("scale", StandardScaler()), ("linear", LogisticRegression(max_iter=1000, warm_start=True))]),
        "linear__C",
        tuple(round(10 ** (exponent / 2), 6) for exponent in range(-10, 3)),
    ),
    Way(
        "nearest neighbours",
        Pipeline(
            [
                ("scale", Normalizer()),
                ("nearest", KNeighborsClassifier(weights=votes, metric="cosine", algorithm="brute")),
            ]
        ),
        NEIGHBOURS,
        (100, 50, 20, 10, 5, 1),
    ),
    Way("nearest class mean", Pipeline([("scale", Normalizer()), ("mean", NearestCentroid())])),
)
PATIENCE = 3
"""After so many values in a row that are not better, the more flexible ones are not tried, which take the longest."""

REMEDY = "name a --data with none of its photos, or a backbone that is no run"
"""For a run that was trained on photos that are held out here."""

HEADER = (
    "backbone", "seen", "parameters", "pixels", "features", "classifier", "setting", "validation top-1", "n", "top-1",
    "low", "high",
)  # fmt: skip
"""Of the CSV file, which has a row for each backbone and way."""
EVERYDAY_HEADER = tuple(f"{EVERYDAY} {column}" for column in HEADER[-4:])
"""Of its further columns, where there are everyday photos."""


@dataclass(frozen=True)
class Score:
    """How often a way is right with the features of a backbone."""

    setting: float
    """What was chosen, of `Way.values`."""
    validation_top1: float
    right: tuple[bool, ...]
    """Whether it is, on each of the test photos, on which nothing was chosen."""
    everyday: tuple[bool, ...] | None = None
    """... and on each of the everyday photos, if there are any."""

    @property
    def top1(self) -> float:
        """The share of the test photos on which it is right."""
        return sum(self.right) / len(self.right)

    def __str__(self) -> str:
        return in_words(self.right)


def in_words(right: Sequence[bool]) -> str:
    """The share of photos on which a way is right, with its interval."""
    return metrics.share_with_interval(sum(right) / len(right), len(right))


@dataclass(frozen=True)
class Lead:
    """Two backbones by one way, on the same photos."""

    photos: str
    """"test" or "everyday"."""
    way: str
    first: str
    """The one that is right more often, or as often."""
    second: str
    difference: float
    """In top-1."""
    interval: tuple[float, float]
    """95 %, see `dogbreeds.research.significance.interval_of_right`."""
    p_value: float
    """Of McNemar's exact test, after Holm's correction for all pairs of backbones, by all ways, on these photos."""


@dataclass(frozen=True)
class Probe:
    """The result of `probe`. `str` gives a table as Markdown."""

    backbones: tuple[Backbone, ...]
    scores: dict[str, list[Score]]
    """By the name of the backbone, one of each of `WAYS`."""
    splits: Splits
    provenance: Provenance

    def __str__(self) -> str:
        return render("probe.md.jinja", probe=self, ways=WAYS, in_words=in_words)

    def leads(self) -> list[Lead]:
        """How far each backbone is ahead of each that is behind it, by each way; the best first."""
        answers = {"test": {name: [score.right for score in scores] for name, scores in self.scores.items()}}
        if self._has_everyday:
            answers[EVERYDAY] = {
                name: [score.everyday or () for score in scores] for name, scores in self.scores.items()
            }
        return [lead for photos, right in answers.items() for lead in _leads(photos, right)]

    @property
    def _has_everyday(self) -> bool:
        return all(score.everyday is not None for scores in self.scores.values() for score in scores)

    def write(self, path: Path) -> None:
        """Write the table as the ending of the name says; CSV has all figures.

        Without an ending, it is a folder with all but the page, and with report.json, by which it can be made again.

        Raises:
            UserError: The file can't be written, or the folder can't be made.
        """
        if path.suffix:
            header = HEADER + EVERYDAY_HEADER if self._has_everyday else HEADER
            write_table(path, str(self), header, list(self._rows()))
            return
        with whole_or_absent(path) as unfinished:
            for name in ("probe.md", "probe.csv", "probe.tex"):
                self.write(unfinished / name)
            self.provenance.save(unfinished)

    def _rows(self) -> Iterator[tuple[object, ...]]:
        for backbone in self.backbones:
            for way, score in zip(WAYS, self.scores[backbone.name], strict=True):
                setting = "" if way.setting is None else f"{way.setting.partition('__')[2]} {score.setting:g}"
                yield (
                    backbone.name, backbone.seen, backbone.num_parameters, backbone.image_size, backbone.num_features,
                    way.name, setting,
                    score.validation_top1,
                    *(figure for right in (score.right, score.everyday) if right for figure in _figures(right)),
                )  # fmt: skip


def _figures(right: Sequence[bool]) -> tuple[float, ...]:
    """The columns n, top-1, low and high."""
    return len(right), sum(right) / len(right), *metrics.wilson_interval(sum(right), len(right))


def _leads(photos: str, answers: dict[str, list[tuple[bool, ...]]]) -> list[Lead]:
    """Of all pairs of backbones on one set of photos, where `answers` has by backbone whether each way is right."""
    found: list[Lead] = []
    for index, way in enumerate(WAYS):
        right = {name: np.array(of_ways[index]) for name, of_ways in answers.items()}
        best_first = sorted(right, key=lambda name: right[name].mean(), reverse=True)
        for first, second in combinations(best_first, 2):
            gaps = right[first].astype(float) - right[second]
            p_value = mcnemar(right[first], right[second])
            found.append(Lead(photos, way.name, first, second, gaps.mean(), interval_of_right(gaps), p_value))
    adjusted = holm([lead.p_value for lead in found])
    return [replace(lead, p_value=p_value) for lead, p_value in zip(found, adjusted, strict=True)]


def probe(
    models: Sequence[str],
    data: str,
    *,
    everyday: str | None = None,
    image_size: int | None = None,
    split_seed: int = 0,
    features: Path | None = None,
) -> Probe:
    """Compute the features of backbones, and classify the photos by them.

    Args:
        models: As `--model` of training.
        data: As `--data` of training, which splits it alike.
        everyday: Other photos of breeds of the data, to test on too; see `load_data`. Nothing is chosen on them.
        image_size: Of what all backbones see, pixels; by default each sees what it was trained to see, see
            `dogbreeds.training.backbones.own_size`.
        split_seed: As of training.
        features: See `dogbreeds.training.feature_file`; None to keep none.

    Raises:
        UserError: A model is unknown, or was trained on photos that are held out here; the data is missing, or has no
            labels, one breed only, or too few photos of a breed; the everyday photos are missing or of other
            breeds; the file of features is of other photos.
    """
    options = {"data": data, "split_seed": split_seed}
    provenance = Provenance.of(
        "probe",
        {"models": models, "everyday": everyday, "image_size": image_size, **options},
        [*models, data, everyday],
        *NETWORKS,
    )
    # Without random views, so that photos are stored as a model sees them.
    config = TrainConfig.from_options(model=models[0], output_dir="probe", augment="off", **options)
    if image_size is not None:
        config = config.replace(image_size=image_size)
    checkpoints = open_backbones(models, image_size)
    context = Context(config.run, config.optim, Path())
    splits = load_data(config, everyday=everyday)
    for line in splits.in_words():
        context.say(line)
    for name in models:
        # Refuses a run that was trained on what is held out.
        find_base(config.replace(model=name), context, splits, remedy=REMEDY)
    file = FeatureFile(features, splits) if features else None
    backbones = []
    for number, (name, checkpoint) in enumerate(checkpoints.items(), 1):
        context.say(f"{name} ({number} of {len(models)})")
        preprocessing = replace(config.preprocessing, image_size=image_size or own_size(checkpoint))
        backbones.append(compute_backbone(name, checkpoint, preprocessing, splits, context, file))
    scores: dict[str, list[Score]] = {backbone.name: [] for backbone in backbones}
    with tqdm(desc="classifiers", total=len(backbones) * len(WAYS)) as bar:
        for backbone in backbones:
            for way in WAYS:
                scores[backbone.name].append(score_of(way, backbone, splits))
                bar.update()
    return Probe(tuple(backbones), scores, splits, provenance)


def score_of(way: Way, backbone: Backbone, splits: Splits) -> Score:
    """Fit a way on the training photos, with the setting that is right on most of the validation photos."""
    assert splits.test is not None, "--test-fraction has a default"
    train, validation = backbone.features["train"], backbone.features["validation"]
    judged = {"right": ("test", splits.test)}
    if EVERYDAY in backbone.features:
        assert splits.everyday is not None, "features are of all splits"
        judged["everyday"] = (EVERYDAY, splits.everyday)
    classifier = clone(way.classifier)
    # NearestCentroid says so of features that are 0 for a whole breed, though it only needs their deviation to shrink.
    warnings.filterwarnings("ignore", message="self.within_class_std_dev_ has at least 1 zero", category=UserWarning)
    best, num_worse = None, 0
    for value in way.values:
        if way.setting == NEIGHBOURS and value > len(train):
            continue
        if way.setting:
            classifier.set_params(**{way.setting: value})
        classifier.fit(train, splits.train.labels)
        top1 = float(classifier.score(validation, splits.validation.labels))
        num_worse += best is not None and top1 < best.validation_top1
        if best is None or top1 > best.validation_top1:
            right = {
                field: tuple((classifier.predict(backbone.features[split]) == photos.labels).tolist())
                for field, (split, photos) in judged.items()
            }
            best, num_worse = Score(value, top1, **right), 0
        if num_worse == PATIENCE:
            break
    assert best is not None, "there is always one neighbour"
    return best
