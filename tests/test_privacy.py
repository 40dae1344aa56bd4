"""What the commands leave behind, and whom they tell."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, make_photo


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "dogbreeds", "predict", "photo.png"],
        ["-m", "dogbreeds", "index", "photos", "--output", "breeds.csv"],
        [
            "-c",
            "import dogbreeds.training.export, onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1])",
            "MODEL",
        ],
    ],
    ids=["predict", "index", "training"],
)
def test_no_device_id_is_made_and_no_host_is_asked(words, tiny_run, tmp_path):
    home, folder = tmp_path / "home", tmp_path / "work"
    for path in (home, folder / "photos"):
        path.mkdir(parents=True)
    for name in ("photo.png", "photos/photo.png"):
        make_photo(1, 1).save(folder / name)
    unset = ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, *words]
    if "MODEL" in words:
        command[-1] = str(tiny_run / "onnx/model.onnx")
    else:
        command += ["--run-dir", str(tiny_run)]
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-qq", "-e", "trace=connect", "-o", str(trace)] if shutil.which("strace") else []
    subprocess.run(
        [*strace, *command],
        env={**env, "HOME": str(home), "PYTHONPATH": str(ROOT)},
        cwd=folder,
        check=True,
        timeout=120,
    )
    assert not [path for path in home.rglob("*") if "onnxruntime" in path.name.lower()]
    asked = [line for line in (trace.read_text().splitlines() if strace else []) if "AF_INET" in line]
    assert asked == []
