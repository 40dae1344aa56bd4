"""The web page: photos go in, breeds and their probabilities come out."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from gradio.route_utils import get_root_url

from dogbreeds.errors import UserError, first_line, report
from dogbreeds.images import JPEG_SIDE
from dogbreeds.machine import num_cores, share_freed_memory
from dogbreeds.serving import server, zero_gpu
from dogbreeds.serving.answer_queue import MAX_WAITING, AnswerQueue
from dogbreeds.serving.clients import Proxies
from dogbreeds.serving.decoding import Decoder
from dogbreeds.serving.gateway import Doors, Gateway
from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page import breed_list, breeds_tab, cards, head, photo_picker, review
from dogbreeds.serving.page.components import texts_of
from dogbreeds.serving.page.events import events
from dogbreeds.serving.page.finished_sessions import FinishedSessions
from dogbreeds.serving.page.many_photos import MAX_FILES, many_photos_tab
from dogbreeds.serving.page.one_photo import model_choice, one_photo_tab
from dogbreeds.serving.page.programs import examples_section, program_endpoints
from dogbreeds.serving.page.texts import ENGLISH, FRENCH, Texts
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.questions import Questions
from dogbreeds.serving.uploads import UploadFolder, private_upload_folder

CACHE_SECONDS = 1200.0
"""Uploads older than this are deleted."""
CORES_FOR_ANSWER = 2
"""A model uses several cores for a photo. More photos at a time, or in one batch, take more memory and no less time."""
ANSWERS_FOR_ADDRESS = 2
"""Questions of one address that are answered at the same time; with more, others would wait for all of them."""
_SWEEP_SECONDS = 60.0
"""Between two searches for such, and for sessions that are over."""
MAX_SESSIONS = 256
"""Visits whose last answers are kept, with a description of the whole page for each. gradio counts a request of a
program as a visit too."""

_HERE = Path(__file__).parent


def build_page(models: ModelSet, answers: AnswerQueue, text: gr.I18n) -> gr.Blocks:
    """Lay out the page.

    Args:
        models: What can answer; the first does unless the person chooses another.
        answers: In which questions wait for their answers.
        text: What the page says, from `page_texts`.
    """
    with gr.Blocks(title="Dog breeds", analytics_enabled=False) as page:
        gr.HTML(text("heading"), elem_id="heading")
        model = model_choice(models, text)
        only_breeds = breed_list.breed_list()
        one_photo_tab(models, answers, model, only_breeds, text)
        many_photos_tab(models, answers, model, only_breeds, text)
        with gr.Tab(text("breeds")):
            gr.HTML(text("breeds_html"), elem_id="breeds")
        with gr.Accordion(text("compare"), open=False, visible=len(models.names) > 1, elem_id="compare"):
            model.render()
        with gr.Accordion(text("only_breeds"), open=False, elem_id="breed-list"):
            gr.HTML(text("breed_list_html"), elem_id="only-breeds")
            only_breeds.render()
        with gr.Accordion(text("about"), open=False):
            gr.Markdown(text("about_all"))
        examples_section(page, models, text)
        program_endpoints(models, answers)
    return page.queue(max_size=MAX_WAITING, api_open=False)  # every request goes through the queue


def page_texts(models: ModelSet, *, takes_videos: bool = False) -> gr.I18n:
    """What the page says before any request, in each language; the browser picks its own."""
    return gr.I18n(**{texts.language: _first_texts(models, texts, takes_videos) for texts in (ENGLISH, FRENCH)})


def _first_texts(models: ModelSet, texts: Texts, takes_videos: bool) -> dict[str, str]:
    rates = [cards.rates(predictor.run, name, texts) for name, predictor in models.predictors.items()]
    return {
        **texts.sentences,
        "heading": _heading(texts),
        "picker_html": photo_picker.layout(models, texts, takes_videos=takes_videos),
        "breeds_html": breeds_tab.layout(models.labels(models.names[0]), texts),
        "breed_list_html": breed_list.layout(models, texts),
        "photos_at_most": texts.photos.format(MAX_FILES),
        "too_many_html": f'<div data-most="{MAX_FILES}">{cards.problem(texts.too_many.format(MAX_FILES), texts)}</div>',
        "review_html": review.layout(models, texts),
        "waiting_many_html": cards.waiting(texts.waiting_many),
        "about_all": "\n\n".join([texts.about_text, texts.about_server, *rates]),
    }


def _heading(texts: Texts) -> str:
    """The title, and a link to the page in each language."""
    links = "".join(
        f'<a href="?lang={other.language}" lang="{other.language}" aria-current="{str(other is texts).lower()}">'
        f"{other.language_name}</a>"
        for other in (ENGLISH, FRENCH)
    )
    return f'<h1>{texts.title}</h1><nav class="languages" aria-label="{texts.languages}">{links}</nav>'


@dataclass(frozen=True)
class Access:
    """Who may ask the page."""

    hosts: Sequence[str] = ()
    """Names under which it is served, besides this machine's own and its addresses."""
    proxies: Sequence[str] = ()
    """Addresses or networks of the proxies before it, whose word about the clients is taken."""
    key: str | None = None
    """What people give as password, and programs as `Authorization: Bearer KEY`."""


