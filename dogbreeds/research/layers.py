"""What the layers of networks have in common, and how far a ViT's heads look: why a ViT and a CNN may differ.

The questions are those of Raghu et al. 2021, "Do Vision Transformers See Like Convolutional Neural Networks?"
(https://arxiv.org/abs/2108.08810): which layers of one network are like which of another, by centred kernel alignment,
and from how far each attention head gathers, as in Dosovitskiy et al. 2021 (https://arxiv.org/abs/2010.11929, figure
7).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement, pairwise, product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dogbreeds.errors import UserError
from dogbreeds.files import whole_or_absent, write_csv
from dogbreeds.images import BadImage, open_image
from dogbreeds.photos import batches, photo_files, places_by_digest, read_photo
from dogbreeds.research import cka
from dogbreeds.research.document import render, write_document
from dogbreeds.research.plots import attention_distances, in_all_formats, layer_alignments
from dogbreeds.research.provenance import NETWORKS, Provenance
from dogbreeds.research.significance import bootstrap_interval
from dogbreeds.training.activations import activations
from dogbreeds.training.backbones import load_backbone, open_backbones
from dogbreeds.training.models.checkpoint import Checkpoint
from dogbreeds.training.models.inspection import blocks_of
from dogbreeds.training.models.visual_prompts import num_registers
from dogbreeds.training.options import PreprocessingOptions

BATCH_SIZE = 32
"""Photos whose activations are in memory, and among which layers are compared."""
MIN_BATCHES = 4
"""Intervals are of batches that are drawn again."""
THIRDS = ("first third", "middle", "last third")
LARGE_SHARE = 0.25
"""Of a layer's variance, in one channel, from which on the report says so."""

Estimate = tuple[float, float, float]
"""A value and its 95 % interval."""


@dataclass(frozen=True)
class Network:
    """One of those that are compared."""

    name: str
    blocks: tuple[str, ...]
    """Its layers, from the photo to the classifier, as its weights name them."""
    distances: np.ndarray | None
    """How far the heads look, `(photos, layers, heads)`: the mean distance in pixels between a patch and those that it
    attends to, weighted by the attention. None where the network has no attention, or other than a ViT's."""
    channel_shares: tuple[float, ...]
    """Of each layer: the share of its variance between photos that its most varying channel has. ViTs may have one with
    values a thousand times as large as the others' (Sun et al. 2024, "Massive Activations in Large Language Models",
    https://arxiv.org/abs/2402.17762), which is then most of what the alignment sees."""

    def dominated(self) -> list[tuple[int, float]]:
        """The layers, counted from 1, of which one channel has `LARGE_SHARE` or more, and how much."""
        return [(layer, share) for layer, share in enumerate(self.channel_shares, 1) if share >= LARGE_SHARE]

    def thirds(self) -> list[slice]:
        """Of its layers."""
        ends = [round(part * len(self.blocks) / len(THIRDS)) for part in range(len(THIRDS) + 1)]
        return [slice(*pair) for pair in pairwise(ends)]

    @cached_property
    def head_distances(self) -> list[list[Estimate]]:
        """Of each layer and head: the mean over the photos, which are drawn again."""
        assert self.distances is not None
        return [
            [(float(head.mean()), *bootstrap_interval(head)) for head in layer.T]
            for layer in self.distances.swapaxes(0, 1)
        ]


