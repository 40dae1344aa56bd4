"""The one training loop: set up, fit, choose the best epoch, calibrate, save. ViT and CNN go the same way.

run = Trainer(config)       data, model, optimiser
run.fit()                   epochs, each validated and saved for --resume
run.finish()                best weights -> predictions, calibration, ONNX, run folder
"""

import copy
import csv
import dataclasses
import json
import math
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import InitProcessGroupKwargs, set_seed
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from dogbreeds import run_folder
from dogbreeds.calibration import Calibration, softmax
from dogbreeds.errors import UserError
from dogbreeds.images import open_image
from dogbreeds.latency import NUM_PHOTOS, milliseconds_per_photo
from dogbreeds.machine import num_cores, processor
from dogbreeds.predictions import Predictions
from dogbreeds.training.augment import random_view
from dogbreeds.training.config import TrainConfig
from dogbreeds.training.data import Photos, Splits, load_data
from dogbreeds.training.export import check_servable, export_serving_model
from dogbreeds.training.features import compute_features
from dogbreeds.training.loaders import (
    EpochSampler,
    RandomViewDataset,
    ViewDataset,
    evaluation_loader,
    seed_of,
    training_loader,
)
from dogbreeds.training.metric import BreedMetrics
from dogbreeds.training.model_card import model_card
from dogbreeds.training.models import build_model, flops_per_photo, model_view
from dogbreeds.training.optim import Schedule, parameter_groups

LOG_EVERY = 20
"""Steps between looks at the loss; each look waits for the accelerator."""


class Head(nn.Module):
    """The classifier alone, on features `(B, D)` that are computed once: what a frozen backbone leaves to train."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits `(B, C)`."""
        return self.classifier(features)


