"""The search for better options: a study is whole whatever happens to its trials, and what it finds can be trained."""

import csv
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest
from conftest import ROOT, tiny_config
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from dogbreeds.errors import UserError
from dogbreeds.run_folder import RunFolder
from dogbreeds.training import inputs, tuning
from dogbreeds.training.config_file import read_config_file, read_tuning_trials, write_config_file
from dogbreeds.training.datasets.splits import load_data, with_part_of_training
from dogbreeds.training.loop import Loop
from dogbreeds.training.options import TrainConfig
from dogbreeds.training.train import train
from dogbreeds.training_script import run_training_script
from dogbreeds.tuning_folder import BEST, FINISHED, GIVEN, JOURNAL, REPORT, open_study, tuning_folder


def script(monkeypatch, preset, *arguments):
    """What a training script does with these arguments; the exit status if it is not 0."""
    monkeypatch.setattr(sys, "argv", ["train_vit.py", *arguments])
    preset = preset.options() if isinstance(preset, TrainConfig) else preset
    try:
        run_training_script(preset, None)
    except SystemExit as stop:
        return stop.code
    return 0


def finished(config):
    return open_study(tuning_folder(config.run.output_dir)).get_trials(states=FINISHED)


class Prune(optuna.pruners.BasePruner):
    """Prunes the trials of these numbers after their first epoch."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def prune(self, study, trial):
        return trial.number in self.numbers


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_and_its_best_trial_is_what_training_gives(
    photo_folder, tmp_path, monkeypatch, capsys, tiny_runs_onnx
):
    config = tiny_config(photo_folder, tmp_path / "runs" / "tiny")
    asked_for = []
    pixels = inputs._pixels

    def noted_pixels(config, context, splits, split, preprocessing):
        asked_for.append(split)
        return pixels(config, context, splits, split, preprocessing)

    monkeypatch.setattr(inputs, "_pixels", noted_pixels)
    assert script(monkeypatch, config, "--tune", "3") == 0
    before = finished(config)
    assert [trial.state for trial in before] == [TrialState.COMPLETE] * 3
    assert script(monkeypatch, config, "--tune", "5") == 0
    after = finished(config)
    assert len(after) == 5 and [trial.params for trial in after[:3]] == [trial.params for trial in before]
    assert set(asked_for) == {"train", "validation"}, "a trial has nothing to do with test photos"

    study = tuning_folder(config.run.output_dir)
    assert {path.name for path in study.parent.iterdir()} == {study.name}, "no trial leaves a run folder"
    assert {path.name for path in study.iterdir()} == {"journal.log", "study.lock", BEST, REPORT}
    best = min(after, key=lambda trial: trial.value)
    found = config.replace(**read_config_file(study / BEST))
    assert found.to_dict() == config.replace(**best.params).to_dict()
    printed = capsys.readouterr().out
    assert f"train_vit.py --config {study / BEST} --output-dir {config.run.output_dir}\n" in printed
    assert f"5 trials, 0 of them pruned: the best has a validation loss of {best.value:.4f}" in printed

    page = (study / REPORT).read_text()
    assert page.count("<img") == 3 and len(re.findall(r'alt="[^"]{20,}"', page)) == 3
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and "<script" not in page
    assert "Importance of each option: " in page and f"{best.value:.4f}" in page

    with (train(found) / "history.csv").open() as file:
        losses = [float(row["validation_loss"]) for row in csv.DictReader(file)]
    assert min(losses) == pytest.approx(best.value, rel=1e-6)


def test_the_first_trial_has_the_options_as_they_were_given_and_all_are_in_range(photo_folder, tmp_path):
    config = tiny_config(photo_folder, tmp_path / "tiny", epochs=1, learning_rate=2e-3, dropout=0.25)
    assert tuning.tune(config, 3)
    first, *others = finished(config)
    assert first.params["learning_rate"] == 2e-3 and first.params["dropout"] == 0.25
    assert first.params == open_study(tuning_folder(config.run.output_dir)).user_attrs[GIVEN]
    for trial in others:
        assert trial.params != first.params
        for name, value in trial.params.items():
            assert tuning.SPACES["from scratch"][name].low <= value <= tuning.SPACES["from scratch"][name].high


@pytest.mark.slow
def test_a_frozen_backbone_has_its_features_computed_once_and_only_the_classifier_tuned(
    photo_folder, tiny_run, tmp_path, monkeypatch, tiny_runs_onnx, features_by_torch
):
    calls = []
    compute = inputs.compute_features
    config = tiny_config(photo_folder, tmp_path / "head", model=str(tiny_run), freeze_backbone=True)
    with monkeypatch.context() as patch:
        patch.setattr(
            inputs,
            "compute_features",
            lambda model, data, *rest: calls.append(set(data)) or compute(model, data, *rest),
        )
        assert tuning.tune(config, 3)
    assert calls == [{"train", "validation"}]
    trials = finished(config)
    assert "learning_rate" not in trials[0].params and "head_learning_rate" in trials[0].params
    run = train(config.replace(**trials[2].params))
    with (run / "history.csv").open() as file:
        assert min(float(row["validation_loss"]) for row in csv.DictReader(file)) == pytest.approx(trials[2].value)


def test_a_full_disk_is_told_and_loses_no_trial(photo_folder, tmp_path, monkeypatch):
    config = tiny_config(photo_folder, tmp_path / "tiny", epochs=1)
    assert tuning.tune(config, 2)
    journal = tuning_folder(config.run.output_dir) / JOURNAL

    def half_a_line(storage, logs):
        with journal.open("ab") as file:
            file.write(b'{"op_code":6,"wor')
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", half_a_line)
        with pytest.raises(UserError, match=r"can't write the study .*tiny\.study' \(No space left on device\)"):
            tuning.tune(config, 3)
    assert tuning.tune(config, 3) and len(finished(config)) == 3


def test_a_student_of_a_teacher_has_no_labels_to_smooth(photo_folder, tiny_run, tmp_path):
    config = tiny_config(photo_folder, tmp_path / "student", epochs=1, teacher=tiny_run)
    assert tuning.tune(config, 2)
    assert [set(trial.params) for trial in finished(config)] == [
        {"learning_rate", "head_learning_rate", "weight_decay", "dropout"}
    ] * 2


def test_the_first_trial_of_a_plain_cnn_is_as_given_whatever_the_ranges(photo_folder, tmp_path):
    """Its rate is below the range, its decay is 0, and the dropout after its poolings is the architecture's own."""
    options = {"model": "cnn3v2", "learning_rate": 5e-5, "head_learning_rate": 0.1, "optimizer": "adam", "dropout": 0.6}
    config = tiny_config(photo_folder, tmp_path / "plain", epochs=1, **options)
    assert config.optim.decay == 0 and tuning.tune(config, 2)
    first, second = finished(config)
    given = {"learning_rate": 5e-5, "head_learning_rate": 0.1, "dropout": 0.6, "label_smoothing": 0.0}
    assert first.params == {**given, "conv_dropout": 0.2}
    assert second.params.keys() == first.params.keys() and second.params["conv_dropout"] != 0.2
    best = read_config_file(tuning_folder(config.run.output_dir) / BEST)
    assert "weight_decay" not in best and best["conv_dropout"] in (0.2, second.params["conv_dropout"])


