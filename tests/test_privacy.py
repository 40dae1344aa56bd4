"""Whom the commands and the page tell, and where they write, as the kernel sees it."""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from subprocess import run

import pytest
from conftest import ROOT, installed, make_photo, make_photo_folder
from mcp import StdioServerParameters, stdio_client
from test_mcp import calls

from dogbreeds.files import read_json, write_json
from dogbreeds.run_folder import RECORD
from dogbreeds.serving.publish import publish_space
from tests.served_page import served_page

CALLS = "/^(connect|send|open|creat|mkdir|mknod|rename|link|symlink)"
SYSTEM = ("/dev/null", "/dev/shm/")
"""Where everything may write: semaphores of multiprocessing lie in memory."""
FONTS = (".cache/matplotlib", ".config/matplotlib", ".cache/fontconfig", "/var/cache/fontconfig")
"""The lists of a machine's fonts, which matplotlib makes; gradio imports it where it is installed."""
PIXELS = (".cache/dogbreeds",)
TRIED = (".cache/dogbreeds/tried-models",)
"""An empty file for each run that did not come with the project and has been tried out."""


@dataclass(frozen=True)
class Command:
    """A command, started in a folder with photo.png, photos/, run/ and other_run/."""

    words: str
    outputs: tuple[str, ...] = ()
    """What its options name, in the folder where it is started."""
    caches: tuple[str, ...] = ()
    """What it may write below the home folder besides."""


