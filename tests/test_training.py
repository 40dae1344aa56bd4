import csv
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import ROOT, interrupted_after, make_photo_folder, tiny_config
from safetensors import SafetensorError
from transformers import AutoModelForImageClassification

from dogbreeds import metrics
from dogbreeds.calibration import softmax
from dogbreeds.errors import UserError
from dogbreeds.run_folder import RunFolder
from dogbreeds.training import inputs as inputs_module
from dogbreeds.training import profiling
from dogbreeds.training import resume as resume_module
from dogbreeds.training import save_run as save_run_module
from dogbreeds.training import saved_states as saved_states_module
from dogbreeds.training.evaluation import predict_logits
from dogbreeds.training.loaders import EpochSampler, PixelDataset, data_loader
from dogbreeds.training.locks import locked
from dogbreeds.training.loop import AGREE_EVERY, Loop, asks_others
from dogbreeds.training.optim import WeightAverage
from dogbreeds.training.options import TrainConfig
from dogbreeds.training.presets import VIT
from dogbreeds.training.profiling import PHASES, PhaseClock, bottleneck, peak_flops
from dogbreeds.training.save_run import judge
from dogbreeds.training.saved_states import SavedStates
from dogbreeds.training.train import finish, fit, set_up, train
from dogbreeds.training_script import run_training_script


def weights(run):
    """The weights by their names in the model; in the file they have those of older transformers."""
    return AutoModelForImageClassification.from_pretrained(run).state_dict()


def assert_saved(run, trained):
    """The weights in a run folder are these, bit for bit but for the classifier, in which the temperature is."""
    scale, saved = RunFolder.open(run).record.logit_scale, weights(run)
    assert scale != 1 and saved.keys() == trained.keys()
    for name, tensor in saved.items():
        if name.startswith("classifier."):
            torch.testing.assert_close(scale * tensor, trained[name])
        else:
            assert torch.equal(tensor, trained[name]), name


def fitted(config):
    """Trained, but neither exported nor saved, which takes longer than training does here."""
    run = set_up(config)
    fit(run)
    return run


def best_weights(run):
    return run.saved_states.load_best()


def logits_of(run, model, **exact):
    """Logits and labels of the validation photos."""
    return predict_logits(model, run.inputs, "validation", run.context, **exact)


def same_run(one, other):
    """Whether two runs went the same way, in their last weights, their best and their history."""
    for mine, theirs in (
        (one.learner.trained_model.state_dict(), other.learner.trained_model.state_dict()),
        (best_weights(one), best_weights(other)),
    ):
        if mine.keys() != theirs.keys() or not all(torch.equal(mine[name], theirs[name]) for name in mine):
            return False
    histories = [[{**row, "seconds": 0} for row in run.loop.progress.history] for run in (one, other)]
    return histories[0] == histories[1]


def history(run):
    with (run / "history.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_a_tiny_vit_over_fits_eight_photos(tmp_path):
    folder = make_photo_folder(tmp_path / "data", num_photos=6)
    config = tiny_config(folder, tmp_path / "run", epochs=40, augment="off", schedule="constant")
    run = set_up(config)
    eight = np.concatenate([np.flatnonzero(run.splits.train.labels == label)[:2] for label in range(4)])
    photos = run.splits.train.select(eight)
    assert len(photos) == 8
    loader = data_loader(PixelDataset(photos, run.inputs.preprocessing), 8, num_workers=0, seed=0)
    run.inputs.training_loader, run.inputs._sampler = loader, loader.sampler
    losses = []
    for epoch in range(40):
        run.loop.progress.epoch = epoch
        losses.append(run.loop._train_epoch(started=0.0))
    pixels = torch.stack([torch.from_numpy(run.inputs.preprocessing(make_open(source))) for source in photos.sources])
    model = run.learner.model.eval()
    with torch.no_grad():
        assert (model(pixels).logits.argmax(1).numpy() == photos.labels).all()
    assert losses[-1] < 0.1 < losses[0]


def make_open(source):
    from dogbreeds.images import open_image

    return open_image(source)


def test_the_run_says_what_was_done(tiny_run):
    record = json.loads((tiny_run / "run.json").read_text())
    assert TrainConfig.from_dict(record["config"]).optim.epochs == 8
    assert record["data"]["num_train"] == 24 and record["data"]["num_validation"] == 8
    assert (
        record["num_trained_parameters"]
        == record["num_parameters"]
        == sum(
            parameter.numel() for parameter in AutoModelForImageClassification.from_pretrained(tiny_run).parameters()
        )
    )
    assert set(record["figures"]) == {"validation", "test"}
    assert {"dogbreeds", "python", "torch"} <= set(record["versions"])
    rows = history(tiny_run)
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 9)]
    losses = [float(row["validation_loss"]) for row in rows]
    assert record["best_epoch"] == 1 + losses.index(min(losses))
    assert "8 epochs" in (tiny_run / "README.md").read_text()


