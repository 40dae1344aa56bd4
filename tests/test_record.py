"""run.json and splits.parquet: of this version, of older and newer ones, and damaged."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

from dogbreeds.calibration import Calibration
from dogbreeds.dog_probe import DogProbe
from dogbreeds.errors import UserError
from dogbreeds.files import atomic_write, read_json, whole_or_absent, write_json
from dogbreeds.model_card import card_metadata, model_card
from dogbreeds.record import RunRecord
from dogbreeds.research.compare import compare
from dogbreeds.research.evaluate import evaluate, photos_of
from dogbreeds.research.serving_copy import export_serving_copy
from dogbreeds.research.tables import EarlierRow, earlier_systems
from dogbreeds.run_folder import SHIPPED_RUNS, RunFolder
from dogbreeds.serving.predictor import Predictor
from dogbreeds.split_file import SPLITS, load_splits, save_splits

OLDEST = """{
  "format": 1,
  "created": "2025-09-01T00:00:00+00:00",
  "command": "python train_cnn_baseline.py --data dogs --model models/mobilenet",
  "config": {
    "output_dir": "runs/cnn", "model": "models/mobilenet", "data": "dogs", "breeds": [], "images_per_breed": null,
    "validation_fraction": 0.1, "test_fraction": 0.0, "from_scratch": false, "freeze_backbone": true, "dropout": 0.0,
    "image_size": 224, "fit": "crop", "augment": "auto", "crop_scale": 0.35, "epochs": 5, "seed": 3
  },
  "data": {
    "num_train": 90, "num_validation": 10, "num_test": 0, "left_out": [], "fingerprint": "f0", "split_hash": "5a"
  },
  "num_epochs": 5,
  "best_epoch": 4,
  "calibration": {"temperature": 0.9, "not_a_dog_threshold": 8.8, "confident_threshold": 0.76},
  "figures": {
    "validation": {
      "n": 10, "top1": 0.8, "top3": 0.9, "macro_f1": 0.8, "log_loss": 0.5, "ece": 0.02, "ece_uncalibrated": 0.1,
      "verdicts": {"confident": 0.7, "unsure": 0.275, "not_a_dog": 0.025}
    }
  },
  "num_parameters": 200,
  "num_trained_parameters": 100,
  "export_difference": {"logits": 1e-6, "heat_map": 1e-6},
  "seconds": {"data": 1.5, "features": 81.5, "training": 6.1, "evaluation": 0.4, "export": 6.3},
  "hardware": "2 CPU cores",
  "mixed_precision": "no",
  "versions": {"python": "3.11.7"},
  "sha256": {}
}"""
"""What the first version wrote, but for some options."""


def changed(run, copy, change):
    """A copy of a run with another run.json."""
    shutil.copytree(run, copy)
    record = json.loads((copy / "run.json").read_text())
    change(record)
    (copy / "run.json").write_text(json.dumps(record))
    return copy


@pytest.mark.parametrize("path", SHIPPED_RUNS, ids=lambda path: path.name)
def test_a_shipped_run_names_no_folder_of_the_machine_that_made_it(path):
    record = RunFolder.open(path).record
    for command in (record.calibration_command, record.export_command):
        assert command and not [word for word in command.split() if word.startswith("/")]


def test_a_record_is_written_as_it_was_read(tiny_run):
    for path in (tiny_run, *SHIPPED_RUNS):
        written = json.loads((path / "run.json").read_text())
        record = RunFolder.open(path).record
        assert record.to_json()["format"] == written["format"] == 1
        assert RunRecord.from_json(json.loads(json.dumps(record.to_json())), path) == record
        if path == tiny_run:
            assert json.loads(json.dumps(record.to_json())) == written
        kept = {key: value for key, value in written.items() if key not in ("figures", "hub", "calibration")}
        assert record.to_json().items() >= kept.items()
        assert record.to_json()["calibration"].items() >= written["calibration"].items()


def test_what_older_versions_read_keeps_its_place(tiny_run):
    written = json.loads((tiny_run / "run.json").read_text())
    for key in ("config", "data", "calibration", "figures", "seconds", "milliseconds_per_photo", "sha256", "versions"):
        assert isinstance(written[key], dict), key
    assert "serving_model" not in written and "export_command" not in written and "base_run" not in written


def test_a_record_of_the_first_version_is_read(tmp_path):
    record = RunRecord.from_json(json.loads(OLDEST), tmp_path)
    assert record.calibration == Calibration(0.9, 8.8, 0.76) and record.config["seed"] == 3
    assert record.base_run is None and record.hub == {} and record.flops_per_photo is None
    assert record.milliseconds_per_photo == {} and record.serving_model == "onnx/model.onnx"
    figures = record.figures["validation"]
    assert "verdicts" not in figures
    assert [figures[f"share_{verdict}"] for verdict in ("confident", "unsure", "not_a_dog")] == [0.7, 0.275, 0.025]
    card = model_card("old", record, ("a", "b"))
    assert "| validation | 10 | 80.0% (49.0 to 94.3) | 90.0% | 0.800 | 0.500 | 2.0% |" in card
    assert "| validation | 10 | 70.0% (39.7 to 89.2) | - | 27.5% (10.8 to 60.3) | - | - | 2.5% (0.0 to 27.8) |" in card
    assert "fitted on the validation photos." in card and "A dog of another breed is given one of its breeds" in card
    assert "None" not in card and "probe" not in card


def test_the_card_of_a_calibrated_run_says_what_was_fitted_on_what_and_checked(tmp_path):
    record = RunRecord.from_json(json.loads(OLDEST), tmp_path)
    probe = DogProbe(np.array([1.0, -1.0], np.float32), 0.5).to_text()
    everyday = {
        "n": 200,
        "top1": 0.9,
        "top3": 0.95,
        "top5": 1.0,
        "log_loss": 0.4,
        "ece": 0.03,
        "share_confident": 0.6,
        "share_unsure": 0.3,
        "share_unknown_breed": 0.06,
        "share_not_a_dog": 0.04,
        "top1_confident": 0.95,
        "n_other_photos": 100,
        "other_photos_confident": 0.0,
        "other_photos_unknown_breed": 0.02,
        "other_photos_not_a_dog": 0.98,
    }
    calibrated = dataclasses.replace(
        record,
        calibration=Calibration(
            0.9,
            8.8,
            0.76,
            9.7,
            9.1,
            probe,
            -1.25,
            right_threshold=0.6,
            fitted_on={"dogs": 1300, "other photos": 150},
        ),
        figures={**record.figures, "everyday": everyday},
        calibration_command="python -m dogbreeds calibrate runs/cnn --data mine",
    )
    card = model_card("cnn", calibrated, ("a", "b"))
    assert "| everyday | 200 | 90.0% (85.1 to 93.4) | 95.0% | - | 0.400 | 3.0% |" in card
    assert "| everyday | 200 | 60.0% (53.1 to 66.5) | 95.0% (89.5 to 97.7) | 30.0% " in card
    assert " | - | 6.0% (3.5 to 10.2) | 4.0% (2.0 to 7.7) |" in card
    assert "| photos without a dog | 100 | 0.0% (0.0 to 3.7) | - | - | - | 2.0% (0.6 to 7.0) | 98.0% (" in card
    assert "photos of dogs of other breeds |" not in card
    assert (
        "fitted on 1,300 photos of dogs, 150 photos without a dog by\n`python -m dogbreeds calibrate runs/cnn" in card
    )
    assert "validation photos" not in card.split("## How it was made")[0]
    for threshold in ("0.760", "9.700", "9.100", "8.800", "-1.250"):
        assert threshold in card
    told = {
        result["dataset"]["name"]: result for result in card_metadata("cnn", calibrated)["model-index"][0]["results"]
    }
    assert set(told) == {"dogs", "everyday photos"}
    written = calibrated.to_json()
    assert RunRecord.from_json(json.loads(json.dumps(written)), tmp_path) == calibrated
    assert written["calibration"].keys() == {*vars(calibrated.calibration)} - {"sure_margin", "seen_score"}


def test_a_run_of_the_first_version_is_in_the_table(tiny_run, tmp_path):
    def older(record):
        record |= {**json.loads(OLDEST), "sha256": record["sha256"]}
        del record["milliseconds_per_photo"]

    changed(tiny_run, tmp_path / "old", older)
    row = EarlierRow("A", "old", "0.4", "train_cnn_baseline.py", {"model": "mobilenet"})
    (cells,) = earlier_systems(tmp_path, None, [row]).rows
    assert cells[4:10] == ["80.0%", "–", "5", "88", "–", "200"]


def test_options_that_this_version_does_not_know_are_ignored(tiny_run, photo_folder, tmp_path):
    def newer(record):
        record["config"] |= {"output_dir": "newer", "seed": 0, "patch_dropout": 0.1}
        record["later"] = {"more": 1}
        record["data"]["num_unlabelled"] = 3

    run = changed(tiny_run, tmp_path / "newer", newer)
    (known,) = compare([tiny_run, run], data=str(photo_folder), progress=False).groups
    assert [entry.recipe for entry in known.entries] == ["tiny", "newer"]  # the option makes it another recipe
    predictor = Predictor(run)
    assert evaluate(predictor, photos_of(predictor, str(photo_folder), "validation"), progress=False).figures["n"] == 8
    row = EarlierRow("A", "newer", "0.4", "train_vit.py", {"model": "vit_nano"})
    assert "newer" in str(earlier_systems(tmp_path, None, [row]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.pop("config"), r"is damaged: run\.json has no 'config'; copy it again or train again"),
        (lambda record: record["config"].pop("seed"), r"run\.json has no 'config\.seed'"),
        (lambda record: record["data"].pop("split_hash"), r"run\.json has no 'data\.split_hash'"),
        (lambda record: record["calibration"].pop("temperature"), r"run\.json has no 'calibration\.temperature'"),
        (lambda record: record["calibration"].update(temperature="hot"), r"its calibration\.temperature is 'hot', not"),
        (lambda record: record["calibration"].update(dog_probe="????"), r"its calibration\.dog_probe is not what"),
        (lambda record: record.update(calibration=[1]), r"its calibration is \[1\], not Calibration"),
        (lambda record: record.update(figures=[]), r"its figures is \[\], not dict"),
        (lambda record: record.update(figures={"test": 1}), r"its figures\.test is 1, not dict"),
        (lambda record: record["figures"]["test"].update(top1=None), r"its figures\.test\.top1 is None, not float"),
        (lambda record: record["data"].update(num_train="many"), r"its data\.num_train is 'many', not int; copy"),
        (lambda record: record.update(base_run="vit"), r"its base_run is 'vit', not BaseRun"),
        (lambda record: record.update(sha256=None), r"its sha256 is None, not dict"),
        (lambda record: record.update(format=2), r"run\.json has format 2, this version reads 1"),
    ],
)
def test_a_damaged_record_is_one_line(tiny_run, tmp_path, change, words):
    with pytest.raises(UserError, match=words) as error:
        RunFolder.open(changed(tiny_run, tmp_path / "run", change))
    assert "\n" not in str(error.value) and str(tmp_path / "run") in str(error.value)


def test_a_record_that_is_no_object_is_named(tmp_path):
    (tmp_path / "run.json").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"run\.json' is damaged: it holds no JSON object"):
        RunFolder.open(tmp_path)


DIGESTS = {
    split: [hashlib.sha256(f"{split} {index}".encode()).hexdigest() for index in range(count)]
    for split, count in (("train", 9600), ("validation", 1200), ("test", 1200))
}
LABELS = {split: [f"Breed {index % 120}" for index in range(len(digests))] for split, digests in DIGESTS.items()}


def test_the_splits_are_read_as_written_and_small(tmp_path):
    save_splits(tmp_path / SPLITS, DIGESTS, LABELS)
    splits = load_splits(tmp_path / SPLITS)
    assert list(splits) == ["train", "validation", "test"]
    for split, digests in DIGESTS.items():
        assert splits[split] == dict(zip(digests, LABELS[split], strict=True))
    assert (tmp_path / SPLITS).stat().st_size < 12_000 * 35


def test_runs_of_older_versions_have_no_splits(tmp_path):
    assert load_splits(tmp_path / SPLITS) is None


def test_damaged_splits_are_named(tmp_path):
    path = tmp_path / SPLITS
    save_splits(path, DIGESTS, LABELS)
    content = path.read_bytes()
    for damaged in (content[:-20], b"", b"PAR1"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"splits\.parquet' is damaged .*: copy the run folder again"):
            load_splits(path)
    shutil.copy(SHIPPED_RUNS[0] / "predictions-validation.parquet", path)
    with pytest.raises(UserError, match=r"splits\.parquet' is damaged"):
        load_splits(path)


def test_a_serving_copy_keeps_the_splits(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    save_splits(run / SPLITS, DIGESTS, LABELS)
    copy = export_serving_copy(run, tmp_path / "copy", precision="float32")
    assert load_splits(copy / SPLITS) == load_splits(run / SPLITS)


def test_a_file_is_replaced_as_a_whole(tmp_path):
    write_json(tmp_path / "a.json", {"a": "ä"})
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert read_json(tmp_path / "a.json") == {"a": "ä"} and [file.name for file in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ZeroDivisionError), whole_or_absent(tmp_path / "folder") as partial:
        (partial / "file").touch()
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_every_optional_field_has_no_value_by_default(tiny_run):
    """Since `to_json` leaves out None, another default would come back in its place."""
    for field in dataclasses.fields(RunRecord):
        if field.default is not dataclasses.MISSING and field.name != "serving_model":
            assert field.default is None, field.name
