"""`layers`: the alignment is what it is defined to be, and every figure can be computed again from the activations."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import run_cli, scene
from PIL import Image
from report_files import check_pictures, latex_tables
from transformers import AutoModelForImageClassification

from dogbreeds.images import open_image
from dogbreeds.photos import photo_digest
from dogbreeds.research import cka, layers
from dogbreeds.research.layers import compare_layers, is_of_patches, mean_distance, without_registers
from dogbreeds.training.backbones import load_backbone
from dogbreeds.training.models.registry import ARCHITECTURES
from dogbreeds.training.models.visual_prompts import with_prompts
from dogbreeds.training.options import PreprocessingOptions

NAMES = ["mobilenet_v2_nano", "vit_nano"]


def of_activations(*activations, batch=10):
    """The alignments of layers, from all their activations."""
    parts = zip(*(np.split(values, len(values) // batch) for values in activations), strict=True)
    return cka.alignment(np.stack([cka.hsic(np.stack([cka.kernel(values) for values in part])) for part in parts]))


def test_the_alignment_ignores_rotation_and_scale_and_is_0_of_what_is_independent():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 2000, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    found = of_activations(one, 7 * one @ rotation + 3, other)
    assert found[0, 1] == pytest.approx(1, abs=0.02)  # the shift is taken off by an estimate
    assert abs(found[0, 2]) < 0.1 and np.allclose(np.diag(found), 1)


def test_batches_give_what_all_photos_at_once_give():
    """Kornblith et al. 2019, equation 3, on the features, which is right for many photos of few features."""
    rng = np.random.default_rng(1)
    one = rng.normal(size=(4000, 3))
    other = one @ rng.normal(size=(3, 5)) + rng.normal(size=(4000, 5))
    x, y = (values - values.mean(axis=0) for values in (one, other))
    expected = np.linalg.norm(y.T @ x) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert of_activations(one, other)[0, 1] == pytest.approx(expected, abs=0.02) and 0.2 < expected < 0.9


def test_a_head_looks_as_far_as_what_it_attends_to():
    num, side = 16, 4
    at_itself = np.eye(1 + num)
    even = np.full((1 + num, 1 + num), 1 / (1 + num))
    to_the_right = np.eye(1 + num)
    for patch in range(num):
        if patch % side < side - 1:
            to_the_right[1 + patch] = np.eye(1 + num)[2 + patch]
    attention = np.stack([at_itself, even, to_the_right])[None]
    places = [(row, column) for row in range(side) for column in range(side)]
    of_pairs = [np.hypot(a - c, b - d) * 56 for a, b in places for c, d in places]
    assert is_of_patches(attention) and not is_of_patches(attention[..., 1:, 1:-3])
    assert mean_distance(attention, 224)[0] == pytest.approx([0, np.mean(of_pairs), 56 * 12 / 16])


def test_what_heads_attend_to_besides_patches_does_not_count():
    attention = np.random.default_rng(0).random((2, 3, 17, 17))
    with_registers = np.insert(attention, [1, 1], 0.7, axis=-1)
    with_registers = np.insert(with_registers, [1, 1], 0.7, axis=-2)
    assert not is_of_patches(with_registers)
    assert np.array_equal(without_registers(with_registers, 2), attention)
    assert np.array_equal(without_registers(attention, 0), attention)


def test_a_vit_with_prompts_shows_how_far_it_looks(photos, tmp_path, monkeypatch):
    model = AutoModelForImageClassification.from_config(ARCHITECTURES["vit_nano"](image_size=32))
    with_prompts(model).save_pretrained(tmp_path / "prompted")
    monkeypatch.setattr(layers, "BATCH_SIZE", 8)
    found = compare_layers([str(tmp_path / "prompted")], photos, num_photos=32, image_size=32, progress=False)
    assert found.networks[0].distances.shape == (32, 2, 2) and "How far the heads of" in str(found)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(33):
        scene(number, (40, 36)).save(folder / f"{number}.png")
    (folder / "again.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "text.jpg").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def found(photos):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "BATCH_SIZE", 8)
        return compare_layers(NAMES, photos, num_photos=39, image_size=32, progress=False)


def test_the_figures_can_be_computed_again_from_the_activations(found, photos):
    assert [network.name for network in found.networks] == NAMES and found.num_photos == 32
    assert [file for file, _ in found.unreadable] == [str(photos / "text.jpg")]
    drawn = sorted({photo_digest(file.read_bytes()): file for file in photos.glob("*.png")}.items())[:32]
    outputs, attentions = [], []
    for name in NAMES:
        model, preprocessing = load_backbone(name, None, PreprocessingOptions(image_size=32))
        model.set_attn_implementation("eager")
        pixels = np.stack([preprocessing(open_image(file)) for _, file in drawn])
        with torch.no_grad():
            hidden = model.eval()(torch.from_numpy(pixels), output_hidden_states=True, output_attentions=True)
        outputs.append(hidden.hidden_states[-1].flatten(1).numpy())
        attentions.append(getattr(hidden, "attentions", None))
    cnn, vit = found.networks
    last = [found.rows_of(network).stop - 1 for network in (cnn, vit)]
    expected = of_activations(*outputs, batch=8)[0, 1]
    assert found.alignments[last[0], last[1]] == pytest.approx(expected, abs=1e-4)
    assert np.allclose(found.alignments, found.alignments.T) and np.allclose(np.diag(found.alignments), 1)
    assert cnn.distances is None
    assert vit.distances[:, 0] == pytest.approx(mean_distance(attentions[1][0].numpy(), 32), abs=1e-4)


def test_a_third_without_layers_has_no_alignment(found):
    network = replace(found.networks[0], blocks=("first", "second"), distances=None, channel_shares=(0.1, 0.1))
    two = replace(found, networks=(network,), dependences=found.dependences[:, :2, :2])
    means = np.array(two.of_thirds(network, network))[..., 0]
    assert np.isnan(means).tolist() == [[False, True, False], [True, True, True], [False, True, False]]
    assert means[0, 0] == means[2, 2] == 1  # a layer with itself
    assert str(two).count(" – |") == 5


def test_the_report_has_the_figures_of_the_table(found, tmp_path):
    found.save(tmp_path / "layers")
    with (tmp_path / "layers" / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    num_layers = sum(len(network.blocks) for network in found.networks)
    assert len(rows) == num_layers**2 and all(float(row["low"]) <= float(row["high"]) for row in rows)
    cnn, vit = found.networks
    first = [network.blocks[network.thirds()[0]] for network in (cnn, vit)]
    values = [
        float(row["cka"])
        for row in rows
        if (row["network"], row["other"]) == tuple(NAMES)
        and row["layer"] in first[0]
        and row["layer of other"] in first[1]
    ]
    mean, low, high = found.of_thirds(cnn, vit)[0][0]
    assert mean == pytest.approx(np.mean(values)) and low <= mean <= high
    text = (tmp_path / "layers" / "layers.md").read_text()
    assert f"{mean:.2f} ({low:.2f}-{high:.2f})" in text and "How far the heads of vit_nano look" in text
    for picture in ("layers", "attention"):
        assert Image.open(tmp_path / "layers" / "pictures" / f"{picture}.png").size > (300, 300)
        check_pictures(tmp_path / "layers" / "pictures", {picture}, "vit_nano")
    first, *_, last = latex_tables((tmp_path / "layers" / "layers.tex").read_text()).values()
    assert (
        first[0][:4] == ["network", "its layers", "other", "first third"]
        and first[4][3] == f"{mean:.2f} ({low:.2f}-{high:.2f})"
    )
    assert last[0][0] == "layer" and len(last) == 1 + len(vit.blocks)


def test_axes_have_the_last_part_of_a_name_that_is_a_path(found, tmp_path):
    def labels(*names):
        networks = tuple(replace(network, name=name) for network, name in zip(found.networks, names, strict=True))
        renamed = replace(found, networks=networks)
        return [renamed._label(network) for network in renamed.networks], renamed

    assert labels("models/cnn", "google/vit/")[0] == ["cnn", "vit"]
    assert labels("models/net", "google/net")[0] == ["models/net", "google/net"]
    assert labels("net", "google/net")[0] == ["net", "google/net"]
    labels("models/cnn", "google/vit")[1].save(tmp_path / "layers")
    for picture in ("layers", "attention"):
        check_pictures(tmp_path / "layers" / "pictures", {picture}, "vit")
    text = (tmp_path / "layers" / "pictures" / "layers.svg").read_text()
    assert "models/cnn" not in text and "models/cnn" in (tmp_path / "layers" / "layers.csv").read_text()


def test_a_layer_of_one_channel_is_named(found):
    def said(*shares):
        return str(replace(found, networks=(replace(found.networks[1], channel_shares=shares),)))

    assert "in layers 2, 3 of vit_nano one channel has 40 to 60 % of the variance" in said(0.1, 0.6, 0.4)
    assert "one channel has" not in said(0.1, 0.2)


def test_a_mistake_is_one_line(photos, tmp_path, monkeypatch, capsys):
    for arguments, words in (
        ([], "no model is named"),
        (["vit_nano", "--photos", tmp_path / "none"], "is no folder"),
        (["vit_nano", "--photos", photos], "33 photos of"),
        (["vit_nano", "vit_nano", "--photos", photos], "is named twice"),
        (["vit_nono", "--photos", photos], "vit_nono"),
        (["vit_nano", "--photos", photos, "--image-size", "16"], "--image-size 16: must be 32 or more"),
        (["vit_nano", "--photos", photos, "--image-size", "0"], "--image-size 0: must be 32 or more"),
        (["lenet5", "--photos", photos, "--image-size", "32"], "too few"),
    ):
        photos_option = [] if "--photos" in arguments else ["--photos", photos]
        status, _, said = run_cli(monkeypatch, capsys, "layers", *arguments, *photos_option)
        assert status == 2 and words in said and said.count("\n") == 1, said
