"""How fast `python -m dogbreeds similar` finds the nearest of many photos, and how many of them, against all compared.

    python -m dogbreeds index data/pets --output pets.parquet --embeddings
    PYTHONPATH=. python tests/benchmarks/similar.py --embeddings pets.parquet --num-photos 1000000

Embeddings of real photos are mixed: each stored one is a random point between those of a photo and of one of its
`NUM_NEIGHBOURS` nearest, plus noise, so that they lie as dense as those of so many photos would. Photos that are asked
for are real ones, which are in no mixture.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet
import tyro

from dogbreeds.run_folder import DEFAULT_RUN, RunFolder
from dogbreeds.serving import similar
from dogbreeds.serving.library import index_of_embeddings
from dogbreeds.serving.rows import FEATURES, ORIGIN, columns, write_table
from dogbreeds.serving.similar import SimilarPhotos

NUM_NEIGHBOURS = 20
NOISE = 0.05
"""Of each number, relative to its standard deviation over all photos."""
BLOCK = 10_000
TOP_K = 10


def main(
    embeddings: Path, num_photos: int = 1_000_000, num_queries: int = 200, run_dir: Path = DEFAULT_RUN, seed: int = 0
) -> None:
    """Print the time to make the index and for each photo, and recall@10.

    Args:
        embeddings: A table of real photos that `index --embeddings` made.
        num_photos: How many to store.
        num_queries: How many of the real photos are asked for.
        run_dir: The run that the table was made with.
        seed: Of the mixtures.
    """
    rng = np.random.default_rng(seed)
    real = pyarrow.parquet.read_table(embeddings, columns=[FEATURES])
    column = real.column(0).combine_chunks().drop_null()
    vectors = column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32)
    rng.shuffle(vectors)
    asked, known = vectors[:num_queries], vectors[num_queries:]
    origin = json.loads(real.schema.metadata[ORIGIN.encode()])
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "breeds.parquet"
        rows = (
            {"path": f"{number:08}.jpg", "verdict": "unsure", FEATURES: row.tobytes()}
            for number, row in enumerate(row for block in mixtures(known, num_photos, seed) for row in block)
        )
        write_table(table, rows, columns(1, True), ".parquet", {**origin, "counts": {"unsure": num_photos}})
        started, busy = time.perf_counter(), time.process_time()
        SimilarPhotos(table, RunFolder.open(run_dir), progress=False)
        print(
            f"{num_photos:,} photos of {len(known):,} real ones, {vectors.shape[1]} numbers each: index made in "
            f"{time.perf_counter() - started:.0f} s ({time.process_time() - busy:.0f} s of CPU), "
            f"{index_of_embeddings(table).stat().st_size / 1e9:.2f} GB, table {table.stat().st_size / 1e9:.2f} GB",
            flush=True,
        )
        expected, exact_seconds, exact_busy = exact(known, num_photos, seed, asked)
        print(
            f"NumPy, all compared: {1000 * exact_seconds:.0f} ms a photo ({1000 * exact_busy:.0f} of CPU)", flush=True
        )
        for share in (similar.SEARCHED_SHARE / 2, similar.SEARCHED_SHARE, 2 * similar.SEARCHED_SHARE):
            with patch.object(similar, "SEARCHED_SHARE", share):
                library = SimilarPhotos(table, RunFolder.open(run_dir))
            recalls, seconds, busy_seconds = [], [], []
            for features, theirs in zip(asked, expected, strict=True):
                started, busy = time.perf_counter(), time.process_time()
                (found,) = library.nearest(features[None], TOP_K)
                seconds.append(time.perf_counter() - started)
                busy_seconds.append(time.process_time() - busy)
                recalls.append(len(theirs.intersection(photo.path for photo in found)) / TOP_K)
            median, late, busy = 1000 * np.array([*np.quantile(seconds, [0.5, 0.95]), np.median(busy_seconds)])
            print(
                f"similar, {share:.1%} searched: {median:.1f} ms a photo ({busy:.1f} of CPU), 95 % within {late:.1f}; "
                f"recall@{TOP_K} {np.mean(recalls):.3f}",
                flush=True,
            )


def mixtures(known: np.ndarray, num_photos: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of embeddings, float16; the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    unit = known / np.linalg.norm(known, axis=1, keepdims=True)
    neighbours = np.argpartition(-(unit @ unit.T), NUM_NEIGHBOURS, axis=1)[:, :NUM_NEIGHBOURS]
    spread = NOISE * known.std(axis=0)
    for start in range(0, num_photos, BLOCK):
        size = min(BLOCK, num_photos - start)
        first = rng.integers(len(known), size=size)
        second = neighbours[first, rng.integers(NUM_NEIGHBOURS, size=size)]
        share = rng.random((size, 1), dtype=np.float32)
        noise = spread * rng.standard_normal((size, known.shape[1]), dtype=np.float32)
        yield (share * known[first] + (1 - share) * known[second] + noise).astype(np.float16)


def exact(known: np.ndarray, num_photos: int, seed: int, asked: np.ndarray) -> tuple[list[set[str]], float, float]:
    """The nearest photos of each embedding when all are compared, and the seconds and CPU seconds of one of them."""
    unit = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    best = np.full((len(asked), 0), 0.0)
    numbers = np.zeros((len(asked), 0), int)
    seconds = busy_seconds = 0.0
    for start, block in enumerate(mixtures(known, num_photos, seed)):
        stored = block.astype(np.float32)
        stored /= np.linalg.norm(stored, axis=1, keepdims=True)
        started, busy = time.perf_counter(), time.process_time()
        np.argpartition(stored @ unit[0], -TOP_K)
        seconds += time.perf_counter() - started
        busy_seconds += time.process_time() - busy
        cosines = unit @ stored.T
        best = np.concatenate([best, cosines], axis=1)
        numbers = np.concatenate(
            [numbers, np.broadcast_to(start * BLOCK + np.arange(len(block)), cosines.shape)], axis=1
        )
        kept = np.argpartition(-best, TOP_K - 1, axis=1)[:, :TOP_K]
        best, numbers = np.take_along_axis(best, kept, axis=1), np.take_along_axis(numbers, kept, axis=1)
    return [{f"{number:08}.jpg" for number in row} for row in numbers], seconds, busy_seconds


if __name__ == "__main__":
    tyro.cli(main)