@pytest.mark.slow
def test_pruned_trials_and_those_that_learn_nothing_count(photo_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "pruner", lambda: Prune(1))
    config = tiny_config(photo_folder, tmp_path / "tiny")
    check = Loop.check_finite

    def no_number(self, loss, epoch, step):
        check(self, float("nan") if self._config.run.output_dir.name == "trial-2" else loss, epoch, step)

    monkeypatch.setattr(Loop, "check_finite", no_number)
    assert script(monkeypatch, config, "--tune", "4") == 0
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    assert [trial.state for trial in finished(config)] == [complete, pruned, pruned, complete]
    printed = capsys.readouterr().out
    assert "trial 1, 2 of 4 finished: pruned after epoch 1 at " in printed
    assert "trial 2, 3 of 4 finished: pruned: the loss is no number any more" in printed
    assert "4 trials, 2 of them pruned" in printed
    page = (tmp_path / "tiny.study" / REPORT).read_text()
    assert page.count("<td>pruned</td>") == 2 and "2 of them pruned" in page


def test_the_pruner_waits_for_trials_to_compare_with_and_for_the_warm_up():
    study = optuna.create_study()
    for _ in range(tuning.MIN_TRIALS):
        trial = study.ask()
        for epoch in (1, 2, 3):
            trial.report(1.0, epoch)
        study.tell(trial, 1.0)
    worse = study.ask()
    decisions = []
    for epoch in (1, 2):
        worse.report(2.0, epoch)
        decisions.append(tuning.pruner().prune(study, study.trials[worse.number]))
    assert decisions == [False, True]


