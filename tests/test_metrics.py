import re
import socket

import numpy as np
import pytest
from sklearn import metrics as reference

from dogbreeds import metrics
from dogbreeds.calibration import (
    CONFIDENT_ACCURACY,
    DOG_PASS_RATE,
    NAMING,
    Calibration,
    Outputs,
    _fit_right_threshold,
    dog_score,
    softmax,
)
from dogbreeds.research.significance import PhotoDraws, calibration_error_by_chance, figure_intervals
from dogbreeds.training.breed_metrics import BreedMetrics
from tests.benchmarks.dog_scores import share_found


@pytest.fixture
def logits_and_labels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 600)
    logits = rng.normal(0, 1, (600, 7))
    logits[np.arange(600), labels] += 2
    return logits, labels


def test_figures_agree_with_scikit_learn(logits_and_labels):
    logits, labels = logits_and_labels
    uncalibrated, probabilities = softmax(logits), softmax(logits / 0.7)
    figures = metrics.summary(probabilities, labels, uncalibrated)
    assert figures["n"] == 600
    assert figures["top1"] == pytest.approx(reference.accuracy_score(labels, probabilities.argmax(1)))
    assert figures["top3"] == pytest.approx(reference.top_k_accuracy_score(labels, probabilities, k=3))
    assert figures["top5"] == pytest.approx(reference.top_k_accuracy_score(labels, probabilities, k=5))
    predicted = probabilities.argmax(1)
    for name in ("precision", "recall", "f1"):
        score = getattr(reference, f"{name}_score")
        assert figures[f"macro_{name}"] == pytest.approx(score(labels, predicted, average="macro"))
    assert figures["log_loss"] == pytest.approx(reference.log_loss(labels, probabilities))
    assert figures["cross_entropy"] == pytest.approx(reference.log_loss(labels, uncalibrated))
    truth = np.eye(7)[labels]
    assert figures["brier"] == pytest.approx(7 * reference.mean_squared_error(truth, probabilities))
    assert figures["brier_uncalibrated"] == pytest.approx(7 * reference.mean_squared_error(truth, uncalibrated))
    assert figures["ece"] != figures["ece_uncalibrated"]


def test_a_share_is_within_its_interval():
    for num in range(1, 300):
        for right in (0, num // 2, num):
            low, high = metrics.wilson_interval(right, num)
            assert 0 <= low <= right / num <= high <= 1  # to the last bit: a bar of an error can't be negative


def test_a_threshold_of_few_dogs_makes_the_share_found_less_sure():
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(0, 1, (57, 1)), rng.normal(-1.5, 1, 60)

    def ends(*given: np.ndarray) -> tuple[float, ...]:
        by = np.zeros(len(unknown), dtype=int)
        return tuple(map(float, re.findall(r"[\d.]+", share_found(*given, by))))

    share, low, high = ends(known, unknown)
    least, most = (100 * end for end in metrics.wilson_interval(round(0.6 * share), 60))
    assert low < share < high and high - low > 1.3 * (most - least)
    assert ends(known + 99, unknown)[0] == 100 and ends(known + 99, unknown)[1] == 94  # Wilson's, of 60 of 60


def test_confusion_matrices(logits_and_labels):
    logits, labels = logits_and_labels
    probabilities = softmax(logits)
    counts = metrics.confusion_counts(probabilities, labels)
    np.testing.assert_array_equal(counts, reference.confusion_matrix(labels, probabilities.argmax(1)))
    means = metrics.confusion_probabilities(probabilities, labels)
    np.testing.assert_allclose(means[3], probabilities[labels == 3].mean(axis=0))
    np.testing.assert_allclose(means.sum(axis=1), 1)
    with_a_stranger = metrics.confusion_probabilities(probabilities, np.where(labels == 3, 0, labels))
    assert np.isnan(with_a_stranger[3]).all() and not np.isnan(with_a_stranger[0]).any()


def test_each_breed_by_hand():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6], [0.0, 0.9, 0.1]])
    first, second = metrics.breed_figures(probabilities, np.array([0, 0, 0, 1]), ("a", "b", "c"))
    assert (first.breed, first.n, first.recall, first.precision) == ("a", 3, pytest.approx(1 / 3), 1.0)
    assert first.mean_probability == pytest.approx(0.3)
    # b and c are each answered once; b has the larger mean probability
    assert [(m.breed, m.count) for m in first.mistaken_for] == [("b", 1), ("c", 1)]
    assert [m.mean_probability for m in first.mistaken_for] == pytest.approx([1.3 / 3, 0.8 / 3])
    assert (second.breed, second.n, second.recall, second.precision) == ("b", 1, 1.0, 0.5)


def test_a_breed_that_is_never_answered_has_no_precision():
    (only,) = metrics.breed_figures(np.array([[0.4, 0.6]]), np.array([0]), ("a", "b"))
    assert only.precision is None and only.recall == 0


