"""ONNX Runtime for browsers: the npm package onnxruntime-web, checked by its hash."""

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from dogbreeds.errors import UserError, report

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package's archive, as `npm view onnxruntime-web@1.30.0 dist.integrity` prints it."""
REGISTRY = "https://registry.npmjs.org"
"""npm's own, where no other is configured."""
SECONDS = 60
"""Without an answer of the registry, after which it is given up."""

_SCRIPT = "package/dist/ort.wasm.bundle.min.mjs"
_WASM = "package/dist/ort-wasm-simd-threaded.wasm"
_PACK = f"`npm pack onnxruntime-web@{VERSION}`"


@dataclass(frozen=True)
class Runtime:
    """What a browser needs of the package."""

    script: bytes
    """A JavaScript module, which starts the program."""
    wasm: bytes
    """The program, WebAssembly with SIMD, for one thread or several."""


def runtime(archive: Path | None = None) -> Runtime:
    """Take ONNX Runtime from the package's archive, or from the npm registry.

    Args:
        archive: The archive, which `npm pack` makes; by default it is downloaded.

    Raises:
        UserError: It can't be read or downloaded, or is not the one that was tested.
    """
    try:
        content = download() if archive is None else archive.read_bytes()
    except OSError as error:
        raise UserError(f"{str(archive)!r} can't be read ({error.strerror}): {_PACK} makes the archive") from None
    if "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode() != INTEGRITY:
        given = f"what {_address()} gives" if archive is None else repr(str(archive))
        raise UserError(f"{given} is not onnxruntime-web {VERSION} as published: {_PACK} makes the archive")
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        script, wasm = (package.extractfile(member) for member in (_SCRIPT, _WASM))
        assert script and wasm  # the hash says so
        return Runtime(script.read(), wasm.read())


def download() -> bytes:
    """Fetch the package's archive from the npm registry; `runtime` checks it.

    Raises:
        UserError: It can't be fetched.
    """
    address = _address()
    report(f"fetching onnxruntime-web {VERSION} from the npm registry ...")
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as reply:
            return bytes(reply.read())
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(
            f"{address} can't be fetched ({error}): set npm_config_registry, or name a file that {_PACK} has made "
            "with --onnxruntime-web"
        ) from None


def _address() -> str:
    return f"{_registry().rstrip('/')}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"


def _registry() -> str:
    """The registry that npm would ask: of the environment, of its settings where npm is installed, or its own."""
    named = [value for name, value in os.environ.items() if name.lower() == "npm_config_registry" and value]
    if named:
        return named[0]
    if npm := shutil.which("npm"):
        asked = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True)
        if asked.stdout.startswith("http"):
            return asked.stdout.strip()
    return REGISTRY
