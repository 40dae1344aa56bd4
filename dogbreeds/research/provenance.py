"""What a report was asked for and what it was made from: each report keeps it, and `reproduce` makes it again by it."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dogbreeds.files import sha256, write_json
from dogbreeds.machine import processor
from dogbreeds.run_folder import CONFIG, RECORD, WEIGHTS, RunFolder, predictions_file
from dogbreeds.versions import versions

PROVENANCE = "report.json"

PACKAGES = ("numpy", "scipy", "scikit-learn", "onnxruntime")
"""What computes the figures of every report."""
NETWORKS = ("torch", "transformers")
"""What computes those of frozen networks, besides."""

READ = {"run folder": (RECORD, predictions_file("*")), "model": (CONFIG, WEIGHTS)}
"""By what a folder is, the files that figures come from; it is one if it has the first. run.json holds the hashes of
what a run answers with."""


@dataclass(frozen=True)
class Provenance:
    """Where the figures of a report come from."""

    report: str
    """The command that makes such reports."""
    arguments: dict[str, Any]
    """What it was asked for, as plain values; paths as they were given."""
    inputs: dict[str, dict[str, str | None]]
    """What it read on this machine, by kind and path, with a digest; None for photos, as figures say which they are."""
    versions: dict[str, str]
    """Of the packages that computed the figures."""
    hardware: str

    @classmethod
    def of(
        cls, report: str, arguments: dict[str, Any], places: Iterable[str | Path | None], *more_packages: str
    ) -> "Provenance":
        """Of a report that is being made here and now.

        Args:
            report: The command.
            arguments: What it was asked for.
            places: What it reads; what is not on this machine, as a model of the Hugging Face Hub, is left out.
            more_packages: What computes its figures besides `PACKAGES`, by the names on PyPI.
        """
        inputs: dict[str, dict[str, str | None]] = {}
        for place in dict.fromkeys(str(each) for each in places if each):
            if Path(place).exists():
                kind, digest = _identified(Path(place))
                inputs.setdefault(kind, {})[place] = digest
        plain = json.loads(json.dumps(arguments, default=str))
        return cls(report, plain, inputs, versions(*PACKAGES, *more_packages), processor())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def save(self, folder: Path) -> None:
        """Write report.json into the folder of the report."""
        write_json(folder / PROVENANCE, self.to_dict())


def pinned(runs: Sequence[RunFolder], names: Sequence[Path]) -> list[str]:
    """Runs by their names, as they were given, but those of the Hugging Face Hub with the commit that was used."""
    return [str(run.origin or name) for run, name in zip(runs, names, strict=True)]


def _identified(path: Path) -> tuple[str, str | None]:
    """What there is, and its digest."""
    if path.is_file():
        return "file", sha256(path)
    for kind, patterns in READ.items():
        if (path / patterns[0]).is_file():
            files = sorted(file for pattern in patterns for file in path.glob(pattern))
            lines = "\n".join(f"{file.name} {sha256(file)}" for file in files)
            return kind, hashlib.sha256(lines.encode()).hexdigest()
    return "photo folder", None
