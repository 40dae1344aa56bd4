"""Run folders that are damaged, or a stranger's who means harm: one line each, never an answer."""

import ast
import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from dogbreeds.dog_probe import DogProbe
from dogbreeds.errors import UserError
from dogbreeds.files import sha256
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.serving import network, trial
from dogbreeds.serving.predictor import Predictor

SIDE, NUM_LABELS, NUM_FEATURES = 32, 4, 3
MODEL = "onnx/model.onnx"
RECORD = {
    "format": 1,
    "created": "2025-09-01T00:00:00+00:00",
    "command": "python train_vit.py",
    "config": {
        "model": "vit_nano",
        "data": "dogs",
        "breeds": [],
        "seed": 0,
        "image_size": SIDE,
        "from_scratch": True,
        "freeze_backbone": False,
    },
    "data": {
        "num_train": 90,
        "num_validation": 10,
        "num_test": 0,
        "left_out": [],
        "fingerprint": "f0",
        "split_hash": "5a",
    },
    "num_epochs": 5,
    "best_epoch": 4,
    "calibration": {
        "temperature": 0.9,
        "not_a_dog_threshold": -1.0,
        "confident_threshold": 0.7,
        "dog_probe": DogProbe(np.ones(NUM_FEATURES, np.float32), 0.5).to_text(),
        "dog_probe_threshold": -9.0,
    },
    "figures": {"validation": {"n": 10, "top1": 0.8}},
    "num_parameters": 200,
    "num_trained_parameters": 100,
    "seconds": {"training": 6.1},
    "hardware": "2 CPU cores",
    "mixed_precision": "no",
    "versions": {"python": "3.11.7"},
}
CONFIG = {"id2label": {"0": "Chihuahua", "1": "Shih-Tzu", "2": "Beagle", "3": "Golden retriever"}}
PREPROCESSOR = Preprocessing(SIDE).to_preprocessor_config("ViTImageProcessor")
NAN, INFINITY, ESCAPE, ABSENT = float("nan"), float("inf"), "\x1b[2J\x1b[31mBeagle", object()


def probe(*numbers):
    return DogProbe(np.array(numbers[:-1], np.float32), numbers[-1]).to_text()


