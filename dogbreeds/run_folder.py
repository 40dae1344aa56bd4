"""The run folder: what training writes and serving reads. Nothing else passes between the two.

    config.json, preprocessor_config.json   the model and its pre-processing, in the format of transformers
    model.safetensors                       the weights, for transformers; serving does not need them
    onnx/model.onnx                         the same model for ONNX Runtime: logits and heat maps; an 8-bit copy has
                                            onnx/model_quantized.onnx instead, and names it in run.json
    run.json                                options, data, figures, calibration, versions, hashes of the files above
                                            (`dogbreeds.record`)
    history.csv                             one row per epoch
    splits.parquet                          the photos of each split: hash, label
    predictions-<split>.parquet             image id, hash, label, calibrated probabilities; "added" are the photos that
                                            `dogbreeds.serving.add_breed` added breeds from, also in splits.parquet
    breeds-<split>.csv, confusion-*.csv     figures of each breed and both confusion matrices, from those
    calibration-photos.csv                  what each photo of `dogbreeds calibrate` was used for, by its hash
    README.md                               the model card, written from run.json

A run is made in ``<name>.partial`` beside its final path and renamed when it is complete, so a run folder is whole or
absent. `state/` in the partial folder holds what ``--resume`` needs.
"""

import difflib
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from dogbreeds.addresses import reason
from dogbreeds.breeds import all_names, label_name
from dogbreeds.calibration import Calibration
from dogbreeds.default_runs import RUNS
from dogbreeds.errors import UserError
from dogbreeds.files import flush, make_folder, partial_path, read_json, sha256, write_json
from dogbreeds.hub import HubId, download
from dogbreeds.json_types import Label, checked
from dogbreeds.preprocessing import PREPROCESSOR, Preprocessing
from dogbreeds.record import ONNX, ONNX_8BIT, RunRecord
from dogbreeds.split_file import SPLITS

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
RECORD = "run.json"
HISTORY = "history.csv"
CARD = "README.md"
CALIBRATION_PHOTOS = "calibration-photos.csv"
STATE = "state"

PRETRAINED = Path(__file__).with_name("pretrained")
"""The run folders that come with the project, without their `model.safetensors`."""

MAX_MODEL_BYTES = 2**31
"""Of an ONNX file, which can't be larger: protobuf's limit."""

SHIPPED_RUNS = tuple(Path(run) if HubId.parse(run) else PRETRAINED / run for run in RUNS)
"""The runs that answer on the page when none is named."""

DEFAULT_RUN = SHIPPED_RUNS[0]
"""The run that answers elsewhere."""

ON_THE_HUB = (
    RECORD,
    CONFIG,
    PREPROCESSOR,
    ONNX,
    ONNX_8BIT,
    HISTORY,
    CARD,
    SPLITS,
    CALIBRATION_PHOTOS,
    "predictions-*.parquet",
)
"""The files that are downloaded of a run folder on the Hub: all that the commands read, not the weights for PyTorch."""

Labels = Annotated[list[Label], Field(min_length=2)]


def predictions_file(split: str) -> str:
    """The name of the file with one split's probabilities."""
    return f"predictions-{split}.parquet"


def serving_files(record: RunRecord) -> tuple[str, str, str]:
    """The files that an answer is computed from, besides run.json."""
    return CONFIG, PREPROCESSOR, record.serving_model


