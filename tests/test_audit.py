import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

SAFE = {"name": "safe", "version": "1", "vulns": []}
VULNERABLE = {"name": "old", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "private", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "status", "message"),
    [
        ([SAFE], 0, "1 packages without a known vulnerability"),
        ([SAFE, VULNERABLE], 1, "old 1 has CVE-1, fixed in 2"),
        ([VULNERABLE, UNKNOWN], 1, "NOT DONE for 1 of 2 packages"),
        ([SAFE, UNKNOWN], 0, "NOT DONE for 1 of 2 packages"),
        (None, 0, "NOT DONE, the vulnerability service can't be reached (Connection refused)"),
    ],
)
def test_known_vulnerabilities_fail_and_unknown_packages_are_reported(packages, status, message, tmp_path):
    script = f"print({json.dumps({'dependencies': packages})!r})" if packages else "exit('Connection refused')"
    (tmp_path / "pip_audit.py").write_text(script)
    audit = subprocess.run(
        [sys.executable, ROOT / ".ci/audit.py"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert audit.returncode == status and message in audit.stdout
