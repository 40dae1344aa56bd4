"""The table of the earlier systems: what was published, what ours reached, and a command for every row."""

import csv
import json
import runpy
import shlex
import shutil
import sys
from dataclasses import replace

import pytest
from conftest import ROOT

from dogbreeds import cli
from dogbreeds.breeds import parse_breeds
from dogbreeds.research.tables import HEADER, EarlierRow, earlier_rows, earlier_systems
from dogbreeds.training.models.registry import ARCHITECTURES, CHECKPOINTS
from dogbreeds.training.options import GROUPS

ROWS = tuple(earlier_rows())
BUILT_WITHOUT_WEIGHTS = {
    "lenet5", "cnn1", "cnn3", "cnn3v2", "cnn3v2_tuned", "cnn_32_64_64_64", "my_vgg16", "my_xception", "vit", "vit_tiny",
}  # fmt: skip


@pytest.fixture
def rows(photo_folder):
    """Two rows on the small photos."""
    options = {"model": "vit_nano", "image_size": 32, "epochs": 8, "batch_size": 8}
    options |= {"learning_rate": 3e-3, "head_learning_rate": 3e-3}
    return tuple(EarlierRow("A", name, "0.4", "train_vit.py", options) for name in ("first", "second"))


def with_record(run, copy, **changes):
    """A copy of a run whose run.json says something else."""
    shutil.copytree(run, copy)
    record = json.loads((copy / "run.json").read_text())
    for name, values in changes.items():
        record[name] |= values
    (copy / "run.json").write_text(json.dumps(record))


def test_a_row_is_filled_where_there_is_its_run(rows, tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "first")
    first, second = (dict(zip(HEADER, row, strict=True)) for row in earlier_systems(tmp_path, "my photos", rows).rows)
    record = json.loads((tiny_run / "run.json").read_text())
    assert first["published"] == "0.4" and first["epochs"] == "8"
    assert first["validation top-1"] == f"{record['figures']['validation']['top1']:.1%}"
    assert first["test top-1"] == f"{record['figures']['test']['top1']:.1%}"
    assert first["ms a photo"] == f"{record['milliseconds_per_photo']['median']:.1f}"
    assert first["training, s"] == f"{record['seconds']['training']:,.0f}"
    assert first["parameters"] == f"{record['num_parameters']:,}"
    assert second["validation top-1"] == second["test top-1"] == "not run" and second["epochs"] == ""
    assert second["command"] == (
        f"python train_vit.py --output-dir {tmp_path / 'second'} --data 'my photos' --model vit_nano --image-size 32 "
        "--epochs 8 --batch-size 8 --learning-rate 0.003 --head-learning-rate 0.003"
    )


def test_another_split_and_other_options_are_told(rows, tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "first")
    shutil.copytree(tiny_run, tmp_path / "second")
    assert not earlier_systems(tmp_path, None, rows).remarks
    shutil.rmtree(tmp_path / "second")
    with_record(
        tiny_run,
        tmp_path / "second",
        data={"split_hash": "0" * 64},
        config={"epochs": 3, "model": "a/vit_nano", "grayscale": True, "cache": "off"},
    )
    split, options = earlier_systems(tmp_path, None, rows).remarks
    assert "second had another split of the 4 breeds than first" in split
    assert options == "second was not trained as its command says, but with grayscale True, epochs 3."


def test_a_run_of_an_older_version_was_trained_as_its_command_says(rows, tiny_run, tmp_path):
    with_record(tiny_run, tmp_path / "first", config={"adapt": "all"})
    assert not earlier_systems(tmp_path, None, rows).remarks


def test_a_command_has_the_words_of_an_option_of_several_values(rows, tmp_path):
    row = replace(rows[0], options={"turns": (0, 180), "breeds": ("Pug", "Beagle")})
    assert row.command(tmp_path, None).endswith("--turns 0 180 --breeds Pug,Beagle")


def test_the_table_is_printed_and_written(tiny_run, tmp_path, monkeypatch, capsys):
    runs = tmp_path / "runs"
    shutil.copytree(tiny_run, runs / "lenet5")

    def table(*arguments):
        monkeypatch.setattr(sys, "argv", ["dogbreeds", "table", "--runs", str(runs), *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code

    assert table() == 0
    printed = capsys.readouterr().out
    assert all(f"| {row.name} | `{row.command(runs, None)}` |" in printed for row in ROWS)
    assert "lenet5 was not trained as its command says, but with model 'vit_nano'" in printed
    for ending in ("html", "csv", "md"):
        assert table("--output", str(tmp_path / f"table.{ending}")) == 0
    with (tmp_path / "table.csv").open() as file:
        assert [row["run"] for row in csv.DictReader(file)] == [row.name for row in ROWS]
    page = (tmp_path / "table.html").read_text()
    assert "0.52 on four breeds" in page and "&gt; 93 %" in page and "<script" not in page
    for name, words in (("table.csv", "exists already"), ("table.pdf", "the name must end in .html, .csv, .md")):
        assert table("--output", str(tmp_path / name)) == 2 and words in capsys.readouterr().err
    assert table("--runs", str(tmp_path / "typo")) == 2 and "typo': there is no such folder" in capsys.readouterr().err
    record = json.loads((runs / "lenet5" / "run.json").read_text())
    for missing in ("num_epochs", "config"):
        rest = {name: value for name, value in record.items() if name != missing}
        (runs / "lenet5" / "run.json").write_text(json.dumps(rest))
        assert table() == 2 and f"is damaged: run.json has no '{missing}'" in capsys.readouterr().err


def test_every_system_has_its_rows_with_names_of_their_own():
    assert {row.system for row in ROWS} == {"A", "B", "C", "D", "E", "ours"}
    assert len({row.name for row in ROWS}) == len(ROWS)
    four_breeds = {row.options["breeds"] for row in ROWS if row.system == "C"}
    (names,) = four_breeds
    assert len(parse_breeds(list(names))) == 4 and {breed.name for breed in parse_breeds(list(names))} == set(names)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_command_is_one_that_its_script_understands(row, tmp_path, monkeypatch):
    data = tmp_path / "photos of dogs"
    data.mkdir()
    program, name, *arguments = shlex.split(row.command(tmp_path, str(data)))
    configs = []
    monkeypatch.setattr("dogbreeds.training.train.train", lambda config, **_: configs.append(config))
    monkeypatch.setattr("dogbreeds.training.models.location.ask_hub", lambda model: None)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / name), run_name="__main__")
    config = configs[0]
    assert program == "python" and config.run.output_dir == tmp_path / row.name and config.data.data == str(data)
    values = {
        option: getattr(getattr(config, group), option) for group in GROUPS for option in vars(getattr(config, group))
    }
    assert {option: values[option] for option in row.options} == row.options
    assert row.config(tmp_path).replace(data=str(data)) == config
    # What is built without weights has no backbone to freeze.
    assert not (row.options["model"] in BUILT_WITHOUT_WEIGHTS and config.model.freeze_backbone)


def test_every_model_is_in_its_table():
    models = {row.options["model"] for row in ROWS}
    assert models & BUILT_WITHOUT_WEIGHTS == models & set(ARCHITECTURES)
    assert models <= {*ARCHITECTURES, *CHECKPOINTS, "google/vit-base-patch16-224-in21k", "google/mobilenet_v2_1.0_224"}
