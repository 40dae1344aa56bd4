"""Whether the page keeps its answers apart, its latency low and its memory flat under load.

    PYTHONPATH=. python tests/benchmarks/load.py --users 64 --seconds 120

Users on this machine, each from an address of 127.0.0.0/8 of its own, send the page one request after the other, as
programs and as browsers do: photos that were generated so that their answers differ, files that are no photos, and
clients that go away in the middle. All files of a kind have the same name, and a photo may be asked about twice.
Exits with 1 if an answer was lost or was another photo's, or the server took too much memory.

    PYTHONPATH=. python tests/benchmarks/load.py --users 4 --seconds 600 --attacks

Meanwhile, attackers do what `attacks.py` lists; then it also exits with 1 if people waited for too long.
"""

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image

from dogbreeds.images import BadImage, open_image
from dogbreeds.run_folder import SHIPPED_RUNS
from dogbreeds.serving.model_set import TOP_K
from dogbreeds.serving.predictor import Predictor
from tests.benchmarks.attacks import attacked, page_functions
from tests.served_page import served_page

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 60
"""Seconds after which an answer is lost."""
APART = 0.06
"""By how much the probabilities of two photos differ at least, summed over the breeds that an answer names."""
SHARE_BAD, SHARE_COMPARED, SHARE_KILLED, SHARE_REPEATED = 0.15, 0.1, 0.05, 0.2
"""Of the requests."""
MAX_MEMORY = 1000
"""MB that the server and its processes may hold."""
MAX_MEDIAN, MAX_P99 = 1.0, 3.0
"""Seconds that people may wait beside attackers."""


@dataclass(frozen=True)
class Sample:
    """A file, and what the page must say of it."""

    name: str
    content: bytes
    answers: dict[str, dict[str, float]]
    """Of each model: the probability of each breed; empty where the file is no photo."""
    error: str | None


class Refused(Exception):
    """The page answered with another status than 200."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status


@dataclass
class Report:
    """What became of the requests."""

    num_asked: int = 0
    seconds: list[float] = field(default_factory=list)
    """From the first byte of the upload to the answer."""
    wrong: list[str] = field(default_factory=list)
    """Answers that were another photo's, or none of the photos'."""
    errors: Counter[str] = field(default_factory=Counter)
    """Requests without an answer, by reason."""
    killed: int = 0
    """Clients that went away on purpose."""
    memory: list[tuple[int, float]] = field(default_factory=list)
    """After how many answers the server held how many MB."""
    peak: float = 0.0
    """MB that the server and its processes held at most."""

    def slowness(self) -> tuple[float, float]:
        """Median and 99th percentile of the seconds."""
        return tuple(np.percentile(self.seconds, [50, 99])) if self.seconds else (np.inf, np.inf)

    def __str__(self) -> str:
        median, p95, p99 = np.percentile(self.seconds, [50, 95, 99]) if self.seconds else (np.nan,) * 3
        lines = [
            f"requests        {self.num_asked}, of which {self.killed} clients went away on purpose",
            f"answers         {len(self.seconds)}, wrong: {len(self.wrong)}",
            f"no answer       {sum(self.errors.values())}",
            *(f"  {count} x {why}" for why, count in self.errors.most_common()),
            f"latency         median {median:.2f} s, p95 {p95:.2f} s, p99 {p99:.2f} s",
            "memory, MB      " + ", ".join(f"{megabytes:.0f} after {answers}" for answers, megabytes in self.memory),
            f"peak, MB        {self.peak:.0f} with the processes that decode",
            *self.wrong[:10],
        ]
        return "\n".join(lines)


def make_samples(predictors: Sequence[Predictor], num_photos: int, seed: int = 0) -> list[Sample]:
    """Photos with clearly different answers, as JPEG with a camera's name and as PNG, and files that are no photos."""
    rng = np.random.default_rng(seed)
    exif = Image.Exif()
    exif[0x010F] = "Phone"  # metadata that the page must remove
    samples: list[Sample] = []
    while len(samples) < num_photos:
        small = rng.integers(0, 256, (*rng.integers(2, 9, 2), 3), dtype=np.uint8)
        side = int(rng.integers(240, 640))
        photo = Image.fromarray(small).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
        name = f"photo{len(samples)}.{'png' if len(samples) % 2 else 'jpg'}"
        content = _coded(photo, name, exif)
        if any(each.predict(content).verdict == "unknown_breed" for each in predictors):
            continue  # the reply has no probabilities by which the photo could be told
        answers = {each.run.name: _probabilities(each, content) for each in predictors}
        if all(
            min(_distance(_best(one[model]), two[model]) for one, two in permutations((answers, other.answers))) > APART
            for other in samples
            for model in answers
        ):
            samples.append(Sample(name, content, answers, None))
    bad = {
        "text.jpg": b"I am a text",
        "empty.jpg": b"",
        "short.png": samples[1].content[:-500],
        "zeros.heic": bytes(999),
    }
    for name, content in bad.items():
        try:
            open_image(content)
        except BadImage as error:
            samples.append(Sample(name, content, {}, str(error)))
    assert len(samples) == num_photos + len(bad)
    return samples


