"""Learning from a teacher, with mixup and CutMix, layer-wise rates, and averaged with the start."""

import shutil
from dataclasses import replace

import pytest
import torch
from conftest import BREED_FOLDERS, interrupted_after, make_photo, tiny_config
from torch.nn.functional import cross_entropy, interpolate
from transformers import AutoModelForImageClassification

from dogbreeds.calibration import softmax
from dogbreeds.errors import UserError
from dogbreeds.run_folder import RunFolder
from dogbreeds.split_file import load_trained_on
from dogbreeds.training import learner as learner_module
from dogbreeds.training.context import Context
from dogbreeds.training.earlier.losses import LOSSES
from dogbreeds.training.learner import mixed_up
from dogbreeds.training.models.adapters import set_labels
from dogbreeds.training.models.build import build_model
from dogbreeds.training.models.inspection import layers_above
from dogbreeds.training.models.registry import ARCHITECTURES
from dogbreeds.training.optim import parameter_groups
from dogbreeds.training.options import ModelOptions, TrainConfig
from dogbreeds.training.teacher import Teacher
from dogbreeds.training.train import fit, set_up

BREEDS = ("Chihuahua", "Shih-Tzu", "Beagle", "Golden retriever")


def first_batch(run):
    """The first training batch as the student gets it, with its labels."""
    batch = next(run.inputs.training_batches(0, 0))
    return run.inputs.of_training(batch), batch.labels


def other_photos(folder, num_breeds):
    """Photos that no run has seen."""
    for label, name in enumerate(BREED_FOLDERS[:num_breeds]):
        (folder / name).mkdir(parents=True)
        for seed in range(200, 205):
            make_photo(label, seed).save(folder / name / f"{name}_{seed}.png")
    return folder


def cnn_start(folder, labels):
    """A checkpoint of a CNN whose own classifier has these labels."""
    architecture = ARCHITECTURES["mobilenet_v2_nano"](image_size=32)
    set_labels(architecture, labels)
    torch.manual_seed(1)
    AutoModelForImageClassification.from_config(architecture).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("image_size", [32, 48])
def test_the_loss_is_against_the_teachers_probabilities_on_the_same_view(photo_folder, tiny_run, tmp_path, image_size):
    config = tiny_config(photo_folder, tmp_path / "run", teacher=str(tiny_run), image_size=image_size)
    run = set_up(config, saves=False)
    pixels, labels = first_batch(run)
    run.learner.model.eval()
    teacher = AutoModelForImageClassification.from_pretrained(tiny_run).eval()
    with torch.no_grad():
        seen = interpolate(pixels, (32, 32), mode="bilinear", antialias=True)
        targets = softmax(teacher(seen).logits.numpy())  # calibrated: the temperature is in the weights
        logits = run.learner.model(pixels).logits
    loss = run.learner.loss(pixels, labels)
    expected = float(-(torch.from_numpy(targets) * logits.log_softmax(dim=1)).sum(dim=1).mean())
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert abs(expected - float(cross_entropy(logits, labels))) > 1e-3
    assert run.inputs.random_views is not None and torch.equal(run.learner.loss(pixels, labels.roll(1)), loss)
    loss.backward()
    assert all(parameter.grad is None for parameter in run.learner.teacher._model.parameters())
    assert TrainConfig.from_dict(config.to_dict()).optim.teacher == tiny_run


