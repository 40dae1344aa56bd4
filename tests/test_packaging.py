"""The package that `pip install .` makes, and the lists of what it needs."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT, make_photo
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = ROOT / "dogbreeds"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = PROJECT["dependencies"]
EXTRAS = PROJECT["optional-dependencies"]
UNLOCKED = {"torch", "torchvision", "triton"}  # which of their builds exists depends on the platform
# By gradio, jinja2 and pydantic, which return their types or hand on their functions.
BROUGHT_BY_OTHERS = {"fastapi", "gradio-client", "starlette", "markupsafe", "typing-extensions", "pydantic-core"}


def lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and line[0] != "#"]


def name(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("dogbreeds/serving/requirements.txt", BASE + EXTRAS["serve"]),
        ("requirements.txt", BASE + EXTRAS["serve"] + EXTRAS["train"]),
        ("requirements-dev.txt", ["-r requirements.txt", *EXTRAS["dev"][1:]]),
    ],
)
def test_requirements_files_repeat_the_lists_of_the_project(file, wanted):
    assert sorted(lines(ROOT / file)) == sorted(wanted)


def test_the_citation_is_of_this_version():
    assert f"version: {PROJECT['version']}" in lines(ROOT / "CITATION.cff")


def test_ci_runs_the_tests_that_are_left_out_by_default():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    (left_out,) = re.findall(r"-m 'not (\w+)'", options)
    assert f".venv/bin/pytest -m {left_out}" in lines(ROOT / ".ci/run")


def test_development_needs_everything():
    assert EXTRAS["dev"][0] == "dogbreeds[serve,train]"


def test_every_import_is_declared():
    extras = ("serve", "train", "ray", "similar", "video", "mcp")
    needed = BASE + [package for extra in extras for package in EXTRAS[extra]]
    declared = {name(requirement) for requirement in needed} | BROUGHT_BY_OTHERS
    declared.add("spaces")  # there on ZeroGPU only
    distributions = packages_distributions()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in {module.split(".")[0] for module in modules} - sys.stdlib_module_names - {"dogbreeds"}:
                found = {canonicalize_name(distribution) for distribution in distributions.get(module, [module])}
                assert found & declared, f"{file.name} imports {module}"


def locked(file: str) -> dict[str, set[tuple[str, ...]]]:
    """By name, the version and the hashes of each entry: more than one where the version depends on the platform."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for entry in "\n".join(lines(ROOT / file)).replace("\\\n", "").splitlines():
        requirement, *hashes = entry.split("--hash=")
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64} *", each) for each in hashes), entry
        (pin,) = Requirement(requirement).specifier
        assert pin.operator == "=="
        found.setdefault(name(requirement), set()).add((pin.version, *map(str.strip, hashes)))
    return found


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        (".ci/lock.txt", [*BASE, *EXTRAS["serve"], *EXTRAS["train"], *EXTRAS["dev"][1:]]),
        ("dogbreeds/serving/lock.txt", [*BASE, *EXTRAS["serve"]]),
    ],
)
def test_the_locks_hold_a_version_and_hashes_of_everything_that_is_asked_for(file, wanted):
    entries = locked(file)
    assert not [each for each in entries if each in UNLOCKED or each.startswith(("nvidia-", "cuda-"))]
    for requirement in map(Requirement, wanted):
        for version, *_ in entries[canonicalize_name(requirement.name)] if requirement.name not in UNLOCKED else ():
            assert version in requirement.specifier, requirement


def test_a_server_gets_the_versions_that_ci_tests():
    tested = locked(".ci/lock.txt")
    for package, entries in locked("dogbreeds/serving/lock.txt").items():
        assert entries <= tested[package]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which the package was built and installed, from a copy, for building leaves files behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for text in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / text, source)
    shutil.copytree(PACKAGE, source / "dogbreeds", ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))
    (source / "dogbreeds" / "stub.pyi").touch()  # gradio writes such files beside its components
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", target, source]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def run(installed: Path, folder: Path, *command: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_everything_but_stubs_is_installed(installed):
    def files(folder: Path) -> set[str]:
        found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
        return {str(file) for file in found if "__pycache__" not in file.parts}

    wanted = {file for file in files(PACKAGE) if not file.endswith(".pyi")}
    assert files(installed / "dogbreeds") == wanted


@pytest.mark.slow
def test_the_installed_package_answers_from_any_folder(installed, tmp_path):
    make_photo(0, 0).save(tmp_path / "photo.png")
    where = run(installed, tmp_path, "-c", "import dogbreeds; print(dogbreeds.__file__)")
    assert Path(where.stdout.strip()) == installed / "dogbreeds" / "__init__.py", where.stderr
    for program in (["-m", "dogbreeds"], [installed / "bin" / "dogbreeds"]):
        answer = run(installed, tmp_path, *program, "predict", "photo.png")
        assert answer.returncode == 0 and answer.stdout.startswith("photo.png: "), answer.stderr


@pytest.mark.slow
def test_a_space_can_be_published_from_a_clone_only(installed, tmp_path):
    done = run(
        installed, tmp_path, "-m", "dogbreeds", "publish", "space", "--repo-id", "me/space", "--dry-run", "space"
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "clone" in done.stderr
    assert not (tmp_path / "space").exists()
