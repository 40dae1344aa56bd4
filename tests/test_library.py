import csv
import io
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow.parquet
import pytest
from conftest import ROOT, make_photo

from dogbreeds import machine
from dogbreeds.errors import UserError
from dogbreeds.run_folder import RECORD, RunFolder
from dogbreeds.serving import library
from dogbreeds.serving import rows as rows_module
from dogbreeds.serving.journal import Journal
from dogbreeds.serving.library import index_library
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.rows import UNREADABLE, write_csv

COLUMNS = ["path", "verdict", "breed", "probability", "breed_2", "probability_2", "group", "error"]


@pytest.fixture
def photos(tmp_path) -> Path:
    """24 small photos in nested folders."""
    folder = tmp_path / "photos"
    for number in range(24):
        path = folder / ("a", "a/deeper", "b c", ".")[number % 4] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_photo(number % 4, number).save(path)
    return folder


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(library, "BATCH_SIZE", 2)
    monkeypatch.setattr(rows_module, "ROW_GROUP", 5)
    monkeypatch.setattr(library, "num_cores", lambda: 2)


def indexed(tiny_run, photos, output, **options) -> list[dict]:
    """The table's rows, with the apostrophe of CSV as in the file."""
    index_library(tiny_run, photos, output, top_k=2, progress=False, **options)
    assert sorted(output.parent.glob(f"{output.name}*")) == [output, library.kept_rows(output)]
    if output.suffix == ".parquet":
        return pyarrow.parquet.read_table(output).to_pylist()
    return read_csv(output)