def test_a_teacher_gets_pixels_as_they_were_normalised_for_it(photo_folder, tiny_run, tmp_path):
    config = tiny_config(photo_folder, tmp_path / "run")
    context, run = Context(config.run, config.optim, tmp_path, quiet=True), RunFolder.open(tiny_run)
    other = replace(run.preprocessing, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    colours = torch.rand(3, 3, 32, 32)
    answers = []
    for view in (run.preprocessing, other):
        mean, std = (torch.tensor(values)[:, None, None] for values in (view.mean, view.std))
        answers.append(Teacher(run, view, run.labels, context)((colours - mean) / std))
    assert torch.allclose(answers[0], answers[1], atol=1e-5)
    assert torch.allclose(answers[0].sum(dim=1), torch.ones(3))


def test_mixup_mixes_photos_and_targets_by_one_share(photo_folder, tmp_path):
    run = set_up(tiny_config(photo_folder, tmp_path / "run", mixup=0.5), saves=False)
    pixels, labels = first_batch(run)
    run.learner.model.eval()
    torch.manual_seed(3)
    loss = run.learner.loss(pixels, labels)
    torch.manual_seed(3)
    share = float(torch.distributions.Beta(0.5, 0.5).sample())
    order = torch.randperm(len(labels))
    assert 0 < share < 1 and not torch.equal(labels, labels[order])
    logits = run.learner.model((1 - share) * pixels + share * pixels[order]).logits
    expected = (1 - share) * cross_entropy(logits, labels) + share * cross_entropy(logits, labels[order])
    assert torch.allclose(loss, expected, rtol=1e-4)
    torch.manual_seed(3)
    assert torch.equal(run.learner.loss(pixels, labels), loss)


def test_cutmix_puts_a_rectangle_of_another_photo_and_its_target_in_by_one_share(photo_folder, tmp_path, monkeypatch):
    run = set_up(tiny_config(photo_folder, tmp_path / "run", cutmix=1.0, mixup=0.5), saves=False)
    photos = torch.arange(4.0)[:, None, None, None].expand(4, 3, 32, 32)
    batches = []

    def logits(model, inputs):
        batches.append(inputs)
        return run.learner.model(inputs).logits

    monkeypatch.setattr(learner_module, "logits_of", logits)
    monkeypatch.setitem(LOSSES, "cross-entropy", lambda logits, targets: batches.append(targets))
    num_cut = 0
    for seed in range(8):
        torch.manual_seed(seed)
        run.learner.loss(photos, torch.arange(4))
        mixed, targets = batches[-2:]
        for number in range(4):  # each photo has the colour of its number, and a share of another's
            colours, counts = mixed[number].unique(return_counts=True)
            if not (colours == colours.round()).all():  # mixup's
                break
            num_cut += len(colours) == 2
            expected = torch.zeros(4).index_put((colours.long(),), counts / mixed[number].numel())
            assert torch.allclose(targets[number], expected)
    assert 4 <= num_cut < 32


def test_a_teacher_answers_the_mixed_photos(photo_folder, tiny_run, tmp_path):
    run = set_up(tiny_config(photo_folder, tmp_path / "run", mixup=0.5, teacher=str(tiny_run)), saves=False)
    pixels, labels = first_batch(run)
    run.learner.model.eval()
    torch.manual_seed(3)
    loss = run.learner.loss(pixels, labels)
    torch.manual_seed(3)
    mixed, _ = mixed_up(pixels, torch.zeros(len(pixels), 4), 0.5)
    assert torch.allclose(loss, cross_entropy(run.learner.model(mixed).logits, run.learner.teacher(mixed)))


@pytest.mark.parametrize(
    ("name", "powers"),
    [
        ("vit_nano", {"vit.embeddings.": 3, "vit.layers.0.": 2, "vit.layers.1.": 1, "vit.layernorm.": 0}),
        (
            "mobilenet_v2_nano",
            {"mobilenet_v2.conv_stem.": 17, "mobilenet_v2.conv_1x1.": 0}
            | {f"mobilenet_v2.layer.{number}.": 16 - number for number in range(16)},
        ),
    ],
)
def test_layers_learn_slower_the_more_lie_above(photo_folder, tmp_path, name, powers):
    config = tiny_config(
        photo_folder, tmp_path, model=name, learning_rate=1e-2, head_learning_rate=0.5, layer_decay=0.7
    )
    model = build_model(config.model, 32, BREEDS)
    rates = {id(p): group["lr"] for group in parameter_groups(model, config.optim) for p in group["params"]}
    seen = set()
    for parameter_name, parameter in model.named_parameters():
        [prefix] = [each for each in (*powers, "classifier.") if parameter_name.startswith(each)]
        expected = 0.5 if prefix == "classifier." else 1e-2 * 0.7 ** powers[prefix]
        assert rates[id(parameter)] == pytest.approx(expected), parameter_name
        seen.add(prefix)
    assert seen == {*powers, "classifier."}
    assert len(parameter_groups(model, config.replace(layer_decay=1.0).optim)) == 4


def test_layers_are_counted_through_the_stages_of_timm():
    names = ["conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.1.0.bn1.weight", "blocks.1.1.bn1.weight"]
    names = [f"timm_model.{name}" for name in (*names, "blocks.1.1.bn2.weight", "conv_head.weight", "classifier.bias")]
    assert layers_above(names) == [4, 3, 2, 1, 1, 0, 0]
    assert layers_above(["convolution.weight", "classifier.weight"]) == [0, 0]


def test_layers_are_the_same_with_lora(tmp_path):
    start = ModelOptions(model=cnn_start(tmp_path / "start", BREEDS))
    layer_of = []
    for options in (start, replace(start, adapt="lora")):
        names = [name for name, _ in build_model(options, 32, BREEDS).named_parameters()]
        weights = [name.replace(".parametrizations.weight.0.up", ".weight") for name in names]
        layer_of.append(dict(zip(weights, layers_above(names), strict=True)))
    assert {name: layer_of[1][name] for name in layer_of[0] if name in layer_of[1]} == layer_of[0]


def test_the_saved_weights_are_averaged_with_the_start(photo_folder, tmp_path):
    start = cnn_start(tmp_path / "start", BREEDS)
    run = set_up(tiny_config(photo_folder, tmp_path / "run", model=start, average_with_start=0.25, epochs=1))
    first = {name: tensor.clone() for name, tensor in run.learner.full_model.state_dict().items()}
    fit(run)
    trained = run.saved_states.load_best()
    averaged = run.learner.load_best(run.saved_states.load_best()).state_dict()
    for name, tensor in averaged.items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, 0.75 * trained[name] + 0.25 * first[name], rtol=1e-4, atol=1e-6), name
        else:
            assert torch.equal(tensor, trained[name])
    moved = {name for name in averaged if not torch.equal(trained[name], first[name])}
    assert {"classifier.weight", "mobilenet_v2.conv_stem.first_conv.convolution.weight"} <= moved
    assert not any(name.endswith("running_var") for name in moved)  # those that came with the weights stay


