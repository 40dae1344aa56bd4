"""Wrong labels are found by what other photos say of them."""

import numpy as np
import pytest
from conftest import BREED_FOLDERS, make_photo, make_photo_folder, run_cli
from PIL import Image

from dogbreeds.files import read_json
from dogbreeds.training.doctor import examine
from dogbreeds.training.label_suspects import cross_validated, find_suspects, suspects
from dogbreeds.training.labelled_features import LabelledFeatures


def mislabelled(num_classes: int = 6, num_photos: int = 600, share: float = 0.05):
    """Features of overlapping classes, the true labels, and labels of which this share is wrong."""
    rng = np.random.default_rng(0)
    truth = np.arange(num_photos) % num_classes
    features = rng.normal(0, 1, (num_photos, 20)) + 1.5 * rng.normal(0, 1, (num_classes, 20))[truth]
    labels = truth.copy()
    wrong = rng.choice(num_photos, round(share * num_photos), replace=False)
    labels[wrong] = (labels[wrong] + rng.integers(1, num_classes, len(wrong))) % num_classes
    return features.astype(np.float32), truth, labels


def test_most_wrong_labels_are_found_and_most_that_are_found_are_wrong():
    features, truth, labels = mislabelled()
    found, likely = suspects(cross_validated(features, labels, np.arange(len(labels))), labels)
    is_wrong = labels != truth
    assert is_wrong[found].sum() >= 0.8 * is_wrong.sum() and is_wrong[found].mean() >= 0.4
    assert is_wrong[found[: len(found) // 2]].mean() >= is_wrong[found].mean(), "the surest first"
    assert (likely == truth[found])[is_wrong[found]].mean() >= 0.9
    assert len(np.unique(found)) == len(found)


def test_right_labels_are_seldom_suspected():
    features, truth, _ = mislabelled()
    found, _ = suspects(cross_validated(features, truth, np.arange(len(truth))), truth)
    assert len(found) <= 0.05 * len(truth)


def test_a_near_duplicate_does_not_vouch_for_a_wrong_label():
    features, truth, labels = mislabelled(share=0.0)
    # 30 copies of one photo, all with the same wrong label: a classifier that has seen some believes the others.
    features[:30], labels[:30] = features[0], (truth[0] + 1) % 6
    groups = np.arange(len(labels)).clip(29)
    alone = cross_validated(features, labels, np.arange(len(labels)))
    together = cross_validated(features, labels, groups)
    assert alone[0, labels[0]] > 5 * together[0, labels[0]]
    assert set(range(30)) <= set(suspects(together, labels)[0].tolist())


def test_a_class_that_is_always_unsure_is_not_suspected_more():
    unsure = np.array([[0.45, 0.55, 0.0]] * 5 + [[0.1, 0.9, 0.0]] * 5)
    labels = np.array([0] * 5 + [1] * 5)
    assert suspects(unsure, labels)[0].tolist() == []
    unsure[4] = [0.02, 0.98, 0.0]
    found, likely = suspects(unsure, labels)
    assert found.tolist() == [4] and likely.tolist() == [1]


def test_few_photos_of_a_class_are_enough_and_one_of_each_says_nothing():
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 1])
    features = (rng.normal(0, 0.1, (6, 4)) + 5 * np.eye(4)[labels]).astype(np.float32)
    assert cross_validated(features, labels, np.arange(6))[np.arange(6), labels].min() > 0.5


def test_many_photos_of_few_groups_can_be_learned_from():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 0, 1, 1], 5)
    groups = np.repeat([0, 1, 2, 3], 5)
    features = (rng.normal(0, 0.1, (20, 4)) + 5 * np.eye(4)[labels]).astype(np.float32)
    assert cross_validated(features, labels, groups)[np.arange(20), labels].min() > 0.5


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 0, 0, 0], [0, 1, 2, 3]),  # one breed
        ([0, 0, 0, 1], [0, 1, 2, 3]),  # a single photo of another
        ([0, 0, 1, 1], [0, 1, 2, 2]),  # or the same one twice
    ],
)
def test_breeds_of_which_nothing_can_be_learned_say_nothing(labels, groups):
    features = np.random.default_rng(0).normal(size=(4, 3))
    photos = LabelledFeatures(
        ["train"] * 4, list("abcd"), [b""] * 4, list("wxyz"), np.array(labels), np.array(groups), features
    )
    assert find_suspects(photos) == []


def test_a_breed_of_one_photo_is_not_suspected():
    features, truth, _ = mislabelled(share=0.0)
    labels = np.append(truth, 6)
    photos = LabelledFeatures(
        ["train"] * 601, list(map(str, range(601))), [b""] * 601, list("abcdefg"), labels, np.arange(601),
        np.concatenate([features, features[:1]]),
    )  # fmt: skip
    found = find_suspects(photos)
    assert 600 not in [index for index, _ in found] and "g" not in [likely for _, likely in found]


def test_photos_that_show_nothing_are_not_suspected_and_nothing_is_learned_from_them():
    features, _, labels = mislabelled(share=0.1)
    photos = LabelledFeatures(
        ["train"] * 600, list(map(str, range(600))), [b""] * 600, list("abcdef"), labels, np.arange(600), features
    )
    suspected = [index for index, _ in find_suspects(photos)]
    clear = np.ones(600, dtype=bool)
    clear[suspected[:5]] = False
    assert suspected and not set(suspected[:5]) & {index for index, _ in find_suspects(photos, clear)}


@pytest.mark.slow
def test_the_doctor_names_them(tmp_path, monkeypatch, capsys):
    data = make_photo_folder(tmp_path / "data", num_photos=12)
    make_photo(1, 77).save(data / BREED_FOLDERS[0] / "wrong.png")
    Image.new("RGB", (40, 40), (90, 90, 90)).save(data / BREED_FOLDERS[2] / "blank.png")
    arguments = ["doctor", "--data", data, "--image-size", 32, "--labels-by", "vit_nano"]
    status, printed, _ = run_cli(monkeypatch, capsys, *arguments, "--output", tmp_path / "report.json")
    assert status == 1 and "1 labels are probably wrong, the surest first: look at these photos" in printed
    suspected = [each for each in read_json(tmp_path / "report.json")["findings"] if each["kind"] == "suspect_label"]
    assert [each["photos"][0]["id"] for each in suspected] == [f"{BREED_FOLDERS[0]}/wrong.png"]
    assert suspected[0]["detail"] == "it looks like Shih-Tzu"
    status, _, err = run_cli(monkeypatch, capsys, *arguments[:-1], "vit_tini")
    assert status == 2 and "the model 'vit_tini' is no folder here" in err


@pytest.mark.parametrize("content", ["copies", "no photos"])
def test_a_split_that_has_no_photo_of_its_own_is_no_traceback(content, tmp_path):
    for split in ("train", "test"):
        make_photo_folder(tmp_path / "data" / split, num_photos=2, num_breeds=2)
    if content == "no photos":
        for path in (tmp_path / "data").rglob("*.png"):
            path.write_bytes(b"no photo")
    found = examine(str(tmp_path / "data"), image_size=32, labels_by="vit_nano")
    kinds = {finding.kind for finding in found.findings}
    assert {"copies": "same_in_two_splits", "no photos": "unreadable"}[content] in kinds
