"""Push a run folder to the Hugging Face Hub, as a model, or as a Space that answers with it, on a server or without."""

import json
import re
import shutil
import sys
from contextlib import AbstractContextManager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tyro.conf import Positional

from dogbreeds import hub
from dogbreeds.errors import UserError, printable, report
from dogbreeds.files import check_absent, whole_or_absent
from dogbreeds.model_card import card_metadata, model_card
from dogbreeds.record import RunRecord
from dogbreeds.run_folder import CARD, DEFAULT_RUN, PRETRAINED, RECORD, RunFolder, serving_files

PACKAGE = PRETRAINED.parent
ROOT = PACKAGE.parent

SUFFIXES = {".csv", ".json", ".md", ".onnx", ".parquet", ".safetensors"}
"""Of the files of a run folder that are pushed: none of them runs code when it is read."""

NOT_SERVING = {
    "docs",
    "recipes",
    "research",
    "static_page",
    "training*",
    PRETRAINED.name,
    "__pycache__",
    "*.pyi",
}
"""Names of files and folders of this package that a Space does not need."""


def publish_model(run: Positional[Path], *, repo_id: str, private: bool = False, dry_run: Path | None = None) -> str:
    """Push a run folder to the Hugging Face Hub as a model, with its card and its figures.

    The card on the Hub is replaced by that of the run folder, with the figures added to its metadata. Metadata that its
    owner has added, such as a licence, is kept.

    Args:
        run: A run folder.
        repo_id: USER/NAME of the repository, which is made if it is not there.
        private: Insist that nobody else sees it: a public repository is refused.
        dry_run: A folder to make with exactly the files, instead of pushing them.

    Returns:
        The repository's address, or `dry_run`.

    Raises:
        UserError: The run is damaged, `dry_run` exists, or the Hub refuses; the message says what to do.
    """
    hub.check_repo_id(repo_id)
    opened = RunFolder.open(run)
    with _folder(dry_run) as temporary:
        folder = Path(temporary)
        _write_model(opened, folder)
        if dry_run:
            return str(dry_run)
        address = hub.upload(folder, repo_id, "model", private=private, mark=RECORD)
        if not private:
            _say_what_is_seen(opened.record, folder, repo_id)
        return address


