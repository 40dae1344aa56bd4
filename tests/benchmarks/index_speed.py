"""Photos per second and peak memory of `python -m dogbreeds index`, for libraries of several sizes.

    PYTHONPATH=. python tests/benchmarks/index_speed.py --photos data/natural-dogs --num-photos 1000 20000
    PYTHONPATH=. python tests/benchmarks/index_speed.py --photos data/natural-dogs --num-photos 1000 --longest-side 4000

Each library has the same photos under new names (hard links, if the file system has them), as they are or as large as
those of a phone.
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
from PIL import Image

from dogbreeds.run_folder import DEFAULT_RUN

FOLDER_SIZE = 1000
NUM_ENLARGED = 50


def main(
    photos: Path,
    num_photos: tuple[int, ...] = (1000, 20000),
    run_dir: Path = DEFAULT_RUN,
    longest_side: int | None = None,
) -> None:
    """Print one line for each size. The peak memory must not grow with the size.

    Args:
        photos: A folder of photos to take.
        num_photos: The sizes of the libraries.
        run_dir: The run folder that answers.
        longest_side: Enlarge `NUM_ENLARGED` of the photos to this, pixels, and take only these.
    """
    every = sorted(path for path in photos.rglob("*") if path.is_file())
    for size in num_photos:
        with tempfile.TemporaryDirectory() as folder:
            taken = enlarged(every, longest_side, Path(folder) / "enlarged") if longest_side else every
            library, output = Path(folder) / "library", Path(folder) / "breeds.csv"
            make_library(library, taken, size)
            bytes_read = sum(path.stat().st_size for path in library.rglob("*") if path.is_file())
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
            bytes_written = output.stat().st_size
        print(
            f"{size:,} photos: {seconds:.1f} s, {size / seconds:.0f} photos/s, peak RSS {megabytes:.0f} MB; "
            f"{bytes_read / size / 1000:.0f} kB read and {bytes_written / size:.0f} bytes written a photo",
            flush=True,
        )


def enlarged(photos: list[Path], longest_side: int, folder: Path) -> list[Path]:
    """Copies of some photos, spread over all, as JPEG of this size."""
    folder.mkdir()
    for photo in photos[:: max(1, len(photos) // NUM_ENLARGED)]:
        image = Image.open(photo).convert("RGB")
        scale = longest_side / max(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        image.resize(size, Image.Resampling.BICUBIC).save(folder / f"{photo.stem}.jpg", quality=90)
    return sorted(folder.iterdir())


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
