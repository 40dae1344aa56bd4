"""Options in groups: their ranges, and which of those that were given hold."""

import dataclasses
import json
import shutil
import sys

import pytest

from dogbreeds.errors import UserError
from dogbreeds.files import read_json, write_json
from dogbreeds.training.config_file import read_config_file
from dogbreeds.training.options import GROUPS, OPTIONS, ModelOptions, TrainConfig, recorded_options, resolve
from dogbreeds.training.presets import CNN, VIT
from dogbreeds.training_script import run_training_script

REQUIRED = {"output_dir": "runs/x", "model": "vit_tiny"}


def test_every_option_is_in_one_group_and_explained():
    names = [name for group in GROUPS.values() for name in group.__pydantic_fields__]
    assert names == list(OPTIONS) and len(names) == len(set(names)) == len(
        TrainConfig.from_options(**REQUIRED).to_dict()
    )
    assert all(len(option.description) > 20 and option.description.endswith(".") for option in OPTIONS.values())
    assert {option.group for option in OPTIONS.values()} == {f.name for f in dataclasses.fields(TrainConfig)}


def test_a_config_comes_back_from_json_and_options_of_other_versions_are_left_out():
    config = TrainConfig.from_options(**REQUIRED, breeds=("Pug", "Beagle"), turns=(0, 90), cache_dir="cache", flip=1)
    stored = json.loads(json.dumps(config.to_dict()))
    assert TrainConfig.from_dict({**stored, "of_tomorrow": 1}).to_dict() == config.to_dict()
    assert config.replace(epochs=7).optim.epochs == 7 and config.replace(epochs=7).replace(epochs=5) == config


def test_a_replaced_option_is_as_if_it_had_been_given():
    config = TrainConfig.from_options(**REQUIRED)
    for recipe in ("turns", "mild", None):
        replaced = config.replace(augmentation="strong").replace(augmentation=recipe)
        assert replaced == TrainConfig.from_options(**REQUIRED, augmentation=recipe)
    with pytest.raises(UserError, match="unknown option 'learning_rte'"):
        config.replace(learning_rte=1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"freeze_backbone": True, "layer_decay": 0.5}, "--layer-decay 0.5: a frozen backbone has no rates; add"),
        ({"adapt": "vpt", "layer_decay": 0.5}, "--layer-decay 0.5: prompts are before all layers"),
        ({"adapt": "vpt", "average_with_start": 0.5}, "--average-with-start 0.5: prompts start at random"),
        ({"classifier_epochs": 3}, "--classifier-epochs 3: add --adapt lp-ft, or leave it out"),
        ({"cache": "off", "cache_dir": "there"}, "--cache-dir there: --cache off keeps nothing there"),
    ],
)
def test_an_option_without_effect_is_refused(options, words):
    with pytest.raises(UserError) as error:
        TrainConfig.from_options(**REQUIRED, **options).check_options_apply()
    assert words in str(error.value)


def test_the_seed_of_older_versions_decided_the_split_too(tmp_path):
    (tmp_path / "old.toml").write_text("seed = 3\n")
    assert read_config_file(tmp_path / "old.toml") == {"seed": 3, "split_seed": 3}
    (tmp_path / "new.toml").write_text("seed = 3\nsplit_seed = 1\n")
    assert read_config_file(tmp_path / "new.toml") == {"seed": 3, "split_seed": 1}
    new = TrainConfig.from_options(**REQUIRED, seed=3).to_dict()
    old = {name: value for name, value in new.items() if name not in ("split_seed", "near_duplicates")}
    assert recorded_options(new) == new and new["split_seed"] == 0
    assert recorded_options(old) == {**new, "split_seed": 3, "near_duplicates": "ignore"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "--epochs 0: must be 1 or more"),
        ({"epochs": "x"}, "--epochs x: must be "),
        ({"learning_rate": 0.0}, "--learning-rate 0.0: must be above 0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: must be above 0"),
        ({"flip": 1.5}, "--flip 1.5: must be from 0 to 1"),
        ({"test_fraction": 1.0}, "--test-fraction 1.0: must be from 0 to below 1"),
        ({"validation_fraction": 0.0}, "--validation-fraction 0.0: must be above 0 and below 1"),
        ({"crop_scale": 2.0}, "--crop-scale 2.0: must be above 0 and at most 1"),
        ({"breeds": ("Pug",)}, "--breeds Pug: must be two or more"),
        ({"output_dir": ".."}, "--output-dir ..: must be the name of a folder to make"),
        ({"schedule": "steps"}, "--schedule steps: must be one of cosine, constant, plateau"),
        ({"test_fraction": 0.5, "validation_fraction": 0.5}, "--test-fraction 0.5: must be small enough"),
        ({"validation_fraction": 0.95}, "--validation-fraction 0.95 --test-fraction 0.1: must be small enough"),
        ({"output_dir": "runs/\udce9"}, "must be a name in UTF-8"),
        ({"epoch": 1}, "unknown option 'epoch': did you mean epochs?"),
    ],
)
def test_a_bad_value_is_named_with_its_range(options, words):
    with pytest.raises(UserError) as error:
        TrainConfig.from_options(**{**REQUIRED, **options})
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_missing_model_is_named():
    with pytest.raises(UserError, match="--model is missing"):
        TrainConfig.from_options(output_dir="runs/x")


def test_what_is_typed_beside_a_recipe_is_refused_even_where_it_is_the_default():
    with pytest.raises(UserError, match=r"--rotation 0\.0: --augmentation mild sets it to 20\.0; leave one out"):
        TrainConfig.from_options(**REQUIRED, augmentation="mild", rotation=0.0)


