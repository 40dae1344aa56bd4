"""The program of scale.md that labels photos on Daft gives the rows of index."""

import os
import re
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT, make_photo_folder

from dogbreeds.run_folder import DEFAULT_RUN
from dogbreeds.serving.library import index_library


@pytest.mark.slow
def test_daft_gives_the_rows_of_index(tmp_path):
    pytest.importorskip("daft", reason="daft is not installed (pip install daft)")
    page = (ROOT / "dogbreeds/docs/scale.md").read_text()
    (program,) = re.findall(r"```python\n(import daft\n.*?)```", page, re.DOTALL)
    paths = [*map(str, make_photo_folder(tmp_path / "photos").rglob("*.png")), str(tmp_path / "no such file.jpg")]
    listed = tmp_path / "photos.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"path": paths}), listed)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DAFT_ANALYTICS_ENABLED": "0", "DAFT_PROGRESS_BAR": "0"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=120)
    index_library(DEFAULT_RUN, listed, tmp_path / "index.parquet", progress=False)
    found, expected = (
        sorted(pyarrow.parquet.read_table(tmp_path / name).to_pylist(), key=lambda row: row["path"])
        for name in ("breeds", "index.parquet")
    )
    assert len(found) == len(expected) == 41
    for row, by_index in zip(found, expected, strict=True):
        assert row == pytest.approx(by_index, abs=1e-3)  # other photos are in its forward pass
