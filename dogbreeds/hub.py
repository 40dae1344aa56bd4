"""Downloads from and uploads to the Hugging Face Hub, with one line for each error of network, token or name.

Its library takes a second to import, so it is imported only when something is downloaded or pushed.
"""

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from dogbreeds.errors import UserError, is_first_process, report

Kind = Literal["model", "space"]

FILES_OF_A_NEW_REPOSITORY = {".gitattributes", "README.md", "LICENSE"}
"""The files that the Hub itself puts into a new repository."""


@dataclass(frozen=True)
class HubId:
    """A model repository on the Hub, at one revision or at its newest."""

    repo: str
    """``user/name``."""
    revision: str | None = None
    """A branch, a tag or a commit."""

    @classmethod
    def parse(cls, text: str) -> "HubId | None":
        """Read ``user/name`` or ``user/name@revision``; None where the text has another form."""
        found = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?", text, re.ASCII)
        return cls(*found.groups()) if found else None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repo.split("/")[1]


@cache
def announce(name: str) -> None:
    """Report once that a name is looked up, which takes half a minute without a network, and silence each retry."""
    _silence()
    report(f"looking for {name} in the local cache and on the Hugging Face Hub ...")


def download(wanted: HubId, files: Sequence[str]) -> tuple[Path, HubId]:
    """Download files of a repository, or find them in the cache of the Hub's library; without a network, only there.

    Where no commit is named, the commit that was found is reported on stderr.

    Args:
        wanted: The repository, and its revision; by default the newest.
        files: Names and patterns of the files.

    Returns:
        The folder with the files, and the id with their commit.

    Raises:
        UserError: They can't be downloaded; the message says what to do.
    """
    from huggingface_hub import snapshot_download

    _silence()
    with _one_line(
        wanted,
        absent=f"there is neither a folder {str(wanted)!r} here nor such a model",
        unreachable=f"{str(wanted)!r} is neither a folder here nor in the local cache",
    ):
        folder = Path(snapshot_download(wanted.repo, revision=wanted.revision, allow_patterns=list(files)))
    found = replace(wanted, revision=folder.name)
    if found != wanted:
        report(f"{wanted} on the Hugging Face Hub is {found}")
    return folder, found


def check_repo_id(repo_id: str) -> None:
    """Check the name of a repository before any work is done.

    Raises:
        UserError: It has another form than ``user/name``.
    """
    wanted = HubId.parse(repo_id)
    if not wanted or wanted.revision:
        raise UserError(f"--repo-id {repo_id!r}: must be USER/NAME, with letters, digits, '-', '_' and '.'")


def upload(
    folder: Path,
    repo_id: str,
    kind: Kind,
    *,
    private: bool,
    mark: str,
    sdk: Literal["gradio", "static"] = "gradio",
    hardware: str | None = None,
) -> str:
    """Create a repository with the files of a folder, or replace all files of an existing one by them.

    Args:
        folder: The files.
        repo_id: ``user/name``.
        kind: Of the repository.
        private: Refuse a repository that is public.
        mark: A file that an earlier upload has; an existing repository without it is not replaced.
        sdk: Of a new Space: what runs it, if anything does.
        hardware: Of a new Space.

    Returns:
        The repository's address.

    Raises:
        UserError: It can't be done; the message says what to do.
    """
    from huggingface_hub import HfApi, SpaceHardware

    _silence()
    api = HfApi()
    with _one_line(
        HubId(repo_id), absent=f"there is no {kind} {repo_id!r}", unreachable=f"nothing was pushed to {repo_id!r}"
    ):
        is_new = not api.repo_exists(repo_id, repo_type=kind)
        address = api.create_repo(
            repo_id,
            repo_type=kind,
            private=private or None,
            exist_ok=True,
            space_sdk=sdk if kind == "space" else None,
            space_hardware=SpaceHardware(hardware) if hardware else None,
        )
        if private and not api.repo_info(repo_id, repo_type=kind).private:
            raise UserError(f"{address} exists and is public: make it private in its settings, or leave --private out")
        there = set(api.list_repo_files(repo_id, repo_type=kind)) - FILES_OF_A_NEW_REPOSITORY
        if there and mark not in there and not is_new:  # the Hub puts a page of its own into a new static Space
            raise UserError(
                f"{address} holds other files, such as {min(there)!r}, and is not replaced: give another --repo-id"
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*commit a data file")  # a run's predictions are meant
            api.upload_folder(repo_id=repo_id, repo_type=kind, folder_path=folder, delete_patterns="*")
    return str(address)


def _silence() -> None:
    """Have the Hub's library print no warnings, and progress only on a terminal and from one process."""
    import huggingface_hub.utils.logging as hub_logging
    from huggingface_hub.utils import disable_progress_bars

    hub_logging.set_verbosity_error()
    if not (sys.stderr.isatty() and is_first_process()):
        disable_progress_bars()


@contextmanager
def _one_line(wanted: HubId, *, absent: str, unreachable: str) -> Iterator[None]:
    """Turn errors of the Hub's library into a `UserError`.

    Args:
        wanted: The repository that is requested.
        absent: The message if it does not exist.
        unreachable: The message without a network.
    """
    from huggingface_hub import errors

    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError:
        page = f"https://huggingface.co/{wanted.repo}"
        raise UserError(f"{wanted.repo!r} is given on request: ask for it at {page}, then {log_in}") from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{wanted.repo!r} on the Hugging Face Hub has no revision {wanted.revision!r}: name a branch, a tag or a "
            "whole commit hash"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{absent} on the Hugging Face Hub that this user may see: check the name; if it is private, {log_in}"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise UserError(f"the Hugging Face Hub does not know who asks for {wanted.repo!r}: {log_in}") from None
        if status == 403:
            raise UserError(
                f"this user may not write to {wanted.repo!r}: name a repository of your own, or log in with a token "
                "that may write (`hf auth login`)"
            ) from None
        reason = " ".join((error.server_message or str(error)).split())
        raise UserError(f"the Hugging Face Hub refused {wanted.repo!r} with status {status}: {reason}") from None
    except (errors.HTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise UserError(
            f"{unreachable}, and the Hugging Face Hub can't be reached: check the network, HF_ENDPOINT and "
            "HF_HUB_OFFLINE"
        ) from None