def serve(
    run_dirs: Sequence[str | os.PathLike[str]],
    host: str | None,
    port: int | None,
    access: Access | None = None,
    *,
    takes_videos: bool = False,
) -> None:
    """Load the runs and serve the page until interrupted.

    Args:
        run_dirs: Run folders.
        host: Address to listen on; None for this machine alone, or what GRADIO_SERVER_NAME says.
        port: Port to listen on; None for the first free one from 7860 on, or what GRADIO_SERVER_PORT says.
        access: Who may ask; None for everybody who reaches this machine by its address.
        takes_videos: Take short videos too, which needs PyAV.

    Raises:
        UserError: A run folder is missing or damaged, the access key is empty, the port is in use, uploads can't be
            stored, or PyAV is missing.
    """
    if not run_dirs:
        raise UserError("--run-dir names no run folder")
    if takes_videos and find_spec("av") is None:
        raise UserError("--video needs the package PyAV: pip install av")
    share_freed_memory()
    access = access or Access()
    if access.key is not None and not access.key.strip():
        raise UserError("DOGBREEDS_ACCESS_KEY is empty: set it to a key, or unset it to let everybody in")
    proxies = Proxies(access.proxies)
    with server.listen(host, port) as listener:
        zero_gpu.declare()
        predictors = [Predictor(Path(run_dir)) for run_dir in run_dirs]
        for predictor in predictors:
            predictor.warm_up()
        models = ModelSet(predictors)
        app = page_app(
            models, private_upload_folder(), Doors(access.hosts, access.key), proxies, takes_videos=takes_videos
        )
        address, number = listener.getsockname()[:2]
        print(f"The page is at http://{f'[{address}]' if ':' in address else address}:{number}", flush=True)
        server.run(app, proxies, listener)


def page_app(models: ModelSet, folder: Path, doors: Doors, proxies: Proxies, *, takes_videos: bool = False) -> Gateway:
    """The page as an ASGI application: gradio's, and before it what may reach it.

    Args:
        models: What can answer.
        folder: For uploads; the one that `private_upload_folder` returns.
        doors: Who may ask.
        proxies: Who tells the clients' addresses.
        takes_videos: Take short videos too.
    """
    # Read in gradio 6.31.0: it keeps the last 10,000 events and computes statistics of them after each answer, which no
    # option turns off.
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    text = page_texts(models, takes_videos=takes_videos)
    answers = AnswerQueue(max(1, num_cores() // CORES_FOR_ANSWER), num_for_address=ANSWERS_FOR_ADDRESS)
    page = build_page(models, answers, text)
    # Read in gradio 6.31.0: what `launch` sets and `mount_gradio_app` does not. A page that runs keeps streams alive.
    page.state_session_capacity, page.is_running = MAX_SESSIONS, True
    page.max_threads = page._queue.max_thread_count = 3 * MAX_WAITING  # all that wait, wait in our two queues
    sides = [predictor.run.preprocessing.decoded_side for predictor in models.predictors.values()]
    decoder = Decoder(max(JPEG_SIDE, *sides), takes_videos=takes_videos)
    uploads = UploadFolder(folder, decoder.copy, takes_videos=takes_videos)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await decoder.start()
        sweeping = asyncio.create_task(_sweep(uploads, FinishedSessions(page, answers)))
        yield
        sweeping.cancel()
        await decoder.close()

    fastapi = FastAPI(lifespan=lifespan, openapi_url=None)
    fastapi.mount(f"/{head.PICTURES.name}", StaticFiles(directory=head.PICTURES))
    app = gr.mount_gradio_app(
        fastapi,
        page,
        path="/",
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css_paths=_HERE / "page.css",
        js=(_HERE / "page.js").read_text(encoding="utf-8"),
        favicon_path=str(_HERE / "icon.svg"),
        pwa=True,
        i18n=text,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],  # the panel "Use via API" shows requests that this page refuses
        ssr_mode=False,
        show_error=False,
    )
    questions = Questions(events(page), folder)
    return Gateway(app, uploads, questions, answers, doors=doors, proxies=proxies, rewrite=_with_own_head)


def _with_own_head(page: str, request: Request) -> str:
    # get_root_url is not documented (read in gradio 6.31.0): it honours the proxy of a Space.
    return head.with_own_head(page, get_root_url(request, "/", None), texts_of(request))


async def _sweep(uploads: UploadFolder, sessions: FinishedSessions) -> None:
    """Delete what is old, again and again.

    Whatever goes wrong with one, such as in a gradio whose inside is another, photos are still deleted.
    """
    while True:
        await asyncio.sleep(min(_SWEEP_SECONDS, CACHE_SECONDS / 2))
        try:
            sessions.forget()
        except Exception as error:
            report(f"finished sessions could not be forgotten: {first_line(error)}")
        try:
            await uploads.delete_older(CACHE_SECONDS)
        except Exception as error:  # the next time may go better
            report(f"old uploads could not be deleted: {first_line(error)}")
