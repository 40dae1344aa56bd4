"""The queue in which questions wait for their answers: those that somebody listens for come first."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from dogbreeds.serving.turns import Turns

MAX_WAITING = 64
"""Questions that may wait for an answer; the next one is told that the page is busy."""
MAX_WAITING_OF_ADDRESS = 32


class NobodyListens(Exception):
    """A question gets no answer: who asked it has left, or had not come for the answer when its place was needed."""


class AnswerQueue:
    """Gives questions their turns.

    A question is posted on one connection, and its answer is listened for on another. Some are never listened for, be
    it that the page was closed, or that somebody wants to keep the server busy. Nobody waits behind such a question.
    """

    def __init__(
        self,
        num_at_once: int,
        *,
        num_for_address: int,
        max_of_address: int | None = None,
        beside: "AnswerQueue | None" = None,
    ) -> None:
        """Begin with no question.

        Args:
            num_at_once: Questions that are answered at a time.
            num_for_address: How many of them may be of one address; with more, others would wait for all of these.
            max_of_address: Questions of one address, answered or waiting; None for `MAX_WAITING_OF_ADDRESS`.
            beside: Another queue of the same page: who listens for the answers of a session does so for both queues.
        """
        self._turns = Turns(num_at_once, num_for_address=num_for_address)
        self._max_of_address = max_of_address
        self._waiting: dict[object, str] = {}
        """The session of each question that waits, the longest first; one that is given up waits no more."""
        self._num_listening: Counter[str] = beside._num_listening if beside else Counter()

    def has_place_for(self, address: str) -> bool:
        """Whether another question of an address may wait; if need be, in the place of one that nobody listens for."""
        if self._turns.num_of(address) >= (self._max_of_address or MAX_WAITING_OF_ADDRESS):
            return False
        if len(self._waiting) < MAX_WAITING:
            return True
        unheard = next((each for each in self._waiting if not self.is_heard(self._waiting[each])), None)
        if unheard is None:
            return False
        del self._waiting[unheard]
        return True

    @contextmanager
    def listening(self, session: str) -> Iterator[None]:
        """Somebody listens meanwhile for the answers of a session, or of a single question."""
        self._num_listening[session] += 1
        try:
            yield
        finally:
            self._num_listening[session] -= 1
            if not self._num_listening[session]:
                del self._num_listening[session]

    def is_heard(self, session: str) -> bool:
        """Whether somebody listens for the answers of a session, or of a single question."""
        return session in self._num_listening

    @asynccontextmanager
    async def turn(self, address: str, session: str, has_left: Callable[[], bool]) -> AsyncIterator[None]:
        """Wait until it is a question's turn, and keep it meanwhile.

        Args:
            address: Whose question it is.
            session: By which its answer is listened for.
            has_left: Whether who listened for it listens no more.

        Raises:
            NobodyListens: Nobody waits for the answer any more.
        """
        question = object()
        self._waiting[question] = session

        def is_given_up() -> bool:
            return question not in self._waiting or has_left()

        try:
            # What is given up comes first too, since it goes at once.
            async with self._turns.turn(address, lambda: self.is_heard(session) or is_given_up()):
                if is_given_up():
                    raise NobodyListens
                del self._waiting[question]
                yield
        finally:
            self._waiting.pop(question, None)
