"""Where the time of training goes, measured without making anything wait, and how fast the hardware could be."""

import time
from typing import Any

import torch

from dogbreeds.training.context import Context

PHASES = ("data", "views", "forward and backward", "optimiser", "evaluation", "saving")
"""What an epoch's time is spent on: waiting for data, making views of it, the network, and so on."""

MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices that are multiplied to find out how fast a device can be."""


class PhaseClock:
    """Adds up the time of phases that follow one another; on a GPU by its own clock, which runs behind the program.

    A GPU is given work ahead, so the program's clock says nothing of it: time there is measured between events in the
    stream of work, which are read when an epoch is over.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def enter(self, phase: str) -> None:
        """From here on time counts to this phase."""
        assert phase in PHASES or not phase, phase
        mark: Any = time.perf_counter()
        if self._on_gpu:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        self._marks.append((phase, mark))

    def read(self) -> dict[str, float]:
        """Seconds of each phase since the last reading, and none of them is being timed from here on."""
        self.enter("")
        if self._on_gpu:
            torch.cuda.synchronize()
        seconds = dict.fromkeys(PHASES, 0.0)
        for (phase, start), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            if phase:
                seconds[phase] += start.elapsed_time(end) / 1000 if self._on_gpu else end - start
        self._marks = []
        return seconds


def peak_flops(device: torch.device, dtype: torch.dtype, num_rounds: int = 5) -> float:
    """How many floating-point operations a second the device reaches on a product of large square matrices.

    Args:
        device: A CPU or GPU.
        dtype: Of the numbers.
        num_rounds: Products timed; the fastest counts.
    """
    size = MATRIX_SIZE.get(device.type, 2048)
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    repeats = 10 if device.type == "cuda" else 1
    fastest = float("inf")
    for _ in range(num_rounds + 1):  # the first one starts the device up
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, (time.perf_counter() - started) / repeats)
    return 2 * size**3 / fastest


def measured_peak(context: Context) -> float:
    """Measure and print how fast the run's device is, in its precision; operations a second."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(context.accelerator.mixed_precision, torch.float32)
    peak = peak_flops(context.device, dtype)
    context.say(f"measured peak: {peak / 1e12:.3g} TFLOP/s in {str(dtype).removeprefix('torch.')}")
    return peak


def time_in_words(record: dict[str, Any]) -> list[str]:
    """The lines that say what `dogbreeds.training.run.Run.time_record` found."""
    if not record:
        return []
    total = sum(record["seconds"].values())
    shares = ", ".join(f"{phase} {seconds / total:.0%}" for phase, seconds in record["seconds"].items())
    lines = [
        f"training took {total:.1f} s ({shares}): {record['photos_per_second']:,.0f} photos/s, "
        f"{record['photos_per_second_in_steps']:,.0f} without validation and saving"
    ]
    if record.get("share_of_peak"):
        lines.append(f"{record['share_of_peak']:.0%} of the measured peak")
    return [*lines, record["bottleneck"]]


def bottleneck(seconds: dict[str, float]) -> str:
    """What limits training, in words, with the remedy where there is one.

    Args:
        seconds: Of each of `PHASES`.
    """
    total = sum(seconds.values())
    largest = max(seconds, key=lambda phase: seconds[phase])
    share = f"{seconds[largest] / total:.0%} of the time"
    return {
        "data": f"waiting for photos takes {share}: use the pixel cache (--cache on), on a faster disk, or raise "
        "--num-workers",
        "views": f"making random views takes {share}: ask for fewer kinds of change, or a smaller --image-size",
        "forward and backward": f"the network's arithmetic takes {share}: more or faster hardware, --mixed-precision "
        "bf16, or a smaller model",
        "optimiser": f"the optimiser takes {share}: raise --batch-size",
        "evaluation": f"validation takes {share}, once an epoch: faster hardware or a smaller model; fewer photos held "
        "out would only make the figures less certain",
        "saving": f"saving takes {share}: write to a faster disk (--output-dir)",
    }[largest]
