"""Lists of many photos wait in a queue of their own, so that whoever sends them keeps nobody else waiting."""

import asyncio
import json
import os
import secrets
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient

from dogbreeds.serving import uploads
from dogbreeds.serving.clients import Proxies
from dogbreeds.serving.gateway import Doors
from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page import app, many_photos, programs
from dogbreeds.serving.page.app import page_app
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.uploads import private_upload_folder


@pytest.fixture
def answering(monkeypatch):
    """The lists whose answers have begun, and what lets them end."""
    begun, may_end = [], threading.Event()

    def answer_many(predictor, files):
        begun.append(files[0][0])
        while not may_end.wait(0.01):
            yield []

    monkeypatch.setattr(many_photos, "answer_many", answer_many)
    yield begun, may_end
    may_end.set()


class Visitors:
    """Who asks a page that runs in this process, each from an address."""

    def __init__(self, page, folder: Path, stack: AsyncExitStack) -> None:
        self._page, self._folder, self._stack = page, folder, stack
        events = page._questions._by_number.values()
        asked = next(event for event in events if event.inputs and event.inputs[0].kind == "photos")
        self._number, self._model = asked.number, asked.inputs[1].default
        self._stop = next(event.number for event in events if event.number > self._number and not event.inputs)

    async def at(self, address: str) -> AsyncClient:
        transport = ASGITransport(self._page, client=(address, 1))
        return await self._stack.enter_async_context(
            AsyncClient(transport=transport, base_url="http://localhost/gradio_api")
        )

    async def send_many(self, address: str, session: str, only_breeds: tuple[str, ...] = ()) -> int:
        """The status of the reply to a list of two photos, which have the name of their address."""
        places = [secrets.token_hex(16) for _ in range(2)]
        for place in places:
            (self._folder / place).mkdir()
        files = [{"path": f"uploads/{place}/photo.webp", "orig_name": address} for place in places]
        data = [files, self._model, list(only_breeds)]
        question = {"fn_index": self._number, "session_hash": session, "data": data}
        return (await (await self.at(address)).post("/queue/join", json=question)).status_code

    async def send_first(self, address: str, session: str, begun: list[str]) -> None:
        """Send a list, and wait until its answers have begun."""
        assert await self.send_many(address, session) == 200
        while not begun:
            await asyncio.sleep(0.01)

    async def stop(self, address: str, session: str) -> None:
        """Press the button Stop."""
        question = {"fn_index": self._stop, "session_hash": session, "data": []}
        assert (await (await self.at(address)).post("/run/stop", json=question)).status_code == 200

    async def ask(self, address: str) -> str:
        """What the page says to a program that asks about one photo."""
        client = await self.at(address)
        posted = await client.post("/call/predict", json={"data": [{"path": f"uploads/{'c' * 32}/photo.webp"}]})
        assert posted.status_code == 200, posted.text
        return (await client.get(f"/call/predict/{posted.json()['event_id']}")).text

    def num_kept(self) -> int:
        """Uploads that the page keeps."""
        return len(list(self._folder.iterdir())) - 1  # the lock

    def grow_old(self) -> None:
        """Let all uploads be as if they had come long ago."""
        for place in self._folder.iterdir():
            os.utime(place, (0, 0))

    def num_new(self) -> int:
        """Uploads that the page does not delete as old ones."""
        return sum(place.stat().st_mtime > time.time() - 60 for place in self._folder.iterdir())

    async def hear(self, address: str, session: str) -> str:
        """All that the page shows in a visit until its list is answered."""
        return (await (await self.at(address)).get("/queue/data", params={"session_hash": session})).text


