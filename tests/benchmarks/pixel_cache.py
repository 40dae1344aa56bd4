"""Photos for training: from the pixel cache against decoding them in every epoch, in turns in one run.

    python tests/benchmarks/pixel_cache.py --data DATA

Both give batches of the same 8-bit pixels, in the training process alone and, decoding, also with one worker process
for each core. Building the cache is timed too: it is paid once, by the first run on the data.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import tyro

from dogbreeds.machine import num_cores
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
        cached = PixelDataset(photos, splits.stored_preprocessing, splits.cache)
        decoded = PixelDataset(photos, splits.stored_preprocessing)
        loaders = {
            "pixel cache": data_loader(cached, 32, 0, seed=0),
            "decoding": data_loader(decoded, 32, 0, seed=0),
            f"decoding in {num_cores()} processes": data_loader(decoded, 32, num_cores(), seed=0),
        }
        rates = np.empty((num_rounds, len(loaders)))
        for round_number in range(-1, num_rounds):  # the first starts the processes and reads the cache from the disk
            for which, loader in enumerate(loaders.values()):
                started = time.perf_counter()
                num_seen = sum(len(batch.labels) for batch in loader)
                if round_number >= 0:
                    rates[round_number, which] = num_seen / (time.perf_counter() - started)
        for which, name in enumerate(loaders):
            ratios = rates[:, 0] / rates[:, which]
            print(
                f"{name}: {rates[:, which].mean():,.0f} photos/s"
                + (f"; the cache is {ratios.mean():.1f} +- {ratios.std():.1f} times as fast" if which else "")
            )


if __name__ == "__main__":
    tyro.cli(main)