def read_csv(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def interrupt(monkeypatch, num_batches: int) -> None:
    """Ctrl-C while the model is at work on this batch."""
    outputs, calls = Predictor.outputs, []

    def interrupted(self, images):
        calls.append(len(images))
        if len(calls) >= num_batches:
            raise KeyboardInterrupt
        return outputs(self, images)

    monkeypatch.setattr(Predictor, "outputs", interrupted)


def partial_of(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def paths_in(rows: Path) -> list[str]:
    """The paths of the rows that a run has kept."""
    with closing(sqlite3.connect(rows)) as connection:
        return [os.fsdecode(path) for (path,) in connection.execute("SELECT path FROM rows ORDER BY number")]


def test_every_photo_gets_the_answer_of_predict(tiny_run, photos, tmp_path, small_batches):
    rows = indexed(tiny_run, photos, tmp_path / "breeds.csv")
    expected = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.png"))]
    assert list(rows[0]) == COLUMNS and [row["path"] for row in rows] == expected
    predictor = Predictor(tiny_run)
    for row in rows:
        prediction = predictor.predict(photos / row["path"], top_k=2)
        assert (row["verdict"], row["error"]) == (prediction.verdict, "")
        assert [row["breed"], row["breed_2"]] == [candidate.breed for candidate in prediction.breeds]
        for column, candidate in zip(["probability", "probability_2"], prediction.breeds, strict=True):
            assert len(row[column]) == 6 and float(row[column]) == pytest.approx(candidate.probability, abs=1e-4)


def test_csv_and_parquet_say_the_same(tiny_run, photos, tmp_path, small_batches):
    (photos / "a" / "broken.jpg").write_bytes(b"no photo")
    (photos / "a" / "two\nlines, 'and' \"quotes\".png").write_bytes((photos / "a" / "00.png").read_bytes())
    (photos / "a" / "carriage\rreturn.jpg").write_bytes(b"")
    from_csv = indexed(tiny_run, photos, tmp_path / "breeds.csv")
    from_parquet = indexed(tiny_run, photos, tmp_path / "breeds.parquet")
    assert len(from_csv) == len(from_parquet) == 27
    for text, typed in zip(from_csv, from_parquet, strict=True):
        shown = {k: "" if v is None else f"{v:.4f}" if isinstance(v, float) else v for k, v in typed.items()}
        assert shown == text
    schema = pyarrow.parquet.read_schema(tmp_path / "breeds.parquet")
    assert schema.names == COLUMNS
    assert {str(schema.field(name).type) for name in COLUMNS if "probability" in name} == {"float"}
    assert pyarrow.parquet.ParquetFile(tmp_path / "breeds.parquet").num_row_groups == 6
    assert b"\r\n" not in (tmp_path / "breeds.csv").read_bytes()


def test_what_can_not_be_read_has_a_row_that_says_why(tiny_run, photos, tmp_path, monkeypatch):
    good = (photos / "03.png").read_bytes()
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.txt").write_bytes(b"hello, I am a text file\n")
    (photos / "short.png").write_bytes(good[: len(good) // 2])
    (photos / "link.png").symlink_to("nowhere.png")
    (photos / "vanishing.png").write_bytes(good)
    (photos / "locked.png").write_bytes(good)
    (photos / "closed").mkdir()
    (photos / "closed" / "unseen.png").write_bytes(good)
    real_open, real_scandir = Path.open, os.scandir

    def open_(self, *arguments, **options):
        if self.name == "vanishing.png":  # after it was listed
            self.unlink(missing_ok=True)
        if self.name in ("locked.png", "closed"):  # tests that run as root can't take their own permission away
            raise PermissionError(13, "Permission denied")
        return real_open(self, *arguments, **options)

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real_scandir(path)

    monkeypatch.setattr(Path, "open", open_)
    monkeypatch.setattr(os, "scandir", scandir)
    rows = {row["path"]: row for row in indexed(tiny_run, photos, tmp_path / "breeds.csv")}
    for name, words in {
        "empty.jpg": "empty",
        "text.txt": "not a photo",
        "short.png": "cut short",
        "link.png": "no file",
        "vanishing.png": "no file",
        "locked.png": "Permission denied",
        "closed": "Permission denied",
    }.items():
        row = rows.pop(name)
        assert words in row["error"] and {row[column] for column in COLUMNS[1:-1]} == {""}, row
    assert len(rows) == 24 and all(row["verdict"] and not row["error"] for row in rows.values())


def test_odd_names_do_no_harm(tiny_run, photos, tmp_path):
    good = (photos / "03.png").read_bytes()
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("=HYPERLINK(0)", "+1", "-1", "@eaDir", "\tx", "\rx", "Hündin 🐕", "a=1", " (-1)"):
        (folder / name).write_bytes(good)
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(good)
    (folder / os.fsdecode(b"\xff")).write_bytes(b"")
    names = {row["path"] for row in indexed(tiny_run, folder, tmp_path / "odd.csv")}
    unformatted = {"Hündin 🐕", "a=1", " (-1)", "caf\\udce9.png", "\\udcff"}
    assert names == {"'=HYPERLINK(0)", "'+1", "'-1", "'@eaDir", "'\tx", "'\rx"} | unformatted
    rows = indexed(tiny_run, folder, tmp_path / "odd.parquet")
    assert {row["path"] for row in rows} == {name.removeprefix("'") for name in names}
    assert [row["path"] for row in rows if row["error"]] == ["\\udcff"]


@pytest.mark.parametrize("sign", "=+-@＝＋－＠﹢﹣﹦﹫")
@pytest.mark.parametrize(
    "before", ["", " ", "\n", "\r", "\t", "\r\n", "  \t", "\u00a0", "\u3000", "\u200b", "\ufeff", "\0"]
)
def test_no_cell_is_a_formula(before, sign):
    file = io.StringIO(newline="")
    write_csv(file, [{"path": f"{before}{sign}cmd|' /C calc'!A0", "error": f"a{before}{sign}1"}], ["path", "error"])
    file.seek(0)
    assert list(csv.reader(file))[1] == [f"'{before}{sign}cmd|' /C calc'!A0", f"a{before}{sign}1"]


@pytest.mark.parametrize("first", "\n\r\t")
def test_no_cell_begins_with_a_line_end_or_a_tab(first):
    file = io.StringIO(newline="")
    write_csv(file, [{"path": f"{first}x"}], ["path"])
    assert file.getvalue().endswith(f'"\'{first}x"\n')


def test_names_that_are_no_valid_text_are_kept_distinct(tiny_run, photos, tmp_path, monkeypatch):
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"caf\xe8", b"caf\xe9"):
        shutil.copy(photos / "03.png", folder / os.fsdecode(name))
    monkeypatch.setattr(library, "BATCH_SIZE", 1)
    monkeypatch.setattr(machine, "num_cores", lambda: 1)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            indexed(tiny_run, folder, tmp_path / "odd.csv")
    rows = indexed(tiny_run, folder, tmp_path / "odd.csv")
    assert [row["path"] for row in rows] == ["caf\\udce8", "caf\\udce9"]


def test_hidden_files_links_to_folders_pipes_and_the_table_are_left_out(tiny_run, photos):
    expected = {path.relative_to(photos).as_posix() for path in photos.rglob("*.png")} | {"link.png"}
    (photos / ".hidden.png").write_bytes(b"")
    (photos / ".thumbnails").mkdir()
    (photos / ".thumbnails" / "00.png").write_bytes(b"")
    (photos / "a" / "loop").symlink_to(photos, target_is_directory=True)
    (photos / "link.png").symlink_to("a/00.png")
    os.mkfifo(photos / "pipe")
    rows = indexed(tiny_run, photos, photos / "breeds.csv")
    assert {row["path"] for row in rows} == expected and len(rows) == len(expected)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_interrupted_run_goes_on_where_it_was(tiny_run, photos, tmp_path, small_batches, suffix):
    whole = indexed(tiny_run, photos, tmp_path / f"whole{suffix}")
    output = tmp_path / f"breeds{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "num_cores", lambda: 1)  # so that batches are done in order
        interrupt(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            indexed(tiny_run, photos, output)
    assert list(tmp_path.glob("breeds*")) == [partial_of(output)]
    assert len(paths_in(partial_of(output))) == 4
    assert indexed(tiny_run, photos, output) == whole


def killed_run(tiny_run, photos, output, function, num_calls, begun=""):
    """Start a run that executes `begun` and is killed when the function is called for the (num_calls + 1)-th time."""
    code = f"""
import os, signal
from pathlib import Path
from dogbreeds.serving import journal, library
from dogbreeds.serving.journal import Journal

library.BATCH_SIZE, original, calls = 2, {function}, []

def until_killed(rows):
    yield rows[0]
    os.kill(os.getpid(), signal.SIGKILL)

def killed(first, *others):
    calls.append(others)
    if len(calls) > {num_calls}:
        {begun}
        os.kill(os.getpid(), signal.SIGKILL)
    return original(first, *others)

{function} = killed
library.index_library({str(tiny_run)!r}, Path({str(photos)!r}), Path({str(output)!r}), top_k=2, progress=False)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


@pytest.mark.parametrize(("torn", "num_done"), [(0, 6), (1, 4), (5000, 4)])
def test_a_killed_run_goes_on_where_it_was(tiny_run, photos, tmp_path, capsys, torn, num_done):
    """Killed in the middle of the fourth batch; and then, as a power cut may do it, the end of the log is lost."""
    output = tmp_path / "breeds.csv"
    killed_run(tiny_run, photos, output, "Journal.append", 3, "original(first, until_killed(*others))")
    log = output.with_name("breeds.csv.partial-wal")
    os.truncate(log, log.stat().st_size - torn)
    copy = tmp_path / "copy.partial"
    shutil.copy(partial_of(output), copy)
    shutil.copy(log, tmp_path / "copy.partial-wal")
    done = paths_in(copy)
    assert len(done) == num_done
    (photos / "a" / "000-added-meanwhile.png").write_bytes((photos / "03.png").read_bytes())
    there = {path.relative_to(photos).as_posix() for path in photos.rglob("*.png")}
    (photos / done[0]).unlink()
    rows = indexed(tiny_run, photos, output)
    assert f"continuing: {num_done} files are done" in capsys.readouterr().err
    assert [row["path"] for row in rows[:num_done]] == done and all(row["verdict"] for row in rows)
    assert sorted(row["path"] for row in rows) == sorted(there)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_loses_no_row(tiny_run):
    """See tests/killed_runs.py, which does it more often."""
    command = [sys.executable, "tests/killed_runs.py", "--index", "--kills", "12", "--photos", "80"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    told = subprocess.run(
        [*command, "--run-dir", str(tiny_run)], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert told.returncode == 0 and ": rows lost 0, twice 0, different 0" in told.stdout, told.stdout + told.stderr


@pytest.mark.parametrize("is_empty", [False, True], ids=["gone", "empty"])
def test_a_folder_that_is_gone_stops_the_run_and_costs_no_row(tiny_run, photos, tmp_path, monkeypatch, is_empty):
    """As a disk that is pulled out, or a network that fails: its photos must not get rows, which would be kept."""
    monkeypatch.setattr(library, "BATCH_SIZE", 2)
    monkeypatch.setattr(library, "on_all_cores", lambda function, items, num_ahead: map(function, items))
    outputs, elsewhere = Predictor.outputs, tmp_path / "elsewhere"

    def pulled_out(self, images):
        if not elsewhere.exists():
            photos.rename(elsewhere)
            if is_empty:
                photos.mkdir()
        return outputs(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "outputs", pulled_out)
        with pytest.raises(UserError, match=r"photos' is gone \((it is empty|No such file or directory)\)"):
            indexed(tiny_run, photos, tmp_path / "breeds.csv")
    assert len(paths_in(partial_of(tmp_path / "breeds.csv"))) == 2
    elsewhere.rename(photos)
    rows = indexed(tiny_run, photos, tmp_path / "breeds.csv")
    assert len(rows) == 24 and not any(row["error"] for row in rows)


@pytest.mark.parametrize("is_deleted", [False, True])
def test_files_of_a_killed_run_among_the_photos_are_left_out(tiny_run, photos, is_deleted):
    expected = {path.relative_to(photos).as_posix() for path in photos.rglob("*.png")}
    killed_run(tiny_run, photos, photos / "breeds.csv", "Journal.append", 3)
    assert (photos / "breeds.csv.partial-wal").exists()
    (photos / "breeds.csv.tmp").write_text("a table that was being written\n")
    if is_deleted:  # as the message about other options says
        partial_of(photos / "breeds.csv").unlink()
    rows = indexed(tiny_run, photos, photos / "breeds.csv")
    assert {row["path"] for row in rows} == expected and len(rows) == len(expected)


def test_a_csv_needs_no_more_than_the_page(tiny_run, photos, tmp_path):
    code = "import sys; from dogbreeds.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    arguments = ["index", photos, "--output", tmp_path / "breeds.csv", "--run-dir", tiny_run]
    run = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    loaded = {module.split(".")[0] for module in run.stderr.split()}
    assert run.returncode == 0 and "onnxruntime" in loaded
    assert not loaded & {"torch", "transformers", "pandas", "pyarrow", "scipy", "sklearn", "gradio"}


@pytest.mark.parametrize(
    ("function", "begun"),
    [
        ("journal._create_or_check", ""),
        ("journal._create_or_check", "original(first, *others)"),
        ("Journal.__len__", ""),
    ],
)
def test_a_run_that_was_killed_while_its_file_was_made_begins_again(tiny_run, photos, tmp_path, function, begun):
    output = tmp_path / "breeds.csv"
    killed_run(tiny_run, photos, output, function, 0, begun)
    assert partial_of(output).exists()
    assert len(indexed(tiny_run, photos, output)) == 24


def test_rows_made_from_something_else_are_not_continued(tiny_run, photos, tmp_path):
    output = tmp_path / "breeds.csv"
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            index_library(tiny_run, photos, output, top_k=2, progress=False)
    begun = partial_of(output).read_bytes()
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    record = json.loads((other / RECORD).read_text())
    record["calibration"]["temperature"] *= 2
    (other / RECORD).write_text(json.dumps(record))
    shutil.copytree(photos, tmp_path / "copy")
    for run, folder, top_k, words in (
        (tiny_run, photos, 3, "top_k 2, not 3"),
        (tiny_run, tmp_path / "copy", 2, "folder .*photos', not .*copy'"),
        (other, photos, 2, "temperature"),
    ):
        with pytest.raises(UserError, match=words) as error:
            index_library(run, folder, output, top_k=top_k, progress=False)
        assert "delete it" in str(error.value) and "\n" not in str(error.value)
        assert partial_of(output).read_bytes() == begun
    with closing(sqlite3.connect(tmp_path / "database")) as connection, connection:
        connection.execute("CREATE TABLE mine (value)")
    for content, words in (
        (b"something of the user's\n", "no unfinished table"),
        ((tmp_path / "database").read_bytes(), "no unfinished table"),
        (b'{"format": 2, "folder": "photos"}\n{"path": "a.png"}\n', "an older version .* delete it"),
    ):
        partial_of(output).write_bytes(content)
        with pytest.raises(UserError, match=words) as error:
            index_library(tiny_run, photos, output, progress=False)
        assert "\n" not in str(error.value) and list(tmp_path.glob("breeds*")) == [partial_of(output)]
        assert partial_of(output).read_bytes() == content


def test_two_runs_do_not_write_the_same_table(tiny_run, photos, tmp_path, monkeypatch):
    outputs, errors = Predictor.outputs, []

    def second(self, images):
        if not errors:
            errors.append(None)
            with pytest.raises(UserError, match="another run is writing"):
                index_library(tiny_run, photos, tmp_path / "breeds.csv", top_k=2, progress=False)
            errors.append("refused")
        return outputs(self, images)

    monkeypatch.setattr(Predictor, "outputs", second)
    assert len(indexed(tiny_run, photos, tmp_path / "breeds.csv")) == 24 and errors == [None, "refused"]


@contextmanager
def full_disk(num_bytes: int):
    """A limit on the size of a file simulates a full disk: the same kind of error, in the same place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("written", ["Journal.append", "write_table"])
def test_a_full_disk_costs_no_rows(tiny_run, photos, tmp_path, small_batches, suffix, written):
    output = tmp_path / f"breeds{suffix}"
    write, num_bytes = (Journal.append, 60_000) if written == "Journal.append" else (library.write_table, 100)

    def on_a_full_disk(*arguments):
        with full_disk(num_bytes):
            return write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"dogbreeds.serving.library.{written}", on_a_full_disk)
        with pytest.raises(UserError, match=r"can't write .* is kept in") as error:
            indexed(tiny_run, photos, output)
    assert "\n" not in str(error.value)
    assert list(tmp_path.glob("breeds*")) == [partial_of(output)]
    assert 6 <= len(paths_in(partial_of(output))) <= 24
    assert len(indexed(tiny_run, photos, output)) == 24


def test_a_disk_that_is_full_once_the_table_is_written_costs_no_rows(tiny_run, photos, tmp_path):
    """What SQLite then writes last is most of the rows that are kept for the next photos."""
    output, add_written = tmp_path / "breeds.csv", Journal.add_written

    with pytest.MonkeyPatch.context() as patch, full_disk(resource.RLIM_INFINITY):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        def last(*arguments):
            add_written(*arguments)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))

        patch.setattr(Journal, "add_written", last)
        with pytest.raises(UserError, match=r"can't write .* is kept in") as error:
            indexed(tiny_run, photos, output)
    assert "\n" not in str(error.value) and len(paths_in(partial_of(output))) == 24
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 1)  # no photo is looked at again
        assert len(indexed(tiny_run, photos, output)) == len(paths_in(library.kept_rows(output))) == 24


