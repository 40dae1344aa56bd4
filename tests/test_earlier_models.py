"""The networks of earlier projects, each all the way: trained, saved, exported, evaluated, served."""

import copy
import json

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from conftest import make_photo, tiny_config
from safetensors.torch import save_file
from timm.models import register_model, vgg
from timm.models.vgg import VGG
from timm.models.xception_aligned import XceptionAligned
from transformers import (
    AutoModelForImageClassification,
    BitConfig,
    ConvNextConfig,
    EfficientNetConfig,
    EfficientNetImageProcessor,
    LevitConfig,
    LevitForImageClassificationWithTeacher,
    MobileNetV1Config,
    MobileNetV2Config,
    MobileViTConfig,
    MobileViTImageProcessor,
    ResNetConfig,
    TimmWrapperConfig,
)

from dogbreeds.cli import evaluate
from dogbreeds.errors import UserError
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.run_folder import RunFolder
from dogbreeds.serving.page import cards
from dogbreeds.serving.page.texts import ENGLISH, FRENCH
from dogbreeds.serving.predictor import Predictor
from dogbreeds.training import export as export_module
from dogbreeds.training.earlier.convnet import ACTIVATIONS
from dogbreeds.training.earlier.losses import LOSSES, target_probabilities
from dogbreeds.training.export import export_onnx, export_serving_model
from dogbreeds.training.heat_maps import ServingModel, explain_dense
from dogbreeds.training.models.build import build_model, model_preprocessing
from dogbreeds.training.models.inspection import classifier_of
from dogbreeds.training.models.registry import ARCHITECTURES, CHECKPOINTS
from dogbreeds.training.optim import OPTIMIZERS, Schedule, build_optimizer
from dogbreeds.training.options import LossName, ModelOptions, OptimizerName, TrainConfig
from dogbreeds.training.train import fit, set_up, train
from dogbreeds.training.tuning import tune

NAMES = ("a", "b", "c")
NARROWER = {
    "vit": {"num_hidden_layers": 1},
    "vit_tiny": {"num_hidden_layers": 2},
    "my_vgg16": {"architecture": "narrow_vgg16"},
    "my_xception": {"architecture": "short_legacy_xception"},
}
"""What the networks from nothing with many weights or layers have less of here. The nano ones are what other tests
train."""


@register_model
def short_inception_resnet_v2(pretrained=False, num_classes=1000, **_):
    """With one block of each kind instead of 10, 20 and 10."""
    network = timm.create_model("inception_resnet_v2", num_classes=num_classes)
    network.repeat, network.repeat_1, network.repeat_2 = network.repeat[:1], network.repeat_1[:1], network.repeat_2[:1]
    return network


@register_model
def short_legacy_xception(pretrained=False, num_classes=1000, **_):
    """With one of the eight blocks in the middle, which are alike."""
    network = timm.create_model("legacy_xception", num_classes=num_classes)
    for number in range(5, 12):
        setattr(network, f"block{number}", torch.nn.Identity())
    return network


@register_model
def short_xception(pretrained=False, num_classes=1000, **_):
    """With the first and the last of 12 blocks, and few channels."""
    blocks = [
        {"in_chs": 64, "out_chs": 32, "stride": 2},
        {"in_chs": 32, "out_chs": (48, 48, 64), "stride": 1, "no_skip": True, "start_with_relu": False},
    ]
    return XceptionAligned(blocks, num_classes=num_classes)