def test_a_resumed_run_learns_from_the_same_answers_and_is_averaged_with_the_same_start(
    photo_folder, tiny_run, tmp_path
):
    options = {"model": str(tiny_run), "teacher": str(tiny_run), "mixup": 0.3, "average_with_start": 0.5}

    with interrupted_after(1):
        fit(set_up(tiny_config(photo_folder, tmp_path / "stopped", **options)))
    weights = []
    for name, resume in (("whole", False), ("stopped", True)):
        run = set_up(tiny_config(photo_folder, tmp_path / name, resume=resume, **options))
        fit(run)
        assert run.loop.progress.epoch == 2
        weights.append(run.learner.load_best(run.saved_states.load_best()).state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_start_whose_classifier_knows_all_breeds_can_be_averaged_with(tmp_path, capsys):
    known = cnn_start(tmp_path / "known", ("sofa", "golden retriever", "Shih-Tzu", "Chihuahua", "beagle"))
    for names, is_known in ((BREEDS, True), ((*BREEDS, "Pug"), False)):
        config = tiny_config(tmp_path, tmp_path / "run", model=known, keep_known_breeds=True, average_with_start=0.5)
        if is_known:
            build_model(config.model, 32, names)
        else:
            with pytest.raises(
                UserError, match=r"^--average-with-start 0\.5: .* does not classify these breeds; start"
            ):
                build_model(config.model, 32, names)


def test_photos_of_the_teacher_are_not_held_out_and_not_forgotten(photo_folder, tiny_run, tmp_path):
    with pytest.raises(UserError, match="was trained on photos that are held out here: give the --split-seed"):
        set_up(tiny_config(photo_folder, tmp_path / "run", teacher=str(tiny_run), split_seed=1), saves=False)
    elsewhere = tiny_config(other_photos(tmp_path / "other", 4), tmp_path / "run", teacher=str(tiny_run), seed=1)
    base = set_up(elsewhere, saves=False).base
    assert base.record is None and base.trained_on == load_trained_on(tiny_run / "splits.parquet")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"teacher": "runs/none"}, "--teacher runs/none: no run folder, run.json is missing"),
        ({"teacher": "lite"}, "model.safetensors is missing, the weights for PyTorch"),
        ({"grayscale": True}, "another view of a photo (grayscale)"),
        ({"fit": "squash"}, "another view of a photo (fit)"),
        ({"equalize": True}, "another view of a photo (equalize)"),
        ({"whitening": "blur"}, "another view of a photo (blur)"),
        ({"whitening": "zca"}, "--whitening zca is fitted for each run"),
        ({"freeze_backbone": True, "model": "start"}, "add --no-freeze-backbone or --augment on"),
        ({"label_smoothing": 0.1}, "--label-smoothing 0.1: a teacher's answers replace the labels"),
        ({"data": "three"}, "its 4 breeds are not the 3 of the data"),
        ({"mixup": -1.0}, "--mixup -1.0: must be 0 or more"),
        ({"cutmix": 1.0, "freeze_backbone": True, "model": "start"}, "--cutmix 1.0: the features of a frozen backbone"),
        ({"layer_decay": 0.0}, "--layer-decay 0.0: must be above 0 and at most 1"),
        (
            {"layer_decay": 0.5, "freeze_backbone": True, "model": "start", "augment": "on"},
            "--layer-decay 0.5: a frozen",
        ),
        ({"average_with_start": 1.0}, "--average-with-start 1.0: must be from 0 to below 1"),
        ({"average_with_start": 0.5}, "built without weights: leave --average-with-start out"),
        ({"average_with_start": 0.5, "model": "start", "from_scratch": True}, "--from-scratch starts from nothing"),
        ({"average_with_start": 0.5, "model": "start"}, "does not classify these breeds; start from a run on them"),
    ],
    ids=str,
)
def test_what_can_not_be_is_one_line_before_training(photo_folder, tiny_run, checkpoints, tmp_path, options, words):
    options = {"teacher": str(tiny_run), **options}
    if options["teacher"] == "lite":
        options["teacher"] = str(shutil.copytree(tiny_run, tmp_path / "lite"))
        (tmp_path / "lite" / "model.safetensors").unlink()
    if options.get("model") == "start":
        options["model"] = str(checkpoints / "vit_nano")
    data = other_photos(tmp_path / "three", 3) if options.pop("data", "") else photo_folder
    with pytest.raises(UserError) as error:
        set_up(tiny_config(data, tmp_path / "run", **options))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("run*"))
