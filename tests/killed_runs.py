"""Kill training or `python -m dogbreeds index` at random moments, continue it each time, and compare the results.

    PYTHONPATH=.:tests python tests/killed_runs.py --kills 20 --processes 2
    PYTHONPATH=.:tests python tests/killed_runs.py --kills 200 --index

Training: each process is killed (SIGKILL) at a moment between the first step and the last, every second time while it
saves, which it does after every step. The runs use random views, dropout, averaged weights, gradient accumulation,
early stopping and the pixel cache. The exit status is 0 if every run that was killed ended with the same weights, best
weights, figures and history, bit for bit.

Index: the process is killed at any moment from its start to its end, every second time when it is about to write the
table or to remove what it kept of the unfinished one. The exit status is 0 if every table has each row of an
undisturbed one, once, with the same values.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import make_photo_folder, tiny_config

from dogbreeds import cli
from dogbreeds.files import partial_path, temporary_path

OPTIONS = {
    "epochs": 4,
    "batch_size": 4,
    "dropout": 0.2,
    "ema_decay": 0.9,
    "gradient_accumulation_steps": 2,
    "early_stopping_patience": 3,
    "rotation": 10.0,
    "checkpoint_minutes": 1e-9,
}


MAX_SECONDS = 300
"""After these a process that hangs is ended, so that this does."""


def fit(data: Path, output_dir: Path, model: str, started: int, result: Path) -> None:
    """Train in this process, say when the first step is due, and write what came out."""
    import torch

    from dogbreeds.training import loop
    from dogbreeds.training import train as training

    torch.set_num_threads(1)
    loop.AGREE_EVERY = 1  # several processes too save every step
    resume = partial_path(output_dir).is_dir()
    run = training.set_up(tiny_config(data, output_dir, model=model, resume=resume, **OPTIONS))
    os.write(started, b"!")
    training.fit(run)
    if run.context.is_main:
        history = [{key: value for key, value in row.items() if key != "seconds"} for row in run.loop.progress.history]
        tensors = {
            **run.learner.trained_model.state_dict(),
            **{f"best {k}": v for k, v in run.saved_states.load_best().items()},
        }
        digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors.values())).hexdigest()
        outcome = {"history": history, "best_epoch": run.loop.progress.best_epoch, "weights": digest}
        unfinished = result.with_suffix(".tmp")
        unfinished.write_text(json.dumps(outcome))
        unfinished.replace(result)


def fork(work: Callable[[], object]) -> int:
    """Run a function in a process of its own; its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(MAX_SECONDS)
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # progress bars of many runs
            work()
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)
    return child


def start(num_processes: int, data: Path, output_dir: Path, model: str, result: Path) -> tuple[list[int], int]:
    """Fork the processes of a run; their ids, and where they say that they train."""
    reading, writing = os.pipe()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    def train(rank: int) -> None:
        from dogbreeds.training.locks import locked

        os.environ.update({"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
        if num_processes > 1:  # what torchrun sets
            os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)})
            os.environ.update({"LOCAL_WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1"})
            os.environ["MASTER_PORT"] = str(port)
        with locked(output_dir):
            fit(data, output_dir, model, writing, result)

    children = [fork(lambda rank=rank: train(rank)) for rank in range(num_processes)]
    os.close(writing)
    return children, reading


def wait(children: list[int]) -> list[int]:
    return [os.waitpid(child, 0)[1] for child in children]


def kill_training(options: argparse.Namespace, rng: random.Random) -> int:
    """Kill runs and resume them; how many of them ended otherwise than the one that was not killed."""
    import dogbreeds.training.train  # noqa: F401  # so that no process need import it

    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        data = make_photo_folder(folder / "photos")

        def run(name: str) -> tuple[list[int], int]:
            return start(options.processes, data, folder / name, options.model, folder / f"{name}.json")

        children, started = run("whole")
        os.read(started, options.processes)
        since = time.monotonic()
        assert wait(children) == [0] * options.processes, "the run that is not killed failed"
        seconds = time.monotonic() - since
        whole = json.loads((folder / "whole.json").read_text())
        num_kills = num_runs = mid_epoch = mid_save = different = 0
        while num_kills < options.kills:
            num_runs += 1
            name = f"killed-{num_runs}"
            result = folder / f"{name}.json"
            while not result.exists():
                children, started = run(name)
                trains = os.read(started, 1)
                os.close(started)
                if not trains:  # another program took the port, and the processes did not find each other
                    wait(children)
                    continue
                if num_kills == options.kills:
                    assert wait(children) == [0] * options.processes, "resuming failed"
                    break
                time.sleep(rng.uniform(0, seconds))
                kept = folder / f"{name}.partial" / "state"
                until = time.monotonic() + 1
                while num_kills % 2 and time.monotonic() < until and not any(kept.glob("*.tmp")):
                    time.sleep(1e-4)  # every second one is killed while it saves
                for child in rng.sample(children, len(children)):
                    os.kill(child, signal.SIGKILL)
                wait(children)
                if not result.exists():  # it was not faster
                    num_kills += 1
                    states = sorted(kept.glob("epoch-*.pt"))
                    mid_epoch += bool(states) and "batch-000000" not in states[-1].name
                    mid_save += any(kept.glob("*.tmp"))
            different += json.loads(result.read_text()) != whole
    print(
        f"{num_kills} kills of {num_runs} runs with {options.processes} process(es), {mid_epoch} with the last state "
        f"mid-epoch, {mid_save} mid-save: {different} of the runs ended otherwise than the one that was not killed"
    )
    return different


