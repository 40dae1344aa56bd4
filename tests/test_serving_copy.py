import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from typing import get_args

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from conftest import ROOT, drawings_beside, make_photo, scene
from PIL import Image

from dogbreeds import run_folder
from dogbreeds.calibration import Verdict, softmax
from dogbreeds.errors import UserError
from dogbreeds.files import write_json
from dogbreeds.model_card import model_card
from dogbreeds.predictions import Predictions
from dogbreeds.research import serving_copy
from dogbreeds.research.evaluate import evaluate, photos_of
from dogbreeds.research.serving_copy import export_serving_copy
from dogbreeds.run_folder import RunFolder
from dogbreeds.serving.predictor import Predictor
from dogbreeds.training.quantize import MAX_WEIGHT, quantize_onnx

PHOTOS = [make_photo(label, 100 + label, size) for label, size in enumerate([(56, 48), (90, 40), (33, 71), (60, 60)])]


@pytest.fixture(scope="module")
def int8_copy(tiny_run, tmp_path_factory):
    output = tmp_path_factory.mktemp("copies") / "tiny-int8"
    return export_serving_copy(tiny_run, output, precision="int8", progress=False)


def views(predictor):
    return np.stack([predictor.run.preprocessing(photo) for photo in PHOTOS])


def outputs(predictor):
    session = onnxruntime.InferenceSession(predictor.run.onnx)
    return [session.run(["logits", "heat_map"], {"pixel_values": view[None]}) for view in views(predictor)]


def test_an_8_bit_copy_is_a_run_folder_without_what_only_training_needs(int8_copy, tiny_run):
    files = {str(path.relative_to(int8_copy)) for path in int8_copy.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "config.json",
        "history.csv",
        "onnx/model_quantized.onnx",
        "predictions-validation.parquet",
        "preprocessor_config.json",
        "run.json",
        "splits.parquet",
    }
    run, original = RunFolder.open(int8_copy), RunFolder.open(tiny_run)
    assert run.is_8bit and not original.is_8bit
    assert run.labels == original.labels and run.preprocessing == original.preprocessing
    assert run.record.config == original.record.config and run.record.data == original.record.data


def test_an_8_bit_copy_answers_nearly_as_the_run(int8_copy, tiny_run):
    copy, original = Predictor(int8_copy), Predictor(tiny_run)
    expected = original.logits(views(original))
    assert np.abs(copy.logits(views(copy)) - expected).max() < 0.05 * np.abs(expected).max()
    for (_, mine), (_, theirs) in zip(outputs(copy), outputs(original), strict=True):
        assert mine.shape == theirs.shape
        assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > 0.99
    for photo in PHOTOS:
        mine, theirs = copy.predict(photo), original.predict(photo)
        assert mine.breeds[0].breed == theirs.breeds[0].breed


def test_the_weights_are_8_bit_and_tell_nothing_of_the_machine(int8_copy, tiny_run):
    weights = onnx.load(RunFolder.open(int8_copy).onnx).graph.initializer
    num_8bit = sum(int(np.prod(tensor.dims)) for tensor in weights if tensor.data_type == onnx.TensorProto.INT8)
    config = RunFolder.open(tiny_run).config
    width, mlp_width = config["hidden_size"], config["intermediate_size"]
    # Of the last layer, what acts on the class token alone is no product of matrices; it is float32.
    in_layers = (config["num_hidden_layers"] - 1) * (4 * width * width + 2 * width * mlp_width) + 3 * width * width
    assert in_layers <= num_8bit < 1.05 * in_layers  # and the zeros of their scales
    matrices = [onnx.numpy_helper.to_array(tensor) for tensor in weights if tensor.data_type == onnx.TensorProto.INT8]
    assert max(np.abs(matrix.astype(int)).max() for matrix in matrices) == MAX_WEIGHT
    assert 2 * 255 * MAX_WEIGHT < 2**15  # the sum that any x86 CPU can hold
    content = RunFolder.open(int8_copy).onnx.read_bytes()
    for secret in ("site-packages", str(ROOT), "/tmp", str(tiny_run)):
        assert secret.encode() not in content


def test_the_shipped_8_bit_model_computes_the_same_on_every_cpu():
    weights = onnx.load(RunFolder.open(run_folder.PRETRAINED / "vit_tiny").onnx).graph.initializer
    large = [tensor for tensor in weights if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2]
    assert large and max(np.abs(onnx.numpy_helper.to_array(each).astype(int)).max() for each in large) <= MAX_WEIGHT


