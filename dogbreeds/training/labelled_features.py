"""What a frozen backbone finds in each photo of a data set, for those who look for faults of the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dogbreeds.addresses import Place
from dogbreeds.training.backbones import features_of_photos, load_backbone, open_backbones
from dogbreeds.training.context import Context
from dogbreeds.training.datasets.checks import check_photos
from dogbreeds.training.datasets.sources import read_dataset
from dogbreeds.training.options import TrainConfig


@dataclass(frozen=True)
class LabelledFeatures:
    """N photos of a data set."""

    splits: Sequence[str]
    """Of each photo, in the data."""
    ids: Sequence[str]
    sources: Sequence[Place | bytes]
    names: Sequence[str]
    """Of the C classes."""
    labels: np.ndarray
    """`(N,)`, integers in 0..C-1."""
    groups: np.ndarray
    """`(N,)`: the index of the first photo of each photo's group; near duplicates are of one."""
    features: np.ndarray
    """`(N, D)`."""

    @classmethod
    def compute(cls, data: str, model: str, image_size: int, *, progress: bool) -> "LabelledFeatures | None":
        """Compute the features of all photos that can be read, of equal files one; None if there are none.

        Args:
            data: As for `dogbreeds.training.datasets.sources.read_dataset`.
            model: The backbone, as `--model`.
            image_size: Of what the backbone sees, pixels.
            progress: Show progress bars.

        Raises:
            UserError: There is no such data or backbone.
        """
        photos = read_dataset(data)
        checkpoint = open_backbones([model], image_size)[model]
        config = TrainConfig.from_options(
            model=model, data=data, output_dir="none", image_size=image_size, augment="off"
        )
        context = Context(config.run, config.optim, Path(), quiet=True)
        checked = check_photos(photos, config, max_unreadable=1.0, progress=progress)  # they are faults to be named
        present = {split: part for split, part in checked.splits.items() if len(part)}  # one may be copies of another
        if not present:
            return None
        network, preprocessing = load_backbone(model, checkpoint, config.preprocessing)
        found, _ = features_of_photos(network, preprocessing, present, checked.cache, context)
        parts = list(present.values())
        return cls(
            splits=[split for split, part in present.items() for _ in part.ids],
            ids=[id_ for part in parts for id_ in part.ids],
            sources=[source for part in parts for source in part.sources],
            names=parts[0].names,
            labels=np.concatenate([part.labels for part in parts]),
            groups=np.concatenate([part.groups for part in parts]),
            features=np.concatenate([found[split] for split in present]),
        )