def publish_space(
    model: Path = DEFAULT_RUN, *, repo_id: str, private: bool = False, dry_run: Path | None = None
) -> str:
    """Push the page to the Hugging Face Hub as a Space, without what training needs.

    Args:
        model: What answers there: a run folder, which is pushed with the page, or USER/NAME or USER/NAME@REVISION of a
            published model, of which the Space loads the commit that is the newest now, or the one named.
        repo_id: USER/NAME of the Space, which is made if it is not there.
        private: Insist that nobody else sees it: a public Space is refused.
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
    with _folder(dry_run) as temporary:
        folder = Path(temporary)
        _write_space(run, metadata, folder)
        if dry_run:
            return str(dry_run)
        mark, hardware = "dogbreeds/default_runs.py", metadata["suggested_hardware"]
        address = hub.upload(folder, repo_id, "space", private=private, mark=mark, hardware=hardware)
        if not (private or run.origin):
            _say_what_is_seen(run.record, folder, repo_id)
        return address


def publish_static(
    model: Path = DEFAULT_RUN,
    *,
    repo_id: str | None = None,
    private: bool = False,
    onnxruntime_web: Path | None = None,
    dry_run: Path | None = None,
) -> str:
    """Make the page that answers in the browser, without a server, and push it as a static Space, which is free.

    Args:
        model: What answers there: a run folder, or USER/NAME or USER/NAME@REVISION of a published model.
        repo_id: USER/NAME of the Space, which is made if it is not there.
        private: Insist that nobody else sees it: a public Space is refused.
        onnxruntime_web: The archive of that npm package, as `npm pack` makes it; by default it is downloaded.
        dry_run: A folder to make with exactly the files, instead of pushing them. Any web server can serve it.

    Returns:
        The Space's address, or `dry_run`.

    Raises:
        UserError: The run is damaged, or sees photos in a way that the page does not know; the package onnx or ONNX
            Runtime for browsers can't be had; `dry_run` exists, or the Hub refuses; the message says what to do.
    """
    if find_spec("onnx") is None:
        raise UserError("publish static needs the package onnx: pip install onnx")
    from dogbreeds.serving.static_page.build import MARK, build
    from dogbreeds.serving.static_page.runtime import runtime

    if repo_id:
        hub.check_repo_id(repo_id)
    elif not dry_run:
        raise UserError("where to? --repo-id USER/NAME pushes the page, --dry-run FOLDER writes it")
    run = RunFolder.open(model)
    with _folder(dry_run) as temporary:
        folder = Path(temporary)
        build(run, runtime(onnxruntime_web), folder)
        if dry_run or not repo_id:
            return str(dry_run)
        return hub.upload(folder, repo_id, "space", private=private, mark=MARK, sdk="static")


def _folder(dry_run: Path | None) -> AbstractContextManager[str | Path]:
    """The folder to write the files into: `dry_run`, or a temporary one."""
    check_absent(dry_run, option="--dry-run")
    return whole_or_absent(dry_run) if dry_run else TemporaryDirectory()


def _write_model(run: RunFolder, folder: Path) -> None:
    from huggingface_hub import metadata_load, metadata_save

    left_out = set()
    for name in run.files():
        if name.parent in (Path(), Path("onnx")) and name.suffix in SUFFIXES:
            _copy(run.path / name, folder / name)
        else:
            left_out.add(name.parts[0])
    if left_out:
        print(f"not pushed: {', '.join(sorted(left_out))}", file=sys.stderr)
    card = folder / CARD
    if not card.exists():
        card.write_text(model_card(run.name, run.record, run.labels), encoding="utf-8")
    metadata_save(card, {**(metadata_load(card) or {}), **card_metadata(run.name, run.record)})


def _say_what_is_seen(record: RunRecord, folder: Path, repo_id: str) -> None:
    """Name what the files say about their owner's machine and photos, which commands and predictions hold."""
    seen = []
    words = json.dumps({**record.to_json(), "calibration": None}, ensure_ascii=False)  # its dog probe may look like one
    if path := re.search(r"(?<![\w.:/~-])/[^\s'\"]+", words):  # from the root on, and of no address
        seen.append(f"paths of this machine in {RECORD} (such as {printable(path[0], 100)})")
    if predictions := sorted(file.name for file in folder.glob("predictions-*.parquet")):
        seen.append(f"the names of photos in {', '.join(predictions)}")
    if seen:
        report(f"note: who sees {repo_id} sees {' and '.join(seen)}: --private, or its settings, keep that to you")


def _space_metadata(run: RunFolder) -> dict[str, Any]:
    """The front matter of the Space's README.md: the project's, with what differs in this Space."""
    from huggingface_hub import metadata_load

    metadata = {**(metadata_load(ROOT / CARD) or {}), "sdk_version": version("gradio")}
    if run.origin:
        files = sorted(name.as_posix() for name in run.files())
        # Downloaded when the Space is built, at the same commit, so that it is there when the Space starts.
        preload = f"{run.origin.repo} {','.join(files)} {run.origin.revision}"
        metadata |= {"models": [run.origin.repo], "preload_from_hub": [preload]}
    return metadata


def _write_space(run: RunFolder, metadata: dict[str, Any], folder: Path) -> None:
    from huggingface_hub import metadata_save

    package = folder / PACKAGE.name
    for text in ("app.py", "LICENSE"):
        shutil.copyfile(ROOT / text, folder / text)
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns(*NOT_SERVING), copy_function=shutil.copyfile)
    shutil.copyfile(PACKAGE / "serving" / "requirements.txt", folder / "requirements.txt")
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
    text = Path(__file__).with_name("space_readme.md").read_text(encoding="utf-8")
    text = text.format(title=metadata["title"], answered_by=answered_by)
    (folder / CARD).write_text(text, encoding="utf-8")
    metadata_save(folder / CARD, metadata)


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)