def test_the_command_line_goes_over_a_files_recipe():
    mild = TrainConfig.from_options(**REQUIRED, augmentation="mild").augment
    file = {name: value for name, value in vars(mild).items() if name != "augment"}
    assert resolve(REQUIRED, file).augment == mild
    strong = resolve(REQUIRED, file, {"augmentation": "strong"}).augment
    assert strong == TrainConfig.from_options(**REQUIRED, augmentation="strong").augment and strong.contrast == 0
    assert resolve(REQUIRED, {"augmentation": "mild"}, {"rotation": 0.0}).augment.rotation == 0
    assert resolve(REQUIRED, {"augmentation": "mild"}, {"augmentation": None, "augment": "on"}).augment.rotation == 0
    assert resolve(REQUIRED, {"shear": 5.0}, {"augmentation": "mild"}).augment.shear == 5


def test_the_presets_differ_in_model_and_frozen_backbone_alone():
    vit, cnn = (resolve(preset).to_dict() for preset in (VIT, CNN))
    assert {name for name in vit if vit[name] != cnn[name]} == {"output_dir", "model", "adapt", "freeze_backbone"}
    assert (cnn["adapt"], cnn["freeze_backbone"]) == ("classifier", True)


@pytest.mark.parametrize(
    ("layers", "adapt"),
    [
        ([{}], "full"),
        ([{"freeze_backbone": True}], "classifier"),
        ([{"adapt": "classifier"}], "classifier"),
        ([{"adapt": "classifier", "freeze_backbone": True}], "classifier"),
        ([{"adapt": "lora", "freeze_backbone": False}], "lora"),
        ([CNN, {"adapt": "lora"}], "lora"),
        ([CNN, {"adapt": "full"}], "full"),
        ([CNN, {"freeze_backbone": False}], "full"),
        ([CNN, {"freeze_backbone": False, "adapt": "bitfit"}], "bitfit"),
        ([CNN, {"adapt": "lora"}, {"freeze_backbone": False}], "lora"),
        ([VIT, {"adapt": "lora"}, {"freeze_backbone": True}], "classifier"),
        # of older versions, which wrote both
        ([{"adapt": "all"}], "full"),
        ([CNN, {"adapt": "all"}], "classifier"),
        ([VIT, {"adapt": "all", "freeze_backbone": True}], "classifier"),
        ([CNN, {"adapt": "all", "freeze_backbone": False}], "full"),
    ],
    ids=str,
)
def test_what_is_trained_has_one_meaning_under_both_names(layers, adapt):
    config = resolve(REQUIRED, *layers)
    assert (config.model.adapt, config.model.freeze_backbone) == (adapt, adapt == "classifier")
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))).to_dict() == config.to_dict()
    assert config.replace(adapt="classifier") == config.replace(freeze_backbone=True)
    assert not config.replace(freeze_backbone=False).model.freeze_backbone
    assert ModelOptions(model="x", freeze_backbone=True) == ModelOptions(model="x", adapt="classifier")


@pytest.mark.parametrize("frozen", [False, True])
def test_runs_and_files_of_older_versions_compare_equal(tmp_path, frozen):
    new = TrainConfig.from_options(**REQUIRED, freeze_backbone=frozen).to_dict()
    assert recorded_options({**new, "adapt": "all"}) == new == recorded_options(new)
    assert recorded_options({name: value for name, value in new.items() if name != "adapt"}) == new
    assert TrainConfig.from_dict({**new, "adapt": "all"}).to_dict() == new
    (tmp_path / "best.toml").write_text(f'freeze_backbone = {str(frozen).lower()}\nadapt = "all"\n')
    for preset in (VIT, CNN):
        config = resolve(preset, read_config_file(tmp_path / "best.toml"))
        assert config.model.adapt == ("classifier" if frozen else "full")


def series(monkeypatch, preset, *arguments):
    trained = []
    monkeypatch.setattr(
        "dogbreeds.training.train.train", lambda config, **_: trained.append(config.run.output_dir.name)
    )
    monkeypatch.setattr(sys, "argv", ["train_vit.py", "--seeds", "0,1", *arguments])
    try:
        run_training_script(preset, None)
    except SystemExit as stop:
        return stop.code, trained
    return 0, trained


def with_seed(run, folder, seed):
    """A copy of a run, as if another seed had made it."""
    record = read_json(shutil.copytree(run, folder) / "run.json")
    record["config"]["seed"] = seed
    write_json(folder / "run.json", record)


def test_a_series_that_is_resumed_says_what_is_done_and_takes_no_empty_folder_for_a_run(
    tiny_run, tmp_path, monkeypatch, capsys
):
    preset = {**read_json(tiny_run / "run.json")["config"], "output_dir": tmp_path / "run"}
    with_seed(tiny_run, tmp_path / "run-seed0", 0)
    assert series(monkeypatch, preset, "--resume") == (0, ["run-seed1"])
    assert f"the run '{tmp_path / 'run-seed0'}' is complete" in capsys.readouterr().out
    assert series(monkeypatch, preset, "--resume", "--epochs", "9") == (2, [])
    assert "run-seed0' has another epochs: it was 8, now it is 9; give it as it was" in capsys.readouterr().err
    (tmp_path / "run-seed1").mkdir()
    assert series(monkeypatch, preset, "--resume") == (2, [])
    assert "run-seed1' exists already" in capsys.readouterr().err
    (tmp_path / "run-seed1").rmdir()
    with_seed(tiny_run, tmp_path / "run-seed1", 1)
    assert series(monkeypatch, preset, "--resume") == (0, [])
    assert capsys.readouterr().out.count("is complete") == 2
