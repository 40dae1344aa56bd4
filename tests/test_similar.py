"""index --embeddings, and similar, which finds the photos whose embeddings are nearest."""

import json
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import copy_without_outputs, make_photo_folder, run_cli

from dogbreeds.errors import UserError
from dogbreeds.files import sha256
from dogbreeds.images import open_image
from dogbreeds.photo_paths import Shard
from dogbreeds.run_folder import RECORD, RunFolder, serving_files
from dogbreeds.serving import rows as rows_module
from dogbreeds.serving import similar as similar_module
from dogbreeds.serving.library import index_library
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.shards import merge
from dogbreeds.serving.similar import SimilarPhotos


@pytest.fixture
def photos(tmp_path):
    """40 photos of 4 breeds, and a file that is none."""
    folder = make_photo_folder(tmp_path / "photos")
    (folder / "text.jpg").write_bytes(b"no photo")
    return folder


def index(run, photos, output, **options):
    return index_library(run, photos, output, progress=False, **{"embeddings": True, **options})


def test_each_photo_has_what_the_network_found_in_it(tiny_run, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "ROW_GROUP", 7)
    index(tiny_run, photos, tmp_path / "breeds.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "breeds.parquet")
    predictor = Predictor(tiny_run)
    for row in table.to_pylist():
        if row["error"]:
            assert row["features"] is None
            continue
        expected = predictor.outputs([open_image(photos / row["path"])]).features[0]
        assert table.schema.field("features").type == pyarrow.list_(pyarrow.float16(), len(expected))
        assert np.asarray(row["features"], np.float32) == pytest.approx(expected, rel=2e-3, abs=2e-3)
    index(tiny_run, photos, tmp_path / "plain.parquet", embeddings=False)
    assert pyarrow.parquet.read_table(tmp_path / "plain.parquet").equals(table.drop_columns("features"))


def test_shards_keep_it(tiny_run, photos, tmp_path, monkeypatch):
    index(tiny_run, photos, tmp_path / "whole.parquet")
    for number in (1, 2):
        index(tiny_run, photos, tmp_path / "breeds.parquet", shard=Shard(number, 2))
    with pytest.raises(UserError, match=r"can't hold the embeddings .* ends in \.parquet"):
        merge(photos, tmp_path / "breeds.csv")
    merge(photos, tmp_path / "breeds.parquet")
    whole, merged = (pyarrow.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "breeds"))
    assert merged.schema.equals(whole.schema) and merged.sort_by("path").equals(whole.sort_by("path"))


def test_a_table_begun_without_it_is_not_continued(tiny_run, photos, tmp_path):
    index(tiny_run, photos, tmp_path / "breeds.parquet", embeddings=False)
    before = (tmp_path / "breeds.parquet").read_bytes()
    with pytest.raises(UserError, match=r"begun with embeddings None, not \d+: delete it"):
        index(tiny_run, photos, tmp_path / "breeds.parquet")
    assert (tmp_path / "breeds.parquet").read_bytes() == before


def test_what_can_not_hold_or_give_it_is_refused_at_once(tiny_run, photos, tmp_path, monkeypatch, capsys):
    without = copy_without_outputs(tiny_run, tmp_path / "without", "features")
    monkeypatch.chdir(tmp_path)
    for arguments, words in (
        (("--output", "breeds.csv", "--run-dir", tiny_run), "--embeddings can't be kept in 'breeds.csv'"),
        (("--output", "breeds.parquet", "--run-dir", without), "'without' gives no features for --embeddings"),
    ):
        status, out, err = run_cli(monkeypatch, capsys, "index", photos, "--embeddings", *arguments)
        assert status == 2 and not out and words in err and err.count("\n") == 1
        assert not list(tmp_path.glob("breeds*"))


def test_features_too_large_for_float16_are_refused(tiny_run, photos, tmp_path, monkeypatch):
    outputs = Predictor.outputs

    def large(self, images):
        found = outputs(self, images)
        return type(found)(found.logits, found.features * 1e6)

    monkeypatch.setattr(Predictor, "outputs", large)
    with pytest.raises(UserError, match="too large for float16"):
        index(tiny_run, photos, tmp_path / "breeds.parquet")


# similar


