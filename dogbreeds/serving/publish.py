"""Push a run folder to the Hugging Face Hub, as a model, or as a Space that answers with it."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dogbreeds import hub
from dogbreeds.errors import UserError
from dogbreeds.files import check_absent, whole_or_absent
from dogbreeds.model_card import card_metadata, model_card
from dogbreeds.run_folder import CARD, PRETRAINED, RECORD, RunFolder, serving_files

PACKAGE = PRETRAINED.parent
ROOT = PACKAGE.parent

SUFFIXES = {".csv", ".json", ".md", ".onnx", ".parquet", ".safetensors"}
"""Of the files of a run folder that are pushed: none of them runs code when it is read."""

NOT_SERVING = {
    "docs",
    "recipes",
    "training",
    "training_script.py",
    "study.py",
    "research",
    PRETRAINED.name,
    "__pycache__",
}
"""The parts of this package that a Space does not need."""


def publish_model(run_dir: Path, repo_id: str, *, private: bool = False, dry_run: Path | None = None) -> str:
    """Push a run folder as a model repository.

    The card on the Hub is replaced by that of the run folder, with the figures added to its metadata. Metadata that its
    owner has added, such as a licence, is kept.

    Args:
        run_dir: The run.
        repo_id: ``user/name``.
        private: Refuse a repository that is public.
        dry_run: A folder to make with exactly the files, instead of pushing them.

    Returns:
        The repository's address, or `dry_run`.

    Raises:
        UserError: The run is damaged, `dry_run` exists, or the Hub refuses; the message says what to do.
    """
    hub.check_repo_id(repo_id)
    run = RunFolder.open(run_dir)
    with _folder(dry_run) as folder:
        _write_model(run, folder)
        return str(dry_run or hub.upload(folder, repo_id, "model", private=private, mark=RECORD))


def publish_space(model: Path, repo_id: str, *, private: bool = False, dry_run: Path | None = None) -> str:
    """Push a Space: this project's page, without what training needs.

    Args:
        model: The run that answers there. A folder is pushed with the page; of a model on the Hub, the Space loads the
            commit that is the newest now, or the one named.
        repo_id: ``user/name``.
        private: Refuse a repository that is public.
        dry_run: A folder to make with exactly the files, instead of pushing them.

    Returns:
        The Space's address, or `dry_run`.

    Raises:
        UserError: The run is damaged, `dry_run` exists, the Hub refuses, or the package was installed, without app.py;
            the message says what to do.
    """
    if not (ROOT / "app.py").is_file():
        raise UserError("a Space is published from a clone of the project: run this command there")
    hub.check_repo_id(repo_id)
    run = RunFolder.open(model)
    metadata = _space_metadata(run)
    with _folder(dry_run) as folder:
        _write_space(run, metadata, folder)
        mark, hardware = "dogbreeds/default_runs.py", metadata["suggested_hardware"]
        return str(dry_run or hub.upload(folder, repo_id, "space", private=private, mark=mark, hardware=hardware))


@contextmanager
def _folder(dry_run: Path | None) -> Iterator[Path]:
    """The folder to write the files into: `dry_run`, or a temporary one."""
    if dry_run:
        check_absent(dry_run, option="--dry-run")
        with whole_or_absent(dry_run) as folder:
            yield folder
    else:
        with TemporaryDirectory() as temporary:
            yield Path(temporary)


def _write_model(run: RunFolder, folder: Path) -> None:
    from huggingface_hub import metadata_load, metadata_save

    left_out = set()
    for file in sorted(run.path.rglob("*")):
        name = file.relative_to(run.path)
        if file.is_file():
            known = name.parent in (Path(), Path("onnx")) and file.suffix in SUFFIXES
            if known:
                _copy(file, folder / name)
            else:
                left_out.add(name.parts[0])
    if left_out:
        print(f"not pushed: {', '.join(sorted(left_out))}", file=sys.stderr)
    card = folder / CARD
    if not card.exists():
        card.write_text(model_card(run.name, run.record, run.labels), encoding="utf-8")
    metadata_save(card, {**(metadata_load(card) or {}), **card_metadata(run.name, run.record)})


def _space_metadata(run: RunFolder) -> dict[str, Any]:
    """The front matter of the Space's README.md: the project's, with what differs in this Space."""
    from huggingface_hub import metadata_load

    metadata = {**(metadata_load(ROOT / CARD) or {}), "sdk_version": version("gradio")}
    if run.origin:
        files = sorted(file.relative_to(run.path).as_posix() for file in run.path.rglob("*") if file.is_file())
        # Downloaded when the Space is built, at the same commit, so that it is there when the Space starts.
        preload = f"{run.origin.repo} {','.join(files)} {run.origin.revision}"
        metadata |= {"models": [run.origin.repo], "preload_from_hub": [preload]}
    return metadata


def _write_space(run: RunFolder, metadata: dict[str, Any], folder: Path) -> None:
    from huggingface_hub import metadata_save

    package = folder / PACKAGE.name
    for text in ("app.py", "LICENSE"):
        _copy(ROOT / text, folder / text)
    for file in sorted(PACKAGE.rglob("*")):
        name = file.relative_to(PACKAGE)
        if file.is_file() and not NOT_SERVING & set(name.parts) and file.suffix != ".pyi":
            _copy(file, package / name)
    _copy(PACKAGE / "serving" / "requirements.txt", folder / "requirements.txt")
    answers = json.dumps(str(run.origin or run.name))
    (package / "default_runs.py").write_text(
        f'"""What answers where no run is named."""\n\nRUNS: tuple[str, ...] = ({answers},)\n', encoding="utf-8"
    )
    if run.origin:
        answered_by = f"[{run.origin.repo}](https://huggingface.co/{run.origin.repo}/tree/{run.origin.revision})"
    else:
        answered_by = f"the run in `{PACKAGE.name}/{PRETRAINED.name}/{run.name}`"
        for needed in (RECORD, *serving_files(run.record), CARD):
            if (run.path / needed).is_file():
                _copy(run.path / needed, package / PRETRAINED.name / run.name / needed)
    (folder / CARD).write_text(
        f"""# {metadata["title"]}

Photos are answered by {answered_by}, on the CPU and without torch.
`pip install -r requirements.txt && python app.py` starts the same page anywhere.

The licence is that of the code. What the model may be used for follows from its photos and from the weights that its
training began with.
""",
        encoding="utf-8",
    )
    metadata_save(folder / CARD, metadata)


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)