def test_one_address_with_many_lists_keeps_nobody_else_waiting(answering, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    folder = private_upload_folder()
    page = page_app(ModelSet([Predictor(tiny_run)]), folder, Doors(), Proxies())
    begun, may_end = answering

    async def until(is_so) -> None:
        async with asyncio.timeout(20):
            while not is_so():
                await asyncio.sleep(0.01)

    async def task() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(page._app.router.lifespan_context(page._app))
            visitors = Visitors(page, folder, stack)
            for number in range(80):
                assert await visitors.send_many("10.0.0.1", f"greedy{number}") == 200
            await until(lambda: begun == ["10.0.0.1"])
            assert "Many photos are being answered already" in await visitors.hear("10.0.0.1", "greedy79")
            assert "no longer here" in await visitors.ask("10.0.0.3")
            await until(
                lambda: visitors.num_kept() == 2 * many_photos.MAX_OF_ADDRESS
            )  # those of the others are deleted
            assert await visitors.send_many("10.0.0.2", "other") == 200
            await until(lambda: begun == ["10.0.0.1", "10.0.0.2"])  # beside the first list, before all that wait
            may_end.set()
            last = json.loads((await visitors.hear("10.0.0.2", "other")).split("data: ")[-2])
            assert last["msg"] == "process_completed" and last["success"]
            await until(lambda: visitors.num_kept() == 0)
            assert begun.count("10.0.0.1") == many_photos.MAX_OF_ADDRESS

    asyncio.run(task())


def in_page(models, tmp_path, task) -> None:
    """Run a task with the visitors of a page."""
    folder = private_upload_folder()
    page = page_app(ModelSet(models), folder, Doors(), Proxies())

    async def whole() -> None:
        async with AsyncExitStack() as stack, asyncio.timeout(30):
            await stack.enter_async_context(page._app.router.lifespan_context(page._app))
            await task(Visitors(page, folder, stack))

    asyncio.run(whole())


async def stopped(visitors, address: str, session: str) -> str:
    """All that a visit is shown of a list that is stopped."""
    hearing = asyncio.create_task(visitors.hear(address, session))
    while not hearing.done():  # the first time, its list may not be known yet
        await visitors.stop(address, session)
        await asyncio.sleep(0.05)
    return hearing.result()


def test_a_list_that_waits_for_its_turn_is_shown_and_can_be_stopped(answering, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    begun, _ = answering

    async def task(visitors) -> None:
        await visitors.send_first("10.0.0.1", "first", begun)
        assert await visitors.send_many("10.0.0.1", "second") == 200
        shown = await stopped(visitors, "10.0.0.1", "second")
        assert "0 of 2 photos answered" in shown.partition("Stopped. Photos answered: 0;")[0]
        assert "Stopped. Photos answered: 0;" in await stopped(visitors, "10.0.0.1", "first")
        assert len(begun) == 1 and visitors.num_kept() == 0

    in_page([Predictor(tiny_run)], tmp_path, task)


def test_the_photos_of_a_list_stay_however_long_it_waits(answering, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(uploads, "KEEP_SECONDS", 0.01)
    begun, may_end = answering

    async def task(visitors) -> None:
        await visitors.send_first("10.0.0.1", "first", begun)
        assert await visitors.send_many("10.0.0.1", "second") == 200
        visitors.grow_old()
        await asyncio.sleep(0.1)
        assert visitors.num_new() == 4
        may_end.set()
        for session in ("first", "second"):
            assert "Photos answered: 0;" in await visitors.hear("10.0.0.1", session)
        assert visitors.num_kept() == 0

    in_page([Predictor(tiny_run)], tmp_path, task)


def test_the_photos_of_a_list_are_deleted_when_nobody_waits_for_the_rest(answering, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    begun, _ = answering

    async def task(visitors) -> None:
        await visitors.send_first("10.0.0.1", "visit", begun)
        hearing = asyncio.create_task(visitors.hear("10.0.0.1", "visit"))
        await asyncio.sleep(0.05)
        assert visitors.num_kept() == 2
        hearing.cancel()  # the browser is closed
        while visitors.num_kept() > 0:
            await asyncio.sleep(0.01)

    in_page([Predictor(tiny_run)], tmp_path, task)


def test_a_list_can_be_stopped_after_another_one_of_its_visit_has_ended(answering, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    begun, _ = answering

    async def task(visitors) -> None:
        await visitors.send_first("10.0.0.1", "visit", begun)
        assert await visitors.send_many("10.0.0.1", "visit", only_breeds=("Beagle",)) == 200
        while visitors.num_kept() > 2:  # it is refused, and its photos are deleted
            await asyncio.sleep(0.01)
        shown = await stopped(visitors, "10.0.0.1", "visit")
        assert "no choice" in shown and "Stopped. Photos answered: 0;" in shown

    in_page([Predictor(tiny_run)], tmp_path, task)


def test_no_batch_of_a_list_runs_beside_a_question(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(app, "num_cores", lambda: app.CORES_FOR_ANSWER)
    folder = private_upload_folder()
    seen, predicted = [], programs._predicted

    def answer_many(predictor, files):
        for _ in range(200):
            seen.append("batch begins")
            time.sleep(0.01)
            seen.append("batch ends")
            yield []

    def noted(*arguments):
        seen.append("question begins")
        time.sleep(0.05)
        seen.append("question ends")
        return predicted(*arguments)

    monkeypatch.setattr(many_photos, "answer_many", answer_many)
    monkeypatch.setattr(programs, "_predicted", noted)
    page = page_app(ModelSet([Predictor(tiny_run)]), folder, Doors(), Proxies())

    async def task() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(page._app.router.lifespan_context(page._app))
            visitors = Visitors(page, folder, stack)
            await visitors.send_many("10.0.0.1", "list")
            await visitors.ask("10.0.0.2")
            await visitors.ask("10.0.0.3")

    asyncio.run(task())
    assert seen.count("question begins") == 2 and seen.count("batch begins") > 0
    assert all(second == first.replace("begins", "ends") for first, second in zip(seen[::2], seen[1::2], strict=False))
