import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

FINE = {"name": "fine", "version": "1", "vulns": []}
HOLE = {"name": "old", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "private", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        ([FINE], 0, "1 packages without a known hole"),
        ([FINE, HOLE], 1, "old 1 has CVE-1, mended in 2"),
        ([HOLE, UNKNOWN], 1, "NOT DONE for 1 of 2 packages"),
        ([FINE, UNKNOWN], 0, "NOT DONE for 1 of 2 packages"),
        (None, 0, "NOT DONE, the vulnerability service can't be reached (Connection refused)"),
    ],
)
def test_known_holes_fail_and_what_is_not_known_is_told(packages, status, words, tmp_path):
    said = f"print({json.dumps({'dependencies': packages})!r})" if packages else "exit('Connection refused')"
    (tmp_path / "pip_audit.py").write_text(said)
    audit = subprocess.run(
        [sys.executable, ROOT / ".ci/audit.py"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert audit.returncode == status and words in audit.stdout