def narrow_vgg(name: str, num_classes: int) -> VGG:
    """With an eighth of the channels and a fiftieth of the first dense layer's units."""
    layers = [layer if layer == "M" else layer // 8 for layer in vgg.cfgs[name]]
    return VGG(layers, num_classes=num_classes, mlp_ratio=0.02)


@register_model
def narrow_vgg16(pretrained=False, num_classes=1000, **_):
    return narrow_vgg("vgg16", num_classes)


@register_model
def narrow_vgg19(pretrained=False, num_classes=1000, **_):
    return narrow_vgg("vgg19", num_classes)


SMALL = {
    "mobilenet_v1": MobileNetV1Config(depth_multiplier=0.1, min_depth=4, image_size=32),
    "mobilenet_v2": MobileNetV2Config(depth_multiplier=0.1, min_depth=4, image_size=32),
    "resnet50": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="bottleneck"),
    "resnet50v2": BitConfig(embedding_size=32, hidden_sizes=[128, 256], depths=[1, 1], layer_type="preactivation"),
    "vgg16": TimmWrapperConfig(architecture="narrow_vgg16"),
    "vgg19": TimmWrapperConfig(architecture="narrow_vgg19"),
    "xception": TimmWrapperConfig(architecture="short_xception"),
    "inception_resnet_v2": TimmWrapperConfig(architecture="short_inception_resnet_v2", image_size=75),
    "mobilevit": MobileViTConfig(
        image_size=32,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 8, 16, 16, 16, 32],
        num_attention_heads=2,
    ),
    "levit": LevitConfig(
        image_size=64,  # which leaves 4 x 4 places, and then 2 x 2 and 1
        hidden_sizes=[16, 16, 16],
        key_dim=[8, 8, 8],
        depths=[1, 1, 1],
        num_attention_heads=[2, 2, 2],
        architectures=["LevitForImageClassificationWithTeacher"],
    ),
}
"""Of checkpoints their architecture, narrower or shorter than it is."""
FROZEN = ("resnet50", "resnet50v2", "vgg16")
"""Those of which the classifier alone is trained, so that both ways are gone; it takes a second export."""
ALIKE = ("cnn1", "cnn3", "cnn3v2", "cnn3v2_tuned", "cnn_32_64_64_64", "my_vgg16", "vgg19", "vit", "vit_tiny")
"""Those that differ from another one here, or from `vit_nano`, in their widths or their number of layers alone."""
LARGE = (
    "inception_resnet_v2",
    "levit",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilevit",
    "my_xception",
    "resnet50",
    "resnet50v2",
    "xception",
)
"""Those that have many layers even so, of which an export takes long."""


