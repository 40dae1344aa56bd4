"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT, make_photo


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def server(tiny_run):
    """app.py as its user starts it, with two runs."""
    port = free_port()
    command = [sys.executable, "app.py", "--run-dir", str(tiny_run), str(ROOT / "dogbreeds/pretrained/mobilenet_v2")]
    process = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(url).close()
            break
        except OSError:
            assert process.poll() is None, "the server stopped"
            time.sleep(0.5)
    yield url
    process.terminate()
    process.wait()


@pytest.fixture
def page(browser, server):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.strangers = []
    page.on("request", lambda request: page.strangers.append(request.url) if stranger(request.url, server) else None)
    page.goto(server)
    page.wait_for_selector("#photo input[type=file]", state="attached")
    yield page
    page.close()


def stranger(url: str, server: str) -> bool:
    return not url.startswith((server, "data:", "blob:"))


def test_drop_a_photo_and_read_the_breed(page, tmp_path):
    make_photo(2, 77, (300, 260)).save(tmp_path / "dog.jpg", quality=95)
    drop(page, tmp_path / "dog.jpg", "image/jpeg")
    page.wait_for_selector("#verdict .answer")
    assert "Beagle" in page.inner_text("#verdict")
    page.wait_for_selector("#heat_map img")
    rows = page.locator("#candidates").inner_text()
    assert {"Chihuahua", "Shih-Tzu", "Beagle", "Golden retriever"} <= set(rows.split("\n"))
    assert re.search(r"Answered by tiny in \d+ ms", page.inner_text("#details"))
    assert page.locator("#heat_map img").get_attribute("alt")
    assert not page.problems and not page.strangers


def test_people_who_ask_at_the_same_time_get_their_own_answers(server, tmp_path):
    from gradio_client import Client, handle_file

    client, jobs = Client(server, verbose=False), []
    for number in range(12):
        make_photo(number % 3, number).save(tmp_path / f"{number}.png")
        model = "tiny" if number % 4 else "mobilenet_v2"
        jobs.append((number, model, client.submit(handle_file(tmp_path / f"{number}.png"), model, api_name="/predict")))
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    broken = client.submit(handle_file(tmp_path / "broken.png"), "tiny", api_name="/predict")
    for number, model, job in jobs:
        verdict, candidates, _, details = job.result()
        assert details.startswith(f"Answered by {model} in ")
        if model == "tiny":
            assert ("Chihuahua", "Shih-Tzu", "Beagle")[number % 3] in verdict
            assert candidates["value"]["confidences"][0]["label"] in verdict
    assert "incomplete" in broken.result()[0]


def drop(page, path, mime_type):
    """A real drag-and-drop: the file travels in the drop event."""
    import base64

    content = base64.b64encode(path.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """([content, name, type]) => {
            const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type }));
            return transfer;
        }""",
        [content, path.name, mime_type],
    )
    target = page.locator("#photo button").filter(has_text="Drop").first
    for event in ("dragenter", "dragover", "drop"):
        target.dispatch_event(event, {"dataTransfer": transfer})


def test_another_model_answers_the_same_photo(page, tmp_path):
    make_photo(1, 5).save(tmp_path / "dog.png")
    page.set_input_files("#photo input[type=file]", tmp_path / "dog.png")
    page.wait_for_selector("#verdict .answer")
    page.get_by_label("mobilenet_v2").check()
    page.get_by_text("Answered by mobilenet_v2").wait_for()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"I am a text", "not a photo"),
        ("short.jpg", None, "cut short"),
    ],
)
def test_a_bad_file_is_told_in_a_sentence(page, tmp_path, name, content, words):
    file = tmp_path / name
    if content is None:
        make_photo(0, 0, (400, 300)).save(file)
        file.write_bytes(file.read_bytes()[:2000])
    else:
        file.write_bytes(content)
    page.set_input_files("#photo input[type=file]", file)
    page.wait_for_selector("#verdict .problem")
    assert words in page.inner_text("#verdict")
    make_photo(0, 0).save(tmp_path / "good.png")
    page.get_by_label("Remove Image").click()
    page.get_by_text("Drop, paste, choose or take").wait_for()
    page.set_input_files("#photo input[type=file]", tmp_path / "good.png")
    page.wait_for_selector("#verdict .answer")


def test_what_the_page_does_not_need_is_not_served(server):
    for path in ("/monitoring", "/gradio_api/file=/etc/passwd", f"/gradio_api/file={ROOT / 'app.py'}"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(server + path)
        assert error.value.code in (401, 403, 404)


def test_a_port_in_use_is_one_line(server, tiny_run):
    port = server.rsplit(":", 1)[1]
    command = [sys.executable, "app.py", "--run-dir", str(tiny_run), "--port", port]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == f"error: port {port} is in use: give another with --port\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid is no address of this machine"),
        (["--host", "192.0.2.1", "--port", "7999"], "--host 192.0.2.1 is no address of this machine"),
        (["--port", "70000"], "--port 70000: must be from 1 to 65535"),
    ],
)
def test_an_address_that_can_not_be_served_is_one_line(arguments, words):
    result = subprocess.run([sys.executable, "app.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and words in result.stderr and result.stderr.count("\n") == 1


def test_a_missing_run_folder_is_one_line(tmp_path):
    command = [sys.executable, "app.py", "--run-dir", str(tmp_path / "nothing")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "no run folder" in result.stderr
