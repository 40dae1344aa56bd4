import io
import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import timm
import torch
from conftest import tiny_config
from safetensors.torch import load_file, save_file
from stand_in_hub import StandInHub, use_hub
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ViTConfig,
    ViTModel,
)

from dogbreeds.errors import UserError
from dogbreeds.hub import upload
from dogbreeds.training.models.adapters import known_breeds
from dogbreeds.training.models.build import build_model, model_preprocessing
from dogbreeds.training.models.checkpoint import Checkpoint, base_run_folder, open_checkpoint
from dogbreeds.training.models.inspection import classifier_of, features_of
from dogbreeds.training.models.location import ask_hub
from dogbreeds.training.models.registry import ARCHITECTURES, CHECKPOINTS, resolve_model
from dogbreeds.training.optim import Schedule, parameter_groups

NAMES = tuple(f"breed {index}" for index in range(13))


def config(tmp_path, model, **options):
    return tiny_config("data", tmp_path / "run", model=str(model), **options)


def build(config, names):
    return build_model(config.model, config.preprocessing.image_size, names)


@pytest.fixture(scope="module")
def in21k(tmp_path_factory):
    """Exactly the files and tensors of google/vit-base-patch16-224-in21k, at a fraction of its size.

    A ViTModel with its pooler and without a classifier; config.json carries 21,843 labels, and the tensors have the
    names of the transformers that saved that checkpoint (today's still writes them).
    """
    folder = tmp_path_factory.mktemp("in21k")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    architecture = ViTConfig(image_size=32, patch_size=8, num_labels=21843, architectures=["ViTModel"], **sizes)
    model = ViTModel(architecture)
    model.save_pretrained(folder)
    names = set(load_file(folder / "model.safetensors"))
    assert {"encoder.layer.0.attention.attention.query.weight", "pooler.dense.weight", "layernorm.bias"} <= names
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"do_normalize": True, "do_resize": True, "image_mean": [0.4] * 3, "image_std": [0.6] * 3, "size": 32}
        )
    )
    return folder, model


def test_a_backbone_without_classifier_gets_a_new_one_and_nothing_else(in21k, tmp_path):
    folder, original = in21k
    model = build(config(tmp_path, folder), NAMES)
    assert type(model).__name__ == "ViTForImageClassification"
    assert model.classifier.weight.shape == (13, 32)
    assert model.config.id2label[12] == "breed 12" and model.config.num_labels == 13
    loaded = model.vit.state_dict()
    for name, tensor in original.state_dict().items():
        if not name.startswith("pooler."):
            assert torch.equal(loaded.pop(name), tensor), name
    assert not loaded
    options = config(tmp_path, folder)
    assert model_preprocessing(options.model, options.preprocessing).mean == (0.4, 0.4, 0.4)


def test_weights_that_do_not_fit_are_refused(in21k, tmp_path):
    folder, _ = in21k
    tensors = load_file(folder / "model.safetensors")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((folder / "config.json").read_text())
    del tensors["encoder.layer.1.intermediate.dense.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 are missing or of another shape"):
        build(config(tmp_path, broken), NAMES)
    with pytest.raises(UserError, match="--image-size"):
        build(config(tmp_path, folder, image_size=64), NAMES)