def command(config, *arguments):
    options = {
        "--model": "vit_nano", "--image-size": "32", "--epochs": "2", "--batch-size": "8", "--data": config.data.data,
        "--output-dir": str(config.run.output_dir),
    }  # fmt: skip
    words = [word for pair in options.items() for word in pair]
    return [sys.executable, "train_vit.py", *words, *arguments]


@pytest.mark.slow
def test_several_processes_share_a_study_and_one_that_is_killed_loses_nothing(photo_folder, tmp_path):
    config = tiny_config(photo_folder, tmp_path / "tiny")
    study = tuning_folder(config.run.output_dir)
    long = subprocess.Popen(command(config, "--tune", "500"), cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(study.glob("trial-*.lock")):
        assert long.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    long.send_signal(signal.SIGKILL)
    long.wait()
    before = open_study(study).trials
    interrupted = [trial for trial in before if trial.state is TrialState.RUNNING]
    assert len(interrupted) == 1, "it was killed within a trial"
    total = len([trial for trial in before if trial.state in FINISHED]) + 4

    both = [
        subprocess.Popen(command(config, "--tune", str(total)), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(finished(config)) == total
    assert sum("train with what was found" in words for words in said) >= 1
    after = open_study(study).trials
    assert after[interrupted[0].number].state is TrialState.FAIL
    again = [trial for trial in after if trial.params == interrupted[0].params and trial.state in FINISHED]
    assert len(again) == 1, "its options were tried again, once"
    assert not list(study.glob("trial-*")) and (study / BEST).exists()


def test_an_interrupted_trial_is_tried_again(photo_folder, tmp_path, monkeypatch, charts_are_blank):
    config = tiny_config(photo_folder, tmp_path / "tiny")
    run_epoch = Loop._run_epoch

    def interrupted(self):
        if self._config.run.output_dir.name == "trial-1":
            raise KeyboardInterrupt
        return run_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_run_epoch", interrupted)
        assert script(patch, config, "--tune", "3") == 130
    assert len(finished(config)) == 1 and {path.name for path in tmp_path.iterdir()} == {"tiny.study"}
    assert script(monkeypatch, config, "--tune", "3") == 0
    trials = open_study(tuning_folder(config.run.output_dir)).trials
    complete, fail = TrialState.COMPLETE, TrialState.FAIL
    assert [trial.state for trial in trials] == [complete, fail, complete, complete]
    assert trials[2].params == trials[1].params != trials[3].params


def test_a_trial_has_its_share_of_each_breed(photo_folder, tmp_path):
    config = tiny_config(photo_folder, tmp_path / "tiny")
    splits = load_data(config, progress=False)
    part = with_part_of_training(splits, 0.5, config.run.seed)
    assert np.bincount(part.train.labels).tolist() == [count // 2 for count in np.bincount(splits.train.labels)]
    assert set(part.train.ids) < set(splits.train.ids) and part.validation is splits.validation
    by_id = dict(zip(splits.train.ids, splits.train.digests, strict=True))
    assert [by_id[photo] for photo in part.train.ids] == part.train.digests.tolist()
    assert len(part.train.sizes) == len(part.train)
    assert with_part_of_training(splits, 0.5, config.run.seed).train.ids == part.train.ids
    assert with_part_of_training(splits, 0.5, 9).train.ids != part.train.ids
    assert np.bincount(with_part_of_training(splits, 0.001, 0).train.labels).tolist() == [1] * 4


def test_a_study_is_of_the_same_options(photo_folder, tmp_path):
    config = tiny_config(photo_folder, tmp_path / "tiny", epochs=1)
    assert tuning.tune(config, 1)
    assert tuning.tune(config.replace(num_workers=1), 1), "that changes no result"
    with pytest.raises(UserError, match="has another epochs: it was 1, now it is 3; give another --output-dir"):
        tuning.tune(config.replace(epochs=3), 2)
    with pytest.raises(UserError, match=r"has another tune_fraction: it was 1\.0, now it is 0\.5"):
        tuning.tune(config, 2, 0.5)
    assert len(finished(config)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tune", "0"], "--tune 0: must be 1 or more"),
        (["--tune", "3", "--tune-fraction", "2"], "--tune-fraction 2: must be above 0 and at most 1"),
        (["--tune", "3", "--tune-fraction", "0"], "--tune-fraction 0: must be above 0"),
        (["--tune-fraction", "0.5"], "--tune-fraction 0.5: give it with --tune"),
        (["--tune", "3", "--seeds", "0,1"], "--tune and --seeds exclude each other"),
        (["--tune", "3", "--resume"], "--tune and --resume exclude each other"),
        (["--tune", "3", "--overwrite"], "--tune and --overwrite exclude each other"),
        (["--tune", "3", "--model", "nowhere"], "the model 'nowhere' is no folder here"),
        (["--config", "nowhere.toml"], "--config 'nowhere.toml' can't be read: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, words, photo_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = tiny_config(photo_folder, tmp_path / "tiny")
    assert script(monkeypatch, config, *arguments) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and words in told[0]
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_there_is_told_before_photos_are_read(photo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "load_data", lambda *_, **__: pytest.fail("photos are read"))
    with pytest.raises(UserError, match="the model 'vit_nanu' is no folder here"):
        tuning.tune(tiny_config(photo_folder, tmp_path / "tiny", model="vit_nanu"), 1)


def test_several_processes_of_one_run_do_not_tune(photo_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert script(monkeypatch, tiny_config(photo_folder, tmp_path / "tiny"), "--tune", "3") == 2
    assert "start the command several times" in capsys.readouterr().err


def test_a_config_file_holds_every_option(tmp_path):
    config = tiny_config(
        tmp_path / "dogs \"of\" mine \\ é", tmp_path / "mine", breeds=("beagle", "Shih-Tzu"), learning_rate=1.25e-5,
        dropout=0.1, augment="off", mixed_precision="bf16", images_per_breed=7, cache_dir=tmp_path, flip=0.0,
    )  # fmt: skip
    path = tmp_path / "options.toml"
    write_config_file(path, config, ["learning_rate", "dropout"], "found", 30)
    assert path.read_text().startswith("# found\nlearning_rate = 1.25e-05\ndropout = 0.1\n\n")
    preset = TrainConfig.from_options(output_dir=config.run.output_dir, model="other", freeze_backbone=True)
    assert preset.replace(**read_config_file(path)).to_dict() == config.to_dict()
    assert read_tuning_trials(path) == 30


def test_a_run_keeps_how_many_trials_chose_its_options(
    photo_folder, tmp_path, monkeypatch, capsys, tiny_runs_onnx, charts_are_blank
):
    config = tiny_config(photo_folder, tmp_path / "tuned", epochs=1)
    assert script(monkeypatch, config, "--tune", "2") == script(monkeypatch, config, "--tune", "3") == 0
    best = tuning_folder(config.run.output_dir) / BEST
    assert script(monkeypatch, {}, "--config", str(best), "--output-dir", str(config.run.output_dir)) == 0
    assert RunFolder.open(config.run.output_dir).record.tuning_trials == 3
    plain = train(tiny_config(photo_folder, tmp_path / "plain", epochs=1))
    assert json.loads((plain / "run.json").read_text())["tuning_trials"] == 0
    best.write_text(best.read_text().replace("tuning_trials = 3", "tuning_trials = -3"))
    assert script(monkeypatch, {}, "--config", str(best), "--output-dir", str(tmp_path / "third")) == 2
    assert capsys.readouterr().err.endswith("tuning_trials is -3, must be a whole number of trials, 0 or more\n")


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
def test_the_command_line_goes_before_the_file(form, photo_folder, tmp_path, monkeypatch, tiny_runs_onnx):
    (tmp_path / "options.toml").write_text("epochs = 1\nbatch-size = 4\ndropout = 0\n")
    arguments = [word.format(tmp_path / "options.toml") for word in form]
    preset = tiny_config(photo_folder, tmp_path / "run", dropout=0.5)
    assert script(monkeypatch, preset, "--batch-size", "6", *arguments) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [record["config"][name] for name in ("epochs", "batch_size", "dropout")] == [1, 6, 0]


@pytest.mark.parametrize(
    ("lines", "arguments", "expected"),
    [
        ("from_scratch = true", ["--no-freeze-backbone"], {"from_scratch": True, "freeze_backbone": False}),
        ("augmentation = 'ninefold'", ["--augmentation", "mild"], {"fixed_views": 0, "rotation": 20.0, "zoom": 0.15}),
        ("augmentation = 'ninefold'", ["--augmentation", "None", "--augment", "on"], {"rotation": 0.0, "flip": 0.5}),
        ("optimizer = 'ftrl'\nwarmup_fraction = 0", ["--schedule", "constant"], {"weight_decay": 0.0}),
        ("validation_fraction = 0.02\ntest_fraction = 0.92", [], {"test_fraction": 0.92}),
        ("optimizer = 'rmsprop'\nweight_decay = 0.1", ["--optimizer", "adamw"], {"weight_decay": 0.1}),
    ],
)
def test_options_need_to_go_together_only_with_the_command_line(
    lines, arguments, expected, checkpoints, tmp_path, monkeypatch
):
    trained = []
    monkeypatch.setattr("dogbreeds.training.train.train", lambda config, **_: trained.append(config.to_dict()))
    (tmp_path / "options.toml").write_text(lines)
    model = str(checkpoints / "vit_nano")
    preset = TrainConfig.from_options(output_dir=tmp_path / "run", model=model, freeze_backbone=True)
    assert script(monkeypatch, preset, "--config", str(tmp_path / "options.toml"), *arguments) == 0
    assert {name: trained[0][name] for name in expected} == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("learning_rat = 1.0", "has an unknown option 'learning_rat': did you mean learning_rate?"),
        ("tune = 3", "has an unknown option 'tune'"),
        ("learning_rate = 'fast'", "learning_rate is 'fast', must be a number"),
        ("learning_rate = -1.0", "--learning-rate -1.0: must be above 0"),
        ("epochs = 2.5", "epochs is 2.5, must be a whole number"),
        ("epochs = true", "epochs is True, must be a whole number"),
        ("turns = [false]", "turns is [False], must be a list, each 0 or 90 or 180 or 270"),
        ("learning_rate = inf", "learning_rate is inf, must be a number"),
        ("freeze_backbone = 'yes'", "freeze_backbone is 'yes', must be true or false"),
        ("schedule = 'steps'", 'schedule is \'steps\', must be "cosine" or "constant" or "plateau"'),
        ("breeds = 'beagle'", "breeds is 'beagle', must be a list, each a text in quotes"),
        ("images_per_breed = 'few'", "images_per_breed is 'few', must be a whole number"),
        ("[training]", "has an unknown option 'training'"),
        ("epochs: 5", "is no TOML file"),
    ],
)
def test_a_mistake_in_a_config_file_is_told_with_its_name(line, words, tmp_path):
    path = tmp_path / "options.toml"
    path.write_text(line)
    with pytest.raises(UserError) as told:
        read_config_file(path)
    message = str(told.value)
    assert words in message and message.startswith(f"--config {str(path)!r}") and "\n" not in message
