"""`probe`: the features are the network's, the choice is validation's, and a mistake is named before anything runs."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pyarrow.parquet
import pytest
import torch
from conftest import make_photo_folder, run_cli
from PIL import Image
from report_files import latex_tables
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator, clone
from transformers import AutoModelForImageClassification

from dogbreeds.errors import UserError
from dogbreeds.images import open_image
from dogbreeds.metrics import wilson_interval
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.research.document import to_html
from dogbreeds.research.probe import NEIGHBOURS, WAYS, Probe, Score, probe, score_of
from dogbreeds.research.reproduce import reproduce
from dogbreeds.research.significance import holm, mcnemar
from dogbreeds.training import backbones
from dogbreeds.training.models.checkpoint import Checkpoint, open_checkpoint
from dogbreeds.training.models.inspection import features_of

LINEAR, NEAREST, CLASS_MEAN = WAYS


@pytest.fixture(scope="module")
def models(checkpoints, tmp_path_factory) -> list[str]:
    """A CNN whose labels name a breed, and a ViT with random weights. Each export for ONNX Runtime takes seconds."""
    cnn = shutil.copytree(checkpoints / "resnet_nano", tmp_path_factory.mktemp("models") / "cnn")
    config = json.loads((cnn / "config.json").read_text())
    names = {"0": "tabby, tabby cat", "1": "beagle"}
    (cnn / "config.json").write_text(json.dumps({**config, "id2label": names, "label2id": {"cat": 0, "beagle": 1}}))
    return [str(cnn), "vit_nano"]


@pytest.fixture(scope="module")
def probed(models, photo_folder, tmp_path_factory):
    """The result for both backbones, and the file with their features; not to be changed."""
    file = tmp_path_factory.mktemp("probe") / "features.parquet"
    return probe(models, str(photo_folder), image_size=32, features=file), file


def features_in(file, column: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The features and labels of a split, from the Parquet file alone."""
    rows = [row for row in pyarrow.parquet.read_table(file).to_pylist() if row["split"] == split]
    return np.array([row[column] for row in rows]), np.array([row["label"] for row in rows])


def test_the_features_are_what_the_classifier_of_the_network_gets(probed, models, photo_folder):
    rows = pyarrow.parquet.read_table(probed[1]).to_pylist()
    assert len(rows) == 40 and {row["split"] for row in rows} == {"train", "validation", "test"}
    network = AutoModelForImageClassification.from_pretrained(models[0]).eval()
    for row in rows[::9]:
        pixels = Preprocessing(32)(open_image(photo_folder / row["image_id"]))
        expected = features_of(network, torch.from_numpy(pixels)[None]).flatten().detach().numpy()
        assert np.allclose(row[models[0]], expected, atol=1e-3)


def test_a_score_can_be_computed_again_from_the_features(probed, models):
    result, file = probed
    name = models[0]
    train, labels = features_in(file, name, "train")
    test, truth = features_in(file, name, "test")
    train, test = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (train, test))
    breeds = np.unique(labels)
    means = np.stack([train[labels == breed].mean(axis=0) for breed in breeds])
    nearest = breeds[np.linalg.norm(test[:, None] - means, axis=2).argmin(axis=1)]
    score = result.scores[name][WAYS.index(CLASS_MEAN)]
    assert list(score.right) == (nearest == truth).tolist() and len(truth) == 4


def test_the_table_says_which_backbones_may_have_seen_the_photos(probed, models, checkpoints, tmp_path):
    result, _ = probed
    assert [backbone.seen for backbone in result.backbones] == ["yes", "no"]
    without_labels = str(checkpoints / "vit_nano")
    assert backbones.seen(without_labels, open_checkpoint(without_labels), result.splits.names) == "not known"
    lines = str(result).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert [row[2:5:2] for row in rows[2:4]] == [["32", "yes"], ["32", "no"]]
    score = result.scores[models[1]][0]  # its row is the second
    low, high = wilson_interval(sum(score.right), 4)
    assert rows[3][5] == f"{score.top1:.1%} ({100 * low:.1f}-{100 * high:.1f})"
    (lead, *_) = leads = result.leads()
    assert len(leads) == len(WAYS) * (len(models) - 1) and lead.first != lead.second
    right = {name: np.array(result.scores[name][0].right) for name in (lead.first, lead.second)}
    assert lead.difference == right[lead.first].mean() - right[lead.second].mean() >= 0
    result.write(tmp_path / "table.csv")
    result.write(tmp_path / "table.md")
    result.write(tmp_path / "table.tex")
    table, ahead = latex_tables((tmp_path / "table.tex").read_text()).values()
    assert [table, ahead] == [
        rows[:1] + rows[2 : 2 + len(models)],
        rows[2 + len(models) : 3 + len(models)] + rows[4 + len(models) :],
    ]
    assert (tmp_path / "table.md").read_text() == str(result) and to_html(str(result), {}).count("<table>") == 2
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 1 + len(models) * len(WAYS)