def test_a_classifier_of_other_classes_is_replaced(tmp_path):
    MobileNetV2ForImageClassification(
        MobileNetV2Config(image_size=32, depth_multiplier=0.1, min_depth=4, num_labels=1001)
    ).save_pretrained(tmp_path / "imagenet")
    model = build(config(tmp_path, tmp_path / "imagenet", dropout=0.3), NAMES)
    assert model.classifier.out_features == 13
    momenta = {module.momentum for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert momenta == {0.1}
    assert model.dropout.p == 0  # of our own there is one, before the classifier, for every model
    pixels = torch.randn(4, 3, 32, 32)
    model.base_model.eval()
    assert not torch.equal(model(pixels).logits, model.train()(pixels).logits)


def test_a_classifier_is_kept_only_with_its_labels(in21k, tmp_path):
    original = build(config(tmp_path, in21k[0]), NAMES)
    original.save_pretrained(tmp_path / "trained")
    same = build(config(tmp_path, tmp_path / "trained"), NAMES)
    assert torch.equal(same.classifier.weight, original.classifier.weight)
    others = build(config(tmp_path, tmp_path / "trained"), tuple(reversed(NAMES)))
    assert not torch.equal(others.classifier.weight, original.classifier.weight)
    assert others.config.id2label[0] == NAMES[-1]


def test_breeds_that_the_checkpoint_knows_can_be_kept(tmp_path, capsys):
    labels = ("background", "Shih-Tzu", "cardigan", "beagle", "Cardigan, Cardigan Welsh corgi")
    original = MobileNetV2ForImageClassification(
        MobileNetV2Config(image_size=32, depth_multiplier=0.1, min_depth=4, id2label=dict(enumerate(labels)))
    )
    original.save_pretrained(tmp_path / "imagenet")
    names = ("Beagle", "Chihuahua", "Cardigan Welsh corgi", "Shih-Tzu")
    model = build(config(tmp_path, tmp_path / "imagenet", keep_known_breeds=True), names)
    assert known_breeds(original.config.id2label, names) == {0: 3, 2: 4, 3: 1}
    for label, row in ((0, 3), (2, 4), (3, 1)):
        assert torch.equal(model.classifier.weight[label], original.classifier.weight[row])
        assert model.classifier.bias[label] == original.classifier.bias[row]
    assert not any(torch.equal(model.classifier.weight[1], row) for row in original.classifier.weight)
    assert "3 breeds start from what" in (said := capsys.readouterr().err) and "random weights: Chihuahua" in said


def test_a_checkpoint_that_knows_none_of_the_breeds_is_named(in21k, tmp_path):
    named = tmp_path / "named"
    shutil.copytree(in21k[0], named)
    facts = json.loads((named / "config.json").read_text())
    facts["id2label"] = {"0": "beagle", "1": "Shih-Tzu"}
    (named / "config.json").write_text(json.dumps(facts))  # the names, but no weights for them
    for model in (in21k[0], named):
        with pytest.raises(UserError, match="has no classifier that knows any of these breeds"):
            build(config(tmp_path, model, keep_known_breeds=True), ("Beagle", "Shih-Tzu"))
    with pytest.raises(UserError, match="built without weights: leave --keep-known-breeds out"):
        build(config(tmp_path, "vit_nano", keep_known_breeds=True), NAMES)
    with pytest.raises(UserError, match="--from-scratch leaves no classifier"):
        config(tmp_path, in21k[0], from_scratch=True, keep_known_breeds=True)


def test_damaged_weights_are_named(in21k, tmp_path):
    shutil.copytree(in21k[0], tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="holds no image classifier that transformers can load"):
        build(config(tmp_path, tmp_path / "cut"), NAMES)


def test_from_scratch_takes_the_architecture_alone(in21k, tmp_path):
    folder, original = in21k
    model = build(config(tmp_path, folder, from_scratch=True), NAMES)
    assert not torch.equal(model.vit.embeddings.patch_embeddings.projection.weight,
                           original.embeddings.patch_embeddings.projection.weight)  # fmt: skip
    assert model.vit.layers[0].mlp.fc1.weight.shape == original.layers[0].mlp.fc1.weight.shape


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"vit", "my_vgg16"}))  # which are large
def test_every_name_of_the_table_is_a_model(name, tmp_path):
    model = build(config(tmp_path, name), NAMES).eval()
    pixels = torch.randn(2, 3, 32, 32)
    logits = model(pixels).logits
    assert logits.shape == (2, 13)
    assert torch.allclose(classifier_of(model)[1](features_of(model, pixels)), logits, atol=1e-5)


def test_a_model_out_of_reach_is_named_with_the_remedies(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"connect to the network and run again, or give a folder") as error:
        build(config(tmp_path, "google/no-such-model-in-the-cache"), NAMES)
    assert "\n" not in str(error.value)


