"""The epochs of a run: train, validate, keep the best weights, save what resuming needs, stop."""

import dataclasses
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Event, current_thread, main_thread
from typing import NoReturn
from uuid import uuid4

import torch
from pydantic import TypeAdapter
from tqdm import tqdm

from dogbreeds import metrics
from dogbreeds.calibration import softmax
from dogbreeds.errors import UserError, first_line
from dogbreeds.images import BadImage
from dogbreeds.training.context import Context
from dogbreeds.training.evaluation import predict_logits
from dogbreeds.training.inputs import Inputs
from dogbreeds.training.learner import Learner
from dogbreeds.training.loaders import seed_of
from dogbreeds.training.options import TrainConfig
from dogbreeds.training.profiling import PhaseClock
from dogbreeds.training.saved_states import SavedStates
from dogbreeds.training.trackers import tracking

LOG_EVERY = 20
"""Batches between two readings of the loss, each the mean over them; what the bar and trackers show."""

AGREE_EVERY = 20
"""Batches after which several processes ask each other whether to save."""

Row = dict[str, int | float]
"""What history.csv says of an epoch."""


class Diverged(UserError):
    """The loss is not a number any more."""


@dataclasses.dataclass
class Progress:
    """How far a run is; part of what resuming restores."""

    epoch: int = 0
    """Epochs completed."""
    batch: int = 0
    """Batches completed of the next epoch, by each process."""
    losses: list[list[float]] = dataclasses.field(default_factory=list)
    """Of that epoch, for each process the sum of the losses of its photos, and their number."""
    epoch_seconds: float = 0.0
    """What those batches took."""
    history: list[Row] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    run_id: str = dataclasses.field(default_factory=lambda: uuid4().hex)
    """By which trackers know it again when it is resumed."""
    time_spent: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds of each phase (`dogbreeds.training.profiling.PHASES`) in all that is completed."""
    num_photos: int = 0
    """Photos trained on in that time."""


class Loop:
    """The epochs of one run."""

    def __init__(
        self,
        config: TrainConfig,
        context: Context,
        inputs: Inputs,
        learner: Learner,
        saved_states: SavedStates | None,
        before: Progress | None = None,
    ) -> None:
        """Begin, or continue after the last saved state.

        Args:
            config: The run's options.
            context: Its process.
            inputs: The batches.
            learner: The network and its optimiser.
            saved_states: Where the state is saved; None to save nothing.
            before: Of the run's first epochs, which trained something else; the best epoch is none of them.
        """
        self._config, self._context, self._inputs, self._learner = config, context, inputs, learner
        self._saved_states = saved_states
        self.progress = Progress()
        self._num_before = 0
        if before:
            self._num_before, history = before.epoch, list(before.history)
            self.progress = Progress(before.epoch, history=history, best_epoch=before.epoch, run_id=before.run_id)
        self._num_epochs = self._num_before + config.optim.epochs
        self._clock = PhaseClock(context.device)
        self._saved_at = time.perf_counter()
        self._stop_requested = Event()
        if config.run.resume and saved_states:
            self._resume(saved_states)

    def fit(self, after_epoch: Callable[[Row], None] | None = None) -> None:
        """Train the epochs that are left.

        Args:
            after_epoch: Called with each epoch's row of the history.

        Raises:
            Diverged: The loss is not a number any more.
            UserError: Photos can't be read any more, the state can't be written, or a tracker can't be started.
            SystemExit: The process got SIGTERM; the state is saved.
        """
        trackers = tracking(self._config, self._context, self.progress.run_id, self._step(self.progress.batch))
        with photo_errors_as_user_errors(), closing(self._inputs), _sigterm() as self._stop_requested, trackers:
            while self.progress.epoch < self._num_epochs and not self._stops_early():
                row = self._run_epoch()
                if after_epoch:
                    after_epoch(row)
        if self._saved_states:
            self._saved_states.wait()
        self._context.accelerator.wait_for_everyone()
        self._context.seconds["training"] = sum(row["seconds"] for row in self.progress.history)

    def _run_epoch(self) -> Row:
        """Train and validate one epoch, keep its weights if they are the best yet, and save the state."""
        progress = self.progress
        started = time.perf_counter() - progress.epoch_seconds
        train_loss = self._train_epoch(started)
        figures = self._validate()
        self.check_finite(figures["log_loss"], progress.epoch, len(self._inputs.training_loader) - 1)
        progress.epoch += 1
        row = {
            "epoch": progress.epoch,
            "train_loss": train_loss,
            "validation_loss": figures["log_loss"],
            "validation_top1": figures["top1"],
            "validation_top3": figures["top3"],
            "learning_rate": self._learner.learning_rate,
            "seconds": round(time.perf_counter() - started, 2),
        }
        progress.history.append(row)
        # By loss rather than accuracy: on a small validation set, accuracy moves by chance more than epochs differ.
        best = min(progress.history[self._num_before :], key=lambda row: row["validation_loss"])
        progress.best_epoch = int(best["epoch"])
        progress.batch, progress.losses, progress.epoch_seconds = 0, [], 0.0
        progress.num_photos += len(self._inputs.labels["train"])
        self._save_state(self._learner.best_model.state_dict() if best is row else None)
        self._context.accelerator.wait_for_everyone()
        self._context.say(
            f"epoch {progress.epoch}: train loss {train_loss:.3f}, validation loss {figures['log_loss']:.3f}, "
            f"top-1 {figures['top1']:.1%}, top-3 {figures['top3']:.1%}, {row['seconds']:.0f} s"
            + (" (best so far)" if best is row else "")
        )
        tracked = {name: value for name, value in row.items() if name != "learning_rate"}  # which steps tell
        self._context.accelerator.log(tracked, step=self._step(0))
        if progress.epoch < self._num_epochs and any(self._context.any(self._stop_requested.is_set())):
            self._stop()
        return row

    def _train_epoch(self, started: float) -> float:
        """One pass over the training photos; the mean loss."""
        context, epoch, done = self._context, self.progress.epoch, self.progress.batch
        self._clock.enter("views")
        batches = self._inputs.training_batches(epoch, done)
        self._learner.train_mode()
        num_batches = len(self._inputs.training_loader)
        before = self.progress.losses[context.accelerator.process_index] if done else (0.0, 0)
        total, num_photos = torch.tensor(before[0], device=context.device), int(before[1])
        read_loss, num_read, reading = total.clone(), num_photos, None
        title = f"epoch {epoch + 1}/{self._num_epochs}"
        with tqdm(total=num_batches, initial=done, desc=title, unit="batch", disable=not context.shows_progress) as bar:
            self._clock.enter("data")
            for step, batch in enumerate(batches, done):
                self._clock.enter("views")
                # All randomness comes from (seed, epoch, batch), so that a resumed run continues as if never stopped.
                torch.manual_seed(seed_of(self._config.run.seed, epoch, step, context.accelerator.process_index))
                inputs = self._inputs.of_training(batch)
                with context.accelerator.accumulate(self._learner.model):
                    self._clock.enter("forward and backward")
                    loss = self._learner.loss(inputs, batch.labels)
                    context.accelerator.backward(loss)
                    self._clock.enter("optimiser")
                    self._learner.step()
                total += loss.detach() * len(batch.labels)
                num_photos += len(batch.labels)
                bar.update()
                if step % LOG_EVERY == 0:
                    mean = context.accelerator.reduce((total - read_loss) / (num_photos - num_read), "mean")
                    reading = _Reading(mean, self._learner.learning_rate, step, wait=context.num_processes > 1)
                    read_loss, num_read = total.clone(), num_photos
                if reading is not None and reading.has_arrived():
                    self.check_finite(reading.loss, epoch, reading.batch)
                    bar.set_postfix(loss=f"{reading.loss:.3f}", lr=f"{reading.learning_rate:.1e}")
                    self._track(reading)
                    reading = None
                if context.accelerator.sync_gradients and step + 1 < num_batches:
                    self._save_within_epoch(step + 1, total, num_photos, started)
                self._clock.enter("data")
        totals = context.accelerator.reduce(torch.stack([total, torch.tensor(num_photos, device=total.device)]))
        mean_loss = float(totals[0] / totals[1])
        self.check_finite(mean_loss, epoch, num_batches - 1)
        if reading is not None:
            self._track(reading)
        return mean_loss

    def _step(self, num_batches: int) -> int:
        """The step of the optimiser, counted over all epochs, in which this many batches of the present one end."""
        accumulated = self._context.accelerator.gradient_accumulation_steps
        of_an_epoch = math.ceil(len(self._inputs.training_loader) / accumulated)
        return self.progress.epoch * of_an_epoch + math.ceil(num_batches / accumulated)

    def _track(self, reading: "_Reading") -> None:
        values = {"loss": reading.loss, "learning_rate": reading.learning_rate}
        self._context.accelerator.log(values, step=self._step(reading.batch + 1))

    def _save_within_epoch(self, batch: int, total: torch.Tensor, num_photos: int, started: float) -> None:
        """Save the state between two steps if that is due or SIGTERM came, on which all processes agree.

        Args:
            batch: Batches completed.
            total: The sum of the losses so far.
            num_photos: Their number.
            started: When the epoch would have started if it had never been stopped.
        """
        minutes = self._config.run.checkpoint_minutes
        is_due = bool(minutes) and time.perf_counter() - self._saved_at >= 60 * minutes
        stop = self._stop_requested.is_set()
        if self._context.num_processes > 1:
            if not asks_others(batch, self._context.accelerator.gradient_accumulation_steps):
                return
            is_due, stop = self._context.any(is_due and self._context.is_main, stop)
        if not is_due and not stop:
            return
        self.check_finite(float(total), self.progress.epoch, batch - 1)
        mine = torch.stack([total.double(), torch.tensor(num_photos, device=total.device).double()])
        self.progress.batch = batch
        self.progress.losses = self._context.accelerator.gather(mine[None]).tolist()
        self.progress.epoch_seconds = time.perf_counter() - started
        self._save_state(None)
        if stop:
            self._stop()

    def _validate(self) -> dict[str, float]:
        self._clock.enter("evaluation")
        learner = self._learner
        if learner.average is not None and self._context.num_processes > 1:
            for buffer in learner.average.model.buffers():  # batch-norm statistics, which differ between processes
                torch.distributed.broadcast(buffer, 0)
        model = learner.average.model if learner.average else learner.model
        logits, labels = predict_logits(model, self._inputs, "validation", self._context)
        probabilities = softmax(logits)
        # Not by `compute_figures`, whose tables take ten times as long: with a frozen backbone, longer than the epoch
        figures = metrics.summary(probabilities, labels, probabilities)
        learner.schedule.after_epoch(figures["log_loss"])
        return figures

    def check_finite(self, loss: float, epoch: int, step: int) -> None:
        """Stop where nothing can be learned any more.

        Raises:
            Diverged: The loss is not a finite number.
        """
        if not math.isfinite(loss):
            optim = self._config.optim
            raise Diverged(
                f"the loss is {loss} in epoch {epoch + 1}, step {step + 1}: start again with --overwrite and a lower "
                f"--learning-rate (now {optim.learning_rate:g}) or --head-learning-rate "
                f"({optim.head_learning_rate:g}), or with --mixed-precision no"
            )

    def _stops_early(self) -> bool:
        patience = self._config.optim.early_stopping_patience
        if not patience or self.progress.epoch - self.progress.best_epoch < patience:
            return False
        self._context.say(f"stopping early: epoch {self.progress.best_epoch} is the best of {self.progress.epoch}")
        return True

    def _save_state(self, best: dict[str, torch.Tensor] | None) -> None:
        """Save what the run continues from, and the best weights where there are new ones."""
        self._clock.enter("saving")
        self._saved_at = time.perf_counter()
        for phase, seconds in self._clock.read().items():
            self.progress.time_spent[phase] = self.progress.time_spent.get(phase, 0.0) + seconds
        self._clock.enter("saving")
        if self._saved_states and self._context.is_main:
            # Randomness is not in it: it is drawn from the seed, the epoch and the batch.
            state = {**self._learner.state_dict(), "progress": dataclasses.asdict(self.progress)}
            self._saved_states.save((self.progress.epoch, self.progress.batch), state, best)

    def _resume(self, saved_states: SavedStates) -> None:
        if state := saved_states.load():
            try:
                self.progress = TypeAdapter(Progress).validate_python(state["progress"])
                if len(self.progress.history) != self.progress.epoch:
                    raise ValueError(f"it has {len(self.progress.history)} of {self.progress.epoch} epochs")
                self._learner.load_state_dict(state)
            except Exception as error:  # of any kind, for it may hold anything
                raise UserError(
                    f"the newest checkpoint in {str(saved_states.folder)!r} is none of this run ({first_line(error)}): "
                    "start again with --overwrite"
                ) from None
        batches = f" and {self.progress.batch} batches" if self.progress.batch else ""
        epochs = f"epoch {self.progress.epoch} of {self._num_epochs}"
        self._context.say(f"resuming after {epochs}{batches}")

    def _stop(self) -> NoReturn:
        """End the process, whose state was saved, as SIGTERM asks."""
        if self._saved_states:
            self._saved_states.wait()
        self._context.accelerator.wait_for_everyone()
        self._context.say("stopped by SIGTERM: the state is saved, and --resume continues from here")
        sys.exit(128 + signal.SIGTERM)


def asks_others(batch: int, num_accumulated: int) -> bool:
    """Whether several processes ask each other whether to save, in the first step after each `AGREE_EVERY` batches.

    Args:
        batch: Batches of the epoch that are completed, with which a step of the optimiser is.
        num_accumulated: Batches of a step.
    """
    return batch // AGREE_EVERY > (batch - num_accumulated) // AGREE_EVERY


@contextmanager
def photo_errors_as_user_errors() -> Iterator[None]:
    """Turn a photo that can't be read any more, or a killed worker that reads them, into one line."""
    try:
        yield
    except (BadImage, RuntimeError) as error:
        # torch wraps what its workers raise, with a traceback, and reports a killed one at any moment.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = str(error).strip().splitlines()[-1].removeprefix("dogbreeds.images.BadImage: ").rstrip(".")
        raise UserError(
            f"the photos can't be read any more ({reason}): mend that and continue with --resume; the last checkpoint "
            "is kept"
        ) from error


@contextmanager
def _sigterm() -> Iterator[Event]:
    """An event that is set when the process gets SIGTERM, which Spaces and SLURM send before they kill it."""
    requested = Event()
    if current_thread() is not main_thread():  # only that one gets signals
        yield requested
        return
    before = signal.signal(signal.SIGTERM, lambda *_: requested.set())
    try:
        yield requested
    finally:
        signal.signal(signal.SIGTERM, before)


class _Reading:
    """Of a batch, the loss that is on its way from the accelerator, for which nothing waits, and the next rate."""

    def __init__(self, loss: torch.Tensor, learning_rate: float, batch: int, *, wait: bool) -> None:
        """Start the copy; with `wait` it is waited for, so that several processes see it at the same batch."""
        self.learning_rate, self.batch = learning_rate, batch
        is_under_way = loss.is_cuda and not wait
        self._loss = loss.detach().to("cpu", non_blocking=is_under_way)
        self._arrived = torch.cuda.current_stream().record_event() if is_under_way else None

    def has_arrived(self) -> bool:
        return self._arrived is None or self._arrived.query()

    @property
    def loss(self) -> float:
        return float(self._loss)
