"""Build the model of a run: an image classifier of transformers whose labels are the data's breeds."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from dogbreeds.errors import UserError, first_line, report
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.training.models import adapters
from dogbreeds.training.models.adapt import choose_trained
from dogbreeds.training.models.checkpoint import Checkpoint, open_checkpoint
from dogbreeds.training.models.inspection import classifier_of
from dogbreeds.training.models.location import loading
from dogbreeds.training.models.registry import ARCHITECTURES, check_has_weights, plain_cnn_options
from dogbreeds.training.models.stochastic_depth import add_stochastic_depth
from dogbreeds.training.models.visual_prompts import check_takes_prompts, with_prompts
from dogbreeds.training.options import ModelOptions, PreprocessingOptions


def build_model(
    options: ModelOptions, image_size: int, names: Sequence[str], checkpoint: Checkpoint | None = None
) -> PreTrainedModel:
    """Load or build the model of a run, with a classifier for these breeds.

    The classifier has random weights, unless the checkpoint's own has the same labels, or its rows of the breeds that
    it knows are kept.

    Args:
        options: Which model, and what of it is trained.
        image_size: Height and width of the input, pixels.
        names: The name of each class, in the order of the logits.
        checkpoint: That of `open_checkpoint(options.model)`, if the caller has it open.

    Returns:
        A transformers image classifier on the CPU in float32: pixels `(B, 3, image_size, image_size)` to logits
        `(B, len(names))`, whose last layer is linear; see `classifier_of`.

    Raises:
        UserError: The model can't be found, is no image classifier, lacks weights besides those of the classifier, or
            knows none of the breeds that are to be kept, or not all although it is averaged with at the end; it can't
            be run on photos of this size; or it has no weights of the kind that is to be trained, or no residual
            blocks that stochastic depth could leave out.
    """
    transformers_logging.set_verbosity_error()  # missing weights are checked below
    transformers_logging.disable_progress_bar()  # it is a moment's work
    architecture_options = plain_cnn_options(options)
    checkpoint = checkpoint or open_checkpoint(options.model)
    check_start(options, checkpoint)
    if checkpoint is None:
        architecture = ARCHITECTURES[options.model](image_size=image_size)
        architecture.update(architecture_options)
        adapters.set_labels(architecture, names)
        model = AutoModelForImageClassification.from_config(architecture, trust_remote_code=False)
    else:
        with loading(checkpoint.source):
            model = _from_checkpoint(checkpoint, options, image_size, names)
        if options.adapt == "vpt":
            model = with_prompts(model)
    if not _ends_in_linear_layer(model):
        raise UserError(f"{options.model!r} ({type(model).__name__}) has no linear layer at its end to train")
    model.to(memory_format=torch.channels_last)  # convolutions are 1.5 times as fast, on two CPU cores
    adapters.use_torch_batch_norm_momentum(model)
    adapters.remove_classifier_dropout(model)
    _check_runs(model, options.model, image_size)
    if options.dropout:
        adapters.drop_features(model, options.dropout)
    if options.drop_path:
        add_stochastic_depth(model, options.drop_path, options.model)
    choose_trained(model, options)
    return model


def check_start(options: ModelOptions, checkpoint: Checkpoint | None) -> None:
    """Refuse what a run can't start from, as far as its config tells: before photos are decoded.

    Args:
        options: Which model, and what of it is trained.
        checkpoint: That of `open_checkpoint(options.model)`.

    Raises:
        UserError: Options need weights and there are none, or a place for prompts.
    """
    if checkpoint is None:
        check_has_weights(options)
    elif options.adapt == "vpt":
        check_takes_prompts(checkpoint.config, options.model)


def model_preprocessing(
    options: ModelOptions, preprocessing: PreprocessingOptions, checkpoint: Checkpoint | None = None
) -> Preprocessing:
    """The pre-processing of a run: the steps are the run's, mean and standard deviation the checkpoint's.

    Both are 0.5 for a checkpoint that brings none and for an architecture without weights. The fitted kernel of
    `--whitening zca` is not in it yet.

    Args:
        options: Which model.
        preprocessing: The steps.
        checkpoint: That of `open_checkpoint(options.model)`, if the caller has it open.

    Raises:
        UserError: The checkpoint's preprocessor_config.json is not understood.
    """
    checkpoint = checkpoint or open_checkpoint(options.model)
    if checkpoint is None:
        return preprocessing.build()
    input_format = checkpoint.input_format
    return replace(preprocessing.build(), mean=input_format.mean, std=input_format.std)


def _from_checkpoint(
    checkpoint: Checkpoint, options: ModelOptions, image_size: int, names: Sequence[str]
) -> PreTrainedModel:
    own = checkpoint.config
    architecture = copy.deepcopy(own)
    adapters.set_labels(architecture, names)
    architecture.image_size = image_size
    if options.from_scratch:
        return AutoModelForImageClassification.from_config(architecture, trust_remote_code=False)
    model = _with_weights(checkpoint.source, architecture)
    if checkpoint.input_format.is_bgr:
        adapters.bgr_to_rgb(model)
    if own.id2label != architecture.id2label and own.num_labels == architecture.num_labels:
        classifier_of(model)[1].reset_parameters()  # it fits by its shape, and is of other classes
    knows_all = own.id2label == architecture.id2label
    if options.keep_known_breeds:
        knows_all = _keep_known_breeds(model, checkpoint, names) == len(names)
    if options.average_with_start and not knows_all and options.adapt != "lp-ft":
        raise UserError(
            f"--average-with-start {options.average_with_start}: {checkpoint.source!r} does not classify these breeds; "
            "start from a run on them, or add --keep-known-breeds where the checkpoint knows all of them, or --adapt "
            "lp-ft"
        )
    return model


def _with_weights(source: str, architecture: PreTrainedConfig) -> PreTrainedModel:
    """Load pre-trained weights; only those of the classifier may be missing."""
    model, loading_info = AutoModelForImageClassification.from_pretrained(
        source,
        config=architecture,
        ignore_mismatched_sizes=True,  # a classifier of other classes is replaced
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    new = {*loading_info["missing_keys"], *(entry[0] for entry in loading_info["mismatched_keys"])}
    missing = sorted(name for name in new if not name.startswith(classifier_of(model)[0]))
    if missing:
        raise UserError(
            f"the weights of {source!r} do not fit its config.json: {len(missing)} are missing or of another shape, "
            f"such as {missing[0]} (is --image-size that of the checkpoint?)"
        )
    return model


def _keep_known_breeds(model: PreTrainedModel, checkpoint: Checkpoint, names: Sequence[str]) -> int:
    """Initialise the classifier's rows of the breeds that the checkpoint's own classifier knows; their number."""
    source, rows = checkpoint.source, adapters.known_breeds(checkpoint.config.id2label or {}, names)
    original, loading_info = AutoModelForImageClassification.from_pretrained(
        source, config=checkpoint.config, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    prefix, classifier = classifier_of(model)
    if not rows or any(name.startswith(prefix) for name in loading_info["missing_keys"]):
        raise UserError(f"{source!r} has no classifier that knows any of these breeds: leave --keep-known-breeds out")
    adapters.copy_known_breeds(classifier, classifier_of(original)[1], rows)
    unknown = ", ".join(name for label, name in enumerate(names) if label not in rows) or "none"
    report(f"{len(rows)} breeds start from what {source} knows of them; with random weights: {unknown}")
    return len(rows)


def _ends_in_linear_layer(model: PreTrainedModel) -> bool:
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return bool(linear) and linear[-1].out_features == model.config.num_labels


def _check_runs(model: PreTrainedModel, name: str, image_size: int) -> None:
    """Try one forward pass."""
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # each architecture raises its own
        raise UserError(f"{name!r} can't be run at --image-size {image_size}: {first_line(error)}") from None
    model.train(was_training)
