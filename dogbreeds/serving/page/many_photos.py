"""The tab "Many photos": a card for each uploaded file, answered a few at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from starlette.concurrency import iterate_in_threadpool

from dogbreeds.images import BadImage
from dogbreeds.photos import batches, read_photos
from dogbreeds.serving.answer_queue import AnswerQueue
from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page import breed_list, cards, review
from dogbreeds.serving.page.components import BreedsInput, PhotoFiles, PhotoFolder, address_of, texts_of, turn
from dogbreeds.serving.page.one_photo import ALL_MODELS
from dogbreeds.serving.page.review import Review, Row
from dogbreeds.serving.page.texts import Texts
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.uploads import delete_copies, kept, open_copy

MAX_FILES = 500
"""Files that the page takes at a time; `python -m dogbreeds index` takes any number."""
BATCH_SIZE = 4
"""Photos that are answered between two updates of the page; with more, questions about one photo wait longer."""
MAX_CONCURRENT = 2
"""Addresses whose many photos are answered at the same time; the others wait."""
MAX_OF_ADDRESS = 8
"""Lists of photos of one address: one is answered, and the others wait."""
_FAILED = Path(__file__).with_name("many_photos_failed.js")


def many_photos_tab(
    models: ModelSet, answers: AnswerQueue, model: gr.Radio, only_breeds: BreedsInput, text: gr.I18n
) -> None:
    """Add the tab to the page.

    Args:
        models: What can answer.
        answers: In which questions about one photo and batches of many wait; whole lists have a queue beside it.
        model: Which of them does; the first where all shall.
        only_breeds: The breeds that come into question.
        text: The page's texts.
    """
    lists = _Lists(models, answers)
    with gr.Tab(text("many_photos")):
        with gr.Row(elem_id="choose-many"):
            files = PhotoFiles(
                label=text("photos_at_most"), file_count="multiple", height=180, elem_id="files", scale=3
            )
            with gr.Column(min_width=160):
                folder = PhotoFolder(text("folder"), file_count="directory", elem_id="folder")  # type: ignore[arg-type]
                stop = gr.Button(text("stop"), variant="stop", visible=False, elem_id="stop")
        gr.HTML(text("too_many_html"), elem_id="too-many")
        status = gr.HTML(text("waiting_many_html"), elem_id="status")
        gr.HTML(text("review_html"), elem_id="review")
        shown = Review()
    asked = files.upload(
        lists.show_many,
        [files, model, only_breeds],
        [files, folder, stop, status, shown],
        api_visibility="private",
        concurrency_limit=None,
        show_progress="hidden",
    )
    asked.failure(None, None, [files, folder, stop, status], js=_FAILED.read_text(encoding="utf-8"))
    stop.click(lists.stop_many, api_visibility="private", queue=False, show_progress="hidden")


class _List:
    """A list of photos that is answered, or waits for it.

    If gradio cancelled one, a progress that is on its way would arrive after the end: so it is asked to end.
    """

    def __init__(self, visit: str | None) -> None:
        self.visit = visit
        self.is_stopped = False
        self._waiting: asyncio.Timeout | None = None

    async def wait_for(self, turn: Awaitable[None]) -> None:
        """Wait until its turn comes, or it is stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if self.is_stopped else None) as self._waiting:
                await turn
        self._waiting = None

    def stop(self) -> None:
        """Let it wait no more, and open no more photos."""
        self.is_stopped = True
        if self._waiting:
            self._waiting.reschedule(0)


