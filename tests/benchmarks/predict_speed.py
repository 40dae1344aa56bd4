"""One photo to its answer: the predictor against `transformers.pipeline` on the same checkpoint, in one run.

    python tests/benchmarks/predict_speed.py --run-dir runs/mobilenet_v2 --photos FOLDER

The two take turns, pass by pass; both open the file. The run folder needs its model.safetensors.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro
from transformers import pipeline

from dogbreeds.serving.predictor import Predictor


def main(photos: Path, run_dir: Path = Path("runs/mobilenet_v2"), num_photos: int = 200, num_rounds: int = 3) -> None:
    """Print the times, their ratio, and how often the answers are the same."""
    ours = Predictor(run_dir)
    theirs = pipeline("image-classification", model=str(run_dir), top_k=1)
    every = sorted(path for path in photos.rglob("*.jpg"))
    chosen = every[:: max(1, len(every) // num_photos)][:num_photos]
    for path in chosen[:10]:  # warm up
        ours.predict(path), theirs(str(path))
    ratios, same = [], 0
    for round_number in range(num_rounds):
        # One pass each: in turns photo by photo, threads that one leaves spinning would slow the other down.
        my_answers, my_seconds = timed(chosen, lambda path: ours.predict(path).breeds[0].breed)
        their_answers, their_seconds = timed(chosen, lambda path: theirs(str(path))[0]["label"])
        same = sum(mine == their for mine, their in zip(my_answers, their_answers, strict=True))
        times = np.column_stack([my_seconds, their_seconds])
        mine_ms, their_ms = np.median(times, axis=0) * 1000
        mine_p95, their_p95 = np.percentile(times, 95, axis=0) * 1000
        ratios.append(their_ms / mine_ms)
        print(
            f"round {round_number + 1}: ours {mine_ms:.1f} ms (p95 {mine_p95:.1f}), pipeline {their_ms:.1f} ms "
            f"(p95 {their_p95:.1f}), ratio {ratios[-1]:.1f}"
        )
    print(f"ratio {np.mean(ratios):.1f} +- {np.std(ratios):.1f}; same top-1 on {same} of {len(chosen)} photos")


def timed(photos: list[Path], answer: Callable[[Path], str]) -> tuple[list[str], list[float]]:
    """The answer to each photo, and the seconds that it took."""
    answers, seconds = [], []
    for photo in photos:
        start = time.perf_counter()
        answers.append(answer(photo))
        seconds.append(time.perf_counter() - start)
    return answers, seconds


if __name__ == "__main__":
    tyro.cli(main)
