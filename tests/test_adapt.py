"""Training few weights of a backbone: BitFit, LoRA and VPT."""

import copy

import pytest
import torch
from conftest import interrupted_after, make_photo, tiny_config
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    ResNetConfig,
    ViTConfig,
)

from dogbreeds.calibration import softmax
from dogbreeds.errors import UserError
from dogbreeds.serving.predictor import Predictor
from dogbreeds.training.evaluation import predict_logits
from dogbreeds.training.models import visual_prompts
from dogbreeds.training.models.adapt import LORA_RANK, merge_parts
from dogbreeds.training.models.inspection import flops_per_photo
from dogbreeds.training.models.registry import ARCHITECTURES
from dogbreeds.training.models.visual_prompts import with_prompts
from dogbreeds.training.options import OPTIONS
from dogbreeds.training.train import finish, fit, set_up, train
from dogbreeds.training.tuning import space_of


def validation_logits(run, model):
    return torch.from_numpy(predict_logits(model, run.inputs, "validation", run.context)[0])


def copies(model):
    return {name: tensor.clone() for name, tensor in merge_parts(copy.deepcopy(model)).state_dict().items()}


def before_and_after(run):
    """The weights before the training, and the network after it, which answers as before its parts were merged."""
    before = copies(run.learner.full_model)
    fit(run)
    logits = validation_logits(run, run.learner.trained_model)
    model = run.learner.load_best(run.learner.trained_model.state_dict())
    assert torch.allclose(validation_logits(run, model), logits, atol=1e-5)
    return before, model


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
    before, model = before_and_after(run)

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
    assert space_of(run.config)["learning_rate"].high > space_of(run.config.replace(adapt="full"))["learning_rate"].high


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


@pytest.fixture
def few_prompts(monkeypatch):
    monkeypatch.setattr(visual_prompts, "NUM_PROMPTS", 3)


def test_with_prompts_a_vit_is_the_same_but_for_them(checkpoints, monkeypatch):
    vit = AutoModelForImageClassification.from_pretrained(checkpoints / "vit_nano").eval()
    pixels = torch.rand(2, 3, 32, 32)
    for num_prompts, is_same in ((0, True), (3, False)):
        monkeypatch.setattr(visual_prompts, "NUM_PROMPTS", num_prompts)
        with torch.no_grad():
            logits = with_prompts(vit).eval()(pixels).logits
            assert torch.allclose(logits, vit(pixels).logits, atol=1e-6) == is_same


def test_prompts_and_the_classifier_alone_are_trained(photo_folder, checkpoints, tmp_path, few_prompts):
    run = set_up(tiny_config(photo_folder, tmp_path / "run", model=str(checkpoints / "vit_nano"), adapt="vpt"))
    before, model = before_and_after(run)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        "dinov2_with_registers.embeddings.register_tokens", "classifier.weight", "classifier.bias"
    }  # fmt: skip
    size = model.config.hidden_size
    assert not after["classifier.weight"][:, size:].any(), "the mean of the patches"
    assert run.learner.num_trained_parameters == 3 * size + 4 * size + 4
    original = AutoModelForImageClassification.from_pretrained(checkpoints / "vit_nano").state_dict()
    assert torch.equal(after["dinov2_with_registers.embeddings.cls_token"], original["vit.embeddings.cls_token"])