class _Lists:
    """The lists of photos that are answered, or wait for it."""

    def __init__(self, models: ModelSet, answers: AnswerQueue) -> None:
        self._models, self._answers = models, answers
        self._queue = AnswerQueue(MAX_CONCURRENT, num_for_address=1, max_of_address=MAX_OF_ADDRESS, beside=answers)
        self._lists: list[_List] = []

    async def show_many(
        self, files: list[tuple[str, Path]], model: str, only_breeds: list[str], request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        """What the tab shows of a list, from its arrival on: a value for each output."""
        texts, own, copies = texts_of(request), _List(request.session_hash), [copy for _, copy in files]
        name = self._models.names[0] if model == ALL_MODELS else model
        self._lists.append(own)
        try:
            if not files:  # but hidden ones
                yield *_ready(), gr.skip(), gr.skip()
                return
            if problem := _problem(files, name, only_breeds, self._models, texts):
                yield _refusal(problem, texts)
                return
            updates = _updates(files, name, only_breeds, self._models, texts, lambda: own.is_stopped)
            computed = iterate_in_threadpool(updates)
            yield await anext(computed)
            if not self._queue.has_place_for(address_of(request)):
                yield _refusal(texts.busy_many, texts)
                return
            async with kept(copies), AsyncExitStack() as stack:
                await own.wait_for(stack.enter_async_context(turn(self._queue, request)))
                async for update in _in_turns(computed, self._answers, request):
                    yield update
        finally:
            self._lists.remove(own)
            await asyncio.to_thread(delete_copies, copies)

    async def stop_many(self, request: gr.Request) -> None:
        """End what is answered for a visit, or waits."""
        for each in self._lists:
            if each.visit == request.session_hash:
                each.stop()


async def _in_turns(
    computed: AsyncIterator[tuple[Any, ...]], answers: AnswerQueue, request: gr.Request
) -> AsyncIterator[tuple[Any, ...]]:
    """Each update in a turn of its own, so that a question about one photo waits for a batch, not for the list."""
    while True:
        async with turn(answers, request):
            update = await anext(computed, None)
        if update is None:
            return
        yield update


def _problem(
    files: list[tuple[str, Path]], model: str, only_breeds: list[str], models: ModelSet, texts: Texts
) -> str | None:
    """Why a list can't be answered, in a sentence; None if it can."""
    if len(files) > MAX_FILES:
        return texts.too_many.format(MAX_FILES)
    return breed_list.problem(models, [model], only_breeds, texts)


def _updates(
    files: list[tuple[str, Path]],
    model: str,
    only_breeds: list[str],
    models: ModelSet,
    texts: Texts,
    is_stopped: Callable[[], bool],
) -> Iterator[tuple[Any, ...]]:
    """What the tab shows while files are answered: at first that it begins, before any is opened."""
    predictor = models.predictors[model].only(only_breeds)
    rows: list[Row] = []
    lines = review.begin(model)
    running = (gr.update(interactive=False), gr.update(interactive=False), gr.update(visible=True))
    yield *running, cards.progress(0, len(files), texts), review.shown(lines, [])
    for batch in answer_many(predictor, files) if not is_stopped() else ():
        rows += batch
        lines += review.lines(batch, texts)
        if is_stopped():
            break
        yield *running, cards.progress(len(rows), len(files), texts), review.shown(lines, batch)
    sentence = texts.done if len(rows) == len(files) else texts.stopped
    num_unreadable = sum(isinstance(row.result, BadImage) for row in rows)
    end = review.shown(lines + review.END, rows)
    yield *_ready(), cards.waiting(sentence.format(len(rows), num_unreadable)), end


def _refusal(problem: str, texts: Texts) -> tuple[Any, ...]:
    """What the tab shows where the files are not answered."""
    return *_ready(), cards.problem(problem, texts), None


def _ready() -> tuple[Any, Any, Any]:
    """Both inputs accept files, and there is nothing to stop."""
    return gr.update(value=None, interactive=True), gr.update(interactive=True), gr.update(visible=False)


def answer_many(predictor: Predictor, files: Sequence[tuple[str, Path]]) -> Iterator[list[Row]]:
    """Answer uploads in their order, `BATCH_SIZE` at a time.

    Args:
        predictor: The model that answers.
        files: The name and the path of each upload.
    """

    def open_photo(file: tuple[str, Path]) -> tuple[str, Image.Image]:
        photo = open_copy(file[1])
        return cards.thumbnail(photo), photo

    opened = zip(files, read_photos(files, open_photo, num_ahead=2 * BATCH_SIZE), strict=True)
    for batch in batches(opened, BATCH_SIZE):
        photos = [("", photo) if isinstance(photo, BadImage) else photo for _, photo in batch]
        results = predictor.answer_images([photo for _, photo in photos], top_k=review.NUM_BREEDS)
        yield [
            Row(name, thumbnail, result)
            for ((name, _), _), (thumbnail, _), result in zip(batch, photos, results, strict=True)
        ]