def test_predictions_give_the_figures(tiny_run):
    record = json.loads((tiny_run / "run.json").read_text())
    for split in ("validation", "test"):
        table = pyarrow.parquet.read_table(tiny_run / f"predictions-{split}.parquet").to_pydict()
        run = RunFolder.open(tiny_run)
        probabilities = np.array([table[name] for name in run.labels]).T
        labels = np.array([run.labels.index(label) for label in table["label"]])
        uncalibrated = softmax(run.calibration.temperature * np.log(probabilities))
        figures = metrics.summary(probabilities, labels, uncalibrated)
        assert len(set(table["image_id"])) == figures["n"] == 8
        for name, value in figures.items():
            assert value == pytest.approx(record["figures"][split][name], abs=1e-5), name


def test_the_same_seed_gives_the_same_run_with_the_pixel_cache_or_without(photo_folder, tmp_path):
    first = fitted(tiny_config(photo_folder, tmp_path / "first"))
    second = fitted(tiny_config(photo_folder, tmp_path / "second", cache="off", num_workers=2))
    third = fitted(tiny_config(photo_folder, tmp_path / "third", seed=1))
    assert same_run(first, second) and not same_run(first, third)


@pytest.mark.parametrize(
    "options",
    [
        {"model": "vit_nano", "ema_decay": 0.9, "gradient_accumulation_steps": 2, "dropout": 0.2, "whitening": "zca"},
        {"model": "mobilenet_v2_nano", "schedule": "plateau", "mixup": 0.4, "layer_decay": 0.7},
        {"model": "vit_nano", "freeze_backbone": True},
        {"model": "resnet_nano", "adapt": "lora", "ema_decay": 0.9},
    ],
    ids=str,
)
def test_a_resumed_run_is_the_run_that_was_never_stopped(
    photo_folder, checkpoints, tmp_path, options, tiny_runs_onnx, features_by_torch
):
    if options.keys() & {"freeze_backbone", "adapt"}:
        options = {**options, "model": str(checkpoints / options["model"])}
    whole = fitted(tiny_config(photo_folder, tmp_path / "whole", epochs=3, **options))

    with interrupted_after(2):
        fitted(tiny_config(photo_folder, tmp_path / "stopped", epochs=3, **options))
    assert not (tmp_path / "stopped").exists()
    with pytest.raises(UserError, match="--resume continues it"):
        train(tiny_config(photo_folder, tmp_path / "stopped", epochs=3, **options))
    with pytest.raises(UserError, match="can't resume with another learning_rate"):
        train(tiny_config(photo_folder, tmp_path / "stopped", epochs=3, resume=True, **options, learning_rate=1.0))
    resumed = fitted(tiny_config(photo_folder, tmp_path / "stopped", epochs=3, resume=True, **options))
    assert same_run(whole, resumed)
    if options["model"].endswith("vit_nano"):  # a CNN's export takes longer than this test
        finish(resumed)
        assert not (tmp_path / "stopped" / "state").exists()
        assert [row["epoch"] for row in history(tmp_path / "stopped")] == ["1", "2", "3"]


def test_who_presses_ctrl_c_is_told_how_to_go_on(photo_folder, tmp_path, capsys):
    with interrupted_after(1):
        fitted(tiny_config(photo_folder, tmp_path / "run"))
    assert capsys.readouterr().out.endswith("\nstopped: --resume continues after the last checkpoint\n")


def test_a_run_goes_on_to_more_epochs(photo_folder, tmp_path, capsys):
    short = fitted(tiny_config(photo_folder, tmp_path / "run", epochs=2))
    capsys.readouterr()
    longer = fitted(tiny_config(photo_folder, tmp_path / "run", epochs=4, resume=True))
    said = capsys.readouterr().out
    assert "the run goes on to 4 epochs instead of 2\nnote: from here the learning rate is that of a run of 4" in said
    assert longer.loop.progress.history[:2] == short.loop.progress.history
    at_once = fitted(tiny_config(photo_folder, tmp_path / "at once", epochs=4))
    rates = [[row["learning_rate"] for row in run.loop.progress.history[2:]] for run in (longer, at_once)]
    assert rates[0] == rates[1] and rates[0][0] > 0
    with pytest.raises(UserError, match="can't resume with another epochs: it was 4, now it is 3"):
        fitted(tiny_config(photo_folder, tmp_path / "run", epochs=3, resume=True))


