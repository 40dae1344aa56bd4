"""Training losses: cross-entropy, and those that the earlier projects compared with it."""

from collections.abc import Callable

import torch
from torch.nn import functional

from dogbreeds.training.options import LossName

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From logits `(B, C)` and target probabilities `(B, C)` to the mean over the photos."""


def kl_divergence(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the probabilities from the targets: cross-entropy minus the targets' entropy."""
    return functional.kl_div(logits.log_softmax(dim=1), targets, reduction="batchmean")


def poisson(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Keras's Poisson loss, each probability being a rate: (cross-entropy + 1) / number of breeds."""
    return functional.poisson_nll_loss(logits.log_softmax(dim=1), targets)


def hinge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One breed against the rest, each with a margin of 1 (Rifkin & Klautau 2004, https://jmlr.org/papers/v5).

    Of the logits. Keras applies it to probabilities, which never leave the margin.
    """
    return _margins(logits, targets).sum(dim=1).mean()


def squared_hinge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The same as `hinge` with each margin squared."""
    return _margins(logits, targets).square().sum(dim=1).mean()


def _margins(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (1 - (2 * targets - 1) * logits).clamp(min=0)


LOSSES: dict[LossName, Loss] = {
    "cross-entropy": functional.cross_entropy,
    "kl-divergence": kl_divergence,
    "poisson": poisson,
    "hinge": hinge,
    "squared-hinge": squared_hinge,
}


def target_probabilities(labels: torch.Tensor, num_labels: int, smoothing: float) -> torch.Tensor:
    """Targets `(B, C)` of labels `(B,)`, with label smoothing (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567)."""
    return functional.one_hot(labels, num_labels) * (1 - smoothing) + smoothing / num_labels
