"""What resuming needs, written beside the training: it waits only while the numbers are copied, not for the disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from dogbreeds.errors import UserError

BEST = "best.safetensors"


class Checkpoints:
    """The checkpoints of one run; written by one process."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made when it is needed."""
        self.folder = folder
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: list[Future[None]] = []

    def save(self, epoch: int, state: dict[str, Any], best: dict[str, torch.Tensor] | None) -> None:
        """Copy the state of a run after an epoch and write it in the background; older states are removed then.

        Args:
            epoch: Epochs completed.
            state: Tensors, numbers, lists and dictionaries of them.
            best: The model's weights, where this epoch's are the best yet.

        Raises:
            UserError: Writing an earlier one failed.
        """
        self.wait()
        state, best, copied = _copy(state), _copy(best), _event()
        self._pending.append(self._writer.submit(self._write, epoch, state, best, copied))

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            UserError: It could not be, for example because the disk is full.
        """
        while self._pending:
            try:
                self._pending.pop(0).result()
            except (OSError, RuntimeError, SafetensorError) as error:  # the libraries wrap the system's errors
                reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
                raise UserError(
                    f"can't write the checkpoint in {str(self.folder)!r} ({reason}): make room and continue with "
                    "--resume; the epoch before is kept"
                ) from None

    def load(self) -> dict[str, Any] | None:
        """The last state, on the CPU; None where there is none."""
        saved = self._states()
        return torch.load(saved[-1], map_location="cpu", weights_only=True) if saved else None

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.pt"))

    def _write(
        self, epoch: int, state: dict[str, Any], best: dict[str, torch.Tensor] | None, copied: torch.cuda.Event | None
    ) -> None:
        if copied is None:
            self._write_files(epoch, state, best)
            return
        with torch.cuda.stream(torch.cuda.Stream()):  # beside the training's own work on the GPU
            copied.wait()
            self._write_files(epoch, _map(state, _to_cpu), _map(best, _to_cpu))

    def _write_files(self, epoch: int, state: dict[str, Any], best: dict[str, torch.Tensor] | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # The best weights first: a state that says which epoch is the best must find them.
        if best is not None:
            contiguous = {name: tensor.contiguous() for name, tensor in best.items()}
            _whole(self.folder / BEST, lambda path: save_file(contiguous, path))
        new = self.folder / f"epoch-{epoch:04d}.pt"
        _whole(new, lambda path: torch.save(state, path))
        for older in self._states():
            if older != new:
                older.unlink()


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _copy(value: Any) -> Any:
    # In its memory format: the fused optimiser takes for granted that its state lies in memory as the weights do.
    return _map(value, lambda tensor: tensor.detach().clone())


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu()


def _map(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same dictionaries and lists with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _map(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map(item, change) for item in value)
    return value


def _event() -> torch.cuda.Event | None:
    """A mark in the GPU's work behind which the copies are complete."""
    if not torch.cuda.is_available():
        return None
    event = torch.cuda.Event()
    event.record()
    return event