@pytest.mark.slow
def test_the_shipped_8_bit_model_answers_the_same_in_plain_onnx_runtime():
    """Optimised, the products are of whole numbers; without any optimisation, of the float32 that these stand for."""
    predictor = Predictor(run_folder.PRETRAINED / "vit_tiny")
    drawn, rng, photos = drawings_beside("white_dog"), np.random.default_rng(0), []
    for seed in range(100):  # a part of the drawing, and other colours over it
        side = rng.uniform(0.5, 1) * drawn.height
        left, top = rng.uniform(0, drawn.width - side), rng.uniform(0, drawn.height - side)
        part = drawn.crop((int(left), int(top), int(left + side), int(top + side))).resize((224, 224))
        photos.append(Image.blend(part, scene(seed, (224, 224)), 0.3))
    pixels = np.stack([predictor.run.preprocessing(photo) for photo in photos])
    plain, not_optimised = onnxruntime.SessionOptions(), onnxruntime.SessionOptions()
    not_optimised.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [onnxruntime.InferenceSession(predictor.run.onnx, options) for options in (plain, not_optimised)]
    ours = predictor.logits(pixels)
    by_default, exact = (
        np.concatenate([session.run(["logits"], {"pixel_values": view[None]})[0] for view in pixels])
        for session in sessions
    )
    assert (by_default.argmax(axis=1) == ours.argmax(axis=1)).mean() >= 0.97
    # What is rounded differs, by which an answer that is hardly ahead of another may change.
    ahead = np.diff(np.sort(ours, axis=1)[:, -2:])[:, 0] >= 0.5
    assert ahead.sum() >= 30 and len(set(ours[ahead].argmax(axis=1))) > 5
    assert (exact.argmax(axis=1) == ours.argmax(axis=1))[ahead].mean() >= 0.97


def test_an_8_bit_answer_does_not_depend_on_its_neighbours(int8_copy):
    predictor = Predictor(int8_copy)
    pixels = views(predictor)
    alone = np.concatenate([predictor.logits(view[None]) for view in pixels])
    np.testing.assert_allclose(predictor.logits(pixels), alone, atol=1e-4)


def two_products(tmp_path, second_matrix):
    """A model of two products; one of 64 numbers is a thousand times as large when it comes to the second."""
    graph = onnx.parser.parse_graph(
        """g (float[N, 5, 64] pixel_values) => (float[N, 5, 64] first, float[N, 5, 64] second) {
            first = MatMul(pixel_values, w1)
            scaled = Mul(pixel_values, scale)
            second = MatMul(scaled, w2)
        }"""
    )
    for node, name in zip(graph.node, ("first", "scale", "second"), strict=True):
        node.name = name
    scale = np.ones(64, np.float32)
    scale[7] = 1000
    w1 = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
    for name, values in (("w1", w1), ("scale", scale), ("w2", second_matrix)):
        graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "source.onnx")
    pixels = np.random.default_rng(1).normal(0, 1, (20, 5, 64)).astype(np.float32)
    pixels[..., 7] = np.sign(pixels[..., 7])
    stay_float32 = quantize_onnx(tmp_path / "source.onnx", tmp_path / "target.onnx", pixels)
    sessions = [
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        for name in ("source.onnx", "target.onnx")
    ]
    errors = [
        np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)
        for theirs, mine in zip(*(session.run(None, {"pixel_values": pixels}) for session in sessions), strict=True)
    ]
    return stay_float32, errors


def test_a_product_that_8_bits_would_spoil_stays_float32(tmp_path):
    matrix = np.random.default_rng(2).normal(0, 1, (64, 64)).astype(np.float32)
    matrix[7] = 0  # the large number takes all steps, and is of no use
    stay_float32, errors = two_products(tmp_path, matrix)
    assert stay_float32 == ["second"]
    assert all(0 < error < 0.03 for error in errors)  # the second's, for the first needs 8-bit pixels; else it is 1


def test_a_product_that_keeps_its_result_is_8_bit(tmp_path):
    matrix = np.zeros((64, 64), np.float32)
    matrix[7] = 1  # nothing but the large number counts
    stay_float32, errors = two_products(tmp_path, matrix)
    assert stay_float32 == [] and all(0 < error < 0.03 for error in errors)


@pytest.mark.slow
def test_a_cnn_is_8_bit_up_to_its_features(tmp_path):
    shipped = RunFolder.open(run_folder.PRETRAINED / "mobilenet_v2")
    pixels = np.stack([shipped.preprocessing(make_photo(label, 50 + label)) for label in range(4)])
    assert quantize_onnx(shipped.onnx, tmp_path / "target.onnx", pixels) == []
    nodes = onnx.load(tmp_path / "target.onnx").graph.node
    from_8bit = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    float32 = [node for node in convolutions if node.input[1] not in from_8bit]
    assert len(convolutions) == 53 and [list(node.output) for node in float32] == [["heat_map"]]


