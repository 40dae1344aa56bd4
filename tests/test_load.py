"""A short form of benchmarks/load.py: nobody's answer is lost or another's, and who goes away frees their place."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dogbreeds.run_folder import SHIPPED_RUNS
from dogbreeds.serving.predictor import Predictor
from tests.benchmarks.attacks import attacked
from tests.benchmarks.load import MAX_MEMORY, Person, load, make_samples, running_page, what_is_wrong

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def samples():
    return make_samples([Predictor(run) for run in SHIPPED_RUNS], num_photos=8)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with running_page(tmp_path_factory.mktemp("uploads")) as page:
        yield page


MODELS = [run.name for run in SHIPPED_RUNS]


def test_each_person_gets_the_answer_to_their_own_photo(page, samples):
    host, process = page
    report = load(host, samples, MODELS, users=8, seconds=15, pid=process.pid)
    assert not report.wrong and not report.errors and len(report.seconds) >= 20 and report.killed, str(report)


def test_a_swapped_answer_would_be_noticed(samples):
    photo, other = samples[:2]
    breeds = [{"breed": breed, "probability": share} for breed, share in other.answers[MODELS[0]].items()]
    answer = {"error": None, "model": MODELS[0], "breeds": sorted(breeds, key=lambda each: -each["probability"])[:5]}
    assert "answered as for" in (what_is_wrong(answer, photo, samples, MODELS[:1]) or "")
    assert what_is_wrong(answer, other, samples, MODELS[:1]) is None


def test_who_goes_away_frees_their_place(page, samples):
    host, _ = page
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda n: Person(host, random.Random(n)).go_away(samples[0], None, n % 3), range(96)))
    started = time.monotonic()
    answer = Person(host, random.Random(1000)).ask(samples[0], MODELS[0])
    assert what_is_wrong(answer, samples[0], samples, MODELS[:1]) is None and time.monotonic() - started < 10


def test_attackers_take_nobodys_answer_and_a_limited_memory(page, samples):
    host, process = page
    with attacked(host) as done:
        report = load(host, samples, MODELS, users=2, seconds=8, pid=process.pid)
    assert not report.wrong and not report.errors and report.seconds and report.peak < MAX_MEMORY, str(report)
    assert done["send_bombs"] or done["post_junk"]
    assert process.poll() is None


def test_a_full_queue_says_so_in_a_sentence(page, samples):
    """More requests than may wait are refused with 503, and nothing else goes wrong."""
    host, _ = page

    def ask(number: int) -> str:
        person = Person(host, random.Random(2000 + number))
        try:
            person.answer([{"path": path, "meta": {"_type": "gradio.FileData"}}], None)
        except Exception as error:
            return str(error)
        return ""

    path = Person(host, random.Random(0)).upload(samples[0])
    with ThreadPoolExecutor(100) as pool:
        said = list(filter(None, pool.map(ask, range(200))))
    assert said and all(each.startswith("503: ") and "is busy" in each for each in said), said[:3]