def test_an_old_run_stays_until_the_new_one_is_complete(photo_folder, tmp_path, monkeypatch, tiny_runs_onnx):
    run = train(tiny_config(photo_folder, tmp_path / "run", epochs=1))
    with pytest.raises(UserError, match="--overwrite"):
        train(tiny_config(photo_folder, tmp_path / "run", epochs=1))
    before = weights(run)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(
            save_run_module, "export_serving_model", lambda *_: (_ for _ in ()).throw(RuntimeError("full disk"))
        )
        train(tiny_config(photo_folder, tmp_path / "run", epochs=1, seed=1, overwrite=True))
    RunFolder.open(run)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(run).items())
    train(tiny_config(photo_folder, tmp_path / "run", epochs=1, seed=1, overwrite=True))
    assert RunFolder.open(run).record.config["seed"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_frozen_backbone_stays_as_it_was(photo_folder, checkpoints, tmp_path, features_by_torch):
    for augment in ("auto", "on"):
        options = {"model": str(checkpoints / "resnet_nano"), "freeze_backbone": True, "augment": augment}
        run = set_up(tiny_config(photo_folder, tmp_path / augment, **options))
        model = run.learner.full_model
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        fit(run)
        moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        assert moved == {"classifier.1.weight", "classifier.1.bias"}
        assert run.inputs.head_only == (augment == "auto")


@pytest.mark.slow
def test_features_are_those_of_the_whole_model(photo_folder, checkpoints, tmp_path):
    model = str(checkpoints / "resnet_nano")
    run = set_up(tiny_config(photo_folder, tmp_path / "run", model=model, freeze_backbone=True))
    logits, labels = logits_of(run, run.learner.model)
    photos = run.splits.validation
    pixels = torch.stack([torch.from_numpy(run.inputs.preprocessing(make_open(source))) for source in photos.sources])
    with torch.no_grad():
        expected = run.learner.full_model.eval()(pixels).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert (labels == photos.labels).all()


def test_early_stopping_keeps_the_best_epoch(photo_folder, tmp_path, monkeypatch, tiny_runs_onnx):
    losses = iter([1.0, 0.5, 0.7, 0.8, 0.9, 1.0])
    seen = []

    def validate(self):
        seen.append({name: tensor.clone() for name, tensor in self._learner.trained_model.state_dict().items()})
        return {"log_loss": next(losses), "top1": 0.5, "top3": 1.0}

    monkeypatch.setattr(Loop, "_validate", validate)
    run = train(tiny_config(photo_folder, tmp_path / "run", epochs=6, early_stopping_patience=2))
    assert len(history(run)) == 4 and RunFolder.open(run).record.best_epoch == 2
    assert_saved(run, seen[1])


def test_accumulated_batches_are_one_large_batch(photo_folder, tmp_path):
    options = {"epochs": 1, "augment": "off", "max_grad_norm": 0.0, "images_per_breed": 10}
    one = fitted(tiny_config(photo_folder, tmp_path / "one", batch_size=8, **options))
    two = fitted(tiny_config(photo_folder, tmp_path / "two", batch_size=4, gradient_accumulation_steps=2, **options))
    for name, tensor in one.learner.trained_model.state_dict().items():
        torch.testing.assert_close(two.learner.trained_model.state_dict()[name], tensor, atol=2e-4, rtol=1e-3)


def test_averaged_weights_are_what_is_validated_and_saved(photo_folder, tmp_path, tiny_runs_onnx):
    run = fitted(tiny_config(photo_folder, tmp_path / "run", epochs=1, ema_decay=0.99))
    raw = {name: tensor.clone() for name, tensor in run.learner.full_model.state_dict().items()}
    averaged = run.learner.average.model.state_dict()
    assert any(not torch.equal(raw[name], tensor) for name, tensor in averaged.items())
    logits, labels = logits_of(run, run.learner.average.model)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    loss = metrics.log_loss(shifted / shifted.sum(1, keepdims=True), labels)
    assert run.loop.progress.history[0]["validation_loss"] == pytest.approx(loss)
    finish(run)
    assert_saved(tmp_path / "run", averaged)


def test_a_loss_that_is_no_number_stops_with_a_remedy(photo_folder, tmp_path):
    options = {"learning_rate": 1e30, "head_learning_rate": 1e30, "max_grad_norm": 0.0, "warmup_fraction": 0.0}
    # --resume would refuse another rate
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in epoch .* --overwrite and a lower --learning-rate"):
        train(tiny_config(photo_folder, tmp_path / "run", epochs=5, **options))


def test_a_validation_loss_that_is_no_number_stops_too(photo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Loop, "_validate", lambda loop: {"log_loss": float("nan"), "top1": 0.0, "top3": 0.0})
    with pytest.raises(UserError, match=r"the loss is nan in epoch 1, .*lower --learning-rate"):
        train(tiny_config(photo_folder, tmp_path / "run"))


def test_a_batch_of_one_photo_is_too_small_for_batch_normalisation(photo_folder, tmp_path):
    config = tiny_config(photo_folder, tmp_path / "run", model="mobilenet_v2_nano", batch_size=23)  # of 24 photos
    with pytest.raises(UserError, match="--batch-size 23 leaves a batch of one photo: give another one") as error:
        train(config)
    assert "\n" not in str(error.value)


def test_bfloat16_trains(photo_folder, tmp_path, tiny_runs_onnx):
    run = fitted(tiny_config(photo_folder, tmp_path / "run", mixed_precision="bf16", ema_decay=0.5))
    average = run.learner.average.model
    averaged, _ = logits_of(run, average)
    assert not np.array_equal(averaged, logits_of(run, run.learner.model)[0])
    assert not np.array_equal(averaged, logits_of(run, average, exact=True)[0])
    finish(run)
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "run").values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_float16_trains_on_a_gpu(photo_folder, tmp_path):
    run = train(tiny_config(photo_folder, tmp_path / "run", epochs=1, mixed_precision="fp16"))
    assert all(tensor.isfinite().all() for tensor in weights(run).values())


