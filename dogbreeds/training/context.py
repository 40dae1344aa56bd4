"""The process of a run: its accelerator, what it prints, and what its stages take."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration, InitProcessGroupKwargs, set_seed

from dogbreeds.machine import keep_freed_memory, processor
from dogbreeds.training.options import OptimOptions, RunOptions


class Context:
    """One process of a run, alone or among several."""

    def __init__(self, run: RunOptions, optim: OptimOptions, logs: Path, *, quiet: bool = False) -> None:
        """Start accelerate, and seed what draws at random.

        Args:
            run: The precision, the seed, and the trackers.
            optim: The batches that are accumulated.
            logs: The folder for what those write into the run.
            quiet: Print nothing.
        """
        # accelerate shares options among all Accelerators of a process; each run has its own. Private names, read in
        # accelerate 1.15: there is no public way, and one process a run would replace them.
        AcceleratorState._reset_state()
        GradientState._reset_state()
        self.accelerator = Accelerator(
            mixed_precision=run.mixed_precision or _default_precision(),
            cpu=not torch.accelerator.is_available(),  # or with torchrun each process would train on its own
            gradient_accumulation_steps=optim.gradient_accumulation_steps,
            log_with=list(run.tracker) or None,
            project_dir=logs,
            step_scheduler_with_optimizer=False,
            dataloader_config=DataLoaderConfiguration(non_blocking=True),
            # Processes wait while the first one downloads and checks the data.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=3))],
        )
        self.device: torch.device = self.accelerator.device
        self.is_main: bool = self.accelerator.is_main_process
        """Whether this is the process that prints and writes."""
        self.num_processes: int = self.accelerator.num_processes
        """Processes that train together, on all machines."""
        self.seconds: dict[str, float] = {}
        """What each stage of the run took."""
        self._quiet = quiet
        self.shows_progress: bool = self.is_main and (not quiet or sys.stderr.isatty())
        """Whether bars are shown; they are no lines of a log that is to be quiet."""
        if self.device.type == "cpu":
            keep_freed_memory()
        set_seed(run.seed)

    @property
    def hardware(self) -> str:
        """What the run computes on, such as ``2 x NVIDIA H100``."""
        processes = f"{self.num_processes} x " if self.num_processes > 1 else ""
        return processes + (torch.cuda.get_device_name() if self.device.type == "cuda" else processor())

    def say(self, line: str) -> None:
        """Print a line, in the main process."""
        if self.is_main and not self._quiet:
            print(line, flush=True)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure the seconds of a stage."""
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in one of the processes."""
        counts = self.accelerator.reduce(torch.tensor(flags, device=self.device).int())
        return [bool(count) for count in counts.tolist()]


def part_processes() -> None:
    """Part the processes that trained together, after their last run: PyTorch warns where they just end."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _default_precision() -> str | None:
    """bf16 where a GPU computes in it and accelerate's own configuration names nothing else."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ or "ACCELERATE_USE_CPU" in os.environ:
        return None
    can = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if can else None
