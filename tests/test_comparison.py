"""Several runs compared: the figures against other people's code, and the report in a real browser."""

import hashlib
import json
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
from conftest import ROOT, copy_without_outputs, make_photo, run_cli, tiny_config
from report_files import check_pictures, latex_tables
from scipy import stats
from sklearn import metrics as reference
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from dogbreeds import cli, latency
from dogbreeds.errors import UserError
from dogbreeds.files import write_json
from dogbreeds.metrics import wilson_interval
from dogbreeds.predictions import Predictions
from dogbreeds.research import compare as compare_module
from dogbreeds.research import plots
from dogbreeds.research.compare import compare, order_by_similarity
from dogbreeds.research.evaluate import photos_of
from dogbreeds.research.report import write_report
from dogbreeds.research.what_differs import tuning_budget, what_differs
from dogbreeds.run_folder import SHIPPED_RUNS, RunFolder
from dogbreeds.serving.predictor import Predictor
from dogbreeds.split_file import SPLITS, load_splits, save_splits
from dogbreeds.training.breed_metrics import compute_figures
from dogbreeds.training.datasets.splits import load_data
from dogbreeds.training.options import TrainConfig

NUM_PHOTOS = 300


def invented(names, skill, seed=0, photos=0):
    """Predictions of a model of some skill on photos that do not exist: the same photos for the same `photos`."""
    truth, rng = np.random.default_rng(photos), np.random.default_rng(seed)
    labels = truth.integers(0, len(names), NUM_PHOTOS)
    difficulty = truth.normal(0, 1.5, (NUM_PHOTOS, len(names)))  # shared by all models, as with real photos
    logits = difficulty + rng.normal(0, 1, (NUM_PHOTOS, len(names)))
    logits[np.arange(NUM_PHOTOS), labels] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = [f"{photos}/{index}" for index in range(NUM_PHOTOS)]
    digests = [hashlib.sha256(id_.encode()).hexdigest() for id_ in ids]
    return Predictions(tuple(ids), tuple(digests), labels, names, probabilities)


def run_like(run, folder, predictions, split="test", **config):
    """A copy of a run with other predictions and options."""
    shutil.copytree(run, folder)
    for file in folder.glob("predictions-*.parquet"):
        file.unlink()
    predictions.save(folder / f"predictions-{split}.parquet")
    record = json.loads((folder / "run.json").read_text())
    record["config"] |= config
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_photos_are_timed():
    """Instead of 50, which take longer than the figures."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (latency, compare_module):
            patch.setattr(module, "NUM_PHOTOS", 4)
        yield


@pytest.fixture(scope="module")
def names(tiny_run):
    return RunFolder.open(tiny_run).labels


@pytest.fixture(scope="module")
def three_runs(tiny_run, names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    return [
        run_like(tiny_run, folder / name, invented(names, skill, seed), model=name)
        for seed, (name, skill) in enumerate({"strong": 2.5, "weak": 1.2, "middle": 2.0}.items(), 1)
    ]


@pytest.fixture(scope="module")
def comparison(three_runs):
    return compare(three_runs, show_photos=False, progress=False).to_dict()


def read(run):
    """A run's predictions, without this project's code."""
    table = pyarrow.parquet.read_table(run / "predictions-test.parquet").to_pydict()
    labels = table.pop("label")
    table.pop("image_id"), table.pop("image_sha256")
    probabilities = np.array(list(table.values()), dtype=np.float64).T
    return np.array([list(table).index(label) for label in labels]), probabilities


def test_every_figure_agrees_with_other_code(three_runs, comparison):
    temperature = json.loads((three_runs[0] / "run.json").read_text())["calibration"]["temperature"]
    for run in three_runs:
        figures = comparison["groups"][0]["runs"][run.name]["figures"]
        labels, probabilities = read(run)
        raw = probabilities**temperature / (probabilities**temperature).sum(axis=1, keepdims=True)
        predicted = probabilities.argmax(axis=1)
        right = (predicted == labels).sum()
        precision, recall, f1, _ = reference.precision_recall_fscore_support(labels, predicted, average="macro")
        low, high = proportion_confint(right, NUM_PHOTOS, method="wilson")
        expected = {
            "n": NUM_PHOTOS,
            "top1": reference.accuracy_score(labels, predicted),
            "top1_low": low,
            "top1_high": high,
            "top3": reference.top_k_accuracy_score(labels, probabilities, k=3),
            "top5": 1.0,  # of four breeds
            "macro_precision": precision,
            "macro_recall": recall,
            "macro_f1": f1,
            "cross_entropy": reference.log_loss(labels, raw),
            "log_loss": reference.log_loss(labels, probabilities),
            "ece": calibration_error(labels, probabilities),
            "ece_uncalibrated": calibration_error(labels, raw),
            "brier": ((probabilities - np.eye(4)[labels]) ** 2).sum(axis=1).mean(),
            "brier_uncalibrated": ((raw - np.eye(4)[labels]) ** 2).sum(axis=1).mean(),
        }
        assert figures == pytest.approx(expected, abs=1e-5)


def calibration_error(labels, probabilities):
    """By scipy's binning."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = {"bins": 15, "range": (0, 1)}
    n = stats.binned_statistic(confidence, right, "count", **bins).statistic
    gap = stats.binned_statistic(confidence, right - confidence, "sum", **bins).statistic
    assert n.sum() == len(labels)
    return np.abs(gap).sum() / len(labels)


