"""What resuming needs, written beside the training: it waits only while the numbers are copied, not for the disk.

A file is its content and the SHA-256 of that, so that one which is damaged or cut short is known when it is read.
"""

import hashlib
import io
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import recursively_apply

from dogbreeds.errors import UserError, first_line
from dogbreeds.files import atomic_write, sha256

BEST = "best.pt"
NUM_KEPT = 2
"""States kept: the newest, and the one before in case that is damaged."""

State = dict[str, Any]
"""Tensors, numbers, lists and dictionaries of them, by name."""

_DIGEST_SIZE = hashlib.sha256().digest_size


class SavedStates:
    """The checkpoints of one run; written by one process."""

    def __init__(self, folder: Path) -> None:
        """Name the folder, which there is; it is not created again if it is removed later."""
        self.folder = folder
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: list[Future[None]] = []

    def save(self, position: tuple[int, int], state: State, best: State | None) -> None:
        """Copy the state of a run and write it in the background; all but the last `NUM_KEPT` are removed then.

        Args:
            position: Epochs completed, and batches of the next one.
            state: What resuming needs.
            best: The model's weights, where they are the best yet.

        Raises:
            UserError: Writing an earlier one failed.
        """
        self.wait()
        # In its memory format: the fused optimiser takes for granted that its state lies in memory as the weights do.
        state, best = recursively_apply(lambda tensor: tensor.detach().clone(), (state, best))
        # A mark in the GPU's work behind which the copies are complete
        copied = torch.cuda.current_stream().record_event() if torch.cuda.is_available() else None
        self._pending.append(self._writer.submit(self._write, position, state, best, copied))

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            UserError: It could not be, for example because the disk is full.
        """
        while self._pending:
            try:
                self._pending.pop(0).result()
            except (OSError, RuntimeError) as error:  # torch wraps the system's errors
                reason = getattr(error, "strerror", None) or first_line(error)
                raise UserError(
                    f"can't write the checkpoint in {str(self.folder)!r} ({reason}): mend that and continue "
                    "with --resume; the one before is kept"
                ) from None

    def load(self) -> State | None:
        """The newest state that is whole, on the CPU; None where there is none. What is damaged is reported."""
        for path in reversed(self._states()):
            state = _read(path)
            if state is not None:
                return state
            print(f"the checkpoint {str(path)!r} is damaged: going on from the one before", file=sys.stderr)
        return None

    def load_best(self) -> dict[str, torch.Tensor]:
        """The best weights, on the CPU.

        Raises:
            UserError: They are damaged.
        """
        best = _read(self.folder / BEST)
        if best is None:
            raise UserError(f"the best weights in {str(self.folder)!r} are damaged: start again with --overwrite")
        return best

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.pt"))

    def _write(
        self, position: tuple[int, int], state: State, best: State | None, copied: torch.cuda.Event | None
    ) -> None:
        if copied is not None:
            with torch.cuda.stream(torch.cuda.Stream()):  # beside the training's own work on the GPU
                copied.wait()
                state, best = recursively_apply(torch.Tensor.cpu, (state, best))
        # The best weights first: a state that says which epoch is the best must find them. Killed between the two, the
        # run makes that epoch again, and the same weights.
        if best is not None:
            _write_whole(self.folder / BEST, best)
        _write_whole(self.folder / "epoch-{:04d}-batch-{:06d}.pt".format(*position), state)
        for older in self._states()[:-NUM_KEPT]:
            older.unlink()


def _write_whole(path: Path, content: State) -> None:
    """Write a file that is whole on the disk, or not there."""
    with atomic_write(path) as temporary:
        torch.save(content, temporary)
        digest = bytes.fromhex(sha256(temporary))
        with temporary.open("ab") as file:
            file.write(digest)


def _read(path: Path) -> State | None:
    """What `_write_whole` wrote; None where it is missing or damaged."""
    try:
        written = path.read_bytes()
    except OSError:
        return None
    content, digest = written[:-_DIGEST_SIZE], written[-_DIGEST_SIZE:]
    if hashlib.sha256(content).digest() != digest:
        return None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # of any kind, where the content was damaged before its digest was taken
        return None
    return state if isinstance(state, dict) else None
