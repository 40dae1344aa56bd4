"""index --shard, and index merge, which proves that the table is whole."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from conftest import ROOT, make_photo

from dogbreeds.cli import main
from dogbreeds.errors import UserError
from dogbreeds.photo_paths import Shard
from dogbreeds.run_folder import RECORD
from dogbreeds.serving import library
from dogbreeds.serving.library import index_library
from dogbreeds.serving.shards import merge

NUM_SHARDS = 4


@pytest.fixture
def listed(tmp_path) -> Path:
    """A list of 30 paths, of which 10 are photos."""
    for number in range(10):
        make_photo(number % 4, number).save(tmp_path / f"{number:02}.png")
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{number:02}.png\n" for number in range(30)))
    return path


def index_shard(tiny_run, photos, output, number, **options) -> None:
    shard = Shard(number, NUM_SHARDS)
    index_library(tiny_run, photos, output, top_k=2, shard=shard, progress=False, **options)


@pytest.fixture
def sharded(tiny_run, listed, tmp_path) -> Path:
    """The tables of all shards, for the table that is named."""
    output = tmp_path / "breeds.parquet"
    for number in range(1, NUM_SHARDS + 1):
        index_shard(tiny_run, listed, output, number)
    return output


def shard_of(output: Path, number: int) -> Path:
    return output.with_name(f"breeds-{number:05}-of-{NUM_SHARDS:05}.parquet")


def rewrite(path: Path, change) -> None:
    """Write a shard again with other rows or another origin."""
    table = pyarrow.parquet.read_table(path)
    origin = json.loads(table.schema.metadata[b"dogbreeds"])
    table, origin = change(table, origin)
    pyarrow.parquet.write_table(table.replace_schema_metadata({"dogbreeds": json.dumps(origin)}), path)


def test_which_photo_is_in_which_shard_never_changes():
    paths = [f"photos/{number}.jpg" for number in range(1000)]
    numbers = [next(number for number in range(1, 9) if path in Shard(number, 8)) for path in paths]
    assert numbers[:8] == EXPECTED and all(90 < numbers.count(number) < 160 for number in range(1, 9))
    assert str(Shard.parse("3/64")) == "3/64"
    for text in ("0/4", "5/4", "1", "1/0", "-1/4", "1/4/4", "a/b", ""):
        with pytest.raises(UserError, match="--shard"):
            Shard.parse(text)


EXPECTED = [1, 6, 6, 3, 6, 6, 5, 5]


def test_the_merged_table_is_that_of_one_run(tiny_run, listed, sharded, tmp_path):
    whole = index_library(tiny_run, listed, tmp_path / "whole.csv", top_k=2, progress=False)
    summary = merge(listed, sharded)
    merged = pyarrow.parquet.read_table(sharded)
    counts = summary.counts
    assert counts.total() == merged.num_rows == 30 and counts["unreadable"] == 20
    origin = json.loads(merged.schema.metadata[b"dogbreeds"])
    assert origin["counts"] == counts and "shard" not in origin
    assert summary == whole and summary.num_probably_right == origin["probably_right"]
    merge(listed, tmp_path / "breeds.csv")
    with (tmp_path / "whole.csv").open(newline="") as one, (tmp_path / "breeds.csv").open(newline="") as joined:
        assert sorted(csv.reader(joined)) == sorted(csv.reader(one))
    with pytest.raises(UserError, match="exists already"):
        merge(listed, sharded)


def test_shards_of_before_do_not_tell_how_many_are_right(listed, sharded):
    rewrite(shard_of(sharded, 1), lambda table, origin: (table, {**origin, "probably_right": None}))
    rewrite(shard_of(sharded, 2), lambda table, origin: (table, dict(list(origin.items())[:-1])))
    summary = merge(listed, sharded)
    assert summary.num_probably_right is None and summary.counts.total() == 30


def test_a_killed_shard_is_started_again_and_a_finished_one_is_left(tiny_run, listed, tmp_path, capsys):
    output = tmp_path / "breeds.parquet"
    code = f"""
import os, signal
from pathlib import Path
from dogbreeds.photo_paths import Shard
from dogbreeds.serving import library
from dogbreeds.serving.journal import Journal
library.BATCH_SIZE, append, calls = 1, Journal.append, []
def killed(self, rows):
    append(self, rows)
    calls.append(rows)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.append = killed
