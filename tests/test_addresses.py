"""index and evaluate with photos, lists and tables at fsspec addresses; S3 is a real server on this machine."""

import csv
import io
import json
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from conftest import BREED_FOLDERS, make_photo, make_photo_folder, run_cli
from object_store import BUCKET, ObjectStore, running

from dogbreeds import addresses
from dogbreeds import photos as photos_module
from dogbreeds.addresses import Address, place, read_beginnings
from dogbreeds.errors import UserError
from dogbreeds.images import BadImage, open_image
from dogbreeds.photo_paths import Shard, open_paths
from dogbreeds.photos import read_bytes
from dogbreeds.serving import journal as journal_module
from dogbreeds.serving import library
from dogbreeds.serving.journal import CopiedJournal
from dogbreeds.serving.library import index_library
from dogbreeds.serving.predictor import Predictor

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server():
    with running() as store:
        yield store


@pytest.fixture
def store(server, monkeypatch) -> ObjectStore:
    """An empty bucket, whose keys and endpoint are in the environment."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": server.endpoint}.items():
        monkeypatch.setenv(name, value)
    server.reset()
    return server


@pytest.fixture
def library_folder(tmp_path) -> Path:
    """14 files in nested folders, some of which can't be read."""
    folder = make_photo_folder(tmp_path / "photos", num_photos=3)
    (folder / "deeper" / "still").mkdir(parents=True)
    make_photo(1, 77).save(folder / "deeper" / "still" / "Hündin a::b #1 ?.png")
    (folder / "text.jpg").write_bytes(b"no photo")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def indexed(tiny_run, photos, output, **options) -> None:
    index_library(tiny_run, photos, output, top_k=2, progress=False, **options)


def interrupt(patch, num_batches: int) -> None:
    """Ctrl-C in the model's work on this batch."""
    outputs, calls = Predictor.outputs, []

    def interrupted(self, images):
        calls.append(len(images))
        if len(calls) > num_batches:
            raise KeyboardInterrupt
        return outputs(self, images)

    patch.setattr(Predictor, "outputs", interrupted)


def rows_of_csv(content: bytes) -> list[dict]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def write_list(path: Path, paths: list[str], **columns) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"path": paths, **columns}), path)
    elif path.suffix == ".csv":
        rows = zip(paths, *columns.values(), strict=True)
        content = io.StringIO(newline="")
        csv.writer(content, quoting=csv.QUOTE_ALL).writerows([["path", *columns], *rows])
        path.write_text(content.getvalue(), encoding="utf-8-sig", newline="")
    else:
        path.write_text("".join(f"{line}\n" for line in paths))
    return path


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_bucket_gets_the_table_of_the_same_folder(tiny_run, library_folder, store, tmp_path, ending):
    store.put_folder(library_folder, "photos")
    indexed(tiny_run, library_folder, tmp_path / f"local.{ending}")
    indexed(tiny_run, f"s3://{BUCKET}/photos", f"s3://{BUCKET}/tables/breeds.{ending}")
    assert store.keys("tables/") == [f"tables/breeds.{ending}"]
    local, there = (tmp_path / f"local.{ending}").read_bytes(), store.get(f"tables/breeds.{ending}")
    if ending == "csv":
        assert local.decode().replace("'", "") == there.decode().replace("'", "") and len(rows_of_csv(there)) == 15
    else:
        assert (
            pyarrow.parquet.read_table(io.BytesIO(there)).to_pylist()
            == pyarrow.parquet.read_table(io.BytesIO(local)).to_pylist()
        )