DAMAGED_VALUES = [
    *[("run.json", "format", value) for value in (ABSENT, None, "1", 2, [1])],
    *[("run.json", "calibration.temperature", value) for value in (0, -1, 1e-300, 1e300, NAN, INFINITY, "hot", True)],
    *[("run.json", "built_in_temperature", value) for value in (0, -1, NAN, INFINITY, "hot")],
    *[("run.json", "calibration.not_a_dog_threshold", value) for value in (NAN, -INFINITY, None, [])],
    *[("run.json", "calibration.confident_threshold", value) for value in (NAN, 7, -0.1)],
    *[("run.json", f"calibration.{name}", NAN) for name in ("confident_score", "unknown_breed_threshold")],
    *[("run.json", f"calibration.{name}", INFINITY) for name in ("sure_margin", "seen_score", "dog_probe_threshold")],
    *[("run.json", "calibration.candidates_probability", value) for value in (NAN, 2)],
    *[("run.json", "calibration.fitted_on", value) for value in ({"dogs": -1}, {ESCAPE: 1}, [1])],
    *[("run.json", "calibration.dog_probe", value) for value in (5, "????", "AAA=", "", "ä", probe(1, 1, 1, NAN))],
    *[
        ("run.json", "calibration.dog_probe", value)
        for value in (probe(1, INFINITY, 1, 1), probe(1, 1, 1), probe(*[1] * 9))
    ],
    *[("run.json", "config", value) for value in (ABSENT, [], "vit")],
    *[("run.json", f"config.{name}", {}) for name in RECORD["config"]],
    ("run.json", "config.image_size", -224),
    ("run.json", "config.model", ESCAPE),
    *[("run.json", f"data.{name}", value) for name in ("num_train", "num_test") for value in (-1, 1.5, 10**400)],
    ("run.json", "data.left_out", [{"id": 1}]),
    *[("run.json", "figures", value) for value in ({"test": {"top1": NAN}}, {"test": {"n": 9, "top1": 37}}, [])],
    ("run.json", "figures", {"test": {"n": 10**400}}),
    *[("run.json", name, -1) for name in ("num_epochs", "best_epoch", "num_parameters", "flops_per_photo")],
    *[("run.json", name, ESCAPE) for name in ("command", "created", "hardware", "mixed_precision", "model_type")],
    *[("run.json", name, 5) for name in ("hub", "time", "versions", "base_run", "milliseconds_per_photo", "sha256")],
    ("run.json", "seconds", {"training": INFINITY}),
    ("run.json", "command", "\ud800"),
    *[("run.json", "serving_model", value) for value in ("../model.onnx", "/etc/passwd", None, 5)],
    *[
        ("config.json", "id2label", value)
        for value in (ABSENT, [], {}, None, 5, "Beagle", {"0": "Pug"}, ["Pug", "Boxer"])
    ],
    *[
        ("config.json", "id2label.1", value)
        for value in (ABSENT, None, 5, "", ESCAPE, "Beagle\n", "\u202eelgaeB", "a" * 10**6)
    ],
    *[("config.json", "id2label.1", value) for value in ("Chihuahua", ["Pug"], "\ud800", "\u2028")],
    *[
        ("config.json", "label_names", value)
        for value in ([], ["Pug"], ["Pug"] * 4, 5, [1, 2, 3, 4], {"0": "Pug"}, "Dogs")
    ],
    *[
        ("preprocessor_config.json", "image_mean", value)
        for value in (ABSENT, [0.5] * 2, [NAN] * 3, 0.5, ["a"] * 3, [1e9] * 3)
    ],
    *[
        ("preprocessor_config.json", "image_std", value)
        for value in (None, [0.5, 0, 0.5], [-1] * 3, [INFINITY] * 3, [1e-40] * 3)
    ],
    *[
        ("preprocessor_config.json", "size", value)
        for value in (ABSENT, "32", [], {"shortest_edge": 10**9}, {"shortest_edge": 16})
    ],
    *[("preprocessor_config.json", "size", value) for value in ({"shortest_edge": NAN}, {"shortest_edge": None}, True)],
    *[
        ("preprocessor_config.json", "crop_size", {"height": n, "width": n})
        for n in (0, -32, 10**6, 32.5, "32", True, None, NAN)
    ],
    *[("preprocessor_config.json", "crop_size", value) for value in ({"height": 32}, {"height": 32, "width": 16}, 64)],
    *[("preprocessor_config.json", "resample", value) for value in (3, None, "\x1b[2J")],
    *[("preprocessor_config.json", f"do_{name}", False) for name in ("resize", "rescale", "normalize")],
    ("preprocessor_config.json", "do_center_crop", "no"),
    ("preprocessor_config.json", "rescale_factor", 1),
    *[
        ("preprocessor_config.json", "dogbreeds_steps", value)
        for value in ([], {ESCAPE: True}, {"zca": {"kernel": 10**400}})
    ],
    (
        "preprocessor_config.json",
        "dogbreeds_steps",
        {"zca": {"kernel": np.zeros((3, 3, 99, 99)).tolist(), "bias": [0] * 3}},
    ),
]
"""A file, a key in it, and the value that it gets."""

DAMAGED_FILES = {
    "empty": lambda file: file.write_bytes(b""),
    "no JSON": lambda file: file.write_bytes(b"\x80\x04\x95 pickled"),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "a list": lambda file: file.write_text("[1, 2]"),
    "nested": lambda file: file.write_text('{"a": ' + "[" * 10**6),
    "a huge number": lambda file: file.write_text('{"format": ' + "1" * 10**5 + "}"),
    "huge": lambda file: os.truncate(file, 10 * 2**30),  # which takes no room on the disk
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a device": lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
    "a link to itself": lambda file: (file.unlink(), file.symlink_to(file.name)),
    "a link to nothing": lambda file: (file.unlink(), file.symlink_to("nothing")),
    "a link out": lambda file: file.symlink_to(file.rename(file.parents[2] / f"elsewhere-{file.name}")),
}


# Networks: pixels -> their mean of each channel, which are the features -> logits


def value(name, shape, type_=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, type_, shape)