def test_the_metric_module_needs_no_network_and_agrees(logits_and_labels, monkeypatch):
    def no_network(*_):
        raise AssertionError("the metric asked for the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    logits, labels = logits_and_labels
    uncalibrated, probabilities = softmax(logits), softmax(logits / 0.7)
    metric = BreedMetrics()
    for part in (slice(0, 100), slice(100, 600)):
        metric.add_batch(predictions=probabilities[part], uncalibrated=uncalibrated[part], references=labels[part])
    assert metric.compute() == pytest.approx(metrics.summary(probabilities, labels, uncalibrated))


def test_calibration_error_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.3, 0.7]])
    labels = np.array([0, 1, 1, 1])
    # bins of 0.1: 0.95 twice, half right; 0.65 right; 0.7 right
    expected = (2 * abs(0.5 - 0.95) + abs(1 - 0.65) + abs(1 - 0.7)) / 4
    assert metrics.expected_calibration_error(probabilities, labels, num_bins=10) == pytest.approx(expected)


def test_classes_without_photos_do_not_lower_macro_f1():
    probabilities = np.eye(120)[[3, 4, 3, 4]]
    assert metrics.macro_precision_recall_f1(probabilities, np.array([3, 4, 3, 4])) == (1.0, 1.0, 1.0)
    probabilities = np.eye(120)[[3, 99]]
    assert metrics.macro_precision_recall_f1(probabilities, np.array([3, 4])) == (0.5, 0.5, 0.5)


def test_the_temperature_is_found(logits_and_labels):
    logits, labels = logits_and_labels
    calibrated = Calibration.fit(Outputs(logits), labels)
    too_sure = Calibration.fit(Outputs(logits * 5), labels)
    assert too_sure.temperature == pytest.approx(5 * calibrated.temperature, rel=1e-3)
    losses = [
        metrics.log_loss(softmax(logits / t), labels) for t in (calibrated.temperature * f for f in (0.9, 1, 1.1))
    ]
    assert losses[1] == min(losses)


def test_the_thresholds_do_what_they_are_named_for(logits_and_labels):
    logits, labels = logits_and_labels
    calibration = Calibration.fit(Outputs(logits), labels)
    verdicts = np.array(calibration.apply(Outputs(logits))[1])
    assert (verdicts != "not_a_dog").mean() == pytest.approx(DOG_PASS_RATE, abs=0.005)
    confident = calibration.probabilities(logits).max(1) >= calibration.confident_threshold
    assert (logits.argmax(1) == labels)[confident].mean() >= CONFIDENT_ACCURACY
    assert (verdicts == "confident").sum() == (confident & (verdicts != "not_a_dog")).sum() > 0


def test_the_dog_score_ignores_what_softmax_ignores(logits_and_labels):
    logits, _ = logits_and_labels
    shift = np.random.default_rng(1).normal(0, 10, (600, 1))
    np.testing.assert_allclose(dog_score(logits + shift), dog_score(logits))


def test_a_model_that_is_never_right_enough_is_never_confident():
    logits = np.zeros((10, 3))
    calibration = Calibration.fit(Outputs(logits), np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 1]))
    assert "confident" not in calibration.apply(Outputs(logits))[1]


def test_a_perfect_validation_does_not_ask_for_certainty():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 60)
    logits = rng.normal(0, 1, (60, 4))
    logits[np.arange(60), labels] += 6
    assert (logits.argmax(1) == labels).all()
    calibration = Calibration.fit(Outputs(logits), labels)
    assert 0.3 < calibration.temperature < 5
    assert calibration.probabilities(logits).max(1).mean() < 0.995


def test_calibration_travels():
    calibration = Calibration(1.5, 2.5, 0.7)
    assert Calibration(**vars(calibration)) == calibration


@pytest.mark.slow
def test_every_figure_has_an_interval_that_other_photos_confirm():
    """Of 20 sets of photos about 95 % have the figure of very many photos in their interval."""

    def drawn(rng, num):
        labels = rng.integers(0, 5, num)
        logits = rng.normal(0, 1, (num, 5))
        logits[np.arange(num), labels] += 1.5
        return softmax(logits), labels, softmax(2 * logits)

    truth = metrics.summary(*drawn(np.random.default_rng(0), 100_000))
    names = ("macro_precision", "macro_recall", "macro_f1", "cross_entropy", "log_loss", "brier", "ece_uncalibrated")
    inside = dict.fromkeys(names, 0)
    for seed in range(20):
        intervals = figure_intervals(*drawn(np.random.default_rng(seed + 1), 400))
        for name in names:
            inside[name] += intervals[name][0] <= truth[name] <= intervals[name][1]
    assert all(count >= 16 for count in inside.values()), inside
    probabilities, labels, uncalibrated = drawn(np.random.default_rng(9), 400)
    figures = metrics.summary(probabilities, labels, uncalibrated)
    found = figure_intervals(probabilities, labels, uncalibrated)
    assert set(found) == set(figures) - {"n", "top1", "top3", "top5"}
    assert all(low <= figures[name] <= high for name, (low, high) in found.items())