@pytest.mark.parametrize("ending", ["txt", "parquet"])
def test_a_list_may_mix_addresses_and_paths_and_lie_anywhere(tiny_run, library_folder, store, tmp_path, capsys, ending):
    store.put_folder(library_folder, "photos")
    inside = f"{BREED_FOLDERS[0]}/{BREED_FOLDERS[0]}_0.png"
    memory = fsspec.filesystem("memory")
    memory.pipe("/elsewhere/dog.png", (library_folder / inside).read_bytes())
    listed = [
        inside,  # relative to the list
        f"s3://{BUCKET}/photos/{inside}",
        "memory://elsewhere/dog.png",
        str(library_folder / inside),
        f"file://{library_folder / inside}",
        f"s3://{BUCKET}/photos/gone.png",
        f"s3://{BUCKET}/photos/empty.jpg",
        inside,
    ]
    write_list(library_folder / f"list.{ending}", listed)
    store.put(f"photos/list.{ending}", (library_folder / f"list.{ending}").read_bytes())
    for photos in (library_folder / f"list.{ending}", f"s3://{BUCKET}/photos/list.{ending}"):
        (tmp_path / "breeds.csv").unlink(missing_ok=True)
        indexed(tiny_run, photos, tmp_path / "breeds.csv")
        assert "names photos again 1 times" in capsys.readouterr().err
        rows = rows_of_csv((tmp_path / "breeds.csv").read_bytes())
        assert [row["path"] for row in rows] == listed[:-1]
        assert len({tuple(list(row.values())[1:]) for row in rows[:5]}) == 1 and rows[0]["verdict"]
        assert "no file" in rows[5]["error"] and "empty" in rows[6]["error"]


def test_only_what_is_needed_of_a_large_file_is_read(store, monkeypatch):
    for module in (addresses, photos_module):
        monkeypatch.setattr(module, "FIRST_BYTES", 300)
    photo = io.BytesIO()
    make_photo(0, 0, (90, 80)).save(photo, "PNG")
    store.put("large.png", photo.getvalue())
    store.put("small.png", photo.getvalue()[:299])
    places = [Address(f"s3://{BUCKET}/{name}") for name in ("large.png", "small.png", "none.png")]
    large, small, none = photos_module.read_ahead(places)
    assert large == places[0] and open_image(large).size == (90, 80)
    assert small == photo.getvalue()[:299] and isinstance(none, BadImage) and none.problem == "missing"
    assert read_bytes(places[0]) == photo.getvalue()
    assert read_beginnings([]) == []


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_interrupted_run_is_continued_on_another_machine(
    tiny_run, library_folder, store, monkeypatch, capsys, ending
):
    monkeypatch.setattr(library, "BATCH_SIZE", 2)
    monkeypatch.setattr(library, "on_all_cores", lambda function, items, num_ahead: map(function, items))
    output = f"s3://{BUCKET}/breeds.{ending}"
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            indexed(tiny_run, library_folder, output)
    assert store.keys("breeds") == [f"breeds.{ending}.partial"]
    indexed(tiny_run, library_folder, output)
    assert "continuing: 6 files are done" in capsys.readouterr().err
    assert store.keys("breeds") == [f"breeds.{ending}"]
    content = store.get(f"breeds.{ending}")
    found = rows_of_csv(content) if ending == "csv" else pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    assert len({row["path"] for row in found}) == len(found) == 15


def test_the_rows_are_copied_while_it_runs(tiny_run, library_folder, store, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "BATCH_SIZE", 2)
    monkeypatch.setattr(journal_module, "COPY_SECONDS", 0)
    counts = []
    copy = CopiedJournal.copy

    def counted(self):
        copy(self)
        (tmp_path / "copy").write_bytes(store.get("breeds.csv.partial"))
        with closing(sqlite3.connect(tmp_path / "copy")) as connection:
            counts.extend(connection.execute("SELECT count(*) FROM rows").fetchone())

    monkeypatch.setattr(CopiedJournal, "copy", counted)
    indexed(tiny_run, library_folder, f"s3://{BUCKET}/breeds.csv")
    assert counts == [0, 2, 4, 6, 8, 10, 12, 14, 15]


