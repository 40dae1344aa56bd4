"""`study`: a plan is checked before anything runs, a stopped study goes on, and its report can be computed again."""

import csv
import re
import shutil
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from conftest import BREED_FOLDERS, ROOT, make_photo, make_photo_folder, run_cli
from report_files import latex_tables, words_of_pdf
from scipy import stats
from transformers import AutoModelForImageClassification

from dogbreeds import metrics
from dogbreeds.errors import UserError
from dogbreeds.metrics import wilson_interval
from dogbreeds.photo_paths import Shard
from dogbreeds.predictions import Predictions
from dogbreeds.research import plots, study
from dogbreeds.research.significance import (
    CrossedDraws,
    SeedVariance,
    holm,
    interval_and_p_value,
    interval_over_seeds,
    p_value_of_draws,
)
from dogbreeds.research.study import run_study
from dogbreeds.research.study_plan import read_plan
from dogbreeds.research.study_report import _figure, read_study, write_study_report
from dogbreeds.training import features
from dogbreeds.training.locks import locked
from dogbreeds.training.loop import Diverged
from dogbreeds.training.save_run import save_answers
from dogbreeds.training.train import finish, fit, set_up

PLAN = """
output_dir = "{folder}/study"
data = "{photos}"
everyday = "{everyday}"
everyday_seen = "no"
train_images_per_breed = [4, 2]
seeds = [0, 1]
image_size = 32
epochs = 1
batch_size = 8
validation_fraction = 0.2
test_fraction = 0.2

[models.CNN]
model = "{cnn}"

[models.ViT]
model = "{vit}"

[ways.new]
models = ["ViT"]
freeze_backbone = true

[ways.known]
models = ["CNN"]
freeze_backbone = true
keep_known_breeds = true
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory, photo_folder, checkpoints) -> dict[str, Path]:
    """A CNN whose labels name the breeds, a ViT whose don't, photos, and others of which some are in the data."""
    folder = tmp_path_factory.mktemp("study")
    names = {index: name.partition("-")[2] for index, name in enumerate(BREED_FOLDERS)}
    cnn = AutoModelForImageClassification.from_pretrained(
        checkpoints / "resnet_nano", num_labels=len(names), id2label=names, ignore_mismatched_sizes=True
    )
    cnn.save_pretrained(folder / "cnn")
    everyday = make_photo_folder(folder / "everyday", num_photos=2, num_breeds=3)
    for label, name in enumerate(BREED_FOLDERS[:3]):
        make_photo(label, 77).save(everyday / name / "other.png")
    return {"photos": photo_folder, "everyday": everyday, "cnn": folder / "cnn", "vit": checkpoints / "vit_nano"}


@pytest.fixture(autouse=True)
def nothing_slow(features_by_torch, monkeypatch) -> None:
    """No test exports a network, or draws what it does not look at."""
    monkeypatch.setattr(plots, "in_format", lambda figure, form: b"")


@pytest.fixture(scope="module")
def studied(places, tmp_path_factory) -> Path:
    """The folder of a plan whose study is complete; not to be changed."""
    folder = tmp_path_factory.mktemp("studied")
    plan = read_plan(write_plan(folder, places))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "encoder", lambda model, normalise, *_: encoder(model, normalise))
        patch.setattr(plots, "in_format", lambda figure, form: b"")
        assert run_study(plan) == ([], [])
        write_study_report(read_study(plan), "COMMAND")
    return folder


draws_of = cache(CrossedDraws)


def encoder(model, normalise):
    import torch

    network = features.FeatureModel(model).eval()
    return torch.no_grad()(lambda pixels: network(normalise(pixels)))


def write_plan(folder: Path, places: dict[str, Path], *replaced: tuple[str, str]) -> Path:
    text = PLAN.format(folder=folder, **places)
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    (folder / "plan.toml").write_text(text)
    return folder / "plan.toml"


