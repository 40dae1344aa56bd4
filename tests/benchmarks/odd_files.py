"""Whether the page, `predict` and `index` say the same of odd files, such as those that test image libraries.

    PYTHONPATH=. python tests/benchmarks/odd_files.py --files Pillow/Tests/images scikit-image/src/skimage/data

Each file must get a verdict or a sentence, and the same by each way. Exits with 1 if one did not, or if a process took
too much memory.
"""

import csv
import json
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from dogbreeds.photo_paths import is_left_out
from dogbreeds.photos import batches
from dogbreeds.run_folder import DEFAULT_RUN, RunFolder
from tests.benchmarks.load import Person, Refused, Sample, children, running_page

MAX_MEGABYTES = 600
"""Of one process, at its peak."""
BATCH = 200
"""Paths of one call of `predict`."""


@dataclass(frozen=True)
class Said:
    """What was said of a file: a verdict and the most similar breed, or why there is none."""

    verdict: str | None
    breed: str | None
    error: str | None

    @classmethod
    def of_json(cls, answer: dict[str, Any]) -> "Said":
        """That of `predict --json` and of the page's API."""
        named = [each["breed"] for each in answer["breeds"]] + answer["candidates"]
        return cls(answer["verdict"], named[0] if named else None, answer["error"])

    @property
    def answer(self) -> tuple[str | None, str | None]:
        """What must be the same by each way; sentences may name the file or not."""
        return (self.verdict, self.breed)

    def __bool__(self) -> bool:
        return bool(self.breed or self.error)


class Memory:
    """The largest memory of a process and of those that it starts, each for itself, in 10^6 bytes."""

    megabytes = 0.0

    @contextmanager
    def watch(self, pid: int) -> Iterator[None]:
        """Look at it, ten times a second, and once more at the end."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.1):
                for each in (pid, *children(pid)):
                    with suppress(OSError, IndexError):  # it has just ended
                        peak = Path(f"/proc/{each}/status").read_text().split("VmHWM:")[1].split()[0]
                        self.megabytes = max(self.megabytes, int(peak) * 1024 / 1e6)

        watching = threading.Thread(target=look)
        watching.start()
        try:
            yield
        finally:
            ended.set()
            watching.join()


def main(files: tuple[Path, ...], run_dir: Path = DEFAULT_RUN) -> None:
    """Print what each way said, and the files on which they differ.

    Args:
        files: Folders of files.
        run_dir: The run folder that answers.
    """
    found = (path for folder in files for path in sorted(folder.rglob("*")) if path.is_file())
    paths = [path for path in found if not is_left_out(path.name)]
    said: dict[str, dict[Path, Said]] = {}
    too_large = False
    for way in (by_page, by_predict, by_index):
        memory = Memory()
        answers = said[way.__name__] = way(paths, run_dir, memory)
        num_read = sum(each.verdict is not None for each in answers.values())
        print(
            f"{way.__name__:<11}{num_read} read, {len(answers) - num_read} refused; "
            f"a process had at most {memory.megabytes:.0f} MB",
            flush=True,
        )
        too_large |= memory.megabytes > MAX_MEGABYTES
    differing = [path for path in paths if not agree([answers.get(path) for answers in said.values()])]
    for path in differing:
        print(path, *(f"    {way:<11}{answers.get(path)}" for way, answers in said.items()), sep="\n")
    print(f"{len(paths)} files, {len(differing)} without an answer or with different ones")
    sys.exit(1 if differing or too_large else 0)


def agree(said: Sequence[Said | None]) -> bool:
    """Whether each way answered, and all the same."""
    return all(said) and len({each.answer for each in said if each}) == 1


def by_page(paths: Sequence[Path], run_dir: Path, memory: Memory) -> dict[Path, Said]:
    """Upload each file, and ask about it."""
    answers = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_page(Path(folder), [run_dir]) as (host, process),
        memory.watch(process.pid),
    ):
        for number, path in enumerate(paths):
            person = Person(host, random.Random(number))  # each from an address of its own: there is a limit for one
            sample = Sample(path.name, path.read_bytes(), {}, None)
            try:
                answers[path] = Said.of_json(person.ask(sample, RunFolder.open(run_dir).name))
            except Refused as refusal:
                answers[path] = Said(None, None, str(refusal))
    return answers


def by_predict(paths: Sequence[Path], run_dir: Path, memory: Memory) -> dict[Path, Said]:
    """`predict --json`, for some files in each call."""
    answers = {}
    for some in batches(paths, BATCH):
        command = [sys.executable, "-m", "dogbreeds", "predict", "--json", "--run-dir", run_dir, "--", *some]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process, memory.watch(process.pid):
            assert process.stdout is not None
            for path, line in zip(some, process.stdout, strict=True):
                answers[path] = Said.of_json(json.loads(line))
    return answers


def by_index(paths: Sequence[Path], run_dir: Path, memory: Memory) -> dict[Path, Said]:
    """`index` with a list of the paths."""
    with tempfile.TemporaryDirectory() as folder:
        listed, output = Path(folder) / "paths.txt", Path(folder) / "breeds.csv"
        listed.write_text("".join(f"{path.absolute()}\n" for path in paths))
        command = [sys.executable, "-m", "dogbreeds", "index", listed, "--output", output, "--run-dir", run_dir]
        with subprocess.Popen(command) as process, memory.watch(process.pid):
            process.wait()
        with output.open(newline="") as file:
            rows = {Path(row["path"]): row for row in csv.DictReader(file)}
    return {
        path: Said(row["verdict"] or None, row["breed"] or None, row["error"] or None)
        for path in paths
        if (row := rows.get(path.absolute()))
    }


if __name__ == "__main__":
    tyro.cli(main)