def test_a_bucket_that_refuses_is_one_line(tiny_run, library_folder, store, tmp_path, monkeypatch, capsys):
    store.put_folder(library_folder, "photos")
    there, run_dir = f"s3://{BUCKET}/photos", ("--run-dir", tiny_run)
    for name, value in store.read_only_keys().items():
        monkeypatch.setenv(name, value)
    for arguments, words in (
        ((there, "--output", f"s3://{BUCKET}/breeds.csv"), "can't write 's3://dogs/breeds.csv'"),
        ((there, "--output", "s3://another/breeds.csv"), "s3://another/breeds.csv"),
        ((f"s3://{BUCKET}/nothing", "--output", tmp_path / "b.csv"), "there is no folder 's3://dogs/nothing'"),
        ((f"s3://{BUCKET}/list.txt", "--output", tmp_path / "b.csv"), "there is no list 's3://dogs/list.txt'"),
        ((f"s3://{BUCKET}/photos/text.jpg", "--output", tmp_path / "b.csv"), "it is a file"),
        (("s3://nowhere/photos", "--output", tmp_path / "b.csv"), "s3://nowhere/photos"),
        (("nosuch://x/photos", "--output", tmp_path / "b.csv"), "'nosuch://x/photos' can't be reached"),
        (("gs://x/photos", "--output", tmp_path / "b.csv"), "gcsfs"),
        ((there, "--output", f"s3://{BUCKET}/photos/text.jpg"), "ends in '.jpg'"),
    ):
        status, out, err = run_cli(monkeypatch, capsys, "index", *arguments, *run_dir)
        assert status == 2 and not out and words in err and err.count("\n") == 1, err
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "expired")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    status, _, err = run_cli(monkeypatch, capsys, "index", there, "--output", tmp_path / "b.csv", *run_dir)
    assert status == 2 and err.count("\n") == 1 and there in err
    store.check_keys(False)
    store.put("breeds.csv", b"")
    status, _, err = run_cli(monkeypatch, capsys, "index", there, "--output", f"s3://{BUCKET}/breeds.csv", *run_dir)
    assert status == 2 and "exists already" in err and err.count("\n") == 1
    assert list(tmp_path.glob("b.csv*")) == [] and store.keys("breeds.csv") == ["breeds.csv"]


def test_a_bucket_that_may_not_be_looked_into_is_one_line(tiny_run, photo_folder, store, tmp_path, monkeypatch, capsys):
    listed = write_list(tmp_path / "list.txt", [str(next(photo_folder.rglob("*.png")))])
    nowhere = f"s3://{BUCKET}/nowhere/breeds.csv"
    status, _, err = run_cli(monkeypatch, capsys, "index", "merge", listed, "--output", nowhere)
    assert status == 2 and "the folder 's3://dogs/nowhere' can't be read" in err and err.count("\n") == 1
    for name, value in store.no_keys().items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    table, run_dir = f"s3://{BUCKET}/breeds.csv", ("--run-dir", tiny_run)
    for arguments, shown in (
        (("index", photo_folder, "--output", table, *run_dir), table),
        (("index", listed, "--output", table, *run_dir), table),
        (("index", photo_folder, "--output", table, "--shard", "1/2", *run_dir), "breeds-00001-of-00002.parquet"),
        (("index", listed, "--output", table, "--shard", "1/2", *run_dir), "breeds-00001-of-00002.parquet"),
        (("index", "merge", listed, "--output", table), table),
        (("evaluate", "--data", photo_folder, "--output", f"s3://{BUCKET}/figures", *run_dir), "figures"),
    ):
        status, out, err = run_cli(monkeypatch, capsys, *arguments)
        assert status == 2 and not out and f"{shown}' can't be read (Forbidden)" in err and err.count("\n") == 1, err


def test_a_folder_is_the_same_with_and_without_a_slash_at_its_end(tiny_run, photo_folder, store, tmp_path):
    store.put_folder(photo_folder / BREED_FOLDERS[0], "photos")
    for end in ("", "/", "//"):
        indexed(tiny_run, f"s3://{BUCKET}/photos{end}", f"s3://{BUCKET}/photos/breeds.csv", shard=Shard(1, 2))
        indexed(tiny_run, f"s3://{BUCKET}/photos{end}", tmp_path / "breeds.csv")
    assert len(rows_of_csv((tmp_path / "breeds.csv").read_bytes())) == 11  # a shard of another table is a file, too


