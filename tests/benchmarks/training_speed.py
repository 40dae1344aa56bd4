"""Training: this project's loop against the way of transformers' example for accelerate, in turns in one run.

    python tests/benchmarks/training_speed.py --data DATA --model FOLDER_OR_HUB_ID --freeze-backbone
    python tests/benchmarks/training_speed.py --data DATA --model FOLDER_OR_HUB_ID --num-photos 640

The other way (run_image_classification_no_trainer.py of transformers, written anew here): photos are decoded, cropped
and flipped by torchvision in every epoch, in the training process; the step is float32, with the optimiser and the
memory format as they come. Both get the same photos and batches, and train the same weights; the other way runs in a
process of its own, so that nothing we set for ours helps it. All weights are trained on a part of the photos, a frozen
backbone's classifier on all by us and on a part by the other; both are scaled to the same work: all photos, each epoch
with its validation, on our side with the pixel cache made anew. Start-up and export are left out on both sides.
"""

import math
import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import tyro
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from transformers import AutoModelForImageClassification

from dogbreeds import metrics
from dogbreeds.images import open_image
from dogbreeds.training.datasets.splits import load_data
from dogbreeds.training.models.build import model_preprocessing
from dogbreeds.training.options import TrainConfig
from dogbreeds.training.train import fit, set_up

NUM_WARM_UP = 2


class Photos(Dataset):
    """Photos decoded and transformed whenever they are asked for."""

    def __init__(self, photos, transform):
        self.photos, self.transform = photos, transform

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, index):
        return self.transform(open_image(self.photos.sources[index])), int(self.photos.labels[index])


class ExamplesWay:
    """The loop of transformers' example, on the splits and options of a run of ours."""

    def __init__(self, config: TrainConfig) -> None:
        splits = load_data(config, progress=False)
        view = model_preprocessing(config.model, config.preprocessing)
        self.accelerator = Accelerator()
        names = splits.names
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        torch.manual_seed(config.run.seed)
        model = AutoModelForImageClassification.from_pretrained(
            config.model.model, **labels, ignore_mismatched_sizes=True, use_safetensors=True, trust_remote_code=False
        )
        if config.model.freeze_backbone:
            model.base_model.requires_grad_(False)
        end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(view.mean), list(view.std))]
        crop = v2.Compose([v2.RandomResizedCrop(view.size), v2.RandomHorizontalFlip(), *end])
        centre = v2.Compose([v2.Resize(view.size), v2.CenterCrop(view.size), *end])
        training = Photos(splits.train, crop)
        validation = Photos(splits.validation, centre)
        no_decay = ("bias", "LayerNorm.weight")
        groups = [
            {"params": [p for n, p in model.named_parameters() if p.requires_grad and not n.endswith(no_decay)],
             "weight_decay": config.optim.weight_decay},
            {"params": [p for n, p in model.named_parameters() if p.requires_grad and n.endswith(no_decay)],
             "weight_decay": 0.0},
        ]  # fmt: skip
        rate = config.optim.head_learning_rate if config.model.freeze_backbone else config.optim.learning_rate
        optimizer = torch.optim.AdamW(groups, lr=rate)
        self.model, self.optimizer, self.training, self.validation = self.accelerator.prepare(
            model,
            optimizer,
            DataLoader(training, batch_size=config.optim.batch_size, shuffle=True),
            DataLoader(validation, batch_size=config.optim.batch_size),
        )
        num_steps = config.optim.epochs * len(self.training)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / num_steps))
        )

    def train(self, num_photos: int | None = None) -> float:
        """Seconds for each photo, over an epoch or a part of it."""
        self.model.train()
        num_seen, started = 0, 0.0
        for step, (pixels, labels) in enumerate(self.training):
            if step == NUM_WARM_UP:
                num_seen, started = 0, time.perf_counter()
            loss = torch.nn.functional.cross_entropy(self.model(pixel_values=pixels).logits, labels)
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
            loss.item()  # the example adds it up for its log
            num_seen += len(labels)
            if num_photos and num_seen >= num_photos and step > NUM_WARM_UP:
                break
        return (time.perf_counter() - started) / num_seen

    def evaluate(self, num_photos: int | None = None) -> tuple[float, float]:
        """Seconds for each photo and top-1, on the validation photos or a part of them."""
        self.model.eval()
        logits, labels, started = [], [], time.perf_counter()
        with torch.no_grad():
            for pixels, batch_labels in self.validation:
                logits.append(self.model(pixel_values=pixels).logits)
                labels.append(batch_labels)
                if num_photos and sum(map(len, labels)) >= num_photos:
                    break
        seconds = time.perf_counter() - started
        found = torch.cat(labels).cpu().numpy()
        return seconds / len(found), metrics.top_k_accuracy(torch.cat(logits).cpu().numpy(), found, 1)


