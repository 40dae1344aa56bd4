"""One photo to its answer: the predictor against `transformers.pipeline` on the same checkpoint, in one run.

    python tests/benchmarks/predict_speed.py --run-dir runs/mobilenet_v2 --photos FOLDER
    python tests/benchmarks/predict_speed.py --random-vit-base --photos FOLDER

The two take turns, pass by pass; both open the file. The run folder needs its model.safetensors, which is the
pipeline's; ours is what its run.json says, float32 or 8-bit.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import tyro
from transformers import ViTConfig, ViTForImageClassification, pipeline

from dogbreeds import run_folder
from dogbreeds.breeds import all_breeds
from dogbreeds.calibration import Calibration
from dogbreeds.files import write_json
from dogbreeds.images import open_image
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.serving.predictor import Predictor
from dogbreeds.training.export import export_serving_model
from dogbreeds.training.quantize import quantize_onnx


def main(
    photos: Path,
    run_dir: Path = Path("runs/mobilenet_v2"),
    random_vit_base: bool = False,
    num_photos: int = 200,
    num_rounds: int = 3,
) -> None:
    """Print the times, their ratio, and how often the answers are the same.

    Args:
        photos: A folder of JPEG files.
        run_dir: The run that answers.
        random_vit_base: Instead of a run, a ViT-B/16 with random weights, 8-bit on our side: for its speed alone.
        num_photos: Photos in a pass.
        num_rounds: Passes of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        if random_vit_base:
            some = sorted(photos.rglob("*.jpg"))[:16]
            run_dir = make_random_vit_base(Path(folder) / "vit_base", some)
        compare(photos, run_dir, num_photos, num_rounds)


def make_random_vit_base(path: Path, photos: list[Path]) -> Path:
    """A run folder with a ViT-B/16 of random weights, and the 8-bit copy of it that answers."""
    torch.manual_seed(0)
    names = dict(enumerate(breed.name for breed in all_breeds()))
    model = ViTForImageClassification(ViTConfig(id2label=names, label2id={name: i for i, name in names.items()})).eval()
    partial = run_folder.begin(path, resume=False)
    model.save_pretrained(partial)
    export_serving_model(model, partial / run_folder.ONNX, 224)
    view = Preprocessing()
    pixels = np.stack([view(open_image(photo)) for photo in photos])
    quantize_onnx(partial / run_folder.ONNX, partial / run_folder.ONNX_8BIT, pixels)
    write_json(partial / run_folder.PREPROCESSOR, view.to_preprocessor_config("ViTImageProcessor"))
    shipped = run_folder.RunFolder.open(run_folder.DEFAULT_RUN).record  # its figures are of another model
    record = replace(shipped, serving_model=run_folder.ONNX_8BIT, calibration=Calibration(1.0, 0.0, 0.5))
    run_folder.commit(partial, path, record)
    return path


def compare(photos: Path, run_dir: Path, num_photos: int, num_rounds: int) -> None:
    """Time both and print."""
    ours = Predictor(run_dir)
    theirs = pipeline("image-classification", model=str(run_dir), trust_remote_code=False, top_k=1)
    every = sorted(path for path in photos.rglob("*.jpg"))
    chosen = every[:: max(1, len(every) // num_photos)][:num_photos]
    for path in chosen[:10]:  # warm up
        ours.predict(path, every_dog=False), theirs(str(path))
    ratios, same = [], 0
    for round_number in range(num_rounds):
        # One pass each: in turns photo by photo, threads that one leaves spinning would slow the other down.
        my_answers, my_seconds = timed(chosen, lambda path: ours.predict(path, every_dog=False).breeds[0].breed)
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
