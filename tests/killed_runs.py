"""Kill training at random moments, resume it each time, and compare with a run that was never killed.

    PYTHONPATH=.:tests python tests/killed_runs.py --kills 20 --processes 2

Each process is killed (SIGKILL) at a moment between the first step and the last, every second time while it saves,
which it does after every step. The runs use random views, dropout, averaged weights, gradient accumulation, early
stopping and the pixel cache. The exit status is 0 if every run that was killed ended with the same weights, best
weights, figures and history, bit for bit.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from conftest import make_photo_folder, tiny_config

from dogbreeds.files import partial_path
from dogbreeds.training import loop
from dogbreeds.training import train as training

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


MAX_SECONDS = 60
"""After these a process that hangs is ended, so that this does."""


def fit(data: Path, output_dir: Path, model: str, started: int, result: Path) -> None:
    """Train in this process, say when the first step is due, and write what came out."""
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


def start(num_processes: int, *arguments) -> tuple[list[int], int]:
    """Fork the processes of a run; their ids, and where they say that they train."""
    reading, writing = os.pipe()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    children = []
    for rank in range(num_processes):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(MAX_SECONDS)
                os.environ.update({"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"})
                if num_processes > 1:
                    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)})
                    os.environ.update({"LOCAL_WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1"})
                    os.environ["MASTER_PORT"] = str(port)
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1)
                data, output_dir, model, result = arguments
                fit(data, output_dir, model, writing, result)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    os.close(writing)
    return children, reading


def wait(children: list[int]) -> list[int]:
    return [os.waitpid(child, 0)[1] for child in children]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--model", default="vit_nano")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # progress bars of many runs
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
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