@dataclass(frozen=True)
class Layers:
    """The result of `compare_layers`. `str` gives the tables as Markdown."""

    networks: tuple[Network, ...]
    dependences: np.ndarray
    """`(batches, L, L)`, of the layers of all networks one after the other; see `dogbreeds.research.cka`."""
    photos: str
    image_size: int
    num_photos: int
    unreadable: tuple[tuple[str, str], ...]
    """Files that are no photos, and why."""
    provenance: Provenance

    @cached_property
    def alignments(self) -> np.ndarray:
        """`(L, L)`, of the layers of all networks one after the other."""
        return cka.alignment(self.dependences)

    @cached_property
    def _draws(self) -> np.ndarray:
        return cka.drawn_again(self.dependences)

    def rows_of(self, network: Network) -> slice:
        """Where a network's layers are among all."""
        start = sum(len(each.blocks) for each in self.networks[: self.networks.index(network)])
        return slice(start, start + len(network.blocks))

    def pairs(self) -> list[tuple[Network, Network]]:
        """Each two networks, and each with itself."""
        return list(combinations_with_replacement(self.networks, 2))

    def of_thirds(self, one: Network, other: Network) -> list[list[Estimate]]:
        """The mean alignment of the layers of each third of one network with each of the other, NaN of none."""
        values = self.alignments[self.rows_of(one), self.rows_of(other)]
        draws = self._draws[:, self.rows_of(one), self.rows_of(other)]
        counted = np.ones(values.shape, bool)
        if one is other:
            np.fill_diagonal(counted, False)  # a layer and itself: 1 by definition
        return [
            [_mean(values[part], draws[:, *part], counted[part]) for part in product([rows], other.thirds())]
            for rows in one.thirds()
        ]

    def with_distances(self) -> list[Network]:
        """The networks that show how far their heads look."""
        return [network for network in self.networks if network.distances is not None]

    def __str__(self) -> str:
        return render("layers.md.jinja", found=self, thirds=THIRDS, pictures=[])

    def save(self, folder: Path) -> None:
        """Write the report (`write_document`), layers.csv with all alignments, and attention.csv where there is any.

        Raises:
            UserError: The folder exists already or can't be made.
        """
        with whole_or_absent(folder) as unfinished:
            figures = {"layers": layer_alignments(self._panels())}
            if attending := self.with_distances():
                of_each = {self._label(network): network.head_distances for network in attending}
                figures["attention"] = attention_distances(of_each)
                write_csv(unfinished / "attention.csv", self._attention_rows(attending))
            text = render("layers.md.jinja", found=self, thirds=THIRDS, pictures=list(figures))
            write_document(unfinished, "layers", text, in_all_formats(figures))
            write_csv(unfinished / "layers.csv", self._rows())
            self.provenance.save(unfinished)

    def _panels(self) -> dict[tuple[str, str], np.ndarray]:
        return {
            (self._label(one), self._label(other)): self.alignments[self.rows_of(one), self.rows_of(other)]
            for one, other in product(self.networks, self.networks)
        }

    def _label(self, network: Network) -> str:
        """The last part of a network's name, which may be a path; or as many as no other name ends in."""
        parts = network.name.rstrip("/").split("/")
        ends = ["/".join(parts[-depth:]) for depth in range(1, len(parts) + 1)]
        others = [f"/{each.name.rstrip('/')}" for each in self.networks if each is not network]
        return next((end for end in ends if not any(other.endswith(f"/{end}") for other in others)), network.name)

    def _rows(self) -> Iterator[Sequence[object]]:
        yield "network", "layer", "other", "layer of other", "cka", "low", "high"
        low, high = cka.interval(self._draws)
        layers = [(network.name, block) for network in self.networks for block in network.blocks]
        for row, column in product(range(len(layers)), range(len(layers))):
            figures = (each[row, column] for each in (self.alignments, low, high))
            yield *layers[row], *layers[column], *figures

    @staticmethod
    def _attention_rows(networks: Sequence[Network]) -> Iterator[Sequence[object]]:
        yield "network", "layer", "head", "mean distance, pixels", "low", "high"
        for network in networks:
            for layer, heads in enumerate(network.head_distances, 1):
                for head, estimate in enumerate(heads, 1):
                    yield network.name, layer, head, *estimate


def _mean(values: np.ndarray, draws: np.ndarray, counted: np.ndarray) -> Estimate:
    if not counted.size:  # a third of no layer, as of a network of two
        return np.nan, np.nan, np.nan
    if not counted.any():  # a third of one layer
        return 1.0, 1.0, 1.0
    low, high = cka.interval(draws[:, counted].mean(axis=1))
    return float(values[counted].mean()), float(low), float(high)


def compare_layers(
    models: Sequence[str], photos: Path, *, num_photos: int = 512, image_size: int = 224, progress: bool = True
) -> Layers:
    """Run networks on the same photos, and compare each two layers.

    Args:
        models: As `--model` of training; their classifiers are not looked at.
        photos: A folder or a list of photos, of which those with the smallest digests are drawn.
        num_photos: How many.
        image_size: Of what the networks see, pixels.
        progress: Show a progress bar.

    Raises:
        UserError: A model is unknown, named twice, or has no numbered layers; or there are too few photos.
    """
    checkpoints = open_backbones(models, image_size)
    arguments = {"models": models, "photos": photos, "num_photos": num_photos, "image_size": image_size}
    provenance = Provenance.of("layers", arguments, [*models, photos], *NETWORKS)
    drawn, unreadable = _drawn(photos, num_photos)
    looked = [_look_into(name, checkpoint, image_size, drawn, progress) for name, checkpoint in checkpoints.items()]
    together = np.concatenate([kernels for kernels, _ in looked], axis=1)
    return Layers(
        networks=tuple(network for _, network in looked),
        dependences=np.stack([cka.hsic(batch) for batch in together]),
        photos=str(photos),
        image_size=image_size,
        num_photos=len(drawn),
        unreadable=unreadable,
        provenance=provenance,
    )


