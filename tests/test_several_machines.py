"""Training in several processes and on several machines, as the documentation and the files for clusters start it."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, installed
from transformers import AutoModelForImageClassification

from dogbreeds.run_folder import RunFolder
from dogbreeds.training.options import TrainConfig
from dogbreeds.training.train import fit, set_up

FILES = ROOT / "dogbreeds" / "docs" / "deploy"
JOB = (FILES / "train.sbatch").read_text()
TASK = yaml.safe_load((FILES / "train.sky.yaml").read_text())
PORT = "29500"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

OPTIONS = ["--epochs", "2", "--augment", "off", "--image-size", "32", "--model", "vit_nano", "--num-workers", "0"]
OPTIONS += ["--learning-rate", "3e-3", "--head-learning-rate", "3e-3", "--batch-size", "4", "--output-dir", "runs/two"]
OPTIONS += ["--validation-fraction", "0.2", "--test-fraction", "0.2", "--tracker", "tensorboard"]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The project in a folder in which `.venv/bin/accelerate` runs with this Python."""
    folder = tmp_path / "checkout"
    launcher = folder / ".venv" / "bin" / "accelerate"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m accelerate.commands.accelerate_cli "$@"\n')
    launcher.chmod(0o755)
    for name in ("dogbreeds", "train_vit.py"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def free_ports(num: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def on_one_machine(folder: Path, options: list[str]) -> None:
    """As training.md starts several GPUs."""
    command = ".venv/bin/accelerate launch --multi_gpu --num_processes 2 --main_process_port 0 train_vit.py"
    result = subprocess.run([*command.split(), *options], cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr[-3000:]


def by_skypilot(folder: Path, options: list[str]) -> None:
    """What SkyPilot runs on each of two machines, which are processes here, with the variables that it sets."""
    (port,) = free_ports(1)
    folders = [folder, shutil.copytree(folder, folder.parent / "elsewhere", symlinks=True)]  # nothing is shared
    variables = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NUM_GPUS_PER_NODE": "1", "OPTIONS": " ".join(options)}
    machines = [
        subprocess.Popen(
            ["bash", "-c", TASK["run"].replace(PORT, str(port))],
            cwd=folders[int(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**ENVIRONMENT, **variables, "SKYPILOT_NODE_RANK": rank, "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2"},
        )
        for rank in "01"
    ]
    said = [machine.communicate()[0] for machine in machines]
    assert not any(machine.returncode for machine in machines), "\n".join(said)[-3000:]
    assert not (folders[1] / "runs").exists()


def by_slurm(folder: Path, options: list[str]) -> None:
    """By a SLURM that runs here, of two machines that are daemons on this one."""
    (port,) = free_ports(1)
    (folder / "train.sbatch").write_text(JOB.replace(PORT, str(port)))
    # Not in tmp_path: the paths of sockets have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="slurm") as place, slurm(Path(place)) as environment:
        fewer = ["--gpus-per-node=1", "--cpus-per-task=1", "--output=said", "--wait", "--no-requeue"]
        command = [installed("sbatch"), *fewer, "train.sbatch", *options]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)
        said = folder / "said"
        assert result.returncode == 0, result.stderr + (said.read_text()[-3000:] if said.exists() else "")


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """A SLURM of two machines with a GPU each, as far as it knows; the environment of its commands."""
    if os.geteuid():
        pytest.skip("SLURM's daemons start as root")
    controller, daemon, munge = installed("slurmctld"), installed("slurmd"), installed("munged")
    (folder / "state").mkdir()
    ports, name = free_ports(3), socket.gethostname()
    configuration = folder / "slurm.conf"
    configuration.write_text(f"""
        ClusterName=test
        SlurmctldHost={name}(127.0.0.1)
        SlurmctldPort={ports[0]}
        SlurmUser=root
        AuthInfo=socket={folder}/munge.socket
        StateSaveLocation={folder}/state
        SlurmdSpoolDir={folder}/spool-%n
        SlurmctldPidFile={folder}/controller.pid
        SlurmdPidFile={folder}/%n.pid
        ProctrackType=proctrack/linuxproc
        SelectType=select/cons_tres
        SelectTypeParameters=CR_CPU
        GresTypes=gpu
        NodeName=m1 NodeHostname={name} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 Gres=gpu:1
        NodeName=m2 NodeHostname={name} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 Gres=gpu:1
        PartitionName=all Nodes=ALL Default=YES
    """)
    (folder / "gres.conf").write_text("NodeName=m[1-2] Name=gpu File=/dev/null")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    own = [f"--{option}={folder}/munge.{ending}" for option, ending in files.items()]
    environment = {**ENVIRONMENT, "SLURM_CONF": str(configuration)}
    running = []

    def start(*command: str, until: Callable[[], bool]) -> None:
        with (folder / "daemons.log").open("a") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        for _ in range(300):
            if until():
                return
            time.sleep(0.1)
        pytest.fail((folder / "daemons.log").read_text())

    def says(words: str, *command: str) -> bool:
        return words in subprocess.run(command, capture_output=True, text=True, env=environment).stdout

    try:
        start(munge, "--foreground", "--force", f"--key-file={key}", *own, until=(folder / "munge.socket").exists)
        start(controller, "-D", until=lambda: says("is UP", "scontrol", "ping"))
        for node in ("m1", "m2"):
            start(daemon, "-D", "-N", node, until=lambda node=node: says("idle", "sinfo", "-h", "-n", node))
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(20)


@pytest.mark.slow
@pytest.mark.parametrize("launch", [on_one_machine, by_skypilot, by_slurm])
def test_two_processes_train_one_model(launch: Callable[[Path, list[str]], None], checkout, photo_folder, tmp_path):
    """Two processes with half the batch do what one does.

    tests/killed_runs.py has what torchrun tells its processes.
    """
    launch(checkout, [*OPTIONS, "--data", str(photo_folder)])
    run = checkout / "runs" / "two"
    record = RunFolder.open(run).record
    assert record.hardware.startswith("2 x")
    assert len(list((run / "logs").rglob("events.out.*"))) == 1, "one of the processes tells the tracker"
    assert record.figures["validation"]["n"] == record.data.num_validation

    one = set_up(TrainConfig.from_dict({**record.config, "batch_size": 8, "output_dir": str(tmp_path / "one")}))
    fit(one)
    assert record.data.split_hash == one.splits.split_hash
    assert record.data.num_train % 8 == 0  # or the last batch would differ
    assert record.best_epoch == 2  # so that its weights are the last
    weights = AutoModelForImageClassification.from_pretrained(run).state_dict()
    for name, tensor in one.learner.trained_model.state_dict().items():
        scale = record.logit_scale if name.startswith("classifier.") else 1.0
        torch.testing.assert_close(scale * weights[name], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_train_one_model_after_the_other(checkout, photo_folder):
    on_one_machine(checkout, [*OPTIONS, "--data", str(photo_folder), "--seeds", "0,1"])
    for seed in (0, 1):
        record = RunFolder.open(checkout / "runs" / f"two-seed{seed}").record
        assert record.hardware.startswith("2 x") and record.config["seed"] == seed
