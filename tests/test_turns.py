import asyncio
from contextlib import suppress

from dogbreeds.serving.turns import Turns


def order_of(turns: Turns, tasks: list[str], *, cancelled: tuple[int, ...] = ()) -> list[str]:
    """In which order tasks of these addresses work, all of which begin at the same time."""
    worked = []

    async def work(address: str) -> None:
        async with turns.turn(address):
            worked.append(address)
            await asyncio.sleep(0.001)

    async def all_of_them() -> None:
        running = [asyncio.create_task(work(address)) for address in tasks]
        await asyncio.sleep(0)
        for number in cancelled:
            running[number].cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*running, return_exceptions=True)

    asyncio.run(all_of_them())
    return worked


def test_nobody_waits_behind_all_tasks_of_one_address():
    assert order_of(Turns(1), list("aaaaabcc")) == list("aabcacaa")


def test_as_many_work_as_may_and_of_one_address_as_many_as_may():
    turns, most = Turns(3, num_for_address=2), []

    async def work(address: str) -> None:
        async with turns.turn(address):
            most.append((turns._working.total(), turns._working[address]))
            await asyncio.sleep(0.001)

    async def all_of_them() -> None:
        await asyncio.gather(*map(work, "aaaaaabbbbbb"))

    asyncio.run(all_of_them())
    assert max(working for working, _ in most) == 3 and max(of_address for _, of_address in most) == 2
    assert len(most) == 12 and not turns._waiting and not turns._working


def test_who_goes_away_frees_their_place():
    turns = Turns(1)
    assert order_of(turns, list("abcb"), cancelled=(0, 1)) == ["a", "c", "b"]
    assert not turns._working and not turns._waiting


def test_who_is_not_urgent_comes_last():
    turns, worked = Turns(1), []

    async def work(task: str) -> None:
        async with turns.turn("address", task.isupper):
            worked.append(task)
            await asyncio.sleep(0.001)

    async def all_of_them() -> None:
        await asyncio.gather(*map(work, "abCdE"))

    asyncio.run(all_of_them())
    assert "".join(worked) == "aCEbd"
