"""Photos per second and peak memory of `python -m dogbreeds index`, for libraries of several sizes.

    python tests/benchmarks/index_speed.py --photos data/natural-dogs --num-photos 1000 20000

Each library has the same photos under new names (hard links, if the file system has them).
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import tyro

from dogbreeds.run_folder import DEFAULT_RUN

FOLDER_SIZE = 1000


def main(photos: Path, num_photos: tuple[int, ...] = (1000, 20000), run_dir: Path = DEFAULT_RUN) -> None:
    """Print one line for each size. The peak memory must not grow with the size.

    Args:
        photos: A folder of photos to take.
        num_photos: The sizes of the libraries.
        run_dir: The run folder that answers.
    """
    every = sorted(path for path in photos.rglob("*") if path.is_file())
    for size in num_photos:
        with tempfile.TemporaryDirectory() as folder:
            library, output = Path(folder) / "library", Path(folder) / "breeds.csv"
            make_library(library, every, size)
            seconds, megabytes = measured(
                [
                    sys.executable,
                    "-m",
                    "dogbreeds",
                    "index",
                    str(library),
                    "--output",
                    str(output),
                    "--run-dir",
                    run_dir,
                ]
            )
        print(
            f"{size:,} photos: {seconds:.1f} s, {size / seconds:.0f} photos/s, peak RSS {megabytes:.0f} MB", flush=True
        )


def make_library(library: Path, photos: list[Path], size: int) -> None:
    """Fill a new folder with this many files, `FOLDER_SIZE` in each sub-folder."""
    for number, photo in enumerate(islice(cycle(photos), size)):
        target = library / f"{number // FOLDER_SIZE:05}" / f"{number:08}{photo.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(photo.resolve(), target)
        except OSError:  # another file system
            shutil.copy(photo, target)


def measured(command: list[str | Path], *, expected_status: int = 0) -> tuple[float, float]:
    """The seconds that a process takes from its start to its end, and its peak resident memory in 10^6 bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)  # of this process alone; RUSAGE_CHILDREN is the maximum of all so far
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != expected_status:
        sys.exit(f"{command} ended with exit status {process.returncode}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


if __name__ == "__main__":
    tyro.cli(main)
