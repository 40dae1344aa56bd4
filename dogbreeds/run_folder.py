"""The run folder: what training writes and serving reads. Nothing else passes between the two.

    config.json, preprocessor_config.json   the model and its view, in the format of transformers
    model.safetensors                       the weights, for transformers; serving does without
    onnx/model.onnx                         the same model for ONNX Runtime: logits and heat maps; an 8-bit copy has
                                            onnx/model_quantized.onnx instead, and names it in run.json
    run.json                                options, data, figures, calibration, versions, hashes of the files above
    history.csv                             one row per epoch
    predictions-<split>.parquet             image id, hash, label, calibrated probabilities
    breeds-<split>.csv, confusion-*.csv     each breed and both confusion matrices, from those
    README.md                               the model card, written from run.json

A run is made in ``<name>.partial`` beside its final place and renamed when it is complete, so a run folder is whole or
absent. `state/` in the partial folder holds what ``--resume`` needs.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogbreeds.calibration import Calibration
from dogbreeds.default_runs import RUNS
from dogbreeds.errors import UserError
from dogbreeds.hub import HubId, download
from dogbreeds.preprocessing import Preprocessing

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
ONNX = "onnx/model.onnx"
ONNX_8BIT = "onnx/model_quantized.onnx"
RECORD = "run.json"
HISTORY = "history.csv"
CARD = "README.md"
STATE = "state"

FORMAT = 1
"""Raised when older code could no longer read the folder."""

PRETRAINED = Path(__file__).with_name("pretrained")
"""The run folders that come with the project, without their `model.safetensors`."""

SHIPPED_RUNS = tuple(Path(run) if HubId.parse(run) else PRETRAINED / run for run in RUNS)
"""What answers on the page when no run folder is named."""

DEFAULT_RUN = SHIPPED_RUNS[0]
"""What answers elsewhere."""

ON_THE_HUB = (RECORD, CONFIG, PREPROCESSOR, ONNX, ONNX_8BIT, HISTORY, CARD, "predictions-*.parquet")
"""What is downloaded of a run folder on the Hub: all that the commands read, so not the weights for PyTorch."""


def predictions_file(split: str) -> str:
    """The name of the file with one split's probabilities."""
    return f"predictions-{split}.parquet"


def serving_files(record: dict[str, Any]) -> tuple[str, str, str]:
    """What an answer is computed from, besides run.json; the model for ONNX Runtime is the last.

    Args:
        record: What run.json says.

    Raises:
        UserError: It names a model that no run folder has.
    """
    model = record.get("serving_model", ONNX)
    if model not in (ONNX, ONNX_8BIT):  # so it can't name a file outside the folder either
        raise UserError(
            f"run.json is damaged: its serving_model is {model!r}, neither {ONNX!r} nor {ONNX_8BIT!r}; copy the run "
            "folder anew or train again"
        )
    return CONFIG, PREPROCESSOR, model


