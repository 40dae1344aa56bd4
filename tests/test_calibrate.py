"""A run calibrated on photos of one's own: by `dogbreeds calibrate`, and by training with other photos."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import BREED_FOLDERS, ROOT, copy_without_outputs, make_photo, run_cli, tiny_config
from PIL import Image

from dogbreeds.calibration import DogProbe
from dogbreeds.calibration_photos import DIGEST_DIGITS, fitted_on
from dogbreeds.errors import UserError
from dogbreeds.files import read_json, write_json
from dogbreeds.photos import photo_digest, photo_files
from dogbreeds.predictions import Predictions
from dogbreeds.run_folder import CALIBRATION_PHOTOS, RunFolder
from dogbreeds.serving.calibrate import calibrate, in_words
from dogbreeds.serving.predictor import Predictor

NUM_LABELLED, NUM_OTHERS = 240, 120


def noise(seed: int) -> Image.Image:
    """A picture of nothing."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 56, 3), np.uint8))


def mixture(seed: int) -> Image.Image:
    """A picture between those of two breeds."""
    return Image.blend(make_photo(seed % 4, seed), make_photo((seed + 1) % 4, seed), 0.5)


@pytest.fixture(scope="module")
def own_photos(tmp_path_factory) -> Path:
    """dogs/ with a sub-folder for each breed, other-photos/ and other-dogs/; not to be changed."""
    folder = tmp_path_factory.mktemp("own")
    for kind, make in (("other-photos", noise), ("other-dogs", mixture)):
        (folder / kind).mkdir()
        for seed in range(NUM_OTHERS):
            make(seed).save(folder / kind / f"{seed}.png")
    for label, name in enumerate(BREED_FOLDERS):
        (folder / "dogs" / name).mkdir(parents=True)
        for seed in range(NUM_LABELLED // 4):
            make_photo(label, 5000 + seed).save(folder / "dogs" / name / f"{seed}.png")
    return folder


def calibrate_command(run: Path, photos: Path, *options: str) -> list[str]:
    named = ["--other-photos", photos / "other-photos", "--other-dogs", photos / "other-dogs"]
    return list(map(str, ["calibrate", run, "--data", photos / "dogs", *named, *options]))


@pytest.fixture(scope="module")
def calibrated(tiny_run, own_photos, tmp_path_factory) -> tuple[Path, str, set[str]]:
    """A run that was calibrated on the command line, what that printed, and the modules that it imported."""
    run = tmp_path_factory.mktemp("calibrated") / "tiny"
    shutil.copytree(tiny_run, run)
    code = "import sys; from dogbreeds.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code, *calibrate_command(run, own_photos)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return run, done.stdout, set(done.stderr.split())


def used_photos(run: Path) -> list[dict[str, str]]:
    with (run / CALIBRATION_PHOTOS).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_run_says_what_it_was_calibrated_on(calibrated, own_photos, tiny_run):
    run, printed, _ = calibrated
    before, after = RunFolder.open(tiny_run).record, RunFolder.open(run).record
    assert after.calibration != before.calibration and after.calibration.dog_probe
    assert after.calibration.unknown_breed_threshold is not None
    num_fit = Counter(row["kind"] for row in used_photos(run) if row["use"] == "fit")
    assert after.calibration.fitted_on == num_fit and num_fit.keys() == {"dogs", "other photos", "other dogs"}
    everyday = after.figures["everyday"]
    assert {name: figures for name, figures in after.figures.items() if name != "everyday"} == before.figures
    assert everyday["n"] + num_fit["dogs"] == NUM_LABELLED
    assert everyday["n_other_photos"] + num_fit["other photos"] == NUM_OTHERS
    assert after.calibration_command.startswith(f"python -m dogbreeds calibrate {run} --data ")
    assert after.sha256 == before.sha256, "the model is the same"
    card = (run / "README.md").read_text()
    assert after.calibration_command in card and f"| everyday | {everyday['n']} |" in card
    assert abs(everyday["named_right_estimated"] - everyday["named_right"]) < 0.15
    assert f"estimated {everyday['named_right_estimated']:.1%}" in printed and after.calibration.right_threshold
    assert f"top-1 {everyday['top1']:.1%} (" in printed and printed.startswith(f"checked on {everyday['n']} photos")


def test_it_learns_what_is_no_dog(calibrated, own_photos):
    run = calibrated[0]
    everyday = RunFolder.open(run).record.figures["everyday"]
    assert everyday["top1"] > 0.95 and everyday["share_confident"] > 0.5 and everyday["top1_confident"] > 0.95
    assert everyday["other_photos_not_a_dog"] > 0.8 and everyday["share_not_a_dog"] < 0.1
    predictor = Predictor(run)
    assert predictor.predict(noise(99999)).verdict == "not_a_dog"
    assert predictor.predict(make_photo(2, 99999)).verdict in ("confident", "unsure")


def test_it_needs_no_torch(calibrated):
    loaded = {name.split(".")[0] for name in calibrated[2]}
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "torchvision", "transformers", "accelerate", "datasets", "gradio"}


