"""The server for assistants: what it answers, over standard input and output, and what it refuses."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, make_photo, run_cli
from mcp import Client, StdioServerParameters, stdio_client

from dogbreeds.run_folder import RunFolder
from dogbreeds.serving.mcp_server import mcp_server
from dogbreeds.serving.predictor import Predictor


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photos" / "my dog, é.png"
    path.parent.mkdir()
    make_photo(0, 0).save(path)
    return path


def calls(server, *tools):
    """What tools reply, each named with its arguments; and the list of tools."""

    async def run():
        async with Client(server) as client:
            listed = await client.list_tools()
            return listed.tools, [await client.call_tool(name, arguments) for name, arguments in tools]

    return asyncio.run(run())


def refusal(run, photos, asked):
    _, (reply,) = calls(mcp_server(Predictor(run), photos), ("identify_breed", {"photo": str(asked)}))
    assert reply.is_error
    return reply.content[0].text.removeprefix("Error executing tool identify_breed: ")


def test_an_assistant_gets_the_answer_of_predict_over_standard_output(tiny_run, photo):
    command = ["-m", "dogbreeds", "mcp", "--photos", str(photo.parent), "--run-dir", str(tiny_run)]
    server = stdio_client(StdioServerParameters(command=sys.executable, args=command, cwd=ROOT))
    tools, (answer, breeds) = calls(server, ("identify_breed", {"photo": photo.name}), ("list_breeds", {}))
    assert {tool.name: tool.annotations.read_only_hint for tool in tools} == {
        "identify_breed": True,
        "list_breeds": True,
    }
    run = RunFolder.open(tiny_run)
    expected = Predictor(run).predict(photo).to_dict()
    assert answer.structured_content == {
        **expected,
        "model": run.name,
        "seconds": answer.structured_content["seconds"],
        "error": None,
    }
    assert breeds.structured_content == {"result": list(run.labels)}


def test_what_is_no_photo_or_outside_the_folder_gets_a_sentence(tiny_run, photo, tmp_path):
    folder, run = photo.parent, RunFolder.open(tiny_run)
    (folder / "text.jpg").write_text("no photo")
    make_photo(1, 1).save(tmp_path / "private.png")
    (folder / "link.png").symlink_to(tmp_path / "private.png")
    os.mkfifo(folder / "pipe.jpg")
    for asked in ("../private.png", tmp_path / "private.png", "link.png"):
        assert refusal(run, folder, asked) == (
            f"{asked} is outside the folder {folder}, whose photos alone may be asked about."
        )
    assert refusal(run, folder, "text.jpg").startswith("This file is not a photo")
    assert refusal(run, folder, "none.jpg") == f"There is no file '{folder}/none.jpg'."
    assert refusal(run, folder, "pipe.jpg").startswith("This file is empty")
    assert refusal(run, folder, ".").startswith(f"'{folder}' is a folder")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    for impossible in ("a\0b.jpg", "~nobody-of-that-name/dog.jpg"):
        for allowed in (folder, None):
            assert refusal(run, allowed, impossible) == f"{impossible!r} can't be the path of a file."
    for unreadable in ("loop.jpg", "x" * 5000):
        assert refusal(run, folder, unreadable)
    assert refusal(run, None, "https://example.org/dog.jpg") == "There is no file 'https:/example.org/dog.jpg'."


def test_the_breeds_may_be_limited(tiny_run):
    run = RunFolder.open(tiny_run)
    limited = mcp_server(Predictor(run.only(run.labels[:2])))
    _, (breeds,) = calls(limited, ("list_breeds", {}))
    assert breeds.structured_content == {"result": list(run.labels[:2])}


def test_a_wrong_folder_is_named_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    status, _, err = run_cli(monkeypatch, capsys, "mcp", "--photos", tmp_path / "none")
    assert (status, err) == (2, f"error: --photos {tmp_path}/none: there is no such folder\n")


@pytest.mark.slow
def test_it_ends_with_the_program_that_started_it_and_says_that_it_was_interrupted(tiny_run):
    command = [sys.executable, "-m", "dogbreeds", "mcp", "--run-dir", str(tiny_run)]
    ended = subprocess.run(command, cwd=ROOT, input=b"", capture_output=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        server.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        server.stdin.flush()
        assert b'"id":1' in server.stdout.readline(), "it runs"
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=60) == (b"", b"interrupted\n")
