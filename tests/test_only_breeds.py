"""Answers from a list of breeds: `--only-breeds` of `predict` and `index`."""

import csv
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest
from conftest import make_photo, run_cli

from dogbreeds.answers import answers
from dogbreeds.calibration import Calibration, Outputs
from dogbreeds.errors import UserError
from dogbreeds.run_folder import RunFolder
from dogbreeds.serving.library import index_library

LABELS = ("Beagle", "Boxer", "Pug", "Whippet")
CALIBRATION = Calibration(temperature=1.0, not_a_dog_threshold=1.0, confident_threshold=0.8)


def answer(*probabilities: float, listed: tuple[str, ...]):
    outputs = Outputs(np.log([probabilities]))
    return answers(outputs, CALIBRATION, LABELS, listed=np.isin(LABELS, listed))[0]


def test_probabilities_are_shared_by_the_listed_breeds():
    found = answer(0.5, 0.3, 0.15, 0.05, listed=("Beagle", "Pug"))
    assert [each.breed for each in found.breeds] == ["Beagle", "Pug"]
    assert [each.probability for each in found.breeds] == pytest.approx([0.5 / 0.65, 0.15 / 0.65])
    assert found.verdict == "unsure"


def test_an_answer_between_listed_breeds_is_confident_where_it_was_not():
    assert answer(0.6, 0.3, 0.06, 0.04, listed=("Beagle", "Pug")).verdict == "confident"


def test_a_dog_of_another_breed_than_those_listed_is_of_an_unknown_breed():
    found = answer(0.9, 0.05, 0.04, 0.01, listed=("Boxer", "Pug"))
    assert found.verdict == "unknown_breed"
    assert [each.breed for each in found.candidates] == ["Boxer", "Pug"]


def test_what_is_no_dog_is_told_by_all_breeds():
    nothing = (0.3, 0.25, 0.25, 0.2)
    assert answer(*nothing, listed=LABELS).verdict == "not_a_dog"
    assert answer(*nothing, listed=("Beagle", "Pug")).verdict == "not_a_dog"


def test_a_list_of_one_breed_and_one_of_unknown_breeds_are_refused(tiny_run):
    run = RunFolder.open(tiny_run)
    assert run.only(["n02088364-beagle", "chihuahua"]).listed == ("Chihuahua", "Beagle")
    assert run.only(["Beagle", "golden retriever"]) == run.only(["beagle", "Golden Retriever"])
    foreign = replace(run, labels=("my_dog", "n02110958-pug", "other"))
    assert foreign.only(["my_dog", "n02110958-pug"]).listed == ("my_dog", "n02110958-pug")
    with pytest.raises(UserError, match="'Beagle' alone is no choice"):
        run.only(["Beagle", "beagle"])
    with pytest.raises(UserError, match="no breed 'Beegle': did you mean 'Beagle'"):
        run.only(["Beegle", "Chihuahua"])


def test_predict_names_listed_breeds_only(tiny_run, monkeypatch, capsys, tmp_path):
    make_photo(2, 50).save(tmp_path / "beagle.png")
    arguments = ("predict", tmp_path / "beagle.png", "--run-dir", tiny_run, "--only-breeds", "Beagle", "Shih-Tzu")
    status, out, _ = run_cli(monkeypatch, capsys, *arguments, "--json")
    assert status == 0
    breeds = json.loads(out)["breeds"]
    assert [each["breed"] for each in breeds] == ["Beagle", "Shih-Tzu"]
    assert sum(each["probability"] for each in breeds) == pytest.approx(1)
    assert run_cli(monkeypatch, capsys, *arguments[:-1], "Shi-Tzu")[0] == 2


def test_how_many_are_right_is_not_told_of_listed_breeds(tiny_run, monkeypatch, capsys, tmp_path):
    (tmp_path / "photos").mkdir()
    for label in range(4):
        make_photo(label, 50).save(tmp_path / f"photos/{label}.png")
    output = tmp_path / "table.parquet"
    where = (tmp_path / "photos", "--output", output)
    shard = ("index", *where, "--run-dir", tiny_run, "--only-breeds", "Chihuahua", "Shih-Tzu", "Beagle", "--shard")
    for command in ((*shard, "1/2"), (*shard, "2/2"), ("index", "merge", *where)):
        _, out, _ = run_cli(monkeypatch, capsys, *command)
        assert "; how many breeds are right is not told with --only-breeds; the table is " in out
    assert json.loads(pyarrow.parquet.read_schema(output).metadata[b"dogbreeds"])["probably_right"] is None


def test_a_table_of_a_list_is_continued_with_the_same_list_only(tiny_run, tmp_path):
    (tmp_path / "photos").mkdir()
    for label in range(4):
        make_photo(label, 50).save(tmp_path / f"photos/{label}.png")
    options = {"only_breeds": ("Beagle", "Shih-Tzu"), "progress": False}
    index_library(tiny_run, tmp_path / "photos", tmp_path / "table.csv", **options)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["breed"] for row in rows} <= {"Beagle", "Shih-Tzu"} and "breed_3" not in rows[0]
    index_library(tiny_run, tmp_path / "photos", tmp_path / "table.csv", **options)
    for other in ((), ("Beagle", "Chihuahua")):
        with pytest.raises(UserError, match=r"begun with only_breeds \['Shih-Tzu', 'Beagle'\]") as error:
            index_library(tiny_run, tmp_path / "photos", tmp_path / "table.csv", only_breeds=other, progress=False)
        assert "\n" not in str(error.value)