def test_lists_calibrate_as_the_folders_do(calibrated, own_photos, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for kind in ("dogs", "other-photos", "other-dogs"):
        with (tmp_path / f"{kind}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label"])
            writer.writerows([path, path.parent.name] for path in photo_files(own_photos / kind))
    others = {"other_photos": tmp_path / "other-photos.csv", "other_dogs": tmp_path / "other-dogs.csv"}
    calibrate(run, tmp_path / "dogs.csv", **others, progress=False)
    assert RunFolder.open(run).record.calibration == RunFolder.open(calibrated[0]).record.calibration
    (tmp_path / "dogs.csv").write_text("path,label\na.png,Rex\n")
    with pytest.raises(UserError, match="'Rex' is no breed of it"):
        calibrate(run, tmp_path / "dogs.csv", progress=False)


def test_each_photo_has_one_use(calibrated, own_photos):
    rows = used_photos(calibrated[0])
    files = {photo_digest(path.read_bytes())[:DIGEST_DIGITS]: path for path in own_photos.rglob("*.png")}
    assert len(rows) == len({row["sha256"] for row in rows}) == NUM_LABELLED + 2 * NUM_OTHERS
    for row in rows:
        assert row["kind"].replace(" ", "-") in files[row["sha256"]].parts
        assert row["use"] == ("check" if int(row["sha256"][:8], 16) < 0.4 * 16**8 else "fit")


def test_it_gives_the_same_again(calibrated, own_photos, tiny_run, tmp_path, capsys):
    run = shutil.copytree(calibrated[0], tmp_path / "tiny")
    photos = shutil.copytree(own_photos, tmp_path / "photos")
    folder = photos / "dogs" / BREED_FOLDERS[0]
    shutil.copy(folder / "0.png", folder / "again.png")
    (folder / "0.txt").write_text("no photo")
    options = {"other_photos": photos / "other-photos", "other_dogs": photos / "other-dogs", "progress": False}
    figures = calibrate(run, photos / "dogs", **options)
    expected = RunFolder.open(calibrated[0]).record
    assert figures == pytest.approx(expected.figures["everyday"])
    assert RunFolder.open(run).record.calibration == expected.calibration
    assert used_photos(run) == used_photos(calibrated[0])
    errors = capsys.readouterr().err.splitlines()
    assert any(
        f"left out {folder / 'again.png'}: it is the same photo as {folder / '0.png'}" in line for line in errors
    )
    assert any(f"left out {folder / '0.txt'}: " in line for line in errors)


def test_labelled_photos_alone_are_enough(tiny_run, own_photos, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "tiny")
    figures = calibrate(run, own_photos / "dogs", looks=True, progress=False)
    calibration = RunFolder.open(run).calibration
    assert (calibration.dog_probe, calibration.unknown_breed_threshold) == (None, None)
    assert calibration.fitted_on.keys() == {"dogs"}
    assert calibration.sure_margin > 0 and calibration.seen_score > 0
    assert figures["share_unknown_breed"] == 0 and "n_other_photos" not in figures
    assert "other" not in in_words(figures)
    calibrate(run, own_photos / "dogs", progress=False)
    assert RunFolder.open(run).calibration == calibration, "a run that looks closer goes on doing so"
    calibrate(run, own_photos / "dogs", looks=False, progress=False)
    calibration = RunFolder.open(run).calibration
    assert (calibration.sure_margin, calibration.seen_score) == (None, None), "one look each, where that is asked for"
    calibrate(run, own_photos / "dogs", progress=False)
    calibration = RunFolder.open(run).calibration
    assert (calibration.sure_margin, calibration.seen_score) == (None, None), "and then, unless more is asked for"


