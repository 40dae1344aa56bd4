"""From the shell's prompt to the answer: `python -m dogbreeds predict` against a script with `transformers.pipeline`.

    python tests/benchmarks/cold_predict.py --run-dir runs/mobilenet_v2 --photo photo.jpg

Both start a Python of their own, load the same checkpoint and answer one photo, in turns. The run folder needs its
model.safetensors.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tyro

SCRIPT = """
import sys
from transformers import pipeline
print(pipeline("image-classification", model=sys.argv[1], trust_remote_code=False, top_k=5)(sys.argv[2]))
"""


def main(photo: Path, run_dir: Path = Path("runs/mobilenet_v2"), num_rounds: int = 5) -> None:
    """Print the seconds of both and their ratio."""
    commands = (
        [sys.executable, "-m", "dogbreeds", "predict", str(photo), "--run-dir", str(run_dir)],
        [sys.executable, "-c", SCRIPT, str(run_dir), str(photo)],
    )
    for command in commands:  # so that neither reads its files from a cold disk
        subprocess.run(command, check=True, capture_output=True)
    seconds = np.empty((num_rounds, 2))
    for round_number in range(num_rounds):
        for which, command in enumerate(commands):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[round_number, which] = time.perf_counter() - started
        mine, theirs = seconds[round_number]
        print(f"round {round_number + 1}: ours {mine:.2f} s, pipeline {theirs:.2f} s, ratio {theirs / mine:.1f}")
    ratios = seconds[:, 1] / seconds[:, 0]
    mine, theirs = np.median(seconds, axis=0)
    print(f"ours {mine:.2f} s, pipeline {theirs:.2f} s; ratio {ratios.mean():.1f} +- {ratios.std():.1f}")


if __name__ == "__main__":
    tyro.cli(main)