@pytest.mark.parametrize(("milliseconds", "precision"), [((10.0, 9.0), "int8"), ((10.0, 11.0), "float32")])
def test_it_is_8_bit_where_that_is_faster(tiny_run, tmp_path, monkeypatch, capsys, milliseconds, precision):
    times = [{"median": value, "p95": value, "n": 1} for value in milliseconds]
    monkeypatch.setattr(serving_copy, "latencies", lambda predictors, photos: times)
    run = RunFolder.open(export_serving_copy(tiny_run, tmp_path / "copy", progress=False))
    assert run.record.precision == precision and run.is_8bit == (precision == "int8")
    assert not (run.path / "onnx" / ("model_quantized.onnx" if precision == "float32" else "model.onnx")).exists()
    said = {
        "int8": "it takes 9.0 ms, and 10.0 ms in float32 (",
        "float32": "would be no faster here: 11.0 ms a photo instead of 10.0 ms: the copy is float32",
    }
    (line,) = capsys.readouterr().err.splitlines()
    assert said[precision] in line
    if precision == "int8":
        top1, before = run.record.figures["validation"]["top1"], run.record.float32_top1
        assert line.startswith("copy: it computes with 8-bit numbers. On the same validation photos top-1 is ")
        assert f" {top1:.1%}, and {before:.1%} in float32; from file to answer" in line


