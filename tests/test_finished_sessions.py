import asyncio
import threading
from types import SimpleNamespace

import gradio as gr
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from dogbreeds.serving.answer_queue import AnswerQueue
from dogbreeds.serving.page import app
from dogbreeds.serving.page.finished_sessions import FinishedSessions


@pytest.fixture
def page():
    """A page that answers with what it was asked, and waits for `may_answer` where that is "slow"."""
    may_answer = threading.Event()

    def echo(text: str) -> str:
        if text == "slow":
            may_answer.wait(20)
        return text

    with gr.Blocks(analytics_enabled=False) as page:
        gr.api(echo, api_name="echo")
        file = gr.File()
        file.upload(lambda path: path, file, gr.Textbox(), api_name="path")
    page.queue()
    page.is_running = True  # as in dogbreeds.serving.page.app
    with TestClient(gr.mount_gradio_app(FastAPI(), page, path="/")) as client:
        yield client, page, may_answer


def nobody() -> AnswerQueue:
    """A queue in which nobody is known to listen."""
    return AnswerQueue(1, num_for_address=1)


def ask(client, value, endpoint="echo") -> str:
    return client.post(f"/gradio_api/call/{endpoint}", json={"data": [value]}).json()["event_id"]


def answer(client, event, endpoint="echo") -> str:
    return client.get(f"/gradio_api/call/{endpoint}/{event}").text


def test_of_what_is_answered_gradio_keeps_nothing(page):
    client, blocks, may_answer = page
    queue, sessions = blocks._queue, FinishedSessions(blocks, nobody())
    assert all(f'["{number}"]' in answer(client, ask(client, str(number))) for number in range(3))
    assert len(queue.pending_event_ids_session) == 3  # gradio keeps them: without that, this module can go
    for _ in range(2):
        sessions.forget()
    assert not queue.pending_event_ids_session and not queue.pending_messages_per_session
    slow = ask(client, "slow")
    for _ in range(3):
        sessions.forget()
    may_answer.set()
    assert '["slow"]' in answer(client, slow)


def test_a_client_that_does_not_come_for_its_answer_is_forgotten_too(page):
    client, blocks, may_answer = page
    queue, sessions = blocks._queue, FinishedSessions(blocks, nobody())
    may_answer.set()
    event = ask(client, "slow")
    while event in queue.event_ids_to_events:
        client.get("/gradio_api/startup-events")
    sessions.forget()
    assert event in queue.pending_event_ids_session[event]
    sessions.forget()
    assert not queue.pending_event_ids_session and not queue.pending_messages_per_session


def test_an_answer_that_is_being_sent_is_not_forgotten(page):
    """The last message of a list is some MB, which may take minutes."""
    client, blocks, may_answer = page
    queue, answers = blocks._queue, nobody()
    sessions = FinishedSessions(blocks, answers)
    may_answer.set()
    event = ask(client, "slow")
    while event in queue.event_ids_to_events:
        client.get("/gradio_api/startup-events")
    with answers.listening(event):
        for _ in range(3):
            sessions.forget()
    assert '["slow"]' in answer(client, event)


def test_the_paths_of_uploads_are_forgotten(page):
    client, blocks, _ = page
    (path,) = client.post("/gradio_api/upload", files={"files": ("a.txt", b"text")}).json()
    question = {"path": path, "meta": {"_type": "gradio.FileData"}}
    assert "complete" in answer(client, ask(client, question, "path"), "path")
    assert any(blocks.temp_file_sets)  # gradio keeps them: without that, they need not be forgotten
    FinishedSessions(blocks, nobody()).forget()
    assert not any(blocks.temp_file_sets)


@pytest.mark.parametrize("error", [AttributeError("no such attribute"), OSError("no such disk"), ValueError()])
def test_whatever_goes_wrong_old_uploads_are_deleted_the_next_time_too(error, monkeypatch, capsys):
    """What gradio keeps may have another form in another release, and nobody may notice for weeks."""
    monkeypatch.setattr(app, "_SWEEP_SECONDS", 0.001)
    calls = []

    def forget():
        calls.append("forget")
        raise error

    async def delete_older(seconds):
        calls.append("delete")
        raise error

    async def task():
        sweeping = asyncio.create_task(
            app._sweep(SimpleNamespace(delete_older=delete_older), SimpleNamespace(forget=forget))
        )
        while len(calls) < 4 and not sweeping.done():
            await asyncio.sleep(0.001)
        sweeping.cancel()

    asyncio.run(task())
    assert calls[:4] == ["forget", "delete"] * 2
    said = capsys.readouterr().err.splitlines()[:2]
    why = str(error) or "ValueError"
    assert said == [
        f"finished sessions could not be forgotten: {why}",
        f"old uploads could not be deleted: {why}",
    ]