def _drawn(photos: Path, num: int) -> tuple[list[Path], tuple[tuple[str, str], ...]]:
    """Photos that can be read, each once, as many as fill batches; and those that can't be."""
    files = photo_files(photos)
    place_of, not_read = places_by_digest(files)
    unreadable = [(str(files[place]), str(error)) for place, error in not_read.items()]
    drawn: list[Path] = []
    wanted = num // BATCH_SIZE * BATCH_SIZE
    for digest in sorted(place_of):
        if len(drawn) == wanted:
            break
        file = files[place_of[digest]]
        opened = read_photo(file, open_image)
        if isinstance(opened, BadImage):
            unreadable.append((str(file), str(opened)))
        else:
            drawn.append(file)
    if len(drawn) < (least := MIN_BATCHES * BATCH_SIZE):
        found = num if len(drawn) == wanted else len(drawn)
        raise UserError(f"{found} photos of {str(photos)!r} are too few: at least {least} are needed")
    return drawn[: len(drawn) // BATCH_SIZE * BATCH_SIZE], tuple(unreadable)


def _look_into(
    name: str, checkpoint: Checkpoint | None, image_size: int, photos: Sequence[Path], progress: bool
) -> tuple[np.ndarray, Network]:
    """The kernels of a network's layers on each batch, `(batches, layers, B, B)`, and what else is to be told."""
    model, preprocessing = load_backbone(name, checkpoint, PreprocessingOptions(image_size=image_size))
    blocks = tuple(blocks_of(model))
    if not blocks:
        raise UserError(f"the model {name!r} has no numbered layers to compare: name another")
    kernels: list[np.ndarray] = []
    distances: list[np.ndarray] = []
    variances: list[list[np.ndarray]] = []
    batched = tqdm(list(batches(photos, BATCH_SIZE)), name, unit="batch", disable=not progress)
    for found in activations(model, preprocessing, batched):
        kernels.append(np.stack([cka.kernel(values) for values in found.layers]))
        variances.append([_variance_of_channels(values) for values in found.layers])
        attentions = [without_registers(each, num_registers(model.config)) for each in found.attentions]
        if attentions and all(map(is_of_patches, attentions)):
            distances.append(np.stack([mean_distance(each, image_size) for each in attentions], axis=1))
    of_layers = [np.sum(parts, axis=0) for parts in zip(*variances, strict=True)]
    least = np.finfo(np.float32).tiny  # of a layer that is 0 for all photos
    shares = tuple(float(channels.max() / max(channels.sum(), least)) for channels in of_layers)
    return np.stack(kernels), Network(name, blocks, np.concatenate(distances) if distances else None, shares)


def _variance_of_channels(values: np.ndarray) -> np.ndarray:
    """Between photos, summed over the places: of maps `(B, C, H, W)`, or of tokens `(B, N, C)`."""
    variance = values.var(axis=0)
    return variance.sum(axis=(1, 2)) if variance.ndim == 3 else variance.reshape(-1, variance.shape[-1]).sum(axis=0)


def without_registers(attention: np.ndarray, num: int) -> np.ndarray:
    """Attention among the class token and the patches alone.

    Args:
        attention: `(B, heads, 1 + num + N, 1 + num + N)`, with registers or prompts after the class token.
        num: Of these.
    """
    registers = slice(1, 1 + num)
    return np.delete(np.delete(attention, registers, axis=-1), registers, axis=-2)


def is_of_patches(attention: np.ndarray) -> bool:
    """Whether the attention is among a class token and the patches of a square, as a plain ViT has it."""
    num_patches = attention.shape[-1] - 1
    return num_patches > 0 and math.isqrt(num_patches) ** 2 == num_patches


def mean_distance(attention: np.ndarray, image_size: int) -> np.ndarray:
    """How far the heads of a layer look, pixels, `(B, heads)`.

    Args:
        attention: `(B, heads, 1 + N, 1 + N)`, the class token first and then the N patches of a square, row by row.
        image_size: The side of that square, pixels.
    """
    among_patches = attention[:, :, 1:, 1:]
    among_patches = among_patches / among_patches.sum(axis=-1, keepdims=True)
    side = math.isqrt(among_patches.shape[-1])
    places = np.indices((side, side)).reshape(2, -1).T * (image_size / side)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return (among_patches * distances).sum(axis=-1).mean(axis=-1)