@pytest.fixture
def web(photo_folder):
    """A web server that has the same photo at /1 and /2, and other replies at the paths of their status."""
    photo = next(photo_folder.rglob("*.png")).read_bytes()

    class Replies(BaseHTTPRequestHandler):
        def do_GET(self):
            status = int(self.path[1:]) if len(self.path) == 4 else 200
            self.send_response(status)
            self.end_headers()
            if status == 200:
                self.wfile.write(photo)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Replies) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_photos_on_the_web_that_may_not_be_read_have_a_row_and_a_server_that_fails_stops_it(web, tiny_run, tmp_path):
    host = f"http://127.0.0.1:{web.server_port}"
    listed = write_list(tmp_path / "a.txt", [f"{host}/{path}" for path in (1, 403, 404, 410, 2)])
    indexed(tiny_run, listed, tmp_path / "a.csv")
    rows = {row["path"].rpartition("/")[2]: row for row in rows_of_csv((tmp_path / "a.csv").read_bytes())}
    assert rows["1"]["verdict"] == rows["2"]["verdict"] != "" and "There is no file" in rows["404"]["error"]
    assert "can't be read (HTTP status 403)" in rows["403"]["error"] and "410" in rows["410"]["error"]
    nobody = "http://127.0.0.1:9"  # nothing listens there
    for number, address in enumerate((f"{host}/401", f"{host}/503", f"{nobody}/1")):
        listed = write_list(tmp_path / f"{number}.txt", [f"{host}/1", address])
        with pytest.raises(UserError, match=f"'{address}' can't be reached"):
            indexed(tiny_run, listed, tmp_path / f"{number}.csv")


def test_a_network_that_fails_stops_the_run_and_costs_no_row(tiny_run, library_folder, store, tmp_path, monkeypatch):
    """A photo that can't be fetched for now must not get a row, which would be kept."""
    store.put_folder(library_folder, "photos")
    monkeypatch.setattr(library, "BATCH_SIZE", 2)
    monkeypatch.setattr(library, "on_all_cores", lambda function, items, num_ahead: map(function, items))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    read, num_read = photos_module.read_beginnings, []

    def unplugged(found):
        num_read.append(len(found))
        if len(num_read) == 3:
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nothing listens there
        return read(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photos_module, "read_beginnings", unplugged)
        with pytest.raises(UserError, match="can't be reached") as error:
            indexed(tiny_run, f"s3://{BUCKET}/photos", tmp_path / "breeds.csv")
    assert "\n" not in str(error.value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    with closing(sqlite3.connect(tmp_path / "breeds.csv.partial")) as connection:
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (4,)
    indexed(tiny_run, f"s3://{BUCKET}/photos", tmp_path / "breeds.csv")
    rows = rows_of_csv((tmp_path / "breeds.csv").read_bytes())
    assert len(rows) == 15 and sorted(row["path"] for row in rows if row["error"]) == ["empty.jpg", "text.jpg"]


# Lists


def test_a_list_that_has_changed_is_named(tiny_run, library_folder, tmp_path):
    listed = write_list(library_folder / "list.txt", ["text.jpg", "empty.jpg", f"{BREED_FOLDERS[0]}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "write_table", lambda *arguments: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(UserError, match="No space left"):
            indexed(tiny_run, listed, tmp_path / "breeds.csv")
    write_list(listed, ["text.jpg", "another.jpg"])
    with pytest.raises(UserError, match=r"breeds.csv.partial' was begun with another list, or the list has changed"):
        indexed(tiny_run, listed, tmp_path / "breeds.csv")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", None, "there is no list"),
        ("empty.txt", b"\n\n", "names no photos"),
        ("text.parquet", b"no table", "can't be read"),
        ("columns.parquet", {"file": ["a"]}, 'has no column "path"'),
        ("numbers.parquet", {"path": [1]}, 'has no column "path"'),
        ("null.parquet", {"path": ["a", None]}, "no path in row 2"),
        ("columns.csv", b"file;path\na;b\n", 'has no column "path"'),
        ("null.csv", b"label,path\na,b\nc\n", "no path in row 2"),
        ("empty.csv", b"", 'has no column "path"'),
    ],
)
def test_a_bad_list_is_one_line(name, content, words, tiny_run, tmp_path, monkeypatch, capsys):
    if isinstance(content, dict):
        pyarrow.parquet.write_table(pyarrow.table(content), tmp_path / name)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    arguments = ("index", tmp_path / name, "--output", tmp_path / "breeds.csv", "--run-dir", tiny_run)
    status, out, err = run_cli(monkeypatch, capsys, *arguments)
    assert status == 2 and not out and words in err and name in err and err.count("\n") == 1


def test_a_text_list_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "list.txt").write_text("Hündin.png\nb.png\n", encoding="utf-8-sig")
    with open_paths(tmp_path / "list.txt") as paths:
        assert list(paths) == list(paths) == ["Hündin.png", "b.png"]


