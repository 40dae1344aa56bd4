import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import BREED_FOLDERS, ROOT, make_photo, make_photo_folder, run_cli
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from dogbreeds.calibration import Outputs, Verdict, softmax
from dogbreeds.errors import UserError
from dogbreeds.images import BadImage, open_image
from dogbreeds.research.evaluate import evaluate, photos_of
from dogbreeds.run_folder import SHIPPED_RUNS
from dogbreeds.serving.heat_map import MAX_SIDE, overlay
from dogbreeds.serving.model_set import TOP_K, ModelSet
from dogbreeds.serving.network import Network
from dogbreeds.serving.predictor import Predictor, evidence
from dogbreeds.training.export import MAX_DIFFERENCE, export_serving_model
from dogbreeds.training.heat_maps import ServingModel
from dogbreeds.training.models.build import build_model
from dogbreeds.training.models.inspection import classifier_of
from dogbreeds.training.options import ModelOptions
from dogbreeds.training.train import train


@pytest.fixture(scope="module")
def predictor(tiny_run):
    return Predictor(tiny_run)


@pytest.mark.parametrize("label", range(4))
def test_the_breed_is_recognised(predictor, label):
    prediction = predictor.predict(make_photo(label, 1234), top_k=3)
    assert prediction.breeds[0].breed == predictor.run.labels[label]
    probabilities = [candidate.probability for candidate in prediction.breeds]
    assert probabilities == sorted(probabilities, reverse=True) and 0 < sum(probabilities) <= 1 + 1e-9
    assert prediction.heat_map.max() <= 1 and prediction.heat_map.min() >= 0 and prediction.heat_map.shape == (4, 4)
    assert prediction.seconds > 0


def test_photos_answered_together_get_the_answers_they_get_alone(predictor):
    photos = [make_photo(label, 40 + label, size) for label, size in enumerate([(56, 48), (90, 40), (33, 71)])]
    for photo, prediction in zip(photos, predictor.predict_images(photos, top_k=4), strict=True):
        alone = predictor.predict(photo, top_k=4)
        assert [c.breed for c in prediction.breeds] == [c.breed for c in alone.breeds]
        assert [c.probability for c in prediction.breeds] == pytest.approx([c.probability for c in alone.breeds])
        np.testing.assert_allclose(prediction.heat_map, alone.heat_map, atol=1e-4)
        assert prediction.region == alone.region and prediction.verdict == alone.verdict


def test_those_who_ask_at_the_same_time_get_their_own_answers(predictor):
    models, photos = ModelSet([predictor]), [make_photo(number % 4, number) for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        predictions = list(pool.map(lambda photo: models.predict("tiny", photo), photos))
    for photo, prediction in zip(photos, predictions, strict=True):
        alone = predictor.predict(photo, top_k=TOP_K)
        assert [c.breed for c in prediction.breeds] == [c.breed for c in alone.breeds]
        assert [c.probability for c in prediction.breeds] == pytest.approx([c.probability for c in alone.breeds])


def test_an_opened_photo_is_not_opened_again_and_has_one_softmax(predictor, monkeypatch):
    calls = []
    monkeypatch.setattr("dogbreeds.serving.predictor.open_image", lambda *_, **__: pytest.fail("opened again"))
    monkeypatch.setattr("dogbreeds.calibration.softmax", lambda logits: calls.append(logits.shape) or softmax(logits))
    assert ModelSet([predictor]).compare(make_photo(2, 1))["tiny"].breeds[0].breed == "Beagle"
    assert calls == [(1, 4)]


def test_the_region_is_in_shares_of_the_photo(predictor):
    assert predictor.predict(make_photo(0, 0, (96, 48))).region == (0.25, 0, 0.75, 1)
    assert predictor.predict(make_photo(0, 0, (48, 96))).region == (0, 0.25, 1, 0.75)


def test_a_large_jpeg_is_decoded_small_and_answered_the_same(predictor, tmp_path):
    photo = make_photo(1, 3, (60, 48)).resize((1200, 960), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "photo.jpg", quality=95)
    assert open_image(tmp_path / "photo.jpg", at_least=predictor.run.preprocessing.decoded_side).size == (150, 120)
    whole, small = predictor.predict(photo), predictor.predict(tmp_path / "photo.jpg")
    assert small.region == whole.region
    for mine, theirs in zip(small.breeds, whole.breeds, strict=True):
        assert mine.breed == theirs.breed and mine.probability == pytest.approx(theirs.probability, abs=0.03)


def test_probabilities_are_those_of_transformers(predictor, tiny_run):
    theirs = pipeline("image-classification", model=str(tiny_run), top_k=4)
    for seed, size in enumerate([(56, 48), (90, 40), (33, 71), (224, 224)]):
        photo = make_photo(seed % 4, seed, size)
        ours = {c.breed: c.probability for c in predictor.predict(photo, top_k=4).breeds}
        assert ours == pytest.approx({entry["label"]: entry["score"] for entry in theirs(photo)}, abs=0.01)


def test_the_verdict_follows_the_calibration(predictor):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8))
    logits = predictor.logits(predictor.run.preprocessing(noise)[None])
    assert predictor.predict(noise).verdict == predictor.run.calibration.apply(Outputs(logits))[1][0]
    verdicts = {predictor.predict(make_photo(label, seed)).verdict for label in range(4) for seed in range(5)}
    assert "confident" in verdicts


