"""How every command ends: by one line or in silence, with the exit status that the shell expects."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BREED_FOLDERS, ROOT, make_photo

SCRIPTS = ("app.py", "train_vit.py", "train_cnn_baseline.py")
PROGRAMS = [["-m", "dogbreeds", "breeds"], *([script, "--help"] for script in SCRIPTS)]


def shell(line: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which "$@" is Python with these arguments; the status of a pipe is its first command's."""
    command = ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}", "bash", sys.executable, *arguments]
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def photo(tmp_path) -> Path:
    make_photo(0, 0).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program[-2])
def test_a_reader_who_has_enough_ends_it_in_silence(program):
    done = shell('"$@" | true', *program)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGPIPE, "", "")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program[-2])
def test_a_full_output_is_one_line(program):
    done = shell('"$@" > /dev/full', *program)
    assert done.returncode == 2
    assert done.stderr == "error: can't print (No space left on device)\n"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program[-2])
def test_a_closed_output_is_one_line(program):
    done = shell('"$@" >&-', *program)
    assert done.returncode == 2
    assert done.stderr == "error: standard output is closed: send it to a file, or to /dev/null\n"


def test_the_first_answers_are_read_and_the_rest_is_not_computed(photo):
    done = shell('"$@" | head -1', "-m", "dogbreeds", "predict", *[photo] * 50)
    assert done.returncode == 128 + signal.SIGPIPE and done.stderr == ""
    assert done.stdout.startswith(f"{photo}: ") and done.stdout.count("\n") == 1


@pytest.mark.parametrize("where", ["2>&-", "2> /dev/full", "2>&1 | true"])
def test_a_message_that_nobody_reads_is_lost_quietly(where, photo):
    done = shell(f'"$@" {where}', "-m", "dogbreeds", "predict", photo.with_name("nowhere.png"))
    assert done.returncode == {"2>&-": 1, "2> /dev/full": 2, "2>&1 | true": 128 + signal.SIGPIPE}[where]
    assert done.stdout == done.stderr == ""


def stand_in(folder: Path, module: str, code: str) -> dict[str, str]:
    """The environment in which importing this module runs this code."""
    (folder / f"{module}.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize("program", [["-m", "dogbreeds"], *([script] for script in SCRIPTS)], ids=lambda p: p[-1])
@pytest.mark.parametrize("module", ["tyro", "numpy"])
def test_ctrl_c_while_modules_are_imported_is_one_line(program, module, tmp_path):
    done = shell(
        '"$@"', *program, **stand_in(tmp_path, module, "import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("then", ["raise ImportError('initialization failed') from error", "pass"])
def test_ctrl_c_that_a_compiled_module_makes_another_error_is_one_line(then, photo, tmp_path):
    pressed = (
        "import os, signal\ntry: os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)\n"
        f"except BaseException as error: {then}"
    )
    done = shell('"$@"', "-m", "dogbreeds", "predict", photo, **stand_in(tmp_path, "onnxruntime", pressed))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("program", [["-m", "dogbreeds"], *([script] for script in SCRIPTS)], ids=lambda p: p[-1])
def test_a_package_that_is_missing_is_named(program, tmp_path):
    done = shell('"$@"', *program, **stand_in(tmp_path, "tyro", "raise ModuleNotFoundError(name='tyro')"))
    assert done.returncode == 2
    assert done.stderr == "error: this needs the package tyro: pip install -r requirements.txt\n"


@pytest.mark.parametrize(
    ("arguments", "module", "remedy"),
    [
        (["index", ".", "--output", "breeds.parquet"], "pyarrow", "pip install pyarrow, or give a .csv"),
        (["doctor", "--data", "."], "scipy", "pip install -r requirements.txt"),
        (["evaluate", "--data", "."], "datasets", "pip install -r requirements.txt"),
        (["publish", "static", "--dry-run", "site"], "onnx", "pip install onnx"),
    ],
)
def test_after_the_installation_for_the_page_others_say_what_they_need(arguments, module, remedy, photo):
    """Without the packages that dogbreeds/serving/requirements.txt does not bring."""
    missing = ("pyarrow", "scipy", "sklearn", "torch", "datasets", "transformers", "accelerate", "evaluate", "onnx")
    code = (
        "import sys; from importlib.machinery import PathFinder; found = PathFinder.find_spec\n"
        f"there = lambda name, *path: None if name.split('.')[0] in {missing} else found(name, *path)\n"
        f"PathFinder.find_spec = there; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['dogbreeds', *{arguments}]\n"
        "from dogbreeds.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=photo.parent, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1, done.stderr
    assert module in done.stderr and remedy in done.stderr
    assert list(photo.parent.iterdir()) == [photo]


@pytest.fixture
def no_photos(tmp_path, monkeypatch) -> dict[str, str]:
    """What is there beside photos and never ends, or is no file; by its name, what is said of it."""
    folder = tmp_path / BREED_FOLDERS[0]
    folder.mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder)
        server.bind("socket.jpg")  # the whole path may be too long for the address of a socket
    return {"pipe.jpg": "empty", "zero.jpg": "a device", "socket.jpg": "a socket", ".": "dogbreeds index"}


def test_pipes_devices_sockets_and_folders_are_a_line_each_at_once(no_photos, photo):
    paths = [photo.parent / BREED_FOLDERS[0] / name for name in no_photos]
    done = shell('"$@"', "-m", "dogbreeds", "predict", *paths, photo)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and done.stdout.startswith(f"{photo}: ") and len(lines) == len(paths)
    for line, path, words in zip(lines, paths, no_photos.values(), strict=True):
        assert line.startswith(f"{path}: ") and words in line


@pytest.mark.parametrize(
    "command",
    [
        ["index", "--output", "breeds.csv"],
        pytest.param(["evaluate", "--data"], marks=pytest.mark.slow),
        pytest.param(["doctor", "--data"], marks=pytest.mark.slow),
    ],
)
def test_no_pipe_keeps_a_folder_of_photos_waiting(command, no_photos, photo):
    for label, folder in enumerate(BREED_FOLDERS[:2]):
        (photo.parent / folder).mkdir(exist_ok=True)
        make_photo(label, 1).save(photo.parent / folder / "photo.png")
    output = [photo.parent / part if part == "breeds.csv" else part for part in command]
    done = shell('"$@"', "-m", "dogbreeds", *output, photo.parent)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr


def test_uploads_that_can_not_be_kept_are_one_line(photo):
    folder = photo / "inside-of-a-file"
    code = "from dogbreeds.errors import one_line_errors; from dogbreeds.serving.uploads import private_upload_folder\n"
    done = shell('"$@"', "-c", f"{code}with one_line_errors(): private_upload_folder()", GRADIO_TEMP_DIR=str(folder))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert str(folder) in done.stderr and "set GRADIO_TEMP_DIR" in done.stderr
