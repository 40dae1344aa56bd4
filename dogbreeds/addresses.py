"""Files at fsspec addresses, such as s3://bucket/photos/1.jpg: what is there, reading and writing.

Keys and endpoints come from where the package of each protocol looks for them: environment variables, ~/.aws and the
like. Some protocols need a package of their own, as s3:// needs s3fs.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from dogbreeds.errors import UserError, first_line

FIRST_BYTES = 16_000_000
"""A file is read this far at once, which is all of most photos. Of a larger one, such as a film, no more is read than
is needed to see that it is no photo."""

_ABOUT_KEYS = ("ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed")
_ABOUT_ONE_FILE = (403, 410)
"""What HTTP says of a file that may not be read or is gone; of one that is missing, fsspec tells."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Address(str):
    """Where a file or folder is, for fsspec; its methods have the names of those of `pathlib.Path`.

    Only text that a person gave on the command line or in a list becomes an address, so that no upload's name is one.

    Every method raises an `OSError` where something is wrong with this one file, and a `UserError` where the address
    can't be reached at all.
    """

    @property
    def name(self) -> str:
        """The last part."""
        return self.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the last part."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The last part without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> "Address":
        """The folder that this is in."""
        return Address(self.rstrip("/").rpartition("/")[0])

    def resolve(self) -> "Address":
        """The same place without "/" at its end, as which it is compared with others."""
        return Address(re.sub(r"(?<![:/])/+$", "", self))

    def with_name(self, name: str) -> "Address":
        """Another place in the same folder."""
        return self.parent / name

    def __truediv__(self, inside: str) -> "Address":
        return Address(f"{self.rstrip('/')}/{inside}")

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        return self._info() is not None

    def is_dir(self) -> bool:
        """Whether a folder is there; one of an object store is there while it holds files."""
        info = self._info()
        return info is not None and info["type"] == "directory"

    def names(self) -> list[str]:
        """The names in this folder, those of folders with "/" after them."""
        with _reached(self):
            system, path = _system(self)
            system.invalidate_cache(path)
            entries = system.ls(path, detail=True)
            system.invalidate_cache(path)  # else the names of all folders stay in memory
        names = []
        for entry in entries:
            inside = entry["name"].rstrip("/")
            if inside != path.rstrip("/"):  # an empty object may stand for the folder
                names.append(inside.rpartition("/")[2] + ("/" if entry["type"] == "directory" else ""))
        return names

    def read_bytes(self) -> bytes:
        """The content of this file."""
        with _reached(self):
            system, path = _system(self)
            return system.cat_file(path)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """This file, to read and to seek in; it is fetched in parts."""
        with _reached(self):
            system, path = _system(self)
            file = system.open(path, "rb")
        with file:
            yield file

    def download(self, target: Path) -> None:
        """Copy this file to this machine."""
        with _reached(self):
            system, path = _system(self)
            system.get_file(path, str(target))

    def upload(self, source: Path) -> None:
        """Copy a file of this machine to here. Object stores show it when it is whole."""
        with _reached(self):
            system, path = _system(self)
            system.put_file(str(source), path)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove this file."""
        try:
            with _reached(self):
                system, path = _system(self)
                system.rm_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def _info(self) -> dict[str, Any] | None:
        try:
            with _reached(self):
                system, path = _system(self)
                system.invalidate_cache(path)
                return system.info(path)
        except FileNotFoundError:
            return None


Place = Path | Address
"""Where a file or folder is: on this machine, or elsewhere."""


def place(named: str | os.PathLike[str]) -> Place:
    """What a person named: an address, or a path on this machine, which may be written file://."""
    text = os.fspath(named)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return Address(text) if _ADDRESS.match(text) else Path(text)


def read_beginnings(addresses: Sequence[Address]) -> list[bytes | OSError]:
    """The first `FIRST_BYTES` of files, read at the same time.

    Returns:
        For each address its content, or why there is none.

    Raises:
        UserError: The addresses can't be reached.
    """
    by_system: dict[Any, dict[Address, str]] = {}
    for address in addresses:
        with _reached(address):
            system, path = _system(address)
        by_system.setdefault(system, {})[address] = path
    found: dict[Address, bytes | OSError] = {}
    for system, paths in by_system.items():
        with _reached(next(iter(paths))):
            contents = system.cat_ranges(
                list(paths.values()), [0] * len(paths), [FIRST_BYTES] * len(paths), on_error="return"
            )
        for (address, path), content in zip(paths.items(), contents, strict=True):
            found[address] = content if isinstance(content, bytes) else _not_read(system, address, path, content)
    return [found[address] for address in addresses]


def reason(error: OSError) -> str:
    """Why something can't be read or written, in a few words."""
    return error.strerror or ("there is nothing" if isinstance(error, FileNotFoundError) else first_line(error))


def _not_read(system: Any, address: Address, path: str, error: Exception) -> bytes | OSError:
    """Why a file could not be read; an empty one has no first bytes in S3."""
    try:
        with _reached(address):
            with suppress(FileNotFoundError):  # so HTTP speaks of the size where no server answers
                if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and system.size(path) == 0:
                    return b""
            raise error
    except OSError as of_this_file:
        return of_this_file


def _system(address: Address) -> tuple[Any, str]:
    """The file system of an address, which fsspec keeps for the next call, and the path there.

    `fsspec.url_to_fs` would take "::" in a name for two addresses.
    """
    import fsspec

    system = fsspec.get_filesystem_class(address.partition("://")[0].lower())
    return system(**system._get_kwargs_from_urls(address)), system._strip_protocol(address)


@contextmanager
def _reached(address: Address) -> Iterator[None]:
    """Tell what is wrong with one file, an `OSError`, from what would be wrong with every other too, a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        if _is_about_keys(error):
            raise UserError(f"{str(address)!r} can't be reached ({first_line(error)})") from None
        raise
    except ImportError as error:
        raise UserError(f"{str(address)!r} needs another package: {first_line(error)}") from None
    except Exception as error:  # the package of each protocol raises errors of its own
        if (status := getattr(error, "status", None)) in _ABOUT_ONE_FILE:
            raise PermissionError(f"HTTP status {status}") from None
        raise UserError(f"{str(address)!r} can't be reached ({first_line(error)})") from None


def _is_about_keys(error: OSError) -> bool:
    """Whether S3 refused the person's keys, as expired ones, rather than this file: the next file would be too."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in _ABOUT_KEYS