@dataclasses.dataclass
class Progress:
    """Where a run stands; part of what resuming restores."""

    epoch: int = 0
    """Epochs completed."""
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best_epoch: int = 0

    def state_dict(self) -> dict[str, Any]:
        """For accelerate's checkpoints."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.epoch, self.history, self.best_epoch = state["epoch"], state["history"], state["best_epoch"]


def train(config: TrainConfig) -> Path:
    """Train a model and write its run folder.

    Args:
        config: All options.

    Returns:
        The run folder.

    Raises:
        UserError: The user can mend it: data, model, options or the run folder; or the loss is no number any more.
    """
    trainer = Trainer(config)
    trainer.fit()
    trainer.finish()
    return config.output_dir


class Trainer:
    """One run, from its options to its folder."""

    def __init__(self, config: TrainConfig) -> None:
        """Read the data, build the model, and restore the state where the run is resumed.

        Raises:
            UserError: As `train`.
        """
        run_folder.check_output(config.output_dir, overwrite=config.overwrite, resume=config.resume)
        self.config = config
        self.seconds: dict[str, float] = {}
        # accelerate keeps options from one Accelerator to the next in the same process; each run has its own.
        AcceleratorState._reset_state()
        GradientState._reset_state()
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            log_with="tensorboard" if config.tensorboard else None,
            project_dir=run_folder.partial_path(config.output_dir),
            step_scheduler_with_optimizer=False,
            # Processes wait while the first one downloads and checks the data.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=3))],
        )
        set_seed(config.seed)
        with self._timed("data"), self.accelerator.main_process_first():
            self.splits = load_data(config, progress=self.accelerator.is_main_process)
        self._say_data()
        self.base_run = self._base_run()
        self.full_model = build_model(config, self.splits.names)
        check_servable(self.full_model, config.image_size)
        self.view = model_view(config)
        self.partial = self._begin()
        self.num_parameters = sum(parameter.numel() for parameter in self.full_model.parameters())
        self.flops_per_photo = flops_per_photo(self.full_model, config.image_size)
        self._build_loaders()
        self._build_optimiser()
        self.progress = Progress()
        self.metric = BreedMetrics()
        for item in filter(None, (self.schedule, self.average, self.progress)):
            self.accelerator.register_for_checkpointing(item)
        if config.resume:
            self._resume()

    def fit(self) -> None:
        """Train the epochs that are left."""
        if self.config.tensorboard:
            self.accelerator.init_trackers("logs")
        while self.progress.epoch < self.config.epochs and not self._should_stop():
            started = time.perf_counter()
            train_loss = self._train_epoch(self.progress.epoch)
            figures = self._validate()
            self._note_epoch(train_loss, figures, time.perf_counter() - started)
        self.seconds["training"] = sum(row["seconds"] for row in self.progress.history)

    def finish(self) -> None:
        """Predict with the best weights, calibrate, export and complete the run folder."""
        best = load_file(self.partial / run_folder.STATE / "best.safetensors")
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False, keep_torch_compile=False)
        model.load_state_dict(best)
        logits = {}
        for split in self.evaluation_loaders:
            with self._timed(f"evaluation of {split}"):
                # In float32, whatever training used, because that is what is served.
                logits[split] = self._predict_logits(model, split, exact=True)
        if self._is_main:
            self._save(logits)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    # Setting up

    def _begin(self) -> Path:
        """The partial run folder; made by the main process, once data and model were found to be good."""
        config = self.config
        problem = [""]
        if self.accelerator.is_main_process:
            try:
                run_folder.begin(config.output_dir, resume=config.resume)
            except UserError as error:
                problem = [str(error)]
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(problem)
        if problem[0]:
            raise UserError(problem[0])
        return run_folder.partial_path(config.output_dir)

    def _base_run(self) -> dict[str, Any] | None:
        """What to remember of the run that this one starts from, where --model names a run folder."""
        path = Path(self.config.model)
        if self.config.from_scratch or not (path / run_folder.RECORD).is_file():
            return None
        base = run_folder.RunFolder.open(path).record
        same_data = base["data"]["fingerprint"] == self.splits.fingerprint
        if same_data and base["data"]["split_hash"] != self.splits.split_hash:
            raise UserError(
                f"the run {self.config.model!r} was trained on photos that are held out here: give the --seed "
                f"({base['config']['seed']}), --validation-fraction and --test-fraction that it was trained with"
            )
        return {"command": base["command"], "seconds": base["seconds"], "data": base["data"]["split_hash"]}

    def _build_loaders(self) -> None:
        config, splits = self.config, self.splits
        num_workers = config.num_workers
        if num_workers is None:
            processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun and accelerate launch set it
            num_workers = max(1, min(8, num_cores() // processes_here))
        views = {"validation": ViewDataset(splits.validation, self.view)}
        if splits.test:
            views["test"] = ViewDataset(splits.test, self.view)
        training: Any
        evaluation: dict[str, Any]
        self.head_only = config.freeze_backbone and not config.random_views
        self.feature_seconds: dict[str, float] = {}
        if self.head_only:
            with self._timed("features"):
                datasets, self.feature_seconds = compute_features(
                    self.full_model,
                    {"train": ViewDataset(splits.train, self.view), **views},
                    self.accelerator,
                    config.image_size,
                    num_workers,
                )
            training, evaluation = datasets.pop("train"), datasets
            num_workers = 0
        else:
            transform = random_view(config, self.view) if config.random_views else _evaluation_transform(self.view)
            training, evaluation = RandomViewDataset(splits.train, transform, config.seed), views
        loader = training_loader(training, config.batch_size, config.seed, num_workers)
        assert isinstance(loader.sampler, EpochSampler)
        self.sampler = loader.sampler
        self.training_loader: DataLoader = self.accelerator.prepare(loader)
        self.evaluation_loaders: dict[str, DataLoader] = {
            split: self.accelerator.prepare(evaluation_loader(dataset, 2 * config.batch_size, num_workers))
            for split, dataset in evaluation.items()
        }

    def _build_optimiser(self) -> None:
        config = self.config
        classifier: Any = self.full_model.classifier
        model = Head(classifier) if self.head_only else self.full_model
        groups = parameter_groups(model, config)
        self.num_trained_parameters = sum(p.numel() for group in groups for p in group["params"])
        optimizer = torch.optim.AdamW(groups)
        # As accelerate has it, for `accelerate launch` can set it too
        num_accumulated = self.accelerator.gradient_accumulation_steps
        num_steps = config.epochs * math.ceil(len(self.training_loader) / num_accumulated)
        self.schedule = Schedule(optimizer, config, num_steps)
        self.average: AveragedModel | None = None
        if config.ema_decay:
            # Copied before `prepare`, which for mixed precision gives a model a `forward` that a copy would share.
            self.average = AveragedModel(model, multi_avg_fn=_ema(config.ema_decay), use_buffers=True)
            self.average.to(self.accelerator.device)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    def _resume(self) -> None:
        state = self.partial / run_folder.STATE
        try:
            then = json.loads((state / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{str(state)!r} holds no state to resume: start anew with --overwrite") from None
        now = json.loads(json.dumps(self._identity()))
        changed = [key for key in now if now[key] != then.get(key)]
        if changed:
            key = changed[0]
            raise UserError(f"can't resume with another {key}: it was {then.get(key)!r}, now it is {now[key]!r}")
        saved = sorted(state.glob("epoch-[0-9]*[0-9]"))
        if saved:
            self.accelerator.load_state(str(saved[-1]))
        self._say(f"resuming after epoch {self.progress.epoch} of {self.config.epochs}")

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a resumed run to be the same run."""
        free = ("overwrite", "resume", "num_workers", "tensorboard", "output_dir")
        options = {key: value for key, value in self.config.to_dict().items() if key not in free}
        return {
            **options,
            # As accelerate has them, for its own configuration can set them too
            "mixed_precision": self.accelerator.mixed_precision,
            "gradient_accumulation_steps": self.accelerator.gradient_accumulation_steps,
            "num_processes": self.accelerator.num_processes,
            "split_hash": self.splits.split_hash,
        }

    # Fitting

    def _train_epoch(self, epoch: int) -> float:
        """One pass over the training photos; the mean loss."""
        config, accelerator = self.config, self.accelerator
        # All that is random in an epoch is drawn from (seed, epoch), so that a resumed run goes on as if never stopped.
        set_seed(seed_of(config.seed, epoch) % 2**31, device_specific=True)
        self.sampler.set_epoch(epoch)
        if hasattr(self.training_loader, "set_epoch"):
            self.training_loader.set_epoch(epoch)  # accelerate counts epochs itself, from 0 after a resume
        self._train_mode()
        total = torch.zeros((), device=accelerator.device)
        num_photos = 0
        with tqdm(
            total=len(self.training_loader),
            desc=f"epoch {epoch + 1}/{config.epochs}",
            unit="batch",
            disable=not accelerator.is_main_process,
        ) as bar:
            for step, (inputs, labels) in enumerate(self.training_loader):
                with accelerator.accumulate(self.model):
                    loss = nn.functional.cross_entropy(
                        _logits(self.model, inputs), labels, label_smoothing=config.label_smoothing
                    )
                    accelerator.backward(loss)
                    if accelerator.sync_gradients and config.max_grad_norm:
                        accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
                    self.optimizer.step()
                    if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                        self.schedule.after_step()
                        if self.average is not None:
                            self.average.update_parameters(accelerator.unwrap_model(self.model))
                    self.optimizer.zero_grad()
                total += loss.detach() * len(labels)
                num_photos += len(labels)
                bar.update()
                if step % LOG_EVERY == 0 or step + 1 == len(self.training_loader):
                    mean_loss = float(accelerator.reduce(total.clone(), "mean")) / num_photos
                    self._check_finite(mean_loss, epoch, step)
                    bar.set_postfix(loss=f"{mean_loss:.3f}", lr=f"{self._learning_rate():.1e}")
        totals = accelerator.reduce(torch.stack([total, torch.tensor(num_photos, device=total.device)]))
        return float(totals[0] / totals[1])

    def _train_mode(self) -> None:
        self.model.train()
        if self.config.freeze_backbone and not self.head_only:
            self.full_model.base_model.eval()  # or its batch-norm statistics would move

    def _check_finite(self, loss: float, epoch: int, step: int) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} in epoch {epoch + 1}, step {step + 1}: lower --learning-rate (now "
                f"{self.config.learning_rate:g}) or --head-learning-rate ({self.config.head_learning_rate:g}), or use "
                "--mixed-precision no; the epochs before are kept for --resume"
            )

    def _validate(self) -> dict[str, float]:
        if self.average is not None and self.accelerator.num_processes > 1:
            for buffer in self.average.module.buffers():  # batch-norm statistics, which each process has its own of
                torch.distributed.broadcast(buffer, 0)
        model = self.average.module if self.average is not None else self.model
        logits, labels = self._predict_logits(model, "validation")
        probabilities = softmax(logits)
        figures = self.metric.compute(predictions=probabilities, uncalibrated=probabilities, references=labels)
        self.schedule.after_epoch(figures["log_loss"])
        return figures

    def _predict_logits(self, model: nn.Module, split: str, *, exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Logits `(N, C)` and labels `(N,)` of a split, in its order, in every process.

        With `exact` the arithmetic is float32, otherwise the run's own.
        """
        loader = self.evaluation_loaders[split]
        model.eval()
        all_logits, all_labels = [], []
        with (
            torch.no_grad(),
            tqdm(total=len(loader), desc=split, unit="batch", leave=False, disable=not self._is_main) as bar,
        ):
            for inputs, labels in loader:
                with nullcontext() if exact else self.accelerator.autocast():
                    logits = _logits(model, inputs)
                logits, labels = self.accelerator.gather_for_metrics((logits.float(), labels))
                all_logits.append(logits.cpu())
                all_labels.append(labels.cpu())
                bar.update()
        found = torch.cat(all_labels).numpy()
        assert np.array_equal(found, self._photos(split).labels), f"{split} was not predicted completely and in order"
        return torch.cat(all_logits).numpy(), found

    def _note_epoch(self, train_loss: float, figures: dict[str, float], seconds: float) -> None:
        """Record an epoch, keep its weights if they are the best yet, and save what resuming needs."""
        progress = self.progress
        progress.epoch += 1
        row = {
            "epoch": progress.epoch,
            "train_loss": train_loss,
            "validation_loss": figures["log_loss"],
            "validation_top1": figures["top1"],
            "validation_top3": figures["top3"],
            "learning_rate": self._learning_rate(),
            "seconds": round(seconds, 2),
        }
        progress.history.append(row)
        # By loss rather than accuracy: on a small validation set, accuracy moves by chance more than epochs differ.
        best = min(progress.history, key=lambda row: row["validation_loss"])
        progress.best_epoch = int(best["epoch"])
        self._say(
            f"epoch {progress.epoch}: train loss {train_loss:.3f}, validation loss {figures['log_loss']:.3f}, "
            f"top-1 {figures['top1']:.1%}, top-3 {figures['top3']:.1%}, {seconds:.0f} s"
            + (" (best so far)" if best is row else "")
        )
        self.accelerator.log({key: value for key, value in row.items() if key != "epoch"}, step=progress.epoch)
        state = self.partial / run_folder.STATE
        if self._is_main:
            state.mkdir(exist_ok=True)
            run_folder.write_json(state / "config.json", self._identity())
            if best is row:
                model = self.average.module if self.average is not None else self.model
                weights = self.accelerator.unwrap_model(model, keep_torch_compile=False).state_dict()
                temporary = state / "best.tmp"
                save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary)
                temporary.replace(state / "best.safetensors")
        self.accelerator.wait_for_everyone()
        saved = state / f"epoch-{progress.epoch:04d}"
        self.accelerator.save_state(f"{saved}.tmp")
        self.accelerator.wait_for_everyone()
        if self._is_main:
            Path(f"{saved}.tmp").rename(saved)
            for older in state.glob("epoch-*"):
                if older != saved:
                    shutil.rmtree(older)

    def _should_stop(self) -> bool:
        patience = self.config.early_stopping_patience
        stop = bool(patience) and self.progress.epoch - self.progress.best_epoch >= patience
        if stop:
            self._say(f"stopping early: epoch {self.progress.best_epoch} is the best of {self.progress.epoch}")
        return stop

    def _learning_rate(self) -> float:
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    # Saving

    def _save(self, logits: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        calibration = Calibration.fit(*logits["validation"])
        figures = {}
        for split, (split_logits, labels) in logits.items():
            probabilities = calibration.probabilities(split_logits)
            # From the photos, even where their features were computed long before
            seconds = self.seconds[f"evaluation of {split}"] + self.feature_seconds.get(split, 0.0)
            figures[split] = {
                **self.metric.compute(predictions=probabilities, uncalibrated=softmax(split_logits), references=labels),
                "verdicts": calibration.verdict_shares(split_logits),
                "seconds": seconds,
                "photos_per_second": len(labels) / seconds,
            }
            assert figures[split]["n"] == len(self._photos(split))
            predictions = Predictions(
                self._photos(split).ids,
                tuple(self.splits.digests[split].tolist()),
                labels,
                self.splits.names,
                probabilities,
            )
            predictions.save(self.partial / run_folder.predictions_file(split))
            predictions.write_tables(self.partial, f"-{split}")
        with self._timed("export"):
            model = copy.deepcopy(self.full_model).cpu().float().eval()
            model.save_pretrained(self.partial)
            differences = export_serving_model(model, self.partial / run_folder.ONNX, self.config.image_size)
        milliseconds = self._milliseconds_per_photo()
        image_processor = "ViTImageProcessor" if model.config.model_type == "vit" else "MobileNetV2ImageProcessor"
        run_folder.write_json(self.partial / run_folder.PREPROCESSOR, self.view.to_preprocessor_config(image_processor))
        with (self.partial / run_folder.HISTORY).open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.progress.history[0]))
            writer.writeheader()
            writer.writerows(self.progress.history)
        record = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self._command(),
            "config": self.config.to_dict(),
            **({"base_run": self.base_run} if self.base_run else {}),
            "data": self.splits.to_dict(),
            "num_epochs": self.progress.epoch,
            "best_epoch": self.progress.best_epoch,
            "calibration": calibration.to_dict(),
            "figures": figures,
            "num_parameters": self.num_parameters,
            "num_trained_parameters": self.num_trained_parameters,
            "flops_per_photo": self.flops_per_photo,
            "milliseconds_per_photo": milliseconds,
            "export_difference": differences,
            "seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "hardware": self._hardware(),
            "mixed_precision": self.accelerator.mixed_precision,
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", "torchvision", "transformers", "accelerate", "onnxruntime")},
        }
        (self.partial / run_folder.CARD).write_text(
            model_card(self.config.output_dir.name, record, self.splits.names), encoding="utf-8"
        )
        run_folder.commit(self.partial, self.config.output_dir, record)
        self._report(figures)

    def _milliseconds_per_photo(self) -> dict[str, float]:
        """How long the exported model takes on one validation photo, from the file to the answer, on the CPU."""
        session = onnxruntime.InferenceSession(self.partial / run_folder.ONNX, providers=["CPUExecutionProvider"])
        photos = self._photos("validation").sources
        return milliseconds_per_photo(
            [lambda photo: session.run(None, {"pixel_values": self.view(open_image(photo))[None]})],
            [photos[index] for index in range(min(len(photos), NUM_PHOTOS))],
        )[0]

    def _report(self, figures: dict[str, Any]) -> None:
        for split, values in figures.items():
            self._say(
                f"{split}: n {values['n']}, top-1 {values['top1']:.1%}, top-3 {values['top3']:.1%}, "
                f"top-5 {values['top5']:.1%}, macro F1 {values['macro_f1']:.3f}, log-loss {values['log_loss']:.3f}, "
                f"ECE {values['ece']:.1%}, {values['photos_per_second']:.0f} photos/s"
            )
        self._say(f"saved to {self.config.output_dir}")

    def _command(self) -> str:
        num_processes = self.accelerator.num_processes
        launcher = ["accelerate", "launch", "--num_processes", str(num_processes)] if num_processes > 1 else ["python"]
        return shlex.join([*launcher, *sys.argv])

    def _hardware(self) -> str:
        processes = f"{self.accelerator.num_processes} x " if self.accelerator.num_processes > 1 else ""
        if self.accelerator.device.type == "cuda":
            return processes + torch.cuda.get_device_name()
        return processes + processor()

    # Telling

    def _photos(self, split: str) -> Photos:
        photos = self.splits.validation if split == "validation" else self.splits.test
        assert photos is not None
        return photos

    @property
    def _is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _say(self, line: str) -> None:
        if self._is_main:
            print(line, flush=True)

    def _say_data(self) -> None:
        splits: Splits = self.splits
        sizes = f"{len(splits.train)} training, {len(splits.validation)} validation"
        sizes += f" and {len(splits.test)} test photos" if splits.test else " photos"
        self._say(f"{len(splits.names)} breeds: {sizes}")
        if splits.left_out:
            self._say(f"left out {len(splits.left_out)} photos:")
            for photo in splits.left_out:
                self._say(f"  {photo.id}: {photo.reason}")

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started


def _logits(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    output = model(inputs)
    return output if isinstance(output, torch.Tensor) else output.logits


def _evaluation_transform(view: Any) -> Any:
    return lambda image: torch.from_numpy(view(image))


def _ema(decay: float) -> Any:
    """The update of an exponential moving average whose decay rises to its full value, so that it forgets the start."""

    @torch.no_grad()
    def update(averaged: list[torch.Tensor], current: list[torch.Tensor], num_averaged: torch.Tensor) -> None:
        steps = int(num_averaged)
        weight = 1 - min(decay, (1 + steps) / (10 + steps))
        for mine, theirs in zip(averaged, current, strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs.to(mine.device, mine.dtype), weight)
            else:
                mine.copy_(theirs)

    return update
