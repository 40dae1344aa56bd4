"""Runs to the Hub and back, and a Space in an environment of its own, against a stand-in for the Hub."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from conftest import ROOT, make_photo, tiny_config
from huggingface_hub import ModelCard, metadata_load
from packaging.requirements import Requirement
from stand_in_hub import TOKEN, StandInHub, use_hub

from dogbreeds.dog_probe import DogProbe
from dogbreeds.errors import UserError
from dogbreeds.hub import HubId, announce
from dogbreeds.run_folder import RunFolder, unique_names
from dogbreeds.serving import zero_gpu
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.publish import publish_model, publish_space
from dogbreeds.training.save_run import from_hub
from tests.served_page import served_page

CLOSED = "http://127.0.0.1:9"
"""Where nobody listens."""


@pytest.fixture(scope="module")
def hub():
    with StandInHub() as stand_in:
        yield stand_in


@pytest.fixture
def here(hub, monkeypatch, tmp_path):
    """This process talks to the stand-in, with a token and an empty cache."""
    use_hub(hub.address, tmp_path / "cache", monkeypatch)
    hub.repositories.clear()
    hub.downloads.clear()
    return hub


def dogbreeds(*words, home, endpoint, token=TOKEN, folder=ROOT, python=sys.executable):
    """Run the command line as its user does."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [str(python), "-m", "dogbreeds", *map(str, words)],
        env={**inherited, **settings},
        cwd=folder,
        capture_output=True,
        text=True,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def photo_in(folder: Path) -> Path:
    make_photo(2, 77, (300, 260)).save(folder / "photo.png")
    return folder / "photo.png"


@pytest.mark.slow
def test_a_run_is_pushed_and_answers_from_the_hub(hub, tiny_run, tmp_path):
    settings = {"home": tmp_path / "home", "endpoint": hub.address}
    pushed = dogbreeds("publish", "model", tiny_run, "--repo-id", "me/there-and-back", **settings)
    assert (pushed.returncode, pushed.stdout) == (0, f"{hub.address}/me/there-and-back\n"), pushed.stderr
    assert pushed.stderr.startswith("note: who sees me/there-and-back sees ") and pushed.stderr.count("\n") == 1
    repository = hub.repositories["model", "me/there-and-back"]
    publish_model(tiny_run, repo_id="me/there-and-back", dry_run=tmp_path / "dry")
    assert repository.files == files_of(tmp_path / "dry")
    run = files_of(tiny_run)
    assert "model.safetensors" in run and "onnx/model.onnx" in run and repository.files == run

    hub.downloads.clear()
    photo = photo_in(tmp_path)
    answer = dogbreeds("predict", photo, "--json", "--run-dir", "me/there-and-back", **settings)
    assert answer.returncode == 0, answer.stderr
    sha = repository.newest
    assert answer.stderr == f"me/there-and-back on the Hugging Face Hub is me/there-and-back@{sha}\n"
    expected = Predictor(tiny_run).predict(photo)
    told = json.loads(answer.stdout)["breeds"]
    assert [row["breed"] for row in told] == [candidate.breed for candidate in expected.breeds]
    assert [row["probability"] for row in told] == [candidate.probability for candidate in expected.breeds]
    assert "model.safetensors" not in hub.downloads
    (snapshot,) = (tmp_path / "home").rglob(f"snapshots/{sha}")
    assert files_of(snapshot).items() <= run.items()


def test_what_no_longer_belongs_to_the_run_is_removed(here, tiny_run, tmp_path):
    publish_model(tiny_run, repo_id="me/run")
    old = here.repositories["model", "me/run"].newest
    smaller = shutil.copytree(tiny_run, tmp_path / "run")
    (smaller / "model.safetensors").unlink()
    for name in ("state/optimizer.bin", "logs/events", "onnx/model.pt", "notes.pkl"):
        (smaller / name).parent.mkdir(exist_ok=True)
        (smaller / name).write_bytes(b"not to be given away")
    publish_model(smaller, repo_id="me/run")
    now = here.repositories["model", "me/run"].files
    expected = files_of(tiny_run)
    del expected["model.safetensors"]
    assert now.keys() == expected.keys() and b"- name: run" in now.pop("README.md") and expected.items() >= now.items()
    assert "model.safetensors" in here.repositories["model", "me/run"].commits[old]