def copy_of(studied: Path, folder: Path, places: dict[str, Path], *replaced: tuple[str, str]) -> Path:
    """The plan of a copy of the complete study."""
    shutil.copytree(studied / "study", folder / "study")
    return write_plan(folder, places, *replaced)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def stored(studied: Path, recipe: str, images: int, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each seed the probabilities and labels, from the Parquet files alone."""
    found = []
    for seed in (0, 1):
        cell = studied / "study" / "cells" / recipe / f"{images}-per-breed-seed{seed}"
        columns = pyarrow.parquet.read_table(cell / f"predictions-{split}.parquet").to_pydict()
        breeds = [name for name in columns if name not in ("image_id", "image_sha256", "label")]
        labels = np.array([breeds.index(label) for label in columns["label"]])
        found.append((np.column_stack([columns[breed] for breed in breeds]), labels))
    return found


@pytest.mark.slow
def test_the_tables_can_be_computed_again_from_the_predictions(studied):
    report = studied / "study" / "report"
    text, rows = (report / "study.md").read_text(), rows_of(report / "figures.csv")
    checked = 0
    for split, num in (("test", 8), ("everyday", 3)):  # the photos of the data among the everyday ones are left out
        for recipe, name in (("ViT-new", "ViT, new"), ("CNN-known", "CNN, known")):
            for images in (2, 4):
                each = stored(studied, recipe, images, split)
                assert all(len(labels) == num for _, labels in each)
                right = np.stack([given.argmax(axis=1) == labels for given, labels in each])
                errors = [metrics.expected_calibration_error(*of_seed) for of_seed in each]
                losses = [metrics.log_loss(*of_seed) for of_seed in each]
                for figure, value in (("top1", right.mean()), ("ece", np.mean(errors)), ("log_loss", np.mean(losses))):
                    found = next(
                        row
                        for row in rows
                        if (row["photos"], f"{row['model']}, {row['way']}") == (split, name)
                        and (row["images_per_breed"], row["figure"]) == (str(images), figure)
                    )
                    assert float(found["value"]) == pytest.approx(value, abs=1e-6)
                    assert float(found["low"]) <= value <= float(found["high"])
                    checked += 1
                low, high = interval_over_seeds(right.mean(axis=1), draws_of(2, num).of_mean(right))
                low, high = max(0, low), min(1, high)
                assert f"{100 * right.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})" in text
    assert checked == 2 * 2 * 2 * 3


def test_the_differences_can_be_computed_again(studied):
    rows = [row for row in rows_of(studied / "study" / "report" / "pairs.csv") if row["photos"] == "test"]
    p_values = []
    for row, images in zip(rows, (2, 4), strict=True):
        first, second = (
            stored(studied, name.replace(", ", "-"), images, "test") for name in (row["first"], row["second"])
        )
        gaps = np.stack(
            [
                (mine.argmax(axis=1) == labels).astype(float) - (theirs.argmax(axis=1) == labels)
                for (mine, labels), (theirs, _) in zip(first, second, strict=True)
            ]
        )
        interval, p_value = interval_and_p_value(gaps, SeedVariance.of([gaps], 2))
        assert float(row["top1_difference"]) == pytest.approx(gaps.mean())
        assert (float(row["low"]), float(row["high"])) == pytest.approx(interval)
        assert row["start"] == "new rows against known rows"
        p_values.append(p_value)
    assert [float(row["p_holm"]) for row in rows] == pytest.approx(holm(p_values))


def test_the_report_says_first_what_differs_and_who_has_seen_the_photos(studied):
    text = (studied / "study" / "report" / "study.md").read_text()
    assert text.index("## What differs") < text.index("## Which is better")
    assert "| classifier begins with | new rows | known rows |" in text
    assert "| test photos seen by the backbone | not known | yes |" in text
    assert "| everyday photos seen by the backbone | no | no |" in text and "CNN, known (seen)" in text
    pictures = {file.name for file in (studied / "study" / "report" / "pictures").iterdir()}
    assert {"top1-test.png", "top1-everyday.png", "seconds-test.png", "ece-test.png"} <= pictures
    assert (studied / "study" / "report" / "study.html").read_text().count("data:image/png") == 8
    assert pictures == {f"{name.partition('.')[0]}.{form}" for name in pictures for form in ("png", "svg", "pdf")}
    differing, best, *_ = latex_tables((studied / "study" / "report" / "study.tex").read_text()).values()
    assert ["classifier begins with", "new rows", "known rows"] in differing and best[0][1] == "best"


def test_a_picture_has_every_run_and_names_that_can_be_searched(monkeypatch):
    monkeypatch.undo()
    line = plots.Curve("CNN, new (seen)", x=[5, 20], y=[50, 70], low=[40, 65], high=[60, 75], runs=[(5, 45), (5, 55)])
    figure = plots.curves([line], "images per breed", "top-1, %")
    assert b"CNN, new (seen)" in plots.in_format(figure, "svg") == plots.in_format(figure, "svg")
    assert plots.in_format(figure, "pdf").startswith(b"%PDF")
    assert {"CNN, new (seen)", "images per breed", "top-1, %"} <= set(words_of_pdf(plots.in_format(figure, "pdf")))
    (points,) = (each for each in figure.axes[0].collections if len(each.get_offsets()) == 2)
    assert points.get_offsets()[:, 1].tolist() == [45, 55]


def test_crossed_draws_have_the_spread_of_seeds_and_of_photos():
    rng = np.random.default_rng(0)
    seeds, photos = rng.normal(0, 0.3, 5), rng.normal(0, 1, 60)
    values = seeds[:, None] + photos
    draws = CrossedDraws(5, 60).of_mean(values)
    assert draws.mean() == pytest.approx(values.mean(), abs=0.01)
    assert draws.std() == pytest.approx(np.sqrt(seeds.var() / 5 + photos.var() / 60), rel=0.03)
    assert CrossedDraws(1, 60).of_mean(values[:1]).std() == pytest.approx(photos.std() / np.sqrt(60), rel=0.03)
    assert p_value_of_draws(0 * draws) == 1
    normal = draws.std() * rng.normal(size=10_000)
    for distance in (1, 2, 3, 8):  # the last is beyond what draws can count
        p_value = p_value_of_draws(normal + distance * draws.std())
        assert p_value == pytest.approx(2 * stats.norm.sf(distance), rel=0.3 if distance == 3 else 0.1)


def test_draws_are_exact():
    draws = CrossedDraws(3, 1200)
    assert (draws.of_mean(np.ones((3, 1200), dtype=bool)) == 1).all()
    gaps = np.zeros((3, 1200))
    gaps[:, 0], gaps[:, 1] = 1, -1  # as often right: many draws are exactly even
    found = draws.of_mean(gaps)
    np.testing.assert_array_equal(found * 3600, np.round(found * 3600))
    half = np.full((3, 1200), 0.5)
    assert (draws.of_calibration_error(half, half > 0) == 0.5).all()


def test_the_figure_of_a_recipe_that_is_always_right_can_be_drawn():
    right = np.ones((3, 1200), dtype=bool)
    figure = _figure([1.0] * 3, CrossedDraws(3, 1200).of_mean(right), right=right)
    assert (figure.low, figure.value, figure.high) == (pytest.approx(wilson_interval(1200, 1200)[0]), 1, 1)
    nearly = _figure([1.0, 1.0, 0.99], CrossedDraws(3, 100).of_mean(np.arange(300).reshape(3, 100) > 0))
    assert nearly.low < nearly.value < nearly.high == 1


@pytest.mark.parametrize(
    ("num_seeds", "of_seeds", "of_each", "most"),
    [
        (1, 0, 0, 0.08),
        (3, 0, 0, 0.08),
        (3, 0.01, 1, 0.08),
        (3, 1, 0.5, 0.11),  # how much seeds differ is hard to tell from three: of draws of both alone it is 0.27
        (5, 1, 0.5, 0.08),  # 0.14
    ],
    ids=["one seed", "seeds are alike", "photos matter most", "three seeds differ", "five seeds differ"],
)
def test_no_difference_is_seldom_called_one(num_seeds, of_seeds, of_each, most):
    rng = np.random.default_rng(0)
    num, found = 400, 0
    for _ in range(num):
        gaps = rng.normal(0, of_seeds, (num_seeds, 1)) + rng.normal(size=100) if of_seeds else rng.normal(size=100)
        gaps = gaps + rng.normal(0, of_each, (num_seeds, 100))
        (low, high), p_value = interval_and_p_value(gaps, SeedVariance.of([gaps], 2))
        found += p_value < 0.05
        assert (p_value < 0.05) == (not low <= 0 <= high)
    assert 0.02 <= found / num <= most  # 0.05, of 400 with a standard deviation of 0.011


@pytest.mark.slow
@pytest.mark.parametrize("of_seeds", [0, 0.5, 2], ids=["seeds are alike", "both matter", "seeds matter most"])
def test_of_many_equal_recipes_none_is_often_called_better(of_seeds):
    """The share of studies with a false alarm; by each pair's own seeds it is up to 0.31."""
    rng, num, alarms = np.random.default_rng(0), 200, 0
    for _ in range(num):
        values = rng.normal(size=(8, 1, 100)) + rng.normal(0, 0.7, (8, 3, 100))
        values = values + rng.normal(0, of_seeds, (8, 3, 1)) * (3 / 100) ** 0.5
        gaps = [first - second for first, second in combinations(values, 2)]
        seeds = SeedVariance.of(gaps, 8)
        assert seeds.freedom == 7 * 2
        alarms += min(holm([interval_and_p_value(each, seeds)[1] for each in gaps])) < 0.05
    assert alarms / num <= 0.1  # 0.05 with a standard deviation of 0.015


def test_the_variances_of_seeds_and_photos_are_those_of_two_way_effects():
    rng = np.random.default_rng(0)
    gaps = rng.normal(0, 0.3, (5, 1)) + rng.normal(size=400) + rng.normal(0, 2, (5, 400))
    (low, high), _ = interval_and_p_value(gaps, SeedVariance.of([gaps], 2))
    expected = (0.3**2 + 2**2 / 400) / 5 + 1 / 400
    seeds = np.var(gaps.mean(axis=1), ddof=1) / 5
    freedom = 4 * (expected / seeds) ** 2
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, freedom) * expected**0.5, rel=0.35)
    assert (low + high) / 2 == pytest.approx(gaps.mean())


