"""Which score tells a dog from other photos, and a dog of a known breed from one of an unknown breed?

    python tests/benchmarks/dog_scores.py --run-dir RUN --dogs LABELLED --other-photos FOLDER FOLDER --other-dogs FOLDER

Half of the photos of each folder, by their content, fit what a score has to learn; all figures are of the other half.
The threshold of each score lets 97 % of the dogs pass (of known breeds, in the second table); "found" is the share of
the others that do not, with its 95 % interval over dogs and others. Of the dogs, those of `--other-dogs` and
`--any-dogs` are dogs in the first table; the second takes `--dogs` and `--other-dogs` alone, which need a sub-folder
for each breed.

Relative Mahalanobis distance (RMDS): Ren et al. 2021, https://arxiv.org/abs/2106.09022. Nearest neighbours: Sun et al.
2022, https://arxiv.org/abs/2204.06507. Energy: Liu et al. 2020, https://arxiv.org/abs/2010.03759.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from scipy.stats import bootstrap
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from dogbreeds.breeds import label_name
from dogbreeds.calibration import Calibration, DogProbe, Outputs, dog_score, softmax
from dogbreeds.images import open_image
from dogbreeds.metrics import wilson_interval
from dogbreeds.photos import batches, photo_digest, photo_files, read_bytes, read_photos
from dogbreeds.research.significance import CONFIDENCE, NUM_DRAWS
from dogbreeds.run_folder import DEFAULT_RUN
from dogbreeds.serving.predictor import Predictor

PASS_RATE = 0.97
NUM_NEIGHBOURS = 10
BATCH_SIZE = 16

Score = Callable[[Outputs], np.ndarray]
"""From N photos to `(N,)`, the larger the more it is a dog, or of a known breed."""


@dataclass(frozen=True)
class Part:
    """One half of a folder's photos."""

    outputs: Outputs
    breeds: np.ndarray
    """`(N,)`, the sub-folder of each photo."""


def both_halves(predictor: Predictor, folder: Path, max_photos: int) -> tuple[Part, Part]:
    """The photos that fit and those that judge, of so many that are spread over the folder."""
    files = photo_files(folder)
    files = [files[index] for index in np.linspace(0, len(files) - 1, min(len(files), max_photos), dtype=int)]

    def load(path: Path) -> tuple[str, Image.Image]:
        content = read_bytes(path)
        return photo_digest(content), open_image(content, at_least=predictor.run.preprocessing.decoded_side)

    outputs, digests = [], []
    for batch in batches(read_photos(files, load), BATCH_SIZE):
        digests += [digest for digest, _ in batch]
        outputs.append(predictor.outputs([image for _, image in batch]))
    found, breeds = Outputs.concatenate(outputs), np.array([file.parent.name for file in files])
    fits = np.array([int(digest[-1], 16) < 8 for digest in digests])
    return Part(found.select(fits), breeds[fits]), Part(found.select(~fits), breeds[~fits])


def by_dog_score(outputs: Outputs) -> np.ndarray:
    """How far the largest logit is above the mean of all."""
    return dog_score(outputs.logits)


def largest_probability(temperature: float) -> Score:
    """The probability of the most probable breed."""
    return lambda outputs: softmax(outputs.logits / temperature).max(axis=1)


def energy(outputs: Outputs) -> np.ndarray:
    """Log-sum-exp of the logits."""
    largest = outputs.logits.max(axis=1)
    return largest + np.log(np.exp(outputs.logits - largest[:, None]).sum(axis=1))


def negative_entropy(temperature: float) -> Score:
    """Of the probabilities."""

    def score(outputs: Outputs) -> np.ndarray:
        probabilities = softmax(outputs.logits / temperature)
        return (probabilities * np.log(probabilities + 1e-12)).sum(axis=1)

    return score


def lead(outputs: Outputs) -> np.ndarray:
    """Of the largest logit over the second."""
    second, first = np.partition(outputs.logits, -2, axis=1)[:, -2:].T
    return first - second