def _coded(photo: Image.Image, name: str, exif: Image.Exif) -> bytes:
    file = io.BytesIO()
    if name.endswith("png"):
        photo.save(file, "PNG")
    else:
        photo.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def _probabilities(predictor: Predictor, content: bytes) -> dict[str, float]:
    return dict(zip(predictor.run.labels, predictor.predict(open_image(content)).probabilities.tolist(), strict=True))


def _best(probabilities: dict[str, float]) -> dict[str, float]:
    """What an answer holds of them."""
    return dict(sorted(probabilities.items(), key=lambda item: -item[1])[:TOP_K])


def _distance(said: dict[str, float], probabilities: dict[str, float]) -> float:
    return sum(abs(said[breed] - probabilities[breed]) for breed in said)


@contextmanager
def running_page(
    folder: Path, runs: Sequence[Path] = SHIPPED_RUNS, **environment: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """app.py with its host and port, and its process.

    Args:
        folder: For uploads.
        runs: The models that answer.
        environment: What its environment holds besides this one's.
    """
    environment["GRADIO_TEMP_DIR"] = str(folder)
    with served_page([sys.executable, "app.py", "--run-dir", *runs], environment=environment, quiet=True) as (
        address,
        process,
    ):
        yield address.removeprefix("http://"), process


class Person:
    """Somebody with an address of their own, who asks the page."""

    def __init__(self, host: str, rng: random.Random) -> None:
        self._host = host
        self._address = f"127.{rng.randrange(1, 255)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"

    def ask(self, sample: Sample, model: str | None) -> dict:
        """Ask as a program does: the answer of a model, or of all."""
        return self.answer(self._data(sample, model), model)

    def ask_again(self, sample: Sample, first: str, model: str | None) -> dict:
        """Ask about a photo that another model has answered before."""
        data = self._data(sample, first)
        self.answer(data, first)
        return self.answer(data[:1] if model is None else [data[0], model], model)

    def answer(self, data: list, model: str | None) -> dict:
        """The answer about an upload."""
        event = self.post(f"/gradio_api/call/{_endpoint(model)}", {"data": data})["event_id"]
        with self._connection() as connection:
            reply = self._reply(connection, "GET", f"/gradio_api/call/{_endpoint(model)}/{event}")
            kind = ""
            for line in reply:
                if line.startswith(b"event: "):
                    kind = line.removeprefix(b"event: ").decode().strip()
                elif line.startswith(b"data: ") and kind == "complete":
                    return json.loads(line.removeprefix(b"data: "))[0]
                elif line.startswith(b"data: ") and kind == "error":
                    raise Refused(200, f"error event: {line.decode().strip()}")
        raise Refused(200, "the stream ended without an answer")

    def ask_as_browsers_do(self, sample: Sample, model: str | None, function: int) -> dict:
        """Ask by way of the queue's own endpoints."""
        session = uuid.uuid4().hex[:10]
        body = {"data": self._data(sample, model), "fn_index": function, "session_hash": session}
        self.post("/gradio_api/queue/join", body)
        with self._connection() as connection:
            for line in self._reply(connection, "GET", f"/gradio_api/queue/data?session_hash={session}"):
                message = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else {}
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise Refused(200, f"error message: {message['output']}")
                    return message["output"]["data"][0]
        raise Refused(200, "the stream ended without an answer")

    def go_away(self, sample: Sample, model: str | None, stage: int) -> None:
        """Begin to ask, and be gone: within the upload, before waiting for the answer, or while waiting."""
        if stage == 0:
            with self._connection() as connection:
                body, headers = self._multipart(sample)
                connection.putrequest("POST", "/gradio_api/upload")
                for header in {**headers, "Content-Length": str(len(body))}.items():
                    connection.putheader(*header)
                connection.endheaders(body[: len(body) // 2])
            return
        event = self.post(f"/gradio_api/call/{_endpoint(model)}", {"data": self._data(sample, model)})["event_id"]
        if stage == 2:
            with self._connection() as connection:
                connection.request("GET", f"/gradio_api/call/{_endpoint(model)}/{event}")

    def post(self, path: str, body: dict) -> dict:
        """Send JSON, get JSON."""
        with self._connection() as connection:
            headers = {"Content-Type": "application/json"}
            return json.load(self._reply(connection, "POST", path, json.dumps(body).encode(), headers))

    def upload(self, sample: Sample) -> str:
        """Send a file; where it lies on the server."""
        with self._connection() as connection:
            return json.load(self._reply(connection, "POST", "/gradio_api/upload", *self._multipart(sample)))[0]

    def _data(self, sample: Sample, model: str | None) -> list:
        file = {"path": self.upload(sample), "orig_name": sample.name, "meta": {"_type": "gradio.FileData"}}
        return [file] if model is None else [file, model]

    def _multipart(self, sample: Sample) -> tuple[bytes, dict[str, str]]:
        """The upload, under the name that all files of its kind have."""
        boundary, name = uuid.uuid4().hex, f"photo{Path(sample.name).suffix}"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + sample.content + f"\r\n--{boundary}--\r\n".encode()
        return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}

    @contextmanager
    def _connection(self) -> Iterator[HTTPConnection]:
        connection = HTTPConnection(self._host, timeout=PATIENCE, source_address=(self._address, 0))
        try:
            yield connection
        finally:
            connection.close()

    def _reply(
        self, connection: HTTPConnection, method: str, path: str, body: bytes = b"", headers: dict | None = None
    ):
        connection.request(method, path, body or None, headers or {})
        reply = connection.getresponse()
        if reply.status != 200:
            raise Refused(reply.status, reply.read().decode(errors="replace")[:200])
        return reply


def _endpoint(model: str | None) -> str:
    return "compare" if model is None else "predict"


def what_is_wrong(answer: dict, sample: Sample, samples: Sequence[Sample], models: Sequence[str | None]) -> str | None:
    """Why an answer is not that of its photo; None if it is.

    Args:
        answer: Of `predict` or `compare`.
        sample: What was asked about.
        samples: What else was asked about.
        models: Who was asked.
    """
    if answer["error"] != sample.error:
        return f"{sample.name}: {answer['error']!r} instead of {sample.error!r}"
    if sample.error:
        return None
    found = answer.get("answers") or [answer]
    if [each["model"] for each in found] != list(models):
        return f"{sample.name}: {[each['model'] for each in found]} answered instead of {models}"
    for each in found:
        said = {item["breed"]: item["probability"] for item in each["breeds"]}
        away = {other.name: _distance(said, other.answers[each["model"]]) for other in samples if other.answers}
        nearest = min(away, key=away.__getitem__)
        if nearest != sample.name:
            return f"{sample.name}: {each['model']} answered as for {nearest}; {away[sample.name]:.3f} off"
    return None


def load(
    host: str,
    samples: Sequence[Sample],
    models: Sequence[str],
    *,
    users: int,
    seconds: float,
    pid: int,
    every: int = 500,
) -> Report:
    """Let users ask at the same time.

    Args:
        host: Host and port of the page.
        samples: What they ask about.
        models: Whom they ask.
        users: How many at a time.
        seconds: How long.
        pid: The server's process.
        every: After how many answers the memory is read.
    """
    functions = page_functions(host)
    report, changing, ended = Report(memory=[(0, resident(pid))]), threading.Lock(), threading.Event()
    photos, bad = [each for each in samples if not each.error], [each for each in samples if each.error]
    until = time.monotonic() + seconds

    def one_request(rng: random.Random) -> None:
        person = Person(host, rng)
        sample = rng.choice(bad if rng.random() < SHARE_BAD else photos)
        model = None if rng.random() < SHARE_COMPARED else rng.choice(models)
        with changing:
            report.num_asked += 1
        if rng.random() < SHARE_KILLED:
            person.go_away(sample, model, rng.randrange(3))
            with changing:
                report.killed += 1
            return
        started = time.monotonic()
        if rng.random() < SHARE_REPEATED:
            answer = person.ask_again(sample, rng.choice(models), model)
        elif rng.random() < 0.5:
            answer = person.ask(sample, model)
        else:
            answer = person.ask_as_browsers_do(sample, model, functions[_endpoint(model)])
        taken = time.monotonic() - started
        problem = what_is_wrong(answer, sample, samples, models if model is None else [model])
        with changing:
            report.seconds.append(taken)
            report.wrong += [problem] if problem else []
            if len(report.seconds) % every == 0:
                report.memory.append((len(report.seconds), resident(pid)))

    def user(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < until:
            try:
                one_request(rng)
            except (Refused, HTTPException, OSError, ValueError, KeyError) as error:
                with changing:
                    report.errors[f"{type(error).__name__} {error}"] += 1

    threads = [threading.Thread(target=user, args=(number,)) for number in range(users)]

    def watch() -> None:
        while not ended.wait(0.1):
            report.peak = max(report.peak, sum(map(resident, [pid, *children(pid)])))

    watching = threading.Thread(target=watch)
    watching.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    watching.join()
    return report


def num_files(folder: str) -> int:
    """How many files are in a folder and its sub-folders, which the server may delete meanwhile."""
    return sum(len(names) for _, _, names in os.walk(folder))


def resident(pid: int) -> float:
    """The memory that a process holds, MB; of what it shares with others, its part."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0  # it has just ended


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--attacks", action="store_true")
    parser.add_argument(
        "--run-dir", nargs="+", type=Path, default=SHIPPED_RUNS, help="the models; by default, all shipped"
    )
    options = parser.parse_args()
    predictors = [Predictor(run) for run in options.run_dir]
    models = [predictor.run.name for predictor in predictors]
    samples = make_samples(predictors, options.photos)
    with tempfile.TemporaryDirectory() as folder:
        with running_page(Path(folder), options.run_dir) as (host, process):
            with attacked(host) if options.attacks else nullcontext() as done:
                report = load(host, samples, models, users=options.users, seconds=options.seconds, pid=process.pid)
            print(report)
            for name, count in sorted((done or {}).items()):
                print(f"attacks         {count} x {name}")
            print(f"throughput      {len(report.seconds) / options.seconds:.0f} answers/s")
            print(f"uploads         {num_files(folder)} files while it runs")
            started = time.monotonic()
            Person(host, random.Random(0)).ask(samples[0], models[0])
            print(f"afterwards      one person is answered in {time.monotonic() - started:.2f} s")
        print(f"uploads         {num_files(folder)} files after it was terminated")
    median, p99 = report.slowness()
    is_slow = options.attacks and (median > MAX_MEDIAN or p99 > MAX_P99)
    sys.exit(1 if report.wrong or report.errors or report.peak > MAX_MEMORY or is_slow else 0)


if __name__ == "__main__":
    main()