def test_each_breed_agrees_with_other_code(three_runs, comparison, names):
    labels, probabilities = read(three_runs[1])
    predicted = probabilities.argmax(axis=1)
    counts = reference.confusion_matrix(labels, predicted)
    precision, recall, _, n = reference.precision_recall_fscore_support(labels, predicted)
    for label, breed in enumerate(comparison["groups"][0]["runs"]["weak"]["breeds"]):
        assert breed["breed"] == names[label] and breed["n"] == n[label]
        assert (breed["recall"], breed["precision"]) == pytest.approx((recall[label], precision[label]))
        own = probabilities[labels == label]
        assert breed["mean_probability"] == pytest.approx(own[:, label].mean(), abs=1e-6)
        for other in breed["mistaken_for"]:
            index = names.index(other["breed"])
            assert other["count"] == counts[label, index]
            assert other["mean_probability"] == pytest.approx(own[:, index].mean(), abs=1e-6)
        assert [other["count"] for other in breed["mistaken_for"]] == sorted(np.delete(counts[label], label))[::-1][:3]


def test_differences_agree_with_other_code(three_runs, comparison):
    answers = {run.name: read(run) for run in three_runs}
    pairs = comparison["groups"][0]["pairs"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [
        ("strong", "weak"), ("strong", "middle"), ("weak", "middle")
    ]  # fmt: skip
    for pair in pairs:
        (labels, one), (_, other) = answers[pair["first"]], answers[pair["second"]]
        first, second = one.argmax(1), other.argmax(1)
        table = [
            [pair["both_right"], pair["only_first_right"]],
            [pair["only_second_right"], pair["both_wrong"]],
        ]
        np.testing.assert_array_equal(
            table, reference.confusion_matrix(first != labels, second != labels, labels=[False, True])
        )
        assert pair["p_value"] == pytest.approx(mcnemar(table, exact=True).pvalue)
        drawn = np.random.default_rng(1).integers(0, len(labels), (300, len(labels)))
        of_errors = first == labels, second == labels
        for name, answers_of_both in {"kappa": (first, second), "error_consistency": of_errors}.items():
            assert pair[name] == pytest.approx(reference.cohen_kappa_score(*answers_of_both))
            kappas = [reference.cohen_kappa_score(*(each[photos] for each in answers_of_both)) for photos in drawn]
            assert pair[f"{name}_interval"] == pytest.approx(np.quantile(kappas, [0.025, 0.975]), abs=0.02)
        assert pair["same_answer"] == pytest.approx((first == second).mean())
        difference = (first == labels).astype(float) - (second == labels)
        assert pair["top1_difference"] == pytest.approx(difference.mean())
        # With 300 photos the bootstrap's percentiles are close to those of the normal distribution.
        normal = stats.norm.interval(0.95, difference.mean(), difference.std() / len(difference) ** 0.5)
        assert pair["top1_interval"] == pytest.approx(normal, abs=0.006)
        loss = reference.log_loss(labels, one) - reference.log_loss(labels, other)
        assert pair["log_loss_difference"] == pytest.approx(loss, abs=1e-6)
        rows = np.arange(len(labels))
        by_photo = np.log(other[rows, labels]) - np.log(one[rows, labels])
        normal = stats.norm.interval(0.95, by_photo.mean(), by_photo.std() / len(by_photo) ** 0.5)
        assert pair["log_loss_interval"] == pytest.approx(normal, abs=0.015)
    adjusted = multipletests([pair["p_value"] for pair in pairs], method="holm")[1]
    assert [pair["p_value_adjusted"] for pair in pairs] == pytest.approx(list(adjusted))
    assert pairs[0]["p_value_adjusted"] < 0.05


def test_runs_that_differ_in_the_seed_are_one_recipe(tiny_run, names, tmp_path, charts_are_blank):
    runs = [
        run_like(
            tiny_run, tmp_path / f"{name}-seed{seed}", invented(names, skill, seed, photos=seed), seed=seed, model=name
        )
        for name, skill in (("vit", 2.5), ("cnn", 1.5))
        for seed in (0, 1, 2)
    ]
    comparison = compare([runs[i] for i in (0, 5, 1, 3, 2, 4)], show_photos=False, progress=False)
    assert [[entry.name for entry in group.entries] for group in comparison.groups] == [
        [f"vit-seed{seed}", f"cnn-seed{seed}"] for seed in (0, 1, 2)
    ]
    assert [entry.recipe for entry in comparison.main.entries] == ["vit", "cnn"]
    accuracies = [reference.accuracy_score(labels, p.argmax(1)) for labels, p in map(read, runs[:3])]
    theirs = [reference.accuracy_score(labels, p.argmax(1)) for labels, p in map(read, runs[3:])]
    assert comparison.over_seeds("vit")["top1"] == pytest.approx((np.mean(accuracies), np.std(accuracies, ddof=1)))
    gaps = np.subtract(accuracies, theirs)
    assert comparison.differences("vit", "cnn") == pytest.approx(list(gaps))
    write_report(comparison, tmp_path / "report")
    page = (tmp_path / "report" / "comparison.html").read_text()
    assert (gaps > 0).all()
    gap = f"{100 * gaps.mean():.1f} points (standard deviation {100 * gaps.std(ddof=1):.1f})"
    verdict = f"Over 3 seeds vit is right more often than cnn by {gap}, with 3 of 3 seeds."
    assert verdict in page
    text = (tmp_path / "report" / "comparison.md").read_text()
    assert text.index("## What differs") < text.index("| model | vit | cnn |") < text.index("Over 3 seeds")


def test_what_two_recipes_differ_in_is_named(tiny_run, names, tmp_path, monkeypatch, capsys):
    record = json.loads((tiny_run / "run.json").read_text())
    options = {"keep_known_breeds": True, "freeze_backbone": True, "label_smoothing": 0.1, "num_workers": 9}
    one = run_like(tiny_run, tmp_path / "one", invented(names, 2))
    two = run_like(tiny_run, tmp_path / "two", invented(names, 1), **options, seed=1, split_seed=2)
    for name in ("split_seed", "near_duplicates", "train_fraction"):  # which an older version did not have
        del record["config"][name]
    record["command"] += " --config runs/vit.study/best.toml"
    record["tuning_trials"] = 30
    record["calibration"]["sure_margin"] = 2.5
    record["data"]["num_train"] = 1234
    record["config"]["seed"] = 7
    older = shutil.copytree(one, tmp_path / "older")
    (older / "run.json").write_text(json.dumps(record))
    found = what_differs([[RunFolder.open(run).record] for run in (one, two, older)])
    assert {each.what: each.values for each in found} == {
        "adapt": ("full", "classifier", "full"),
        "keep known breeds": ("no", "yes", "no"),
        "near duplicates": ("together", "together", "ignore"),
        "label smoothing": ("0", "0.1", "0"),
        "random views": ("yes", "no", "yes"),
        "tuning (options from a file)": ("none", "none", "runs/vit.study/best.toml"),
        "tuning trials": ("none", "none", "30"),
        "photos trained on": ("24", "24", "1,234"),
        "seeds": ("0", "1", "7"),
        "split seeds": ("0", "2", "7"),
        "looks in serving": ("one", "one", "up to 3"),
    }
    del record["tuning_trials"]  # which an older version did not have
    (older / "run.json").write_text(json.dumps(record))
    found = what_differs([[RunFolder.open(run).record] for run in (one, older)])
    assert ("tuning trials", ("none", "not recorded")) in [(each.what, each.values) for each in found]
    records = [RunFolder.open(run).record for run in (one, older)]
    assert tuning_budget([records]) == tuning_budget([records[:1], records[:1]]) == "None of them was tuned."
    assert tuning_budget([records[:1], records[1:]]) == "They were not tuned alike: see the tuning trials."
    assert tuning_budget([[replace(records[0], tuning_trials=30)]] * 2) == "Each was tuned by 30 trials."
    assert tuning_budget([records[1:]]) == "How many trials tuned them is not recorded."
    arguments = ["compare", str(one), str(two), "--output", str(tmp_path / "report"), "--without-photos"]
    monkeypatch.setattr(sys, "argv", ["dogbreeds", *arguments])
    monkeypatch.setattr("dogbreeds.research.report.write_report", lambda comparison, folder: None)
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().out
    assert said.startswith("what differs (one | two):\n  adapt: full | classifier\n")
    assert "\n  None of them was tuned.\n" in said


def test_other_photos_that_training_fitted_the_verdicts_on_are_a_difference(tiny_run, names, tmp_path):
    with_cats = run_like(tiny_run, tmp_path / "cats", invented(names, 1), other_photos="cats", cache="off")
    found = what_differs([[RunFolder.open(run).record] for run in (tiny_run, with_cats)])
    assert ("other photos", ("none", "cats")) in [(each.what, each.values) for each in found]
    assert "cache" not in [each.what for each in found]


def test_seeds_on_the_same_photos_are_paired_seed_by_seed(tiny_run, names, tmp_path):
    runs = [
        run_like(tiny_run, tmp_path / f"{name}{seed}", invented(names, 2, seed), seed=seed, model=name)
        for name in ("vit", "cnn")
        for seed in (1, 0)
    ]
    groups = compare(runs, show_photos=False, progress=False).groups
    assert [[entry.name for entry in group.entries] for group in groups] == [["vit0", "cnn0"], ["vit1", "cnn1"]]
    with pytest.raises(UserError, match="different numbers of seeds"):
        compare(runs[:3], show_photos=False)
    runs.append(run_like(tiny_run, tmp_path / "cnn2", invented(names, 2, 2), seed=2, model="cnn"))
    alone = r"'vit0' \(--split-seed 0 --seed 0\), 'cnn2' \(--split-seed 0 --seed 2\) .*name runs of the same seeds"
    with pytest.raises(UserError, match=alone):
        compare([*runs[:3], runs[4]], show_photos=False)
    (group,) = compare([runs[0], runs[4]], show_photos=False, progress=False).groups
    assert [entry.name for entry in group.entries] == ["vit1", "cnn2"]  # one of each may be of any seed


def test_other_photos_are_refused_unless_the_common_ones_will_do(tiny_run, names, tmp_path):
    whole = invented(names, 2)
    one = run_like(tiny_run, tmp_path / "one", whole.select(np.arange(200)), model="a")
    two = run_like(tiny_run, tmp_path / "two", whole.select(np.arange(299, 99, -1)), model="b")
    with pytest.raises(UserError, match=r"100 of 200 and 200 in common.*--common"):
        compare([one, two], show_photos=False)
    comparison = compare([one, two], show_photos=False, common=True)
    assert comparison.remarks == ("left out 200 of 300 photos, which the runs do not all have",)
    assert len(comparison.main.predictions) == 100
    assert {int(id_.split("/")[1]) for id_ in comparison.main.predictions.ids} == set(range(100, 200))
    pair = comparison.main.pairs[0]
    assert pair.same_answer == 1 and pair.p_value == 1
    most = wilson_interval(0, 100)[1]  # runs that agree on 100 photos need not on all
    assert pair.top1_interval == (-most, most) and pair.log_loss_interval == (0, 0)
    stranger = run_like(tiny_run, tmp_path / "three", invented(names, 2, photos=9), model="c")
    with pytest.raises(UserError, match="no photo in common"):
        compare([one, stranger], show_photos=False, common=True)


def test_the_order_of_the_photos_does_not_matter(tiny_run, names, tmp_path, three_runs, comparison):
    shuffled = invented(names, 1.2, 2).select(np.random.default_rng(0).permutation(NUM_PHOTOS))
    weak = run_like(tiny_run, tmp_path / "weak", shuffled, model="weak")
    again = compare([three_runs[0], weak], show_photos=False, progress=False).to_dict()
    before = comparison["groups"][0]["pairs"][0]
    after = again["groups"][0]["pairs"][0]
    assert after["p_value"] == before["p_value"] and after["both_right"] == before["both_right"]


def test_mistakes_are_named(tiny_run, names, tmp_path, three_runs):
    with pytest.raises(UserError, match="two or more"):
        compare(three_runs[:1])
    with pytest.raises(UserError, match="named twice"):
        compare([three_runs[0], three_runs[0]])
    with pytest.raises(UserError, match=r"other breeds .4 and 120; only one knows"):
        compare([three_runs[0], ROOT / "dogbreeds/pretrained/mobilenet_v2"])
    with pytest.raises(UserError, match="holds no predictions of a validation split"):
        compare(three_runs, split="validation")
    only_validation = run_like(tiny_run, tmp_path / "validation", invented(names, 2), split="validation")
    with pytest.raises(UserError, match="no predictions of the same split"):
        compare([three_runs[0], only_validation])
    with pytest.raises(UserError, match="no data folder"):
        compare(three_runs, photos=str(tmp_path / "nowhere"))
    damaged = run_like(tiny_run, tmp_path / "damaged", invented(names, 2), model="x")
    (damaged / "predictions-test.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(UserError, match=r"predictions-test.parquet.* damaged"):
        compare([three_runs[0], damaged])
    (damaged / "predictions-test.parquet").unlink()
    (damaged / "history.csv").unlink()
    invented(names, 2).save(damaged / "predictions-test.parquet")
    with pytest.raises(UserError, match=r"history\.csv"):
        compare([three_runs[0], damaged], show_photos=False)


def test_runs_that_can_not_be_told_apart_are_refused(tiny_run, names, tmp_path):
    seeds = [run_like(tiny_run, tmp_path / f"vit{seed}", invented(names, 2, seed), seed=seed) for seed in (0, 1)]
    with pytest.raises(UserError, match="all runs are of one recipe, 'vit'"):
        compare(seeds, show_photos=False)
    other_split = run_like(tiny_run, tmp_path / "split", invented(names, 2), seed=0, split_seed=1)
    with pytest.raises(UserError, match="differ in the seed alone"):
        compare([seeds[0], other_split], show_photos=False)
    again = run_like(tiny_run, tmp_path / "again", invented(names, 2), seed=0)
    other = run_like(tiny_run, tmp_path / "other", invented(names, 2), seed=0, model="other")
    with pytest.raises(UserError, match="'vit0' and 'again' have the same options and seed"):
        compare([seeds[0], again, other], show_photos=False)


def test_runs_of_the_same_name_keep_their_recipes(tiny_run, names, tmp_path):
    runs = [
        run_like(tiny_run, tmp_path / folder / "runs" / "vit", invented(names, 2, seed), learning_rate=rate)
        for seed, (folder, rate) in enumerate((("one", 1e-3), ("two", 1e-4)))
    ]
    entries = compare(runs, show_photos=False).main.entries
    assert [entry.name for entry in entries] == ["one/runs/vit", "two/runs/vit"] == [entry.recipe for entry in entries]


def test_options_of_other_versions_are_compared_as_they_are_recorded(tiny_run, names, tmp_path):
    runs = [
        run_like(tiny_run, tmp_path / name, invented(names, 2, seed), **options)
        for seed, (name, options) in enumerate(
            {"now": {}, "newer": {"learned_warmup": 3}, "newer-still": {"schedule": "not one of ours"}}.items()
        )
    ]
    assert [entry.recipe for entry in compare(runs, show_photos=False).main.entries] == ["now", "newer", "newer-still"]


def test_names_that_are_alike_get_files_of_their_own(tiny_run, names, tmp_path, charts_are_blank):
    runs = [
        run_like(tiny_run, tmp_path / name, invented(names, 2, seed), model=name)
        for seed, name in enumerate(("_a b", "_a_b", "_a"))
    ]
    write_report(compare(runs, show_photos=False), tmp_path / "report")
    assert len(list((tmp_path / "report").glob("breeds-*.csv"))) == 3


def test_the_order_of_the_breeds_does_not_matter(tiny_run, names, tmp_path, three_runs, comparison):
    turned = names[::-1]
    weak = run_like(tiny_run, tmp_path / "weak", invented(names, 1.2, 2).reordered(turned), model="weak")
    config = json.loads((weak / "config.json").read_text())
    config["id2label"] = {str(index): name for index, name in enumerate(turned)}
    (weak / "config.json").write_text(json.dumps(config))
    record = json.loads((weak / "run.json").read_text())
    record["sha256"]["config.json"] = hashlib.sha256((weak / "config.json").read_bytes()).hexdigest()
    (weak / "run.json").write_text(json.dumps(record))
    again = compare([three_runs[0], weak], show_photos=False).to_dict()["groups"][0]
    before = comparison["groups"][0]
    assert again["runs"]["weak"]["figures"] == pytest.approx(before["runs"]["weak"]["figures"])
    assert again["runs"]["weak"]["breeds"] == before["runs"]["weak"]["breeds"]
    assert again["pairs"][0]["same_answer"] == before["pairs"][0]["same_answer"]


def test_an_unfinished_run_is_not_swept_away(three_runs, tmp_path):
    (tmp_path / "report.partial").mkdir()
    (tmp_path / "report.partial" / "hours of work").touch()
    with pytest.raises(UserError, match="exists already"):
        write_report(compare(three_runs, show_photos=False), tmp_path / "report")
    assert (tmp_path / "report.partial" / "hours of work").exists()


def test_predictions_of_an_older_version_are_told_from_damage(names, tmp_path):
    invented(names, 2).save(tmp_path / "p.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "p.parquet").drop_columns("image_sha256")
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(UserError, match="older version: evaluate the run again with --data"):
        Predictions.load(tmp_path / "p.parquet")


def test_look_alikes_stand_together(names):
    labels = np.repeat(np.arange(4), 10)
    probabilities = np.full((40, 4), 0.01)
    for one, other in ((0, 2), (1, 3), (2, 0), (3, 1)):
        probabilities[labels == one, other] = 0.4
    probabilities[np.arange(40), labels] = 0.5
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    ids = tuple(map(str, range(40)))
    order = order_by_similarity([Predictions(ids, ids, labels, names, probabilities)]).tolist()
    assert abs(order.index(0) - order.index(2)) == abs(order.index(1) - order.index(3)) == 1


@pytest.mark.slow
def test_those_that_come_with_the_project_can_be_compared():
    comparison = compare(SHIPPED_RUNS, show_photos=False, progress=False)
    assert len(comparison.main.predictions) == 1200
    assert {entry.run.config["model_type"] for entry in comparison.main.entries} == {
        "vit",
        "mobilenet_v2",
        "timm_wrapper",
    }


# The report


@pytest.fixture(scope="module")
def second_run(photo_folder, tmp_path_factory):
    """A small CNN trained for real on the photos of `tiny_run`, with the same split; too little to be always right."""
    from dogbreeds.training.train import train

    output = tmp_path_factory.mktemp("second") / "_cnn <b>|$\\x$"
    return train(
        tiny_config(photo_folder, output, model="cnn3v2", epochs=1, learning_rate=1e-4, head_learning_rate=1e-4)
    )


@pytest.fixture(scope="module")
def report(tiny_run, second_run, tmp_path_factory):
    """A report of two trained runs, made on the command line, with the photos."""
    folder = tmp_path_factory.mktemp("reports") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dogbreeds", "compare", str(tiny_run), str(second_run), "--output", str(folder)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code == 0
    return folder


def test_a_report_is_computed_again_and_what_differs_is_named(report, tmp_path, monkeypatch, capsys):
    numbers = json.loads((report / "comparison.json").read_text())
    numbers["groups"][0]["runs"]["tiny"]["figures"]["top1"] -= 0.125
    numbers["groups"][0]["runs"]["tiny"]["cost"]["milliseconds_per_photo"]["median"] = 1e6
    numbers["versions"]["numpy"] = "1.0"
    write_json(tmp_path / "comparison.json", numbers)
    code, said, _ = run_cli(monkeypatch, capsys, "reproduce", tmp_path)
    about, *changes, summary = said.splitlines()
    assert about.startswith("no run was trained again")
    assert code == 1 and len(changes) == 2 and re.fullmatch(r"\d{3,} values are as they were, 1 are not", summary)
    assert changes[0].startswith('versions.numpy: then "1.0", now ')
    assert changes[1].startswith("groups.0.runs.tiny.figures.top1: then ")
    del numbers["report"], numbers["inputs"]  # which older versions did not keep
    del numbers["groups"][0]["pairs"][0]["kappa_interval"]
    write_json(tmp_path / "comparison.json", numbers)
    code, said, _ = run_cli(monkeypatch, capsys, "reproduce", tmp_path)
    assert code == 1 and said.splitlines()[1:-1] == changes
    del numbers["arguments"]
    write_json(tmp_path / "comparison.json", numbers)
    code, _, error = run_cli(monkeypatch, capsys, "reproduce", tmp_path)
    assert code == 2 and error.count("\n") == 1 and "does not say how it was made" in error


def test_the_report_is_whole(report, tiny_run, second_run):
    numbers = json.loads((report / "comparison.json").read_text())
    runs = numbers["groups"][0]["runs"]
    assert set(runs) == {"tiny", "_cnn <b>|$\\x$"} and numbers["split"] == "test"
    assert runs["tiny"]["figures"]["n"] == 8
    assert runs["tiny"]["cost"]["milliseconds_per_photo"]["median"] > 0 and runs["tiny"]["cost"]["flops_per_photo"] > 0
    page = (report / "comparison.html").read_text()
    record = json.loads((tiny_run / "run.json").read_text())
    versions, split = record["versions"], record["data"]["split_hash"][:16]
    for words in (split, versions["torch"], record["hardware"], record["command"][:20], "ImageNet", "McNemar"):
        assert words in page
    assert "_cnn &lt;b&gt;|$\\x$" in page and "cnn <b>" not in page
    markdown = (report / "comparison.md").read_text()
    linked = re.findall(r"\]\(pictures/([^)]+)\)", markdown)
    charts = {name.removesuffix(".png") for name in linked if name.endswith(".png")}
    for_print = {f"{name}.{form}" for name in charts for form in ("svg", "pdf")}
    assert {*linked, *for_print} == {file.name for file in (report / "pictures").iterdir()} and len(charts) > 10
    check_pictures(report / "pictures", charts)
    for name, words in (
        ("cost-milliseconds", ["top-1, %", "tiny"]),
        ("losses", ["epoch"]),
        ("reliability-tiny", ["tiny", "perfect"]),
        ("confusion-counts-tiny", ["Chihuahua", "100 %"]),
    ):
        check_pictures(report / "pictures", {name}, *words)
    tables = latex_tables((report / "comparison.tex").read_text())
    assert {"tiny", "_cnn <b>|$\\x$"} <= {row[0] for table in tables.values() for row in table}
    assert len(tables) == page.count("<table>") - page.count('class="gallery"')
    assert r"_cnn &lt;b>\|$\x$" in markdown
    assert any(name.startswith("mistaken-") for name in linked) and any("-right-" in name for name in linked)
    counts = (report / "confusion-counts-tiny.csv").read_text().splitlines()
    assert len(counts) == 5 and sum(int(n) for line in counts[1:] for n in line.split(",")[1:]) == 8
    assert len((report / "breeds-tiny.csv").read_text().splitlines()) == 5
    assert not report.with_name("report.partial").exists()


def test_the_page_shows_the_figures_in_the_right_places(three_runs, tmp_path, charts_are_blank):
    comparison = compare(three_runs, show_photos=False)
    write_report(comparison, tmp_path / "report")
    _differing, *tables = markdown_tables((tmp_path / "report" / "comparison.md").read_text())
    for run in three_runs:
        labels, probabilities = read(run)
        predicted = probabilities.argmax(axis=1)
        accuracy = tables[0][run.name]
        assert float(accuracy["top-1"].split()[0]) == pytest.approx(100 * (predicted == labels).mean(), abs=0.051)
        for column, score in (("precision", reference.precision_score), ("recall", reference.recall_score)):
            value = 100 * score(labels, predicted, average="macro")
            assert float(accuracy[f"macro {column}"].split()[0]) == pytest.approx(value, abs=0.051)
        assert float(tables[1][run.name]["log-loss"].split()[0]) == pytest.approx(
            reference.log_loss(labels, probabilities), abs=6e-4
        )
        ece = 100 * calibration_error(labels, probabilities)
        assert float(tables[1][run.name]["ECE"].split()[0]) == pytest.approx(ece, abs=0.051)
        cost = next(entry.cost for entry in comparison.main.entries if entry.name == run.name)
        assert tables[2][run.name]["parameters"] == f"{cost['num_parameters']:,}"
        assert float(tables[2][run.name]["p95"]) == pytest.approx(cost["milliseconds_per_photo"]["p95"], abs=0.051)
    (labels, one), (_, other) = read(three_runs[0]), read(three_runs[1])
    row = tables[3]["strong less weak"]
    first, second = one.argmax(1) == labels, other.argmax(1) == labels
    assert int(row["only the first"]) == (first & ~second).sum()
    assert int(row["only the second"]) == (~first & second).sum()
    assert int(row["both wrong"]) == (~first & ~second).sum()
    pair = comparison.main.pairs[0]
    assert pair.kappa != pytest.approx(pair.error_consistency, abs=0.01)
    for name, kappa, interval in (
        ("kappa", pair.kappa, pair.kappa_interval),
        ("error consistency", pair.error_consistency, pair.error_consistency_interval),
    ):
        value, low, _, high = row[name].split()
        assert (float(value), float(low[1:]), float(high[:-1])) == pytest.approx((kappa, *interval), abs=6e-4)


def markdown_tables(text):
    """Each table as {row name: {column: cell}}, in the order of the page."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        header, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
        found.append({row[0].strip("| "): dict(zip(header[1:], row[1:], strict=True)) for row in rows})
    return found


class Pictures(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "iframe", "object")
        if tag == "img":
            self.found.append(dict(attrs))


@pytest.mark.parametrize(
    ("megabytes", "labels"), [((7.9, 9.5), ["8", "9", "10"]), ((2, 900), ["1", "10", "100", "1000"])]
)
def test_a_cost_can_be_read_from_its_axis(megabytes, labels):
    figures = {"top1_low": 0.8, "top1": 0.81, "top1_high": 0.82}
    entries = [SimpleNamespace(name=f"run {cost}", cost={"cost": cost}, figures=figures) for cost in megabytes]
    figure = plots.accuracy_against_cost(entries, "cost", "model, MB")
    low, high = figure.axes[0].get_xlim()
    shown = figure.axes[0].get_xticklabels(which="both")
    texts = [text.get_text() for text in shown if low <= text.get_position()[0] <= high]
    assert [text for text in texts if text] == labels


def test_every_picture_is_in_the_page_and_described(report):
    parser = Pictures()
    parser.feed((report / "comparison.html").read_text())
    assert len(parser.found) == len(
        [file for file in (report / "pictures").iterdir() if file.suffix in (".png", ".jpg")]
    )
    assert all(picture["src"].startswith("data:image/") and len(picture["alt"]) > 3 for picture in parser.found)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.slow
def test_the_report_in_a_browser(browser, report, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((report / "comparison.html").as_uri())
    page.wait_for_load_state("networkidle")
    assert problems == []
    assert all(url.startswith(("file:", "data:")) for url in requests)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    # legible: the first column stays readable, and text is not small
    assert page.evaluate("Math.min(...[...document.querySelectorAll('tbody th')].map(th => th.clientWidth))") >= 100
    assert page.evaluate("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)") >= 13
    page.close()


def test_the_report_works_without_photos(tiny_run, second_run, tmp_path, capsys, monkeypatch, charts_are_blank):
    arguments = ["compare", str(tiny_run), str(second_run), "--output", str(tmp_path / "report"), "--without-photos"]
    monkeypatch.setattr(sys, "argv", ["dogbreeds", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert not list((tmp_path / "report" / "pictures").glob("*.jpg"))
    assert "No photos are shown" in (tmp_path / "report" / "comparison.md").read_text()
    assert "a generated JPEG" in (tmp_path / "report" / "comparison.md").read_text()
    with pytest.raises(SystemExit) as stop:  # nothing is ever overwritten
        cli.main()
    assert stop.value.code == 2 and "exists already" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_without_heat_maps_is_named(tiny_run, second_run, photo_folder, tmp_path, charts_are_blank):
    older = [
        copy_without_outputs(run, tmp_path / name, "heat_map") for run, name in ((tiny_run, "a"), (second_run, "b"))
    ]
    for number, (runs, without) in enumerate(
        [([tiny_run, second_run], ""), ([tiny_run, older[1]], "b"), (older, "a, b")]
    ):
        write_report(compare(runs, photos=str(photo_folder), progress=False), tmp_path / f"report{number}")
        page = (tmp_path / f"report{number}" / "comparison.md").read_text()
        assert ("Each heat map shows the evidence" in page) == (without != "a, b")
        assert ("Without heat maps, so that the photo alone is shown:" in page) == bool(without)
        assert not without or f"is shown: {without}.\n" in page


def test_photos_that_were_replaced_are_not_shown(tiny_run, second_run, photo_folder, tmp_path, charts_are_blank):
    other = tmp_path / "photos"
    shutil.copytree(photo_folder, other)
    for file in other.rglob("*.png"):
        make_photo(0, 99).save(file)
    write_report(compare([tiny_run, second_run], photos=str(other), progress=False), tmp_path / "report")
    assert not list((tmp_path / "report" / "pictures").glob("*.jpg"))
    page = (tmp_path / "report" / "comparison.md").read_text()
    assert re.search(r"Of \d+ such photos none is in", page) and "a generated JPEG" in page


def with_splits(run, folder, recorded=True):
    """A copy of a run with its splits recorded, or without them as older versions wrote it."""
    shutil.copytree(run, folder)
    (folder / SPLITS).unlink(missing_ok=True)
    if recorded:
        config = TrainConfig.from_dict(json.loads((run / "run.json").read_text())["config"])
        splits = load_data(config, progress=False)
        photos = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        labels = {split: [given.names[label] for label in given.labels] for split, given in photos.items()}
        save_splits(folder / SPLITS, {split: given.digests.tolist() for split, given in photos.items()}, labels)
    return folder


UNKNOWN = "{} does not say which photos it was trained on, so some of these may be among them"


def test_photos_of_the_training_are_counted(tiny_run, second_run, photo_folder, tmp_path, monkeypatch, capsys):
    run, older = with_splits(tiny_run, tmp_path / "tiny"), with_splits(tiny_run, tmp_path / "older", recorded=False)
    data = tmp_path / "photos"
    shutil.copytree(photo_folder, data)
    trained_on = load_splits(run / SPLITS)["train"]
    for file in data.rglob("*.png"):  # not one photo that was held out
        if hashlib.sha256(file.read_bytes()).hexdigest() not in trained_on:
            file.unlink()
    make_photo(0, 77).save(data / "n02085620-Chihuahua" / "new.png")

    def evaluated(run, data=data):
        arguments = ["evaluate", "--data", str(data), "--run-dir", str(run), "--json"]
        monkeypatch.setattr(sys, "argv", ["dogbreeds", *arguments])
        with pytest.raises(SystemExit):
            cli.main()
        captured = capsys.readouterr()
        notes = [line for line in captured.err.splitlines() if "calibrated without dogs of other breeds" not in line]
        return json.loads(captured.out)["num_trained_on"], "".join(notes)

    words = "tiny was trained on 24 of these 25 photos"
    counted, notes = evaluated(run)
    assert counted == 24 and f"note: {words}" in notes
    assert evaluated(older) == (None, "note: " + UNKNOWN.format("older"))
    linked = tmp_path / "linked"
    linked.symlink_to(data, target_is_directory=True)
    assert evaluated(run, linked) == (counted, notes), "the content counts, not the path"
    other = with_splits(second_run, tmp_path / "second")
    assert any(words in remark for remark in compare([run, other], data=str(data), progress=False).remarks)
    for file in data.rglob("*.png"):
        if file.name != "new.png":
            file.unlink()
    assert evaluated(run) == (0, "")


def test_a_split_is_found_among_photos_that_came_later(tiny_run, photo_folder, tmp_path):
    run, older = with_splits(tiny_run, tmp_path / "tiny"), with_splits(tiny_run, tmp_path / "older", recorded=False)
    before = photos_of(Predictor(older), str(photo_folder), "validation")
    data = tmp_path / "photos"
    shutil.copytree(photo_folder, data)
    make_photo(0, 77).save(data / "n02085620-Chihuahua" / "new.png")
    found = photos_of(Predictor(run), str(data), "validation")
    assert (found.ids, found.names, found.labels.tolist()) == (before.ids, before.names, before.labels.tolist())
    with pytest.raises(UserError, match="not the data that the run 'older' was trained on"):
        photos_of(Predictor(older), str(data), "validation")
    (data / found.ids[0]).unlink()
    with pytest.raises(UserError, match="not the data that the run 'tiny' was trained on: 1 of 8 validation photos"):
        photos_of(Predictor(run), str(data), "validation")


def test_runs_can_be_judged_anew(tiny_run, second_run, photo_folder, tmp_path, charts_are_blank):
    data = tmp_path / "photos"
    shutil.copytree(photo_folder, data)
    (data / "n02085620-Chihuahua" / "zz.png").write_bytes(b"no photo")
    older = with_splits(tiny_run, tmp_path / "tiny", recorded=False)
    comparison = compare([older, second_run], data=str(data), progress=False)
    assert len(comparison.main.predictions) == 40
    remarks = " ".join(comparison.remarks)
    assert "left out n02085620-Chihuahua/zz.png" in remarks
    # The note that all this is hardly a test must not be missed.
    assert "tiny held out only 16 of these 40 photos; it was probably trained on the others" in remarks
    assert comparison.photos.data == str(data)
    assert comparison.main.entries[0].figures["top1"] > 0.9
    write_report(comparison, tmp_path / "report")
    assert "held out only 16 of these 40 photos" in (tmp_path / "report" / "comparison.html").read_text()


def test_seeds_are_trained_one_after_the_other(photo_folder, tmp_path, monkeypatch, capsys, tiny_runs_onnx):
    from dogbreeds.training_script import run_training_script

    preset = tiny_config(photo_folder, tmp_path / "vit", epochs=1).to_dict()
    monkeypatch.setattr(sys, "argv", ["train_vit.py", "--seeds", "3,5"])
    run_training_script(preset, None)
    runs = [RunFolder.open(tmp_path / f"vit-seed{seed}") for seed in (3, 5)]
    assert [run.record.config["seed"] for run in runs] == [3, 5]
    assert runs[0].record.data.split_hash == runs[1].record.data.split_hash, "on the same photos"
    mistakes = {"3,x": "whole numbers", "": "whole numbers", "3,3": "twice", "7,3": "exists already"}
    for argument, words in mistakes.items():
        monkeypatch.setattr(sys, "argv", ["train_vit.py", "--seeds", argument])
        with pytest.raises(SystemExit) as stop:
            run_training_script(preset, None)
        assert stop.value.code == 2 and words in capsys.readouterr().err
    assert not Path(tmp_path / "vit-seed7.partial").exists()
    # An interrupted series goes on: what is complete stays, what was not begun begins.
    before = (tmp_path / "vit-seed3" / "run.json").read_text()
    monkeypatch.setattr(sys, "argv", ["train_vit.py", "--seeds", "3,5,7", "--resume"])
    run_training_script(preset, None)
    assert (tmp_path / "vit-seed3" / "run.json").read_text() == before
    assert RunFolder.open(tmp_path / "vit-seed7").record.config["seed"] == 7


def test_evaluate_writes_all_that_it_found(tiny_run, photo_folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "evaluation"
    arguments = ["evaluate", "--data", str(photo_folder), "--run-dir", str(tiny_run), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["dogbreeds", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    found = json.loads((output / "evaluation.json").read_text())
    predictions = Predictions.load(output / "predictions.parquet")
    assert found["figures"]["n"] == len(predictions) == 40
    accuracy = reference.accuracy_score(predictions.labels, predictions.predicted)
    assert found["figures"]["top1"] == pytest.approx(accuracy)
    assert found["cost"]["photos_per_second"] == pytest.approx(40 / found["cost"]["seconds"])
    assert {file.name for file in output.iterdir()} == {
        "evaluation.json", "breeds.csv", "confusion-counts.csv", "confusion-probabilities.csv", "predictions.parquet"
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("top-5", "macro precision", "Brier", "p95", "most confused"))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2


def test_predictions_travel(names, tmp_path):
    before = invented(names, 2)
    before.save(tmp_path / "p.parquet")
    after = Predictions.load(tmp_path / "p.parquet")
    assert (after.ids, after.digests, after.names) == (before.ids, before.digests, before.names)
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_allclose(after.probabilities, before.probabilities, rtol=1e-6)
    np.testing.assert_allclose(after.probabilities.sum(axis=1), 1, rtol=1e-12)
    logits = np.log(before.probabilities) * 1.7
    raw = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(after.uncalibrated(1.7), raw, rtol=1e-5)
    replace(before, temperature=1.7).save(tmp_path / "p.parquet")  # the run's may be another since
    np.testing.assert_allclose(Predictions.load(tmp_path / "p.parquet").uncalibrated(0.9), raw, rtol=1e-5)
    with pytest.raises(UserError, match="no file"):
        Predictions.load(tmp_path / "nowhere.parquet")


@pytest.mark.parametrize("run", SHIPPED_RUNS, ids=lambda run: run.name)
def test_figures_before_calibration_come_again_from_the_stored_predictions(run):
    predictions, record = Predictions.load(run / "predictions-validation.parquet"), RunFolder.open(run).record
    uncalibrated = predictions.uncalibrated(record.calibration.temperature)
    found = compute_figures(predictions.probabilities, predictions.labels, uncalibrated)
    recorded = record.figures["validation"]
    assert found == pytest.approx({name: recorded[name] for name in found}, abs=1e-4)