def test_a_name_of_timm_is_a_model_of_the_hub(tmp_path):
    assert resolve_model("resnet18.a1_in1k") == "timm/resnet18.a1_in1k" == resolve_model("resnet18")
    for name, hint in (
        ("resnet18.no_such_tag", "dogbreeds/docs/training.md"),
        ("vit_tini", "did you mean 'vit_tiny'?"),
    ):
        with pytest.raises(UserError, match=f"the model '{name}' is no folder here, .* of timm: {hint}"):
            build(config(tmp_path, name), NAMES)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no image classifier"):
        build(config(tmp_path, tmp_path), NAMES)


def test_the_run_that_training_starts_from_is_found_on_the_hub_too(tmp_path, monkeypatch):
    run, plain = tmp_path / "run", tmp_path / "plain"
    for folder, files in ((run, ("run.json", "splits.parquet", "model.safetensors")), (plain, ("model.safetensors",))):
        folder.mkdir()
        for name in files:
            (folder / name).write_bytes(name.encode())
    assert base_run_folder(str(run)) == run
    with StandInHub() as hub:
        use_hub(hub.address, tmp_path / "cache", monkeypatch)
        for folder in (run, plain):
            upload(folder, f"me/{folder.name}", "model", private=False, mark="run.json")
        downloaded = base_run_folder("me/run")
        assert downloaded is not None
        assert {file.name for file in downloaded.iterdir()} == {"run.json", "splits.parquet"}
        assert (downloaded / "splits.parquet").read_bytes() == b"splits.parquet"
        assert base_run_folder("me/plain") is None
        with pytest.raises(UserError, match="neither a folder 'me/nothing' here nor such a model"):
            base_run_folder("me/nothing")
        assert sorted(hub.downloads) == ["run.json", "splits.parquet"]  # by several threads
    # Without a network, what is in the cache counts.
    assert base_run_folder("me/run") == downloaded
    assert base_run_folder("me/plain") is None