def test_what_is_not_pushed_is_named(tiny_run, tmp_path, capsys):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for name in ("state/optimizer.bin", "logs/events"):
        (run / name).parent.mkdir()
        (run / name).write_bytes(b"")
    publish_model(run, repo_id="me/run", dry_run=tmp_path / "dry")
    assert capsys.readouterr().err == "not pushed: logs, state\n"


def test_what_others_see_of_their_owner_is_named(here, tiny_run, tmp_path, capsys):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["config"] = {name: value for name, value in record["config"].items() if not str(value).startswith("/")}
    record["config"]["data"] = "photos"
    record["command"] = "python train_vit.py --data s3://bucket/photos --output-dir runs/vit"
    record["calibration"]["dog_probe"] = DogProbe(np.full(32, np.nextafter(1, 0, dtype=np.float32)), 0.5).to_text()
    (run / "run.json").write_text(json.dumps(record))
    names = "the names of photos in predictions-test.parquet, predictions-validation.parquet"
    told = f"note: who sees me/run sees {names}: --private, or its settings, keep that to you\n"
    publish_model(run, repo_id="me/run")
    assert record["calibration"]["dog_probe"].startswith("/") and capsys.readouterr().err == told
    record["calibration_command"] = "python -m dogbreeds calibrate run --data '/home/anna/my dogs'"
    (run / "run.json").write_text(json.dumps(record))
    publish_model(run, repo_id="me/run")
    assert capsys.readouterr().err == told.replace(
        "sees the", "sees paths of this machine in run.json (such as /home/anna/my) and the"
    )
    publish_space(run, repo_id="me/space")
    told = "note: who sees me/space sees paths of this machine in run.json (such as /home/anna/my): --private, or"
    assert capsys.readouterr().err.startswith(told)
    publish_model(run, repo_id="me/secret", private=True)
    publish_model(run, repo_id="me/run", dry_run=tmp_path / "dry")
    assert capsys.readouterr().err == ""


def test_a_revision_is_answered_from_that_revision(here, tiny_run, tmp_path, capsys):
    publish_model(tiny_run, repo_id="me/run")
    sha = here.repositories["model", "me/run"].newest
    here.repositories["model", "me/run"].commit({"run.json": b"damaged"})
    with pytest.raises(UserError, match=r"run\.json.* is damaged"):
        RunFolder.open("me/run")
    capsys.readouterr()
    run = RunFolder.open(Path(f"me/run@{sha}"))
    assert run.origin == HubId("me/run", sha) and run.name == "run" and capsys.readouterr().err == ""
    for revision in (sha[:7], "v2"):
        with pytest.raises(UserError, match=f"has no revision '{revision}': name a branch"):
            RunFolder.open(f"me/run@{revision}")
    here.repositories.clear()  # without the Hub, what was fetched answers
    assert RunFolder.open(f"me/run@{sha}").labels == run.labels


def test_a_file_that_was_changed_on_the_hub_is_refused(here, tiny_run):
    publish_model(tiny_run, repo_id="me/run")
    repository = here.repositories["model", "me/run"]
    repository.commit({**repository.files, "onnx/model.onnx": b"another model"})
    with pytest.raises(UserError, match=r"onnx/model\.onnx is not the file that run\.json describes"):
        RunFolder.open("me/run")


def test_a_folder_of_that_name_goes_before_the_hub(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, tmp_path / "me" / "run")
    assert RunFolder.open("me/run").origin is None
    (tmp_path / "me" / "next.partial").mkdir()
    with pytest.raises(UserError, match="--resume"):
        RunFolder.open("me/next")


