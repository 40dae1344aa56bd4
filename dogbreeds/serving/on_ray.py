"""The engine that classifies photos with Ray Data, on this machine or on a cluster.

Batches of paths go to actors; each opens its photos and runs a model of its own on one core. The rows come back to this
process, which keeps them as every other engine's.
"""

import logging
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports to its makers otherwise
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of every actor that can be restarted

import pyarrow
import ray
from ray.data import ActorPoolStrategy, DataContext

from dogbreeds.addresses import Place, place, reason
from dogbreeds.errors import UserError, first_line
from dogbreeds.machine import num_cores
from dogbreeds.photos import batches
from dogbreeds.run_folder import RECORD, RunFolder, serving_files
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.rows import FEATURES, Row, classify, columns

BATCH_SIZE = 8
"""Photos that an actor decodes and classifies at a time, as without Ray."""
TASK_SIZE = 256
"""Photos of one task, but for the first of each actor, so that answers come soon, and for the last ones. Its rows come
back together; the larger it is, the less Ray has to do."""
TASKS_AHEAD = 2
"""Tasks for each actor into which what is left is divided, so that at the end no actor waits long for another. This is
guided self-scheduling (Polychronopoulos & Kuck 1987, https://doi.org/10.1109/TC.1987.5009495)."""
FIRST_ROUND_SIZE, MAX_ROUND_SIZE = 25_600, 204_800
"""Photos that Ray is given at a time: each round has twice as many as the one before. The first answers do not wait
until the paths of many photos are with Ray, which takes 6 ms for each task; later, Ray starts its actors seldom. This
process has the paths of one round in memory."""


def rows_on_ray(
    run: RunFolder, photos: Iterable[tuple[str, Place]], top_k: int, embeddings: bool, *, address: str | None = None
) -> Iterator[list[Row]]:
    """Classify photos with Ray Data; the rows come in the order in which they are done.

    Every machine of the cluster needs this package, and must reach the photos. The model travels with the task.

    Args:
        run: The run that answers.
        photos: Each with the text for the column "path", and where it is.
        top_k: How many breeds to name.
        embeddings: Add embeddings.
        address: Of a cluster, for `ray.init`; None starts Ray on this machine, and stops it at the end.

    Raises:
        UserError: There is no such cluster, Ray failed, or an address can't be reached.
    """
    with _one_line_errors(), _started(address):
        model = ray.put({name: (run.path / name).read_bytes() for name in (RECORD, *serving_files(run.record))})
        num_actors = max(1, int(ray.cluster_resources().get("CPU", 1)))
        for chunk in _rounds(photos):
            tasks = list(_tasks(chunk, num_actors))
            classified = ray.data.from_arrow([_table(task) for task in tasks]).map_batches(
                Classifier,
                # The model in a list: the copy of an actor that was killed fetches it anew
                fn_constructor_args=([model], run.listed, top_k, embeddings),
                batch_size=None,  # a task's
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=min(num_actors, len(tasks))),
                num_cpus=1,
            )
            blocks = classified.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            for block in cast(Iterable[pyarrow.Table], blocks):
                yield [_row(cells) for cells in block.to_pylist()]


def _rounds(photos: Iterable[tuple[str, Place]]) -> Iterator[list[tuple[str, Place]]]:
    iterator, size = iter(photos), FIRST_ROUND_SIZE
    while chunk := list(islice(iterator, size)):
        yield chunk
        size = min(2 * size, MAX_ROUND_SIZE)


def _tasks(photos: list[tuple[str, Place]], num_actors: int) -> Iterator[list[tuple[str, Place]]]:
    start, num_tasks = 0, 0
    while start < len(photos):
        share = (len(photos) - start) // (TASKS_AHEAD * num_actors)
        size = BATCH_SIZE if num_tasks < num_actors else min(max(share, BATCH_SIZE), TASK_SIZE)
        yield photos[start : start + size]
        start, num_tasks = start + size, num_tasks + 1


def _table(task: list[tuple[str, Place]]) -> pyarrow.Table:
    return pyarrow.table(
        {"path": [os.fsencode(path) for path, _ in task], "place": [os.fsencode(at) for _, at in task]}
    )


def _row(cells: Row) -> Row:
    if cells["stop"]:
        raise UserError(cells["stop"])
    filled = {name: value for name, value in cells.items() if value is not None}
    return {**filled, "path": os.fsdecode(cells["path"])}


class Classifier:
    """What runs in an actor: one ONNX session on one core."""

    def __init__(
        self, model: "list[ray.ObjectRef]", listed: tuple[str, ...] | None, top_k: int, embeddings: bool
    ) -> None:
        """Load the model.

        Args:
            model: Where Ray keeps the content of a run folder's files.
            listed: As of the run folder.
            top_k: How many breeds to name.
            embeddings: Add embeddings.
        """
        with TemporaryDirectory() as folder:
            for name, content in ray.get(model[0]).items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            run = RunFolder.open(folder)
            self.predictor = Predictor(replace(run, listed=listed), num_threads=1)
        self.top_k, self.embeddings = top_k, embeddings
        names = columns(top_k, embeddings)
        types = {name: pyarrow.float64() if "probability" in name else pyarrow.string() for name in names}
        types |= {name: pyarrow.binary() for name in ("path", FEATURES) if name in types}
        self.schema = pyarrow.schema({**types, "stop": pyarrow.string()})

    def __call__(self, task: pyarrow.Table) -> pyarrow.Table:
        """The rows of the photos of a task, or one row that says why all must stop: Ray would not hand on an error."""
        photos = [(os.fsdecode(cells["path"]), place(os.fsdecode(cells["place"]))) for cells in task.to_pylist()]
        cells: list[Row] = []
        try:
            for batch in batches(photos, BATCH_SIZE):
                rows = classify(self.predictor, dict(batch), top_k=self.top_k, embeddings=self.embeddings)
                cells += [{**row, "path": os.fsencode(row["path"])} for row in rows]
        except UserError as error:
            cells.append({"stop": str(error)})
        return pyarrow.Table.from_pylist(cells, self.schema)


@contextmanager
def _started(address: str | None) -> Iterator[None]:
    """Ray, connected or started, with no more words than the other engine has."""
    if address:
        _check_answers(address)
    here: dict[str, Any] = {} if address else {"num_cpus": num_cores(), "include_dashboard": False}
    try:
        with _quiet():  # it prints that RAY_BACKEND_LOG_LEVEL is set
            ray.init(address=address or "local", logging_level=logging.CRITICAL, log_to_driver=False, **here)
    except Exception as error:  # Ray has no class for it
        what = f"reached at {address!r}" if address else "started"
        raise UserError(f"Ray can't be {what} ({first_line(error)})") from None
    for name in ("ray", "ray.data"):  # errors are raised too
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Refuse an address where nothing answers: Ray itself tries for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():  # not "auto"
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(f"Ray can't be reached at {address!r} ({reason(error)})") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what Ray's native part prints on stderr."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except ray.exceptions.RayError as error:
        raise UserError(f"Ray stopped ({first_line(error)}): give the same command again to continue") from None