def test_all_pairs_are_compared_and_corrected_for_together_on_each_set_of_photos():
    rng = np.random.default_rng(0)
    right = {name: tuple((rng.random(200) < share).tolist()) for name, share in (("a", 0.7), ("b", 0.9), ("c", 0.8))}
    scores = {name: [Score(None, 0.0, each)] * len(WAYS) for name, each in right.items()}
    leads = Probe((), scores, None, None).leads()
    assert [lead.first + lead.second for lead in leads] == ["bc", "ba", "ca"] * len(WAYS)
    pairs = [mcnemar(np.array(right[first]), np.array(right[second])) for first, second in ("bc", "ba", "ca")]
    assert [lead.p_value for lead in leads] == pytest.approx(holm(pairs * len(WAYS)))
    everyday = {name: [replace(each[0], everyday=right[name][:100])] * len(WAYS) for name, each in scores.items()}
    both = Probe((), everyday, None, None).leads()
    assert both[: len(leads)] == leads and {lead.photos for lead in both[len(leads) :]} == {"everyday"}
    few = {name: np.array(each[:100]) for name, each in right.items()}
    expected = holm([mcnemar(few[lead.first], few[lead.second]) for lead in both[len(leads) :]])
    assert [lead.p_value for lead in both[len(leads) :]] == expected and len(expected) == 3 * len(WAYS)


@pytest.mark.slow  # all classifiers are fitted twice
def test_everyday_photos_are_answered_by_what_was_fitted_on_the_data(models, photo_folder, tmp_path):
    breed = sorted(each.name for each in photo_folder.iterdir() if each.is_dir())[1]
    everyday, rng = tmp_path / "everyday", np.random.default_rng(7)
    (everyday / breed).mkdir(parents=True)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(everyday / breed / f"{number}.png")
    seen = next((photo_folder / breed).iterdir())
    shutil.copy(seen, everyday / breed / f"seen{seen.suffix}")  # left out, as it is in the data
    file = tmp_path / "features.parquet"
    result = probe(models, str(photo_folder), everyday=str(everyday), image_size=32, features=file)
    assert len(result.splits.everyday) == 5
    for name in models:
        photos, truth = features_in(file, name, "everyday")
        assert set(truth) == {result.splits.names[1]}
        score = result.scores[name][WAYS.index(CLASS_MEAN)]
        fitted = clone(CLASS_MEAN.classifier).fit(*features_in(file, name, "train"))
        assert list(score.everyday) == (fitted.predict(photos) == truth).tolist() and len(score.everyday) == 5
        score = result.scores[name][WAYS.index(NEAREST)]
        fitted = clone(NEAREST.classifier).set_params(**{NEIGHBOURS: int(score.setting)})
        fitted.fit(*features_in(file, name, "train"))
        assert list(score.everyday) == (fitted.predict(photos) == truth).tolist()
    without = probe(models, str(photo_folder), image_size=32)
    for name in models:
        assert [replace(score, everyday=None) for score in result.scores[name]] == without.scores[name]
    result.write(tmp_path / "report")
    rows = pandas.read_csv(tmp_path / "report" / "probe.csv")
    counts = [sum(score.everyday) for name in models for score in result.scores[name]]
    assert rows["everyday top-1"].tolist() == [count / 5 for count in counts] and set(rows["everyday n"]) == {5}
    assert rows["everyday low"].tolist() == pytest.approx([wilson_interval(count, 5)[0] for count in counts])
    assert len(latex_tables((tmp_path / "report" / "probe.tex").read_text())) == 3
    assert "on 5 everyday photos of 1 breeds" in str(result) and str(result).count("| everyday |") == len(WAYS)
    assert not reproduce(tmp_path / "report", progress=False).changes