def test_tensorboard_logs_are_written(photo_folder, tmp_path, tiny_runs_onnx):
    run = train(tiny_config(photo_folder, tmp_path / "run", epochs=1, tracker=("tensorboard",)))
    assert list((run / "logs").rglob("events.out.tfevents.*"))


def test_the_run_says_what_its_time_went_on(photo_folder, tmp_path, capsys):
    run = fitted(tiny_config(photo_folder, tmp_path / "run", epochs=2, measure_peak=True))
    record, progress = run.time_record(), run.loop.progress
    assert set(record["seconds"]) == set(PHASES) and all(seconds > 0 for seconds in progress.time_spent.values())
    in_epochs = sum(row["seconds"] for row in progress.history)
    assert (
        in_epochs <= sum(progress.time_spent.values()) + 0.02
    )  # the epochs' own seconds are rounded; saving is on top
    num_photos = 2 * len(run.splits.train)
    assert record["photos_per_second"] == pytest.approx(num_photos / sum(progress.time_spent.values()))
    assert record["photos_per_second_in_steps"] > record["photos_per_second"]
    reached = 3 * run.flops_per_photo * record["photos_per_second_in_steps"]
    assert record["share_of_peak"] == pytest.approx(reached / record["measured_peak_flops"])
    said = capsys.readouterr().out
    assert "measured peak: " in said and " photos/s, " in said and record["bottleneck"] in said


@pytest.mark.parametrize("phase", PHASES)
def test_the_bottleneck_is_what_takes_longest(phase):
    words = bottleneck({name: 3.0 if name == phase else 1.0 for name in PHASES})
    assert "hold out fewer" not in words and "--validation-fraction" not in words
    assert "38% of the time" in words and (phase == "forward and backward" or "arithmetic" not in words)
    assert len({bottleneck({name: 3.0 if name == p else 1.0 for name in PHASES}) for p in PHASES}) == len(PHASES)


def test_phases_are_timed_one_after_the_other(monkeypatch):
    times = iter([0.0, 1.0, 4.0, 5.0, 5.5])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(times))
    clock = PhaseClock(torch.device("cpu"))
    for phase in ("data", "optimiser", "data", "saving"):
        clock.enter(phase)
    seconds = clock.read()
    assert (seconds["data"], seconds["optimiser"], seconds["saving"]) == (2.0, 3.0, 0.5)
    assert sum(seconds.values()) == 5.5


def test_the_peak_is_one_that_this_machine_can_reach():
    assert 1e9 < peak_flops(torch.device("cpu"), torch.float32, num_rounds=1) < 1e14


