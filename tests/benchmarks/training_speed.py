"""Training: this project's loop against the way of transformers' example for accelerate, in turns in one run.

    python tests/benchmarks/training_speed.py --data DATA --model FOLDER_OR_HUB_ID --freeze-backbone
    python tests/benchmarks/training_speed.py --data DATA --model FOLDER_OR_HUB_ID --num-photos 640

The other way (run_image_classification_no_trainer.py of transformers, written anew here): photos are decoded, cropped
and flipped by torchvision in every epoch, in the training process; the step is float32, with the optimiser and the
memory format as they come. Both get the same photos, batches of 32, and train the same weights. Our time counts
everything from the data set on, the pixel cache made anew included; of the other way a part is timed and scaled to the
same work. Start-up and export are left out on both sides.
"""

import dataclasses
import math
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
from dogbreeds.training.config import TrainConfig
from dogbreeds.training.trainer import Trainer

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
    """The loop of transformers' example, on the splits and options of a trainer of ours."""

    def __init__(self, trainer: Trainer) -> None:
        config, view = trainer.config, trainer.view
        self.accelerator = Accelerator(cpu=trainer.accelerator.device.type == "cpu")
        names = trainer.splits.names
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        torch.manual_seed(config.seed)
        model = AutoModelForImageClassification.from_pretrained(
            config.model, **labels, ignore_mismatched_sizes=True, use_safetensors=True
        )
        if config.freeze_backbone:
            model.base_model.requires_grad_(False)
        end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(view.mean), list(view.std))]
        crop = v2.Compose([v2.RandomResizedCrop(view.size), v2.RandomHorizontalFlip(), *end])
        centre = v2.Compose([v2.Resize(view.size), v2.CenterCrop(view.size), *end])
        training = Photos(trainer.splits.train, crop)
        validation = Photos(trainer.splits.validation, centre)
        no_decay = ("bias", "LayerNorm.weight")
        groups = [
            {"params": [p for n, p in model.named_parameters() if p.requires_grad and not n.endswith(no_decay)],
             "weight_decay": config.weight_decay},
            {"params": [p for n, p in model.named_parameters() if p.requires_grad and n.endswith(no_decay)],
             "weight_decay": 0.0},
        ]  # fmt: skip
        rate = config.head_learning_rate if config.freeze_backbone else config.learning_rate
        optimizer = torch.optim.AdamW(groups, lr=rate)
        self.model, self.optimizer, self.training, self.validation = self.accelerator.prepare(
            model,
            optimizer,
            DataLoader(training, batch_size=config.batch_size, shuffle=True),
            DataLoader(validation, batch_size=config.batch_size),
        )
        num_steps = config.epochs * len(self.training)
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
    """Print photos a second of both, the ratio with its spread and, with --to-the-end, both accuracies.

    Args:
        data: As for train_vit.py.
        model: As for train_vit.py.
        freeze_backbone: Train the classifier alone.
        epochs: Passes that both are reckoned for.
        batch_size: Photos in a batch.
        learning_rate: Of the backbone.
        breeds: Only these, separated by commas.
        num_photos: Photos timed in each round of the other way, and of ours where the backbone is trained.
        num_rounds: Rounds.
        to_the_end: Train both to the end for their accuracy, instead of timing a part.
    """
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
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
            limited = config
            if not freeze_backbone and not to_the_end:  # a part of the photos of each breed, once
                limited = dataclasses.replace(config, epochs=1, images_per_breed=max(3, num_photos // 100))
            trainer = Trainer(limited)
            trainer.fit()
            spent = trainer.time_spent
            seconds = trainer.seconds["data"] + trainer.seconds.get("features", 0.0) + sum(spent.values())
            num_seen = limited.epochs * len(trainer.splits.train)
            mine = seconds / num_seen
            peer = ExamplesWay(trainer)
            if to_the_end:
                started = time.perf_counter()
                for _ in range(epochs):
                    peer.train()
                    _, accuracy = peer.evaluate()
                their_seconds = time.perf_counter() - started
                best = max(row["validation_top1"] for row in trainer.progress.history)
                last = trainer.progress.history[-1]["validation_top1"]
                print(f"top-1 on validation: ours {last:.1%} (best {best:.1%}), the example's way {accuracy:.1%}")
            else:
                step, look = peer.train(num_photos), peer.evaluate(num_photos)[0]
                their_seconds = limited.epochs * (
                    step * len(trainer.splits.train) + look * len(trainer.splits.validation)
                )
            ours.append(mine)
            theirs.append(their_seconds / num_seen)
            record = trainer._time_record()
            share = record.get("share_of_peak")
            print(
                f"round {round_number + 1}: ours {seconds:.1f} s, {1 / mine:.1f} photos/s ("
                + (f"{record['photos_per_second_in_steps']:.1f} in steps, {share:.0%} of the measured peak" if share
                   else f"{trainer.seconds['data']:.1f} s data, {trainer.seconds['features']:.1f} s features")
                + f"); the example's way {their_seconds:.0f} s, {num_seen / their_seconds:.1f} photos/s; "
                f"ratio {theirs[-1] / mine:.1f}",
                flush=True,
            )  # fmt: skip
    ratios = np.array(theirs) / np.array(ours)
    print(f"ratio {ratios.mean():.1f} +- {ratios.std():.1f}")


if __name__ == "__main__":
    tyro.cli(main)