PIXELS = value("pixel_values", ["batch", 3, SIDE, SIDE])
LOGITS, FEATURES = value("logits", ["batch", NUM_LABELS]), value("features", ["batch", NUM_FEATURES])
HEAT_MAP = value("heat_map", ["batch", NUM_LABELS, SIDE, SIDE])
WEIGHTS = np.random.default_rng(0).normal(size=(NUM_FEATURES, NUM_LABELS)).astype(np.float32)


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def graph_of(*more, logits="fine", constants=(), inputs=(PIXELS,), outputs=(LOGITS, FEATURES, HEAT_MAP), **options):
    """The network with more nodes; `logits` of them, and the features as they should be in `f`."""
    nodes = [
        node("GlobalAveragePool", "pixel_values", "pooled"),
        node("Flatten", "pooled", "f"),
        node("MatMul", "f w", "fine"),
        node("Conv", "pixel_values conv", "map"),
        *more,
    ]
    made = {name for each in nodes for name in each.output}
    for name, source in (("logits", logits), ("features", "f"), ("heat_map", "map")):
        if name not in made and name in {output.name for output in outputs}:
            nodes.append(node("Identity", source, name))
    weights = {"w": WEIGHTS, "conv": WEIGHTS.T[:, :, None, None].copy(), **dict(constants)}
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "dogs", list(inputs), list(outputs), tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("stranger", 1)]
    return helper.make_model(graph, ir_version=8, **{"opset_imports": opsets, **options})


def with_external_data(location):
    model = graph_of()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", "0"), ("length", str(WEIGHTS.nbytes))):
        tensor.external_data.add(key=key, value=text)
    return model