def test_what_a_run_loses_is_named_before_the_work(calibrated, own_photos, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(calibrated[0], tmp_path / "mine")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "read_outputs", interrupted)
    others = {"other_photos": own_photos / "other-photos", "other_dogs": own_photos / "other-dogs"}
    probe = "note: 'mine' loses its dog probe, which finds photos without a dog: --other-photos keeps it"
    unknown = "note: 'mine' loses the answer unknown_breed, a dog of no breed of it: --other-dogs keeps it"
    for left_out, lines in (
        (("other_photos", "other_dogs"), [probe, unknown]),
        (("other_photos",), [probe]),
        (("other_dogs",), [unknown]),
        ((), []),
    ):
        with pytest.raises(KeyboardInterrupt):
            given = {name: folder for name, folder in others.items() if name not in left_out}
            calibrate(run, own_photos / "dogs", **given, progress=False)
        assert capsys.readouterr().err.splitlines() == lines


def test_looks_are_asked_for_refused_or_left_as_they_were(tiny_run, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("dogbreeds.serving.calibrate.calibrate", lambda *_, looks, **others: asked.append(looks) or {})
    for options in ((), ("--looks",), ("--one-look",)):
        assert run_cli(monkeypatch, capsys, "calibrate", tiny_run, "--data", "dogs", "--json", *options)[0] == 0
    assert asked == [None, True, False]
    line = said(monkeypatch, capsys, ["calibrate", tiny_run, "--data", "dogs", "--looks", "--one-look"])
    assert "--looks and --one-look exclude each other: give one of them" in line


def test_a_run_that_can_not_be_written_is_refused_before_any_work(tiny_run, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tiny_run)  # root may write everywhere
    line = said(monkeypatch, capsys, ["calibrate", tiny_run, "--data", "nowhere"])
    assert f"can't write in the run folder {str(tiny_run)!r}: calibrate changes it; name a copy of it" in line


def test_a_damaged_list_of_photos_is_refused_before_any_work(calibrated, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(calibrated[0], tmp_path / "tiny")
    (run / CALIBRATION_PHOTOS).write_text("sha256,use\n0123,fit\n")
    line = said(monkeypatch, capsys, ["calibrate", run, "--data", "nowhere"])
    assert f"{str(run / CALIBRATION_PHOTOS)!r} is damaged" in line


@pytest.mark.parametrize("write", ["write_uses", "write_json"])
def test_a_full_disk_leaves_the_run_as_it_was(write, calibrated, own_photos, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(calibrated[0], tmp_path / "tiny")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"dogbreeds.serving.calibrate.{write}", full)
    with pytest.raises(UserError) as error:
        calibrate(run, own_photos / "dogs", progress=False)
    words = "(No space left on device): solve that and give the same command again"
    assert str(error.value) == f"can't write in the run folder {str(run)!r} {words}"
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("last", ["run.json", "README.md"])
def test_no_photo_that_fitted_a_run_is_forgotten_when_saving_is_stopped(
    last, calibrated, own_photos, tmp_path, monkeypatch
):
    run = shutil.copytree(calibrated[0], tmp_path / "tiny")
    before, replace = fitted_on(RunFolder.open(run)), Path.replace

    def stopped(self, target):
        if Path(target) == run / last:
            raise KeyboardInterrupt
        return replace(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            calibrate(run, own_photos / "dogs", progress=False)
    assert fitted_on(RunFolder.open(run)) == before
    calibrate(run, own_photos / "dogs", progress=False)
    assert {row["kind"] for row in used_photos(run)} == {"dogs"} and fitted_on(RunFolder.open(run)) < before


def test_a_run_whose_figures_lack_some_is_calibrated_and_its_card_written(tiny_run, own_photos, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "older")
    record = read_json(run / "run.json")
    record["figures"] = {"validation": {"n": 8, "top1": 0.75, "log_loss": 0.5}, "test": {"top1": 1.0}}
    write_json(run / "run.json", record)
    calibrate(run, own_photos / "dogs", progress=False)
    card = (run / "README.md").read_text()
    assert "| validation | 8 | 75.0% (40.9 to 92.9) | - | - | 0.500 | - |" in card and "| test | - | - | - |" in card
    assert "| validation | 8 | - | - | - | - | - | - |" in card


def said(monkeypatch, capsys, arguments: list) -> str:
    """The one line of an error."""
    from dogbreeds.cli import main

    monkeypatch.setattr(sys, "argv", ["dogbreeds", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    assert stop.value.code == 2 and not captured.out
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("one breed", "holds one breed: a calibration needs two or more"),
        ("no photo", "holds no photos: name the folder with the photos"),
        ("no folder", "is no folder: name the folder with the photos"),
        ("no such breed", "'Hot dog' is no breed of it; it needs one sub-folder a breed"),
        ("no sub-folder", "the photo 'loose.png' is in no sub-folder; it needs one sub-folder a breed"),
        ("nothing readable", "none of the 8 dogs can be opened"),
        ("too few", "holds too few photos for a threshold: 40, of which "),
    ],
)
def test_labelled_photos_that_can_not_calibrate(change, words, own_photos, tiny_run, tmp_path, monkeypatch, capsys):
    run, data = shutil.copytree(tiny_run, tmp_path / "tiny"), tmp_path / "data"
    if change != "no folder":
        data.mkdir()
    for label, name in enumerate(BREED_FOLDERS):
        if change not in ("no photo", "no folder") and (change != "one breed" or label == 0):
            shutil.copytree(own_photos / "dogs" / name, data / name)
    if change == "no such breed":
        (data / BREED_FOLDERS[0]).rename(data / "Hot dog")
    if change == "no sub-folder":
        make_photo(0, 1).save(data / "loose.png")
    for number, file in enumerate(sorted(data.rglob("*.png"))):
        if (change == "too few" and number % 6) or (change == "nothing readable" and number % 30):
            file.unlink()
        elif change == "nothing readable":
            file.write_bytes(b"")
    if change == "nothing readable":
        with pytest.raises(UserError, match=words):
            calibrate(run, data, progress=False)
        assert capsys.readouterr().err.count("left out") == 8
    else:
        line = said(monkeypatch, capsys, ["calibrate", run, "--data", data])
        assert words in line and str(data) in line
    if change == "too few":
        with pytest.raises(UserError, match=words):
            calibrate(run, data, looks=True, progress=False)
        num_fit, missing = (int(word) for word in line.split() if word.isdigit())
        assert missing == np.ceil((100 - num_fit) / 0.6)
    assert (run / "run.json").read_bytes() == (tiny_run / "run.json").read_bytes(), "nothing is changed"


@pytest.mark.parametrize("option", ["--other-photos", "--other-dogs"])
@pytest.mark.parametrize(
    ("num_photos", "words"), [(None, "is no folder"), (0, "holds no photos"), (20, "holds too few photos")]
)
def test_other_photos_that_can_not_calibrate(
    option, num_photos, words, own_photos, tiny_run, tmp_path, monkeypatch, capsys
):
    run, folder = shutil.copytree(tiny_run, tmp_path / "tiny"), tmp_path / "others"
    if num_photos is not None:
        folder.mkdir()
        for seed in range(num_photos):
            noise(seed).save(folder / f"{seed}.png")
    line = said(monkeypatch, capsys, ["calibrate", run, "--data", own_photos / "dogs", option, folder])
    assert words in line and str(folder) in line
    assert (run / "run.json").read_bytes() == (tiny_run / "run.json").read_bytes()


@pytest.mark.parametrize("run", ["nowhere", "USER/NAME"])
def test_only_a_run_folder_here_is_calibrated(run, own_photos, monkeypatch, capsys):
    line = said(monkeypatch, capsys, ["calibrate", run, "--data", own_photos / "dogs"])
    assert f"there is no run folder {run!r}: calibrate changes a local one; copy it here first" in line


def test_a_run_of_before_answers_and_says_what_it_lacks(tiny_run, own_photos, tmp_path, capsys):
    run = copy_without_outputs(tiny_run, tmp_path / "older", "features")
    record = read_json(run / "run.json")
    three = ("temperature", "not_a_dog_threshold", "confident_threshold")
    record["calibration"] = {name: record["calibration"][name] for name in three}
    write_json(run / "run.json", record)
    photo = make_photo(2, 99999)
    expected = Predictor(tiny_run).predict(photo)
    assert Predictor(run).predict(photo).probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    options = {"other_photos": own_photos / "other-photos", "other_dogs": own_photos / "other-dogs"}
    figures = calibrate(run, own_photos / "dogs", **options, progress=False)
    assert capsys.readouterr().err.splitlines() == [
        "note: the model of 'older' gives no features: train it again for the dog probe"
    ]
    calibration = RunFolder.open(run).calibration
    assert calibration.dog_probe is None and calibration.unknown_breed_threshold is not None
    assert figures["n_other_photos"] > 0 and Predictor(run).predict(photo).breeds[0].breed == expected.breeds[0].breed


def test_predict_answers_after_it(calibrated, tmp_path):
    make_photo(1, 99999).save(tmp_path / "dog.png")
    noise(99999).save(tmp_path / "noise.png")
    command = [sys.executable, "-m", "dogbreeds", "predict", "--run-dir", calibrated[0], "--json"]
    command += [tmp_path / "dog.png", tmp_path / "noise.png"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=True)
    dog, nothing = map(json.loads, done.stdout.splitlines())
    assert (dog["verdict"] in ("confident", "unsure"), nothing["verdict"]) == (True, "not_a_dog")
    assert dog["breeds"][0]["breed"] == "Shih-Tzu"


@pytest.mark.slow
def test_training_fits_it_on_other_photos(photo_folder, own_photos, tmp_path):
    from dogbreeds.training.train import train

    folders = {"other_photos": own_photos / "other-photos", "other_dogs": own_photos / "other-dogs"}
    config = tiny_config(photo_folder, tmp_path / "run", epochs=8, validation_fraction=0.4, **folders)
    run = RunFolder.open(train(config))
    calibration = run.calibration
    num_validation = run.record.data.num_validation
    assert calibration.fitted_on == {
        "validation": num_validation,
        "other_photos": NUM_OTHERS,
        "other_dogs": NUM_OTHERS,
    }
    others = {photo_digest(path.read_bytes()) for folder in folders.values() for path in folder.rglob("*.png")}
    validation = Predictions.load(run.path / "predictions-validation.parquet").digests
    assert fitted_on(run) == {digest[:DIGEST_DIGITS] for digest in (*others, *validation)}
    assert len(DogProbe.from_text(calibration.dog_probe).weights) == 32
    assert calibration.unknown_breed_threshold is not None
    assert Predictor(run).predict(noise(99999)).verdict == "not_a_dog"


def test_a_photo_that_vanishes_before_the_calibration_is_one_line(photo_folder, own_photos, tmp_path):
    from dogbreeds.training.train import finish, fit, set_up

    copy = shutil.copytree(photo_folder, tmp_path / "photos")
    config = tiny_config(copy, tmp_path / "run", epochs=1, other_photos=own_photos / "other-photos")
    run = set_up(config)
    fit(run)
    run.splits.validation.sources[0].unlink()
    with pytest.raises(UserError, match="the photos can't be read any more"):
        finish(run)


def test_training_refuses_other_photos_that_are_too_few(photo_folder, tmp_path):
    from dogbreeds.training.train import train

    (tmp_path / "cats").mkdir()
    for number in range(60):
        (tmp_path / "cats" / f"{number}.jpg").write_bytes(b"no photo")
        whole = io.BytesIO()
        noise(number).save(whole, "JPEG")
        (tmp_path / "cats" / f"short{number}.jpg").write_bytes(whole.getvalue()[:-500])
    noise(1).save(tmp_path / "cats" / "cat.png")
    config = tiny_config(photo_folder, tmp_path / "run", other_photos=tmp_path / "cats")
    with pytest.raises(UserError, match=r"cats' holds 1 photos that can be read: .* at least 50"):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["other_photos", "other_dogs"])
def test_training_refuses_other_photos_that_are_missing(option, photo_folder, tmp_path, capsys):
    from dogbreeds.training.train import train

    with pytest.raises(UserError, match="'nowhere' is no folder: name the folder with the photos"):
        train(tiny_config(photo_folder, tmp_path / "run", **{option: Path("nowhere")}))
    assert not list(tmp_path.iterdir()) and "epoch" not in capsys.readouterr().out
