"""How often is a breed recognised that a run got from a few photos, and what does that cost the other breeds?

    python tests/benchmarks/new_breed.py dogbreeds/pretrained/efficientnet_lite2 --dogs LABELLED --num-photos 5 10 20

For each breed of the folder: its logit, if the run knows it, is taken from the run, and a new one is fitted, as
`dogbreeds add-breed` does, on so many of its photos, chosen by chance, and the run's predictions for its validation
photos. The other photos of the folder judge. A photo that the run sees no dog on fits nothing, as there.

A share is the mean over the breeds, each of which counts as much, and its interval, Student's, says what other breeds
would change: it counts the breeds, for the photos of one breed are right or wrong together.
"""

from pathlib import Path

import numpy as np
import tyro
from scipy.stats import ttest_1samp
from tyro.conf import Positional

from dogbreeds.breeds import label_name
from dogbreeds.calibration import NAMING, Calibration, Outputs
from dogbreeds.errors import one_line_errors
from dogbreeds.photos import photo_files
from dogbreeds.predictions import Predictions
from dogbreeds.research.significance import CONFIDENCE
from dogbreeds.run_folder import RunFolder, predictions_file
from dogbreeds.serving.calibrate import find_outputs
from dogbreeds.serving.new_breed import NewLogit
from dogbreeds.serving.predictor import Predictor

MIN_BREEDS = 5
"""Of fewer, no interval says what other breeds would be like."""


def judged(
    dogs: Outputs, labels: np.ndarray, others: Predictions, breed: int, num_photos: int, calibration: Calibration
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One breed taken out and added again.

    Args:
        dogs: All photos.
        labels: `(N,)`, their breeds; C and above for those that the run does not know.
        others: The run's, of its validation photos.
        breed: The one.
        num_photos: It is added from.
        calibration: The run's.

    Returns:
        Of the breed's photos that judge, which are right, and which of these are named; of the photos of other breeds,
        which were right without the new breed, and which are with it.
    """
    kept = np.arange(dogs.logits.shape[1]) != breed
    without = Outputs(dogs.logits[:, kept], dogs.features)
    is_dog = np.array(calibration.apply(dogs)[1]) != "not_a_dog"
    rng = np.random.default_rng(breed)
    fit = rng.permutation(np.flatnonzero((labels == breed) & is_dog))[:num_photos]
    new = NewLogit.fit(without.logits[fit], others.logits(calibration.temperature)[others.labels != breed][:, kept])
    after = Outputs(new.appended(without.logits), dogs.features)
    named = np.isin(calibration.apply(after)[1], NAMING)
    of_breed = (labels == breed) & ~np.isin(np.arange(len(labels)), fit)
    others_known = (labels != breed) & (labels < len(kept))
    right_new = after.logits[of_breed].argmax(axis=1) == kept.sum()
    columns = np.flatnonzero(kept)
    before = columns[without.logits.argmax(axis=1)] == labels
    still = before & (new.margin(without.logits) <= 0)
    return right_new, right_new & named[of_breed], before[others_known], still[others_known]


def over_breeds(shares: dict[str, float]) -> str:
    """The mean of the breeds' shares in per cent, with its 95 % interval, or with each share where breeds are few."""
    if len(shares) < MIN_BREEDS:
        around = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    else:
        interval = ttest_1samp(list(shares.values()), 0).confidence_interval(CONFIDENCE)
        around = "-".join(f"{100 * end:.1f}" for end in np.clip(interval, 0, 1))
    return f"{np.mean(list(shares.values())):.1%} ({around})"


def main(
    runs: Positional[tuple[Path, ...]], dogs: Path, num_photos: tuple[int, ...] = (10,), max_photos: int = 40
) -> None:
    """Print a table with a row for each run and number of photos.

    Args:
        runs: Run folders.
        dogs: Photos that they were not trained on, one sub-folder a breed.
        num_photos: How many photos a breed is added from.
        max_photos: The most of a breed.
    """
    files = [file for folder in sorted(dogs.iterdir()) for file in photo_files(folder)[:max_photos]]
    print("| run | photos | new breed right | ... and named | worst breed | others before | after | worst loss |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for run in map(RunFolder.open, runs):
        names = [label_name(file.relative_to(dogs).parts[0]) for file in files]
        all_names = [*run.labels, *sorted({*names} - {*run.labels})]
        labels = np.array([all_names.index(name) for name in names])
        found = find_outputs(Predictor(run), run.name, files, labels, progress=False)
        others = Predictions.load(run.path / predictions_file("validation"))
        for num in num_photos:
            rows = {
                all_names[breed]: judged(found.outputs, found.labels, others, breed, num, run.calibration)
                for breed in np.unique(found.labels)
            }
            right, named = ({name: row[part].mean() for name, row in rows.items()} for part in (0, 1))
            before, after = (np.concatenate([row[part] for row in rows.values()]) for part in (2, 3))
            worst = min(right.values())
            loss = max(row[2].mean() - row[3].mean() if len(row[2]) else np.nan for row in rows.values())
            cells = [over_breeds(shares) for shares in (right, named)]
            of_others = [f"{value:.1%}" for value in (before.mean(), after.mean(), loss)] if len(before) else ["-"] * 3
            print(f"| {run.name} | {num} | {' | '.join([*cells, f'{worst:.1%}', *of_others])} |", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main)
