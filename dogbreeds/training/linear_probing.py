"""The first part of LP-FT: the classifier alone, before all weights are trained (Kumar et al. 2022)."""

import copy
import dataclasses
from pathlib import Path

from pydantic import TypeAdapter
from torch import nn
from transformers import PreTrainedModel

from dogbreeds.preprocessing import Preprocessing
from dogbreeds.training.context import Context
from dogbreeds.training.datasets.splits import Splits
from dogbreeds.training.inputs import Features, Inputs
from dogbreeds.training.learner import Learner
from dogbreeds.training.loop import Loop, Progress
from dogbreeds.training.models.adapt import choose_trained
from dogbreeds.training.models.inspection import classifier_of
from dogbreeds.training.options import TrainConfig
from dogbreeds.training.saved_states import SavedStates, State

FOLDER = "classifier"
"""Of a run's saved state, the part with that of its first epochs."""


def train_classifier(
    config: TrainConfig,
    context: Context,
    splits: Splits,
    model: PreTrainedModel,
    preprocessing: Preprocessing,
    features: Features,
    state: Path | None,
) -> Progress:
    """Train the classifier on features that are computed once, or restore it where a resumed run had done so.

    A classifier that fits keeps the features from being distorted in the first steps of all weights (Kumar et al. 2022,
    https://arxiv.org/abs/2202.10054).

    Args:
        config: The run's options; `classifier_epochs` and what holds for a frozen backbone are used.
        context: Its process.
        splits: Its photos.
        model: The whole network, whose classifier is changed in place.
        preprocessing: What it sees.
        features: Those of the backbone, computed if they are not there yet.
        state: The folder of the run's saved state; None to save nothing.

    Returns:
        How far the run is: these epochs are its first ones.

    Raises:
        UserError: As `Loop.fit`.
        SystemExit: The process got SIGTERM; the state is saved.
    """
    probing = config.replace(
        adapt="classifier",
        epochs=config.optim.classifier_epochs,
        augment="off",
        augmentation=None,
        **dict.fromkeys(("drop_path", "average_with_start", "cutmix", "ema_decay", "early_stopping_patience"), 0),
        layer_decay=1.0,
        teacher=None,
    )
    classifier, saved_states = classifier_of(model)[1], None
    if state is not None:
        saved_states = SavedStates(state / FOLDER)
        if context.is_main:
            saved_states.folder.mkdir(parents=True, exist_ok=True)
        saved = saved_states.load() if config.run.resume else None
        if saved and (progress := _restored(saved, probing.optim.epochs, classifier)):
            return progress
    probed = copy.deepcopy(model)  # what prepares it for several processes would stay on the network
    choose_trained(probed, probing.model)
    # Photos as the model sees them, not as random views are cut from; those that it is judged on at the end can wait
    splits = dataclasses.replace(splits, stored_preprocessing=preprocessing, test=None, everyday=None)
    inputs = Inputs(probing, context, splits, probed, preprocessing, features)
    loop = Loop(probing, context, inputs, Learner(probing, context, probed, inputs), saved_states)
    loop.fit()
    classifier.load_state_dict(classifier_of(probed)[1].state_dict())
    return loop.progress


def _restored(saved: State, num_epochs: int, classifier: nn.Linear) -> Progress | None:
    """Give the classifier its weights after all of its epochs; None where it has not had them."""
    try:
        progress = TypeAdapter(Progress).validate_python(saved["progress"])
        if progress.epoch != num_epochs:
            return None
        classifier.load_state_dict({name.removeprefix("classifier."): each for name, each in saved["model"].items()})
    except Exception:  # of any kind, for it may hold anything; the loop says so
        return None
    return progress