library.index_library({str(tiny_run)!r}, {str(listed)!r}, {str(output)!r}, top_k=2, shard=Shard(2, 4), progress=False)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for number in range(1, NUM_SHARDS + 1):
        index_shard(tiny_run, listed, output, number)
    assert "continuing: 3 files are done" in capsys.readouterr().err
    before = shard_of(output, 2).stat().st_mtime_ns
    index_shard(tiny_run, listed, output, 2)  # as a job array that is given again does
    assert "shard 2/4 is done" in capsys.readouterr().err and shard_of(output, 2).stat().st_mtime_ns == before
    assert merge(listed, output).counts.total() == 30


def test_what_is_missing_or_wrong_is_named(tiny_run, listed, sharded, tmp_path):
    def kept(number):
        shutil.copy(shard_of(sharded, number), tmp_path / "kept")
        return tmp_path / "kept"

    def refused(words):
        with pytest.raises(UserError, match=words) as error:
            merge(listed, sharded)
        assert "\n" not in str(error.value) and not sharded.exists()

    copy = kept(3)
    shard_of(sharded, 3).unlink()
    refused(r"1 of 4 shards are missing: 3/4; make each with: index .*list.txt --shard 3/4 --output .*breeds.parquet")
    shutil.copy(copy, shard_of(sharded, 3))
    paths = pyarrow.parquet.read_table(copy)["path"].to_pylist()
    for change, words in (
        (lambda table, origin: (table.slice(1), origin), f"1 photos have no row, such as {paths[0]!r}: remove .*00003"),
        (
            lambda table, origin: (pyarrow.concat_tables([table, table.slice(0, 1)]), origin),
            f"00003-of-00004.parquet' has two rows for {paths[0]!r}",
        ),
        (lambda table, origin: (table, {**origin, "config.json": "0123"}), "00003.* was made with config.json '0123'"),
        (lambda table, origin: (table, {**origin, "temperature": 9}), "00003.* was made with temperature 9"),
        (lambda table, origin: (table, {**origin, "list_sha256": "0"}), "another list"),
        (lambda table, origin: (table, {**origin, "shard": "1/4"}), "holds another shard, 1/4"),
        (lambda table, origin: (table.slice(0, 0), {}), "another shard, None"),
    ):
        rewrite(shard_of(sharded, 3), change)
        refused(words)
        shutil.copy(copy, shard_of(sharded, 3))
    other = pyarrow.parquet.read_table(shard_of(sharded, 1)).slice(0, 1)
    rewrite(shard_of(sharded, 3), lambda table, origin: (pyarrow.concat_tables([table, other]), origin))
    refused("which is none of its photos")
    content = copy.read_bytes()
    shard_of(sharded, 3).write_bytes(content[: len(content) // 2])
    refused("00003-of-00004.parquet' is damaged")
    shutil.copy(copy, shard_of(sharded, 3))
    shutil.copy(copy, sharded.with_name("breeds-00001-of-00002.parquet"))
    refused("of 2 and of 4: remove those of one")
    sharded.with_name("breeds-00001-of-00002.parquet").unlink()
    text = listed.read_text()
    listed.write_text(text + "new.png\n")
    refused("another list")
    listed.write_text(text)
    assert merge(listed, sharded).counts.total() == 30


def test_a_shard_of_another_model_is_refused(tiny_run, listed, sharded, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    record = json.loads((other / RECORD).read_text())
    record["calibration"]["temperature"] *= 2
    (other / RECORD).write_text(json.dumps(record))
    with pytest.raises(UserError, match="exists already, made with temperature"):
        index_shard(other, listed, sharded, 2)
    shard_of(sharded, 2).unlink()
    index_shard(other, listed, sharded, 2)
    with pytest.raises(UserError, match=r"00002-of-00004.parquet' was made with temperature .* as the first shard"):
        merge(listed, sharded)


def test_folders_that_changed(tiny_run, listed, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in tmp_path.glob("*.png"):
        shutil.move(path, folder)
    output = tmp_path / "breeds.parquet"
    for number in range(1, NUM_SHARDS + 1):
        index_shard(tiny_run, folder, output, number)
    (folder / "00.png").rename(folder / "later.png")
    with pytest.raises(UserError, match=r"1 photos have no row, such as 'later.png'"):
        merge(folder, output)
    (folder / "later.png").unlink()
    assert merge(folder, output).counts.total() == 10
    assert "1 photos of" in capsys.readouterr().err


@pytest.mark.parametrize("inside", [".", "tables"])
def test_tables_in_the_folder_of_the_photos_are_no_photos(tiny_run, listed, tmp_path, inside):
    folder = tmp_path / "folder"
    (folder / inside).mkdir(parents=True)
    for path in tmp_path.glob("*.png"):
        shutil.move(path, folder)
    output = folder / inside / "breeds.csv"
    for begun in ("breeds-00004-of-00004.parquet.partial", "breeds-00004-of-00004.parquet.tmp"):
        output.with_name(begun).write_bytes(b"")  # of another machine, or killed
    (folder / "breeds-1-of-4.parquet").write_bytes(b"")  # is no table of a shard
    for number in range(1, NUM_SHARDS + 1):
        index_shard(tiny_run, folder, output, number)
    assert merge(folder, output).counts == merge(folder, output.with_suffix(".parquet")).counts
    with output.open(newline="") as file:
        paths = {row["path"] for row in csv.DictReader(file)}
    assert paths == {f"{number:02}.png" for number in range(10)} | {"breeds-1-of-4.parquet"}
    for number in range(1, NUM_SHARDS + 1):  # also when all is there
        shard_of(output, number).with_suffix(".parquet").unlink()
        index_shard(tiny_run, folder, output, number)
    output.unlink()
    assert merge(folder, output).counts.total() == 11


def test_a_table_of_the_same_name_in_another_folder_is_no_table_of_this_run(tiny_run, listed, tmp_path):
    (tmp_path / "earlier").mkdir()
    shutil.copy(tmp_path / "00.png", tmp_path / "earlier" / "breeds.csv")
    listed.unlink()
    output = tmp_path / "breeds.csv"
    for number in range(1, NUM_SHARDS + 1):
        index_shard(tiny_run, tmp_path, output, number)
    merge(tmp_path, output)
    assert "earlier/breeds.csv" in output.read_text()


def test_what_a_finished_shard_could_not_read_is_not_tried_again_silently(tiny_run, listed, tmp_path, capsys):
    output = tmp_path / "breeds.parquet"
    index_shard(tiny_run, listed, output, 2)
    with pytest.raises(UserError, match=r"can't change the finished .*00002.*, in which \d+ files could not be read"):
        index_shard(tiny_run, listed, output, 2, retry_unreadable=True)
    listed.write_text("".join(f"{number:02}.png\n" for number in range(10)))
    shard_of(output, 2).unlink()
    for _ in range(2):
        index_shard(tiny_run, listed, output, 2, retry_unreadable=True)
    assert "shard 2/4 is done" in capsys.readouterr().err


def test_a_shard_without_photos_is_a_table_without_rows(tiny_run, tmp_path, listed):
    listed.write_text("00.png\n")
    output = tmp_path / "breeds.parquet"
    for number in range(1, NUM_SHARDS + 1):
        index_shard(tiny_run, listed, output, number)
    assert merge(listed, output).counts.total() == 1


def test_what_writes_shards_is_missed_before_any_work(tiny_run, listed, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"breeds-00001-of-00004.parquet' needs the package pyarrow: .* pyarrow$"):
        index_shard(tiny_run, listed, tmp_path / "breeds.csv", 1)
    assert not list(tmp_path.glob("breeds*"))


def test_a_full_disk_at_merge_is_one_line(listed, sharded, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dogbreeds.serving.shards._join", full)
        with pytest.raises(UserError, match=r"can't write .*No space left"):
            merge(listed, sharded)
    assert not list(sharded.parent.glob("breeds.parquet*"))


def test_the_commands(tiny_run, listed, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["dogbreeds", "index", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    output = tmp_path / "breeds.csv"
    for number in (1, 2):
        status, out, err = run(listed, "--shard", f"{number}/2", "--output", output, "--run-dir", tiny_run)
        assert status == 1 and f"breeds-{number:05}-of-00002.parquet" in out and not err
    status, out, err = run("merge", listed, "--output", output)
    assert status == 1 and out.startswith("30 files: 20 unreadable, ") and str(output) in out and not err
    status, _, err = run("merge", listed, "--output", tmp_path / "nowhere" / "breeds.csv")
    assert status == 2 and "there is no folder" in err
    status, _, err = run("merge", listed, "--output", tmp_path / "other.csv")
    assert status == 2 and "are none" in err and err.count("\n") == 1
    for arguments, words in (
        (("--shard", "3/2"), "--shard '3/2'"),
        (("--ray-address", "auto"), "give --engine ray too"),
    ):
        status, out, err = run(listed, "--output", tmp_path / "x.csv", *arguments)
        assert status == 2 and not out and words in err and err.count("\n") == 1
