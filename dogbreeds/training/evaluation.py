"""The logits of a whole split."""

from contextlib import nullcontext

import numpy as np
import torch
from accelerate.utils import find_executable_batch_size
from torch import nn
from tqdm import tqdm

from dogbreeds.training.context import Context
from dogbreeds.training.inputs import Inputs
from dogbreeds.training.learner import logits_of


def predict_logits(
    model: nn.Module, inputs: Inputs, split: str, context: Context, *, exact: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(N, C)` and labels `(N,)` of a split, in its order, in every process.

    Args:
        model: In evaluation mode from here on.
        inputs: The batches.
        split: One that is held out.
        context: The process.
        exact: Compute in float32, otherwise in the run's own precision.
    """

    def predict(batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        inputs.evaluation_batch_size = batch_size  # not to try larger ones again
        all_logits, all_labels = [], []
        loader = inputs.evaluation_loader(split, batch_size)
        for batch in tqdm(loader, split, unit="batch", leave=False, disable=not context.shows_progress):
            with nullcontext() if exact else context.accelerator.autocast():
                logits = logits_of(model, inputs.of_evaluation(batch))
            logits, labels = context.accelerator.gather_for_metrics((logits.float(), batch.labels))
            all_logits.append(logits)
            all_labels.append(labels)
        return torch.cat(all_logits).cpu().numpy(), torch.cat(all_labels).cpu().numpy()

    model.eval()
    # Not compiled: batches of another size would have the network compiled again, which takes longer than it saves.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        if context.device.type == "cpu" or context.num_processes > 1:
            logits, labels = predict(inputs.evaluation_batch_size)
        else:  # collects garbage each time, which takes longer than a small network
            logits, labels = find_executable_batch_size(predict, inputs.evaluation_batch_size)()
    assert np.array_equal(labels, inputs.labels[split]), f"{split} was not predicted completely and in order"
    return logits, labels
