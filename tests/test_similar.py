"""index --embeddings, and similar, which finds the photos whose embeddings are nearest."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import copy_without_outputs, make_photo_folder

from dogbreeds.cli import main
from dogbreeds.errors import UserError
from dogbreeds.images import open_image
from dogbreeds.photo_paths import Shard
from dogbreeds.serving import rows as rows_module
from dogbreeds.serving.library import index_library
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.shards import merge


@pytest.fixture
def photos(tmp_path):
    """40 photos of 4 breeds, and a file that is none."""
    folder = make_photo_folder(tmp_path / "photos")
    (folder / "text.jpg").write_bytes(b"no photo")
    return folder


def index(run, photos, output, **options):
    return index_library(run, photos, output, progress=False, **{"embeddings": True, **options})


def command(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["dogbreeds", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


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
        status, out, err = command(monkeypatch, capsys, "index", photos, "--embeddings", *arguments)
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
