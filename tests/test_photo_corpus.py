"""A part of the corpus and a few files of the fuzzer; the docstrings of both say how to run all of them."""

import os
import platform
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from itertools import islice

import photo_corpus
import pytest
from conftest import ROOT

from dogbreeds.images import BadImage, open_image
from dogbreeds.serving.predictor import Predictor

PARTS = {  # and the step: every n-th file is tried, where 5 comes to each orientation
    "upright and on its side": (partial(photo_corpus.formats, orientations=(1, 6)), 5),
    "turned": (partial(photo_corpus.formats, orientations=(2, 3, 4, 5, 7, 8), modes=("RGB",)), 5),
    "cut short": (photo_corpus.cut_short, 5),
    "flipped": (photo_corpus.flipped, 23),
    "no photos": (photo_corpus.no_photos, 3),
    "names": (photo_corpus.names, 1),
    "shapes": (photo_corpus.shapes, 2),
    "frames": (photo_corpus.frames, 1),
    "depths": (photo_corpus.depths, 1),
    "colours": (photo_corpus.colours, 2),
    "facts": (photo_corpus.facts, 2),
    "bombs": (photo_corpus.bombs, 1),
}


THOROUGH = ("colours", "depths", "facts", "flipped", "no photos", "shapes", "upright and on its side")


@pytest.fixture(scope="module")
def ways(tiny_run):
    return photo_corpus.ways_in(Predictor(tiny_run).predict)


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=pytest.mark.slow) if part in THOROUGH else part for part in PARTS]
)
def test_any_file_is_seen_rightly_or_refused_in_a_sentence(part, ways, tmp_path):
    files, step = PARTS[part]
    wrong = []
    for number, file in enumerate(islice(files(), 0, None, step)):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            photo_corpus.try_file(file, folder, ways)
        except Exception as error:
            wrong.append(f"{file.label}: {type(error).__name__} {error}")
    assert not wrong, "\n".join(wrong)


def test_a_jpeg_of_many_scans_is_refused_and_one_of_usual_scans_is_not():
    with pytest.raises(BadImage, match="damaged"):
        open_image(photo_corpus.many_scans(64, num_scans=200))
    assert open_image(photo_corpus.many_scans(64, num_scans=20)).size == (64, 64)


def test_formats_that_are_slow_to_decode_have_a_lower_limit():
    usual = photo_corpus.rle_bmp(1700, 1700, (b"\xff\1" * 7 + b"\0\0") * 1700)
    assert open_image(usual).size == (1700, 1700)
    with pytest.raises(BadImage, match=r"too large \(1800 x 1800 pixels\).*a JPEG of at most 50 megapixels"):
        open_image(photo_corpus.rle_bmp(1800, 1800, b"\0\0" * 1800))


@pytest.mark.slow
def test_mutated_files_of_the_fuzzer(tmp_path):
    if find_spec("atheris") is None:
        if os.environ.get("CI") and platform.machine() == "x86_64":
            pytest.fail("CI must have atheris: pip install -r requirements-dev.txt")
        pytest.skip("atheris is not installed: it is for Linux on x86")
    command = [sys.executable, "tests/fuzz_photos.py", "--runs", "300", "--failures", str(tmp_path / "failures")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # Through a shell that forks: a process starts with the peak memory of its parent, and that of this one may be
    # above what the fuzzer allows (see ru_maxrss in getrusage(2)).
    through_a_shell = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    run = subprocess.run(through_a_shell, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "number_of_executed_units: 300" in run.stderr and not list((tmp_path / "failures").iterdir())
