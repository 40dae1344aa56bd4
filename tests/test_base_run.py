"""A run that starts from another one: no photo that the weights were trained on is held out, however long ago."""

import json
import shutil

import pytest
from conftest import BREED_FOLDERS, make_photo, tiny_config
from stand_in_hub import StandInHub, use_hub

from dogbreeds.errors import UserError
from dogbreeds.hub import upload
from dogbreeds.research.probe import probe
from dogbreeds.split_file import SPLITS, TRAINED_BEFORE, load_splits
from dogbreeds.training.base_run import find_base
from dogbreeds.training.context import Context
from dogbreeds.training.datasets.splits import load_data
from dogbreeds.training.train import set_up, train

LEAK = r"trained on photos that are held out here: give the --split-seed \(0\), --near-duplicates \(together\)"
THREE_BREEDS = "Chihuahua,Shih-Tzu,Beagle"


@pytest.fixture(scope="module")
def other_photos(tmp_path_factory):
    """Other photos of the same four breeds."""
    folder = tmp_path_factory.mktemp("other")
    for label, name in enumerate(BREED_FOLDERS):
        (folder / name).mkdir()
        for seed in range(100, 106):
            make_photo(label, seed).save(folder / name / f"{name}_{seed}.png")
    return folder


def test_a_leak_is_seen_though_the_data_are_others(photo_folder, tiny_run, tmp_path):
    """The run was trained on four breeds; three of them are another data set, split in another way."""
    options = {"model": str(tiny_run), "breeds": (THREE_BREEDS,), "split_seed": 1}
    with pytest.raises(UserError, match=LEAK + ".*, and the same --data and --breeds$"):
        train(tiny_config(photo_folder, tmp_path / "run", **options))
    assert not list(tmp_path.iterdir())


def test_a_leak_is_seen_where_features_are_probed(photo_folder, tiny_run):
    remedy = "name a --data with none of its photos, or a backbone that is no run"
    with pytest.raises(UserError, match=f"trained on photos that are held out here: {remedy}$"):
        probe(["vit_nano", str(tiny_run)], str(photo_folder), image_size=32, split_seed=5)


def test_a_leak_is_seen_from_a_run_on_the_hub(photo_folder, tiny_run, tmp_path, monkeypatch):
    with StandInHub() as hub:
        use_hub(hub.address, tmp_path / "cache", monkeypatch)
        upload(tiny_run, "me/tiny", "model", private=False, mark="run.json")
        with pytest.raises(UserError, match=r"the run 'me/tiny' was " + LEAK):
            train(tiny_config(photo_folder, tmp_path / "run", model="me/tiny", split_seed=1))
        config = tiny_config(photo_folder, tmp_path / "run", model="me/tiny")
        context = Context(config.run, config.optim, tmp_path / "logs", quiet=True)
        base = find_base(config, context, load_data(config, progress=False))
    assert base.record.data == json.loads((tiny_run / "run.json").read_text())["data"]["split_hash"]


def test_what_a_run_of_a_run_was_trained_on_is_not_forgotten(
    photo_folder, tiny_run, other_photos, tmp_path, tiny_runs_onnx
):
    second = train(tiny_config(other_photos, tmp_path / "second", model=str(tiny_run), epochs=1, split_seed=5))
    first_splits, splits = load_splits(tiny_run / SPLITS), load_splits(second / SPLITS)
    assert splits[TRAINED_BEFORE] == first_splits["train"] and first_splits["train"].keys().isdisjoint(splits["train"])
    with pytest.raises(UserError, match="trained on photos that are held out here"):
        train(tiny_config(photo_folder, tmp_path / "third", model=str(second), split_seed=1))
    set_up(tiny_config(photo_folder, tmp_path / "third", model=str(second)), saves=False)  # split as the first was


def test_a_run_that_did_not_store_its_split_is_told_by_its_hashes(
    photo_folder, tiny_run, other_photos, tmp_path, capsys, tiny_runs_onnx
):
    old = shutil.copytree(tiny_run, tmp_path / "old")
    (old / SPLITS).unlink()
    with pytest.raises(UserError, match=LEAK):
        train(tiny_config(photo_folder, tmp_path / "run", model=str(old), split_seed=1))
    train(tiny_config(other_photos, tmp_path / "run", model=str(old), epochs=1))
    assert f"note: {str(old)!r} does not say which photos it was trained on" in capsys.readouterr().out