def loop(count, *more, **options):
    """Logits after this many steps; `count` is the name of an int64."""
    outer = [value("step", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("sum", [])]
    body = helper.make_graph(
        [node("Identity", "go", "still"), node("Add", "sum one", "next")],
        "body",
        outer,
        [value("still", [], TensorProto.BOOL), value("next", [])],
        [numpy_helper.from_array(np.float32(1), "one")],
    )
    constants = {"yes": np.bool_(True), "zero": np.float32(0), **options.pop("constants", {})}
    nodes = (*more, node("Loop", f"{count} yes zero", "turns", body=body), node("Add", "fine turns", "logits"))
    return graph_of(*nodes, constants=constants, **options)


BRIGHT = (  # 0 for the noise of the trial, about 2^60 for a white photo
    node("ReduceMean", "pixel_values", "mean", keepdims=0),
    node("Sub", "mean half", "over"),
    node("Relu", "over", "positive"),
    node("Mul", "positive big", "scaled"),
    node("Cast", "scaled", "many", to=TensorProto.INT64),
)
BRIGHT_CONSTANTS = {"half": np.float32(0.5), "big": np.float32(2.0**61)}


def functions_in_functions(depth):
    """Each calls the one before twice."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("stranger", 1)]
    functions = []
    for level in range(depth):
        inner = {"domain": "stranger"} if level else {}
        name = f"F{level - 1}" if level else "Neg"
        nodes = [node(name, "x", "a", **inner), node(name, "a", "y", **inner)]
        functions.append(helper.make_function("stranger", f"F{level}", ["x"], ["y"], nodes, opsets))
    return graph_of(node(f"F{depth - 1}", "fine", "logits", domain="stranger"), functions=functions)


def branches_in_branches(depth):
    """Bytes: GraphProto.node, NodeProto.attribute, AttributeProto.g, again and again, in ModelProto.graph."""
    content = b""
    for field in (*[6, 5, 1] * depth, 7):
        length = len(content)
        number = b""
        while length > 127:
            number, length = number + bytes([length & 127 | 128]), length >> 7
        content = bytes([field << 3 | 2]) + number + bytes([length]) + content
    return content


def larger_than_it_looks():
    """16 times larger with each node."""
    nodes = [node("Concat", " ".join([f"x{level}"] * 16), f"x{level + 1}", axis=0) for level in range(12)]
    flat = node("Flatten", "pixel_values", "x0")
    return graph_of(flat, *nodes, node("ReduceMax", "x12", "most", keepdims=0), node("Add", "fine most", "logits"))


HUGE = np.array([1000, 1000, 1000, 1000], np.int64)
HEALTHY = graph_of().SerializeToString()

HOSTILE_GRAPHS = {
    "empty": b"",
    "cut": HEALTHY[: len(HEALTHY) // 2],
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n",
    "noise": np.random.default_rng(0).bytes(9999),
    "another input": graph_of(inputs=[PIXELS, value("password", [1])]),
    "no input": graph_of(
        logits="k", inputs=[], constants={"pixel_values": np.zeros((1, 3, 2, 2), np.float32), "k": WEIGHTS}
    ),
    "input of bytes": graph_of(inputs=[value("pixel_values", ["batch", 3, SIDE, SIDE], TensorProto.UINT8)]),
    "input of another name": graph_of(
        node("Identity", "photo", "pixel_values"), inputs=[value("photo", [1, 3, 32, 32])]
    ),
    "input of another size": graph_of(inputs=[value("pixel_values", ["batch", 3, 64, 64])]),
    "input of one channel": graph_of(inputs=[value("pixel_values", ["batch", 1, SIDE, SIDE])]),
    "input of one photo": graph_of(inputs=[value("pixel_values", [1, 3, SIDE, SIDE])]),
    "no logits": graph_of(outputs=[FEATURES]),
    "no features": graph_of(outputs=[LOGITS]),
    "logits of another number": graph_of(
        constants={"w": np.ones((3, 5), np.float32)}, outputs=[value("logits", ["batch", 5]), FEATURES]
    ),
    "logits that lie": graph_of(node("Concat", "fine fine", "logits", axis=1), outputs=[LOGITS, FEATURES]),
    "logits of one dimension": graph_of(
        node("ReduceMax", "fine", "logits", axes=[1], keepdims=0), outputs=[value("logits", ["batch"]), FEATURES]
    ),
    "logits of the whole batch": graph_of(node("ReduceMax", "fine", "logits", axes=[0]), outputs=[LOGITS, FEATURES]),
    "whole logits": graph_of(
        node("Cast", "fine", "logits", to=TensorProto.INT64),
        outputs=[value("logits", ["batch", 4], TensorProto.INT64), FEATURES],
    ),
    "double logits": graph_of(
        node("Cast", "fine", "logits", to=TensorProto.DOUBLE),
        outputs=[value("logits", ["batch", 4], TensorProto.DOUBLE), FEATURES],
    ),
    "logits in a sequence": graph_of(
        node("SequenceConstruct", "fine", "logits"),
        outputs=[helper.make_tensor_sequence_value_info("logits", TensorProto.FLOAT, None), FEATURES],
    ),
    "NaN": graph_of(
        node("Sqrt", "minus", "nan"), node("Add", "fine nan", "logits"), constants={"minus": np.float32(-1)}
    ),
    "infinite": graph_of(
        node("Mul", "fine most", "more"), node("Mul", "more most", "logits"), constants={"most": np.float32(1e38)}
    ),
    "NaN features": graph_of(
        node("Log", "minus", "nan"), node("Add", "f nan", "features"), constants={"minus": np.float32(-1)}
    ),
    "NaN heat map": graph_of(
        node("Log", "minus", "nan"), node("Add", "map nan", "heat_map"), constants={"minus": np.float32(-1)}
    ),
    "features of another number": graph_of(
        node("Concat", "f f", "features", axis=1), outputs=[LOGITS, value("features", ["batch", 6])]
    ),
    "heat map of another number": graph_of(node("Concat", "map map", "heat_map", axis=1)),
    "heat map of two dimensions": graph_of(node("ReduceMax", "map", "heat_map", axes=[2, 3], keepdims=0)),
    "heat map of no place": graph_of(
        node("Slice", "map start start", "heat_map"), constants={"start": np.zeros(4, np.int64)}
    ),
    "weights in another file": with_external_data("weights.bin"),
    "weights outside": with_external_data("../../../weights.bin"),
    "weights of the system": with_external_data("/dev/zero"),
    "an operator of nobody": graph_of(node("Fetch", "fine", "logits")),
    "an operator of a stranger": graph_of(node("Fetch", "fine", "logits", domain="stranger")),
    "a cycle": graph_of(node("Add", "fine b", "a"), node("Add", "a fine", "b"), logits="b"),
    "a version to come": graph_of(opset_imports=[helper.make_opsetid("", 999)]),
    "escape codes": graph_of(helper.make_node("Fetch", ["fine"], ["logits"], name="\x1b[2J\n\x1b]0;owned\x07")),
}
"""Those that can be tried out in this process."""

MEMORY = r"takes more than [\d.]+ GB of memory"
DANGEROUS_GRAPHS = {
    "a constant of terabytes": (
        graph_of(
            node("ConstantOfShape", "huge", "c"),
            node("ReduceMax", "c", "most", keepdims=0),
            node("Add", "fine most", "logits"),
            constants={"huge": HUGE},
        ),
        MEMORY,
    ),
    "computed while it is loaded": (
        graph_of(
            node("Expand", "one huge", "c"),
            node("ReduceMax", "c", "most", keepdims=0),
            node("Add", "fine most", "logits"),
            constants={"huge": HUGE // [1, 1, 1, 500], "one": np.ones(1, np.float32)},
        ),
        MEMORY,
    ),
    "larger with each node": (larger_than_it_looks(), MEMORY),
    "functions in functions": (functions_in_functions(40), f"takes more than 1 s|{MEMORY}"),
    "branches in branches": (branches_in_branches(3000), "can't be (used|loaded)"),
    "a loop without end": (loop("many", constants={"many": np.int64(2**62)}), "takes more than 1 s"),
}
"""Those that must be tried out in a process of their own, and what is said of them."""


def write_run(folder, *, record=RECORD, config=CONFIG, preprocessor=PREPROCESSOR, model=HEALTHY):
    """A run folder whose hashes are right, whatever it holds: who means harm writes them too."""
    (folder / "onnx").mkdir(parents=True)
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / MODEL).write_bytes(content)
    for name, values in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        (folder / name).write_text(json.dumps(values))
    hashes = {name: sha256(folder / name) for name in ("config.json", "preprocessor_config.json", MODEL)}
    (folder / "run.json").write_text(json.dumps({"sha256": hashes, **record}))
    return folder


def refusal(run):
    """The line that the run is refused with."""
    with pytest.raises(UserError) as error:
        answer = Predictor(run).predict(Image.new("RGB", (SIDE, SIDE), "white"))
        raise AssertionError(f"it answers: {answer}")
    line = str(error.value)
    assert line.isprintable() and len(line) < 1000, line
    return line


@pytest.fixture
def tried_here(monkeypatch):
    """Models are tried out in this process, which is faster."""

    def try_out(file, digest):
        assert file.is_limited and re.fullmatch(r"\w{64}", digest)
        if trial.has_external_data(Path(file.path)):
            raise file.fault("some of its weights are in another file")
        if fault := trial.fault_of(file):
            raise UserError(fault)

    monkeypatch.setattr(trial, "try_out", try_out)


def changed(values, key, new):
    values = copy.deepcopy(values)
    *outer, last = key.split(".")
    inside = values
    for name in outer:
        inside = inside[name]
    inside[last] = new
    if new is ABSENT:
        del inside[last]
    return values


def test_a_run_without_faults_answers(tmp_path):
    answer = Predictor(write_run(tmp_path / "run")).predict(Image.new("RGB", (SIDE, SIDE), "white"))
    assert len(answer.breeds) == NUM_LABELS and answer.heat_map is not None
    shared = Predictor(write_run(tmp_path / "8", preprocessor={**PREPROCESSOR, "resample": 2}))
    assert shared.run.labels == tuple(CONFIG["id2label"].values())


def test_a_model_that_was_tried_out_is_not_tried_again(tmp_path, monkeypatch):
    Predictor(write_run(tmp_path / "run"))
    monkeypatch.setattr(subprocess, "run", None)
    assert Predictor(write_run(tmp_path / "copy"))


def test_there_are_enough_hostile_runs():
    assert len(DAMAGED_VALUES) + 4 * len(DAMAGED_FILES) >= 67 and len(HOSTILE_GRAPHS) + len(DANGEROUS_GRAPHS) >= 26


@pytest.mark.usefixtures("tried_here")
@pytest.mark.parametrize(
    ("file", "key", "new"),
    DAMAGED_VALUES,
    ids=[f"{index}-{key}" for index, (_, key, _) in enumerate(DAMAGED_VALUES)],
)
def test_a_damaged_value_is_one_line(file, key, new, tmp_path):
    files = {"run.json": RECORD, "config.json": CONFIG, "preprocessor_config.json": PREPROCESSOR}
    record, config, preprocessor = (
        changed(values, key, new) if name == file else values for name, values in files.items()
    )
    line = refusal(write_run(tmp_path / "run", record=record, config=config, preprocessor=preprocessor))
    assert str(tmp_path / "run") in line


@pytest.mark.usefixtures("tried_here")
@pytest.mark.parametrize("file", ["run.json", "config.json", "preprocessor_config.json", MODEL])
@pytest.mark.parametrize("name", DAMAGED_FILES)
def test_a_damaged_file_is_one_line(name, file, tmp_path):
    run = write_run(tmp_path / "run")
    DAMAGED_FILES[name](run / file)
    line = refusal(run)
    assert str(run) in line and Path(file).name in line


@pytest.mark.usefixtures("tried_here")
@pytest.mark.parametrize("name", HOSTILE_GRAPHS)
def test_a_hostile_graph_is_one_line(name, tmp_path, capfd):
    run = write_run(tmp_path / "run", model=HOSTILE_GRAPHS[name])
    for folder in (run / "onnx", tmp_path):
        (folder / "weights.bin").write_bytes(WEIGHTS.tobytes())
    line = refusal(run)
    assert "can't be" in line or "of another run" in line
    assert capfd.readouterr() == ("", ""), "ONNX Runtime reports nothing itself"


@pytest.mark.parametrize("name", DANGEROUS_GRAPHS)
def test_a_dangerous_graph_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "SECONDS", 1)
    monkeypatch.setattr(trial, "memory_limit", lambda: 300 * 2**20)
    model, words = DANGEROUS_GRAPHS[name]
    assert re.search(words, refusal(write_run(tmp_path / "run", model=model)))


def test_a_photo_that_a_graph_waits_for_takes_no_time_and_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "SECONDS_PER_PHOTO", 1)
    loops = write_run(tmp_path / "loops", model=loop("many", *BRIGHT, constants=BRIGHT_CONSTANTS))
    assert "takes more than 1 s for a photo" in refusal(loops)
    fills = graph_of(
        *BRIGHT,
        node("Reshape", "many one", "shape"),
        node("ConstantOfShape", "shape", "filled"),
        node("ReduceMax", "filled", "most", keepdims=0),
        node("Relu", "most", "none"),
        node("Add", "fine none", "logits"),
        constants={**BRIGHT_CONSTANTS, "big": np.float32(2e10), "one": np.ones(1, np.int64)},
    )
    assert re.search(MEMORY, refusal(write_run(tmp_path / "fills", model=fills)))


def test_bytes_that_a_longer_number_hides_are_found(tmp_path):
    hidden = with_external_data("weights.bin").SerializeToString()
    key = b"\n\x08location"
    for longer in (b"\n\x88\x00location", b"\x8a\x00\x08location", b"\x8a\x80\x00\x88\x80\x80\x00location"):
        (tmp_path / "model.onnx").write_bytes(hidden.replace(key, longer))
        assert key in hidden and trial.has_external_data(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"\n\nallocation")
    assert not trial.has_external_data(tmp_path / "model.onnx")


@pytest.mark.parametrize("case", ["labels", "memory"])
def test_predict_says_one_line(case, tmp_path):
    run = {
        "labels": lambda: write_run(tmp_path / "run", config=changed(CONFIG, "id2label.1", ESCAPE)),
        "memory": lambda: write_run(tmp_path / "run", model=DANGEROUS_GRAPHS["a constant of terabytes"][0]),
    }[case]()
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "photo.png")
    command = [sys.executable, "-m", "dogbreeds", "predict", str(tmp_path / "photo.png"), "--run-dir", str(run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"error: [^\n]*\n", done.stderr) and done.stderr[:-1].isprintable(), done.stderr


CODE_LOADERS = {"from_pretrained", "from_config", "load_dataset", "pipeline"}


def test_every_call_that_could_run_a_folders_code_forbids_it():
    allowed, num_calls = [], 0
    for file in [*(ROOT / "dogbreeds").rglob("*.py"), *(ROOT / "tests/benchmarks").glob("*.py")]:
        for call in ast.walk(ast.parse(file.read_text())):
            name = getattr(getattr(call, "func", None), "attr", getattr(getattr(call, "func", None), "id", None))
            if isinstance(call, ast.Call) and name in CODE_LOADERS:
                num_calls += 1
                said = [ast.unparse(each.value) for each in call.keywords if each.arg == "trust_remote_code"]
                allowed += [f"{file.name}:{call.lineno}"] if said != ["False"] else []
    assert num_calls >= 8 and not allowed, allowed