def test_few_photos_are_in_memory_whatever_their_number(tiny_run, photos, tmp_path, small_batches, monkeypatch):
    for number in range(100, 300):
        os.link(photos / "03.png", photos / f"{number}.png")
    opened, most, lock = 0, 0, threading.Lock()
    open_image, append = rows_module.open_image, Journal.append

    def counted(source, **options):
        nonlocal opened, most
        with lock:
            opened += 1
            most = max(most, opened)
        return open_image(source)

    def written(self, rows):
        nonlocal opened
        time.sleep(0.002)  # what is ahead has time to run away
        append(self, rows)
        with lock:
            opened -= len(rows)

    monkeypatch.setattr(rows_module, "open_image", counted)
    monkeypatch.setattr(Journal, "append", written)
    rows = indexed(tiny_run, photos, tmp_path / "breeds.csv")
    in_flight = (library.BATCHES_PER_CORE * 2 + 1) * library.BATCH_SIZE
    assert len(rows) == 224 and opened == 0 and 2 < most <= in_flight


# The command line


def run_cli(monkeypatch, capsys, *arguments):
    from dogbreeds.cli import main

    monkeypatch.setattr("sys.argv", ["dogbreeds", "index", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_the_command_sums_up(tiny_run, photos, tmp_path, monkeypatch, capsys):
    output = tmp_path / "breeds.csv"
    status, out, err = run_cli(monkeypatch, capsys, photos, "--output", output, "--run-dir", tiny_run, "--top-k", 99)
    rows = read_csv(output)
    counts = Counter(row["verdict"] for row in rows)
    assert status == 0 and not err and out.count("\n") == 1
    assert out.startswith("24 files: ") and str(output) in out and UNREADABLE not in out
    assert all(f"{count} {verdict}" in out for verdict, count in counts.items())
    threshold = RunFolder.open(tiny_run).calibration.right_threshold
    named = [float(row["probability"]) for row in rows if row["verdict"] in ("confident", "unsure")]
    num_right = sum(probability >= threshold for probability in named)
    assert f"; about {num_right} of the {len(named)} breeds named are right; the table is " in out and named
    assert "breed_4" in rows[0] and "breed_5" not in rows[0]  # the run knows four
    (photos / "text.txt").write_text("hello")
    status, out, _ = run_cli(monkeypatch, capsys, photos, "--output", output, "--run-dir", tiny_run, "--top-k", 99)
    assert status == 1 and "25 files: " in out and f"1 {UNREADABLE}" in out
    library.kept_rows(output).unlink()
    status, out, err = run_cli(monkeypatch, capsys, photos, "--output", output, "--run-dir", tiny_run)
    assert status == 2 and not out and "exists already" in err and err.count("\n") == 1


def test_a_run_of_before_does_not_tell_how_many_are_right(tiny_run, photos, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(tiny_run, tmp_path / "older")
    record = json.loads((run / RECORD).read_text())
    del record["calibration"]["right_threshold"]
    (run / RECORD).write_text(json.dumps(record))
    status, out, err = run_cli(monkeypatch, capsys, photos, "--output", tmp_path / "breeds.csv", "--run-dir", run)
    assert status == 0 and not err and "how many breeds are right, this run does not tell (calibrate it again)" in out


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_finished_table_takes_up_new_photos(tiny_run, photos, tmp_path, monkeypatch, suffix):
    output = tmp_path / f"breeds{suffix}"
    first = indexed(tiny_run, photos, output)
    (photos / first[0]["path"]).unlink()
    shutil.copy(photos / "07.png", photos / "a" / "000-new.png")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 2)  # no second photo is looked at
        *kept, added = indexed(tiny_run, photos, output)
    assert kept == first and added["path"] == "a/000-new.png" and added["verdict"]
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 1)
        assert indexed(tiny_run, photos, output) == [*first, added]


@pytest.fixture
def unreadable(photos, monkeypatch) -> Path:
    """24 photos, a damaged one, and a folder with one that can't be listed while `folder/.closed` is there."""
    (photos / "damaged.png").write_bytes(b"")
    (photos / "folder").mkdir()
    shutil.copy(photos / "03.png", photos / "folder" / "unseen.png")
    (photos / "folder" / ".closed").touch()
    scandir = os.scandir

    def closed(path):
        if Path(path).name == "folder" and (Path(path) / ".closed").exists():  # root may list every folder
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    return photos


def mend(photos: Path) -> None:
    shutil.copy(photos / "03.png", photos / "damaged.png")
    (photos / "folder" / ".closed").unlink()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_could_not_be_read_is_tried_again_where_that_is_asked_for(tiny_run, unreadable, tmp_path, suffix, capsys):
    output = tmp_path / f"breeds{suffix}"
    first = indexed(tiny_run, unreadable, output)
    assert {row["path"] for row in first if row["error"]} == {"damaged.png", "folder"}
    mend(unreadable)
    again = {row["path"]: row for row in indexed(tiny_run, unreadable, output)}
    told = "continuing: 26 files are done; 2 could not be read: --retry-unreadable tries them again\n"
    assert capsys.readouterr().err == told and again["damaged.png"]["error"] and again["folder"]["error"]
    rows = indexed(tiny_run, unreadable, output, retry_unreadable=True)
    told = "trying again 2 files that could not be read\ncontinuing: 25 files are done\n"
    assert capsys.readouterr().err == told and not any(row["error"] for row in rows)
    assert {row["path"] for row in rows} == again.keys() - {"folder"} and len(rows) == 26
    assert indexed(tiny_run, unreadable, output, retry_unreadable=True) == rows


def test_a_second_try_that_is_interrupted_loses_no_row(tiny_run, unreadable, tmp_path, monkeypatch):
    output = tmp_path / "breeds.csv"
    indexed(tiny_run, unreadable, output)
    mend(unreadable)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            indexed(tiny_run, unreadable, output, retry_unreadable=True)
    rows = indexed(tiny_run, unreadable, output)
    assert not any(row["error"] for row in rows) and len(rows) == len({row["path"] for row in rows}) == 26


def test_the_command_tries_again(tiny_run, unreadable, tmp_path, monkeypatch, capsys):
    command = unreadable, "--output", tmp_path / "breeds.csv", "--run-dir", tiny_run
    assert run_cli(monkeypatch, capsys, *command)[0] == 1
    mend(unreadable)
    assert run_cli(monkeypatch, capsys, *command)[0] == 1
    status, out, _ = run_cli(monkeypatch, capsys, *command, "--retry-unreadable")
    assert status == 0 and out.startswith("26 files: ") and UNREADABLE not in out


def test_a_run_that_was_killed_before_its_table_had_its_name_knows_it(tiny_run, photos, tmp_path):
    output = tmp_path / "breeds.csv"
    rows = indexed(tiny_run, photos, output)
    shutil.copy(photos / "03.png", photos / "new.png")
    killed_run(tiny_run, photos, output, "Journal.add_written", 0, "original(first, *others)")
    assert read_csv(output) == rows
    assert len(indexed(tiny_run, photos, output)) == 25


def test_a_table_that_somebody_has_changed_is_kept(tiny_run, photos, tmp_path):
    output = tmp_path / "breeds.csv"
    indexed(tiny_run, photos, output)
    corrected = output.read_text() + "corrections of an hour\n"
    output.write_text(corrected)
    shutil.copy(photos / "03.png", photos / "new.png")
    with pytest.raises(UserError, match="was changed since"):
        index_library(tiny_run, photos, output, top_k=2, progress=False)
    assert output.read_text() == corrected and len(paths_in(partial_of(output))) == 24
    output.rename(tmp_path / "corrected.csv")
    assert len(indexed(tiny_run, photos, output)) == 25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos", "--output", "table.xlsx"], "ends in '.xlsx'"),
        (["photos", "--output", "table"], "ends in ''"),
        (["photos", "--output", "nowhere/table.csv"], "there is no folder 'nowhere'"),
        (["photos", "--output", "table.csv", "--top-k", "0"], "--top-k 0"),
        (["photos", "--output", "table.csv", "--run-dir", "nowhere"], "no run folder"),
        (["nowhere", "--output", "table.csv"], "there is no folder 'nowhere'"),
        (["photos/03.png", "--output", "table.csv"], "it is a file"),
        (["empty", "--output", "table.csv"], "holds no files"),
        (["", "--output", "table.csv"], "the name of the folder is empty"),
        (["photos", "--output", f"{'x' * 300}.csv"], "File name too long"),
        (["photos", "--output", f"{'x' * 300}/table.csv"], "File name too long"),
    ],
)
def test_mistakes_are_one_line_before_any_work(arguments, words, photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    status, out, err = run_cli(monkeypatch, capsys, *arguments)
    assert status == 2 and not out and words in err and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "photos"]


def test_a_folder_that_can_not_be_written_is_reported_at_once(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    status, _, err = run_cli(monkeypatch, capsys, photos, "--output", tmp_path / "breeds.csv")
    assert status == 2 and "can't write in the folder" in err and err.count("\n") == 1
