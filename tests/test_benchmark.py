"""`benchmark`: the same photos for all runs, which none was trained or calibrated on, and what the Hub reads of it."""

import csv
import hashlib
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import BREED_FOLDERS, make_photo, run_cli
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image
from report_files import latex_tables

from dogbreeds.calibration_photos import DIGEST_DIGITS
from dogbreeds.cli import main
from dogbreeds.errors import UserError
from dogbreeds.files import read_json
from dogbreeds.predictions import Predictions
from dogbreeds.research.benchmark import benchmark
from dogbreeds.research.document import to_html
from dogbreeds.research.significance import calibration_error_by_chance
from dogbreeds.run_folder import CALIBRATION_PHOTOS, RECORD
from dogbreeds.split_file import SPLITS, load_splits, save_splits


def digests_of(folder: Path) -> set[str]:
    return {hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*.png")}


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture(scope="module")
def folders(tiny_run, photo_folder, tmp_path_factory) -> Path:
    """everyday/ with 3 new photos of each breed, cats/ and dogs/ with noise, trained/ with some of the training."""
    folder = tmp_path_factory.mktemp("folders")
    trained_on = load_splits(tiny_run / SPLITS)["train"]
    for file in sorted(photo_folder.rglob("*.png")):
        if hashlib.sha256(file.read_bytes()).hexdigest() in trained_on:
            (folder / "trained" / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / "trained" / file.parent.name / "known.png")
    for label, name in enumerate(BREED_FOLDERS):
        (folder / "everyday" / name).mkdir(parents=True)
        for seed in range(3):
            make_photo(label, 700 + seed).save(folder / "everyday" / name / f"{seed}.png")
    for number, kind in enumerate(("cats", "dogs")):
        (folder / kind).mkdir()
        for seed in range(10):
            noise = np.random.default_rng(100 * number + seed).integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(noise).save(folder / kind / f"{seed}.png")
    shutil.copy(folder / "cats" / "0.png", folder / "cats" / "again.png")
    return folder


@pytest.fixture(scope="module")
def runs(tiny_run, folders, tmp_path_factory) -> list[Path]:
    """Two runs, of which the second was calibrated on three of the cats, and on a photo that is in no folder."""
    copy = shutil.copytree(tiny_run, tmp_path_factory.mktemp("runs") / "calibrated")
    fitted = sorted(digests_of(folders / "cats"))[:3]
    lines = [f"{digest[:DIGEST_DIGITS]},other photos,fit" for digest in [*fitted, "0" * 64]]
    lines.append(f"{max(digests_of(folders / 'cats'))[:DIGEST_DIGITS]},other photos,check")
    (copy / CALIBRATION_PHOTOS).write_text("\n".join(["sha256,kind,use", *lines]))
    return [tiny_run, copy]


def options_of(folders: Path) -> list[object]:
    return [
        "--everyday", folders / "everyday", "--other-photos", folders / "cats", "--other-dogs", folders / "dogs",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def written(runs, folders, tmp_path_factory):
    """The folder of a benchmark with everything, and what was printed; not to be changed."""
    folder = tmp_path_factory.mktemp("benchmark")
    known = shutil.copytree(folders, folder / "folders") / "everyday" / BREED_FOLDERS[0] / "known.png"
    shutil.copy(folders / "trained" / BREED_FOLDERS[0] / "known.png", known)
    arguments = [*runs, "--output", folder / "output", *options_of(folder / "folders"), "--dataset-id", "someone/dogs"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr("sys.argv", ["dogbreeds", "benchmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 0
    return folder / "output", printed.getvalue()


def test_every_run_is_judged_on_the_same_photos_that_none_knew(written, runs, folders):
    output, printed = written
    photos = {}
    for row in rows_of(output / "photos.csv"):
        photos.setdefault((row["set"], row["photos"]), []).append((row["sha256"], row["label"]))
    assert [kind for kind, _ in photos] == ["held-out", "everyday", "other_photos", "other_dogs"], "one set of each"
    found = {kind: {digest for digest, _ in rows} for (kind, _), rows in photos.items()}
    assert found["held-out"] == set(load_splits(runs[0] / SPLITS)["test"])
    assert found["everyday"] == digests_of(folders / "everyday"), "and not the photo that was trained on"
    assert found["other_photos"] == set(sorted(digests_of(folders / "cats"))[3:])
    assert found["other_dogs"] == digests_of(folders / "dogs")
    for (_, hashed), rows in photos.items():
        lines = sorted(f"{digest} {label}".strip() for digest, label in rows)
        assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == hashed and hashed[:16] in printed
    assert "Left out is 1 everyday photo that occurs twice, or" in printed
    assert "Left out are 4 photos without a dog that occur twice, or" in printed


def test_the_figures_are_those_of_the_answers(written, runs):
    output, printed = written
    figures = {(row["run"], row["set"], row["figure"]): row for row in rows_of(output / "benchmark.csv")}
    for name in ("tiny", "calibrated"):
        for kind, n in (("held-out", 8), ("everyday", 12)):
            answers = Predictions.load(output / name / f"predictions-{kind}.parquet")
            row = figures[name, kind, "top1"]
            assert len(answers) == n == int(row["n"]) and float(row["value"]) == answers.right.mean()
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    record = read_json(runs[0] / RECORD)["figures"]["test"]
    assert float(figures["tiny", "held-out", "ece"]["value"]) == pytest.approx(record["ece"], abs=1e-3)
    shares = [
        float(figures["tiny", "other_dogs", f"share_{verdict}"]["value"]) for verdict in ("not_a_dog", "confident")
    ]
    assert 0 <= sum(shares) <= 1 and int(figures["tiny", "other_photos", "share_not_a_dog"]["n"]) == 7
    value = figures["tiny", "everyday", "top1"]
    shown = f"{float(value['value']):.1%} ({100 * float(value['low']):.1f}-{100 * float(value['high']):.1f})"
    (row,) = (line for line in printed.splitlines() if line.startswith("| tiny | "))
    record = read_json(runs[0] / RECORD)
    cost = f" {record['num_parameters']:,d} | {record['flops_per_photo'] / 1e9:.2f} |"
    assert cost in row and "| parameters | GFLOPs a photo | ms a photo |" in printed
    assert shown in row and printed == (output / "benchmark.md").read_text()
    assert to_html(printed, {}).count("<table>") == 3, "figures, photos, and what the runs differ in"
    assert (output / "benchmark.html").read_text() == to_html(printed, {})
    table, *others = latex_tables((output / "benchmark.tex").read_text()).values()
    assert [cell.strip() for cell in row.strip("|").split("|")] in table and len(others) == 2
    answers = Predictions.load(output / "tiny" / "predictions-everyday.parquet")
    mean, at_most = calibration_error_by_chance(answers.probabilities.max(axis=1))
    by_chance = figures["tiny", "everyday", "ece_by_chance"]
    assert (float(by_chance["value"]), float(by_chance["high"])) == pytest.approx((mean, at_most), abs=1e-6)
    assert f"| {mean:.1%}, at most {at_most:.1%} |" in row


def test_the_table_alone_is_a_file(runs, tmp_path, monkeypatch, capsys):
    status, printed, _ = run_cli(monkeypatch, capsys, "benchmark", runs[0], "--output", tmp_path / "table.tex")
    assert status == 0 and [path.name for path in tmp_path.iterdir()] == ["table.tex"]
    table, _ = latex_tables((tmp_path / "table.tex").read_text()).values()
    assert table[1][0] == "tiny" and table[1][1] in printed
    status, _, err = run_cli(monkeypatch, capsys, "benchmark", runs[0], "--output", tmp_path / "no" / "table.tex")
    assert status == 2 and "there is no folder" in err and err.count("\n") == 1


def test_the_hub_reads_the_figures(written):
    output = written[0]
    card = ModelCard(f"---\n{(output / 'tiny' / 'model-index.yaml').read_text()}---\n# Mine\n")
    assert card.data.model_name == "tiny"
    told = {(each.dataset_name, each.metric_type): each for each in card.data.eval_results}
    figures = {(row["set"], row["figure"]): row for row in rows_of(output / "benchmark.csv") if row["run"] == "tiny"}
    for name, kind, metric, figure in (
        ("everyday photos", "everyday", "accuracy", "top1"),
        ("photos without a dog", "other_photos", "not_a_dog_rate", "share_not_a_dog"),
        ("photos of dogs of other breeds", "other_dogs", "confident_rate", "share_confident"),
    ):
        result, row = told[name, metric], figures[kind, figure]
        assert result.metric_value == pytest.approx(float(row["value"]), abs=5e-5)
        assert result.metric_args["interval_95"] == pytest.approx([float(row["low"]), float(row["high"])], abs=5e-5)
        assert result.dataset_args == {"num_photos": int(row["n"]), "photos_sha256": row["photos"]}
    own = told["someone/dogs", "accuracy"]
    assert (own.dataset_type, own.dataset_split) == ("someone/dogs", "test"), "as --dataset-id names it"
    (entry,) = parse_eval_result_entries(yaml.safe_load((output / "tiny" / ".eval_results" / "dogs.yaml").read_text()))
    assert (entry.dataset_id, entry.task_id) == ("someone/dogs", "default")
    assert entry.value == pytest.approx(float(figures["held-out", "top1"]["value"]))
    assert figures["held-out", "top1"]["photos"] in entry.notes


def test_a_manifest_holds_the_photos(written, runs, folders, tmp_path, monkeypatch, capsys):
    more, run = shutil.copytree(folders, tmp_path / "folders"), shutil.copytree(runs[0], tmp_path / "run")
    make_photo(0, 999).save(more / "everyday" / BREED_FOLDERS[0] / "more.png")
    arguments = ["benchmark", runs[0], "--output", tmp_path / "output", "--manifest", written[0] / "photos.csv"]
    status, printed, _ = run_cli(monkeypatch, capsys, *arguments, *options_of(more))
    assert status == 0 and "Left out" not in printed
    assert rows_of(tmp_path / "output" / "photos.csv") == rows_of(written[0] / "photos.csv")
    assert not (tmp_path / "output" / "tiny" / ".eval_results").exists(), "the data is a folder here"
    (run / CALIBRATION_PHOTOS).write_text(
        f"sha256,kind,use\n{max(digests_of(more / 'cats'))[:DIGEST_DIGITS]},cats,fit\n"
    )
    found = benchmark([run], other_photos=more / "cats", manifest=written[0] / "photos.csv", progress=False)
    assert "1 of the 7 photos without a dog fitted the calibration of run, which flatters" in found.rows[0].remarks[-1]
    (more / "everyday" / BREED_FOLDERS[0] / "0.png").unlink()
    arguments[3] = tmp_path / "again"
    status, _, err = run_cli(monkeypatch, capsys, *arguments, *options_of(more))
    assert status == 2 and "1 of the 12 everyday photos of the manifest are not in the folder, such as" in err


@pytest.fixture
def other_run(runs, tmp_path) -> Path:
    """A run that held out what the first was trained on, and was trained on three of those that the first held out."""
    run = shutil.copytree(runs[0], tmp_path / "runs" / "other")
    splits = load_splits(run / SPLITS)
    test, train = sorted(splits["test"].items()), sorted(splits["train"].items())
    splits = {**splits, "train": dict(test[:3]), "test": dict(train)}
    save_splits(
        run / SPLITS,
        {split: list(label_of) for split, label_of in splits.items()},
        {split: list(label_of.values()) for split, label_of in splits.items()},
    )
    return run


def test_a_manifest_holds_the_photos_that_were_held_out(written, runs, other_run, tmp_path, monkeypatch, capsys):
    arguments = ["benchmark", other_run, "--manifest", written[0] / "photos.csv", "--output", tmp_path / "output"]
    status, printed, _ = run_cli(monkeypatch, capsys, *arguments)
    assert status == 0
    of_first = [row for row in rows_of(written[0] / "photos.csv") if row["set"] == "held-out"]
    assert rows_of(tmp_path / "output" / "photos.csv") == of_first, "and not those that it held out itself"
    assert "other is judged on the held-out photos of the manifest, which are not those that its own" in printed
    assert "other was trained on 3 of these 8 photos, which flatters it" in printed
    index = yaml.safe_load((tmp_path / "output" / "other" / "model-index.yaml").read_text())
    assert {each["dataset"]["split"] for each in index["model-index"][0]["results"]} == {"held-out"}
    again = benchmark([runs[0]], manifest=written[0] / "photos.csv", progress=False)
    assert again.rows[0].split == "test"


def test_photos_of_a_manifest_that_are_not_in_the_data_are_no_others(written, runs, folders, tmp_path, monkeypatch):
    monkeypatch.setattr("dogbreeds.research.benchmark.evaluate", None)
    words = (
        "does not hold the photos of the manifest, 8 of 8 held-out photos are not in it: name the data .* with --data"
    )
    with pytest.raises(UserError, match=words):
        benchmark([runs[0]], data=str(folders / "everyday"), manifest=written[0] / "photos.csv", progress=False)
    rows = (written[0] / "photos.csv").read_text()
    (tmp_path / "photos.csv").write_text(f"{rows}held-out,{'0' * 64},{'0' * 64},Pug\n")
    with pytest.raises(UserError, match=r"has 2 different sets of held-out photos, .*: keep the rows of one set, such"):
        benchmark([runs[0]], manifest=tmp_path / "photos.csv", progress=False)


def test_a_photo_that_can_not_be_read_is_named(runs, folders, tmp_path, monkeypatch, capsys):
    cats = shutil.copytree(folders / "cats", tmp_path / "cats")
    (cats / "text.png").write_text("no photo")
    arguments = ["benchmark", runs[0], "--output", tmp_path / "output", "--other-photos", cats]
    status, printed, err = run_cli(monkeypatch, capsys, *arguments)
    assert status == 1 and f"left out {cats / 'text.png'}: " in err
    assert "| photos without a dog | 10 |" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["RUN", "RUN"], "is named twice"),
        (["nowhere"], "there is no run folder"),
        (["RUN", "--data", "nowhere"], "there is no data folder 'nowhere': check --data"),
        (["RUN", "--everyday", "nowhere"], "there is no data folder 'nowhere': check --everyday"),
        (["RUN", "--everyday", "CATS"], "holds no labelled photos"),
        (["RUN", "--other-dogs", "nowhere"], "'nowhere' is no folder"),
        (
            ["RUN", "--manifest", "nowhere.csv"],
            "--manifest 'nowhere.csv' can't be read as the photos.csv of a benchmark",
        ),
        (["RUN", "--other-photos", "TRAINED"], "all 4 photos without a dog were used to train or to calibrate"),
        (["RUN", "--dataset-id", "dogs"], "--dataset-id 'dogs': must be USER/NAME"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_judged(
    arguments, words, tiny_run, folders, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("dogbreeds.research.benchmark.evaluate", None)
    known = {"RUN": tiny_run, "CATS": folders / "cats", "TRAINED": folders / "trained"}
    named = [known.get(word, word) for word in arguments]
    status, _, err = run_cli(monkeypatch, capsys, "benchmark", *named, "--output", tmp_path / "output")
    assert status == 2 and words in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_the_folder_that_is_gone_is_named_by_its_own_option(tiny_run):
    with pytest.raises(UserError, match="there is no data folder 'nowhere': check --everyday"):
        benchmark([tiny_run], everyday="nowhere", progress=False)


def test_a_run_without_the_breeds_is_named(tiny_run, tmp_path):
    (tmp_path / "pug").mkdir()
    make_photo(0, 0).save(tmp_path / "pug" / "0.png")
    with pytest.raises(Exception, match="does not know 1 of the breeds in this data, such as 'Pug'"):
        benchmark([tiny_run], everyday=str(tmp_path), progress=False)
