"""Seconds from the start of `python -m dogbreeds index` to its first answers, with a list of a million paths.

    PYTHONPATH=. python tests/benchmarks/index_start.py --photos data/natural-dogs --engine cores ray

The process is ended when the first rows are kept.
"""

import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow
import pyarrow.parquet
import tyro

from dogbreeds.run_folder import DEFAULT_RUN

UNTIL_THE_FIRST_ROWS = """
import os, sys
from dogbreeds.cli import main
from dogbreeds.serving.journal import Journal

append = Journal.append
def first(self, rows):
    append(self, rows)
    assert any("verdict" in row for row in rows), rows
    print("answered", flush=True)
    sys.stdin.read()
Journal.append = first
main()
"""


def main(
    photos: Path,
    num_paths: int = 1_000_000,
    engine: tuple[str, ...] = ("cores",),
    run_dir: Path = DEFAULT_RUN,
) -> None:
    """Print one line for each engine.

    Args:
        photos: A folder of photos, which the list names again and again under other paths.
        num_paths: The length of the list.
        engine: The engines to measure, cores or ray.
        run_dir: The run folder that answers.
    """
    every = sorted(str(path.resolve()) for path in photos.rglob("*") if path.is_file())
    with TemporaryDirectory() as temporary:
        named = (
            path.replace("/", "/" + "./" * (number // len(every) % 20), 1) for number, path in enumerate(cycle(every))
        )
        paths = list(islice(named, num_paths))
        pyarrow.parquet.write_table(pyarrow.table({"path": paths}), Path(temporary) / "list.parquet")
        for each in engine:
            command = ["-c", UNTIL_THE_FIRST_ROWS, "index", Path(temporary) / "list.parquet", "--engine", each]
            command += ["--output", Path(temporary) / f"{each}.parquet", "--run-dir", run_dir]
            started = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, *map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert process.stdout and process.stdout.readline() == "answered\n"
            print(
                f"{each}: {time.perf_counter() - started:.1f} s to the first answers of {num_paths:,} paths", flush=True
            )
            process.kill()
            process.wait()


if __name__ == "__main__":
    tyro.cli(main)
