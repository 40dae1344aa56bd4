"""Stochastic depth: residual branches that are left out in training, and in nothing else."""

import copy

import pytest
import timm
import torch
from conftest import interrupted_after, tiny_config
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    MobileNetV2Config,
    ResNetConfig,
    SwinConfig,
    TimmWrapperConfig,
)

from dogbreeds.errors import UserError
from dogbreeds.files import read_json
from dogbreeds.training.models.registry import ARCHITECTURES
from dogbreeds.training.models.stochastic_depth import add_stochastic_depth
from dogbreeds.training.train import finish, fit, set_up

SIZE = 64


def network(name):
    """A small network whose layers all have something to say, as those of a pre-trained one."""
    config = {
        "vit": ARCHITECTURES["vit_nano"](image_size=SIZE),
        "mobilenet_v2": MobileNetV2Config(depth_multiplier=0.1, min_depth=4),
        "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="bottleneck"),
        "swin": SwinConfig(image_size=SIZE, embed_dim=12, depths=[1, 2], num_heads=[2, 2], window_size=4),
        "timm_mobilenet": TimmWrapperConfig(architecture="mobilenetv2_035"),
        "timm_vit": TimmWrapperConfig(architecture="test_vit", model_args={"img_size": SIZE}),
    }[name]
    config.num_labels = 5
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(config)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.Conv2d | nn.Linear):  # or nothing is left of a photo after many layers
            nn.init.kaiming_normal_(module.weight)
    return model


def training(model):
    """The model in training mode, but for its batch statistics, as a pre-trained one is trained."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


@pytest.mark.parametrize(
    ("name", "num_blocks"),
    [("vit", 2), ("mobilenet_v2", 10), ("resnet", 3), ("swin", 3), ("timm_mobilenet", 10), ("timm_vit", 6)],
)
def test_outputs_vary_in_training_and_are_those_without_it_in_evaluation(name, num_blocks):
    plain = network(name).eval()
    dropped = copy.deepcopy(plain)
    rates = add_stochastic_depth(dropped, 0.6, name)
    assert list(rates.values()) == pytest.approx([0.6 * block / num_blocks for block in range(1, num_blocks + 1)])
    dropped = copy.deepcopy(dropped)  # as averages and LoRA's copies are made
    pixels = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain(pixels).logits
        assert torch.equal(dropped(pixels).logits, expected)
        training(dropped)
        first, second = dropped(pixels).logits, dropped(pixels).logits
        assert not torch.equal(first, second)
        assert torch.equal(dropped.eval()(pixels).logits, expected)
    assert dropped.state_dict().keys() == plain.state_dict().keys()
    assert dropped.config.to_dict() == plain.config.to_dict()


def test_a_branch_is_left_out_for_its_share_of_photos_and_scaled_up_for_the_others():
    model = training(network("resnet"))
    add_stochastic_depth(model, 0.6, "resnet")
    branch = model.resnet.encoder.stages[1].layers[0].layer  # the second of three blocks
    with torch.no_grad():
        pixels = torch.randn(1, 8, 16, 16).expand(2000, -1, -1, -1)
        whole = branch.eval()(pixels[:1])
        made = training(branch)(pixels)
    left_out = (made == 0).flatten(1).all(1)
    assert left_out.float().mean().item() == pytest.approx(0.4, abs=5 * (0.4 * 0.6 / 2000) ** 0.5)
    torch.testing.assert_close(made[~left_out], (whole / 0.6).expand_as(made[~left_out]), rtol=1e-4, atol=1e-5)


def test_what_a_config_asks_for_itself_is_replaced_not_added():
    model = network("swin")
    own = [module for module in model.modules() if type(module).__name__ == "SwinDropPath"]
    assert own and own[-1].drop_prob == pytest.approx(0.1)
    add_stochastic_depth(model, 0.6, "swin")
    assert all(module.drop_prob == 0 for module in own)


def test_blocks_are_those_that_timm_would_leave_out():
    theirs = timm.create_model("mobilenetv2_035", drop_path_rate=0.3)
    blocks = {f"timm_model.{name}" for name, block in theirs.named_modules() if getattr(block, "has_skip", False)}
    assert add_stochastic_depth(network("timm_mobilenet"), 0.3, "x").keys() == blocks


def test_a_run_is_resumed_and_saved_like_any(photo_folder, checkpoints, tmp_path, tiny_runs_onnx):
    options = {"model": str(checkpoints / "vit_nano"), "drop_path": 0.5, "epochs": 3}
    whole = set_up(tiny_config(photo_folder, tmp_path / "whole", **options))
    fit(whole)
    without = set_up(tiny_config(photo_folder, tmp_path / "without", **{**options, "drop_path": 0.0}), saves=False)
    fit(without)

    with interrupted_after(2):
        fit(set_up(tiny_config(photo_folder, tmp_path / "run", **options)))
    resumed = set_up(tiny_config(photo_folder, tmp_path / "run", resume=True, **options))
    fit(resumed)
    weights = [run.learner.full_model.state_dict() for run in (whole, resumed, without)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    assert any(not torch.equal(weights[2][name], tensor) for name, tensor in weights[0].items())

    finish(resumed)
    saved = tmp_path / "run"
    assert load_file(saved / "model.safetensors").keys() == load_file(f"{options['model']}/model.safetensors").keys()
    assert "drop_path" not in (saved / "config.json").read_text()
    assert read_json(saved / "run.json")["config"]["drop_path"] == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "lenet5"}, "--drop-path 0.2: no residual branches were found in 'lenet5' (ConvNet"),
        ({"freeze_backbone": True}, "--drop-path 0.2: a frozen backbone is not trained; add --no-freeze-backbone"),
        ({"drop_path": 1.0}, "--drop-path 1.0: must be from 0 to below 1"),
    ],
    ids=str,
)
def test_what_can_not_be_is_one_line_before_training(photo_folder, checkpoints, tmp_path, options, words):
    options = {"model": str(checkpoints / "vit_nano"), "drop_path": 0.2, **options}
    with pytest.raises(UserError) as error:
        set_up(tiny_config(photo_folder, tmp_path / "run", **options))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("run*"))