@pytest.mark.parametrize("is_right", [True, False])
def test_no_share_of_photos_that_are_alike_has_an_interval_without_width(is_right):
    labels = np.arange(12) % 3
    probabilities = np.full((12, 4), 0.04)
    probabilities[np.arange(12), labels if is_right else 3] = 0.88
    figures, found = (compute(probabilities, labels, probabilities) for compute in (metrics.summary, figure_intervals))
    aside = metrics.wilson_interval(0, 12)[1]
    for name in ("macro_precision", "macro_recall", "macro_f1", "ece", "ece_uncalibrated"):
        expected = max(0, figures[name] - aside), min(1, figures[name] + aside)
        assert found[name] == pytest.approx(expected), name
    right = probabilities.argmax(axis=1) == labels
    of_photos = PhotoDraws(12).of_calibration_error(probabilities.max(axis=1)[None], right[None])
    assert of_photos == pytest.approx(found["ece"])


def test_macro_precision_without_a_wrong_answer_of_these_breeds_may_be_less():
    labels = np.arange(60) % 3
    probabilities = np.full((60, 4), 0.04)
    probabilities[np.arange(60), np.where(np.arange(60) < 2, 3, labels)] = 0.88  # two are taken for the fourth
    low, high = figure_intervals(probabilities, labels, probabilities)["macro_precision"]
    assert (low, high) == (pytest.approx(1 - metrics.wilson_interval(0, 60)[1]), 1)


def test_the_calibration_error_that_chance_makes():
    rng = np.random.default_rng(0)
    probabilities = softmax(rng.normal(0, 2, (300, 4)))
    labels = (rng.random((200, 300, 1)) > probabilities.cumsum(axis=1)[:, :-1]).sum(axis=2)
    errors = [metrics.expected_calibration_error(probabilities, drawn) for drawn in labels]
    mean, most = calibration_error_by_chance(probabilities.max(axis=1))
    assert mean == pytest.approx(np.mean(errors), abs=0.003) and most == pytest.approx(
        np.quantile(errors, 0.95), abs=0.006
    )
    few, _ = calibration_error_by_chance(probabilities[:30].max(axis=1))
    assert few > 2 * mean, "the fewer photos, the more chance"
    confidence = probabilities.max(axis=1)
    assert calibration_error_by_chance(np.stack([confidence] * 3)) == pytest.approx((mean, most)), "the same photos"


def test_the_interval_of_kappa():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, 400)
    second = np.where(rng.random(400) < 0.7, first, rng.integers(0, 5, 400))
    drawn = rng.integers(0, 400, (500, 400))
    expected = np.quantile([reference.cohen_kappa_score(first[each], second[each]) for each in drawn], [0.025, 0.975])
    draws = PhotoDraws(400)
    assert draws.of_kappa(first, second) == pytest.approx(expected, abs=0.01)
    low, high = draws.of_kappa(first, first)  # 4 of 400 may differ: no more was seen
    assert 0.98 < low < 0.99 and high == 1
    assert draws.of_kappa(first * 0, first * 0) == (-1, 1), "one class says nothing of agreement"
    few = PhotoDraws(3).of_kappa(np.array([0, 0, 1]), np.array([0, 0, 0]))  # draws of one class alone
    assert -1 <= few[0] <= few[1] <= 1


def test_as_many_answers_reach_the_threshold_as_are_right(logits_and_labels):
    logits, labels = logits_and_labels
    calibration = Calibration.fit(Outputs(logits[:300]), labels[:300])
    shares = []
    for outputs, truth in ((Outputs(logits[:300]), labels[:300]), (Outputs(logits[300:]), labels[300:])):
        probabilities, verdicts = calibration.apply(outputs)
        named = np.isin(verdicts, NAMING)
        reached = (probabilities[named].max(axis=1) >= calibration.right_threshold).mean()
        shares.append((reached, (probabilities.argmax(axis=1) == truth)[named].mean()))
    (fitted, right), (estimated, right_elsewhere) = shares
    assert fitted == right and 0.3 < right < 0.9
    assert abs(estimated - right_elsewhere) < 0.06
    # Of harder photos fewer are right, and fewer reach it.
    probabilities, _ = calibration.apply(Outputs(0.4 * logits[300:]))
    assert (probabilities.max(axis=1) >= calibration.right_threshold).mean() < estimated - 0.1


@pytest.mark.parametrize(
    ("right", "threshold"), [([True, False, True, False], 0.8), ([True] * 4, 0.1), ([False] * 4, 1 + 1e-9), ([], None)]
)
def test_the_threshold_of_right_answers_at_its_ends(right, threshold):
    confidence = np.array([0.9, 0.1, 0.2, 0.8])[: len(right)]
    assert _fit_right_threshold(confidence, np.array(right, bool)) == threshold