def each(names) -> list:
    """Parameters of a test, of which these are slow."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE + LARGE else name for name in names]


def config(tmp_path, model, **options) -> TrainConfig:
    return tiny_config("data", tmp_path / "run", model=str(model), **options)


def build(config, names):
    return build_model(config.model, config.preprocessing.image_size, names)


def preprocessing_of(config) -> Preprocessing:
    return model_preprocessing(config.model, config.preprocessing)


def assert_whole_way(options: TrainConfig, photo_folder, tmp_path, capsys) -> Predictor:
    run = RunFolder.open(train(options))
    said = capsys.readouterr().out
    assert np.isfinite(run.record.figures["validation"]["log_loss"])
    model = AutoModelForImageClassification.from_pretrained(run.path).eval()
    predictor, photo = Predictor(run), make_photo(1, 99)
    with torch.no_grad():
        logits = model(torch.from_numpy(run.preprocessing(photo))[None]).logits.numpy()
    assert run.record.built_in_temperature == run.calibration.temperature
    found = predictor.logits(run.preprocessing(photo)[None]) / run.calibration.temperature
    np.testing.assert_allclose(found, logits, atol=1e-3, rtol=1e-3)
    assert ("is served without heat maps: " in said) == (predictor.predict(photo).heat_map is None)
    for texts in (ENGLISH, FRENCH):
        prediction = predictor.predict(photo)
        assert "<img" in cards.picture(prediction, {None: photo}, texts) and run.name in cards.details(
            prediction, run.name, texts
        )
    capsys.readouterr()
    assert evaluate(str(photo_folder), run_dir=run.path, output=tmp_path / "evaluation.json") == 0
    assert "top-1" in capsys.readouterr().out
    return predictor


@pytest.mark.parametrize("name", each(name for name in ARCHITECTURES if not name.endswith("_nano")))
@pytest.mark.slow
def test_each_network_from_nothing_goes_the_whole_way(name, photo_folder, tmp_path, capsys, monkeypatch):
    if name in NARROWER:
        narrow = ARCHITECTURES[name](image_size=32)
        narrow.update(NARROWER[name])
        monkeypatch.setitem(ARCHITECTURES, name, lambda image_size: narrow)
    options = tiny_config(photo_folder, tmp_path / "run", model=name, epochs=1)
    predictor = assert_whole_way(options, photo_folder, tmp_path, capsys)
    assert predictor.predict(make_photo(1, 1)).heat_map is not None
    card, is_ours = (predictor.run.path / "README.md").read_text(), "cnn" in name or name == "lenet5"
    assert ("library_name: transformers" in card, "import dogbreeds.training.earlier.convnet" in card) == (
        not is_ours,
        is_ours,
    )


@pytest.mark.parametrize("name", each(SMALL))
@pytest.mark.slow
def test_each_checkpoint_goes_the_whole_way(name, photo_folder, tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    architecture = SMALL[name]
    architecture.num_labels = 7
    AutoModelForImageClassification.from_config(architecture).save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setitem(CHECKPOINTS, name, str(tmp_path / "checkpoint"))
    options = {"model": name, "image_size": getattr(architecture, "image_size", 32), "epochs": 1}
    options["freeze_backbone"] = name in FROZEN
    options = tiny_config(photo_folder, tmp_path / "run", **options)
    assert assert_whole_way(options, photo_folder, tmp_path, capsys).predict(make_photo(1, 1)).heat_map is not None


@pytest.mark.slow
def test_a_network_that_no_heat_map_fits_is_served_without(photo_folder, tmp_path, capsys):
    architecture = ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], num_labels=7)
    AutoModelForImageClassification.from_config(architecture).save_pretrained(tmp_path / "convnext")
    options = tiny_config(photo_folder, tmp_path / "run", model=str(tmp_path / "convnext"), epochs=1)
    predictor = assert_whole_way(options, photo_folder, tmp_path, capsys)
    photo = make_photo(1, 1)
    assert predictor.predict(photo).heat_map is None
    assert "This model can&#x27;t tell where it looked" in cards.details(predictor.predict(photo), "run", ENGLISH)


def test_why_there_is_no_heat_map_is_one_line():
    architecture = ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], num_labels=7)
    serving_model = ServingModel(AutoModelForImageClassification.from_config(architecture), 32)
    assert serving_model.output_names == ["logits", "features"]
    why = serving_model.why_no_heat_map
    assert "\n" not in why and why.startswith("none of the ways to compute one fits ConvNextForImageClassification (")
    assert all(f"{name}: " in why for name in ("ViT", "dense layers", "pooling"))
    assert ServingModel(build_model(ModelOptions(model="vit_nano"), 32, NAMES), 32).why_no_heat_map is None


@pytest.mark.parametrize("failure", ["the exporter", pytest.param("the comparison", marks=pytest.mark.slow)])
def test_a_heat_map_that_cannot_be_exported_is_left_out(failure, checkpoints, tmp_path, monkeypatch):
    """A finished run is not lost for it."""
    torch.manual_seed(0)
    model = build_model(ModelOptions(model=str(checkpoints / "resnet_nano")), 32, NAMES)

    def export_badly(module, path, image_size, output_names):
        if "heat_map" in output_names and failure == "the exporter":
            raise RuntimeError("no such operator\nand a long explanation")
        if "heat_map" in output_names:
            module, explain = copy.copy(module), module.explain
            module.explain = lambda model, pixels: tuple(output + 1 for output in explain(model, pixels))
        export_onnx(module, path, image_size, output_names)

    monkeypatch.setattr(export_module, "export_onnx", export_badly)
    exported = export_serving_model(model, tmp_path / "model.onnx", 32)
    assert list(exported.differences) == ["logits", "features"] and exported.differences["logits"] < 1e-4
    assert exported.why_no_heat_map.startswith("its export failed: ") and "\n" not in exported.why_no_heat_map
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["logits", "features"]


def num_numbers(model: torch.nn.Module) -> int:
    """Weights and running statistics, as Keras counts."""
    statistics = [buffer for name, buffer in model.named_buffers() if "running" in name]
    return sum(tensor.numel() for tensor in [*model.parameters(), *statistics])


@pytest.mark.parametrize(
    ("name", "image_size", "num_breeds", "num"),
    [
        ("lenet5", 32, 4, 63_196),
        ("cnn1", 299, 120, 89_735_288),
        ("cnn3", 299, 120, 82_700_600),
        ("cnn3v2", 299, 120, 47_720),
        ("cnn3v2_tuned", 299, 120, 100_024),
        ("my_vgg16", 224, 120, 134_752_184),  # not the published 62,279,608, see ARCHITECTURES
        ("my_xception", 224, 120, 21_107_360),  # nor 25,368,415
        ("vit", 224, 120, 85_890_936),
    ],
)
def test_networks_have_as_many_numbers_as_they_are_said_to(name, image_size, num_breeds, num):
    architecture = ARCHITECTURES[name](image_size=image_size)
    architecture.num_labels = num_breeds
    with torch.device("meta"):
        assert num_numbers(AutoModelForImageClassification.from_config(architecture)) == num


@pytest.mark.slow
def test_timms_own_files_are_a_checkpoint(photo_folder, tmp_path, tiny_runs_onnx, features_by_torch):
    """As its repositories on the Hub have them: names without a prefix, mean and deviation in config.json.

    A run of it is one too, with what it saw in preprocessor_config.json, beside that config.json.
    """
    network = timm.create_model("resnet10t", num_classes=7)
    facts = {"mean": [0.4] * 3, "std": [0.3] * 3, "num_classes": 7, "input_size": [3, 32, 32], "classifier": "fc"}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet10t", "num_classes": 7, "num_features": 512, "pretrained_cfg": facts})
    )
    save_file(network.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    options = config(tmp_path, tmp_path)
    model = build(options, NAMES)
    assert torch.equal(model.timm_model.conv1[0].weight, network.conv1[0].weight)
    assert model.timm_model.fc.out_features == 3 and classifier_of(model)[0] == "timm_model.fc"
    assert preprocessing_of(options).mean == (0.4,) * 3 and preprocessing_of(options).std == (0.3,) * 3

    first = train(tiny_config(photo_folder, tmp_path / "first", model=str(tmp_path), freeze_backbone=True, epochs=1))
    again = tiny_config(photo_folder, tmp_path / "again", model=str(first), freeze_backbone=True)
    assert preprocessing_of(again) == RunFolder.open(first).preprocessing
    names = RunFolder.open(first).labels
    assert torch.equal(build(again, names).timm_model.conv1[0].weight, network.conv1[0].weight)


@pytest.mark.parametrize(
    ("architecture", "processor"),
    [
        (SMALL["mobilevit"], MobileViTImageProcessor(do_resize=False, crop_size={"height": 64, "width": 64})),
        (
            EfficientNetConfig(width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=128, dropout_rate=0.9),
            EfficientNetImageProcessor(do_resize=False, image_mean=[0.4, 0.5, 0.6], image_std=[0.5] * 3),
        ),
    ],
    ids=["turns the channels round", "normalises twice"],
)
def test_a_checkpoint_is_shown_what_its_own_processor_shows_it(architecture, processor, tmp_path):
    torch.manual_seed(0)
    architecture = copy.deepcopy(architecture)
    architecture.id2label = dict(enumerate(NAMES))
    theirs = AutoModelForImageClassification.from_config(architecture).eval()
    theirs.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    options = config(tmp_path, tmp_path, image_size=64)
    mine, view = build(options, NAMES), preprocessing_of(options)
    assert not [module for module in mine.modules() if isinstance(module, torch.nn.Dropout) and module.p > 0.5]
    photo = make_photo(1, 1, (64, 64))
    with torch.no_grad():
        expected = theirs(processor(photo, return_tensors="pt")["pixel_values"]).logits
        found = mine.eval()(torch.from_numpy(view(photo))[None]).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_processor_that_is_not_understood_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    for processor in ('{"image_processor_type": "NoSuchProcessor"}', "no JSON"):
        (tmp_path / "preprocessor_config.json").write_text(processor)
        with pytest.raises(UserError, match=r"the preprocessor_config.json of '.*' is not understood") as told:
            preprocessing_of(config(tmp_path, tmp_path))
        assert "\n" not in str(told.value)


def test_known_breeds_are_those_of_the_classifier_that_is_trained(tmp_path):
    """LeViT's checkpoints have another one beside it, of its teacher's labels."""
    architecture = copy.deepcopy(SMALL["levit"])
    architecture.architectures = None
    architecture.id2label = dict(enumerate(("beagle", "a", "b", "car")))
    theirs = LevitForImageClassificationWithTeacher(architecture)
    theirs.save_pretrained(tmp_path / "levit")
    mine = build(config(tmp_path, tmp_path / "levit", image_size=64, keep_known_breeds=True), NAMES)
    assert torch.equal(mine.classifier.linear.weight[:2], theirs.classifier.linear.weight[1:3])
    assert torch.equal(mine.classifier.batch_norm.running_var, theirs.classifier.batch_norm.running_var)


@pytest.mark.parametrize("pooling", ["flatten", "average"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_options_of_plain_networks(activation, pooling, tmp_path):
    torch.manual_seed(0)
    options = config(tmp_path, "cnn3", activation=activation, pooling=pooling, batch_norm="on", conv_dropout=0.4)
    model = build(options, NAMES)
    kinds = [type(module) for module in model.convolutions]
    assert kinds.count(ACTIVATIONS[activation]) == 3 and sum("BatchNorm" in kind.__name__ for kind in kinds) == 3
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)] == [0.4, 0.4]
    assert any(isinstance(module, torch.nn.Dropout) for module in build(config(tmp_path, "cnn1"), NAMES).modules())
    assert model.hidden[0].in_features == (128 if pooling == "average" else 128 * 4 * 4)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits, heat_map = explain_dense(model.eval(), pixels)
    torch.testing.assert_close(logits, model(pixels).logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(heat_map.mean((2, 3)), logits, atol=1e-4, rtol=1e-4)


def test_batch_statistics_are_trained_unless_they_are_pre_trained(photo_folder, tmp_path):
    def statistics(**options) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Before and after an epoch."""
        run = set_up(tiny_config(photo_folder, tmp_path / "run", epochs=1, **options), saves=False, quiet=True)
        of_batches = [(name, value) for name, value in run.learner.full_model.named_buffers() if "running_" in name]
        before = [value.clone() for _, value in of_batches]
        fit(run)
        assert before
        return [(old, new) for old, (_, new) in zip(before, of_batches, strict=True)]

    for name in ("cnn3v2", "mobilenet_v2_nano"):
        assert not any(torch.equal(old, new) for old, new in statistics(model=name))
    saved = build(config(tmp_path, "mobilenet_v2_nano"), NAMES)
    saved.save_pretrained(tmp_path / "pretrained")
    LevitForImageClassificationWithTeacher(SMALL["levit"]).save_pretrained(tmp_path / "levit")
    for name, image_size in (("pretrained", 32), ("levit", 64)):
        pairs = statistics(model=str(tmp_path / name), image_size=image_size, freeze_backbone=False)
        assert all(torch.equal(old, new) for old, new in pairs)


