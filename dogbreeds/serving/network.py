"""The ONNX model of a run: pixels to logits, features and heat maps.

A run can be a stranger's, and a graph can ask for any memory and, with loops, any time. So the model of a run that did
not come with the project gets a share of the memory and a time for each forward pass, and is tried out in another
process first (`dogbreeds.serving.trial`). What any model gives is checked each time.
"""

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnxruntime

from dogbreeds.errors import UserError, first_line, printable
from dogbreeds.machine import num_bytes_of_memory, num_cores

INPUT = "pixel_values"
NUM_DIMENSIONS = {"logits": 2, "features": 2, "heat_map": 4}
"""Of the outputs that are used: `(B, C)`, `(B, D)`, `(B, C, h, w)`. Models of older versions and those of some
architectures lack some."""

CPU = ["CPUExecutionProvider"]
MAX_PASS = 4
"""Photos in one forward pass on several cores of a CPU, and one on one core. More take more memory, which ONNX Runtime
keeps, and are no faster: on one core, EfficientNet-Lite2 takes 19 ms for a photo, alone or with three others. `index`
has a pass on each core: on 2 cores, passes of 4 took 120 MB more."""

SECONDS_PER_PHOTO = 30.0
"""A limit: ViT-L/16 takes 1 to 3 on one core."""
MEMORY_SHARE = 0.5
"""Of the machine's memory, that models from elsewhere may take together."""


@dataclass(frozen=True)
class NetworkFile:
    """A file with a model, and what the rest of the run says of it."""

    path: str
    size: int
    """Height and width of the view, pixels."""
    num_labels: int
    num_features: int | None
    """As many as the dog probe has weights; None without one."""
    logit_scale: float
    """What its logits are multiplied by."""
    is_8bit: bool
    is_limited: bool
    """Whether its memory and time are limited."""

    def fault(self, words: str) -> UserError:
        """The error for a model that can't be used."""
        return UserError(f"{self.path!r} can't be used: {words}; name another run with --run-dir")


class Network:
    """A loaded model. Safe to share between threads."""

    def __init__(self, file: NetworkFile, *, num_threads: int | None = None) -> None:
        """Load a model.

        Args:
            file: The model.
            num_threads: Cores for one forward pass; by default all that this process may use.

        Raises:
            UserError: ONNX Runtime can't load it, or it has other inputs or outputs than a run's model.
        """
        self.file = file
        num_threads = num_threads or num_cores()
        self._max_pass = MAX_PASS if num_threads > 1 else 1
        try:
            options = _options(file, num_threads)
            self._session = onnxruntime.InferenceSession(file.path, options, providers=_providers(file))
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        except Exception as error:  # ONNX Runtime has no common class for its errors
            raise _in_words(file, error) from None
        given = {output.name: output for output in outputs if output.name in NUM_DIMENSIONS}
        self.output_names = [name for name in NUM_DIMENSIONS if name in given]
        """What the model gives, of `NUM_DIMENSIONS`."""
        if [each.name for each in inputs] != [INPUT]:
            raise file.fault(f"its input must be {INPUT}, not {printable(', '.join(each.name for each in inputs), 60)}")
        if "logits" not in given:
            raise file.fault("it gives no logits")
        for each in (*inputs, *given.values()):
            if each.type != "tensor(float)":
                raise file.fault(f"its {each.name} is a {printable(each.type, 60)}, not tensor(float)")
        if (num := given["logits"].shape[1:]) != [file.num_labels]:
            raise UserError(
                f"{file.path!r} is of another run: its model has {printable(', '.join(map(str, num)), 60) or 'no'} "
                f"outputs, but config.json names {file.num_labels} labels"
            )
        if file.num_features is not None and "features" not in given:
            raise file.fault("it gives no features, which the dog probe of run.json needs")

    def run(self, names: Sequence[str], pixels: np.ndarray) -> dict[str, np.ndarray]:
        """The answers of the network, a few photos at a time: see `MAX_PASS`.

        Args:
            names: The outputs to compute, of `output_names`.
            pixels: `(B, 3, H, W)` float32, B at least 1.

        Returns:
            The outputs by their names, float32; the logits as they were trained.

        Raises:
            UserError: It fails, takes too long or too much memory, or gives something that is no answer.
        """
        largest = self._max_pass if self._session.get_providers() == CPU else len(pixels)
        passes = [self.one_pass(names, pixels[at : at + largest]) for at in range(0, len(pixels), largest)]
        return {name: np.concatenate([found[name] for found in passes]) for name in names}

    def one_pass(self, names: Sequence[str], pixels: np.ndarray) -> dict[str, np.ndarray]:
        """As `run`, all photos at once."""
        try:
            with _time_limit(SECONDS_PER_PHOTO * len(pixels) if self.file.is_limited else None) as options:
                found = dict(zip(names, self._session.run(names, {INPUT: pixels}, options), strict=True))
        except Exception as error:  # as above
            if options.terminate:
                raise self.file.fault(f"it takes more than {SECONDS_PER_PHOTO:.0f} s for a photo") from None
            raise _in_words(self.file, error) from None
        if "logits" in found:
            found["logits"] = found["logits"] * np.float32(self.file.logit_scale)
        widths = {"logits": self.file.num_labels, "heat_map": self.file.num_labels, "features": self.file.num_features}
        for name, values in found.items():
            shape = values.shape
            if len(shape) != NUM_DIMENSIONS[name] or shape[0] != len(pixels) or 0 in shape:
                raise self.file.fault(f"its {name} of {len(pixels)} photos have the shape {shape}")
            if widths[name] not in (None, shape[1]):
                raise self.file.fault(f"its {name} are {shape[1]} numbers a photo, not {widths[name]}")
            if not np.isfinite(values).all():
                raise self.file.fault(f"it gives {name} that are no finite numbers")
        return found


