"""The one training loop: set up, fit, choose the best epoch, calibrate, save. ViT and CNN go the same way.

run = Trainer(config)       data, model, optimiser
run.fit()                   epochs, each validated and saved for --resume
run.finish()                best weights -> predictions, calibration, ONNX, run folder
"""

import copy
import csv
import dataclasses
import gc
import json
import math
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

import numpy as np
import onnxruntime
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration, InitProcessGroupKwargs, find_executable_batch_size, set_seed
from PIL.Image import Image
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dogbreeds import metrics, run_folder
from dogbreeds.answers import answer_rates
from dogbreeds.calibration import Calibration, softmax
from dogbreeds.errors import UserError
from dogbreeds.hub import HubId
from dogbreeds.images import BadImage, PhotoSource, open_image
from dogbreeds.latency import NUM_PHOTOS, milliseconds_per_photo
from dogbreeds.machine import keep_freed_memory, num_cores_each, processor
from dogbreeds.model_card import model_card
from dogbreeds.predictions import Predictions
from dogbreeds.training.augment import Normalise, RandomAugmentation
from dogbreeds.training.breed_metrics import BreedMetrics
from dogbreeds.training.datasets.pixel_cache import open_pixel_cache
from dogbreeds.training.datasets.sources import Photos
from dogbreeds.training.datasets.splits import Splits, load_data
from dogbreeds.training.earlier.losses import LOSSES, target_probabilities
from dogbreeds.training.earlier.zca import fit_zca
from dogbreeds.training.export import export_serving_model
from dogbreeds.training.features import compute_features
from dogbreeds.training.loaders import (
    Batch,
    EpochSampler,
    FeatureDataset,
    PixelDataset,
    evaluation_loader,
    seed_of,
    training_loader,
)
from dogbreeds.training.models.build import build_model, checkpoint, classifier_of, flops_per_photo, model_view
from dogbreeds.training.optim import Schedule, WeightAverage, build_optimizer
from dogbreeds.training.options import FREE_OPTIONS, TrainConfig
from dogbreeds.training.profiling import PhaseClock, bottleneck, peak_flops
from dogbreeds.training.saved_states import SavedStates

LOG_EVERY = 20
"""Steps between looks at the loss."""

AGREE_EVERY = 20
"""Batches after which several processes ask each other whether to save."""

GPU_SHARE = 0.5
"""Of a GPU's free memory, what the photos' pixels may take; the rest is for the network."""

EVALUATION_BATCH_SIZE = {"cpu": 64, "cuda": 1024}
"""Photos in a batch where no gradients are kept; on a GPU fewer where so many do not fit."""

COMPILE_FROM = 500_000
"""Photos to train on, over all epochs, from which `--compile auto` compiles the network on a GPU: the minute that takes
must come back."""


class Diverged(UserError):
    """The loss is no number any more."""


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
    batch: int = 0
    """Batches completed of the next epoch, by each process."""
    losses: list[list[float]] = dataclasses.field(default_factory=list)
    """Of that epoch, for each process the sum of the losses of its photos, and their number."""
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best_epoch: int = 0

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name, value in state.items():
            setattr(self, name, value)


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
    return config.run.output_dir


def from_hub(config: TrainConfig) -> dict[str, str]:
    """Which of the data and the model's weights are the Hugging Face Hub's, by their ids, for the model card to say."""
    named = {
        "data": config.data.data,
        **({} if config.model.from_scratch else {"model": checkpoint(config.model.model)}),
    }
    return {what: text for what, text in named.items() if HubId.parse(text) and not Path(text).is_dir()}


