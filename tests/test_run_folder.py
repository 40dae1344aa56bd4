import json
import re
import shutil

import pytest
from conftest import denied

from dogbreeds import run_folder
from dogbreeds.errors import UserError
from dogbreeds.files import sha256, write_json
from dogbreeds.predictions import Predictions
from dogbreeds.run_folder import SHIPPED_RUNS, RunFolder
from dogbreeds.serving.predictor import Predictor
from dogbreeds.split_file import SPLITS, load_splits

TABLES = ("breeds", "confusion-counts", "confusion-probabilities")


@pytest.fixture
def copy_of_run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "copy")


def test_a_run_brings_all_that_an_answer_needs(tiny_run):
    run = RunFolder.open(tiny_run)
    assert run.labels == ("Chihuahua", "Shih-Tzu", "Beagle", "Golden retriever")
    assert run.preprocessing.size == 32
    assert run.record.data.split_hash
    assert {path.name for path in tiny_run.iterdir()} == {
        *(f"{name}-{split}.csv" for name in TABLES for split in ("validation", "test")),
        "README.md",
        "config.json",
        "history.csv",
        "model.safetensors",
        "onnx",
        "predictions-test.parquet",
        "predictions-validation.parquet",
        "preprocessor_config.json",
        "run.json",
        "splits.parquet",
    }


def test_a_run_says_which_photos_are_in_which_split(tiny_run):
    data, splits = RunFolder.open(tiny_run).record.data, load_splits(tiny_run / SPLITS)
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [
        data.num_train,
        data.num_validation,
        data.num_test,
    ]
    assert len(set().union(*splits.values())) == data.num_train + data.num_validation + data.num_test
    for split in ("validation", "test"):
        saved = Predictions.load(tiny_run / f"predictions-{split}.parquet")
        labels = [saved.names[label] for label in saved.labels]
        assert splits[split] == dict(zip(saved.digests, labels, strict=True))


@pytest.mark.parametrize("name", ["run.json", "config.json", "preprocessor_config.json", "onnx/model.onnx"])
def test_a_missing_file_is_named(copy_of_run, name):
    (copy_of_run / name).unlink()
    with pytest.raises(UserError, match=f"{name.split('/')[-1]} is missing"):
        RunFolder.open(copy_of_run)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "onnx/model.onnx"])
def test_a_damaged_file_is_named(copy_of_run, name):
    file = copy_of_run / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is not the file"):
        RunFolder.open(copy_of_run)


def test_a_file_that_may_not_be_read_is_named(copy_of_run, monkeypatch):
    denied(monkeypatch, copy_of_run / "onnx/model.onnx")
    with pytest.raises(UserError, match=r"onnx/model\.onnx' can't be read \(Permission denied\): make it readable, or"):
        RunFolder.open(copy_of_run)


def test_a_damaged_record_is_named(copy_of_run):
    record = copy_of_run / "run.json"
    record.write_text(record.read_text()[:100])
    with pytest.raises(UserError, match=r"run\.json.* is damaged"):
        RunFolder.open(copy_of_run)


def test_weights_may_be_left_out(copy_of_run):
    (copy_of_run / "model.safetensors").unlink()
    assert RunFolder.open(copy_of_run).labels


def test_a_model_with_another_number_of_labels_is_refused(copy_of_run):
    config = json.loads((copy_of_run / "config.json").read_text())
    config["id2label"]["4"] = "Pug"
    write_json(copy_of_run / "config.json", config)
    record = json.loads((copy_of_run / "run.json").read_text())
    record["sha256"]["config.json"] = sha256(copy_of_run / "config.json")
    write_json(copy_of_run / "run.json", record)
    with pytest.raises(UserError, match=r"4 outputs.* 5 labels"):
        Predictor(copy_of_run)


def test_a_missing_or_unfinished_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no run folder .*name one with --run-dir"):
        RunFolder.open(tmp_path / "nothing")
    (tmp_path / "run.partial").mkdir()
    with pytest.raises(UserError, match="--resume"):
        RunFolder.open(tmp_path / "run")


def test_what_exists_is_refused_unless_asked(tmp_path, tiny_run):
    run, partial = tmp_path / "run", tmp_path / "run.partial"

    def check(*, overwrite=False, resume=False):
        run_folder.check_output(run, overwrite=overwrite, resume=resume)

    check()
    shutil.copytree(tiny_run, run)
    with pytest.raises(UserError, match="--overwrite"):
        check()
    with pytest.raises(UserError, match=r"nothing to resume: the run .* is complete"):
        check(resume=True)
    check(overwrite=True)
    assert run_folder.begin(run, resume=False) == partial and RunFolder.open(run)
    shutil.rmtree(run)
    with pytest.raises(UserError, match="--resume continues"):
        check()
    check(resume=True)
    with pytest.raises(UserError, match="exclude each other"):
        check(overwrite=True, resume=True)
    partial.rmdir()
    with pytest.raises(UserError, match="nothing to resume: there is no"):
        check(resume=True)


def test_a_folder_that_is_no_run_is_never_replaced(photo_folder):
    with pytest.raises(UserError, match="no run folder and is not replaced"):
        run_folder.check_output(photo_folder, overwrite=True, resume=False)


def test_an_interrupted_replacement_is_told(tmp_path):
    (tmp_path / "run.replaced").mkdir()
    with pytest.raises(UserError, match=r"the run before is in .*run\.replaced"):
        RunFolder.open(tmp_path / "run")


def test_the_runs_that_come_with_the_project_are_small():
    assert sum(file.stat().st_size for run in SHIPPED_RUNS for file in run.rglob("*") if file.is_file()) <= 45e6


@pytest.mark.parametrize("path", SHIPPED_RUNS, ids=lambda path: path.name)
def test_the_runs_that_come_with_the_project_are_whole(path):
    run = RunFolder.open(path)
    assert len(run.labels) == 120
    assert not (path / "model.safetensors").exists()
    predictions = Predictions.load(path / "predictions-validation.parquet")
    assert predictions.names == run.labels and len(predictions) == 1200
    assert predictions.right.mean() == pytest.approx(run.record.figures["validation"]["top1"])
    for file in path.rglob("*"):  # nobody's business
        assert file.is_dir() or not re.search(rb"/(work|home|root|tmp)/\w", file.read_bytes())
