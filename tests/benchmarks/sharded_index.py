"""Index a long list in shards, kill some at random, start them again, merge, and check that every path is there once.

    PYTHONPATH=. python tests/benchmarks/sharded_index.py --photos data/natural-dogs

Most paths of the list are files that do not exist; the photos are spread over it.
"""

import random
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow
import pyarrow.parquet
import tyro
from index_speed import measured

from dogbreeds.run_folder import DEFAULT_RUN


def main(
    photos: Path,
    num_paths: int = 1_000_000,
    num_photos: int = 1000,
    num_shards: int = 64,
    num_kills: int = 10,
    at_once: int = 2,
    seed: int = 0,
    run_dir: Path = DEFAULT_RUN,
) -> None:
    """Print how long it takes and what is missing or there twice; the exit status is 1 if anything is.

    Args:
        photos: A folder of photos to take.
        num_paths: The length of the list.
        num_photos: How many of the paths are photos.
        num_shards: Parts of the list.
        num_kills: How many of them are killed.
        at_once: Shards that run at the same time.
        seed: Of the choice of the shards that are killed, and when.
        run_dir: The run folder that answers.
    """
    rng = random.Random(seed)
    every = sorted(path.resolve() for path in photos.rglob("*") if path.is_file())
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = [f"missing/{number // 1000:04}/{number:07}.jpg" for number in range(num_paths)]
        for number, place in enumerate(range(0, num_paths, max(1, num_paths // num_photos))):
            link = folder / f"{number:07}{every[number % len(every)].suffix}"
            link.symlink_to(every[number % len(every)])
            paths[place] = link.name
        pyarrow.parquet.write_table(pyarrow.table({"path": paths}), folder / "list.parquet")
        command = [sys.executable, "-m", "dogbreeds", "index", folder / "list.parquet"]
        command += ["--output", folder / "breeds.parquet", "--run-dir", run_dir]
        killed = set(rng.sample(range(1, num_shards + 1), num_kills))
        started = time.perf_counter()

        def run(number: int) -> bool:
            """Whether the shard was killed before it ended, and then started again."""
            shard = [*map(str, command), "--shard", f"{number}/{num_shards}"]
            process = subprocess.Popen(shard, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            partial = folder / f"breeds-{number:05}-of-{num_shards:05}.parquet.partial-wal"
            if was_killed := number in killed:
                while not partial.exists() and process.poll() is None:
                    time.sleep(0.05)
                time.sleep(rng.uniform(0, 3))
                process.kill()
                was_killed = process.wait() != 1
                process = subprocess.Popen(shard, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            assert process.wait() == 1, f"{shard} ended with {process.returncode}"  # most can't be read
            return was_killed

        with ThreadPoolExecutor(at_once) as pool:
            num_killed = sum(pool.map(run, range(1, num_shards + 1)))
        seconds = time.perf_counter() - started
        merge = [*command[:4], "merge", *command[4:-2]]
        merge_seconds, megabytes = measured(merge, expected_status=1)
        found = Counter(pyarrow.parquet.read_table(folder / "breeds.parquet", columns=["path"])["path"].to_pylist())
    num_missing = len(set(paths) - found.keys())
    num_twice = sum(count > 1 for count in found.values())
    print(
        f"{num_shards} shards of {num_paths:,} paths, {num_photos:,} of them photos, {num_killed} killed: "
        f"{seconds:.0f} s, merged in {merge_seconds:.0f} s with a peak of {megabytes:.0f} MB; "
        f"{found.total():,} rows, {num_missing} missing, {num_twice} twice"
    )
    sys.exit(1 if num_missing or num_twice or found.total() != num_paths else 0)


if __name__ == "__main__":
    tyro.cli(main)
