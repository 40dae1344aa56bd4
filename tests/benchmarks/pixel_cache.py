"""Photos for training: from the pixel cache against decoding them in every epoch, in turns in one run.

    python tests/benchmarks/pixel_cache.py --data DATA

Both give batches of the same 8-bit pixels, in the training process alone and, decoding, also with one worker process
for each core. A run's first pass over the cache compares each row with its checksum, later ones do not; both are
measured. Building the cache is timed too: it is paid once, by the first run on the data.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro
from torch.utils.data import DataLoader

from dogbreeds.machine import num_cores
from dogbreeds.training.datasets.pixel_cache import open_pixel_cache
from dogbreeds.training.datasets.splits import load_data
from dogbreeds.training.loaders import PixelDataset, data_loader
from dogbreeds.training.options import TrainConfig


def main(data: str, image_size: int = 224, num_photos: int = 2000, num_rounds: int = 3) -> None:
    """Print photos a second of each way, and ratios to the cache with their spread."""
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.from_options(
            output_dir=Path(folder) / "run", model="", data=data, image_size=image_size, cache_dir=Path(folder)
        )
        started = time.perf_counter()
        splits = load_data(config, progress=False)
        seconds = time.perf_counter() - started
        assert splits.cache is not None
        print(f"reading and caching {len(splits.cache.row_of)} photos: {seconds:.1f} s, once")
        some = range(min(num_photos, len(splits.train)))
        photos = splits.train.select(some)
        stored = splits.stored_preprocessing

        def opened() -> DataLoader:
            cache = open_pixel_cache(stored, photos.sources, photos.digests.tolist(), config.data, progress=False)
            return data_loader(PixelDataset(photos, stored, cache), 32, 0, seed=0)

        read_before, decoded = opened(), PixelDataset(photos, stored)
        alone, in_processes = data_loader(decoded, 32, 0, seed=0), data_loader(decoded, 32, num_cores(), seed=0)
        ways: dict[str, Callable[[], DataLoader]] = {
            "pixel cache": lambda: read_before,
            "pixel cache, checked against its checksums": opened,
            "decoding": lambda: alone,
            f"decoding in {num_cores()} processes": lambda: in_processes,
        }
        rates = np.empty((num_rounds, len(ways)))
        for round_number in range(-1, num_rounds):  # the first starts the processes and reads the cache from the disk
            for which, make_loader in enumerate(ways.values()):
                loader = make_loader()
                started = time.perf_counter()
                num_seen = sum(len(batch.labels) for batch in loader)
                if round_number >= 0:
                    rates[round_number, which] = num_seen / (time.perf_counter() - started)
        for which, name in enumerate(ways):
            ratios = rates[:, 0] / rates[:, which]
            print(
                f"{name}: {rates[:, which].mean():,.0f} photos/s"
                + (f"; the cache is {ratios.mean():.2f} +- {ratios.std():.2f} times as fast" if which else "")
            )


if __name__ == "__main__":
    tyro.cli(main)
