"""`reproduce`: each kind of report is made again, what differs is named, and what is gone is said to be gone."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import BREED_FOLDERS, make_photo, run_cli, scene

from dogbreeds import cli
from dogbreeds.errors import UserError
from dogbreeds.files import read_json, write_json
from dogbreeds.hub import HubId
from dogbreeds.research import layers
from dogbreeds.research.provenance import PROVENANCE, Provenance, pinned
from dogbreeds.research.reproduce import TABLES
from dogbreeds.run_folder import RunFolder

COMMANDS = ("benchmark", "robustness", "layers", "probe")


@pytest.fixture(autouse=True)
def few_photos_in_a_batch(monkeypatch) -> None:
    monkeypatch.setattr(layers, "BATCH_SIZE", 8)


@pytest.fixture(scope="module")
def home(tiny_run, photo_folder, tmp_path_factory, blank_charts) -> Path:
    """A folder in which a report of each kind was made, with paths that are meant from there; not to be changed."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(tiny_run, folder / "runs" / "tiny")
    for label, name in enumerate(BREED_FOLDERS[:2]):
        (folder / "new" / name).mkdir(parents=True)
        for seed in (70, 71):
            make_photo(label, seed).save(folder / "new" / name / f"{seed}.png")
    (folder / "scenes").mkdir()
    for number in range(32):
        scene(number, (40, 36)).save(folder / "scenes" / f"{number}.png")
    asked = {
        "benchmark": ["runs/tiny", "--everyday", "new", "--other-photos", "scenes"],
        "robustness": ["runs/tiny", "--data", "new", "--severities", "2", "--num-photos", "3"],
        "layers": ["vit_nano", "--photos", "scenes", "--num-photos", "32", "--image-size", "32"],
        "probe": ["vit_nano", "--data", str(photo_folder), "--image-size", "32", "--split-seed", "1"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(layers, "BATCH_SIZE", 8)
        for command, arguments in asked.items():
            patch.setattr(sys, "argv", ["dogbreeds", command, *arguments, "--output", f"report-{command}"])
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert stop.value.code == 0
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_report_is_made_again_and_what_differs_is_named(home, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    report = shutil.copytree(home / f"report-{command}", tmp_path / "report")
    kept = read_json(report / PROVENANCE)
    kept["versions"]["numpy"] = "1.0"
    write_json(report / PROVENANCE, kept)
    table = report / f"{command}.csv"
    header, first, *others = csv.reader(table.open(newline=""))
    column = "high" if "high" in header else "top-1"
    before, first[header.index(column)] = first[header.index(column)], "7.5"
    others[0][header.index(column)] = str(float(others[0][header.index(column)]) + 8e-6)  # as of another processor
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([header, first, *others])
    code, said, _ = run_cli(monkeypatch, capsys, "reproduce", report)
    *_, surroundings, change, summary = said.splitlines()
    row = ", ".join(first[header.index(name)] for name in TABLES[table.name])
    assert code == 1 and surroundings.startswith('versions.numpy: then "1.0", now "')
    assert change.partition(", now ")[0] == f"{table.name}, {row}, {column}: then 7.5"
    assert float(change.partition(", now ")[2]) == pytest.approx(float(before), rel=1e-6)
    num_same = int(summary.split(" values are as they were, 1 are not")[0].replace(",", ""))
    assert num_same > (len(header) - len(TABLES[table.name])) * (1 + len(others))


def test_a_row_that_is_there_once_only_and_a_run_that_is_another_are_named(home, tmp_path, monkeypatch, capsys):
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    file = Path("runs/tiny/run.json")
    record = read_json(file)
    record["calibration"]["temperature"] *= 3
    write_json(file, record)
    table = Path("report-robustness/robustness.csv")
    table.write_text("".join(line for line in table.open() if ",blur," not in line))
    code, said, _ = run_cli(monkeypatch, capsys, "reproduce", "report-robustness")
    first, *changes, _ = said.splitlines()
    assert code == 1 and first.startswith("inputs.run folder.runs/tiny: then ")
    assert any(line.startswith("robustness.csv, tiny, blur, 2, top1: then null, now ") for line in changes)
    assert not [line for line in changes if "noise, 2, top1:" in line], "a temperature changes no breed"
    assert any(line.startswith("robustness.csv, tiny, noise, 2, ece: then 0.") for line in changes)


@pytest.mark.parametrize(
    ("gone", "command", "words"),
    [
        ("runs/tiny", "benchmark", "the run folder 'runs/tiny' that the report was made from is gone"),
        ("runs/tiny", "robustness", "the run folder 'runs/tiny' that the report was made from is gone"),
        ("new", "robustness", "the photo folder 'new' that the report was made from is gone"),
        ("scenes", "layers", "the photo folder 'scenes' that the report was made from is gone"),
    ],
)
def test_what_is_gone_is_not_looked_for_on_the_hub(home, gone, command, words, tmp_path, monkeypatch, capsys):
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setattr("dogbreeds.run_folder.download", None)
    shutil.rmtree(gone)
    code, _, error = run_cli(monkeypatch, capsys, "reproduce", f"report-{command}")
    assert code == 2 and error.startswith(f"error: {words}: put it back there; or") and error.count("\n") == 1


def test_a_run_of_the_hub_is_kept_with_its_commit(tiny_run):
    run = RunFolder.open(tiny_run)
    of_hub = replace(run, origin=HubId("someone/vit", "0123abc"))
    assert pinned([run, of_hub], [Path("runs/tiny"), Path("someone/vit")]) == ["runs/tiny", "someone/vit@0123abc"]


@pytest.mark.parametrize("is_old", [False, True])
def test_a_run_of_a_comparison_that_is_gone(is_old, tmp_path, monkeypatch, capsys):
    def unreachable(*_):
        raise UserError("the Hugging Face Hub can't be reached")

    monkeypatch.setattr("dogbreeds.run_folder.download", unreachable)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report").mkdir()
    kept = {"arguments": {"run_dirs": ["runs/vit", "runs/cnn"]}}
    if not is_old:
        kept = Provenance("compare", kept["arguments"], {"run folder": {"runs/vit": "0" * 64}}, {}, "").to_dict()
    write_json(tmp_path / "report" / "comparison.json", kept)
    code, _, error = run_cli(monkeypatch, capsys, "reproduce", "report")
    assert code == 2 and error.startswith("error: the run folder 'runs/vit' that the report was made from is gone")
    assert "Hub" not in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("benchmark.csv", "", "make it anew with `benchmark`"),
        ("robustness.csv", "", "make it anew with `robustness`"),
        ("layers.csv", "", "make it anew with `layers`"),
        ("study.md", "", "make it anew with `study`"),
        ("notes.txt", "", "is no report: there is neither report.json nor comparison.json in it"),
        (
            "report.json",
            json.dumps({"report": "poem", "arguments": {}}),
            "is of the command 'poem', which this version lacks: use a newer one",
        ),
        (
            "report.json",
            json.dumps({"report": "robustness", "inputs": {}, "arguments": {"data": "new"}}),
            "says wrongly how it was made: run_dirs: Missing required argument",
        ),
        (
            "report.json",
            json.dumps({"report": "robustness", "inputs": [], "arguments": {}}),
            "says wrongly how it was made: inputs: Input should be a valid dictionary",
        ),
    ],
)
def test_a_report_that_can_not_be_made_again_is_one_line(file, content, words, tmp_path, monkeypatch, capsys):
    (tmp_path / file).write_text(content)
    code, _, error = run_cli(monkeypatch, capsys, "reproduce", tmp_path)
    assert code == 2 and words in error and error.count("\n") == 1
    code, _, error = run_cli(monkeypatch, capsys, "reproduce", tmp_path / "none")
    assert code == 2 and "none' is no report: it is no folder" in error
