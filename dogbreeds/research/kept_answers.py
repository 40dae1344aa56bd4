"""Answers that outlive the command that computes them: when it is killed, the same command goes on from there."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dogbreeds.addresses import reason
from dogbreeds.errors import UserError
from dogbreeds.training.locks import locked


class KeptAnswers(dict[str, Any]):
    """By photo, what was answered, as values for JSON. A new answer is written down at once."""

    def __init__(self, known: dict[str, Any], file: BinaryIO | None) -> None:
        """Use `keep_answers` instead."""
        super().__init__(known)
        self._file = file

    def __setitem__(self, photo: str, answer: Any) -> None:
        super().__setitem__(photo, answer)
        if self._file:
            self._file.write(json.dumps([photo, answer]).encode() + b"\n")
            self._file.flush()


@contextmanager
def keep_answers(path: Path | None, made_from: dict[str, Any]) -> Iterator[KeptAnswers]:
    """The answers of an interrupted command, to be completed, or none yet.

    Args:
        path: A file of JSON lines: `made_from`, then a photo and its answer in each. None keeps nothing on the disk.
        made_from: What determines the answers, as values for JSON. Answers of other values are not completed.

    Raises:
        UserError: The file is none of answers, or of answers that were made from something else; it can't be read or
            written; another process writes it.
    """
    if path is None:
        yield KeptAnswers({}, None)
        return
    try:
        with locked(path, doing="writing", option="--output"), path.open("a+b") as file:
            known = _read(path, file, made_from)
            if known:
                print(f"continuing: {len(known):,} photos are answered", file=sys.stderr)
            yield KeptAnswers(known, file)
    except OSError as error:
        raise UserError(f"can't keep the answers in {str(path)!r} ({reason(error)}): give another --output") from None


def _read(path: Path, file: BinaryIO, made_from: dict[str, Any]) -> dict[str, Any]:
    """The answers in the file, which is then ready for more."""
    header = json.dumps(made_from)
    file.seek(0)
    lines = [line for line in file if line.endswith(b"\n")]  # a kill may have cut the last one short
    file.truncate(sum(map(len, lines)))
    if not lines:
        file.write(header.encode() + b"\n")
        return {}
    try:
        begun, *known = map(json.loads, lines)
        answers = dict(known)
    except (TypeError, ValueError):
        raise UserError(f"{str(path)!r} holds no answers: move it away, or give another --output") from None
    if begun != json.loads(header):
        raise UserError(
            f"{str(path)!r} was begun with other runs or options: delete it to start again, or give the original ones "
            "to continue it"
        )
    return answers
