import asyncio
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.context import LocalContext

from dogbreeds.serving import answer_queue
from dogbreeds.serving.answer_queue import AnswerQueue, NobodyListens
from dogbreeds.serving.page.components import turn


def order_of(queue: AnswerQueue, sessions: list[str], *, heard: str = "", left: str = "") -> str:
    """In which order the questions of sessions get a turn, all of which wait for the first one's to end.

    Args:
        queue: That waits.
        sessions: Of each question, which has an address of its own.
        heard: Sessions that are listened to, from when all wait.
        left: Sessions whose listener leaves then.
    """
    answered = []

    async def ask(session: str) -> None:
        with suppress(NobodyListens):
            async with queue.turn(f"address {session}", session, lambda: bool(answered) and session in left):
                answered.append(session)
                await asyncio.sleep(0)

    async def all_of_them() -> None:
        with ExitStack() as listening:
            tasks = [asyncio.create_task(ask(session)) for session in sessions]
            await asyncio.sleep(0)
            for session in heard:
                listening.enter_context(queue.listening(session))
            await asyncio.gather(*tasks)

    asyncio.run(all_of_them())
    return "".join(answered)


def test_who_listens_comes_before_who_does_not():
    queue = AnswerQueue(1, num_for_address=1)
    assert order_of(queue, list("abcde"), heard="de") == "adebc"
    assert not queue._num_listening


def test_who_listens_is_heard_in_the_queue_beside_too():
    answers = AnswerQueue(1, num_for_address=1)
    with answers.listening("d"), answers.listening("e"):
        assert order_of(AnswerQueue(1, num_for_address=1, beside=answers), list("abcde")) == "adebc"


def test_who_has_left_is_not_answered():
    assert order_of(AnswerQueue(1, num_for_address=1), list("abcd"), heard="bcd", left="c") == "abd"


def test_an_answer_is_given_up_in_an_error_of_its_own():
    async def ask() -> None:
        async with AnswerQueue(1, num_for_address=1).turn("address", "session", lambda: True):
            pass

    with pytest.raises(NobodyListens):
        asyncio.run(ask())


def test_a_full_queue_gives_up_the_question_that_has_been_unheard_for_longest(monkeypatch):
    monkeypatch.setattr(answer_queue, "MAX_WAITING", 3)
    queue, given_up = AnswerQueue(1, num_for_address=1), []

    async def ask(session: str) -> None:
        try:
            async with queue.turn(f"address {session}", session, lambda: False):
                await asyncio.sleep(0.01)
        except NobodyListens:
            given_up.append(session)

    async def all_of_them() -> None:
        tasks = []
        with queue.listening("b"):
            for session in "abcdef":  # one is answered, three wait
                assert queue.has_place_for(f"address {session}")
                tasks.append(asyncio.create_task(ask(session)))
                await asyncio.sleep(0)
            await asyncio.gather(*tasks)
        with queue.listening("a"), queue.listening("b"), queue.listening("c"):
            tasks = [asyncio.create_task(ask(session)) for session in ("a", "a", "b", "c")]
            await asyncio.sleep(0)
            assert not queue.has_place_for("another address")
            await asyncio.gather(*tasks)

    asyncio.run(all_of_them())
    assert given_up == ["c", "d"] and not queue._waiting


def test_a_queue_is_full_for_an_address_before_it_is_full_for_all(monkeypatch):
    monkeypatch.setattr(answer_queue, "MAX_WAITING_OF_ADDRESS", 3)
    queue = AnswerQueue(1, num_for_address=1)

    async def ask() -> None:
        async with queue.turn("a", "session", lambda: False):
            await asyncio.sleep(0.001)

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(ask()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not queue.has_place_for("a") and queue.has_place_for("b")
        await asyncio.gather(*tasks)
        assert queue.has_place_for("a")

    asyncio.run(all_of_them())


@pytest.mark.parametrize("is_given_up", [False, True])
@pytest.mark.parametrize("is_forgotten", [False, True])
def test_gradio_looks_for_no_session_that_it_has_forgotten(is_forgotten, is_given_up):
    event = SimpleNamespace(alive=True, session_hash="session")
    sessions = {} if is_forgotten else {"session": "messages"}
    gradio_queue = SimpleNamespace(event_ids_to_events={"event": event}, pending_messages_per_session=sessions)
    answers = AnswerQueue(1, num_for_address=1)

    async def ask() -> str:
        LocalContext.blocks.set(SimpleNamespace(_queue=gradio_queue))
        LocalContext.event_id.set("event")
        try:
            async with turn(answers, SimpleNamespace(client=SimpleNamespace(host="address"))):
                return "answered"
        except gr.Error as error:
            return error.message

    async def both() -> str:
        async with answers.turn("address", "another", lambda: False):
            asked = asyncio.create_task(ask())
            await asyncio.sleep(0)
            if is_given_up:
                answers._waiting.popitem()
        return await asked

    is_answered = not is_forgotten and not is_given_up
    assert asyncio.run(both()) == ("answered" if is_answered else "Nobody waits for this answer.")
    assert event.alive != is_forgotten
