"""The first forward pass of a model from elsewhere, in a process with limited memory and time.

The limits of `dogbreeds.serving.network` hold once a model is loaded. But ONNX Runtime computes parts of a graph while
it loads it, and a graph that is made for it can end the process.
"""

import dataclasses
import hashlib
import json
import math
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime

from dogbreeds.errors import UserError
from dogbreeds.files import cache_folder
from dogbreeds.serving.network import Network, NetworkFile, in_gigabytes, memory_limit

SECONDS = 60
"""Of computing, on one core, for loading a model and for its answer to two photos."""

_EXTERNAL = re.compile(rb"(?:\n|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")
"""The key "location", of 8 bytes, as the first field of a message of protobuf (TensorProto.external_data of ONNX). Both
numbers before it can be written longer than they need be."""

try:
    import resource
except ModuleNotFoundError:  # Windows: only the time is limited
    resource = None  # type: ignore[assignment]


def try_out(file: NetworkFile, digest: str) -> None:
    """Try a model out, unless this machine has done so before.

    Args:
        file: The model.
        digest: The SHA-256 of its file.

    Raises:
        UserError: It can't be loaded, takes too long or too much memory, or gives something that is no answer.
    """
    # What was tried: the same file, however it is called, for the same run.
    tried = dataclasses.replace(file, path=digest), onnxruntime.__version__
    folder = _tried_folder()
    done = folder and folder / hashlib.sha256(repr(tried).encode()).hexdigest()
    if done and done.exists():
        return
    if has_external_data(Path(file.path)):
        raise file.fault("some of its weights are in another file, which run.json has no hash of")
    request = json.dumps({"file": dataclasses.asdict(file), "seconds": SECONDS, "memory": memory_limit()})
    package = str(Path(__file__).parents[2])
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=request,
            capture_output=True,
            text=True,
            timeout=3 * SECONDS,  # for a machine that is busy
            env={**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])},
        )
    except subprocess.TimeoutExpired:
        raise file.fault(f"it takes more than {SECONDS} s to load it and to answer") from None
    if child.returncode == 0:
        if fault := json.loads(child.stdout):
            raise UserError(fault)
        if done:
            with suppress(OSError):  # a folder that can't be written: it is tried again each time
                done.parent.mkdir(parents=True, exist_ok=True)
                done.touch()
        return
    if child.returncode == -getattr(signal, "SIGXCPU", 0):
        raise file.fault(f"it takes more than {SECONDS} s to load it and to answer")
    raise file.fault(f"loading it ends the process, or takes more than {in_gigabytes(memory_limit())} of memory")


def has_external_data(path: Path) -> bool:
    """Whether an ONNX file takes a part from another file, which ONNX Runtime would read whatever it is."""
    if not path.stat().st_size:  # can't be mapped
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"location") >= 0 and _EXTERNAL.search(content) is not None


def _tried_folder() -> Path | None:
    """Where it is kept which models were tried; None where this user has no folder."""
    try:
        return cache_folder() / "tried-models"
    except RuntimeError:
        return None


def _limit(seconds: int, memory: int) -> None:
    """Limit what this process may take from now on."""
    if resource is None:
        return
    until = math.ceil(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (until, until + 5))
    try:  # Linux; elsewhere the memory of processes can't be limited so
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = in_use + memory
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


def fault_of(file: NetworkFile) -> str | None:
    """Load a model and answer two photos of noise at once; what is wrong with it, if anything."""
    try:
        network = Network(file, num_threads=1)
        noise = np.random.default_rng(0).standard_normal((2, 3, file.size, file.size), np.float32)
        network.one_pass(network.output_names, noise)
    except UserError as error:
        return str(error)
    return None


def main() -> None:
    """Try out the model that standard input names, within its limits, and print its fault as JSON."""
    request = json.load(sys.stdin)
    _limit(request["seconds"], request["memory"])
    print(json.dumps(fault_of(NetworkFile(**request["file"]))))


if __name__ == "__main__":
    main()
