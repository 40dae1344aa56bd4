"""The five earlier systems for this task, row by row, and what our training reached with the same models.

Each row is a recipe in `dogbreeds/recipes`, and a run folder that one command makes of it. All are trained on the same
data with the same split; those on four breeds share theirs.
"""

import json
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dogbreeds.record import RunRecord
from dogbreeds.research.document import render, write_table
from dogbreeds.research.evaluate import training_seconds
from dogbreeds.run_folder import RunFolder
from dogbreeds.training.config_file import ABOUT, read_config_file
from dogbreeds.training.options import FREE_OPTIONS, TrainConfig, recorded_options, resolve
from dogbreeds.training.presets import SCRIPTS

RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True)
class EarlierRow:
    """One model of an earlier system, or one of ours to set beside them."""

    system: str
    """The letter of the system; "ours" where none had the model."""
    name: str
    """The name of the run folder."""
    published: str
    """What was published: the figure with its conditions."""
    script: str
    """The training script, a key of `dogbreeds.training.presets.SCRIPTS`."""
    options: Mapping[str, Any]
    """What the command says beyond the script's preset."""

    def config(self, runs: Path) -> TrainConfig:
        """What the command trains with."""
        return resolve(SCRIPTS[self.script], self.options, {"output_dir": runs / self.name})

    def command(self, runs: Path, data: str | None) -> str:
        """What trains the model into its folder below `runs`, on the project's data set or on `data`."""
        words = ["python", self.script, "--output-dir", str(runs / self.name)]
        for option, value in {**({"data": data} if data else {}), **self.options}.items():
            flag = option.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            elif option == "breeds":
                words += [f"--{flag}", ",".join(value)]
            else:
                words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
        return shlex.join(words)


def earlier_rows() -> Iterator[EarlierRow]:
    """The rows of the table, read from their recipes: the systems in their order, ours at the end."""
    for file in sorted(RECIPES.rglob("*.toml"), key=lambda file: (file.parent.name == "ours", file)):
        about = tomllib.loads(file.read_text(encoding="utf-8"))[ABOUT]
        system = file.parent.name.removeprefix("system_")
        yield EarlierRow(
            system if system == "ours" else system.upper(), file.stem, **about, options=read_config_file(file)
        )


NOT_COMPARED = {
    *FREE_OPTIONS, "data", "seed", "split_seed", "near_duplicates", "faults", "validation_fraction", "test_fraction",
}  # fmt: skip
"""Options in which a run may differ from its row's command without a remark; another split has a remark of its own."""

HEADER = (
    "system", "run", "model", "published", "validation top-1", "test top-1", "epochs", "training, s", "ms a photo",
    "parameters", "trained on", "command",
)  # fmt: skip


@dataclass(frozen=True)
class EarlierSystems:
    """The table, filled with the runs that there are."""

    rows: Sequence[Sequence[str]]
    """The cells below `HEADER`."""
    remarks: Sequence[str]
    """What a reader must know before comparing two rows."""

    def write(self, path: Path) -> None:
        """Write the table as the ending of the name says.

        Raises:
            UserError: The file can't be written.
        """
        write_table(path, str(self), HEADER, self.rows)

    def __str__(self) -> str:
        """Markdown."""
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        return render("earlier_systems.md.jinja", header=HEADER, rows=self.rows, remarks=self.remarks, today=today)


def earlier_systems(runs: Path, data: str | None = None, rows: Sequence[EarlierRow] | None = None) -> EarlierSystems:
    """Fill the table.

    Args:
        runs: Where the run folders are.
        data: What the commands train on; by default the project's data set.
        rows: The table; by default that of `earlier_rows`.

    Raises:
        UserError: A run folder that is there is damaged.
    """
    cells, remarks = [], []
    done: list[tuple[EarlierRow, RunFolder]] = []
    for row in earlier_rows() if rows is None else rows:
        command = row.command(runs, data)
        if not (runs / row.name).is_dir():
            cells.append(
                [row.system, row.name, row.options["model"], row.published, *["not run"] * 2, *[""] * 5, command]
            )
            continue
        run = RunFolder.open(runs / row.name)
        done.append((row, run))
        cells.append([row.system, row.name, row.options["model"], row.published, *_figures(run.record), command])
        trained = run.record.config
        changed = _changed(row.config(runs).to_dict(), {name: recorded_options(trained)[name] for name in trained})
        if changed:
            listed = ", ".join(f"{name} {value!r}" for name, value in changed.items())
            remarks.append(f"{row.name} was not trained as its command says, but with {listed}.")
    return EarlierSystems(cells, [*_split_remarks([run for _, run in done]), *remarks])


def _figures(record: RunRecord) -> list[str]:
    """The cells of a run, from `HEADER`'s validation top-1 to its hardware."""
    figures = record.figures
    top1 = [f"{figures[split]['top1']:.1%}" if split in figures else "–" for split in ("validation", "test")]
    return [
        *top1,
        str(record.num_epochs),
        f"{training_seconds(record):,.0f}",
        f"{record.milliseconds_per_photo['median']:.1f}" if record.milliseconds_per_photo else "–",
        f"{record.num_parameters:,}",
        record.hardware,
    ]


def _changed(declared: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """The options of a run that are not its row's; one that an earlier version did not have is taken to be."""
    return {
        name: trained[name]
        for name, value in declared.items()
        if name not in NOT_COMPARED and name in trained and not _same(trained[name], value)
    }


def _same(trained: Any, declared: Any) -> bool:
    """Whether a run has the option of its row; a model is the same in a folder of the same name."""
    if isinstance(declared, str):
        return Path(str(trained)).name == Path(declared).name
    return bool(json.loads(json.dumps(trained)) == json.loads(json.dumps(declared)))


def _split_remarks(runs: Sequence[RunFolder]) -> list[str]:
    """What runs with the same breeds do not share the split of the most of them."""
    remarks = []
    by_breeds: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for run in runs:
        by_breeds.setdefault(run.labels, {}).setdefault(run.record.data.split_hash, []).append(run.name)
    for breeds, splits in by_breeds.items():
        usual = max(splits.values(), key=len)
        for names in splits.values():
            if names is not usual:
                remarks.append(
                    f"{', '.join(names)} had another split of the {len(breeds)} breeds than {', '.join(usual)}: not to "
                    "be compared until trained on the same data with the same split seed."
                )
    return remarks
