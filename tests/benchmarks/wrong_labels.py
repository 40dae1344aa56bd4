"""Which share of wrong labels does `python -m dogbreeds doctor --labels-by` find, and how much else does it suspect?

    python tests/benchmarks/wrong_labels.py --data FOLDER --model FOLDER_OR_HUB_ID

Some photos of a data set in Parquet files get a wrong label, of any other class or, with --same-group, of a breed of
the same group, which people confuse more often. What is suspected besides them counts as a mistake, though some labels
of the data set itself may be wrong.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from dogbreeds.breeds import group_of
from dogbreeds.errors import UserError, one_line_errors
from dogbreeds.metrics import share_with_interval
from dogbreeds.training.datasets.sources import read_dataset
from dogbreeds.training.label_suspects import find_suspects
from dogbreeds.training.labelled_features import LabelledFeatures


def mislabelled(labels: np.ndarray, classes: list[np.ndarray], share: float, rng: np.random.Generator) -> np.ndarray:
    """Labels of which a share is wrong.

    Args:
        labels: `(N,)`.
        classes: For each class, those that a photo of it may be taken for.
        share: Of the photos, 0..1.
        rng: Chooses.
    """
    changed = labels.copy()
    possible = np.flatnonzero([len(classes[label]) > 0 for label in labels])
    for index in rng.choice(possible, round(share * len(labels)), replace=False):
        changed[index] = rng.choice(classes[labels[index]])
    return changed


def write_with(files: list[Path], labels: np.ndarray, folder: Path) -> None:
    """Copy Parquet files with other labels, in order."""
    start = 0
    for file in files:
        table = pq.read_table(file)
        column = pa.array(labels[start : start + len(table)], table.schema.field("label").type)
        pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", column), folder / file.name)
        start += len(table)


def main(
    data: Path, model: str, share: float = 0.05, seed: int = 0, image_size: int = 224, same_group: bool = False
) -> None:
    """Print how many of the wrong labels are found, how many of those found are wrong, and how long it takes."""
    files = sorted(data.rglob("train*.parquet"))
    if not files:
        raise UserError(f"{str(data)!r} has no Parquet files of a training split")
    names = read_dataset(str(data))["train"].names
    labels = np.concatenate([pq.read_table(file, columns=["label"])["label"].to_numpy() for file in files])
    groups = [group_of(name) for name in names]
    classes = np.arange(len(names))
    others = [
        classes[(classes != label) & (not same_group or np.array([group == groups[label] for group in groups]))]
        for label in classes
    ]
    changed = mislabelled(labels, others, share, np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as folder:
        write_with(files, changed, Path(folder))
        photos = read_dataset(folder)["train"]
        assert np.array_equal(photos.labels, changed)
        started = time.perf_counter()
        features = LabelledFeatures.compute(folder, model, image_size, progress=True)
        found = {features.ids[index]: likely for index, likely in find_suspects(features)}
        seconds = time.perf_counter() - started
    is_wrong, is_found = changed != labels, np.array([id_ in found for id_ in photos.ids])
    is_right = [found[photos.ids[i]] == names[labels[i]] for i in np.flatnonzero(is_wrong & is_found)]
    recall = share_with_interval(float(is_found[is_wrong].mean()), int(is_wrong.sum()))
    precision = share_with_interval(float(is_wrong[is_found].mean()), int(is_found.sum()))
    named = share_with_interval(float(np.mean(is_right)), len(is_right))
    print(f"{len(labels):,} photos, {is_wrong.sum():,} wrong labels: {recall} found, {named} with the right one")
    print(f"{is_found.sum():,} labels suspected: {precision} wrong; {seconds:.0f} s")


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main)