def test_everyday_photos_of_a_breed_that_the_data_lacks_are_named(photo_folder, tmp_path):
    everyday = make_photo_folder(tmp_path / "everyday", num_breeds=1)
    next(each for each in everyday.iterdir() if each.is_dir()).rename(everyday / "n02116738-African_hunting_dog")
    with pytest.raises(UserError, match=r"1 breeds that .* does not have, such as 'African hunting dog': leave these"):
        probe(["vit_nano"], str(photo_folder), everyday=str(everyday), image_size=32)


def split_of(rng, sizes: dict[str, int], wrong: float):
    """Features of two breeds, and the splits' labels, of which this share is wrong in training."""
    features, labels = {}, {}
    for split, size in sizes.items():
        truth = rng.integers(0, 2, size)
        features[split] = (np.stack([truth, 1 - truth], axis=1) + rng.normal(0, 0.2, (size, 2))).astype(np.float32)
        is_wrong = (rng.random(size) < wrong) & (split == "train")
        labels[split] = SimpleNamespace(labels=np.where(is_wrong, 1 - truth, truth))
    return SimpleNamespace(features=features), SimpleNamespace(**labels)


def test_the_setting_is_that_of_the_best_on_validation_photos():
    backbone, splits = split_of(np.random.default_rng(0), {"train": 300, "validation": 200, "test": 200}, wrong=0.3)
    score = score_of(NEAREST, backbone, splits)
    top1 = {}
    for k in NEAREST.values:
        classifier = NEAREST.classifier.set_params(**{NEIGHBOURS: k}).fit(
            backbone.features["train"], splits.train.labels
        )
        top1[k] = [
            classifier.score(backbone.features[split], getattr(splits, split).labels)
            for split in ("validation", "test")
        ]
    assert score.validation_top1 == max(validation for validation, _ in top1.values()) > 0.9
    assert score.top1 == top1[score.setting][1] and score.setting > 1
    assert score_of(LINEAR, backbone, splits).top1 > 0.9
    few, splits = split_of(np.random.default_rng(0), {"train": 8, "validation": 4, "test": 4}, wrong=0)
    assert score_of(NEAREST, few, splits).setting <= 8


class Late(BaseEstimator):
    """Right only where its setting is 6."""

    def __init__(self, strength=0):
        self.strength = strength

    def fit(self, features, labels):
        return self

    def predict(self, features):
        return np.full(len(features), int(self.strength != 6))

    def score(self, features, labels):
        return float((self.predict(features) == labels).mean())


def test_settings_that_change_nothing_do_not_end_the_search():
    labels = SimpleNamespace(labels=np.zeros(5, int))
    splits = SimpleNamespace(train=labels, validation=labels, test=labels)
    backbone = SimpleNamespace(features=dict.fromkeys(("train", "validation", "test"), np.zeros((5, 2))))
    way = replace(LINEAR, classifier=Late(), setting="strength", values=tuple(range(12)))
    assert score_of(way, backbone, splits).setting == 6


def test_features_that_the_file_has_are_not_computed_again(probed, models, photo_folder, tmp_path, monkeypatch):
    result, file = probed[0], shutil.copy(probed[1], tmp_path / "features.parquet")
    monkeypatch.setattr(backbones, "compute_features", None)
    again = probe(models, str(photo_folder), image_size=32, features=file)
    assert again.scores == result.scores
    other = probe(models[:1], str(photo_folder), image_size=32, split_seed=1, features=file)
    assert set(other.splits.test.digests) != set(result.splits.test.digests)
    weights = Path(models[0]) / "model.safetensors"
    before = load_file(weights)
    try:
        name = next(name for name in before if name.endswith("convolution.weight"))
        save_file({**before, name: before[name] + 1}, weights, {"format": "pt"})
        with pytest.raises(TypeError, match="'NoneType' object is not callable"):
            probe(models[:1], str(photo_folder), image_size=32, features=file)
    finally:
        save_file(before, weights, {"format": "pt"})


def two_photos(folder):
    return make_photo_folder(folder, num_photos=2)