def test_the_card_has_the_figures_as_the_hub_reads_them(tiny_run):
    record = RunFolder.open(tiny_run).record
    data = ModelCard.load(tiny_run / "README.md").data
    assert (data.pipeline_tag, data.library_name, data.model_name) == ("image-classification", "transformers", "tiny")
    told = {(result.dataset_split, result.metric_name): result.metric_value for result in data.eval_results}
    for split, figures in record.figures.items():
        assert told[split, "top-1 accuracy"] == pytest.approx(figures["top1"], abs=5e-5)
        assert told[split, "top-3 accuracy"] == pytest.approx(figures["top3"], abs=5e-5)
        assert told[split, "expected calibration error"] == pytest.approx(figures["ece"], abs=5e-5)
    assert {result.task_type for result in data.eval_results} == {"image-classification"}
    assert {result.dataset_name for result in data.eval_results} == {Path(record.config["data"]).name}
    assert "datasets" not in data.to_dict() and "base_model" not in data.to_dict()  # both are folders here


def test_a_card_from_before_gets_the_figures_and_keeps_its_words(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "tiny")
    record = json.loads((run / "run.json").read_text())
    record["hub"] = {"data": "someone/dogs", "model": "someone/vit"}
    (run / "run.json").write_text(json.dumps(record))
    (run / "README.md").write_text("---\nlicense: mit\ntags: [dogs]\n---\n# Mine\n\nWhat I say of it.\n")
    publish_model(run, repo_id="me/run", dry_run=tmp_path / "dry")
    card = ModelCard.load(tmp_path / "dry" / "README.md")
    assert card.text.strip() == "# Mine\n\nWhat I say of it." and card.data.license == "mit"
    assert card.data.datasets == ["someone/dogs"] and card.data.base_model == "someone/vit"
    assert {result.dataset_type for result in card.data.eval_results} == {"someone/dogs"}
    (run / "README.md").unlink()
    publish_model(run, repo_id="me/run", dry_run=tmp_path / "anew")
    assert "Tells 4 dog breeds" in (tmp_path / "anew" / "README.md").read_text()


def test_what_came_from_the_hub_is_remembered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny_config("someone/dogs", tmp_path / "run", model="google/vit")
    assert from_hub(config) == {"data": "someone/dogs", "model": "google/vit"}
    assert from_hub(config.replace(from_scratch=True)) == {"data": "someone/dogs"}
    (tmp_path / "someone" / "dogs").mkdir(parents=True)
    assert from_hub(config.replace(model="resnet50"))["model"] == "microsoft/resnet-50"
    assert from_hub(config.replace(model="vit_nano")) == {}
    (tmp_path / "someone" / "photos.csv").touch()  # a list has the form of an id, too
    assert from_hub(tiny_config("someone/photos.csv", tmp_path / "run", model="vit_nano")) == {}


def test_runs_of_the_hub_are_told_apart(tiny_run):
    run = RunFolder.open(tiny_run)
    mine, yours = (replace(run, origin=HubId(f"{owner}/dogs", "c0ffee")) for owner in ("me", "you"))
    assert unique_names([mine, run]) == ["dogs", "tiny"]
    assert unique_names([mine, yours])[0] == "me/dogs@c0ffee"