def test_a_recipe_without_a_common_seed_is_not_shown_to_be_worse(studied, tmp_path, places):
    plan = read_plan(copy_of(studied, tmp_path, places))
    for cell in plan.cells:
        if cell.images_per_breed == 4 and cell.seed != (cell.recipe.model == "CNN"):
            shutil.rmtree(cell.config.run.output_dir)
    judged = read_study(plan).judged[0]
    assert [pair.images_per_breed for pair in judged.pairs] == [2]
    best, even = judged.leaders(4)
    assert {best.recipe.name, *even} == {"ViT, new", "CNN, known"}


def test_a_cell_is_the_run_that_the_training_script_makes(studied, tmp_path):
    plan = read_plan(studied / "plan.toml")
    cell = next(cell for cell in plan.cells if str(cell) == "CNN, known, 2 images per breed, seed 1")
    run = set_up(cell.config.replace(output_dir=tmp_path / "run"), quiet=True)
    assert len(run.splits.train) == 2 * 4
    fit(run)
    finish(run, save_answers)
    found = [
        Predictions.load(folder / "predictions-test.parquet")
        for folder in (tmp_path / "run", cell.config.run.output_dir)
    ]
    assert found[0].digests == found[1].digests
    assert np.allclose(found[0].probabilities, found[1].probabilities, atol=1e-6)


