"""The Hugging Face Hub, seen from a user who may have no network, no token and a typing error.

Its library is imported when something is fetched or pushed, for it takes a second.
"""

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dogbreeds.errors import UserError

Kind = Literal["model", "space"]

NOBODYS = {".gitattributes", "README.md", "LICENSE"}
"""What the Hub's own form puts into a new repository."""


@dataclass(frozen=True)
class HubId:
    """A model repository on the Hub, at one revision or at its newest."""

    repo: str
    """``user/name``."""
    revision: str | None = None
    """A branch, a tag or a commit."""

    @classmethod
    def parse(cls, text: str) -> "HubId | None":
        """What ``user/name`` or ``user/name@revision`` means; None where the text has another form."""
        found = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?", text, re.ASCII)
        return cls(*found.groups()) if found else None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repo.split("/")[1]


def announce(name: str) -> None:
    """Say that a name is looked up, which takes half a minute without a network, and silence each single retry."""
    _silence()
    print(f"looking for {name} in the local cache and on the Hugging Face Hub ...", file=sys.stderr)


def download(wanted: HubId, files: Sequence[str]) -> tuple[Path, HubId]:
    """Fetch files of a repository, or find them in the cache of the Hub's library; without a network, only there.

    Where no commit is named, which one answers is said on stderr.

    Args:
        wanted: Which repository, and which revision; by default the newest.
        files: Names and patterns of the files.

    Returns:
        The folder with the files, and the id with the commit that they are of.

    Raises:
        UserError: It can't be had; the message says what to do.
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
        print(f"{wanted} on the Hugging Face Hub is {found}", file=sys.stderr)
    return folder, found


def check_repo_id(repo_id: str) -> None:
    """Refuse what can't be the name of a repository, before any work is done.

    Raises:
        UserError: It has another form than ``user/name``.
    """
    wanted = HubId.parse(repo_id)
    if not wanted or wanted.revision:
        raise UserError(f"--repo-id {repo_id!r}: must be USER/NAME, with letters, digits, '-', '_' and '.'")


def upload(folder: Path, repo_id: str, kind: Kind, *, private: bool, mark: str, hardware: str | None = None) -> str:
    """Make a repository, or what there is of it, equal to a folder.

    Args:
        folder: The files.
        repo_id: ``user/name``.
        kind: What the repository is; a Space is one of Gradio.
        private: Insist that nobody else sees it.
        mark: A file by which an earlier upload is known; a repository with other files than those is not replaced.
        hardware: What a new Space runs on.

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
        address = api.create_repo(
            repo_id,
            repo_type=kind,
            private=private or None,
            exist_ok=True,
            space_sdk="gradio" if kind == "space" else None,
            space_hardware=SpaceHardware(hardware) if hardware else None,
        )
        if private and not api.repo_info(repo_id, repo_type=kind).private:
            raise UserError(f"{address} exists and is public: make it private in its settings, or leave --private out")
        there = set(api.list_repo_files(repo_id, repo_type=kind)) - NOBODYS
        if there and mark not in there:
            raise UserError(
                f"{address} holds other files, such as {min(there)!r}, and is not replaced: give another --repo-id"
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*commit a data file")  # a run's predictions are meant
            api.upload_folder(repo_id=repo_id, repo_type=kind, folder_path=folder, delete_patterns="*")
    return str(address)


def _silence() -> None:
    """Errors are told in one line, and progress only to somebody who watches."""
    import huggingface_hub.utils.logging as hub_logging
    from huggingface_hub.utils import disable_progress_bars

    hub_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()


@contextmanager
def _one_line(wanted: HubId, *, absent: str, unreachable: str) -> Iterator[None]:
    """Turn what the Hub's library raises into a `UserError`.

    Args:
        wanted: What is asked for.
        absent: What to say where it is not there.
        unreachable: What to say without a network.
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