class Trainer:
    """One run, from its options to its folder."""

    def __init__(self, config: TrainConfig) -> None:
        """Read the data, build the model, and restore the state where the run is resumed.

        Raises:
            UserError: As `train`.
        """
        config.check_options_apply()
        run_folder.check_output(config.run.output_dir, overwrite=config.run.overwrite, resume=config.run.resume)
        self.config = config
        self.seconds: dict[str, float] = {}
        self.time_spent: dict[str, float] = {}
        self.num_photos_trained = 0
        # accelerate keeps options from one Accelerator to the next in the same process; each run has its own.
        AcceleratorState._reset_state()
        GradientState._reset_state()
        self.accelerator = Accelerator(
            mixed_precision=config.run.mixed_precision or _default_precision(),
            gradient_accumulation_steps=config.optim.gradient_accumulation_steps,
            log_with="tensorboard" if config.run.tensorboard else None,
            project_dir=run_folder.partial_path(config.run.output_dir),
            step_scheduler_with_optimizer=False,
            dataloader_config=DataLoaderConfiguration(non_blocking=True),
            # Processes wait while the first one downloads and checks the data.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=3))],
        )
        if self.accelerator.device.type == "cpu":
            keep_freed_memory()
        set_seed(config.run.seed)
        with self._timed("data"), self.accelerator.main_process_first():
            self.splits = self._load_data()
        self._say_data()
        self.base_run = self._base_run()
        self.full_model = build_model(config, self.splits.names)
        self.preprocessing = model_view(config)
        self.partial = self._begin()
        self.num_parameters = sum(parameter.numel() for parameter in self.full_model.parameters())
        self.flops_per_photo = flops_per_photo(self.full_model, config.preprocessing.image_size)
        self.clock = PhaseClock(self.accelerator.device)
        self.peak_flops = self._measured_peak() if config.run.measure_peak else None
        self._build_loaders()
        self._build_optimiser()
        self.progress = Progress()
        self.checkpoints = SavedStates(self.partial / run_folder.STATE)
        self.saved_at = time.perf_counter()
        self.told_to_end = Event()
        if config.run.resume:
            self._resume()

    def fit(self) -> None:
        """Train the epochs that are left."""
        if self.config.run.tensorboard:
            self.accelerator.init_trackers("logs")
        with _lost_photos_told(), _told_to_end() as self.told_to_end:
            while self.progress.epoch < self.config.optim.epochs and not self._should_stop():
                started = time.perf_counter()
                train_loss = self._train_epoch(self.progress.epoch)
                figures = self._validate()
                self._note_epoch(train_loss, figures, started)
        self.checkpoints.wait()
        self.accelerator.wait_for_everyone()
        self.seconds["training"] = sum(row["seconds"] for row in self.progress.history)
        self._say_where_time_went()

    def finish(self) -> None:
        """Predict with the best weights, calibrate, export and complete the run folder."""
        best = self.checkpoints.load_best()
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False, keep_torch_compile=False)
        model.load_state_dict(best)
        logits = {}
        for split in self.evaluation_data:
            with _lost_photos_told(), self._timed(f"evaluation of {split}"):
                # In float32, whatever training used, because that is what is served.
                logits[split] = self._predict_logits(model, split, exact=True)
        if self._is_main:
            self._save(logits)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    # Setting up

    def _load_data(self) -> Splits:
        return load_data(self.config, progress=self.accelerator.is_main_process)

    def _begin(self) -> Path:
        """The partial run folder; made by the main process, once data and model were found to be good."""
        config = self.config
        problem = [""]
        if self.accelerator.is_main_process:
            try:
                partial = run_folder.begin(config.run.output_dir, resume=config.run.resume)
                identity = partial / run_folder.STATE / "config.json"
                if not identity.exists():  # killed just after it began, a run is resumed from its beginning
                    identity.parent.mkdir(exist_ok=True)
                    run_folder.write_json(identity, self._identity())
            except UserError as error:
                problem = [str(error)]
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(problem)
        if problem[0]:
            raise UserError(problem[0])
        return run_folder.partial_path(config.run.output_dir)

    def _base_run(self) -> dict[str, Any] | None:
        """What to remember of the run that this one starts from, where --model names a run folder."""
        path = Path(self.config.model.model)
        if self.config.model.from_scratch or not (path / run_folder.RECORD).is_file():
            return None
        base = run_folder.RunFolder.open(path).record
        same_data = base["data"]["fingerprint"] == self.splits.fingerprint
        if same_data and base["data"]["split_hash"] != self.splits.split_hash:
            raise UserError(
                f"the run {self.config.model.model!r} was trained on photos that are held out here: give the --seed "
                f"({base['config']['seed']}), --validation-fraction and --test-fraction that it was trained with"
            )
        mine = self.config.to_dict()
        for name in vars(self.config.preprocessing):
            if (theirs := base["config"].get(name, mine[name])) != mine[name]:
                told = f"{self.config.model.model!r} was trained with {name} {theirs!r}"
                self._say(f"note: {told}, this run with {mine[name]!r}")
        return {"command": base["command"], "seconds": base["seconds"], "data": base["data"]["split_hash"]}

    def _build_loaders(self) -> None:
        config, device = self.config, self.accelerator.device
        data = {"train": self._pixels("train"), "validation": self._pixels("validation")}
        if self.splits.test:
            data["test"] = self._pixels("test")
        self.num_workers = 0
        if not data["train"].is_cached:
            self.num_workers = min(8, num_cores_each()) if config.data.num_workers is None else config.data.num_workers
        if config.preprocessing.whitening == "zca":
            with self._timed("whitening"):
                zca = fit_zca(data["train"], self.preprocessing, config.run.seed)
            self.preprocessing = dataclasses.replace(self.preprocessing, zca=zca)
        self.normalise = Normalise(self.preprocessing, device)
        self.random_views: RandomAugmentation | None = None
        if config.random_views:
            self.random_views = RandomAugmentation(
                config.augment, config.run.seed, self.preprocessing, self.splits.train.sizes, device
            )
        self.head_only = config.model.freeze_backbone and not config.random_views
        self.feature_seconds: dict[str, float] = {}
        training: Any = data["train"]
        evaluation: dict[str, Any] = {split: dataset for split, dataset in data.items() if split != "train"}
        if self.head_only:
            with self._timed("features"):
                features, self.feature_seconds = self._compute_features(data)
            training, evaluation = features.pop("train"), dict(features)
            self.num_workers = 0
        else:
            self._keep_on_gpu(list(data.values()))
        loader = training_loader(training, config.optim.batch_size, config.run.seed, self.num_workers)
        assert isinstance(loader.sampler, EpochSampler)
        self.sampler = loader.sampler
        self.training_loader: DataLoader = self.accelerator.prepare(loader)
        self.evaluation_data = evaluation
        # Large batches from worker processes would not fit into the shared memory of most containers.
        self.evaluation_batch_size = EVALUATION_BATCH_SIZE.get(device.type, 64) if self.num_workers == 0 else 64
        self._evaluation_loaders: dict[tuple[str, int], DataLoader] = {}

    def _pixels(self, split: str) -> PixelDataset:
        """The photos of a split: for training as they are kept for it, otherwise as the model sees them."""
        photos, cache = self.splits.by_name[split], self.splits.cache
        preprocessing = self.splits.stored_preprocessing if split == "train" else self.preprocessing
        if cache is not None and cache.preprocessing.geometry != preprocessing.geometry:
            digests, options = photos.digests.tolist(), self.config.data
            with self.accelerator.main_process_first():
                cache = open_pixel_cache(preprocessing, photos.sources, digests, options, progress=self._is_main)
        return PixelDataset(photos, preprocessing, cache)

    def _compute_features(self, data: dict[str, PixelDataset]) -> tuple[dict[str, FeatureDataset], dict[str, float]]:
        """The features of each split, and the seconds that took."""
        return compute_features(
            self.full_model,
            data,
            self.normalise,
            self.accelerator,
            self.config.preprocessing.image_size,
            self.num_workers,
        )

    def _keep_on_gpu(self, datasets: list[PixelDataset]) -> None:
        """Move the pixels to the GPU's memory, where there is a GPU and they fit."""
        device = self.accelerator.device
        if device.type != "cuda" or not all(dataset.is_cached for dataset in datasets):
            return
        num_bytes = sum(dataset.num_bytes for dataset in datasets)
        gc.collect()
        torch.cuda.empty_cache()  # of a run before, with another seed
        free = torch.cuda.mem_get_info(device)[0]
        if not fits_on_gpu(num_bytes, free):
            self._say(
                f"the photos stay in the host's memory: their pixels take {num_bytes / 1e9:.1f} GB, the GPU has "
                f"{free / 1e9:.1f} GB free, of which they may take {GPU_SHARE:.0%}"
            )
            return
        with self._timed("photos to the GPU"):
            for dataset in datasets:
                dataset.keep_on(device)
        self._say(f"the photos are in the GPU's memory ({num_bytes / 1e9:.1f} GB)")

    def _build_optimiser(self) -> None:
        config, device = self.config, self.accelerator.device
        classifier = classifier_of(self.full_model)[1]
        self.trained_model: nn.Module = Head(classifier) if self.head_only else self.full_model
        # Not in fp16, where accelerate then can't tell whether a step was skipped.
        fused = device.type in ("cpu", "cuda") and self.accelerator.mixed_precision != "fp16"
        optimizer = build_optimizer(self.trained_model, config.optim, fused=fused)
        self.num_trained_parameters = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        # As accelerate has it, for `accelerate launch` can set it too
        num_accumulated = self.accelerator.gradient_accumulation_steps
        num_steps = config.optim.epochs * math.ceil(len(self.training_loader) / num_accumulated)
        self.schedule = Schedule(optimizer, config.optim, num_steps)
        self.average: WeightAverage | None = None
        if config.optim.ema_decay:
            # Copied before `prepare`, which for mixed precision gives a model a `forward` that a copy would share.
            self.average = WeightAverage(self.trained_model, config.optim.ema_decay, device)
        self.model, self.optimizer = self.accelerator.prepare(self.trained_model, optimizer)
        if self._compiles():
            self._say("compiling the network; the first step takes a minute")
            self.model.compile()

    def _compiles(self) -> bool:
        """Whether the network is compiled, by the options and the size of the run."""
        if self.config.run.compile != "auto":
            return self.config.run.compile == "on"
        num_photos = len(self.splits.train) * self.config.optim.epochs
        return self.accelerator.device.type == "cuda" and not self.head_only and num_photos >= COMPILE_FROM

    def _measured_peak(self) -> float:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision, torch.float32)
        peak = peak_flops(self.accelerator.device, dtype)
        self._say(f"measured peak: {peak / 1e12:.3g} TFLOP/s in {str(dtype).removeprefix('torch.')}")
        return peak

    def _resume(self) -> None:
        state = self.partial / run_folder.STATE
        try:
            then = json.loads((state / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"the state in {str(state)!r} can't be read: start anew with --overwrite") from None
        now = json.loads(json.dumps(self._identity()))
        changed = [key for key in now if now[key] != then.get(key)]
        if changed:
            key = changed[0]
            raise UserError(f"can't resume with another {key}: it was {then.get(key)!r}, now it is {now[key]!r}")
        saved = self.checkpoints.load()
        if saved:
            self._load_state(saved)
        batches = f" and {self.progress.batch} batches" if self.progress.batch else ""
        self._say(f"resuming after epoch {self.progress.epoch} of {self.config.optim.epochs}{batches}")

    def _state(self) -> dict[str, Any]:
        """What the run goes on from. Chance is not in it: it is drawn from the seed, the epoch and the batch."""
        scaler = self.accelerator.scaler
        return {
            "model": self.trained_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "scaler": scaler.state_dict() if scaler else None,
            "progress": self.progress.state_dict(),
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `_state`."""
        self.trained_model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.progress.load_state_dict(state["progress"])

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a resumed run to be the same run."""
        options = {key: value for key, value in self.config.to_dict().items() if key not in FREE_OPTIONS}
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
        self.clock.enter("views")
        # All that is random is drawn from (seed, epoch, batch), so that a resumed run goes on as if never stopped.
        done, loader = self.progress.batch, self.training_loader
        if done:
            loader = accelerator.skip_first_batches(loader, done)
        self.sampler.set_epoch(epoch)
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)  # accelerate counts epochs itself, from 0 after a resume
        self._train_mode()
        if self.random_views is not None:
            self.random_views.draw(epoch)
        before = self.progress.losses[accelerator.process_index] if done else (0.0, 0)
        total, num_photos = torch.tensor(before[0], device=accelerator.device), int(before[1])
        look: _Look | None = None
        with tqdm(
            total=len(self.training_loader),
            initial=done,
            desc=f"epoch {epoch + 1}/{config.optim.epochs}",
            unit="batch",
            disable=not accelerator.is_main_process,
        ) as bar:
            self.clock.enter("data")
            for step, batch in enumerate(loader, done):
                self.clock.enter("views")
                torch.manual_seed(seed_of(config.run.seed, epoch, step, accelerator.process_index))
                inputs = self._inputs(batch, self.random_views)
                with accelerator.accumulate(self.model):
                    self.clock.enter("forward and backward")
                    targets = target_probabilities(batch.labels, len(self.splits.names), config.optim.label_smoothing)
                    loss = LOSSES[config.optim.loss](_logits(self.model, inputs), targets)
                    accelerator.backward(loss)
                    self.clock.enter("optimiser")
                    if accelerator.sync_gradients and config.optim.max_grad_norm:
                        accelerator.clip_grad_norm_(self.model.parameters(), config.optim.max_grad_norm)
                    self.optimizer.step()
                    if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                        self.schedule.after_step()
                        if self.average is not None:
                            self.average.update(self.trained_model)
                    self.optimizer.zero_grad()
                total += loss.detach() * len(batch.labels)
                num_photos += len(batch.labels)
                bar.update()
                if look is not None and look.is_there():
                    self._check_finite(look.loss, epoch, look.step)
                    bar.set_postfix(loss=f"{look.loss:.3f}", lr=f"{self._learning_rate():.1e}")
                    look = None
                if step % LOG_EVERY == 0:
                    look = _Look(accelerator.reduce(total / num_photos, "mean"), step, accelerator.num_processes > 1)
                if accelerator.sync_gradients and step + 1 < len(self.training_loader):
                    self._checkpoint_within_epoch(step + 1, total, num_photos)
                self.clock.enter("data")
        totals = accelerator.reduce(torch.stack([total, torch.tensor(num_photos, device=total.device)]))
        mean_loss = float(totals[0] / totals[1])
        self._check_finite(mean_loss, epoch, len(self.training_loader) - 1)
        return mean_loss

    def _checkpoint_within_epoch(self, batch: int, total: torch.Tensor, num_photos: int) -> None:
        """Save the state between two steps if that is due or the run is told to end, on which all processes agree.

        Args:
            batch: Batches completed.
            total: The sum of the losses so far.
            num_photos: Their number.

        Raises:
            SystemExit: The run was told to end; its state is saved.
        """
        minutes = self.config.run.checkpoint_minutes
        is_due = bool(minutes) and time.perf_counter() - self.saved_at >= 60 * minutes
        told_to_end = self.told_to_end.is_set()
        if self.accelerator.num_processes > 1:
            if batch % AGREE_EVERY:
                return
            is_due, told_to_end = self._any(is_due and self._is_main, told_to_end)
        if not is_due and not told_to_end:
            return
        self.clock.enter("saving")
        self._check_finite(float(total), self.progress.epoch, batch - 1)
        mine = torch.stack([total.double(), torch.tensor(num_photos, device=total.device).double()])
        self.progress.batch = batch
        self.progress.losses = self.accelerator.gather(mine[None]).tolist()
        self._save_state(None)
        if told_to_end:
            self._end()

    def _save_state(self, best: dict[str, torch.Tensor] | None) -> None:
        """Save what the run goes on from, and the best weights where there are new ones."""
        self.saved_at = time.perf_counter()
        if self._is_main:
            self.checkpoints.save((self.progress.epoch, self.progress.batch), self._state(), best)

    def _end(self) -> None:
        """End the run, whose state was saved, as it was told."""
        self.checkpoints.wait()
        self.accelerator.wait_for_everyone()
        self._say("told to end: all is saved, and --resume goes on from here")
        sys.exit(128 + signal.SIGTERM)

    def _inputs(self, batch: Batch, random_views: RandomAugmentation | None = None) -> torch.Tensor:
        """What the model is given: features as they are, pixels normalised or as random views."""
        if self.head_only:
            return batch.inputs
        return random_views(batch.indices, batch.inputs) if random_views else self.normalise(batch.inputs)

    def _train_mode(self) -> None:
        self.model.train()
        if self.config.model.freeze_backbone and not self.head_only:
            self.full_model.eval()  # or the backbone's batch-norm statistics would move
            classifier_of(self.full_model)[1].train()

    def _check_finite(self, loss: float, epoch: int, step: int) -> None:
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss is {loss} in epoch {epoch + 1}, step {step + 1}: lower --learning-rate (now "
                f"{self.config.optim.learning_rate:g}) or --head-learning-rate ({self.config.optim.head_learning_rate:g}), or use "
                "--mixed-precision no; the epochs before are kept for --resume"
            )

    def _validate(self) -> dict[str, float]:
        self.clock.enter("evaluation")
        if self.average is not None and self.accelerator.num_processes > 1:
            for buffer in self.average.model.buffers():  # batch-norm statistics, which each process has its own of
                torch.distributed.broadcast(buffer, 0)
        logits, labels = self._predict_logits(self.average.model if self.average else self.model, "validation")
        probabilities = softmax(logits)
        figures = metrics.summary(probabilities, labels, probabilities)
        self.schedule.after_epoch(figures["log_loss"])
        return figures

    def _predict_logits(self, model: nn.Module, split: str, *, exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Logits `(N, C)` and labels `(N,)` of a split, in its order, in every process.

        With `exact` the arithmetic is float32, otherwise the run's own.
        """

        def predict(batch_size: int) -> tuple[np.ndarray, np.ndarray]:
            self.evaluation_batch_size = batch_size  # not to try again in vain
            all_logits, all_labels = [], []
            loader = self._evaluation_loader(split, batch_size)
            with tqdm(total=len(loader), desc=split, unit="batch", leave=False, disable=not self._is_main) as bar:
                for batch in loader:
                    with nullcontext() if exact else self.accelerator.autocast():
                        logits = _logits(model, self._inputs(batch))
                    logits, labels = self.accelerator.gather_for_metrics((logits.float(), batch.labels))
                    all_logits.append(logits)
                    all_labels.append(labels)
                    bar.update()
            return torch.cat(all_logits).cpu().numpy(), torch.cat(all_labels).cpu().numpy()

        model.eval()
        # Not compiled: batches of another size would have the network compiled again, which takes longer than it saves.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            if self.accelerator.device.type == "cpu":
                logits, labels = predict(self.evaluation_batch_size)
            else:  # collects garbage each time, which takes longer than a small network
                logits, labels = find_executable_batch_size(predict, self.evaluation_batch_size)()
        assert np.array_equal(labels, self._photos(split).labels), f"{split} was not predicted completely and in order"
        return logits, labels

    def _evaluation_loader(self, split: str, batch_size: int) -> DataLoader:
        key = (split, batch_size)
        if key not in self._evaluation_loaders:
            loader = evaluation_loader(self.evaluation_data[split], batch_size, self.num_workers)
            self._evaluation_loaders[key] = self.accelerator.prepare(loader)
        return self._evaluation_loaders[key]

    def _note_epoch(self, train_loss: float, figures: dict[str, float], started: float) -> None:
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
            "seconds": round(time.perf_counter() - started, 2),
        }
        progress.history.append(row)
        # By loss rather than accuracy: on a small validation set, accuracy moves by chance more than epochs differ.
        best = min(progress.history, key=lambda row: row["validation_loss"])
        progress.best_epoch = int(best["epoch"])
        progress.batch, progress.losses = 0, []
        self.clock.enter("saving")
        best_model = self.average.model if self.average is not None else self.trained_model
        self._save_state(best_model.state_dict() if best is row else None)
        self.accelerator.wait_for_everyone()
        for phase, seconds in self.clock.read().items():
            self.time_spent[phase] = self.time_spent.get(phase, 0.0) + seconds
        self.num_photos_trained += len(self.splits.train)
        self._say(
            f"epoch {progress.epoch}: train loss {train_loss:.3f}, validation loss {figures['log_loss']:.3f}, "
            f"top-1 {figures['top1']:.1%}, top-3 {figures['top3']:.1%}, {row['seconds']:.0f} s"
            + (" (best so far)" if best is row else "")
        )
        self.accelerator.log({key: value for key, value in row.items() if key != "epoch"}, step=progress.epoch)
        if progress.epoch < self.config.optim.epochs and any(self._any(self.told_to_end.is_set())):
            self._end()

    def _any(self, *wishes: bool) -> list[bool]:
        """Of each wish, whether one of the processes has it."""
        counts = self.accelerator.reduce(torch.tensor(wishes, device=self.accelerator.device).int())
        return [bool(count) for count in counts.tolist()]

    def _time_record(self) -> dict[str, Any]:
        """Where the time of the epochs that were trained now went; for run.json, and empty where none was."""
        seconds = self.time_spent
        if not seconds:
            return {}
        in_steps = sum(seconds.values()) - seconds["evaluation"] - seconds["saving"]
        record: dict[str, Any] = {
            "seconds": {phase: round(value, 2) for phase, value in seconds.items()},
            "photos_per_second": self.num_photos_trained / sum(seconds.values()),
            "photos_per_second_in_steps": self.num_photos_trained / in_steps,
            "bottleneck": bottleneck(seconds),
        }
        if self.peak_flops:
            # A backward pass is two forward passes, one for the inputs' gradients and one for the weights'.
            flops = self.flops_per_photo * (1 if self.config.model.freeze_backbone else 3)
            reached = flops * record["photos_per_second_in_steps"] / self.accelerator.num_processes
            record["measured_peak_flops"] = self.peak_flops
            record["share_of_peak"] = None if self.head_only else reached / self.peak_flops
        return record

    def _say_where_time_went(self) -> None:
        record = self._time_record()
        if not record:
            return
        total = sum(self.time_spent.values())
        shares = ", ".join(f"{phase} {seconds / total:.0%}" for phase, seconds in self.time_spent.items())
        self._say(
            f"training took {total:.1f} s ({shares}): {record['photos_per_second']:,.0f} photos/s, "
            f"{record['photos_per_second_in_steps']:,.0f} without validation and saving"
        )
        if record.get("share_of_peak"):
            self._say(f"{record['share_of_peak']:.0%} of the measured peak")
        self._say(record["bottleneck"])

    def _should_stop(self) -> bool:
        patience = self.config.optim.early_stopping_patience
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
                **BreedMetrics().compute(
                    predictions=probabilities, uncalibrated=softmax(split_logits), references=labels
                ),
                **answer_rates(split_logits, labels, calibration, self.splits.names),
                "seconds": seconds,
                "photos_per_second": len(labels) / seconds,
            }
            assert figures[split]["n"] == len(self._photos(split))
            predictions = Predictions(
                self._photos(split).ids,
                tuple(self.splits.by_name[split].digests.tolist()),
                labels,
                self.splits.names,
                probabilities,
            )
            predictions.save(self.partial / run_folder.predictions_file(split))
            predictions.write_tables(self.partial, f"-{split}")
        with self._timed("export"):
            model = copy.deepcopy(self.full_model).cpu().float().eval()
            model.save_pretrained(self.partial)
            differences = export_serving_model(
                model, self.partial / run_folder.ONNX, self.config.preprocessing.image_size
            )
        milliseconds = self._milliseconds_per_photo()
        image_processor = "ViTImageProcessor" if model.config.model_type == "vit" else "MobileNetV2ImageProcessor"
        run_folder.write_json(
            self.partial / run_folder.PREPROCESSOR, self.preprocessing.to_preprocessor_config(image_processor)
        )
        with (self.partial / run_folder.HISTORY).open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.progress.history[0]))
            writer.writeheader()
            writer.writerows(self.progress.history)
        record = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self._command(),
            "config": self.config.to_dict(),
            **({"base_run": self.base_run} if self.base_run else {}),
            "hub": from_hub(self.config),
            "data": self.splits.to_dict(),
            "num_epochs": self.progress.epoch,
            "best_epoch": self.progress.best_epoch,
            "calibration": calibration.to_dict(),
            "figures": figures,
            "model_type": model.config.model_type,
            "num_parameters": self.num_parameters,
            "num_trained_parameters": self.num_trained_parameters,
            "flops_per_photo": self.flops_per_photo,
            "milliseconds_per_photo": milliseconds,
            "export_difference": differences,
            "seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "time": self._time_record(),
            "hardware": self._hardware(),
            "mixed_precision": self.accelerator.mixed_precision,
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", "torchvision", "transformers", "accelerate", "onnxruntime")},
        }
        (self.partial / run_folder.CARD).write_text(
            model_card(self.config.run.output_dir.name, record, self.splits.names), encoding="utf-8"
        )
        run_folder.commit(self.partial, self.config.run.output_dir, record)
        self._report(figures)

    def _milliseconds_per_photo(self) -> dict[str, float]:
        """How long the exported model takes on one validation photo, from the file to the answer, on the CPU."""
        session = onnxruntime.InferenceSession(self.partial / run_folder.ONNX, providers=["CPUExecutionProvider"])
        photos = self._photos("validation").sources

        def opened(photo: PhotoSource) -> Image:
            return open_image(photo, at_least=self.preprocessing.decoded_side)

        return milliseconds_per_photo(
            [lambda photo: session.run(None, {"pixel_values": self.preprocessing(opened(photo))[None]})],
            [photos[index] for index in range(min(len(photos), NUM_PHOTOS))],
        )[0]

    def _report(self, figures: dict[str, Any]) -> None:
        for split, values in figures.items():
            self._say(
                f"{split}: n {values['n']}, top-1 {values['top1']:.1%}, top-3 {values['top3']:.1%}, "
                f"top-5 {values['top5']:.1%}, macro F1 {values['macro_f1']:.3f}, log-loss {values['log_loss']:.3f}, "
                f"ECE {values['ece']:.1%}, {values['photos_per_second']:.0f} photos/s"
            )
        self._say(f"saved to {self.config.run.output_dir}")

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


@contextmanager
def _lost_photos_told() -> Iterator[None]:
    """Turn a photo that can't be read any more, or a killed worker that reads them, into one line."""
    try:
        yield
    except (BadImage, RuntimeError) as error:
        # torch wraps what its workers raise, with a traceback, and tells of a killed one at any moment.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = str(error).strip().splitlines()[-1].removeprefix("dogbreeds.images.BadImage: ").rstrip(".")
        raise UserError(
            f"the photos can't be read any more ({reason}): mend that and continue with --resume; the last checkpoint "
            "is kept"
        ) from error


@contextmanager
def _told_to_end() -> Iterator[Event]:
    """An event that is set when the system asks the process to end, as Spaces and SLURM do before they stop it."""
    told = Event()
    if current_thread() is not main_thread():  # only that one gets signals
        yield told
        return
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


class _Look:
    """A look at the loss: the number is on its way from the accelerator, and nobody waits for it."""

    def __init__(self, loss: torch.Tensor, step: int, wait: bool) -> None:
        """Send for the number; with `wait` it is waited for, so that several processes see it at the same step."""
        self.step = step
        self._loss = loss.detach().to("cpu", non_blocking=loss.is_cuda and not wait)
        self._arrived: torch.cuda.Event | None = None
        if loss.is_cuda and not wait:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def is_there(self) -> bool:
        return self._arrived is None or self._arrived.query()

    @property
    def loss(self) -> float:
        return float(self._loss)


def fits_on_gpu(num_bytes: int, free: int) -> bool:
    """Whether pixels may be kept in the memory of a GPU that has this much of it free, in bytes."""
    return num_bytes <= GPU_SHARE * free


def _default_precision() -> str | None:
    """bf16 where a GPU computes in it and accelerate's own configuration names nothing else."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ or "ACCELERATE_USE_CPU" in os.environ:
        return None
    can = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if can else None