@pytest.mark.slow
def test_a_space_with_a_model_of_the_hub(hub, tiny_run, tmp_path):
    settings = {"home": tmp_path / "home", "endpoint": hub.address}
    for words in (
        ("model", tiny_run, "--repo-id", "me/model"),
        ("space", "--repo-id", "me/space", "--model", "me/model"),
    ):
        pushed = dogbreeds("publish", *words, **settings)
        assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout == f"{hub.address}/spaces/me/space\n"
    space, sha = hub.repositories["space", "me/space"], hub.repositories["model", "me/model"].newest
    assert space.asked["sdk"] == "gradio" and space.asked["hardware"] == "zero-a10g"
    dry = dogbreeds("publish", *words, "--dry-run", tmp_path / "dry", **settings)
    assert (dry.returncode, dry.stdout) == (0, f"{tmp_path / 'dry'}\n"), dry.stderr
    assert space.files == files_of(tmp_path / "dry")
    metadata = metadata_load(tmp_path / "dry" / "README.md")
    assert metadata["models"] == ["me/model"] and metadata["sdk_version"] == version("gradio")
    (preload,) = metadata["preload_from_hub"]
    repo, names, commit = preload.split()
    assert (repo, commit) == ("me/model", sha)
    assert {"run.json", "config.json", "preprocessor_config.json", "onnx/model.onnx"} <= set(names.split(","))
    assert "model.safetensors" not in names

    answer = dogbreeds("predict", photo_in(tmp_path), folder=tmp_path / "dry", **settings)
    assert answer.returncode == 0 and "Beagle" in answer.stdout, answer.stderr


@pytest.fixture(scope="module")
def space(tiny_run, tmp_path_factory):
    """A Space with a run of its own, as it would be pushed."""
    folder = tmp_path_factory.mktemp("space") / "files"
    publish_space(tiny_run, repo_id="me/space", dry_run=folder)
    return folder


def test_a_space_is_lean(space):
    names = set(files_of(space))
    assert {"app.py", "README.md", "requirements.txt", "LICENSE", "dogbreeds/pretrained/tiny/run.json"} <= names
    assert {f"dogbreeds/serving/page/locales/{language}.toml" for language in ("en", "fr")} <= names
    for part in ("training", "research", "mobilenet_v2", "safetensors", "predictions-", ".pyi"):
        assert not [name for name in names if part in name and name != "dogbreeds/predictions.py"], part
    assert (space / "requirements.txt").read_text() == (ROOT / "dogbreeds/serving/requirements.txt").read_text()
    assert (space / "app.py").read_text() == (ROOT / "app.py").read_text()
    metadata = metadata_load(space / "README.md")
    assert metadata["sdk"] == "gradio" and (space / metadata["app_file"]).is_file() and "models" not in metadata


@pytest.mark.slow
def test_a_space_runs_with_its_own_requirements_only(space, tmp_path):
    python = environment(space / "requirements.txt", tmp_path / "venv")
    torch = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in torch.stderr
    photo = photo_in(tmp_path)
    answer = dogbreeds("predict", photo, home=tmp_path, endpoint=CLOSED, folder=space, python=python)
    assert answer.returncode == 0 and "Beagle" in answer.stdout, answer.stderr
    with (
        served_page([python, "app.py"], folder=space) as (address, _),
        urllib.request.urlopen(f"{address}/gradio_api/info") as response,
    ):
        assert "/predict" in json.load(response)["named_endpoints"]


def environment(requirements: Path, folder: Path) -> Path:
    """A fresh virtual environment; its Python."""
    python = folder / "bin" / "python"
    if uv := shutil.which("uv"):
        make = [uv, "venv", "--python", sys.executable, folder]
        install = [uv, "pip", "install", "--python", python, "-r", requirements]
    else:
        make = [sys.executable, "-m", "venv", folder]
        install = [python, "-m", "pip", "install", "-r", requirements]
    for command in (make, install):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        if done.returncode:
            reason = f"no fresh environment can be made here: {done.stderr.strip()[-300:]}"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return python


def one_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.slow
def test_without_a_network_one_line_says_so(tiny_run, tmp_path):
    asked = dogbreeds("predict", "photo.png", "--run-dir", "me/run", home=tmp_path, endpoint=CLOSED)
    assert "'me/run' is neither a folder here nor in the local cache, and the Hugging Face Hub can't" in one_line(asked)
    pushed = dogbreeds("publish", "model", tiny_run, "--repo-id", "me/run", home=tmp_path, endpoint=CLOSED)
    assert "nothing was pushed to 'me/run', and the Hugging Face Hub can't be reached" in one_line(pushed)


