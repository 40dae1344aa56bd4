"""Visual prompts: learned tokens that a ViT sees beside the patches of each photo (VPT, Jia et al. 2022)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from dogbreeds.errors import UserError
from dogbreeds.training.models.inspection import classifier_of

NUM_PROMPTS = 50
"""In the middle of the 1 to 200 that Jia et al. (https://arxiv.org/abs/2203.12119) try."""


def num_registers(config: PreTrainedConfig) -> int:
    """How many prompts or registers a ViT has, between the class token and the patches."""
    return getattr(config, "num_register_tokens", 0)


def check_takes_prompts(config: PreTrainedConfig, name: str) -> None:
    """Refuse a model that `with_prompts` can't give a place for prompts.

    Args:
        config: Of the model.
        name: As `--model`, for messages.

    Raises:
        UserError: It has prompts already, is no ViT of transformers, or one whose MLPs DINOv2's config can't describe.
    """
    if num_registers(config):
        raise UserError(
            f"--adapt vpt: {name!r} has prompts or registers already; train it further with --adapt full, lora or "
            "bitfit"
        )
    if config.model_type != "vit" or config.intermediate_size % config.hidden_size:
        raise UserError(
            f"--adapt vpt: {name!r} ({config.model_type}) has no place for prompts, which are for transformers' ViT, "
            "with MLPs a whole number of times as wide as itself; leave --adapt vpt out, or give a --model that is a "
            "ViT of transformers, such as google/vit-base-patch16-224-in21k"
        )


def with_prompts(model: PreTrainedModel) -> PreTrainedModel:
    """The same ViT with a place for prompts: VPT-Shallow, whose prompts go into the first layer.

    transformers' ViT has none. A ViT of DINOv2 with registers (Darcet et al. 2024, https://arxiv.org/abs/2309.16588)
    has: its registers are such tokens, at the same place. What it has besides does nothing here: scales of its branches
    are 1, and its classifier's weights for the mean of the patches 0. So the run folder is a plain checkpoint.

    Args:
        model: A ViT with its classifier, whose config `check_takes_prompts` accepts.

    Returns:
        It gives the logits of `model` but for the prompts, which are drawn as the authors do.
    """
    vit: Any = model.base_model
    own = classifier_of(model)[1]
    its, size = model.config, model.config.hidden_size
    config = Dinov2WithRegistersConfig(
        num_register_tokens=NUM_PROMPTS,
        mlp_ratio=its.intermediate_size // size,
        id2label=its.id2label,
        label2id=its.label2id,
        **{key: getattr(its, key) for key in _SHARED},
    )
    prompted: Any = Dinov2WithRegistersForImageClassification(config)
    for kind in (nn.Conv2d, nn.Linear, nn.LayerNorm):  # whose names are others in each version of transformers
        pairs = zip(_layers(prompted.base_model, kind), _layers(vit, kind), strict=True)
        for layer, original in pairs:
            layer.load_state_dict(original.state_dict())
    embeddings, classifier = prompted.base_model.embeddings, prompted.classifier
    bound = (6 / (vit.embeddings.patch_embeddings.projection.weight[0].numel() + size)) ** 0.5
    with torch.no_grad():
        embeddings.cls_token.copy_(vit.embeddings.cls_token)
        embeddings.position_embeddings.copy_(vit.embeddings.position_embeddings)
        embeddings.register_tokens.uniform_(-bound, bound)
        classifier.weight.zero_()[:, :size] = own.weight
        classifier.bias.copy_(own.bias)
    return prompted


def prompts_of(model: PreTrainedModel) -> nn.Parameter:
    """The prompts `(1, NUM_PROMPTS, D)` of a network with a place for them."""
    embeddings: Any = model.base_model.embeddings
    return embeddings.register_tokens


_SHARED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_channels",
    "qkv_bias",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
)
"""What the configs of both call by one name."""


def _layers(model: nn.Module, kind: type[nn.Module]) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(module, kind))
