"""What `evaluate` says of its figures: how far chance could move them, and what flatters them."""

import csv
import hashlib
import json
import shutil
import sys

import pytest
from conftest import make_photo

from dogbreeds import cli, metrics
from dogbreeds.answers import num_rated
from dogbreeds.calibration_photos import DIGEST_DIGITS
from dogbreeds.errors import UserError
from dogbreeds.research.evaluate import answer_milliseconds, evaluate, photos_of
from dogbreeds.run_folder import CALIBRATION_PHOTOS
from dogbreeds.serving.predictor import Predictor


def write_used(run, uses: dict[str, str]) -> None:
    with (run / CALIBRATION_PHOTOS).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sha256", "kind", "use"])
        writer.writerows((digest[:DIGEST_DIGITS], "dogs", use) for digest, use in uses.items())


@pytest.fixture
def new_photos(tmp_path):
    """20 photos that the run has not seen, and their digests."""
    data = tmp_path / "photos"
    for label, name in enumerate(["n02085620-Chihuahua", "n02088364-beagle"]):
        (data / name).mkdir(parents=True)
        for seed in range(10):
            make_photo(2 * label, 900 + seed).save(data / name / f"{seed}.png")
    return data, [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(data.rglob("*.png"))]


def run_evaluate(monkeypatch, capsys, run, data, *options):
    arguments = ["dogbreeds", "evaluate", "--data", str(data), "--run-dir", str(run), *map(str, options)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    return capsys.readouterr()


LACKS = (
    "note: tiny was calibrated without dogs of other breeds, so it never says that a dog is of a breed that it does "
    "not know: python -m dogbreeds calibrate adds that\n"
)


def test_a_verdict_that_a_run_can_not_give_is_named(tiny_run, new_photos, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(tiny_run, tmp_path / "tiny")
    assert run_evaluate(monkeypatch, capsys, run, new_photos[0]).err == LACKS
    record = json.loads((run / "run.json").read_text())
    record["calibration"]["unknown_breed_threshold"] = 0.5
    (run / "run.json").write_text(json.dumps(record))
    assert not run_evaluate(monkeypatch, capsys, run, new_photos[0]).err


def test_photos_that_fitted_the_calibration_are_counted(tiny_run, new_photos, tmp_path, monkeypatch, capsys):
    run, (data, digests) = shutil.copytree(tiny_run, tmp_path / "tiny"), new_photos
    assert run_evaluate(monkeypatch, capsys, run, data).err == LACKS
    write_used(run, dict.fromkeys(digests[:7], "fit") | dict.fromkeys(digests[7:], "check") | {"0" * 64: "fit"})
    assert run_evaluate(monkeypatch, capsys, run, data).err == (
        "note: 7 of these 20 photos fitted the calibration of tiny, which flatters its ECE and its verdicts: evaluate "
        f"it on others\n{LACKS}"
    )
    write_used(run, dict.fromkeys(digests, "check"))
    assert run_evaluate(monkeypatch, capsys, run, data).err == LACKS


@pytest.mark.parametrize("content", [b"photo\n1234\n", b"sha256,kind,use\n\xff\xfe\n"])
def test_a_damaged_list_of_calibration_photos(content, tiny_run, photo_folder, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "tiny")
    (run / CALIBRATION_PHOTOS).write_bytes(content)
    predictor = Predictor(run)
    with pytest.raises(UserError, match=r"calibration-photos.csv' is damaged: copy the run folder again, or remove"):
        evaluate(predictor, photos_of(predictor, str(photo_folder)), progress=False)


def test_each_rate_has_its_interval(tiny_run, new_photos, tmp_path, monkeypatch, capsys):
    output = tmp_path / "evaluation"
    printed = run_evaluate(monkeypatch, capsys, tiny_run, new_photos[0], "--output", output).out.splitlines()
    found = json.loads((output / "evaluation.json").read_text())
    lines = {line[:16].strip(): line[16:] for line in printed}
    for shown, name in (
        ("top-1", "top1"),
        ("top-5", "top5"),
        ("confident", "share_confident"),
        ("not a dog", "share_not_a_dog"),
    ):
        rate = found["figures"][name]
        low, high = metrics.wilson_interval(round(20 * rate), 20)
        assert lines[shown] == f"{rate:.1%} ({100 * low:.1f}-{100 * high:.1f})"
        assert found["intervals"][name] == pytest.approx([low, high])
    for shown, name in (("macro recall", "macro_recall"), ("ECE", "ece"), ("macro F1", "macro_f1")):
        value, (low, high) = found["figures"][name], found["intervals"][name]
        assert lines[shown] == f"{value:.1%} ({100 * low:.1f}-{100 * high:.1f})" and low <= value <= high
    low, high = found["intervals"]["log_loss"]
    assert lines["log-loss"] == f"{found['figures']['log_loss']:.3f} ({low:.3f}-{high:.3f})"
    assert lines["over breeds"] == "2 of 4" and found["absent_breeds"] == ["Shih-Tzu", "Golden retriever"]
    (absent,) = (line for line in printed if "left out of the macro figures" in line)
    assert "which flatters precision and F1" in absent and "Shih-Tzu, Golden" in absent
    expected, most = found["ece_by_chance"]
    assert 0 < expected < most and lines["by chance"].startswith(f"{expected:.1%} if every")
    names = set(found["figures"]) - {"n"}
    assert set(found["intervals"]) == names, "every figure has one"
    figures = json.loads(run_evaluate(monkeypatch, capsys, tiny_run, new_photos[0], "--json").out)
    assert figures["intervals"] == found["intervals"]


def test_a_rate_is_of_the_photos_that_it_is_a_share_of():
    figures = {"n": 200, "top1": 0.8, "share_confident": 0.5, "share_unsure": 0.25, "top1_confident": 0.96}
    figures |= {"candidates_right": 0.9, "share_group": 0.4, "group_right": 0.75, "ece": 0.1}
    assert num_rated(figures) == {
        "top1": 200, "share_confident": 200, "share_unsure": 200, "top1_confident": 100, "candidates_right": 50,
        "share_group": 50, "group_right": 20,
    }  # fmt: skip
    assert metrics.share_with_interval(0.96, 100) == "96.0% (90.2-98.4)"


def test_the_time_of_an_answer_is_without_a_search_for_several_dogs(tiny_run, monkeypatch):
    def search(*_):
        raise AssertionError("nobody asked for every dog")

    monkeypatch.setattr("dogbreeds.serving.predictor.predict_every_dog", search)
    (milliseconds,) = answer_milliseconds([Predictor(tiny_run)], [make_photo(0, 0)] * 4)
    assert milliseconds["n"] == 4 and milliseconds["median"] > 0