def nearest_neighbours(dogs: Outputs) -> Score:
    """Less the distance to the tenth nearest of these dogs, of features of length 1."""

    def normed(outputs: Outputs) -> np.ndarray:
        return outputs.features / np.linalg.norm(outputs.features, axis=1, keepdims=True)

    index = NearestNeighbors(n_neighbors=NUM_NEIGHBOURS).fit(normed(dogs))
    return lambda outputs: -index.kneighbors(normed(outputs))[0][:, -1]


def relative_mahalanobis(dogs: Outputs, labels: np.ndarray) -> Score:
    """Less the distance to the nearest breed, relative to that to all dogs; shared covariances, shrunk."""
    means = np.stack([dogs.features[labels == label].mean(axis=0) for label in np.unique(labels)])
    within = dogs.features - means[np.searchsorted(np.unique(labels), labels)]
    precision = np.linalg.inv(ledoit_wolf(within)[0])
    mean, all_precision = dogs.features.mean(axis=0), np.linalg.inv(ledoit_wolf(dogs.features)[0])

    def distance(features: np.ndarray, centre: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        return ((features - centre) @ inverse * (features - centre)).sum(axis=1)

    def score(outputs: Outputs) -> np.ndarray:
        nearest = np.min([distance(outputs.features, centre, precision) for centre in means], axis=0)
        return distance(outputs.features, mean, all_precision) - nearest

    return score


def probe(positive: Outputs, negative: Outputs) -> Score:
    """A linear function of the features, fitted on both."""
    both = Outputs.concatenate([positive, negative])
    fitted = DogProbe.fit(both.features, np.arange(len(both)) < len(positive))
    return lambda outputs: fitted(outputs.features)


def lower_of(scores: list[Score], dogs: Outputs) -> Score:
    """The lower of several scores, each as the share of these dogs that it is above: all must be passed."""
    ranked = [np.sort(score(dogs)) for score in scores]

    def lowest(outputs: Outputs) -> np.ndarray:
        ranks = [
            # Beyond the dogs' own scores the order goes on, by how far.
            np.interp(score(outputs), known, np.linspace(0, 1, len(known)))
            + np.minimum(score(outputs) - known[0], 0) / (known[-1] - known[0])
            for score, known in zip(scores, ranked, strict=True)
        ]
        return np.min(ranks, axis=0)

    return lowest


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Of the values of a score, `(N,)` and `(M,)`."""
    is_positive = np.arange(len(positive) + len(negative)) < len(positive)
    return float(roc_auc_score(is_positive, np.append(positive, negative)))


def share_found(positive: np.ndarray, negative: np.ndarray, by: np.ndarray) -> str:
    """The share of the negative that are found where `PASS_RATE` of the positive pass, with its 95 % interval.

    Both are drawn again (the bootstrap, as `dogbreeds.research.significance.bootstrap_interval`), and each draw has its
    own threshold: a quantile of few values is not sure. As wide as Wilson's interval at least, for of draws in which
    all are found there is no spread.

    Args:
        positive: `(N, S)`, their values by one score or several.
        negative: `(M,)`, their values.
        by: `(M,)`, by which of the scores.
    """

    def found(positives: np.ndarray, negatives: np.ndarray) -> float:
        thresholds = np.quantile(positive[positives], 1 - PASS_RATE, axis=0)
        return float((negative[negatives] < thresholds[by[negatives]]).mean())

    drawn = np.arange(len(positive)), np.arange(len(negative))
    share, rng = found(*drawn), np.random.default_rng(0)
    given = {"n_resamples": NUM_DRAWS, "confidence_level": CONFIDENCE, "vectorized": False, "rng": rng}
    ends = bootstrap(drawn, found, method="percentile", **given).confidence_interval
    low, high = wilson_interval(round(share * len(negative)), len(negative))
    return f"{share:.1%} ({100 * min(low, ends.low):.1f}-{100 * max(high, ends.high):.1f})"


def judged(score: Score, positive: Outputs, negative: Outputs) -> str:
    """AUROC, and the share found."""
    of_positive, of_negative = score(positive), score(negative)
    found = share_found(of_positive[:, None], of_negative, np.zeros(len(of_negative), dtype=int))
    return f"{auroc(of_positive, of_negative):.3f} | {found}"


def print_dog_table(dogs: dict[str, tuple[Part, Part]], others: dict[str, tuple[Part, Part]]) -> None:
    """Is it a dog? `--any-dogs` fits nothing."""
    fit_dogs = Outputs.concatenate([fit.outputs for name, (fit, _) in dogs.items() if name != "any dogs"])
    fit_others = Outputs.concatenate([fit.outputs for fit, _ in others.values()])
    passing = Outputs.concatenate([judge.outputs for _, judge in dogs.values()])
    scores: dict[str, Score] = {
        "largest logit": lambda outputs: outputs.logits.max(axis=1),
        "... less the mean (dog_score)": by_dog_score,
        "log-sum-exp (energy)": energy,
        "largest probability": largest_probability(1.0),
        "linear probe of the features (DogProbe)": probe(fit_dogs, fit_others),
    }
    scores["probe and dog_score"] = lower_of(
        [scores["linear probe of the features (DogProbe)"], by_dog_score], fit_dogs
    )
    print(f"\n| is it a dog? {len(passing)} dogs | {' | '.join(f'{name}: AUROC | found' for name in others)} |")
    print("| --- |" + " --- |" * 2 * len(others))
    for name, score in scores.items():
        cells = [judged(score, passing, judge.outputs) for _, judge in others.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def print_breed_table(dogs: tuple[Part, Part], labels: np.ndarray, other_dogs: tuple[Part, Part]) -> None:
    """Is it of a known breed? `labels` are of the dogs that fit."""
    (fit, known), (fit_other, unknown) = dogs, other_dogs
    temperature = Calibration.fit(fit.outputs, labels).temperature
    scores: dict[str, Score] = {
        "dog_score": by_dog_score,
        "largest probability": largest_probability(temperature),
        "... at twice the temperature": largest_probability(2 * temperature),
        "entropy of the probabilities": negative_entropy(temperature),
        "lead of the largest logit": lead,
        "nearest neighbours": nearest_neighbours(fit.outputs),
        "relative Mahalanobis distance (RMDS)": relative_mahalanobis(fit.outputs, labels),
    }
    print(
        f"\n| of a known breed? {len(known.outputs)} dogs | {len(unknown.outputs)} of unknown breeds: AUROC | found |"
    )
    print("| --- | --- | --- |")
    for name, score in scores.items():
        print(f"| {name} | {judged(score, known.outputs, unknown.outputs)} |", flush=True)
    of_known, of_unknown = [], []
    for breed in np.unique(unknown.breeds):
        others = fit_other.breeds != breed
        if others.any():
            score = probe(fit.outputs, fit_other.outputs.select(others))
            of_known.append(score(known.outputs))
            of_unknown.append(score(unknown.outputs.select(unknown.breeds == breed)))
    if of_known:
        nums = [len(values) for values in of_unknown]
        mean = np.average([auroc(*values) for values in zip(of_known, of_unknown, strict=True)], weights=nums)
        found = share_found(
            np.stack(of_known, axis=1), np.concatenate(of_unknown), np.repeat(np.arange(len(nums)), nums)
        )
        print(f"| linear probe, fitted on the other unknown breeds | {mean:.3f} | {found} |", flush=True)


def main(
    dogs: Path,
    other_photos: tuple[Path, ...],
    other_dogs: Path,
    any_dogs: Path | None = None,
    run_dir: Path = DEFAULT_RUN,
    max_photos: int = 100_000,
) -> None:
    """Print both tables.

    Args:
        dogs: Of breeds that the run knows, one sub-folder a breed.
        other_photos: Folders of photos without a dog.
        other_dogs: Of breeds that it does not know, one sub-folder a breed.
        any_dogs: Dogs of any descent.
        run_dir: The run; its model must give features.
        max_photos: Of each folder.
    """
    predictor = Predictor(run_dir)
    folders = {"dogs": dogs, "other dogs": other_dogs} | ({"any dogs": any_dogs} if any_dogs else {})
    found = {name: both_halves(predictor, folder, max_photos) for name, folder in folders.items()}
    others = {folder.name: both_halves(predictor, folder, max_photos) for folder in other_photos}
    print_dog_table(found, others)
    names = predictor.run.labels
    labels = np.array([names.index(label_name(breed)) for breed in found["dogs"][0].breeds])
    print_breed_table(found["dogs"], labels, found["other dogs"])


if __name__ == "__main__":
    tyro.cli(main)