def test_a_checkpoint_is_of_the_moment_it_was_asked_for(tmp_path):
    """It is written later, while training changes the weights."""
    (tmp_path / "state").mkdir()
    checkpoints, weights = SavedStates(tmp_path / "state"), torch.zeros(3)
    checkpoints.save((1, 0), {"model": {"weights": weights}, "note": [1, "a"]}, {"weights": weights})
    weights += 1
    checkpoints.save((1, 7), {"model": {"weights": weights}, "note": [2, "b"]}, None)
    checkpoints.save((2, 0), {"model": {"weights": weights}, "note": [2, "b"]}, None)
    weights += 1
    checkpoints.wait()
    assert torch.equal(checkpoints.load_best()["weights"], torch.zeros(3))
    assert torch.equal(checkpoints.load()["model"]["weights"], torch.ones(3))
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert names == ["best.pt", "epoch-0001-batch-000007.pt", "epoch-0002-batch-000000.pt"]


@pytest.mark.parametrize("damage", ["cut short", "a bit flipped", "empty"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(tmp_path, capsys, damage):
    (tmp_path / "state").mkdir()
    checkpoints = SavedStates(tmp_path / "state")
    for number in (1, 2):
        checkpoints.save((number, 0), {"number": number}, {"weights": torch.zeros(3)})
    checkpoints.wait()
    newest = tmp_path / "state" / "epoch-0002-batch-000000.pt"

    def spoil(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes({"cut short": content[:-100], "a bit flipped": content, "empty": b""}[damage])

    spoil(newest)
    assert checkpoints.load() == {"number": 1}
    assert "epoch-0002-batch-000000.pt' is damaged: going on from the one before" in capsys.readouterr().err
    spoil(tmp_path / "state" / "epoch-0001-batch-000000.pt")
    assert checkpoints.load() is None
    spoil(tmp_path / "state" / "best.pt")
    with pytest.raises(UserError, match=r"the best weights in .* are damaged"):
        checkpoints.load_best()


def test_a_checkpoint_that_can_not_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "state").mkdir()
    checkpoints = SavedStates(tmp_path / "state")
    checkpoints.save((1, 0), {"epoch": 1}, None)
    checkpoints.wait()
    monkeypatch.setattr(
        saved_states_module.torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    checkpoints.save((2, 0), {"epoch": 2}, None)
    with pytest.raises(UserError, match=r"can't write the checkpoint in .*No space left.*--resume; the one before"):
        checkpoints.wait()
    assert checkpoints.load() == {"epoch": 1}


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("I/O error: No space left")])
def test_a_run_that_can_not_be_written_at_its_end_is_told_and_goes_on(photo_folder, tmp_path, error, tiny_runs_onnx):
    config = tiny_config(photo_folder, tmp_path / "run", epochs=1)
    run = fitted(config)
    with pytest.raises(UserError, match=r"can't write the run to .*run\.partial' \(.*No space left\).*--resume"):
        finish(run, lambda *_: (_ for _ in ()).throw(error))
    train(config.replace(resume=True))
    assert RunFolder.open(tmp_path / "run").record.num_epochs == 1


def test_a_run_that_can_not_be_begun_is_told(photo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(resume_module, "write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match=r"can't write in .*run\.partial' \(No space left\): make room"):
        train(tiny_config(photo_folder, tmp_path / "run"))


def test_photos_that_came_later_are_told_without_a_word_of_hashes(photo_folder, tmp_path):
    shutil.copytree(photo_folder, tmp_path / "photos")
    config = tiny_config(tmp_path / "photos", tmp_path / "run", epochs=1)
    fitted(config)
    next((tmp_path / "photos").rglob("*.png")).unlink()
    with pytest.raises(UserError, match="can't resume with other photos or labels: give those"):
        train(config.replace(resume=True))


def test_a_checkpoint_of_something_else_is_one_line(photo_folder, tmp_path, capsys):
    """Whose digest is right: the content was damaged before it was written, or is of another run."""
    options = {"epochs": 2, "checkpoint_minutes": 0.0}
    run = fitted(tiny_config(photo_folder, tmp_path / "run", **options))
    newest, before = sorted(run.saved_states.folder.glob("epoch-*.pt"))[::-1]
    good = run.saved_states.load()
    before.unlink()

    def resumed():
        return set_up(tiny_config(photo_folder, tmp_path / "run", resume=True, **options))

    def with_digest(content):
        newest.write_bytes(content + hashlib.sha256(content).digest())

    for content in (b"", b"PK\x03\x04 no weights", pickle.dumps([1, 2], protocol=2)):
        with_digest(content)
        assert resumed().loop.progress.epoch == 0
        assert f"the checkpoint {str(newest)!r} is damaged" in capsys.readouterr().err
    weight = next(name for name, tensor in good["model"].items() if tensor.ndim > 1)
    moments = good["optimizer"]["state"][0]
    for changed in (
        {name: part for name, part in good.items() if name != "progress"},
        {name: part for name, part in good.items() if name != "schedule"},
        {**good, "progress": {**good["progress"], "epoch": "second"}},
        {**good, "progress": {**good["progress"], "epoch": 7}},
        {**good, "model": {**good["model"], weight: torch.zeros(3, 2)}},
        {**good, "model": None},
        {**good, "optimizer": {**good["optimizer"], "param_groups": []}},
        {
            **good,
            "optimizer": {**good["optimizer"], "state": {0: {name: torch.zeros(3, 2) for name in moments}}},
        },
    ):
        content = io.BytesIO()
        torch.save(changed, content)
        with_digest(content.getvalue())
        with pytest.raises(UserError, match=r"the newest checkpoint in .* is none of this run \(.+--overwrite") as told:
            resumed()
        assert "\n" not in str(told.value)
    (run.saved_states.folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"the state in .* can't be read: start again with --overwrite"):
        resumed()


def test_one_process_at_a_time_makes_a_run(photo_folder, tmp_path, monkeypatch, capsys):
    with locked(tmp_path / "run"):
        for options in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(UserError, match=r"another process is making the run '.*run': wait for it, or give"):
                train(tiny_config(photo_folder, tmp_path / "run", **options))
        monkeypatch.setattr(sys, "argv", ["train_vit.py", "--output-dir", str(tmp_path / "run"), "--overwrite"])
        with pytest.raises(SystemExit, match="2"):
            run_training_script(VIT, None)
        told = capsys.readouterr().err
        assert told.startswith("error: another process is making the run") and told.count("\n") == 1
        with locked(tmp_path / "another run"):
            pass
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't lock '.*run.lock' \(.*\): give another --output-dir"):
        train(tiny_config(photo_folder, tmp_path / "file" / "run"))


def test_a_model_that_is_not_there_is_told_before_photos_are_read(photo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dogbreeds.training.train.load_data", lambda *_, **__: pytest.fail("photos are read"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{}")
    for model, words in (
        ("vit_nanu", "the model 'vit_nanu' is no folder here, and no name of this project or of timm: did you mean"),
        ("me/no-such-model", "'me/no-such-model' is no folder here, and the Hugging Face Hub did not give it"),
        (str(tmp_path / "nowhere"), "nowhere' is no folder here, and no id of the Hugging Face Hub (USER/NAME)"),
        (str(tmp_path / "folder"), "folder' holds no image classifier: config.json is missing; give a folder"),
        (str(tmp_path / "damaged"), "damaged' holds no image classifier that transformers can load"),
    ):
        with pytest.raises(UserError, match=re.escape(words)) as told:
            train(tiny_config(photo_folder, tmp_path / "run", model=model))
        assert "\n" not in str(told.value)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "damaged"}


def test_a_lock_is_held_by_one_of_many_and_by_none_that_was_killed(tmp_path):
    """Though its file is removed and made anew all the time."""

    def hold_often():
        num_held = 0
        until = time.monotonic() + 20
        while num_held < 100 and time.monotonic() < until:
            with suppress(UserError), locked(tmp_path / "run"):
                os.close(os.open(tmp_path / "held", os.O_CREAT | os.O_EXCL))  # fails if another one holds it
                os.unlink(tmp_path / "held")
                num_held += 1
        assert num_held == 100

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=hold_often) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4

    def hold_and_die():
        with locked(tmp_path / "run"):
            os.kill(os.getpid(), signal.SIGKILL)

    killed = context.Process(target=hold_and_die)
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL and (tmp_path / "run.lock").exists()
    with locked(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())


def remove_photos(run):
    shutil.rmtree(run.config.data.data)


def kill_a_worker(run):
    multiprocessing.active_children()[0].kill()


def remove_the_run(run):
    run.saved_states.wait()
    shutil.rmtree(run.partial)


@pytest.mark.parametrize(
    ("fault", "options", "words"),
    [
        (
            remove_photos,
            {"cache": "off", "num_workers": 0},
            r"photos can't be read any more \(There is no file .*--resume",
        ),
        (
            remove_photos,
            {"cache": "off", "num_workers": 2},
            r"photos can't be read any more \(There is no file .*--resume",
        ),
        pytest.param(
            kill_a_worker,
            {"cache": "off", "num_workers": 2},
            r"photos can't be read any more \(.*worker.*--resume",
            marks=pytest.mark.slow,  # torch waits for the dead for a while
        ),
        (remove_the_run, {}, r"can't write the checkpoint in .*--resume"),
    ],
)
def test_what_happens_in_the_second_epoch_is_told_and_the_first_is_kept(photo_folder, tmp_path, fault, options, words):
    shutil.copytree(photo_folder, tmp_path / "photos")
    run = set_up(tiny_config(tmp_path / "photos", tmp_path / "run", epochs=3, **options))

    def fail_after_the_first(row):
        if row["epoch"] == 1:
            run.saved_states.wait()
            fault(run)

    with pytest.raises(UserError, match=words) as error:
        fit(run, fail_after_the_first)
    assert "\n" not in str(error.value)
    if fault is not remove_the_run:
        assert SavedStates(run.partial / "state").load()["progress"]["epoch"] == 1


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_if_it_never_was():
    """See tests/killed_runs.py, which does it more often, and with other models."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    for num_kills, num_processes in (("8", "1"), ("4", "2")):
        command = [sys.executable, "tests/killed_runs.py", "--kills", num_kills, "--processes", num_processes]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert told.returncode == 0 and ": 0 of the runs ended otherwise" in told.stdout, told.stdout + told.stderr


def test_a_run_that_is_told_to_end_saves_and_goes_on_later(photo_folder, tmp_path):
    options = {"epochs": 3, "batch_size": 4, "dropout": 0.2, "checkpoint_minutes": 0.0}
    whole = fitted(tiny_config(photo_folder, tmp_path / "whole", **options))
    stopped = set_up(tiny_config(photo_folder, tmp_path / "stopped", **options))
    steps, schedule = [], stopped.learner.schedule

    def step_and_stop(*arguments, step=schedule.after_step):
        steps.append(1)
        if len(steps) == 9:  # in the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return step()

    schedule.after_step = step_and_stop
    with pytest.raises(SystemExit) as ended:
        fit(stopped)
    assert ended.value.code == 128 + signal.SIGTERM
    resumed = set_up(tiny_config(photo_folder, tmp_path / "stopped", resume=True, **options))
    progress = resumed.loop.progress
    assert (progress.epoch, progress.batch) == (1, 3)
    before = stopped.loop.progress
    assert (progress.epoch_seconds, progress.time_spent) == (before.epoch_seconds, before.time_spent)
    assert progress.epoch_seconds > 0
    progress.epoch_seconds += 1000  # as if those three batches had taken so much longer
    progress.time_spent["data"] += 1000
    fit(resumed)
    assert same_run(whole, resumed)
    assert progress.history[1]["seconds"] > 1000 > progress.history[0]["seconds"] + progress.history[2]["seconds"]
    assert sum(progress.time_spent.values()) > 1000 and progress.num_photos == 3 * len(resumed.splits.train)
    assert resumed.time_record()["photos_per_second"] < progress.num_photos / 1000
    assert resumed.context.seconds["training"] == sum(row["seconds"] for row in progress.history)


@pytest.mark.parametrize(("frozen", "num_then"), [(False, 4), (True, 0)])
def test_no_process_that_decodes_outlives_what_it_decodes_for(photo_folder, checkpoints, tmp_path, frozen, num_then):
    before, during = set(multiprocessing.active_children()), []
    options = {"model": str(checkpoints / "resnet_nano"), "freeze_backbone": frozen, "cache": "off", "num_workers": 2}
    run = set_up(tiny_config(photo_folder, tmp_path / "run", epochs=1, **options))
    fit(run, lambda _: during.append(len(set(multiprocessing.active_children()) - before)))
    assert during == [num_then]  # two for training and two for validation, none where features were computed before
    assert set(multiprocessing.active_children()) <= before
    judge(run.learner.model, run.inputs, run.context)
    assert set(multiprocessing.active_children()) <= before


def test_after_a_resume_within_an_epoch_no_more_processes_decode_than_ever(photo_folder, tmp_path, monkeypatch):
    before, during, saved = set(multiprocessing.active_children()), [], []
    options = {"epochs": 3, "cache": "off", "num_workers": 2, "checkpoint_minutes": 1e-9}

    def interrupt(self, *arguments, save=Loop._save_within_epoch):
        save(self, *arguments)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "_save_within_epoch", interrupt)
        fit(set_up(tiny_config(photo_folder, tmp_path / "run", **options)))
    resumed = set_up(tiny_config(photo_folder, tmp_path / "run", resume=True, **options))
    assert resumed.loop.progress.batch == 2
    fit(resumed, lambda _: during.append(len(set(multiprocessing.active_children()) - before)))
    assert during == [4, 4, 4]  # two for training, two for validation


def test_a_weight_average_follows_at_its_decay():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.5, device=torch.device("cpu"))
    expected = None
    for step in range(6):
        model[0].weight.data.fill_(float(step))
        model[1].num_batches_tracked.fill_(step)
        average.update(model)
        weight = 1.0 if expected is None else 1 - min(0.5, (1 + step) / (10 + step))
        expected = step if expected is None else expected + weight * (step - expected)
    assert torch.allclose(average.model[0].weight, torch.full((2, 2), expected))
    assert average.model[1].num_batches_tracked == 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_photos_live_there_and_bfloat16_is_used(photo_folder, tmp_path, capsys):
    run = fitted(tiny_config(photo_folder, tmp_path / "run", rotation=10.0, compile="on"))
    assert run.context.accelerator.mixed_precision == "bf16"
    assert next(iter(run.inputs.training_loader)).inputs.is_cuda
    assert "the photos are in the GPU's memory" in capsys.readouterr().out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_classifier_alone_trains_on_a_gpu(photo_folder, checkpoints, tmp_path):
    model = str(checkpoints / "resnet_nano")
    run = fitted(tiny_config(photo_folder, tmp_path / "run", model=model, freeze_backbone=True))
    assert next(iter(run.inputs.training_loader)).inputs.is_cuda


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_photos_that_do_not_fit_on_the_gpu_stay_in_the_hosts_memory(photo_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inputs_module, "GPU_SHARE", 0.0)
    fitted(tiny_config(photo_folder, tmp_path / "run"))
    assert "the photos stay in the host's memory" in capsys.readouterr().out


def test_a_run_that_can_not_start_leaves_nothing_behind(photo_folder, tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match="holds no image classifier"):
            train(tiny_config(photo_folder, tmp_path / "run", model=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_run_that_has_seen_the_held_out_photos_is_no_start(photo_folder, tiny_run, tmp_path, capsys, tiny_runs_onnx):
    with pytest.raises(UserError, match=r"trained on photos that are held out here: give the --split-seed \(0\)"):
        train(tiny_config(photo_folder, tmp_path / "run", model=str(tiny_run), split_seed=1))
    assert not list(tmp_path.iterdir())
    train(tiny_config(photo_folder, tmp_path / "run", model=str(tiny_run), epochs=1, grayscale=True))
    told = f"note: {str(tiny_run)!r} was trained with grayscale False, this run with True\n"
    assert re.findall("note: .*\n", capsys.readouterr().out) == [told]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    base = json.loads((tiny_run / "run.json").read_text())
    assert record["base_run"]["command"] == base["command"] and record["base_run"]["seconds"] == base["seconds"]


def test_every_photo_comes_once_an_epoch_in_an_order_of_its_own():
    sampler = EpochSampler(50, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(50))
        orders.append(order)
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", -1.0),
        ("flip", 1.5),
        ("vertical_flip", -0.5),
        ("crop_scale", 0.0),
        ("turns", ()),
        ("fixed_views", -1),
        ("seed", -1),
    ],
)
def test_options_out_of_range_are_named(option, value, tmp_path):
    flag = "--" + option.replace("_", "-")
    with pytest.raises(UserError, match=re.escape(f"{flag} {value}: must be")):
        tiny_config("data", tmp_path, **{option: value})


def test_a_mistake_on_the_command_line_is_one_line(tmp_path):
    for arguments, words in (
        (["--data", str(tmp_path / "nothing")], "there is no data folder"),
        (["--epochs", "0"], "--epochs 0: must be 1 or more"),
    ):
        command = [sys.executable, "train_cnn_baseline.py", *arguments, "--output-dir", str(tmp_path / "run")]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 2 and words in result.stderr
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
        assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line():
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['train_vit.py']; import runpy"
    code += "; runpy.run_path('train_vit.py', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "error: this needs the package torch: pip install -r requirements.txt\n"


@pytest.mark.parametrize("num_accumulated", [1, 3, 16, 20, 50])
def test_processes_ask_each_other_again_and_again_whatever_is_accumulated(num_accumulated):
    steps = range(num_accumulated, 1001, num_accumulated)
    asked = [0, *(batch for batch in steps if asks_others(batch, num_accumulated)), 1000]
    most = max(num_accumulated, AGREE_EVERY + num_accumulated - 1)
    assert max(later - before for before, later in pairwise(asked)) <= most
    assert len(asked) <= 2 + 1000 // AGREE_EVERY