def test_a_run_with_prompts_is_resumed(photo_folder, checkpoints, tmp_path, few_prompts):
    options = {"model": str(checkpoints / "vit_nano"), "adapt": "vpt", "epochs": 2, "drop_path": 0.2, "ema_decay": 0.5}
    whole = set_up(tiny_config(photo_folder, tmp_path / "whole", **options))
    fit(whole)
    with interrupted_after(1):
        fit(set_up(tiny_config(photo_folder, tmp_path / "run", **options)))
    resumed = set_up(tiny_config(photo_folder, tmp_path / "run", resume=True, **options))
    fit(resumed)
    weights = [run.learner.full_model.state_dict() for run in (whole, resumed)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


@pytest.mark.slow  # an export
def test_a_run_with_prompts_is_served_and_trained_further(photo_folder, checkpoints, tmp_path, few_prompts, capsys):
    options = {"adapt": "vpt", "epochs": 1}
    train(tiny_config(photo_folder, tmp_path / "run", model=str(checkpoints / "vit_nano"), **options))
    why = "the run is served without heat maps: a ViT with prompts or registers has no exact heat map"
    assert why in capsys.readouterr().out.splitlines()
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert type(model) is Dinov2WithRegistersForImageClassification
    photo, predictor = make_photo(2, 3), Predictor(tmp_path / "run")
    with torch.no_grad():
        logits = model(torch.from_numpy(predictor.run.preprocessing(photo))[None]).logits.numpy()
    assert predictor.predict(photo).breeds[0].probability == pytest.approx(softmax(logits)[0].max(), abs=1e-4)
    assert "(VPT-Shallow)" in (tmp_path / "run" / "README.md").read_text()
    fit(set_up(tiny_config(photo_folder, tmp_path / "further", model=str(tmp_path / "run"), epochs=1), saves=False))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("resnet_nano", "(resnet) has no place for prompts, .* leave --adapt vpt out, or give a --model that is a ViT"),
        ("wide", "(vit) has no place for prompts, .* MLPs a whole number of times as wide"),
        ("prompted", "has prompts or registers already; train it further with --adapt full, lora or bitfit"),
        ("vit_nano", "--model vit_nano is built without weights: leave --adapt vpt out"),
    ],
)
def test_what_takes_no_prompts_is_refused_before_photos_are_read(checkpoints, tmp_path, monkeypatch, model, words):
    architectures = {
        "wide": ViTConfig(hidden_size=32, intermediate_size=72, num_attention_heads=2, image_size=32),
        "prompted": Dinov2WithRegistersConfig(num_register_tokens=3, image_size=32),
    }
    folder = checkpoints / model if model == "resnet_nano" else tmp_path / model
    if model in architectures:
        architectures[model].save_pretrained(folder)
    name = model if model == "vit_nano" else str(folder)
    monkeypatch.setattr("dogbreeds.training.train.load_data", None)
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
        set_up(tiny_config(tmp_path / "photos", tmp_path / "run", model=name, adapt="vpt"))


@pytest.mark.parametrize(
    ("options", "is_noted"),
    [
        ({"adapt": "vpt"}, True),
        ({"adapt": "bitfit"}, True),
        ({"adapt": "lora", "learning_rate": 1e-3}, False),
        ({}, False),
    ],
    ids=str,
)
def test_the_default_rate_is_noted_where_few_weights_are_trained(
    photo_folder, checkpoints, tmp_path, few_prompts, capsys, options, is_noted
):
    options = {"model": str(checkpoints / "vit_nano"), "learning_rate": OPTIONS["learning_rate"].default, **options}
    set_up(tiny_config(photo_folder, tmp_path / "run", **options), saves=False)
    note = (
        f"note: --adapt {options.get('adapt')} trains at 5e-05, the default for all weights; try --learning-rate 1e-3"
    )
    assert (note in capsys.readouterr().out.splitlines()) == is_noted


LP_FT = {"model": "vit_nano", "adapt": "lp-ft", "classifier_epochs": 2, "epochs": 2, "learning_rate": 1e-3}