@pytest.mark.slow
def test_a_stopped_study_goes_on(studied, places, tmp_path, monkeypatch, capsys):
    file = copy_of(studied, tmp_path, places)
    plan = read_plan(file)
    missing = plan.cells[1], plan.cells[6], plan.cells[7]
    expected = [(cell.config.run.output_dir / "predictions-test.parquet").read_bytes() for cell in missing]
    for cell in missing:
        shutil.rmtree(cell.config.run.output_dir)
    trained = []

    def stop_in_the_second(run, save):
        trained.append(run.config.run.output_dir)
        if len(trained) == 2:
            raise KeyboardInterrupt
        finish(run, save)

    monkeypatch.setattr(study, "finish", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_study(plan)
    assert (missing[1].config.run.output_dir.with_name("4-per-breed-seed1.partial")).is_dir()
    status, out, _ = run_cli(monkeypatch, capsys, "study", file)
    assert status == 0 and "8 cells: 6 are trained, 2 are left" in out and "report" in out.splitlines()[-1]
    assert trained == [cell.config.run.output_dir for cell in (*missing[:2], *missing[1:])]
    assert [(cell.config.run.output_dir / "predictions-test.parquet").read_bytes() for cell in missing] == expected


@pytest.mark.slow
def test_two_processes_and_shards_do_not_train_a_cell_twice(studied, places, tmp_path, monkeypatch, capsys):
    file = copy_of(studied, tmp_path, places)
    plan = read_plan(file)
    ours, theirs = (next(cell for cell in plan.cells if cell.name in Shard(number, 2)) for number in (1, 2))
    for cell in (ours, theirs):
        shutil.rmtree(cell.config.run.output_dir)
    with locked(ours.config.run.output_dir):
        status, out, _ = run_cli(monkeypatch, capsys, "study", file, "--shard", "1/2")
    assert status == 0 and "another process has it" in out and "2 cells are left to other shards" in out
    assert not any(cell.config.run.output_dir.exists() for cell in (ours, theirs))
    status, out, _ = run_cli(monkeypatch, capsys, "study", file, "--shard", "1/2")
    assert ours.config.run.output_dir.exists() and not theirs.config.run.output_dir.exists()
    assert "1 cells are left to other shards" in out
    _, out, _ = run_cli(monkeypatch, capsys, "study", file, "--report-only")
    assert "**7 of 8 cells are trained so far.**" in (tmp_path / "study" / "report" / "study.md").read_text()


@pytest.mark.slow
def test_the_last_process_writes_the_report_though_another_one_gave_up_a_cell(
    studied, places, tmp_path, monkeypatch, capsys
):
    file = copy_of(studied, tmp_path, places)
    plan = read_plan(file)
    ours, theirs = (next(cell for cell in plan.cells if cell.name in Shard(number, 2)) for number in (1, 2))
    for cell in (ours, theirs):
        shutil.rmtree(cell.config.run.output_dir)

    def diverge(run):
        raise Diverged("the loss is nan")

    with monkeypatch.context() as patch:
        patch.setattr(study, "fit", diverge)
        status, out, err = run_cli(patch, capsys, "study", file, "--shard", "1/2")
    assert status == 1 and "the loss is nan" in err and "1 cells are left to other shards" in out
    status, out, _ = run_cli(monkeypatch, capsys, "study", file, "--shard", "2/2")
    assert status == 1 and "report" in out.splitlines()[-1]
    assert "**7 of 8 cells are trained so far.**" in (tmp_path / "study" / "report" / "study.md").read_text()
    status, out, _ = run_cli(monkeypatch, capsys, "study", file)
    assert status == 0 and "8 cells: 7 are trained, 1 are left" in out, "it is tried again"


NEW, KNOWN = '[ways.new]\nmodels = ["ViT"]', '[ways.known]\nmodels = ["CNN"]'


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (("epochs", "epoch"), "unknown option 'epoch': did you mean epochs?"),
        (("epochs = 1", 'epochs = "1"'), "epochs is '1', must be a whole number"),
        (("seeds = [0, 1]", "seeds = [0, 0]"), "seeds is [0, 0], must be a list of whole numbers from 0, each once"),
        (("seeds = [0, 1]\n", ""), "seeds is missing, must be a list of whole numbers"),
        (("[4, 2]", "[]"), "train_images_per_breed is [], must be a list of whole numbers"),
        (("[4, 2]", "[4, 0]"), "train_images_per_breed is [0, 4], must be from 1 on"),
        (('models = ["ViT"]', 'models = ["Vit"]'), "the way 'new' is for the models ['Vit']: name some of CNN, ViT"),
        (
            (NEW, NEW + "\nlayer_decay = 0.7"),
            "'ViT' with the way 'new': --layer-decay 0.7: a frozen backbone",
        ),
        ((NEW, NEW + "\nimage_size = 16"), "the way 'new': --image-size 16: must be 32 or more"),
        ((NEW, NEW + '\nmodel = "vit"'), "the model 'ViT' and the way 'new' both set model: leave it out of one"),
        ((NEW, NEW + "\nseed = 3"), "the way 'new' sets seed, which can't be set there: leave it out"),
        (
            (NEW, NEW + '\ndata = "other"'),
            "sets data, which can't be set there: give it above all tables",
        ),
        (("output_dir", "# output_dir"), 'output_dir is missing: add a line such as output_dir = "runs/study"'),
        (("[models.CNN]\nmodel", "[models.CNN]\nepochs = 2\n#"), "the model 'CNN' names no model"),
        (("photos0", "nowhere"), "there is no data folder"),
        (('\ndata = "', '\ndata = "/nowhere'), "check data in the plan "),
        (("/everyday", "/gone"), "gone': check everyday in the plan "),
        (("vit_nano", "vit_nanu"), "vit_nanu' is no folder here, and no id of the Hugging Face Hub"),
    ],
)
def test_a_plan_with_a_mistake_is_refused_before_anything_runs(places, tmp_path, replaced, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_plan(write_plan(tmp_path, places, replaced))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (("[4, 2]", "[4, 7]"), "the plan asks for 7 training images per breed, and no breed has more than 6: .* 6$"),
        (
            ("[4, 2]", "[4, 2]\nimages_per_breed = 5"),
            r"no breed has more than 3: give at most 3, or raise images_per_breed \(5\), which counts",
        ),
        (("[4, 2]", "[4, 7]\nimages_per_breed = 99"), "no breed has more than 6: give at most 6$"),
        (
            (KNOWN, "[ways.known]"),
            "'ViT' can't be trained in the way 'known': .* has no classifier that knows any.*; or name the models",
        ),
    ],
)
def test_an_impossible_cell_is_refused_before_any_is_trained(places, tmp_path, replaced, message):
    plan = read_plan(write_plan(tmp_path, places, replaced))
    with pytest.raises(UserError, match=message):
        run_study(plan)
    assert not (tmp_path / "study").exists()