def test_the_hub_is_asked_for_what_is_neither_here_nor_known(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "net"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    monkeypatch.setitem(CHECKPOINTS, "short", "me/none")
    with StandInHub() as hub:
        use_hub(hub.address, tmp_path / "cache", monkeypatch)
        upload(folder, "me/net", "model", private=False, mark="config.json")
        capsys.readouterr()
        for model in ("me/net", "me/net", "vit_nano", "resnet18", str(folder), "a name of timm"):
            ask_hub(model)
        assert hub.downloads == ["config.json"]
        assert capsys.readouterr().err.count("looking for me/net in the local cache") == 1
        for model in ("me/none", "short"):
            with pytest.raises(UserError, match="'me/none' is no folder here, and the Hugging Face Hub did"):
                ask_hub(model)
    ask_hub("me/net")  # in the cache


def test_a_name_or_a_folder_without_a_run_is_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr("dogbreeds.training.models.checkpoint.download", None)  # nothing is looked up
    for model in ("vit_nano", "mobilenet_v2", str(tmp_path), str(tmp_path / "missing")):
        assert base_run_folder(model) is None


def test_a_checkpoint_is_read_once(in21k, tmp_path, monkeypatch):
    read = []
    for loader in (AutoConfig, AutoImageProcessor):

        def from_pretrained(*args, loader=loader, **options):
            read.append(loader)
            return loader.from_pretrained(*args, **options)

        counted = SimpleNamespace(from_pretrained=from_pretrained)
        monkeypatch.setattr(f"dogbreeds.training.models.checkpoint.{loader.__name__}", counted)
    options = config(tmp_path, in21k[0])
    checkpoint = open_checkpoint(options.model.model)
    build_model(options.model, 32, NAMES, checkpoint)
    assert model_preprocessing(options.model, options.preprocessing, checkpoint).mean == (0.4, 0.4, 0.4)
    assert read == [AutoConfig, AutoImageProcessor]


@pytest.mark.parametrize("name", ["vit_nano", "mobilenet_v2_nano"])
def test_decay_spares_biases_and_norms(name, tmp_path):
    model = build(config(tmp_path, name, weight_decay=0.1), NAMES)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    spared, decayed = set(), set()
    for group in parameter_groups(model, config(tmp_path, name, weight_decay=0.1).optim):
        (decayed if group["weight_decay"] else spared).update(names[id(p)] for p in group["params"])
        heads = {names[id(p)].startswith("classifier.") for p in group["params"]}
        assert len(heads) == 1
    assert spared | decayed == set(names.values()) and not spared & decayed
    norms = {
        f"{prefix}.{suffix}"
        for prefix, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm | torch.nn.BatchNorm2d)
        for suffix in ("weight", "bias")
    }
    assert norms and norms <= spared
    assert all(name.endswith("weight") for name in decayed)
    kernels = {
        f"{prefix}.weight"
        for prefix, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert decayed == kernels
    assert all(name in norms or name.endswith(("bias", "cls_token", "position_embeddings")) for name in spared)


def test_what_timm_spares_does_not_decay(tmp_path):
    for name in ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"):
        model = timm.create_model(name, img_size=32, depth=1)
        groups = parameter_groups(model, config(tmp_path, "vit_nano", weight_decay=0.1).optim)
        decaying = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
        spared = {name for name, parameter in model.named_parameters() if id(parameter) not in decaying}
        assert model.no_weight_decay() & dict(model.named_parameters()).keys() <= spared
        assert "pos_embed" in spared and "blocks.0.attn.qkv.weight" not in spared


def test_a_frozen_backbone_leaves_the_classifier(checkpoints, tmp_path):
    options = config(tmp_path, checkpoints / "vit_nano", freeze_backbone=True)
    groups = parameter_groups(build(options, NAMES), options.optim)
    assert sum(p.numel() for group in groups for p in group["params"]) == 13 * 32 + 13


def rates(tmp_path, num_steps=100, losses=(), **options):
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    schedule = Schedule(optimizer, config(tmp_path, "vit_nano", warmup_fraction=0.1, **options).optim, num_steps)
    found = []
    for step in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_step()
        if losses and step % 10 == 9:
            schedule.after_epoch(losses[step // 10])
    return found


def test_schedules(tmp_path):
    cosine = rates(tmp_path, schedule="cosine")
    assert cosine[0] == pytest.approx(1 / 11) and cosine[10] == 1.0
    assert cosine[:11] == sorted(cosine[:11]) and cosine[10:] == sorted(cosine[10:], reverse=True)
    assert cosine[55] == pytest.approx(0.5) and cosine[-1] < 0.001
    constant = rates(tmp_path, schedule="constant")
    assert constant[:11] == cosine[:11] and set(constant[10:]) == {1.0}
    falling = rates(tmp_path, schedule="plateau", losses=[1.0] * 10)
    assert falling[:11] == cosine[:11]
    assert falling[39] == 1.0 and falling[40] == falling[69] == 0.5 and falling[70] == falling[-1] == 0.25
    still = rates(tmp_path, schedule="plateau", losses=[1 / (epoch + 1) for epoch in range(10)])
    assert still[-1] == 1.0


@pytest.mark.parametrize("name", ["config", "processor"])
def test_no_code_of_a_checkpoint_runs_even_if_somebody_says_yes(name, checkpoints, tmp_path, monkeypatch):
    """transformers asks on the terminal whether it may, unless it is told not to."""
    folder, ran = shutil.copytree(checkpoints / "vit_nano", tmp_path / "checkpoint"), tmp_path / "ran"
    (folder / "strange.py").write_text(
        f"open({str(ran)!r}, 'w')\n"
        "from transformers import ViTConfig, ViTImageProcessor\n"
        "class StrangeConfig(ViTConfig): model_type = 'strange'\n"
        "class StrangeProcessor(ViTImageProcessor): pass\n"
    )
    if name == "config":
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "strange", "auto_map": {"AutoConfig": "strange.StrangeConfig"}}
        (folder / "config.json").write_text(json.dumps(config))
    else:
        maps = {"AutoImageProcessor": "strange.StrangeProcessor"}
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "StrangeProcessor", "auto_map": maps})
        )
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    checkpoint = Checkpoint(str(folder))
    with pytest.raises(UserError, match=r"not understood|no image classifier") as error:
        checkpoint.config, checkpoint.input_format  # noqa: B018
    assert not ran.exists() and "\n" not in str(error.value)