def test_without_a_token_one_line_says_so(hub, tiny_run, tmp_path):
    pushed = dogbreeds("publish", "model", tiny_run, "--repo-id", "me/x", home=tmp_path, endpoint=hub.address, token="")
    assert "`hf auth login`" in one_line(pushed)


def test_what_the_hub_refuses_is_told(here, tiny_run):
    with pytest.raises(UserError, match="neither a folder 'me/nothing' here nor such a model on the Hugging Face Hub"):
        RunFolder.open("me/nothing")
    with pytest.raises(UserError, match="may not write to 'others/run': name a repository of your own"):
        publish_model(tiny_run, repo_id="others/run")
    publish_model(tiny_run, repo_id="me/run")
    with pytest.raises(UserError, match="exists and is public"):
        publish_model(tiny_run, repo_id="me/run", private=True)
    publish_model(tiny_run, repo_id="me/secret", private=True)
    here.repositories["model", "me/run"].gated = True
    with pytest.raises(UserError, match="given on request: ask for it at"):
        RunFolder.open("me/run")


def test_a_repository_of_something_else_is_not_replaced(here, tiny_run):
    publish_model(tiny_run, repo_id="me/run")
    repository = here.repositories["model", "me/run"]
    repository.commit({"book.txt": b"years of work"})
    with pytest.raises(UserError, match=r"holds other files, such as 'book\.txt', and is not replaced"):
        publish_model(tiny_run, repo_id="me/run")
    assert repository.files == {"book.txt": b"years of work"}


@pytest.mark.parametrize("repo_id", ["run", "me/run/more", "me/run@main", "me /run", "../run"])
def test_a_repository_of_the_wrong_form_is_named(tiny_run, repo_id):
    for publish in (publish_model, publish_space):
        with pytest.raises(UserError, match="must be USER/NAME") as error:
            publish(tiny_run, repo_id=repo_id)
        assert repr(repo_id) in str(error.value)


def test_a_dry_run_replaces_nothing(tiny_run, tmp_path):
    with pytest.raises(UserError, match="exists already: give another --dry-run"):
        publish_model(tiny_run, repo_id="me/run", dry_run=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_project_itself_is_a_space():
    metadata = metadata_load(ROOT / "README.md")
    lines = [line.split("#")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()]
    floors = {wanted.name: wanted.specifier for wanted in map(Requirement, filter(None, map(str.strip, lines)))}
    assert metadata["sdk"] == "gradio" and metadata["sdk_version"] in floors["gradio"]
    assert (ROOT / metadata["app_file"]).is_file()
    assert len(metadata["short_description"]) <= 60
    assert tuple(map(int, str(metadata["python_version"]).split("."))) >= (3, 11)
    assert metadata["suggested_hardware"] in set(huggingface_hub.SpaceHardware)


def test_zero_gpu_finds_the_function_it_insists_on(monkeypatch):
    declared = []
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=declared.append))
    zero_gpu.declare()
    assert len(declared) == 1 and callable(declared[0])


def test_without_the_package_of_zero_gpu_nothing_happens(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "spaces", None)
    zero_gpu.declare()
    monkeypatch.delitem(sys.modules, "spaces")
    (tmp_path / "spaces.py").write_text("import a_package_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_missing"):  # not silently no ZeroGPU
        zero_gpu.declare()


def test_of_several_processes_one_reports_what_comes_from_the_hub(here, tiny_run, monkeypatch, capsys):
    publish_model(tiny_run, repo_id="me/run")
    capsys.readouterr()
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        announce("me/run")
        RunFolder.open("me/run")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("looking for me/run") and second.startswith("me/run on the Hugging Face Hub is me/run@")
