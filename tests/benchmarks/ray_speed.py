"""Photos per second of `python -m dogbreeds index --engine ray`, against the same without Ray, in turns.

PYTHONPATH=. python tests/benchmarks/ray_speed.py --photos data/natural-dogs
"""

import sys
import tempfile
from pathlib import Path

import tyro
from index_speed import make_library, measured

from dogbreeds.run_folder import DEFAULT_RUN


def main(photos: Path, num_photos: int = 10_000, rounds: int = 1, run_dir: Path = DEFAULT_RUN) -> None:
    """Print one line for each run, start-up included.

    Args:
        photos: A folder of photos to take.
        num_photos: The size of the library.
        rounds: How often each engine runs.
        run_dir: The run folder that answers.
    """
    every = sorted(path for path in photos.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library"
        make_library(library, every, num_photos)
        for number in range(rounds):
            for engine in ("cores", "ray"):
                output = Path(folder) / f"{engine}-{number}.parquet"
                command = [
                    sys.executable,
                    "-m",
                    "dogbreeds",
                    "index",
                    library,
                    "--output",
                    output,
                    "--run-dir",
                    run_dir,
                ]
                seconds, _ = measured([*command, "--engine", engine])
                print(f"{engine}: {seconds:.1f} s, {num_photos / seconds:.1f} photos/s", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