def train_briefly(data: Path, run_dir: Path) -> None:
    from dogbreeds.training.train import train

    train(tiny_config(data, run_dir, epochs=1, images_per_breed=10))


def kill_index(options: argparse.Namespace, rng: random.Random) -> int:
    """Kill `index` and continue it; how many rows are not as they are without a kill."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        data = make_photo_folder(folder / "photos", num_photos=options.photos // 4)
        run_dir = options.run_dir or folder / "run"
        if not options.run_dir:
            assert wait([fork(lambda: train_briefly(data, run_dir))]) == [0], "the run that answers can't be trained"
        for number in range(9):
            (data / f"unreadable-{number}.jpg").write_bytes(b"no photo")
        from dogbreeds.serving import library  # noqa: F401  # so that no process need import it

        def index(output: Path) -> int:
            def command() -> None:
                sys.argv = ["dogbreeds", "index", str(data), "--output", str(output), "--run-dir", str(run_dir)]
                try:
                    cli.main()
                except SystemExit as ended:
                    assert ended.code == 1, ended  # some files can't be read

            return fork(command)

        since = time.monotonic()
        assert wait([index(folder / "whole.csv")]) == [0], "index failed"
        seconds = time.monotonic() - since
        whole = rows_of(folder / "whole.csv")
        counts = Counter[str]()
        while counts["kills"] < options.kills:
            counts["runs"] += 1
            output = folder / f"table-{counts['runs']}" / "table.csv"
            output.parent.mkdir()
            table = temporary_path(output)
            while not output.exists():  # complete; what was kept of it may still be there
                child = index(output)
                if counts["kills"] == options.kills:
                    assert wait([child]) == [0], "continuing failed"
                    break
                at_the_end = counts["kills"] % 2
                until = time.monotonic() + (MAX_SECONDS if at_the_end else rng.uniform(0, seconds))
                while time.monotonic() < until and not (at_the_end and (table.exists() or has_ended(child))):
                    time.sleep(1e-4)
                time.sleep(rng.uniform(0, 0.03) if at_the_end else 0)
                os.kill(child, signal.SIGKILL)
                status = wait([child])[0]
                assert status in (0, signal.SIGKILL), f"continuing ended with {status}"
                if status:
                    counts["kills"] += 1
                    counts[moment_of(output)] += 1
            counts += compare(whole, rows_of(output))
            shutil.rmtree(output.parent)
    moments = ", ".join(f"{counts[moment]} {moment}" for moment in MOMENTS)
    faults = {fault: counts[fault] for fault in FAULTS}
    print(
        f"{counts['kills']} kills of {counts['runs']} tables of {len(whole) - 1} files, {moments}: rows "
        + ", ".join(f"{fault} {number}" for fault, number in faults.items())
    )
    return sum(faults.values())


def has_ended(process: int) -> bool:
    """Whether a child has ended; `wait` still tells how."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


MOMENTS = ("at the start", "while photos were classified", "while the table was written", "after it was complete")
FAULTS = ("lost", "twice", "different")


def moment_of(output: Path) -> str:
    """In which of `MOMENTS` a process was killed, by what it left."""
    is_there = [path.exists() for path in (partial_path(output), temporary_path(output), output)]
    return MOMENTS[max((index + 1 for index, there in enumerate(is_there) if there), default=0)]


def rows_of(table: Path) -> list[list[str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def compare(whole: list[list[str]], found: list[list[str]]) -> Counter[str]:
    """How many rows are lost, there more than once, or otherwise than in the whole table."""
    expected, num_found = {row[0]: row for row in whole}, Counter(row[0] for row in found)
    return Counter(
        lost=len(expected.keys() - num_found.keys()),
        twice=sum(number - 1 for number in num_found.values()),
        different=sum(row != expected.get(row[0]) for row in found),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--index", action="store_true", help="kill `index` instead of training")
    parser.add_argument("--photos", type=int, default=400, help="that are indexed")
    parser.add_argument("--run-dir", type=Path, help="that answers; a tiny one by default, trained first")
    parser.add_argument("--processes", type=int, default=1, help="that train together")
    parser.add_argument("--model", default="vit_nano", help="that is trained")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    count = kill_index(options, rng) if options.index else kill_training(options, rng)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
