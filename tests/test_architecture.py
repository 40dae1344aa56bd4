"""The house rules of imports and sizes, held by reading the source and by running it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import FileLock

PACKAGE = ROOT / "dogbreeds"
FLOORS = [
    {"__main__"},
    {"cli", "training_script"},
    {"research"},
    {"training", "serving"},
    {"calibration_photos", "model_card"},
    {"run_folder", "tuning_folder"},
    {"addresses", "answers", "breeds", "calibration", "decoding_budget", "default_runs", "dog_probe", "errors", "files"}
    | {"hub", "images", "json_types", "latency", "logistic_regression", "looks", "machine", "metrics", "photo_paths"}
    | {"photos", "predictions", "preprocessing", "record", "split_file", "versions"},
]
HEAVY = {"torch", "torchvision", "transformers", "datasets", "evaluate", "accelerate"}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def floor_of(name: str) -> int:
    return next(index for index, floor in enumerate(FLOORS) if name in floor)


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down_only(file):
    here = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imports(file):
        if module.startswith("dogbreeds."):
            there = room(module)
            down = floor_of(there) > floor_of(here) or there == here
            ground = floor_of(there) == floor_of(here) == len(FLOORS) - 1
            assert down or ground, f"{file.name} imports {module}"
        library = module.split(".")[0]
        assert library not in HEAVY or here == "training", f"{file.name} imports {module}"
        assert library != "ray" or file.name == "on_ray.py", f"{file.name} imports {module}"
        assert library != "faiss" or file.name == "similar.py", f"{file.name} imports {module}"
        assert library != "mcp" or file.name == "mcp_server.py", f"{file.name} imports {module}"
        assert library != "av" or file.name == "video.py", f"{file.name} imports {module}"
        assert library != "gradio" or file.parent == PACKAGE / "serving" / "page", f"{file.name} imports {module}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_function_and_no_class_is_long(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            most = 250 if isinstance(node, ast.ClassDef) else 60
            assert node.end_lineno - node.lineno < most, f"{node.name} has more than {most} lines"


def test_modules_import_each_other_in_no_circle():
    graph = {file.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): imports(file) for file in FILES}

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for name in graph.get(module, ()):
                for target in (name, name.rpartition(".")[0]):
                    if target in graph:
                        visit(target, (*path, module))
            done.add(module)

    done: set[str] = set()
    for module in graph:
        visit(module, ())


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return {module.split(".")[0] for module in run.stdout.splitlines()}


def test_predict_never_imports_what_is_slow(tmp_path):
    from conftest import make_photo

    make_photo(0, 0).save(tmp_path / "photo.png")
    loaded = modules_after(
        "import sys; from dogbreeds.cli import main\n"
        f"sys.argv = ['dogbreeds', 'predict', {str(tmp_path / 'photo.png')!r}]\n"
        "try: main()\nexcept SystemExit as stop: assert stop.code == 0, stop.code"
    )
    assert "onnxruntime" in loaded
    assert not loaded & {*HEAVY, "gradio", "huggingface_hub", "sklearn", "scipy", "pandas"}


def test_evaluate_of_a_folder_never_imports_torch(photo_folder, tiny_run):
    loaded = modules_after(
        "import sys; from dogbreeds.cli import main\n"
        f"sys.argv = ['dogbreeds', 'evaluate', '--data', {str(photo_folder)!r}, '--run-dir', {str(tiny_run)!r}]\n"
        "try: main()\nexcept SystemExit as stop: assert stop.code == 0, stop.code"
    )
    assert "sklearn" in loaded
    assert not loaded & {"torch", "torchvision", "transformers", "accelerate", "gradio"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--data", "nowhere"],
        ["--data", "nowhere", "--tune", "3"],
        ["--data", "dogbreeds", "--other-photos", "nowhere"],
        ["--data", "dogbreeds", "--output-dir", "tests"],
        ["--data", "dogbreeds", "--model", "runs/of/mine"],
        ["--data", "dogbreeds", "--model", "dogbreeds/docs"],
        ["--data", "dogbreeds", "--output-dir", "{another process makes it}"],
        ["--data", "dogbreeds", "--teacher", "nowhere"],
        ["--data", "dogbreeds", "--adapt", "vpt", "--model", "mobilenet_v2_nano"],
        ["--data", "dogbreeds", "--model", "models/nope", "--output-dir", "{a new one}"],
        ["--data", "dogbreeds", "--model", "models/nope", "--output-dir", "{a new one}", "--tune", "3"],
    ],
)
def test_nothing_heavy_is_imported_for_a_mistake(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = [str(tmp_path / "new") if argument == "{a new one}" else argument for argument in arguments]
    taken = FileLock(tmp_path / "run.lock")
    taken.acquire()
    arguments = [str(tmp_path / "run") if "another process" in argument else argument for argument in arguments]
    loaded = modules_after(
        f"import sys, runpy; sys.argv = ['train_vit.py', *{arguments!r}]\n"
        "try: runpy.run_path('train_vit.py', run_name='__main__')\nexcept SystemExit as stop: assert stop.code == 2"
    )
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["evaluate", "--data", "nowhere"], "no data folder 'nowhere': check --data"),
        (["compare", "a", "b", "--output", "none", "--data", "nowhere"], "no data folder 'nowhere': check --data"),
        (["robustness", "run", "--data", "nowhere"], "no data folder 'nowhere': check --data"),
        (["benchmark", "run", "--output", "none", "--data", "nowhere"], "no data folder 'nowhere': check --data"),
        (["benchmark", "run", "--output", "none", "--everyday", "nowhere"], "folder 'nowhere': check --everyday"),
        (["benchmark", "run", "--output", "none", "--other-dogs", "nowhere"], "'nowhere' is no folder"),
        (["layers", "vit_tiny", "models/nope", "--photos", "tests"], "the Hugging Face Hub did not give it"),
        (["layers", "vit_tiny", "no/such/folder", "--photos", "tests"], "'no/such/folder' is no folder here"),
        (["probe", "vit_tiny", "models/nope", "--data", "dogbreeds"], "the Hugging Face Hub did not give it"),
    ],
)
def test_nothing_slow_is_imported_for_a_mistake_of_a_command(command, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = modules_after(
        "import contextlib, io, sys; from dogbreeds.cli import main\n"
        f"sys.argv, told = ['dogbreeds', *{command!r}], io.StringIO()\n"
        "with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):\n"
        "    try: main()\n    except SystemExit as stop: assert stop.code == 2\n"
        f"assert {words!r} in told.getvalue(), told.getvalue()"
    )
    assert not loaded & {*HEAVY, "onnxruntime", "sklearn", "scipy", "matplotlib"}


def test_nothing_heavy_is_imported_for_help():
    for script in ("train_vit.py", "train_cnn_baseline.py", "app.py"):
        loaded = modules_after(
            f"import sys, runpy; sys.argv = [{script!r}, '--help']\n"
            f"try: runpy.run_path({script!r}, run_name='__main__')\nexcept SystemExit: pass"
        )
        assert not loaded & {*HEAVY, "gradio"}