def time_the_other(config: TrainConfig, num_photos: int) -> tuple[float, float]:
    """Seconds for each photo that is trained on, and for each that is validated on."""
    other = ExamplesWay(config)
    return other.train(num_photos), other.evaluate(num_photos)[0]


def train_the_other(config: TrainConfig) -> tuple[float, float]:
    """Seconds of all epochs, and top-1 on the validation photos at their end."""
    other = ExamplesWay(config)
    started, accuracy = time.perf_counter(), 0.0
    for _ in range(config.optim.epochs):
        other.train()
        accuracy = other.evaluate()[1]
    return time.perf_counter() - started, accuracy


def in_its_own_process(function, *arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main(
    data: str,
    model: str,
    freeze_backbone: bool = False,
    epochs: int = 5,
    batch_size: int = 32,
    learning_rate: float = 5e-5,
    breeds: str = "",
    num_photos: int = 320,
    num_rounds: int = 3,
    to_the_end: bool = False,
) -> None:
    """Print the seconds of both, the ratio with its spread and, with --to-the-end, both accuracies.

    Args:
        data: As for train_vit.py.
        model: As for train_vit.py.
        freeze_backbone: Train the classifier alone.
        epochs: Passes that both are reckoned for.
        batch_size: Photos in a batch.
        learning_rate: Of the backbone.
        breeds: Only these, separated by commas.
        num_photos: Photos of the part that is timed.
        num_rounds: Rounds.
        to_the_end: Train both to the end, for their accuracy too, instead of timing a part.
    """
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.from_options(
            output_dir=Path(folder) / "run",
            data=data,
            model=model,
            breeds=(breeds,),
            freeze_backbone=freeze_backbone,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            test_fraction=0.0,
            cache_dir=Path(folder) / "cache",
            measure_peak=True,
            overwrite=True,
        )
        for round_number in range(num_rounds):
            shutil.rmtree(Path(folder) / "cache", ignore_errors=True)
            started = time.perf_counter()
            splits = load_data(config, progress=False)
            data_seconds = time.perf_counter() - started
            num_train, num_validation = len(splits.train), len(splits.validation)
            part = config
            if not (freeze_backbone or to_the_end):
                of_each = max(3, num_photos // len(splits.names))
                part = config.replace(epochs=1, images_per_breed=of_each)
            run = set_up(part)
            fit(run)
            seconds, stages = dict(run.loop.progress.time_spent), run.context.seconds
            evaluation, saving = seconds.pop("evaluation"), seconds.pop("saving")
            ours = data_seconds + stages.get("features", 0.0)
            ours += sum(seconds.values()) * epochs * num_train / run.loop.progress.num_photos
            ours += evaluation * epochs * num_validation / (part.optim.epochs * len(run.splits.validation))
            ours += saving * epochs / part.optim.epochs
            if to_the_end:
                theirs, accuracy = in_its_own_process(train_the_other, config)
                mine = run.loop.progress.history[-1]["validation_top1"]
                print(f"top-1 on {num_validation} validation photos: ours {mine:.1%}, the example's way {accuracy:.1%}")
            else:
                step, look = in_its_own_process(time_the_other, config, num_photos)
                theirs = epochs * (num_train * step + num_validation * look)
            ratios.append(theirs / ours)
            record = run.time_record()
            share = record.get("share_of_peak")
            detail = f"{data_seconds:.0f} s data"
            detail += f", {stages['features']:.0f} s features" if run.inputs.head_only else ""
            detail += f", {record['photos_per_second_in_steps']:,.1f} photos/s in steps"
            detail += f", {share:.0%} of the measured peak" if share else ""
            print(
                f"round {round_number + 1}: ours {ours:,.0f} s ({detail}), the example's way {theirs:,.0f} s, "
                f"ratio {ratios[-1]:.1f}",
                flush=True,
            )
    print(f"ratio {np.mean(ratios):.1f} +- {np.std(ratios):.1f}")


if __name__ == "__main__":
    tyro.cli(main)
