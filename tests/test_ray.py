"""index --engine ray, on a Ray that really runs on this machine; with RAY=1 alone, since each test starts Ray anew."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from conftest import ROOT, make_photo_folder

if "RAY" not in os.environ:  # before it is imported, which takes seconds in each process of pytest
    pytest.skip("starts Ray for each test: RAY=1 pytest tests/test_ray.py", allow_module_level=True)
pytest.importorskip("ray", reason="ray is an extra")


@pytest.fixture(autouse=True)
def fast_start(tmp_path_factory, monkeypatch):
    """Without a package that jsonschema imports where it is there: it costs each process of Ray 3 s."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "rfc3987_syntax.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(folder)]))


@pytest.fixture
def photos(tmp_path) -> Path:
    """40 photos, and two files that are none."""
    folder = make_photo_folder(tmp_path / "photos")
    (folder / "text.jpg").write_bytes(b"no photo")
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    return folder


def index(tiny_run, photos, output, *arguments) -> subprocess.CompletedProcess:
    command = ["-m", "dogbreeds", "index", photos, "--output", output, "--run-dir", tiny_run, *arguments]
    return subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)


def rows(path: Path) -> list[dict]:
    return sorted(pyarrow.parquet.read_table(path).to_pylist(), key=lambda row: row["path"])


def test_ray_gives_the_same_table_and_continues(tiny_run, photos, tmp_path):
    assert index(tiny_run, photos, tmp_path / "cores.parquet", "--embeddings").returncode == 1
    done = index(tiny_run, photos, tmp_path / "ray.parquet", "--embeddings", "--engine", "ray")
    assert done.returncode == 1 and not done.stderr and done.stdout.startswith("42 files: "), done.stderr
    assert rows(tmp_path / "ray.parquet") == rows(tmp_path / "cores.parquet")
    assert len(rows(tmp_path / "ray.parquet")) == 42


def test_tasks_begin_small_and_end_small():
    from dogbreeds.serving.on_ray import BATCH_SIZE, TASK_SIZE, _tasks

    photos = [(str(number), Path(str(number))) for number in range(10_001)]
    tasks = list(_tasks(photos, num_actors=2))
    assert [photo for task in tasks for photo in task] == photos
    sizes = [len(task) for task in tasks]
    assert sizes[:2] == [BATCH_SIZE] * 2 and sizes[2] == TASK_SIZE == max(sizes)
    assert sizes[2:] == sorted(sizes[2:], reverse=True) and sizes[-1] <= BATCH_SIZE
    assert not list(_tasks([], num_actors=2))


KILLED = """
import os, signal, sys
from dogbreeds.cli import main
from dogbreeds.serving import on_ray
from dogbreeds.serving.journal import Journal

on_ray.BATCH_SIZE = on_ray.TASK_SIZE = 4
append, calls = Journal.append, []
def killed(self, rows):
    append(self, rows)
    calls.append(rows)
    if len(calls) == 2:
        {fault}
Journal.append = killed
sys.argv = ["dogbreeds", *sys.argv[1:]]
main()
"""

KILL_AN_ACTOR = """
        import subprocess
        mine = {os.getpid()}
        while True:
            found = subprocess.run(["pgrep", "-P", ",".join(map(str, mine))], capture_output=True, text=True).stdout
            more = set(map(int, found.split())) - mine
            if not more:
                break
            mine |= more
        names = {pid: open(f"/proc/{pid}/cmdline").read() for pid in mine if os.path.exists(f"/proc/{pid}")}
        actors = [pid for pid, name in names.items() if name.startswith("ray::") and "Classifier" in name]
        assert actors, names
        os.kill(actors[0], signal.SIGKILL)
"""


@pytest.mark.parametrize("killed", ["actor", "driver"])
def test_a_process_that_is_killed_costs_no_row(tiny_run, photos, tmp_path, killed):
    output = tmp_path / "ray.parquet"
    fault = KILL_AN_ACTOR.strip() if killed == "actor" else "os.kill(os.getpid(), signal.SIGKILL)"
    arguments = ["index", photos, "--output", output, "--run-dir", tiny_run, "--engine", "ray"]
    code = KILLED.replace("{fault}", fault)
    run = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    if killed == "driver":
        assert run.returncode == -signal.SIGKILL and not output.exists()
        run = index(tiny_run, photos, output, "--engine", "ray")
        assert "continuing: 8 files are done" in run.stderr
    assert run.returncode == 1, run.stderr
    assert len({row["path"] for row in rows(output)}) == len(rows(output)) == 42


def test_mistakes_are_one_line(tiny_run, photos, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("s3://dogs/1.png\n")
    environment = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "k"}
    for place, arguments, words in (
        (listed, (), "'s3://dogs/1.png' can't be reached"),
        (photos, ("--ray-address", "127.0.0.1:9"), "127.0.0.1:9"),
    ):
        command = ["-m", "dogbreeds", "index", place, "--output", tmp_path / "b.csv", "--run-dir", tiny_run]
        command += ["--engine", "ray", *arguments]
        run = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, **environment, "AWS_MAX_ATTEMPTS": "1"},
        )
        assert run.returncode == 2 and words in run.stderr and run.stderr.count("\n") == 1, run.stderr
        (tmp_path / "b.csv.partial").unlink()