@pytest.fixture
def table(tiny_run, photos, tmp_path):
    """The table of the photos, with the first one again under another name."""
    folder = photos / "n02085620-Chihuahua"
    shutil.copy(folder / "n02085620-Chihuahua_0.png", folder / "again.png")
    index(tiny_run, photos, tmp_path / "breeds.parquet")
    return tmp_path / "breeds.parquet"


def similar(monkeypatch, capsys, run, table, *arguments) -> tuple[int, list[dict], str]:
    status, out, err = run_cli(monkeypatch, capsys, "similar", *arguments, "--index", table, "--run-dir", run, "--json")
    return status, [json.loads(line) for line in out.splitlines()], err


def cosines(table, features: np.ndarray) -> dict[str, float]:
    """Of every photo of a table, computed without an index."""
    rows = [row for row in pyarrow.parquet.read_table(table).to_pylist() if row["features"]]
    vectors = np.array([row["features"] for row in rows], np.float64)
    values = vectors @ features / np.linalg.norm(vectors, axis=1) / np.linalg.norm(features)
    return {row["path"]: value for row, value in zip(rows, values.tolist(), strict=True)}


@pytest.mark.parametrize("exact_up_to", [20_000, 100])
def test_the_nearest_of_many_are_found(tiny_run, tmp_path, monkeypatch, exact_up_to):
    monkeypatch.setattr(similar_module, "EXACT_UP_TO", exact_up_to)
    monkeypatch.setattr(similar_module, "SEARCHED_SHARE", 0.5)
    rng, run = np.random.default_rng(0), RunFolder.open(tiny_run)
    vectors = rng.normal(size=(2000, 24)).astype(np.float16)
    rows = [
        {"path": f"{number:04}.png", "verdict": "unsure", "features": vectors[number].tobytes()}
        for number in range(2000)
    ]
    unreadable = [{"path": f"bad{number}.png", "error": "no photo"} for number in range(500)]
    every = [row for pair in zip(rows, unreadable * 4, strict=True) for row in pair]
    counts = {"unsure": 2000, "unreadable": 2000}
    origin = {
        "embeddings": 24,
        "counts": counts,
        **{name: run.record.sha256[name] for name in serving_files(run.record)},
    }
    table = tmp_path / "breeds.parquet"
    rows_module.write_table(table, every, rows_module.columns(2, True), ".parquet", origin)
    asked = vectors[:10] + 0.1 * rng.normal(size=(10, 24))
    found = SimilarPhotos(table, run).nearest(asked, 3)
    assert [nearest[0].path for nearest in found] == [f"{number:04}.png" for number in range(10)]
    shares = []
    for features, nearest in zip(asked, found, strict=True):
        exact = cosines(table, features)
        assert [photo.similarity for photo in nearest] == pytest.approx(
            [exact[photo.path] for photo in nearest], abs=1e-3
        )
        shares += [photo.path in sorted(exact, key=exact.get)[-3:] for photo in nearest]
    assert np.mean(shares) >= (0.99 if exact_up_to > 2000 else 0.7)


def test_the_command_names_the_nearest_first(tiny_run, photos, table, monkeypatch, capsys):
    asked = photos / "n02085620-Chihuahua" / "n02085620-Chihuahua_0.png"
    status, (found,), err = similar(monkeypatch, capsys, tiny_run, table, asked, "--top-k", 5)
    assert status == 0 and found["path"] == str(asked) and found["error"] is None
    assert err == f"making the index '{table}.faiss' of 41 photos, once\n"
    expected = cosines(table, Predictor(tiny_run).features(asked)[0])
    assert [row["similarity"] for row in found["similar"]] == pytest.approx(
        sorted(expected.values(), reverse=True)[:5], abs=2e-3
    )
    for row in found["similar"]:
        assert row["similarity"] == pytest.approx(expected[row["path"]], abs=2e-3)


def test_a_file_that_is_no_photo_costs_the_others_nothing(tiny_run, photos, table, monkeypatch, capsys):
    good = photos / "n02085620-Chihuahua" / "again.png"
    status, (bad, found), _ = similar(monkeypatch, capsys, tiny_run, table, photos / "text.jpg", good)
    assert status == 1 and bad["similar"] == [] and bad["error"] and len(found["similar"]) == 10
    status, (found,), _ = similar(monkeypatch, capsys, tiny_run, table, good, "--top-k", 100)
    assert status == 0 and len(found["similar"]) == 41
    status, out, err = run_cli(
        monkeypatch, capsys, "similar", good, photos / "text.jpg", "--index", table, "--run-dir", tiny_run
    )
    assert status == 1 and err.count("\n") == 1 and out.splitlines()[0] == f"{good}:"
    assert out.splitlines()[1].startswith("  1.000  n02085620-Chihuahua/") and len(out.splitlines()) == 11


