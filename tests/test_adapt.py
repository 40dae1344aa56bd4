"""Training few weights of a backbone: BitFit and LoRA."""

import copy

import pytest
import torch
from conftest import make_photo, tiny_config
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, ResNetConfig

from dogbreeds.calibration import softmax
from dogbreeds.errors import UserError
from dogbreeds.serving.predictor import Predictor
from dogbreeds.training.evaluation import predict_logits
from dogbreeds.training.models.adapt import LORA_RANK, merge_lora
from dogbreeds.training.models.inspection import flops_per_photo
from dogbreeds.training.models.registry import ARCHITECTURES
from dogbreeds.training.train import finish, fit, set_up
from dogbreeds.training.tuning import space_of


def validation_logits(run, model):
    return torch.from_numpy(predict_logits(model, run.inputs, "validation", run.context)[0])


def copies(model):
    return {name: tensor.clone() for name, tensor in merge_lora(copy.deepcopy(model)).state_dict().items()}


def is_adapted(name, adapt, tensor):
    """Whether a weight of `checkpoints` is one that a way of training names, besides the classifier's."""
    if adapt == "bitfit":
        return name.endswith(".bias")
    return name.endswith(("q_proj.weight", "v_proj.weight")) or (
        tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and name.endswith(".convolution.weight")
    )


@pytest.mark.parametrize(
    ("name", "adapt"),
    [
        ("vit_nano", "bitfit"),
        ("vit_nano", "lora"),
        ("resnet_nano", "bitfit"),
        pytest.param("mobilenet_v2_nano", "lora", marks=pytest.mark.slow),
    ],
)
def test_those_weights_alone_are_trained_and_are_the_checkpoints_own_again(
    photo_folder, checkpoints, tmp_path, name, adapt
):
    checkpoint = str(checkpoints / name)
    if name == "mobilenet_v2_nano":  # which asks its layers for their strides
        checkpoint = str(tmp_path / name)
        cnn = AutoModelForImageClassification.from_config(ARCHITECTURES[name](image_size=32))
        for module in cnn.modules():
            if isinstance(module, torch.nn.Conv2d):  # or nothing would be left of a photo after so many layers
                torch.nn.init.kaiming_normal_(module.weight)
        cnn.save_pretrained(checkpoint)
    run = set_up(tiny_config(photo_folder, tmp_path / "run", model=checkpoint, adapt=adapt))
    before = copies(run.learner.full_model)
    fit(run)
    trained = validation_logits(run, run.learner.trained_model)
    model = run.learner.load_best(run.learner.trained_model.state_dict())
    assert torch.allclose(validation_logits(run, model), trained, atol=1e-5)

    after = model.state_dict()
    original = AutoModelForImageClassification.from_pretrained(checkpoint)
    assert [type(module) for module in model.modules()] == [type(module) for module in original.modules()]
    classifier = {each for each in before if each.startswith("classifier.")}
    adapted = {each for each in before if is_adapted(each, adapt, before[each])} - classifier
    changed = {each for each in before if not torch.equal(before[each], after[each])}
    # What all keys have in common does not change the attention.
    without_effect = {each for each in adapted if each.endswith("k_proj.bias")}
    assert classifier | adapted - without_effect <= changed <= classifier | adapted

    sizes = {each: tensor.numel() for each, tensor in before.items()}
    if adapt == "lora":
        sizes |= {each: LORA_RANK * sum(before[each].shape[:2]) for each in adapted}
    assert run.learner.num_trained_parameters == sum(sizes[each] for each in classifier | adapted)
    assert run.flops_per_photo == flops_per_photo(model, 32)
    assert space_of(run.config)["learning_rate"].high > space_of(run.config.replace(adapt="all"))["learning_rate"].high


@pytest.mark.slow  # an export
def test_a_run_with_lora_is_served_like_any_other(photo_folder, checkpoints, tmp_path):
    options = {"model": str(checkpoints / "vit_nano"), "adapt": "lora", "epochs": 1}
    run = set_up(tiny_config(photo_folder, tmp_path / "run", **options))
    fit(run)
    finish(run)
    names = load_file(tmp_path / "run" / "model.safetensors").keys()
    assert names == load_file(checkpoints / "vit_nano" / "model.safetensors").keys()
    predictor = Predictor(tmp_path / "run")
    photo = make_photo(2, 3)
    pixels = torch.from_numpy(run.inputs.preprocessing(photo))[None]
    with torch.no_grad():
        logits = AutoModelForImageClassification.from_pretrained(tmp_path / "run")(pixels).logits.numpy()
    expected = softmax(logits)[0].max()
    assert predictor.predict(photo).breeds[0].probability == pytest.approx(expected, abs=1e-4)
    assert "(LoRA)" in (tmp_path / "run" / "README.md").read_text()


def test_lora_is_averaged_with_the_start_as_the_weights_that_are_saved(photo_folder, tiny_run, tmp_path):
    options = {"model": str(tiny_run), "adapt": "lora", "average_with_start": 0.25, "epochs": 1}
    run = set_up(tiny_config(photo_folder, tmp_path / "run", **options), saves=False)
    start = copies(run.learner.full_model)
    fit(run)
    trained = copies(run.learner.full_model)
    averaged = run.learner.load_best(run.learner.full_model.state_dict()).state_dict()
    assert not torch.equal(*(each["vit.layers.1.attention.q_proj.weight"] for each in (start, trained)))
    for name, tensor in averaged.items():
        assert torch.allclose(tensor, 0.75 * trained[name] + 0.25 * start[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adapt": "vpt"}, "--adapt vpt: must be one of all, bitfit, lora"),
        ({"adapt": "lora", "freeze_backbone": True}, "--adapt lora: a frozen backbone is not trained; add --no-freeze"),
        ({"adapt": "bitfit", "from_scratch": True}, "--from-scratch has no weights to adapt: leave --adapt bitfit out"),
        ({"adapt": "lora", "model": "vit_nano"}, "vit_nano is built without weights: leave --adapt lora out"),
        (
            {"adapt": "lora", "model": "plain"},
            "has no projections to queries and values, and no pointwise convolutions",
        ),
    ],
    ids=str,
)
def test_what_can_not_be_is_one_line_before_training(photo_folder, checkpoints, tmp_path, options, words):
    options = {"model": str(checkpoints / "vit_nano"), **options}
    if options["model"] == "plain":  # its convolutions see 3 x 3 pixels
        architecture = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
        options["model"] = str(tmp_path / "plain")
        AutoModelForImageClassification.from_config(architecture).save_pretrained(options["model"])
    with pytest.raises(UserError) as error:
        set_up(tiny_config(photo_folder, tmp_path / "run", **options))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("run*"))