def no_labels(folder):
    folder.mkdir()
    shutil.copy(make_photo_folder(folder.with_name("other"), 1, 1).rglob("*.png").__next__(), folder / "photo.png")
    return folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder, "there is no data folder"),
        (no_labels, "holds no labelled photos: it needs one sub-folder of photos for each breed"),
        (lambda folder: make_photo_folder(folder, num_breeds=1), "holds 1 breed(s): at least two are needed"),
        (two_photos, "has too few photos of 'Chihuahua': none is left to train on"),
    ],
)
def test_data_that_can_not_be_probed(make, words, tmp_path, monkeypatch, capsys):
    data = make(tmp_path / "data")
    status, _, err = run_cli(monkeypatch, capsys, "probe", "vit_nano", "--data", data, "--image-size", 32)
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(told) == 1 and words in told[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no model is named"),
        (
            ["vit_nano", "vit_mini"],
            "the model 'vit_mini' is no folder here, and no name of this project or of timm: did",
        ),
        (["vit_nano", "vit_nano"], "the model 'vit_nano' is named twice"),
        (["vit_nano", "dogbreeds/pretrained/mobilenet_v2"], "holds no image classifier that transformers can load"),
        (["vit_nano", "--image-size", "16"], "--image-size 16: must be 32 or more"),
        (["vit_nano", "--output", "table.txt"], "the name must end in .html, .csv, .md"),
        (["vit_nano", "--output", "README.md"], "'README.md' exists already"),
        (["vit_nano", "--features", "nowhere/features.parquet"], "there is no folder 'nowhere' for the --features"),
        (["vit_nano", "--output", "nowhere/probe.csv"], "there is no folder 'nowhere' for the --output"),
        (["vit_nano", "--everyday", "nowhere"], "there is no data folder 'nowhere': check --everyday"),
        (["vit_nano", "--features", "features.csv"], "--features 'features.csv': the name must end in .parquet"),
    ],
)
def test_a_mistake_is_one_line_before_any_photo_is_read(arguments, words, photo_folder, monkeypatch, capsys):
    monkeypatch.setattr("dogbreeds.research.probe.load_data", None)
    status, _, err = run_cli(monkeypatch, capsys, "probe", *arguments, "--data", photo_folder)
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(told) == 1 and words in told[0]


def test_a_missing_library_is_named(photo_folder, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "dogbreeds.research.probe")
    monkeypatch.setitem(sys.modules, "sklearn.neighbors", None)
    status, _, err = run_cli(monkeypatch, capsys, "probe", "vit_nano", "--data", photo_folder)
    assert status == 2 and err == "error: this needs the package sklearn.neighbors: pip install -r requirements.txt\n"


def test_each_backbone_sees_photos_of_the_size_that_it_was_trained_on(checkpoints, photo_folder, tmp_path, monkeypatch):
    large = shutil.copytree(checkpoints / "resnet_nano", tmp_path / "large")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 48}}
    (large / "preprocessor_config.json").write_text(json.dumps(processor))
    rng, sizes = np.random.default_rng(0), []

    def features_of_photos(model, preprocessing, photos, cache, context):
        assert cache is None or cache.preprocessing.size == preprocessing.size
        sizes.append(preprocessing.size)
        return {split: rng.random((len(each), 3), np.float32) for split, each in photos.items()}, {}

    monkeypatch.setattr(backbones, "features_of_photos", features_of_photos)
    names = [str(large), str(checkpoints / "vit_nano"), "vit_nano"]
    found = [probe(names, str(photo_folder)), probe(names, str(photo_folder), image_size=32)]
    assert [[each.image_size for each in result.backbones] for result in found] == [[48, 32, 224], [32] * 3]
    assert sizes == [48, 32, 224] + [32] * 3
    assert [line.split("|")[3].strip() for line in str(found[0]).splitlines()[4:7]] == ["48", "32", "224"]


def test_the_size_of_a_checkpoint_of_timm_is_in_its_config(tmp_path, monkeypatch):
    checkpoint = Checkpoint(str(tmp_path))
    monkeypatch.setitem(vars(checkpoint), "config", SimpleNamespace(pretrained_cfg={"input_size": [3, 260, 260]}))
    assert checkpoint.image_size == 260


def test_features_of_other_photos_are_not_mixed(probed, tmp_path):
    with pytest.raises(UserError, match="holds the features of other photos: remove it, or name another file"):
        probe(["vit_nano"], str(make_photo_folder(tmp_path / "other", 5)), image_size=32, features=probed[1])
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(UserError, match="holds no features of this project, or is damaged"):
        probe(["vit_nano"], str(tmp_path / "other"), image_size=32, features=tmp_path / "text.parquet")