@dataclass(frozen=True)
class RunFolder:
    """A complete run folder, checked on opening."""

    path: Path
    config: dict[str, Any]
    """config.json, of transformers."""
    record: RunRecord
    """run.json."""
    labels: tuple[str, ...]
    """The name of each class, in the order of the logits."""
    preprocessing: Preprocessing
    listed: tuple[str, ...] | None = None
    """The labels that answers may name; None for all. Not of the folder: see `only`."""
    origin: HubId | None = None
    """The repository on the Hugging Face Hub, with the commit; None for a local folder."""

    @property
    def name(self) -> str:
        """The folder's own name, such as ``mobilenet_v2``."""
        return self.origin.name if self.origin else self.path.name

    @property
    def calibration(self) -> Calibration:
        """What turns the model's logits into answers."""
        return self.record.calibration

    @property
    def onnx(self) -> Path:
        """The model for ONNX Runtime."""
        return self.path / self.record.serving_model

    @property
    def is_8bit(self) -> bool:
        """Whether that model keeps its weights as 8-bit numbers."""
        return self.record.serving_model == ONNX_8BIT

    @property
    def is_shipped(self) -> bool:
        """Whether it came with the project itself."""
        return self.path.parent == PRETRAINED

    @property
    def is_listed(self) -> np.ndarray | None:
        """`(C,)` bool, which labels answers may name; None for all."""
        return None if self.listed is None else np.isin(self.labels, self.listed)

    def only(self, breeds: Sequence[str]) -> "RunFolder":
        """The same run, whose answers name some of its breeds only.

        Args:
            breeds: Their names, in English or French, two or more; none for all breeds.

        Raises:
            UserError: The run does not know one, or there is one alone.
        """
        if not breeds:
            return self
        by_name = {label.casefold(): label for label in self.labels}
        names = {name.casefold(): name for label in self.labels for name in all_names(label)}
        listed = set()
        for breed in breeds:
            name = breed.casefold() if breed.casefold() in by_name else label_name(breed).casefold()
            if name not in by_name:
                (nearest,) = difflib.get_close_matches(name, names, n=1, cutoff=0)
                raise UserError(f"the run {self.name!r} knows no breed {breed!r}: did you mean {names[nearest]!r}?")
            listed.add(by_name[name])
        if len(listed) < 2:
            raise UserError(f"{listed.pop()!r} alone is no choice, every dog would be one: list two breeds or more")
        return replace(self, listed=tuple(label for label in self.labels if label in listed))

    def files(self) -> list[Path]:
        """Every file, relative to the folder, in order."""
        return sorted(file.relative_to(self.path) for file in self.path.rglob("*") if file.is_file())

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Open a run folder and verify the files that answers are computed from.

        Args:
            path: A folder, or ``user/name`` or ``user/name@revision`` on the Hugging Face Hub, which is downloaded.

        Raises:
            UserError: The folder or one of its files is missing, damaged, or written by a newer version.
        """
        path, origin = _find(Path(path))
        if not os.path.lexists(path / RECORD):
            raise UserError(f"{str(path)!r} is no run folder: {RECORD} is missing")
        _check_place(path, RECORD)
        record = RunRecord.from_json(read_json(path / RECORD), path)
        for name in serving_files(record):
            try:
                _check_place(path, name)
                found = sha256(path / name)
            except OSError as error:
                raise UserError(
                    f"{str(path / name)!r} can't be read ({reason(error)}): make it readable, or copy the run again"
                ) from None
            if record.sha256.get(name) != found:
                raise _damaged(path, name, "not the file that run.json describes")
        config = read_json(path / CONFIG)
        return cls(
            path=path,
            config=config,
            record=record,
            labels=_labels(config, path),
            preprocessing=Preprocessing.from_preprocessor_config(read_json(path / PREPROCESSOR), path / PREPROCESSOR),
            origin=origin,
        )


def _find(named: Path) -> tuple[Path, HubId | None]:
    """The run folder's path, and its repository if it is one of the Hub."""
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


def _check_place(path: Path, name: str) -> None:
    """Check that a file is one, before it is read, and lies in the run folder."""
    file = path / name
    if not file.is_file():
        raise _damaged(path, name, "no file" if os.path.lexists(file) else "missing")
    if file.stat().st_size > MAX_MODEL_BYTES:
        raise _damaged(path, name, "larger than 2 GB")
    # In the cache of the Hub's library, the folder of a commit holds links to the files of all commits.
    home = path.parent.parent / "blobs" if path.parent.name == "snapshots" else path
    if not any(file.resolve().is_relative_to(folder) for folder in (path, home)):
        raise _damaged(path, name, "a link to a file outside of it")


def _damaged(path: Path, name: str, fault: str) -> UserError:
    return UserError(f"run folder {str(path)!r} is damaged: {name} is {fault}; copy it again or train again")


