import io
import json
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pytest
from conftest import ROOT, scene
from PIL import Image, ImageOps

from dogbreeds.errors import UserError
from dogbreeds.training.datasets.near_duplicates import near_duplicates
from dogbreeds.training.doctor import examine

BREEDS = ("beagle", "pug")


@pytest.fixture
def folder(tmp_path):
    """Nothing is wrong with these 12 photos."""
    for number, breed in enumerate(BREEDS):
        for split, count in (("train", 4), ("test", 2)):
            (tmp_path / "data" / split / breed).mkdir(parents=True)
            for photo in range(count):
                seed = 100 * number + 10 * (split == "test") + photo
                scene(seed).save(tmp_path / "data" / split / breed / f"{photo}.jpg", quality=95)
    return tmp_path / "data"


def found_in(folder):
    """By kind, the ids that are named."""
    findings = examine(str(folder), image_size=48).findings
    kinds = [finding.kind for finding in findings]
    assert len(kinds) == len(set(kinds)), kinds
    return {finding.kind: sorted(photo.id for photo in finding.photos) for finding in findings}


def test_good_photos_have_no_faults(folder):
    diagnosis = examine(str(folder), image_size=48)
    assert not diagnosis.findings and diagnosis.num_photos == {"test": 4, "train": 8}
    assert diagnosis.num_of_breed == {"Beagle": 6, "Pug": 6} and diagnosis.share_grey == 0
    assert str(diagnosis).endswith("nothing to mend")


def bad_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lens_cap() -> Image.Image:
    noise = np.random.default_rng(0).normal(20, 6, (240, 360)).clip(0, 255)
    return Image.fromarray(noise.astype(np.uint8)).convert("RGB")


FAULTS = {
    "unreadable": lambda path: path.write_bytes(b"I am a text"),
    "cut_short": cut_in_half,
    "wrong_ending": lambda path: scene(50).save(path, "PNG"),
    "bad_exif": lambda path: scene(50).save(path, exif=bad_exif(9)),
    "animated": lambda path: scene(50).save(path.with_suffix(".gif"), save_all=True, append_images=[scene(51)]),
    "blank": lambda path: lens_cap().save(path, quality=70),
    "tiny": lambda path: scene(50, (60, 40)).save(path),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_of_a_photo_is_found_and_no_other(kind, folder):
    path = folder / "train" / "pug" / "0.jpg"
    FAULTS[kind](path)
    if kind == "animated":
        path.unlink()
    assert found_in(folder) == {kind: [f"train/pug/0.{'gif' if kind == 'animated' else 'jpg'}"]}


def test_exif_that_is_garbage_is_found(folder):
    scene(50).save(folder / "train" / "pug" / "0.jpg", exif=b"Exif\0\0" + b"\xa5" * 100)
    assert found_in(folder) == {"bad_exif": ["train/pug/0.jpg"]}


@pytest.mark.parametrize(
    ("copy", "kind"),
    [("train/beagle/9.jpg", ""), ("test/beagle/9.jpg", "_in_two_splits"), ("train/pug/9.jpg", "_in_two_breeds")],
)
def test_copies_are_found(copy, kind, folder):
    shutil.copy(folder / "train/beagle/0.jpg", folder / copy)
    assert found_in(folder) == {f"same{kind}": sorted(["train/beagle/0.jpg", copy])}
    # The same photo of another size, in another format, a little darker
    (folder / copy).unlink()
    other = (folder / copy).with_suffix(".png")
    scene(0).resize((120, 90), Image.Resampling.BICUBIC).point(lambda value: round(value * 0.96)).save(other)
    assert found_in(folder) == {f"alike{kind}": sorted(["train/beagle/0.jpg", copy.replace(".jpg", ".png")])}
    ImageOps.mirror(scene(0)).resize((120, 90), Image.Resampling.BICUBIC).save(other)
    assert found_in(folder) == {f"alike{kind}": sorted(["train/beagle/0.jpg", copy.replace(".jpg", ".png")])}


def test_breeds_with_few_photos_are_found(folder):
    (folder / "train" / "Samoyed").mkdir()
    scene(300).save(folder / "train" / "Samoyed" / "only.jpg", quality=95)
    (finding,) = examine(str(folder), image_size=48).findings
    assert finding.kind == "few_photos" and finding.detail == "Samoyed: 1; the median breed has 6"


def test_grey_photos_are_counted_and_no_fault(folder):
    for photo in range(3):
        scene(photo).convert("L").save(folder / "train" / "beagle" / f"{photo}.jpg")
    diagnosis = examine(str(folder), image_size=48)
    assert diagnosis.share_grey == 3 / 12 and not diagnosis.findings


def test_parquet_is_examined_too(tmp_path):
    contents = []
    for seed in (0, 1, 2, 0):
        file = io.BytesIO()
        scene(seed).save(file, "JPEG", quality=95)
        contents.append({"bytes": file.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(BREEDS))})
    (tmp_path / "data").mkdir()
    dataset = datasets.Dataset.from_dict({"image": contents, "label": [0, 0, 1, 1]}, features=features)
    dataset.to_parquet(tmp_path / "data" / "train.parquet")
    assert found_in(tmp_path / "data") == {"same_in_two_breeds": ["train/0", "train/3"]}


def test_near_duplicates_are_those_that_comparing_all_pairs_finds():
    rng = np.random.default_rng(0)
    sketches = np.stack([np.asarray(scene(seed).resize((9, 9)).convert("L")) for seed in range(300)])
    copies = (sketches[:40].astype(int) + rng.integers(-1, 2, (40, 9, 9))).clip(0, 255).astype(np.uint8)
    groups = near_duplicates(np.concatenate([sketches, copies]))
    assert {tuple(group) for group in groups} == {(number, 300 + number) for number in range(40)}
    turned = np.concatenate([sketches, copies[:, :, ::-1]])
    assert near_duplicates(turned) == []
    assert [tuple(group) for group in near_duplicates(turned, mirrored=True)] == [(n, 300 + n) for n in range(40)]
    (film,) = near_duplicates(np.repeat(sketches[:1], 3000, axis=0))  # all in one bucket: quick, and little memory
    assert len(film) == 3000
    assert near_duplicates(sketches) == [] and near_duplicates(sketches[:1]) == []


def test_the_command_says_what_to_mend(folder, tmp_path):
    def doctor(*arguments):
        command = [sys.executable, "-m", "dogbreeds", "doctor", "--image-size", "48", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    FAULTS["unreadable"](folder / "train" / "pug" / "0.jpg")
    run = doctor("--data", str(folder), "--output", str(tmp_path / "report.json"))
    assert run.returncode == 1 and "1 can't be read: mend or remove them\n         train/pug/0.jpg (" in run.stdout
    (finding,) = json.loads((tmp_path / "report.json").read_text())["findings"]
    assert finding["photos"] == [{"split": "train", "id": "train/pug/0.jpg", "breed": "Pug"}]
    run = doctor("--data", str(tmp_path / "nothing"))
    assert run.returncode == 2 and "there is no data folder" in run.stderr and run.stderr.count("\n") == 1


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no data folder"):
        examine(str(tmp_path / "nothing"))