def test_a_model_that_is_not_there_is_told_before_photos_are_read(places, tmp_path, monkeypatch):
    monkeypatch.setattr("dogbreeds.research.study.load_data", lambda *_, **__: pytest.fail("photos are read"))
    plan = read_plan(write_plan(tmp_path, places, (str(places["vit"]), "vit_nanu")))
    words = r"'ViT' can't be trained in the way 'new': the model .* is no folder here, .*: did you mean '\w+'\?$"
    with pytest.raises(UserError, match=words):  # and not to name another model for the way
        run_study(plan)
    assert not (tmp_path / "study").exists()


def test_what_the_folder_holds_must_be_of_the_plan(studied, places, tmp_path, monkeypatch, capsys):
    file = copy_of(studied, tmp_path, places, ("epochs = 1", "epochs = 2"))
    status, _, error = run_cli(monkeypatch, capsys, "study", file)
    assert status == 2 and "has another epochs: it was 1, in the plan it is 2" in error
    cell = read_plan(write_plan(tmp_path, places)).cells[0].config.run.output_dir
    (cell / "predictions-everyday.parquet").unlink()
    status, _, error = run_cli(monkeypatch, capsys, "study", file, "--report-only")
    assert status == 2 and "predictions-everyday.parquet" in error and "run the study again" in error
    shutil.rmtree(tmp_path / "study" / "cells")
    status, _, error = run_cli(monkeypatch, capsys, "study", file, "--report-only")
    assert status == 2 and "is trained yet" in error