def test_a_size_that_does_not_fit_is_one_line(tmp_path):
    TimmWrapperConfig(architecture="inception_resnet_v2").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"can't be run at --image-size 64: .*Kernel size can't be greater") as told:
        build(config(tmp_path, tmp_path, from_scratch=True, image_size=64), NAMES)
    assert "\n" not in str(told.value)


def test_without_activations_the_heat_of_dense_layers_is_what_a_place_gives(tmp_path):
    """Then the network is linear behind its maps: a place's heat is what the logit loses without it, but the biases."""
    torch.manual_seed(0)
    model = build(config(tmp_path, "cnn3"), NAMES).eval()
    model.activation = torch.nn.Identity()
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        maps = model.maps(pixels)
        _, heat_map = explain_dense(model, pixels)
        for row, column in ((0, 0), (1, 3), (2, 2)):
            without = maps.clone()
            without[:, :, row, column] = 0
            model.maps = lambda pixels, without=without: without
            loss = heat_map.mean((2, 3)) - explain_dense(model, pixels)[0]
            # The biases of these layers are 0 at the start
            torch.testing.assert_close(loss, heat_map[:, :, row, column] / 16, atol=1e-5, rtol=1e-4)


def test_a_network_of_average_and_one_layer_is_explained_both_ways_alike(tmp_path):
    torch.manual_seed(0)
    model = build(config(tmp_path, "cnn_32_64_64_64", image_size=64, pooling="average"), NAMES).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        by_class = torch.einsum("bdhw,cd->bchw", model.maps(pixels), model.classifier.weight)
        by_class += model.classifier.bias[:, None, None]  # the class activation map
        for mine, theirs in zip(explain_dense(model, pixels), (model(pixels).logits, by_class), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "vit_nano", "activation": "elu"}, "--activation is for networks built from nothing: --model lenet5"),
        ({"model": "mobilenet_v2_nano", "pooling": "flatten"}, "--pooling is for networks built from nothing"),
        ({"model": "cnn3", "conv_dropout": 1.0}, "--conv-dropout 1.0: must be from 0 to below 1"),
        ({"model": "lenet5", "freeze_backbone": True}, "--no-freeze-backbone"),
    ],
)
def test_options_that_do_not_fit_are_named(options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        build(config(tmp_path, **options), NAMES)


def num_wrong(optimizer: OptimizerName, loss: LossName, rate: float) -> int:
    """Of 60 points of three classes, after 100 steps of a linear layer."""
    torch.manual_seed(0)
    model, labels = torch.nn.Sequential(torch.nn.Linear(2, 3)), torch.arange(60) % 3
    points = torch.tensor([[2.0, 0.0], [-1.0, 2.0], [-1.0, -2.0]])[labels] + 0.3 * torch.randn(60, 2)
    steady = {"schedule": "constant", "warmup_fraction": 0.0} if optimizer == "ftrl" else {}
    options = TrainConfig.from_options(
        output_dir="run", model="lenet5", optimizer=optimizer, head_learning_rate=rate, **steady
    )
    steps = build_optimizer(model, options.optim, fused=True)
    schedule = Schedule(steps, options.optim, num_steps=100)
    for _ in range(100):
        LOSSES[loss](model(points), target_probabilities(labels, 3, 0.0)).backward()
        steps.step()
        schedule.after_step()
        steps.zero_grad()
    return int((model(points).argmax(1) != labels).sum())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_learns(name):
    assert num_wrong(name, "cross-entropy", {"adadelta": 20.0, "ftrl": 0.3}.get(name, 0.05)) == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_makes_weights_smaller_and_is_adamws_alone_by_default(name):
    sums = []
    for decay in (0.0, 0.5):
        torch.manual_seed(0)
        layer = torch.nn.Sequential(torch.nn.Linear(8, 3))
        steady = {"schedule": "constant", "warmup_fraction": 0.0, "head_learning_rate": 0.1}
        options = TrainConfig.from_options(
            output_dir="run", model="lenet5", optimizer=name, weight_decay=decay, **steady
        )
        steps = build_optimizer(layer, options.optim, fused=False)
        for _ in range(20):
            layer(torch.ones(2, 8)).square().sum().backward()
            steps.step()
            steps.zero_grad()
        sums.append(float(layer[0].weight.detach().abs().sum()))
    assert sums[1] < sums[0]
    assert TrainConfig.from_options(output_dir="run", model="lenet5", optimizer=name, **steady).optim.decay == (
        0.05 if name == "adamw" else 0.0
    )


def test_ftrl_wants_a_rate_that_does_not_change():
    """It would shrink the weights to nothing with a rate that falls to nothing."""
    for start in (train, lambda config: tune(config, 2)):
        with pytest.raises(UserError, match="add --schedule constant --warmup-fraction 0"):
            start(TrainConfig.from_options(output_dir="run", model="lenet5", optimizer="ftrl"))


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_learns(name):
    assert num_wrong("adam", name, 0.05) == 0


def test_a_run_with_another_optimizer_and_loss(photo_folder, tmp_path):
    options = {"optimizer": "rmsprop", "loss": "squared-hinge", "epochs": 5}
    run = set_up(tiny_config(photo_folder, tmp_path / "run", **options))
    fit(run)
    assert max(row["validation_top1"] for row in run.loop.progress.history) >= 0.75


def test_losses_are_what_they_are_said_to_be():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.randint(5, (6,))
    for smoothing in (0.0, 0.1):
        targets = target_probabilities(labels, 5, smoothing)
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(LOSSES["cross-entropy"](logits, targets), expected)
        entropy = -(targets * targets.clamp(min=1e-9).log()).sum(1).mean()
        torch.testing.assert_close(LOSSES["kl-divergence"](logits, targets), expected - entropy)
        torch.testing.assert_close(LOSSES["poisson"](logits, targets), (1 + expected) / 5)
    sign = target_probabilities(labels, 5, 0.0) * 2 - 1
    by_hand = [
        [max(0.0, 1 - float(s * z)) for s, z in zip(*row, strict=True)] for row in zip(sign, logits, strict=True)
    ]
    assert float(LOSSES["hinge"](logits, (sign + 1) / 2)) == pytest.approx(np.sum(by_hand) / 6)
    assert float(LOSSES["squared-hinge"](logits, (sign + 1) / 2)) == pytest.approx(np.square(by_hand).sum() / 6)


@pytest.mark.slow
def test_a_narrow_vgg_has_a_heat_map_of_its_dense_layers(tmp_path):
    torch.manual_seed(0)
    architecture = SMALL["vgg16"]
    architecture.num_labels = 3
    model = AutoModelForImageClassification.from_config(architecture)
    assert ServingModel(model, 224).explain is explain_dense
    assert max(export_serving_model(model, tmp_path / "model.onnx", 224).differences.values()) < 1e-4
