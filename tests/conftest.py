"""Small photos, small models and the real data where it is at hand."""

import contextlib
import functools
import gc
import io
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

# One process a core runs the tests; torch and numpy, which read this when they are imported, need no threads beside it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("DOGBREEDS_SHARED", ROOT.parent / "shared"))
"""Real photos and pre-trained models, for the tests that need them: data/ and models/."""

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

BREED_FOLDERS = ("n02085620-Chihuahua", "n02086240-Shih-Tzu", "n02088364-beagle", "n02099601-golden_retriever")


def run_cli(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """What `python -m dogbreeds ARGUMENTS` ends with: its exit status, standard output and standard error."""
    from dogbreeds.cli import main

    monkeypatch.setattr("sys.argv", ["dogbreeds", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def installed(program: str) -> str:
    """The path of a program of the system; where it is missing, the test skips, but fails in CI."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have {program}: .ci/run installs it")
        pytest.skip(f"{program} is not installed")
    return path


def denied(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Nobody may read this file any more: tests that run as root can't take their own permission away."""
    open_ = Path.open

    def refused(self: Path, *arguments, **options):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return open_(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)


def make_photo(label: int, seed: int, size: tuple[int, int] = (56, 48)) -> Image.Image:
    """A picture that a small network can tell from those of other labels: its colour and its stripes."""
    rng = np.random.default_rng(1000 * label + seed)
    width, height = size
    stripes = 30 * np.sin(np.arange(width) * (label + 1) * 0.3)[None, :, None]
    colour = np.array([(200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60)][label % 4])
    pixels = colour + stripes + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def scene(seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A picture like no other: a few soft patches of colour."""
    patches = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


def drawings_beside(*names: str) -> Image.Image:
    """Drawings that the page ships, such as white_dog, in a row."""
    drawings = [Image.open(ROOT / f"dogbreeds/serving/page/pictures/{name}.webp").convert("RGB") for name in names]
    return Image.fromarray(np.concatenate([np.asarray(drawing) for drawing in drawings], axis=1))


def make_photo_folder(folder: Path, num_photos: int = 10, num_breeds: int = 4) -> Path:
    """One sub-folder a breed."""
    for label, name in enumerate(BREED_FOLDERS[:num_breeds]):
        (folder / name).mkdir(parents=True)
        for seed in range(num_photos):
            make_photo(label, seed).save(folder / name / f"{name}_{seed}.png")
    return folder


def pytest_collection_finish() -> None:
    """The garbage collector passes over what the imports made; they are millions of objects, and exports make more."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory):
    """Pixel caches of tests go here, not to the person's own; processes that a test starts inherit it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "dogbreeds"


@pytest.fixture(scope="session", autouse=True)
def one_operator_table() -> None:
    """torch.onnx builds its table of operators, which takes a second, for the first export and not for each.

    It has no public name for that; where the private one is another, exports are slower and otherwise the same.
    """
    if "torch" in sys.modules:
        with contextlib.suppress(ImportError, AttributeError):
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 small photos of 4 breeds; not to be changed."""
    return make_photo_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def tiny_run(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a small ViT that was really trained; not to be changed."""
    from dogbreeds.training.train import train

    return train(tiny_config(photo_folder, tmp_path_factory.mktemp("runs") / "tiny", epochs=8))


@pytest.fixture
def tiny_runs_onnx(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training saves the ONNX file of `tiny_run`, for tests of runs like it that do not look at theirs.

    An export takes most of the time of a small run.
    """
    from dogbreeds.run_folder import ONNX
    from dogbreeds.training import save_run
    from dogbreeds.training.export import ServingExport

    def copy_onnx(model: object, path: Path, image_size: int) -> ServingExport:
        path.parent.mkdir(exist_ok=True)
        shutil.copy(tiny_run / ONNX, path)
        return ServingExport(differences={"logits": 0.0}, why_no_heat_map=None)

    monkeypatch.setattr(save_run, "export_serving_model", copy_onnx)


@pytest.fixture(scope="module")
def blank_charts() -> Iterator[None]:
    """For modules of reports that do not look at them: to draw them takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        _draw_nothing(patch)
        yield


@pytest.fixture
def charts_are_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """For single tests of reports."""
    _draw_nothing(monkeypatch)


def _draw_nothing(patch: pytest.MonkeyPatch) -> None:
    from dogbreeds.research import plots

    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    patch.setattr(plots, "in_format", lambda figure, form: picture.getvalue())


@pytest.fixture
def features_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen backbone runs in PyTorch, as on a GPU, for tests that only train behind it.

    On a CPU it is exported first, which takes most of the time of a small run.
    """
    import torch

    from dogbreeds.training import features

    def encoder(model, normalise, accelerator, image_size):
        feature_model = features.FeatureModel(model).eval()
        return torch.no_grad()(lambda pixels: feature_model(normalise(pixels)))

    monkeypatch.setattr(features, "encoder", encoder)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of two small networks, with random weights in the files of a checkpoint; not to be changed."""
    import torch
    from transformers import AutoModelForImageClassification, ResNetConfig

    from dogbreeds.training.models.registry import ARCHITECTURES

    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    # Of MobileNetV2, whose number of layers is fixed, an export takes five times as long.
    cnn = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="bottleneck")
    for name, architecture in {"vit_nano": ARCHITECTURES["vit_nano"](image_size=32), "resnet_nano": cnn}.items():
        AutoModelForImageClassification.from_config(architecture).save_pretrained(folder / name)
    return folder


@contextlib.contextmanager
def interrupted_after(num_epochs: int) -> Iterator[None]:
    """Expect the training within to be interrupted as by Ctrl-C, once it has had this many epochs."""
    from dogbreeds.training.loop import Loop

    def stop(self, started, train_epoch=Loop._train_epoch):
        if self.progress.epoch == num_epochs:
            raise KeyboardInterrupt
        return train_epoch(self, started)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "_train_epoch", stop)
        yield


def tiny_config(data: Path, output_dir: Path, **options: object):
    """Options with which a small ViT learns the small photos in seconds."""
    from dogbreeds.training.options import TrainConfig

    defaults = {
        "model": "vit_nano",
        "image_size": 32,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "head_learning_rate": 3e-3,
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
        "num_workers": 0,
    }
    return TrainConfig.from_options(data=str(data), output_dir=output_dir, **{**defaults, **options})


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data; the test skips where there is none."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real photos at {SHARED}; set DOGBREEDS_SHARED to a folder with data/ and models/")
    return SHARED


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have Chromium: apt-get install chromium")
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def copy_without_outputs(run: Path, folder: Path, *names: str) -> Path:
    """A copy of a run whose model does not give these outputs, as models of older versions and some architectures."""
    import onnx

    from dogbreeds.files import read_json, sha256, write_json
    from dogbreeds.run_folder import ONNX, RECORD

    shutil.copytree(run, folder)
    model = onnx.load(folder / ONNX)
    kept = [output for output in model.graph.output if output.name not in names]
    assert len(kept) == len(model.graph.output) - len(names)
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, folder / ONNX)
    record = read_json(folder / RECORD)
    record["sha256"][ONNX] = sha256(folder / ONNX)
    write_json(folder / RECORD, record)
    return folder
