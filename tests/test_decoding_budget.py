"""How much is decoded at the same time in one process."""

import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from PIL import Image

from dogbreeds import decoding_budget, images, machine
from dogbreeds.decoding_budget import DecodingBudget
from dogbreeds.images import BadImage, open_image
from dogbreeds.photos import read_photos

LIMIT = 10_000
"""Pixels that a photo may have in these tests."""


@pytest.fixture
def decoded(monkeypatch):
    """How many pixels are decoded at the same time at most, on four cores with room for one of the largest photos."""
    monkeypatch.setattr(images, "MAX_PIXELS", LIMIT)
    monkeypatch.setattr(machine, "num_cores", lambda: 4)
    budget = DecodingBudget(1)
    monkeypatch.setattr(images, "decoding_budget", lambda: budget)
    held, changing, load = {"now": 0, "most": 0}, threading.Lock(), images._upright_rgb

    def recorded(image, **options):
        with changing:
            held["now"] += image.width * image.height
            held["most"] = max(held["most"], held["now"])
        time.sleep(0.01)
        try:
            return load(image, **options)
        finally:
            with changing:
                held["now"] -= image.width * image.height

    monkeypatch.setattr(images, "_upright_rgb", recorded)
    return held


def photo(width, height=100, format="PNG", **options):
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, format, **options)
    return file.getvalue()


def widths(photos):
    found = read_photos(photos, lambda content: open_image(content).width)
    return [each.problem if isinstance(each, BadImage) else each for each in found]


def test_no_more_is_decoded_at_once_than_one_of_the_largest_photos(decoded):
    sizes = [100, 100, 60, 50, 50, 40, 100, 30, 100, 90] * 2
    assert widths(photo(size) for size in sizes) == sizes
    assert 60 * 100 < decoded["most"] <= LIMIT


def test_what_fits_is_decoded_at_once(decoded):
    assert widths([photo(50)] * 8) == [50] * 8
    assert decoded["most"] == LIMIT  # two of them


def test_a_damaged_photo_gives_its_share_back(decoded):
    assert widths([photo(100)[:200], photo(100)] * 4) == ["cut_short", 100] * 4
    assert decoded["most"] == LIMIT


def test_a_jpeg_counts_with_what_is_decoded_of_it(decoded, monkeypatch):
    taken = []

    class Recorded:
        @contextmanager
        def share(self, num_pixels, max_pixels):
            taken.append(num_pixels)
            yield

    monkeypatch.setattr(images, "decoding_budget", Recorded)
    monkeypatch.setattr(images, "MAX_PIXELS", 2_000_000)
    open_image(photo(1200, 1200, "JPEG"), at_least=260)
    open_image(photo(1200, 1200, "JPEG", progressive=True), at_least=260)
    open_image(photo(1200, 1200, "JPEG"))
    assert taken == [600 * 600, 1200 * 1200, 1200 * 1200]


def test_a_large_photo_is_not_overtaken_and_small_ones_do_not_wait():
    budget, order = DecodingBudget(1), []
    waits = {name: threading.Event() for name in ("first", "large", "later")}

    def decode(name, num_pixels):
        waits[name].set()
        with budget.share(num_pixels, 100):
            order.append(name)

    with ThreadPoolExecutor(4) as pool:
        with budget.share(60, 100):
            large = pool.submit(decode, "large", 100)
            waits["large"].wait(10)
            until = time.monotonic() + 10
            while not budget._turn.locked() and time.monotonic() < until:
                time.sleep(0.001)
            later = pool.submit(decode, "later", 30)  # there is room for it
            waits["later"].wait(10)
            with budget.share(1, 100):
                pass
            time.sleep(0.05)
            assert order == []
        large.result(10), later.result(10)
    assert order == ["large", "later"]


@pytest.mark.parametrize(
    ("cores", "gigabytes", "shares"), [(1, 2, 1), (2, 24, 1), (4, 4, 1), (8, 8, 2), (16, 128, 8), (3, 64, 1.5)]
)
def test_large_machines_decode_more_at_once(cores, gigabytes, shares, monkeypatch):
    monkeypatch.setattr(decoding_budget, "num_cores", lambda: cores)
    monkeypatch.setattr(decoding_budget, "num_bytes_of_memory", lambda: gigabytes * 2**30)
    made = []
    monkeypatch.setattr(decoding_budget, "DecodingBudget", made.append)
    decoding_budget.decoding_budget.__wrapped__()
    assert made == [shares]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_the_copy_of_a_process_does_not_wait_for_its_threads():
    content = photo(2000, 2000)  # large enough to count, if the whole budget is taken
    with decoding_budget.decoding_budget().share(100, 100), decoding_budget.decoding_budget()._turn:
        child = os.fork()
        if child == 0:
            os._exit(0 if open_image(content).width == 2000 else 1)
        until = time.monotonic() + 20
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
            time.sleep(0.01)
        if ended[0] == 0:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert ended == (child, 0)