COMMANDS = {
    "predict": Command("-m dogbreeds predict photo.png --run-dir run", (), TRIED),
    "index": Command("-m dogbreeds index photos --run-dir run --output breeds.csv", ("breeds.csv",), TRIED),
    "compare": Command("-m dogbreeds compare run other_run --output comparison", ("comparison",), FONTS + TRIED),
    "training": Command(
        f"{ROOT}/train_vit.py --model vit_nano --image-size 32 --epochs 1 --batch-size 8 --num-workers 0 --data photos "
        "--validation-fraction 0.2 --test-fraction 0.2 --output-dir runs/vit",
        ("runs",),
        PIXELS,
    ),
}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The home folder of what the test starts, whose environment is that of a new account."""
    for name in ("home", "temporary", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")  # this process has imported dogbreeds, which sets it
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path / "home"


def strace(trace: Path) -> list[str]:
    """The words before a command that write its connections and its changes of files to a trace."""
    # -y: with the paths of folders that it has opened, and of the one where it is
    return [installed("strace"), "-f", "--seccomp-bpf", "-y", "-e", f"trace={CALLS}", "-o", str(trace)]


def system_calls(trace: Path) -> Iterator[str]:
    """One call a line. strace parts those that other threads interrupt."""
    begun: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        thread, call = line.split(maxsplit=1)
        if call.startswith(("+++", "---")):  # an end, or a signal
            continue
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
        elif resumed := re.match(r"<\.\.\. \w+ resumed>", call):
            yield begun.pop(thread) + call[resumed.end() :]
        else:
            yield call
    yield from begun.values()  # it ended within them


def asked_others(trace: Path) -> list[str]:
    """The calls that speak to another machine, or ask for the address of one."""
    return [call for call in system_calls(trace) if "sa_family=" in call and not _stays_here(call)]


def _stays_here(call: str) -> bool:
    family = re.search(r"sa_family=(\w+)", call)[1]
    if family in ("AF_INET", "AF_INET6"):
        address = re.search(r'inet_(?:addr\(|pton\(AF_INET6, )"([^"]+)"', call)[1]
        return ip_address(address).is_loopback and "_port=htons(53)" not in call
    # systemd-resolved listens on a socket of this machine
    return family in ("AF_NETLINK", "AF_UNSPEC") or (family == "AF_UNIX" and "resolve" not in call)


def written_paths(trace: Path, folder: Path) -> set[Path]:
    """The files and folders that were made, opened for writing or renamed, or should have been."""
    paths = set()
    for call in system_calls(trace):
        name, words = call.split("(", 1)
        reads = name in ("open", "openat") and not re.search(r"O_(?:WRONLY|RDWR|CREAT)", words)
        if reads or name.startswith(("connect", "send")) or re.search(r"= -1 (?:ENOENT|EEXIST) ", words):
            continue
        for parent, path in re.findall(r'(?:<([^>]*)>, )?"((?:[^"\\]|\\.)*)"', words):
            paths.add(Path(parent or folder, path))
    return paths


def check(trace: Path, folder: Path, allowed: list[Path]) -> None:
    assert asked_others(trace) == []
    assert trace.stat().st_size, "strace saw nothing"
    temporary = folder.parent / "temporary"
    places = (*map(str, allowed), str(temporary), *SYSTEM)
    parents = {parent for place in allowed for parent in place.parents}
    found = {path for path in written_paths(trace, folder) - parents if "__pycache__" not in path.parts}
    assert sorted(path for path in found if not str(path).startswith(places)) == []
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in ("compare", "training") else name for name in COMMANDS],
)
def test_a_command_tells_nobody_and_writes_where_it_is_told(name, tiny_run, home):
    command, folder, trace = COMMANDS[name], home.parent / "work", home.parent / "trace"
    make_photo(1, 1).save(folder / "photo.png")
    make_photo_folder(folder / "photos", num_photos=10)
    (folder / "run").symlink_to(tiny_run)
    shutil.copytree(tiny_run, folder / "other_run")
    record = read_json(folder / "other_run" / RECORD)
    record["config"]["epochs"] += 1  # another recipe
    write_json(folder / "other_run" / RECORD, record)
    run([*strace(trace), sys.executable, *command.words.split()], cwd=folder, check=True, timeout=300)
    outputs = [folder / output for output in command.outputs]
    assert all(output.exists() for output in outputs)
    check(trace, folder, [*outputs, *(home / cache for cache in command.caches)])


@pytest.mark.slow
def test_the_server_for_assistants_tells_nobody(tiny_run, home):
    trace, photo = home.parent / "trace", home.parent / "work" / "photo.png"
    make_photo(1, 1).save(photo)
    command, *words = [*strace(trace), sys.executable, "-m", "dogbreeds", "mcp", "--run-dir", str(tiny_run)]
    environment = {name: os.environ[name] for name in ("HOME", "TMPDIR", "PYTHONPATH")}
    server = stdio_client(StdioServerParameters(command=command, args=words, env=environment))
    _, (answer,) = calls(server, ("identify_breed", {"photo": str(photo)}))
    assert not answer.is_error
    assert asked_others(trace) == []
    assert trace.stat().st_size, "strace saw nothing"


@pytest.mark.slow
def test_the_page_of_a_space_tells_nobody_and_keeps_nothing(tiny_run, home, monkeypatch):
    from gradio_client import Client, handle_file

    folder, trace = home.parent / "work", home.parent / "trace"
    space = publish_space(tiny_run, repo_id="me/space", dry_run=folder / "space")
    monkeypatch.setenv("PYTHONPATH", "")
    make_photo(1, 1).save(folder / "photo.png")
    # -D: the process that is started, and stopped, is the page and not strace
    command = [*strace(trace), "-D", sys.executable, "app.py"]
    with served_page(command, folder=Path(space)) as (address, page):
        asking = Client(address, verbose=False, analytics_enabled=False, download_files=False)
        reply = asking.predict(handle_file(folder / "photo.png"), "tiny", api_name="/predict")
        assert reply["breeds"] and reply["error"] is None
    while not re.search(rf"^{page.pid} +\+\+\+ ", trace.read_text(errors="replace"), re.MULTILINE):
        time.sleep(0.05)  # strace, which is nobody's child, has not written all of it yet
    check(trace, folder, [*Path(space).rglob("*.pyi"), *(home / cache for cache in FONTS)])


@pytest.mark.parametrize(
    ("call", "stays"),
    [
        ('connect(3<socket:[1]>, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = -1 ENOENT (No)', True),
        ('connect(3, {sa_family=AF_INET, sin_port=htons(7860), sin_addr=inet_addr("127.0.0.1")}, 16) = 0', True),
        (
            "connect(3, {sa_family=AF_INET6, sin6_port=htons(80), sin6_flowinfo=htonl(0), "
            'inet_pton(AF_INET6, "::1", &sin6_addr), sin6_scope_id=0}, 28) = 0',
            True,
        ),
        ('connect(3, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("20.1.2.3")}, 16) = 0', False),
        ('connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.53")}, 16) = 0', False),
        ('connect(3, {sa_family=AF_UNIX, sun_path="/run/systemd/resolve/io.systemd.Resolve"}, 42) = 0', False),
        ('sendto(3, "x", 1, 0, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("9.9.9.9")}, 16) = 1', False),
    ],
)
def test_of_the_calls_those_that_leave_this_machine_are_found(call, stays, tmp_path):
    (tmp_path / "trace").write_text(f'71 openat(AT_FDCWD</>, "a", O_RDONLY) = 3\n72  {call}\n')
    assert (asked_others(tmp_path / "trace") == []) == stays