def test_the_index_is_made_once_and_anew_when_the_table_has_changed(tiny_run, photos, table, monkeypatch, capsys):
    asked = photos / "n02085620-Chihuahua" / "again.png"
    similar(monkeypatch, capsys, tiny_run, table, asked)
    index_file = table.with_name("breeds.parquet.faiss")
    made = index_file.stat().st_mtime_ns
    _, _, err = similar(monkeypatch, capsys, tiny_run, table, asked)
    assert not err and index_file.stat().st_mtime_ns == made
    shutil.copy(asked, photos / "new.png")
    index(tiny_run, photos, table)
    _, (found,), err = similar(monkeypatch, capsys, tiny_run, table, asked, "--top-k", 50)
    assert "of 42 photos" in err and "new.png" in [row["path"] for row in found["similar"]]
    content = index_file.read_bytes()
    index_file.write_bytes(content[:100] + content[-32:])
    with pytest.raises(UserError, match="is damaged: remove it, and it is made again"):
        SimilarPhotos(table, RunFolder.open(tiny_run))
    index_file.write_bytes(b"short")
    assert SimilarPhotos(table, RunFolder.open(tiny_run)).nearest(Predictor(tiny_run).features(asked), 1)


def test_an_index_among_the_photos_is_no_photo(tiny_run, photos, monkeypatch, capsys):
    index(tiny_run, photos, photos / "breeds.parquet")
    similar(monkeypatch, capsys, tiny_run, photos / "breeds.parquet", photos / "n02085620-Chihuahua_0.png")
    assert (photos / "breeds.parquet.faiss").exists()
    assert index(tiny_run, photos, photos / "breeds.parquet").counts.total() == 41


def test_mistakes_are_one_line(tiny_run, photos, table, tmp_path, monkeypatch, capsys):
    asked = photos / "n02085620-Chihuahua" / "again.png"
    index(tiny_run, photos, tmp_path / "plain.parquet", embeddings=False)
    index(tiny_run, photos, tmp_path / "plain.csv", embeddings=False)
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a"]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "photo.jpg").write_text("no photo")
    index(tiny_run, tmp_path / "broken", tmp_path / "broken.parquet")
    other = shutil.copytree(tiny_run, tmp_path / "other")
    record = json.loads((other / RECORD).read_text())
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    record["sha256"]["config.json"] = sha256(other / "config.json")
    (other / RECORD).write_text(json.dumps(record))
    for run, named, words in (
        (tiny_run, tmp_path / "nowhere.parquet", "there is no table"),
        (tiny_run, tmp_path / "plain.parquet", "has no embeddings: make a table with index --embeddings"),
        (tiny_run, tmp_path / "plain.csv", "embeddings are in a table that ends in .parquet"),
        (tiny_run, tmp_path / "other.parquet", "is no table of index"),
        (tiny_run, tmp_path / "text.parquet", "is damaged"),
        (tiny_run, tmp_path / "broken.parquet", "holds no photo that could be read"),
        (tiny_run, "memory://breeds.parquet", "copy the table to this machine"),
        (other, table, "holds embeddings of another model than 'other': name its run with --run-dir"),
    ):
        status, found, err = similar(monkeypatch, capsys, run, named, asked)
        assert status == 2 and not found and words in err and err.count("\n") == 1, err
    assert not list(tmp_path.glob("*.faiss"))
    for arguments, words in (((), "no photo is named"), ((asked, "--top-k", 0), "--top-k 0")):
        status, _, err = run_cli(monkeypatch, capsys, "similar", *arguments, "--index", table, "--run-dir", tiny_run)
        assert status == 2 and words in err


def test_a_full_disk_is_one_line(tiny_run, table, monkeypatch):
    def full(index, path):
        raise RuntimeError("Error in write: No space left on device")

    monkeypatch.setattr(similar_module.faiss, "write_index", full)
    with pytest.raises(UserError, match=r"can't write .*: make room"):
        SimilarPhotos(table, RunFolder.open(tiny_run))
    assert [path.name for path in table.parent.glob("*faiss*")] == []