@pytest.mark.parametrize("name", ["vit_nano", pytest.param("resnet_nano", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_heat_maps_are_what_they_are_said_to_be(name, checkpoints, tmp_path):
    torch.manual_seed(0)
    model = build_model(ModelOptions(model=str(checkpoints / name)), 32, ("a", "b", "c")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    exported = export_serving_model(model, tmp_path / "model.onnx", 32)
    assert max(exported.differences.values()) <= MAX_DIFFERENCE
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        logits, features, heat_maps = ServingModel(model, 32)(pixels)
    torch.testing.assert_close(logits, model(pixels).logits)
    torch.testing.assert_close(classifier_of(model)[1](features), logits)
    if name == "resnet_nano":
        # The class activation map is exact: its mean is the logit.
        torch.testing.assert_close(heat_maps.mean((2, 3)), logits, atol=1e-5, rtol=1e-4)
    else:
        # To first order, what the last attention layer adds to a logit by way of one patch.
        assert heat_maps.shape == (2, 3, 4, 4)
        torch.testing.assert_close(heat_maps, attributed(model, pixels), atol=1e-5, rtol=1e-4)


def attributed(model, pixels):
    """The same attribution by another way: the logit's derivative along each patch's attention output."""
    base = model.base_model
    layer, kept = base.layers[-1], {}
    hooks = [
        layer.attention.register_forward_hook(lambda module, inputs, output: kept.update(hidden=inputs[0])),
        base.layernorm.register_forward_pre_hook(lambda module, inputs: kept.update(last=inputs[0])),
    ]
    with torch.no_grad():
        base(pixels)
    for hook in hooks:
        hook.remove()
    attention, hidden = layer.attention, kept["hidden"]
    heads, size = attention.num_attention_heads, attention.head_dim
    batch, length = hidden.shape[:2]
    found = torch.zeros(batch, model.num_labels, length - 1)
    with torch.no_grad():
        query, key, value = (
            getattr(attention, f"{kind}_proj")(hidden).reshape(batch, length, heads, size).transpose(1, 2)
            for kind in "qkv"
        )
        weights = (query @ key.transpose(2, 3) / size**0.5).softmax(-1)[:, :, 0]
        deviation = kept["last"][:, 0].std(-1, unbiased=False)
        for patch in range(1, length):
            one = (weights[:, :, patch, None] * value[:, :, patch]).reshape(batch, -1)
            given = one @ attention.o_proj.weight.T
            given = (given - given.mean(-1, keepdim=True)) / deviation[:, None] * base.layernorm.weight
            found[:, :, patch - 1] = given @ model.classifier.weight.T
    side = round((length - 1) ** 0.5)
    return found.reshape(batch, -1, side, side)


def test_an_export_that_differs_is_refused(tiny_run, tmp_path, monkeypatch):
    """Here that of other weights."""
    from dogbreeds.run_folder import ONNX

    model = build_model(ModelOptions(model="vit_nano"), 32, BREED_FOLDERS)
    monkeypatch.setattr(
        "dogbreeds.training.export.export_onnx", lambda module, path, *_: shutil.copy(tiny_run / ONNX, path)
    )
    with pytest.raises(RuntimeError, match="differs from PyTorch"):
        export_serving_model(model, tmp_path / "model.onnx", 32)


def test_the_export_tells_nothing_of_the_machine(predictor):
    from dogbreeds.run_folder import DEFAULT_RUN, ONNX

    for file in (predictor.run.onnx, DEFAULT_RUN / ONNX):
        content = file.read_bytes()
        assert b"site-packages" not in content and str(ROOT).encode() not in content


def test_other_libraries_give_calibrated_probabilities(tiny_run, predictor):
    view = predictor.run.preprocessing(make_photo(1, 1))[None]
    expected = predictor.run.calibration.probabilities(predictor.logits(view))
    assert np.abs(softmax(predictor.logits(view)) - expected).max() > 0.01  # the temperature makes a difference
    with torch.no_grad():
        logits = AutoModelForImageClassification.from_pretrained(tiny_run)(torch.from_numpy(view)).logits
    np.testing.assert_allclose(softmax(logits.numpy()), expected, atol=1e-5)
    np.testing.assert_allclose(logits * predictor.run.record.logit_scale, predictor.logits(view), atol=1e-4)
    logits = onnxruntime.InferenceSession(predictor.run.onnx).run(["logits"], {"pixel_values": view})[0]
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-5)
    card = (tiny_run / "README.md").read_text(encoding="utf-8")
    assert "other libraries give calibrated probabilities too" in card


@pytest.mark.parametrize("run", SHIPPED_RUNS, ids=lambda run: run.name)
def test_a_shipped_model_gives_calibrated_probabilities(run):
    predictor = Predictor(run)
    view = predictor.run.preprocessing(make_photo(1, 1))[None]
    logits = onnxruntime.InferenceSession(predictor.run.onnx).run(["logits"], {"pixel_values": view})[0]
    expected = predictor.run.calibration.probabilities(predictor.logits(view))
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-5)


def test_the_overlay_shows_the_photo_and_what_was_seen(predictor):
    photo = make_photo(0, 0, (1200, 600))
    picture = overlay(photo, predictor.predict(photo))
    assert picture.mode == "RGB" and picture.size == (MAX_SIDE, MAX_SIDE // 2)
    pixels = np.asarray(picture, float)
    grey = (pixels.max(-1) - pixels.min(-1)).max(0) == 0
    assert grey[:195].all() and grey[-195:].all() and not grey[205:595].any()


def test_evidence_is_relative_to_the_other_classes():
    rng = np.random.default_rng(0)
    heat_maps = rng.normal(0, 1, (5, 4, 4))
    heat_maps[2, 1, 3] += 20
    found = evidence(heat_maps, 2)
    assert found.shape == (4, 4) and found.max() == found[1, 3] == 1 and found.min() == 0
    for_all_classes = rng.normal(0, 10, (1, 4, 4))
    np.testing.assert_allclose(evidence(heat_maps + for_all_classes, 2), found, atol=1e-6)
    assert (evidence(np.zeros((5, 4, 4)), 0) == 0).all()


def test_a_bad_photo_is_a_sentence(predictor):
    with pytest.raises(BadImage, match="empty"):
        predictor.predict(b"")


# The command line


def test_predict_prints_one_json_object_a_line(tiny_run, tmp_path, monkeypatch, capsys):
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    make_photo(2, 50).save(good)
    bad.write_bytes(b"")
    status, out, _ = run_cli(
        monkeypatch, capsys, "predict", good, bad, good, "--json", "--top-k", 2, "--run-dir", tiny_run
    )
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 1 and len(lines) == 3
    assert all(list(line) == ["path", "verdict", "breeds", "candidates", "group", "seconds", "error"] for line in lines)
    assert lines[0]["path"] == str(good) and lines[0]["error"] is None
    assert lines[0]["verdict"] in ("confident", "unsure")
    assert [list(candidate) for candidate in lines[0]["breeds"]] == [["breed", "probability"]] * 2
    assert lines[0]["breeds"][0]["breed"] == "Beagle"
    assert lines[1]["verdict"] is None and lines[1]["breeds"] == [] and "empty" in lines[1]["error"]
    assert lines[2]["breeds"] == lines[0]["breeds"]


def test_predict_speaks_to_a_person(tiny_run, tmp_path, monkeypatch, capsys):
    make_photo(2, 50).save(tmp_path / "good.png")
    arguments = ["predict", tmp_path / "good.png", tmp_path / "none.png", "--run-dir", tiny_run]
    status, out, err = run_cli(monkeypatch, capsys, *arguments)
    assert status == 1 and "Beagle" in out and "%" in out
    assert "none.png" in err and "no file" in err and "Traceback" not in err
    monkeypatch.chdir(tmp_path)
    status, out, err = run_cli(monkeypatch, capsys, "predict", "./good.png", "--run-dir", tiny_run)
    assert out.startswith("./good.png: ")
    assert status == 0 and not err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict"], "no photo is named"),
        (["predict", "x.jpg", "--top-k", "0"], "--top-k 0"),
        (["predict", "x.jpg", "--run-dir", "nowhere"], "no run folder"),
        (["evaluate", "--data", "nowhere/at/all"], "no data folder"),
    ],
)
def test_mistakes_are_one_line(arguments, words, monkeypatch, capsys):
    status, out, err = run_cli(monkeypatch, capsys, *arguments)
    assert status == 2 and not out and words in err and err.count("\n") == 1


@pytest.mark.slow
def test_evaluate_agrees_with_transformers(photo_folder, tiny_run, monkeypatch, capsys):
    status, out, _ = run_cli(monkeypatch, capsys, "evaluate", "--data", photo_folder, "--run-dir", tiny_run, "--json")
    figures = json.loads(out)
    theirs = pipeline("image-classification", model=str(tiny_run), top_k=1)
    names = dict(zip(BREED_FOLDERS, Predictor(tiny_run).run.labels, strict=True))
    paths = sorted(photo_folder.rglob("*.png"))
    right = [theirs(str(path))[0]["label"] == names[path.parent.name] for path in paths]
    assert status == 0 and figures["n"] == len(paths) == 40
    assert figures["top1"] == pytest.approx(np.mean(right))
    predictor = Predictor(tiny_run)
    sure = [predictor.predict(path).verdict == "confident" for path in paths]
    assert figures["share_confident"] == pytest.approx(np.mean(sure))
    assert figures["top1_confident"] == pytest.approx(np.array(right)[sure].mean())
    assert sum(figures[f"share_{verdict}"] for verdict in get_args(Verdict)) == pytest.approx(1)


def test_evaluate_cuts_the_split_of_the_training(photo_folder, tiny_run, tmp_path, monkeypatch, capsys):
    arguments = ["evaluate", "--data", photo_folder, "--run-dir", tiny_run, "--split", "validation", "--json"]
    status, out, _ = run_cli(monkeypatch, capsys, *arguments)
    expected = json.loads((tiny_run / "run.json").read_text())["figures"]["validation"]
    figures = json.loads(out)
    assert status == 0 and figures["n"] == expected["n"]
    assert figures["log_loss"] == pytest.approx(expected["log_loss"], abs=1e-3)
    other = make_photo_folder(tmp_path / "other", num_photos=5)
    arguments[2] = other
    status, _, err = run_cli(monkeypatch, capsys, *arguments)
    assert status == 2 and "not the data that the run" in err


def test_evaluate_counts_and_names_what_it_can_not_read(tiny_run, tmp_path, monkeypatch, capsys):
    folder = make_photo_folder(tmp_path / "data", num_photos=2)
    (folder / BREED_FOLDERS[0] / "broken.jpg").write_bytes(b"no photo")
    status, out, err = run_cli(monkeypatch, capsys, "evaluate", "--data", folder, "--run-dir", tiny_run, "--json")
    assert status == 1 and "broken.jpg" in err
    assert json.loads(out)["n"] == 8 and json.loads(out)["num_unreadable"] == 1


def test_a_part_of_the_breeds_is_scored_among_all(tiny_run, tmp_path):
    folder = make_photo_folder(tmp_path / "data", num_breeds=2)
    predictor = Predictor(tiny_run)
    photos = photos_of(predictor, str(folder))
    assert photos.names == ("Chihuahua", "Shih-Tzu")
    assert evaluate(predictor, photos, progress=False).figures["n"] == 20


def test_breeds_that_a_run_does_not_know_are_named(tiny_run, tmp_path):
    folder = make_photo_folder(tmp_path / "data")
    (folder / "pug").mkdir()
    make_photo(0, 0).save(folder / "pug" / "a.png")
    predictor = Predictor(tiny_run)
    with pytest.raises(UserError, match="does not know 1 of the breeds in this data, such as 'Pug'"):
        evaluate(predictor, photos_of(predictor, str(folder)), progress=False)


@pytest.mark.parametrize(("num_threads", "passes"), [(2, [4, 2]), (1, [1] * 6)])
def test_many_photos_go_through_the_network_a_few_at_a_time(tiny_run, num_threads, passes, monkeypatch):
    """Then the photo of twelve dogs takes no more memory than that of three."""
    predictor = Predictor(tiny_run, num_threads=num_threads)
    pixels = np.stack([predictor.run.preprocessing(make_photo(number % 4, number)) for number in range(6)])
    alone = np.concatenate([predictor.logits(each[None]) for each in pixels])
    sizes, one_pass = [], Network.one_pass
    monkeypatch.setattr(
        Network, "one_pass", lambda self, names, part: sizes.append(len(part)) or one_pass(self, names, part)
    )
    np.testing.assert_allclose(predictor.logits(pixels), alone, atol=1e-5)
    assert sizes == passes


@pytest.mark.slow
def test_a_checkpoint_of_13_breeds_serves_13(tmp_path, photo_folder):
    from conftest import tiny_config

    run = train(tiny_config(photo_folder, tmp_path / "run", epochs=1, breeds=("beagle", "Chihuahua")))
    predictor = Predictor(run)
    assert predictor.run.labels == ("Chihuahua", "Beagle")
    # ... and is judged on them, where the data holds more
    assert evaluate(predictor, photos_of(predictor, str(photo_folder)), progress=False).figures["n"] == 20


def test_the_scripts_explain_every_option():
    import subprocess
    import sys

    from dogbreeds.training.options import OPTIONS

    for script in ("train_vit.py", "train_cnn_baseline.py"):
        text = subprocess.run(
            [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for option in OPTIONS:
            assert "--" + option.replace("_", "-") in text, option