def test_lp_ft_trains_the_classifier_and_then_all_weights(photo_folder, checkpoints, tmp_path, features_by_torch):
    options = {**LP_FT, "model": str(checkpoints / "vit_nano")}
    run = set_up(tiny_config(photo_folder, tmp_path / "run", **options))
    before = copies(run.learner.full_model)
    pretrained = AutoModelForImageClassification.from_pretrained(options["model"]).state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in pretrained.items() if "classifier" not in name)
    alone = {**options, "adapt": "classifier", "epochs": 2, "classifier_epochs": 5}
    classifier = set_up(tiny_config(photo_folder, tmp_path / "classifier", **alone), saves=False)
    fit(classifier)
    assert torch.equal(before["classifier.weight"], classifier.learner.full_model.classifier.weight)

    fit(run)
    rows, first = run.loop.progress.history, classifier.loop.progress.history
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and run.loop.progress.best_epoch in (3, 4)
    assert [row["train_loss"] for row in rows[:2]] == [row["train_loss"] for row in first]
    after = run.learner.full_model.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert all(name.endswith("k_proj.bias") for name in still)  # which have no effect
    rates = {group["initial_lr"] for group in run.learner.optimizer.param_groups}
    assert rates == {1e-3} and run.config.optim.head_learning_rate == 3e-3
    assert space_of(run.config) == space_of(run.config.replace(adapt="full"))


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_lp_ft_is_resumed_in_both_of_its_parts(
    photo_folder, checkpoints, tmp_path, monkeypatch, features_by_torch, stop_after
):
    options = {**LP_FT, "model": str(checkpoints / "vit_nano"), "drop_path": 0.2, "average_with_start": 0.25}

    def trained(name, **more):
        run = set_up(tiny_config(photo_folder, tmp_path / name, **options, **more))
        fit(run)
        return run

    whole = trained("whole")
    with interrupted_after(stop_after):
        trained("run")
    with pytest.raises(UserError, match="can't resume with another classifier_epochs"):
        set_up(tiny_config(photo_folder, tmp_path / "run", resume=True, **{**options, "classifier_epochs": 3}))
    if stop_after >= 2:  # the classifier is trained: what it was trained on is not computed again
        monkeypatch.setattr("dogbreeds.training.inputs.compute_features", None)
    resumed = trained("run", resume=True)
    weights = [run.learner.full_model.state_dict() for run in (whole, resumed)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    averaged = [run.learner.load_best(run.saved_states.load_best()).state_dict() for run in (whole, resumed)]
    assert all(torch.equal(averaged[1][name], tensor) for name, tensor in averaged[0].items())
    rows = [[{**row, "seconds": 0} for row in run.loop.progress.history] for run in (whole, resumed)]
    assert rows[0] == rows[1] and len(rows[0]) == 4
    assert whole.loop.progress.best_epoch == resumed.loop.progress.best_epoch


@pytest.mark.slow  # an export
def test_a_run_of_lp_ft_is_served_like_any_other(photo_folder, checkpoints, tmp_path, features_by_torch):
    train(tiny_config(photo_folder, tmp_path / "run", **{**LP_FT, "model": str(checkpoints / "vit_nano")}))
    assert Predictor(tmp_path / "run").predict(make_photo(2, 3)).breeds
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 5
    assert "(LP-FT)" in (tmp_path / "run" / "README.md").read_text()
    assert not (tmp_path / "run" / "state").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adapt": "prompts"}, "--adapt prompts: must be one of full, classifier, lp-ft, bitfit, lora, vpt"),
        ({"adapt": "vpt", "layer_decay": 0.7}, "--layer-decay 0.7: prompts are before all layers"),
        (
            {"adapt": "lora", "freeze_backbone": True},
            "--adapt lora: --freeze-backbone trains only the classifier; leave one of them out",
        ),
        (
            {"adapt": "full", "freeze_backbone": True},
            "--adapt full: --freeze-backbone trains only the classifier; leave one of them out",
        ),
        (
            {"adapt": "classifier", "freeze_backbone": False},
            "--adapt classifier: --no-freeze-backbone trains all; leave one of them out",
        ),
        ({"adapt": "classifier", "from_scratch": True}, "--from-scratch has no backbone worth freezing"),
        ({"adapt": "lp-ft", "model": "vit_nano"}, "vit_nano is built without weights: leave --adapt lp-ft out"),
        ({"classifier_epochs": 3}, "--classifier-epochs 3: add --adapt lp-ft, or leave it out"),
        ({"adapt": "classifier", "drop_path": 0.1}, "--drop-path 0.1: a frozen backbone is not trained"),
        ({"adapt": "bitfit", "from_scratch": True}, "--from-scratch has no weights to adapt: leave --adapt bitfit out"),
        ({"adapt": "lora", "model": "vit_nano"}, "vit_nano is built without weights: leave --adapt lora out"),
        (
            {"adapt": "lora", "model": "plain"},
            "has no projections to queries and values, and no pointwise convolutions; leave --adapt lora out, or",
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
