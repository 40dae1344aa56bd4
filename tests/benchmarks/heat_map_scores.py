"""Do the heat maps of served runs show what their answers depend on, and where the dog is?

    python tests/benchmarks/heat_map_scores.py RUN RUN --dogs LABELLED --other-photos FOLDER

Deletion and insertion (Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421): the hottest cells of the view are
painted over with its mean colour, or uncovered in a blurred view, 5 % at a time; the score is the mean probability of
the named breed on the way: a low one is good of deletion, and a high one of insertion. Two other orders are a measure:
chance, and from the centre outwards, since people photograph dogs in the centre. Pointing (Zhang et al. 2016,
https://arxiv.org/abs/1608.00507): a dog's photo is pasted somewhere on another photo; is the hottest place on it?
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageFilter, ImageOps
from tqdm import tqdm
from tyro.conf import Positional

from dogbreeds.calibration_photos import DIGEST_DIGITS, fitted_on
from dogbreeds.errors import one_line_errors
from dogbreeds.images import open_image
from dogbreeds.metrics import share_with_interval
from dogbreeds.photos import photo_digest, photo_files, read_bytes
from dogbreeds.run_folder import RunFolder
from dogbreeds.serving.predictor import Predictor

GRID = 14
"""Cells on a side of the view, for all networks; a ViT of 224 pixels has as many patches."""
SHARES = np.linspace(0, 1, 21)
SCENE = 600
"""Pixels on a side of a scene."""
WIDTH = 0.4
"""Of the dog's photo, as a share of the scene's."""
ORDERS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "heat map": lambda heat, rng: np.lexsort([rng.random(heat.size), -heat.ravel()]),
    "from the centre": lambda heat, rng: np.hypot(*(np.indices(heat.shape) - (GRID - 1) / 2)).ravel().argsort(),
    "chance": lambda heat, rng: rng.permutation(heat.size),
}


def on_grid(heat: np.ndarray) -> np.ndarray:
    """A heat map `(h, w)` as one of `(GRID, GRID)`."""
    return np.asarray(Image.fromarray(heat.astype(np.float32)).resize((GRID, GRID), Image.Resampling.BILINEAR))


def covered(order: np.ndarray, side: int) -> np.ndarray:
    """Which pixels are covered when each of `SHARES` of the cells is, in this order: `(S, side, side)` bool."""
    rank = np.empty(order.size)
    rank[order] = np.arange(order.size)
    cell = np.arange(side) * GRID // side
    return rank.reshape(GRID, GRID)[cell[:, None], cell] < SHARES[:, None, None] * order.size


def scores(predictor: Predictor, photo: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Deletion and insertion for each of `ORDERS`: `(orders, 2)`."""
    view = predictor.run.preprocessing
    pixels, blurred = view(photo), view(photo.filter(ImageFilter.GaussianBlur(min(photo.size) / 16)))
    (answer,) = predictor.predict_images([photo], top_k=1)
    label = predictor.run.labels.index(answer.breeds[0].breed)
    plain = np.broadcast_to(pixels.mean(axis=(1, 2), keepdims=True), pixels.shape)
    found = []
    for order in ORDERS.values():
        hidden = covered(order(on_grid(answer.heat_map), rng), view.size)[:, None]
        for steps in (np.where(hidden, plain, pixels), np.where(hidden, pixels, blurred)):
            logits = predictor.logits(steps.astype(np.float32))
            found.append(predictor.run.calibration.probabilities(logits)[:, label].mean())
    return np.array(found).reshape(len(ORDERS), 2)


def points_at_it(predictor: Predictor, dog: Path, other: Path, rng: np.random.Generator) -> tuple[bool, float]:
    """Whether the hottest place of a scene is on the dog's photo, and the share of the scene that this is."""
    scene = ImageOps.fit(open_image(other), (SCENE, SCENE), Image.Resampling.BICUBIC)
    pasted = ImageOps.contain(open_image(dog), (round(WIDTH * SCENE), SCENE), Image.Resampling.BICUBIC)
    left, top = (int(rng.integers(0, SCENE - side + 1)) for side in pasted.size)
    scene.paste(pasted, (left, top))
    (answer,) = predictor.predict_images([scene], top_k=1)
    row, column = np.unravel_index(answer.heat_map.argmax(), answer.heat_map.shape)
    y, x = (row + 0.5) / answer.heat_map.shape[0] * SCENE, (column + 0.5) / answer.heat_map.shape[1] * SCENE
    inside = left <= x < left + pasted.width and top <= y < top + pasted.height
    return bool(inside), pasted.width * pasted.height / SCENE**2


def interval(values: np.ndarray) -> str:
    """The mean in per cent with its 95 % interval over photos."""
    mean, margin = 100 * values.mean(), 196 * values.std(ddof=1) / len(values) ** 0.5
    return f"{mean:.1f} ({mean - margin:.1f} to {mean + margin:.1f})"


def main(runs: Positional[tuple[Path, ...]], dogs: Path, other_photos: Path, num: int = 150, seed: int = 0) -> None:
    """Print the scores of each run on the same photos, which fitted none of them."""
    opened = [RunFolder.open(run) for run in runs]
    one_look = [
        replace(run, record=replace(run.record, calibration=replace(run.calibration, sure_margin=None)))
        for run in opened
    ]
    rng = np.random.default_rng(seed)
    files, others = photo_files(dogs), photo_files(other_photos)
    chosen: list[Path] = []
    known = set().union(*map(fitted_on, opened))
    for index in rng.permutation(len(files)):
        digest = photo_digest(read_bytes(files[index]))
        if len(chosen) < num and digest[:DIGEST_DIGITS] not in known:
            chosen.append(files[index])
    behind = [others[index] for index in rng.integers(0, len(others), num)]
    print("| run | order | deletion: lower is better | insertion: higher is better | insertion less deletion |")
    print("| --- | --- | --- | --- | --- |")
    pointing = []
    for run in one_look:
        predictor = Predictor(run)
        found = np.stack(
            [scores(predictor, open_image(path), np.random.default_rng(0)) for path in tqdm(chosen, run.name)]
        )
        for number, name in enumerate(ORDERS):
            deletion, insertion = found[:, number].T
            cells = [interval(values) for values in (deletion, insertion, insertion - deletion)]
            print(f"| {run.name} | {name} | {' | '.join(cells)} |")
        places = np.random.default_rng(seed)
        hits, shares = zip(
            *(points_at_it(predictor, *pair, places) for pair in zip(chosen, behind, strict=True)), strict=True
        )
        pointing.append(
            f"{run.name}: {share_with_interval(float(np.mean(hits)), num)}, by chance {np.mean(shares):.1%}"
        )
    print("the hottest place is on the dog's photo:", *pointing, sep="\n")


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main)
