"""ONNX Runtime for browsers: the npm package onnxruntime-web, checked by its hash."""

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from dogbreeds.errors import UserError, report

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package's archive, as `npm view onnxruntime-web@1.30.0 dist.integrity` prints it."""

_SCRIPT = "package/dist/ort.wasm.bundle.min.mjs"
_WASM = "package/dist/ort-wasm-simd-threaded.wasm"
_PACK = f"`npm pack onnxruntime-web@{VERSION}`"
_REMEDY = f"install Node.js, or name the file that {_PACK} has made elsewhere with --onnxruntime-web"


@dataclass(frozen=True)
class Runtime:
    """What a browser needs of the package."""

    script: bytes
    """A JavaScript module, which starts the program."""
    wasm: bytes
    """The program, WebAssembly with SIMD, for one thread or several."""


def runtime(archive: Path | None = None) -> Runtime:
    """Take ONNX Runtime from the package's archive.

    Args:
        archive: The archive, which `npm pack` makes; by default npm fetches it.

    Raises:
        UserError: It can't be read or downloaded, or is not the one that was tested.
    """
    try:
        content = download() if archive is None else archive.read_bytes()
    except OSError as error:
        raise UserError(f"{str(archive)!r} can't be read ({error.strerror}): {_PACK} makes the archive") from None
    if "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode() != INTEGRITY:
        given = "what npm has fetched" if archive is None else repr(str(archive))
        raise UserError(f"{given} is not onnxruntime-web {VERSION} as published: {_PACK} makes the archive")
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        script, wasm = (package.extractfile(member) for member in (_SCRIPT, _WASM))
        assert script and wasm  # the hash says so
        return Runtime(script.read(), wasm.read())


def download() -> bytes:
    """Fetch the package's archive with npm, from the registry that it is set to; `runtime` checks it.

    Raises:
        UserError: npm is not there, or can't fetch it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"ONNX Runtime for browsers is fetched with npm: {_REMEDY}")
    report(f"fetching onnxruntime-web {VERSION} with npm ...")
    with TemporaryDirectory() as folder:
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", folder]
        asked = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if asked.returncode:
            why = next((line for line in asked.stderr.splitlines() if "npm error" in line), "no reason given")
            raise UserError(f"npm can't fetch onnxruntime-web {VERSION} ({why}): {_REMEDY}")
        (archive,) = Path(folder).glob("*.tgz")
        return archive.read_bytes()
