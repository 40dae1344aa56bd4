"""Photos made worse, and what runs answer to them."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import BREED_FOLDERS, make_photo, run_cli, scene
from filelock import FileLock
from report_files import check_pictures, latex_tables

from dogbreeds.calibration_photos import DIGEST_DIGITS
from dogbreeds.errors import UserError
from dogbreeds.files import read_json, write_json
from dogbreeds.metrics import wilson_interval
from dogbreeds.photos import photo_digest
from dogbreeds.research import robustness as robustness_module
from dogbreeds.research.benchmark import known_photos
from dogbreeds.research.corruptions import CORRUPTIONS, NUM_SEVERITIES, SIDE, corrupted, to_scale
from dogbreeds.research.robustness import robustness
from dogbreeds.research.significance import bootstrap_interval, sign_flip
from dogbreeds.run_folder import RunFolder


@pytest.fixture(scope="module")
def new_photos(tmp_path_factory):
    """Of three breeds, that no run has seen."""
    folder = tmp_path_factory.mktemp("new")
    for label, name in enumerate(BREED_FOLDERS[:3]):
        (folder / name).mkdir()
        for seed in (70, 71):
            make_photo(label, seed).save(folder / name / f"{seed}.png")
    return folder


def distance(first, second) -> float:
    return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_strength_is_worse_than_the_one_before_and_repeats(name):
    photo = to_scale(scene(3, (400, 300)).effect_spread(9))  # with an edge and a grain
    assert min(photo.size) == SIDE
    photos = [corrupted(photo, name, severity, seed=5) for severity in range(1, NUM_SEVERITIES + 1)]
    assert all(each.size == photo.size and each.mode == "RGB" for each in photos)
    assert np.array_equal(photos[2], corrupted(photo, name, 3, seed=5))
    if name == "shuffled":  # how far pixels move says nothing; they stay the same, but for what does not divide
        for parts, shuffled in zip(CORRUPTIONS[name][1], photos, strict=True):
            whole = [int(side // parts * parts) for side in photo.size]
            before, after = (np.sort(np.asarray(each.crop((0, 0, *whole))).ravel()) for each in (photo, shuffled))
            assert np.array_equal(before, after)
            assert distance(photo, shuffled) > 5
        return
    others = [np.median(each, axis=(0, 1)) for each in photos] if name == "small" else [photo] * NUM_SEVERITIES
    distances = [distance(*pair) for pair in zip(others, photos, strict=True)]
    steps = np.diff(distances) * (-1 if name == "small" else 1)  # the less there is besides the ground, the smaller
    assert distances[0] > 0.1 and all(steps > 0)


def test_what_only_a_study_does():
    photo = to_scale(scene(3, (400, 300)))
    grey = np.asarray(corrupted(photo, "grey", 5, seed=0), int)
    assert np.ptp(grey, axis=2).max() <= 1
    covered = np.asarray(corrupted(photo, "covered", 5, seed=1)) != np.asarray(photo)
    assert 0.45 < covered.any(axis=2).mean() <= 0.51
    small = np.asarray(corrupted(photo, "small", 5, seed=1))
    ground = (small == small[0, 0]).all(axis=2) | (small == small[-1, -1]).all(axis=2)
    assert 0.94 < ground.mean() < 0.99  # a fifth of the side


def test_the_figures_come_from_the_answers_to_each_photo(tiny_run, new_photos, tmp_path, monkeypatch, capsys):
    shutil.copytree(tiny_run, tmp_path / "hot")
    record = read_json(tmp_path / "hot" / "run.json")
    record["calibration"]["temperature"] *= 3
    write_json(tmp_path / "hot" / "run.json", record)
    command = ["robustness", tiny_run, tmp_path / "hot", "--data", new_photos, "--output", tmp_path / "report"]
    status, printed, _ = run_cli(monkeypatch, capsys, *command, "--severities", 2, 4)
    assert status == 0 and "6 photos of" in printed and "| shuffled |" in printed
    assert (tmp_path / "report" / "pictures" / "robustness.png").stat().st_size > 10_000
    report = (tmp_path / "report" / "robustness.md").read_text()
    assert "(pictures/robustness.png)" in report and "hot: ECE" in report
    check_pictures(tmp_path / "report" / "pictures", {"robustness"}, "tiny", "hot", "covered", "top-1, %")
    assert "<table>" in (tmp_path / "report" / "robustness.html").read_text()
    top1, sure, less = latex_tables((tmp_path / "report" / "robustness.tex").read_text()).values()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines() if line[:1] == "|"]
    assert [row for row in cells if set(row) != {"---"}] == [*top1, *sure, *less]
    answers = list(csv.DictReader((tmp_path / "report" / "answers.csv").open()))
    scores = list(csv.DictReader((tmp_path / "report" / "robustness.csv").open()))
    assert len(scores) == 2 * (1 + 2 * len(CORRUPTIONS)) and len(answers) == 6 * len(scores)
    for score in scores:
        keys = ("run", "corruption", "severity")
        own = [row for row in answers if all(row[key] == score[key] for key in keys)]
        right = [row["label"] == row["breed"] for row in own]
        assert len(own) == 6 and float(score["top1"]) == pytest.approx(np.mean(right))
        sure = [row["verdict"] == "confident" for row in own]
        assert float(score["confident"]) == pytest.approx(np.mean(sure))
        # Of one condition all answers are of other photos.
        edges = float(score["confident_low"]), float(score["confident_high"])
        assert edges == pytest.approx(wilson_interval(sum(sure), 6))
        if not any(sure):
            assert not score["top1_confident"] and not score["top1_confident_low"]
            continue
        num_right = sum(is_right and is_sure for is_right, is_sure in zip(right, sure, strict=True))
        assert float(score["top1_confident"]) == pytest.approx(num_right / sum(sure))
        edges = float(score["top1_confident_low"]), float(score["top1_confident_high"])
        assert edges == pytest.approx(wilson_interval(num_right, sum(sure)))
    # A temperature changes no breed, and makes answers less sure.
    top1, sure = (
        {run: [row[key] for row in answers if row["run"] == run] for run in ("tiny", "hot")}
        for key in ("breed", "probability")
    )
    assert top1["tiny"] == top1["hot"] and np.mean(list(map(float, sure["tiny"]))) > np.mean(
        list(map(float, sure["hot"]))
    )
    assert "| tiny | hot | noise | +0.0 (-39.0 to +39.0) | p = 1.000 |" in report  # of six photos that agree


def test_photos_that_a_run_knows_are_left_out(tiny_run, photo_folder, new_photos, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(new_photos, mixed)
    shutil.copytree(photo_folder, mixed, dirs_exist_ok=True)
    found = robustness([tiny_run], str(mixed), severities=[1], progress=False)
    known = known_photos(RunFolder.open(tiny_run))
    assert found.num_known >= 24 and len(found.labels) == 46 - found.num_known
    assert f"Left out are {found.num_known} photos that one of the runs" in str(found)
    assert "Left out is 1 photo that one of the runs" in str(replace(found, num_known=1))
    assert not [digest for digest in found.digests if digest[:DIGEST_DIGITS] in known]
    for path in mixed.rglob("*.png"):
        if photo_digest(path.read_bytes())[:DIGEST_DIGITS] not in known:
            path.unlink()
    with pytest.raises(UserError, match=f"none of the {found.num_known} photos is left: {found.num_known} were used"):
        robustness([tiny_run], str(mixed), severities=[1], progress=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--severities", "6"], "--severities 6: must be from 1 to 5"),
        (["--severities"], "--severities: name one or more, from 1 to 5"),
        (["--num-photos", "0"], "--num-photos 0: must be 1 or more"),
        (["no/run"], "is neither a folder here"),
    ],
)
def test_mistakes_are_one_line(arguments, words, tiny_run, new_photos, monkeypatch, capsys):
    data = [] if "--data" in arguments else ["--data", new_photos]
    status, out, err = run_cli(monkeypatch, capsys, "robustness", tiny_run, *arguments, *data)
    assert status == 2 and not out and words in err and err.count("\n") == 1


def test_a_strength_that_is_named_twice_counts_once(tiny_run, new_photos):
    once, twice = (
        robustness([tiny_run], str(new_photos), num_photos=1, severities=severities, progress=False)
        for severities in ([1, 3], [3, 1, 1])
    )
    assert once.conditions == twice.conditions and len(once.conditions) == 1 + 2 * len(CORRUPTIONS)


def test_no_interval_is_without_width():
    right = np.array([[True] * 20, [False] * 20, [True, False] * 10])
    assert robustness_module._interval(right[:1]) == wilson_interval(20, 20)
    assert robustness_module._interval(right[:2]) == pytest.approx(bootstrap_interval(right[:2].mean(axis=0)))
    assert robustness_module._interval(right[[0, 0]]) == wilson_interval(20, 20)
    assert robustness_module._interval(right[[1, 1]]) == wilson_interval(0, 20)
    assert robustness_module._interval(right[2:]) == wilson_interval(10, 20)


def test_signs_that_are_flipped():
    rng = np.random.default_rng(0)
    far = rng.normal(1, 1, 200)  # no draw is as far: the normal distribution tells
    assert 1e-40 < sign_flip(far) < 1e-15 and sign_flip(-far) == sign_flip(far)
    assert sign_flip(np.zeros(9)) == 1.0
    assert sign_flip(np.array([0.5])) == 1.0  # either sign of one difference is as far from 0
    assert sign_flip(rng.normal(0, 1, 200)) > 0.05
    assert sign_flip(rng.normal(0.5, 1, 200)) < 0.001
    few = np.array([1.0, 1.0, 1.0])
    assert sign_flip(few) == pytest.approx(0.25)  # two of eight


def test_an_ended_command_continues(tiny_run, new_photos, tmp_path, monkeypatch, capsys, charts_are_blank):
    whole = robustness([tiny_run], str(new_photos), severities=[1], progress=False)
    command = ["robustness", tiny_run, "--data", new_photos, "--output", tmp_path / "report", "--severities", 1]
    unfinished = tmp_path / "report.answers"
    answered = robustness_module._answered
    num_answered = 0

    def killed_at_the_third(*photo):
        nonlocal num_answered
        num_answered += 1
        if num_answered == 3:
            raise KeyboardInterrupt
        return answered(*photo)

    monkeypatch.setattr(robustness_module, "_answered", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        robustness([tiny_run], str(new_photos), severities=[1], unfinished=unfinished, progress=False)
    with unfinished.open("ab") as file:
        file.write(b'["cut sho')  # as by a kill
    status, _, err = run_cli(monkeypatch, capsys, *command[:-1], 2)
    assert status == 2 and "was begun with other runs or options: delete it" in err and err.count("\n") == 1
    with FileLock(f"{unfinished}.lock"):
        status, _, err = run_cli(monkeypatch, capsys, *command)
    assert status == 2 and "another process is writing" in err and err.count("\n") == 1
    num_answered = 10
    status, printed, err = run_cli(monkeypatch, capsys, *command)
    assert status == 0 and "continuing: 2 photos are answered" in err and num_answered == 10 + 4
    assert [path.name for path in tmp_path.iterdir()] == ["report"]  # nor are the kept answers or their lock
    text = str(whole)
    assert text in printed
    # Answers of what no file of answers is.
    unfinished.write_text('{"a": 1}\n5\n')
    shutil.rmtree(tmp_path / "report")
    status, _, err = run_cli(monkeypatch, capsys, *command)
    assert status == 2 and "holds no answers: move it away" in err and err.count("\n") == 1
    assert unfinished.read_text() == '{"a": 1}\n5\n'


def test_kept_answers_are_those_of_all_versions(tiny_run, new_photos, tmp_path):
    """A run of days is finished by the version of the day, which may want other figures of the same answers."""
    unfinished = tmp_path / "report.answers"
    found = robustness([tiny_run], str(new_photos), severities=[1, 5], unfinished=unfinished, progress=False)
    made_from, *answers = map(json.loads, unfinished.read_text().splitlines())
    assert list(made_from) == ["runs", "calibrations", "made worse"] and len(answers) == 6
    (run,) = found.runs
    for photo, (digest, (answer,)) in enumerate(sorted(answers)):
        assert digest == found.digests[photo] and list(answer) == ["predicted", "confidence", "verdicts"]
        assert answer["predicted"] == run.predicted[:, photo].tolist()
        assert answer["confidence"] == run.confidence[:, photo].tolist()
        assert answer["verdicts"] == run.verdicts[:, photo].tolist()


def test_strengths_are_no_other_photos(tiny_run, new_photos):
    found = robustness([tiny_run], str(new_photos), severities=[1, 2], progress=False)
    (run,), rng = found.runs, np.random.default_rng(0)
    n = 300
    found = replace(found, labels=np.zeros(n, int))
    hard = rng.random(n) < 0.4
    right, sure = np.stack([~hard, ~hard]), rng.random((2, n)) < 0.7
    verdicts = np.where(sure, "confident", "unsure")
    run = replace(run, right=right, confidence=np.where(sure, 0.95, 0.55), verdicts=verdicts)
    both, one = found.score(run, [0, 1]), found.score(run, [0])
    drawn = [rng.integers(0, n, n) for _ in range(2000)]

    def of_draws(figure):
        return pytest.approx(np.quantile([figure(photos) for photos in drawn], [0.025, 0.975]), abs=0.012)

    assert both.top1_confident == pytest.approx(right[sure].mean())
    assert both.top1_confident_interval == of_draws(lambda photos: right[:, photos][sure[:, photos]].mean())
    assert both.confident_interval == of_draws(lambda photos: sure[:, photos].mean())
    low, high = of_draws(
        lambda photos: expected_error(run.confidence[:, photos].ravel(), right[:, photos].ravel())
    ).expected
    assert both.ece == pytest.approx(expected_error(run.confidence.ravel(), right.ravel()))
    assert np.diff(both.ece_interval) == pytest.approx(high - low, abs=0.015)
    assert both.ece_interval[0] < both.ece < both.ece_interval[1]
    # The strengths of a photo agree, so that two tell hardly more than one, and chance makes nearly as much of both; of
    # other photos it would be 0.71.
    assert np.diff(both.top1_confident_interval) > 0.85 * np.diff(one.top1_confident_interval)
    assert both.ece_by_chance[0] > 0.8 * one.ece_by_chance[0]
    none = found.score(replace(run, verdicts=np.full((2, n), "unsure")), [0, 1])
    assert none.top1_confident is none.top1_confident_interval is None
    assert none.confident_interval == wilson_interval(0, n)


def expected_error(confidence, right):
    bins = np.minimum((confidence * 15).astype(int), 14)
    return sum(abs((right[bins == each] - confidence[bins == each]).sum()) for each in range(15)) / len(right)


def test_photos_that_are_drawn_and_cannot_be_read_make_room_for_others(tiny_run, new_photos, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(new_photos, mixed)
    files = sorted(mixed.rglob("*.png"), key=lambda path: photo_digest(path.read_bytes()))
    content = files[0].read_bytes()
    # One that is cut short, with the smallest digest of all.
    files[0].write_bytes(min((content[:-number] for number in range(20, 200)), key=photo_digest))
    assert photo_digest(files[0].read_bytes()) < photo_digest(files[1].read_bytes())
    found = robustness([tiny_run], str(mixed), severities=[1], num_photos=3, progress=False)
    assert found.digests == tuple(photo_digest(path.read_bytes()) for path in files[1:4])
    assert [photo.id.rpartition("/")[2] for photo in found.unreadable] == [files[0].name]
