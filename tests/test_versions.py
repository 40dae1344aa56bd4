"""A run and a report say what they were computed with."""

import platform
import subprocess

import numpy as np

from dogbreeds import versions as versions_module
from dogbreeds.versions import versions


def git(folder, *arguments: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *names, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_checkout_says_its_commit_and_whether_it_was_changed(tmp_path, monkeypatch):
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "tag", "-a", "v1", "-m", "a version")
    monkeypatch.setattr(versions_module, "_CHECKOUT", tmp_path)
    commit = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert versions("numpy") == {
        "dogbreeds": commit,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    (tmp_path / "code.py").write_text("2")
    assert versions()["dogbreeds"] == f"{commit}-dirty"


def test_what_is_installed_below_another_checkout_does_not_say_that_one(tmp_path, monkeypatch):
    git(tmp_path, "init")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "of another project")
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(versions_module, "_CHECKOUT", tmp_path / "site-packages")
    assert versions()["dogbreeds"] not in git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.setattr(versions_module, "version", lambda name: "1.2.3")
    assert versions()["dogbreeds"] == "1.2.3"