@dataclass(frozen=True)
class RunFolder:
    """A complete run folder, checked on opening."""

    path: Path
    config: dict[str, Any]
    """config.json, of transformers."""
    record: dict[str, Any]
    """run.json."""
    labels: tuple[str, ...]
    """The name of each class, in the order of the logits."""
    preprocessing: Preprocessing
    calibration: Calibration
    origin: HubId | None = None
    """On the Hugging Face Hub, with the commit; None for a folder of this machine."""

    @property
    def name(self) -> str:
        """The folder's own name, such as ``mobilenet_v2``."""
        return self.origin.name if self.origin else self.path.name

    @property
    def onnx(self) -> Path:
        """The model for ONNX Runtime."""
        return self.path / serving_files(self.record)[-1]

    @property
    def is_8bit(self) -> bool:
        """Whether that model keeps its weights as 8-bit numbers."""
        return self.record.get("serving_model") == ONNX_8BIT

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Open a run folder and verify the files that answers are computed from.

        Args:
            path: A folder, or ``user/name`` or ``user/name@revision`` on the Hugging Face Hub, which is downloaded.

        Raises:
            UserError: The folder or one of its files is missing, damaged, or written by a newer version.
        """
        path, origin = _find(Path(path))
        record = _read_json(path / RECORD)
        if record.get("format") != FORMAT:
            raise UserError(f"{path / RECORD} has format {record.get('format')!r}, this version reads {FORMAT}")
        for name in serving_files(record):
            expected = record.get("sha256", {}).get(name)
            if not (path / name).is_file():
                raise UserError(f"run folder {str(path)!r} is damaged: {name} is missing; copy it anew or train again")
            if expected != sha256(path / name):
                raise UserError(
                    f"run folder {str(path)!r} is damaged: {name} is not the file that run.json describes; "
                    "copy it anew or train again"
                )
        config = _read_json(path / CONFIG)
        return cls(
            path=path,
            config=config,
            record=record,
            labels=_labels(config, path),
            preprocessing=Preprocessing.from_preprocessor_config(_read_json(path / PREPROCESSOR)),
            calibration=Calibration.from_dict(record.get("calibration", {})),
            origin=origin,
        )


def _find(named: Path) -> tuple[Path, HubId | None]:
    """Where a run folder is, and where it comes from if that is the Hub."""
    path = named.resolve()
    if path.is_dir():
        return path, None
    hint = "name one with --run-dir"
    if _replaced_path(path).is_dir():
        hint = f"replacing it was interrupted; the run before is in {str(_replaced_path(path))!r}"
    elif partial_path(path).is_dir():
        hint = "its training is unfinished; continue it with --resume"
    elif wanted := HubId.parse(named.as_posix()):
        return download(wanted, ON_THE_HUB)
    raise UserError(f"there is no run folder {str(path)!r}: {hint}")


def unique_names(runs: Sequence[RunFolder]) -> list[str]:
    """The runs' own names, with as much of their paths as tells them apart.

    Raises:
        UserError: Two are the same run.
    """
    places = [Path(str(run.origin or run.path)) for run in runs]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f"the run {str(place)!r} is named twice: name it once")
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = [run.name for run in runs] if depth == 1 else ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return names
    raise AssertionError(f"{places} are not told apart")


def partial_path(output_dir: Path) -> Path:
    """Where the run that will become `output_dir` is made."""
    return output_dir.with_name(output_dir.name + ".partial")


def check_output(output_dir: Path, *, overwrite: bool, resume: bool) -> None:
    """Refuse what would touch something that exists already, before any work is done.

    Raises:
        UserError: The run or an unfinished one exists and neither option is given; there is nothing to resume; or what
            would be overwritten is no run.
    """
    partial = partial_path(output_dir)
    if overwrite and resume:
        raise UserError("--overwrite and --resume exclude each other: give one of them")
    if resume:
        if not partial.is_dir():
            done = (
                f"the run {str(output_dir)!r} is complete" if output_dir.exists() else f"there is no {str(partial)!r}"
            )
            raise UserError(f"nothing to resume: {done}")
    elif overwrite:
        if output_dir.exists() and not (output_dir / RECORD).is_file():
            raise UserError(f"{str(output_dir)!r} is no run folder and is not replaced: give another --output-dir")
    elif output_dir.exists():
        raise UserError(f"{str(output_dir)!r} exists already: give another --output-dir, or --overwrite to replace it")
    elif partial.exists():
        raise UserError(f"{str(partial)!r} holds an unfinished run: --resume continues it, --overwrite starts anew")


def begin(output_dir: Path, *, resume: bool) -> Path:
    """Make the partial folder of a run that `check_output` has let pass; with `resume` it is there.

    Raises:
        UserError: The folder can't be made.
    """
    partial = partial_path(output_dir)
    if not resume:
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(partial)
    return partial


def commit(partial: Path, output_dir: Path, record: dict[str, Any]) -> None:
    """Complete a run: hash its files, write run.json, and put the folder in its final place.

    Args:
        partial: The folder from `begin`, with all other files written.
        output_dir: The final place; a run that stands there is replaced.
        record: What run.json shall say; format and hashes are added here.
    """
    needed = serving_files(record)
    hashed = [name for name in (*needed, WEIGHTS) if (partial / name).is_file()]
    assert set(needed) <= set(hashed), hashed
    hashes = {name: sha256(partial / name) for name in hashed}
    write_json(partial / RECORD, {"format": FORMAT, **record, "sha256": hashes})
    for file in partial.rglob("*"):
        if file.is_file():
            _flush(file)
    replaced = _replaced_path(output_dir)
    if output_dir.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        output_dir.rename(replaced)
    partial.rename(output_dir)
    _flush(output_dir.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(output_dir / STATE, ignore_errors=True)


def _replaced_path(output_dir: Path) -> Path:
    return output_dir.with_name(output_dir.name + ".replaced")


def check_absent(path: Path, *, option: str = "--output") -> None:
    """Refuse to write results where something is, before any work is done: results are never mixed.

    Args:
        path: Where they shall be.
        option: The one that named it.

    Raises:
        UserError: It exists already.
    """
    if path.exists():
        raise UserError(f"{str(path)!r} exists already: give another {option}, or remove it")


def make_folder(path: Path) -> None:
    """Make a folder that does not exist yet.

    Raises:
        UserError: It exists already, or can't be made.
    """
    check_absent(path)
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"can't make the folder {str(path)!r}: {error.strerror}") from None


@contextmanager
def whole_or_absent(path: Path) -> Iterator[Path]:
    """Fill a new folder under another name beside it; it gets its own name when it is complete, or is removed.

    Raises:
        UserError: It, or an unfinished one, exists already, or can't be made.
    """
    check_absent(path)
    partial = partial_path(path)
    make_folder(partial)
    try:
        yield partial
        if partial.exists():  # a run's `commit` renames it itself
            partial.rename(path)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file under a temporary name, then rename it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{str(path.parent)!r} is no run folder: {path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{str(path)!r} is damaged: it holds no JSON object")
    return value


def _labels(config: dict[str, Any], path: Path) -> tuple[str, ...]:
    if "label_names" in config:  # of timm's networks
        return tuple(config["label_names"])
    names = config.get("id2label", {})
    try:
        return tuple(names[str(index)] for index in range(len(names)))
    except KeyError as error:
        raise UserError(f"{str(path / CONFIG)!r} is damaged: id2label has no class {error}") from None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