def unique_names(runs: Sequence[RunFolder]) -> list[str]:
    """The runs' own names, with as much of their paths as makes them different.

    Raises:
        UserError: A run is named twice.
    """
    places = [Path(str(run.origin or run.path)) for run in runs]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f"the run {str(place)!r} is named twice: name it once")
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = [run.name for run in runs] if depth == 1 else ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return names
    raise AssertionError(f"{places} have no different names")


def check_output(output_dir: Path, *, overwrite: bool, resume: bool) -> None:
    """Check the output folder of a training before any work is done.

    Raises:
        UserError: The run or an unfinished one exists and neither option is given; there is nothing to resume; or the
            folder to overwrite is no run folder.
    """
    partial = partial_path(output_dir)
    if overwrite and resume:
        raise UserError("--overwrite and --resume exclude each other: give one of them")
    if resume and not partial.is_dir():
        found = f"there is no {str(partial)!r}"
        if output_dir.exists():
            found = f"the run {str(output_dir)!r} is complete; to train it further, name it as --model of another run"
        raise UserError(f"nothing to resume: {found}")
    if overwrite and output_dir.exists() and not (output_dir / RECORD).is_file():
        raise UserError(f"{str(output_dir)!r} is no run folder and is not replaced: give another --output-dir")
    if resume or overwrite:
        return
    if output_dir.exists():
        raise UserError(f"{str(output_dir)!r} exists already: give another --output-dir, or --overwrite to replace it")
    if partial.exists():
        raise UserError(f"{str(partial)!r} holds an unfinished run: --resume continues it, --overwrite starts again")


def begin(output_dir: Path, *, resume: bool) -> Path:
    """Make the partial folder of a run, after `check_output`; with `resume` it exists already.

    Returns:
        The partial folder.

    Raises:
        UserError: The folder can't be made.
    """
    partial = partial_path(output_dir)
    if not resume:
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(partial)
    return partial


def commit(partial: Path, output_dir: Path, record: RunRecord) -> None:
    """Complete a run: hash its files, write run.json, and move the folder to its final path.

    Args:
        partial: The folder from `begin`, with all other files written.
        output_dir: The final path; a run that exists there is replaced.
        record: The content of run.json but for the hashes, which are added here.
    """
    needed = serving_files(record)
    hashed = [name for name in (*needed, WEIGHTS) if (partial / name).is_file()]
    assert set(needed) <= set(hashed), hashed
    hashes = {name: sha256(partial / name) for name in hashed}
    complete(partial, output_dir, replace(record, sha256=hashes))


def complete(partial: Path, output_dir: Path, record: RunRecord) -> None:
    """Write run.json, and move the folder to its final path, where a run that exists is replaced."""
    write_json(partial / RECORD, record.to_json())
    for file in partial.rglob("*"):
        if file.is_file():
            flush(file)
    replaced = _replaced_path(output_dir)
    if output_dir.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        output_dir.rename(replaced)
    partial.rename(output_dir)
    flush(output_dir.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(output_dir / STATE, ignore_errors=True)


def _replaced_path(output_dir: Path) -> Path:
    return output_dir.with_name(output_dir.name + ".replaced")


def with_label(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A checked config.json with one more class, the last."""
    if "label_names" in config:
        labels = [*config["label_names"], name]
        return {**config, "label_names": labels, "num_classes": len(labels)}
    names = config["id2label"]
    if not isinstance(names, dict):
        return {**config, "id2label": [*names, name]}
    return {
        **config,
        "id2label": {**names, str(len(names)): name},
        "label2id": {**config.get("label2id", {}), name: len(names)},
    }


def _labels(config: dict[str, Any], path: Path) -> tuple[str, ...]:
    key = "label_names" if "label_names" in config else "id2label"  # the first is of timm's networks
    names = config.get(key, {})
    if key == "id2label" and isinstance(names, dict):
        try:
            names = [names[str(index)] for index in range(len(names))]
        except KeyError as error:
            raise UserError(f"{str(path / CONFIG)!r} is damaged: id2label has no class {error}") from None
    labels = checked(Labels, names, path / CONFIG, within=(key,))
    if twice := [name for name, count in Counter(labels).items() if count > 1]:
        raise UserError(f"{str(path / CONFIG)!r} is damaged: two classes are called {twice[0]!r}")
    return tuple(labels)