def test_a_report_is_made_again_from_the_predictions_alone(studied, places, tmp_path, monkeypatch, capsys):
    file = copy_of(studied, tmp_path, places)
    report = write_study_report(read_study(read_plan(file)), "COMMAND")
    assert (report / "plan.toml").read_text() == file.read_text()
    rows = rows_of(report / "figures.csv")
    assert rows[0]["figure"] == "top1"
    first, *others = rows[0]["of_seeds"].split()
    table = (report / "figures.csv").read_text()
    (report / "figures.csv").write_text(table.replace(rows[0]["of_seeds"], " ".join(["5.0", *others]), 1))
    file.write_text("")  # what was asked for is in the report
    monkeypatch.setattr("dogbreeds.research.study_plan.check_is_there", None)  # and no photo is needed
    before = (report / "study.md").stat().st_mtime_ns
    status, said, _ = run_cli(monkeypatch, capsys, "reproduce", report)
    about, change, summary = said.splitlines()
    assert status == 1 and "no run was trained again" in about and " as they were, 1 are not" in summary
    row = ", ".join(rows[0][name] for name in ("photos", "model", "way", "images_per_breed", "figure"))
    assert change == f"figures.csv, {row}, of_seeds.0: then 5.0, now {float(first)}"
    assert (report / "study.md").stat().st_mtime_ns == before
    cell = tmp_path / "study" / "cells" / "CNN-known" / "2-per-breed-seed0"
    shutil.rmtree(cell)
    status, _, error = run_cli(monkeypatch, capsys, "reproduce", report)
    assert status == 2 and f"the run folder {str(cell)!r} that the report was made from is gone" in error


def test_the_plans_of_the_docs_can_be_read(tmp_path, monkeypatch):
    for folder in ("data/stanford-dogs-224", "data/pets/dogs", "data/natural-dogs"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name, num_recipes in {"study": 5, "memory": 4, "adapting": 13}.items():
        plan = read_plan(ROOT / f"dogbreeds/docs/{name}.toml")
        assert len(plan.recipes) == num_recipes
        assert len(plan.cells) == num_recipes * len(plan.images_per_breed) * len(plan.seeds)