def _in_words(file: NetworkFile, error: Exception) -> UserError:
    if re.search("Available memory|allocate memory|bad_alloc|bad allocation", str(error)):
        return file.fault(f"it takes more than {in_gigabytes(memory_limit())} of memory")
    return file.fault(first_line(error))


def session_options(num_threads: int) -> onnxruntime.SessionOptions:
    """How each model of an answer runs, on this many cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    # Threads wait for work by spinning, which is faster. They stop when an answer is done, because otherwise they
    # would take the cores from a second model.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4  # nothing: its warnings are about the graph, and its errors are raised too
    return options


def _options(file: NetworkFile, num_threads: int) -> onnxruntime.SessionOptions:
    options = session_options(num_threads)
    if file.is_limited:
        _limit_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def _providers(file: NetworkFile) -> list[str]:
    """A GPU where ONNX Runtime's package can use one, else the CPU; 8-bit models are made for CPUs."""
    on_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers() and not file.is_8bit
    return ["CUDAExecutionProvider", *CPU] if on_gpu else CPU


def memory_limit() -> int:
    """Bytes that all models with `is_limited` may take together."""
    return int(MEMORY_SHARE * num_bytes_of_memory())


def in_gigabytes(num_bytes: int) -> str:
    """A size of memory in words."""
    return f"{num_bytes / 2**30:.1f} GB"


@cache
def _limit_memory() -> None:
    """Make the allocator that the sessions with ``session.use_env_allocators`` share."""
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    default = -1
    config = onnxruntime.OrtArenaCfg(memory_limit(), default, default, default)
    onnxruntime.create_and_register_allocator(place, config)


_passes: dict[int, tuple[float, onnxruntime.RunOptions]] = {}
"""The forward passes in progress that are limited: when each must be done, and how it is ended."""


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[onnxruntime.RunOptions]:
    """Options for a forward pass that is ended after this time, between two of its operators."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    if seconds is not None:
        _watch()
        _passes[id(options)] = time.monotonic() + seconds, options
    try:
        yield options
    finally:
        _passes.pop(id(options), None)


@cache
def _watch() -> None:
    """Start the thread that ends what takes too long; one for all, since a thread each costs 0.1 ms."""

    def watch() -> None:
        while True:
            time.sleep(1)
            for deadline, options in list(_passes.values()):
                if time.monotonic() > deadline:
                    options.terminate = True

    threading.Thread(target=watch, name="time limit of models", daemon=True).start()