def test_an_8_bit_copy_is_measured_and_calibrated_anew(int8_copy, tiny_run, photo_folder):
    predictor, original = Predictor(int8_copy), Predictor(tiny_run)
    record = predictor.run.record
    assert predictor.run.calibration != original.run.calibration
    assert set(record.figures) == {"validation"}
    assert record.export_difference is None and record.precision == "int8"
    assert "export_difference" not in json.loads((int8_copy / "run.json").read_text())
    assert record.float32_top1 == original.run.record.figures["validation"]["top1"]
    assert record.milliseconds_per_photo.keys() == original.run.record.milliseconds_per_photo.keys()
    found = evaluate(predictor, photos_of(predictor, str(photo_folder), "validation"), progress=False)
    figures = record.figures["validation"]
    assert figures.keys() == original.run.record.figures["validation"].keys()
    for name, value in found.figures.items():
        if name in figures:
            assert figures[name] == pytest.approx(value), name
    assert sum(figures[f"share_{verdict}"] for verdict in get_args(Verdict)) == pytest.approx(1)
    saved = Predictions.load(int8_copy / "predictions-validation.parquet")
    assert saved.ids == found.predictions.ids and saved.digests == found.predictions.digests
    np.testing.assert_allclose(saved.probabilities, found.predictions.probabilities, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_copy_of_a_run_that_was_calibrated_on_other_photos_keeps_that(tiny_run, tmp_path, precision):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    record = RunFolder.open(run).record
    calibration = replace(record.calibration, unknown_breed_threshold=0.5, fitted_on={"dogs": 120, "other dogs": 60})
    everyday = {"n": 9, **dict.fromkeys(("top1", "top3", "ece", "share_confident", "share_unsure"), 0.5)}
    everyday |= {"share_not_a_dog": 0.0, "share_unknown_breed": 0.0}
    calibrated = replace(
        record,
        calibration=calibration,
        figures={**record.figures, "everyday": everyday},
        calibration_command="calibrate",
    )
    write_json(run / "run.json", calibrated.to_json())
    (run / run_folder.CALIBRATION_PHOTOS).write_text("sha256,kind,use\n")
    copy = RunFolder.open(export_serving_copy(run, tmp_path / "copy", precision=precision, progress=False))
    assert asdict(copy.calibration) == asdict(calibration) and copy.record.calibration_command == "calibrate"
    assert ("everyday" in copy.record.figures) == (precision == "float32")
    assert (copy.path / run_folder.CALIBRATION_PHOTOS).read_text() == "sha256,kind,use\n"


def test_the_card_says_what_the_copy_is(int8_copy, tiny_run):
    command = json.loads((int8_copy / "run.json").read_text())["export_command"]
    assert command == f"python -m dogbreeds export {tiny_run} --output {int8_copy} --precision int8"
    card = (int8_copy / "README.md").read_text()
    assert "# tiny-int8\n" in card and command in card
    assert "`onnx/model_quantized.onnx` takes" in card and "8-bit numbers" in card
    assert "transformers.js opens it" in card
    assert "`pipeline` of transformers do not open this folder: it has the ONNX model alone" in card
    assert "do not open this folder" not in (tiny_run / "README.md").read_text()
    assert "library_name" not in card and "library_name: transformers" in (tiny_run / "README.md").read_text()


def test_a_copy_answers_with_neither_torch_nor_transformers(int8_copy, tmp_path):
    PHOTOS[0].save(tmp_path / "photo.png")
    script = (
        "import sys; from dogbreeds.serving.predictor import Predictor\n"
        f"Predictor({str(int8_copy)!r}).predict({str(tmp_path / 'photo.png')!r})\n"
        "assert not {'torch', 'transformers', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_a_loss_that_is_too_large_is_refused(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serving_copy, "MAX_TOP1_LOSS", -1.0)
    with pytest.raises(UserError, match=r"top-1 \S+% on validation instead of \S+%; use --precision float32"):
        export_serving_copy(tiny_run, tmp_path / "copy", precision="int8", progress=False)
    assert not list(tmp_path.iterdir())
    run = RunFolder.open(export_serving_copy(tiny_run, tmp_path / "copy", progress=False))
    assert not run.is_8bit and "would lose too much" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_copy_of_a_run_that_was_calibrated_again_gives_others_calibrated_probabilities(tiny_run, tmp_path, precision):
    shutil.copytree(tiny_run, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["calibration"] |= {"temperature": 2.5, "fitted_on": {"dogs": 200}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    (tmp_path / "run" / "README.md").write_text(model_card("run", RunFolder.open(tmp_path / "run").record, "abcd"))
    assert "divide the logits of its files by" in (tmp_path / "run" / "README.md").read_text()
    copy = Predictor(export_serving_copy(tmp_path / "run", tmp_path / "copy", precision=precision, progress=False))
    pixels = views(copy)
    logits = onnxruntime.InferenceSession(copy.run.onnx).run(["logits"], {"pixel_values": pixels})[0]
    expected = softmax(copy.logits(pixels) / 2.5)
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-5)
    if precision == "float32":
        np.testing.assert_allclose(copy.logits(pixels), Predictor(tiny_run).logits(pixels), atol=1e-4)


def test_other_photos_are_refused(tiny_run, tmp_path):
    for label in range(2):
        (tmp_path / "photos" / f"breed{label}").mkdir(parents=True)
        for seed in range(6):
            make_photo(label, seed).save(tmp_path / "photos" / f"breed{label}" / f"{seed}.png")
    with pytest.raises(UserError, match="not the data that the run 'tiny' was trained on"):
        export_serving_copy(tiny_run, tmp_path / "copy", data=str(tmp_path / "photos"), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_float32_copy_is_the_run_without_its_photos(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(serving_copy, "splits_of", None)
    copy = Predictor(export_serving_copy(tiny_run, tmp_path / "copy", precision="float32"))
    original = Predictor(tiny_run)
    assert np.array_equal(copy.logits(views(copy)), original.logits(views(original)))
    assert copy.run.calibration == original.run.calibration and not copy.run.is_8bit
    assert copy.run.record.figures == original.run.record.figures
    names = {path.name for path in copy.run.path.iterdir()}
    left_out = {"model.safetensors", *(path.name for path in tiny_run.glob("*-*.csv"))}
    assert names == {path.name for path in tiny_run.iterdir()} - left_out
    assert "8-bit" not in (copy.run.path / "README.md").read_text()
    assert copy.run.onnx.name == "model.onnx"


def test_what_exists_is_never_touched(tiny_run, tmp_path):
    for name in ("copy", "copy.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").touch()
        with pytest.raises(UserError, match=rf"{name}' exists already: give another --output"):
            export_serving_copy(tiny_run, tmp_path / "copy", precision="float32")
        assert (tmp_path / name / "mine.txt").exists()
        shutil.rmtree(tmp_path / name)


def test_a_copy_of_an_8_bit_copy_is_refused(int8_copy, tmp_path):
    with pytest.raises(UserError, match="name the run that it was made from"):
        export_serving_copy(int8_copy, tmp_path / "copy")


@pytest.mark.parametrize("value", ["../model.onnx", "onnx/other.onnx", None, ["onnx/model.onnx"]])
def test_a_damaged_serving_model_is_named(int8_copy, tmp_path, value):
    copy = shutil.copytree(int8_copy, tmp_path / "copy")
    record = json.loads((copy / "run.json").read_text())
    write_json(copy / "run.json", {**record, "serving_model": value})
    with pytest.raises(UserError, match=r"run\.json is damaged: its serving_model is"):
        RunFolder.open(copy)


def test_a_damaged_8_bit_model_is_named(int8_copy, tmp_path):
    copy = shutil.copytree(int8_copy, tmp_path / "copy")
    with (copy / "onnx" / "model_quantized.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"model_quantized\.onnx is not the file"):
        RunFolder.open(copy)
