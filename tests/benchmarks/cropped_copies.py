"""How many photos that are cut out of others does `python -m dogbreeds doctor --labels-by` find?

    python tests/benchmarks/cropped_copies.py --data FOLDER --model FOLDER_OR_HUB_ID

Parts of some photos of a data set in Parquet files are added to it, coded anew as JPEG. The pairs that are found
besides are of the data set itself, or mistakes; a picture of the first of them can be written, to be looked at.
"""

import io
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from PIL import Image

from dogbreeds.errors import UserError, one_line_errors
from dogbreeds.images import open_image
from dogbreeds.metrics import share_with_interval
from dogbreeds.training.datasets.cropped_copies import find_cropped_copies
from dogbreeds.training.labelled_features import LabelledFeatures

MAX_ASPECT = 1.4
"""Of a part, relative to its photo's; and its inverse."""
NUM_SHOWN, SIDE = 24, 160


def part_of(photo: Image.Image, share: float, rng: np.random.Generator) -> bytes:
    """A part of a photo as a JPEG file, this share of its sides, anywhere in it."""
    stretch = MAX_ASPECT ** rng.uniform(-0.5, 0.5)
    width, height = min(1, share * stretch), min(1, share / stretch)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    box = (left * photo.width, top * photo.height, (left + width) * photo.width, (top + height) * photo.height)
    file = io.BytesIO()
    photo.crop(tuple(round(edge) for edge in box)).save(file, "JPEG", quality=int(rng.integers(60, 95)))
    return file.getvalue()


def write_with_parts(table: pa.Table, shares: np.ndarray, folder: Path, rng: np.random.Generator) -> dict[str, str]:
    """Write the photos, and parts of some of them behind; by the id of each part, that of its whole."""
    chosen = rng.choice(len(table), len(shares), replace=False)
    table = table.select(["image", "label"])  # without ids of their own: then the rows are the ids
    rows = table.take(pa.array(chosen)).to_pylist()
    for row, share in zip(rows, shares, strict=True):
        row["image"] = {"bytes": part_of(open_image(row["image"]["bytes"]), share, rng), "path": None}
    pq.write_table(pa.concat_tables([table, pa.Table.from_pylist(rows, table.schema)]), folder / "train.parquet")
    return {f"train/{len(table) + number}": f"train/{row}" for number, row in enumerate(chosen)}


def show(pairs: list[tuple[Image.Image, Image.Image]], path: Path) -> None:
    """A sheet of pairs, the whole above its part."""
    sheet = Image.new("RGB", (12 * SIDE, 2 * SIDE * -(-len(pairs) // 12)), "white")
    for number, pair in enumerate(pairs):
        for row, photo in enumerate(pair):
            photo.thumbnail((SIDE, SIDE))
            sheet.paste(photo, (number % 12 * SIDE, (2 * (number // 12) + row) * SIDE))
    sheet.save(path)


def main(
    data: Path,
    model: str,
    num_parts: int = 300,
    seed: int = 0,
    image_size: int = 224,
    sheet: Path | None = None,
) -> None:
    """Print how many parts are found, by their size, what else is, and how long it takes."""
    files = sorted(data.rglob("train*.parquet"))
    if not files:
        raise UserError(f"{str(data)!r} has no Parquet files of a training split")
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0.45, 0.9, num_parts)
    with tempfile.TemporaryDirectory() as folder:
        whole_of = write_with_parts(
            pa.concat_tables([pq.read_table(file) for file in files]), shares, Path(folder), rng
        )
        started = time.perf_counter()
        photos = LabelledFeatures.compute(folder, model, image_size, progress=True)
        for_features = time.perf_counter() - started
        pairs = find_cropped_copies(photos.sources, photos.features, progress=True)
        seconds = time.perf_counter() - started
        others = [pair for pair in pairs if not {photos.ids[index] for index in pair} & whole_of.keys()]
        if sheet:
            opened = [tuple(open_image(photos.sources[index]) for index in pair) for pair in others[:NUM_SHOWN]]
            show(opened, sheet)
    found = {(photos.ids[whole], photos.ids[part]) for whole, part in pairs}
    is_found = np.array([(whole, part) in found for part, whole in whole_of.items()])
    for low, high in ((0.45, 0.6), (0.6, 0.75), (0.75, 0.9)):
        of_size = (shares >= low) & (shares < high)
        rate = share_with_interval(float(is_found[of_size].mean()), int(of_size.sum()))
        print(f"{low:.0%} to {high:.0%} of the sides: {rate} found")
    wrong = sum(whole_of.get(part, whole) != whole for whole, part in found)
    print(f"all: {share_with_interval(float(is_found.mean()), num_parts)} of {num_parts} found")
    print(f"{len(others)} pairs without a part, {wrong} with a part and another whole")
    print(f"{seconds:.0f} s, of which features {for_features:.0f}")


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main)