def test_lists_keep_names_that_are_no_valid_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.png\r\nb.png")
    pyarrow.parquet.write_table(pyarrow.table({"path": [b"caf\xe9.png", b"b.png"]}), tmp_path / "list.parquet")
    (tmp_path / "list.csv").write_bytes(b"path\r\ncaf\xe9.png\r\nb.png\r\n")
    for ending in ("txt", "csv", "parquet"):
        with open_paths(tmp_path / f"list.{ending}") as paths:
            assert list(paths) == list(paths) == [name, "b.png"]
            assert paths.place(name) == tmp_path / name


def test_what_is_an_address():
    assert place("s3://bucket/a b.jpg").parent == Address("s3://bucket")
    assert place("file:///a/b.jpg") == Path("/a/b.jpg") and place("C:/photos") == Path("C:/photos")
    with pytest.raises(BadImage, match="no file"):  # an upload's name is text, and no address
        open_image("s3://bucket/a.jpg")


# evaluate


def figures(monkeypatch, capsys, data, run_dir, *arguments) -> dict:
    status, out, err = run_cli(
        monkeypatch, capsys, "evaluate", "--data", data, "--run-dir", run_dir, "--json", *arguments
    )
    assert status == 0, err
    found = json.loads(out)
    return {name: found[name] for name in ("n", "top1", "log_loss", "num_trained_on")}


@pytest.mark.slow
def test_evaluate_gives_the_figures_of_the_same_folder(tiny_run, photo_folder, store, tmp_path, monkeypatch, capsys):
    store.put_folder(photo_folder, "labelled")
    expected = figures(monkeypatch, capsys, photo_folder, tiny_run)
    assert expected["n"] == 40
    there = f"s3://{BUCKET}/labelled"
    assert figures(monkeypatch, capsys, there, tiny_run, "--output", f"s3://{BUCKET}/results") == expected
    assert {key.rpartition("/")[2] for key in store.keys("results/")} >= {"evaluation.json", "predictions.parquet"}
    files = sorted(path for path in photo_folder.rglob("*.png"))
    listed = write_list(tmp_path / "list.txt", [str(path) for path in files] + [str(files[0])])
    assert figures(monkeypatch, capsys, listed, tiny_run) == expected
    labelled = write_list(
        tmp_path / "list.parquet",
        [f"{there}/{path.relative_to(photo_folder).as_posix()}" for path in files],
        label=[path.parent.name for path in files],
    )
    assert figures(monkeypatch, capsys, labelled, tiny_run) == expected
    status, _, err = run_cli(monkeypatch, capsys, "evaluate", "--data", there, "--output", f"s3://{BUCKET}/results")
    assert status == 2 and "exists already" in err
    for number, path in enumerate(files):  # split by folders
        store.put(f"split/{('val', 'test')[number % 2]}/{path.relative_to(photo_folder).as_posix()}", path.read_bytes())
    assert figures(monkeypatch, capsys, f"s3://{BUCKET}/split", tiny_run)["n"] == 20


def test_labels_that_contradict_each_other_are_named(tiny_run, photo_folder, tmp_path, monkeypatch, capsys):
    photo = next(photo_folder.rglob("*.png"))
    shutil.copy(photo, tmp_path / "a.png")
    for columns, words in (
        ({"label": [BREED_FOLDERS[0], BREED_FOLDERS[1]]}, "two labels"),
        ({"label": ["beagle", None]}, "no label in row 2"),
        ({}, "is in no folder"),
    ):
        for ending in ("parquet", "csv"):
            listed = write_list(tmp_path / f"list.{ending}", ["a.png", "a.png"], **columns)
            status, _, err = run_cli(monkeypatch, capsys, "evaluate", "--data", listed, "--run-dir", tiny_run)
            assert status == 2 and words in err and err.count("\n") == 1
