"""Uploads of strangers are decoded in processes of their own, of limited memory and time, each address in turn."""

import asyncio
import json
import os
import resource
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from dogbreeds.images import BadImage, open_header
from dogbreeds.serving.turns import Turns
from dogbreeds.serving.uploads import store_copy, store_frames
from dogbreeds.serving.video import is_video

NUM_PROCESSES = 2
"""Each takes about 50 MB while it waits."""
LARGE_PIXELS = 12_600_000
"""Of photos with more pixels, one is decoded at a time. Most phones take 4032 x 3024."""
MAX_MEMORY = 700 << 20
"""Bytes that one process may hold. The largest photo that is read takes 582 MB."""
MAX_SECONDS = 20.0
"""For one photo. The slowest file of the corpus takes 4.4 s."""
MAX_VIDEO_SECONDS = 60.0
"""For one video."""
MAX_WAITING_VIDEOS = 3
"""Videos that wait until another one is read; no two of one address."""

_PACKAGE = Path(__file__).parents[2]
_START = "from dogbreeds.serving.decoding import serve_jobs; serve_jobs()"
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""What a process gets of the environment, in which there may be secrets."""


class Decoder:
    """Makes the copies of uploads, in processes that are started anew when they die."""

    def __init__(self, at_least: int, num_processes: int = NUM_PROCESSES, *, takes_videos: bool = False) -> None:
        """Prepare the processes; they start when they are needed.

        Args:
            at_least: The width and height, in pixels, that the models need.
            num_processes: Photos that are decoded at a time.
            takes_videos: Whether videos are decoded too: one at a time, in a process of their own, so that no photo
                waits for one.
        """
        self._at_least, self._takes_videos = at_least, takes_videos
        self._video_process, self._videos = _DecodingProcess(), Turns(1)
        self._processes = [_DecodingProcess() for _ in range(num_processes)]
        self._idle = list(self._processes)
        self._turns, self._large = Turns(num_processes, num_for_address=1), Turns(1)

    async def start(self) -> None:
        """Start the processes, so that the first photo need not wait for them."""
        await asyncio.gather(*(process.start() for process in self._processes))

    async def copy(self, source: Path, place: Path, address: str) -> Path:
        """Write a photo's copy as `store_copy` does, or a video's as `store_frames`.

        Args:
            source: The file that somebody sent.
            place: The folder for the copy.
            address: Whose it is.

        Returns:
            The copy.

        Raises:
            BadImage: It can't be read, or not within the limits.
        """
        job = {"source": str(source), "place": str(place), "at_least": self._at_least, "max_pixels": LARGE_PIXELS}
        if is_video(source):
            reply = await self._video_done(job, address)
        else:
            reply = await self._done(job, address, ())
            if reply.get("large"):
                reply = await self._done({**job, "max_pixels": None}, address, (self._large,))
        if "problem" in reply:
            raise BadImage(reply["message"], reply["problem"])
        return place / reply["name"]

    async def _done(self, job: dict[str, Any], address: str, before: tuple[Turns, ...]) -> dict[str, Any]:
        async with AsyncExitStack() as turns:
            for each in (*before, self._turns):
                await turns.enter_async_context(each.turn(address))
            process = self._idle.pop()
            try:
                reply = await process.done(job, MAX_SECONDS)
            finally:
                self._idle.append(process)
        if reply is None:
            raise BadImage("This photo is damaged and can't be read. Please choose another copy.", "damaged")
        return reply

    async def _video_done(self, job: dict[str, Any], address: str) -> dict[str, Any]:
        if not self._takes_videos:
            message = (
                "This page takes no videos: who runs it may install PyAV (pip install av) and start it with --video."
            )
            raise BadImage(message, "video_off")
        if self._videos.num_of(address) or self._videos.num_waiting >= MAX_WAITING_VIDEOS:
            raise BadImage("Other videos are being read. Please try again in a minute.", "video_busy")
        async with self._videos.turn(address):
            reply = await self._video_process.done(job, MAX_VIDEO_SECONDS)
        if reply is None:
            message = "This video takes too long to read, or is damaged. Please choose a shorter or smaller copy."
            raise BadImage(message, "video_damaged")
        return reply

    async def close(self) -> None:
        """Stop the processes, those at work too."""
        for process in (*self._processes, self._video_process):
            await process.stop()


class _DecodingProcess:
    """A child process that does one job after the other; jobs and replies are lines of JSON."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._killed: asyncio.subprocess.Process | None = None
        """The one before: its end must be waited for, or the event loop is told of it after its own."""

    async def start(self) -> asyncio.subprocess.Process:
        """The running process."""
        if self._process is None or self._process.returncode is not None:
            environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _START),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={**environment, "PYTHONPATH": str(_PACKAGE), "OPENBLAS_NUM_THREADS": "1"},
            )
        return self._process

    async def done(self, job: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """The reply to a job; None if the process dies or takes longer than this."""
        process = await self.start()
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(job).encode() + b"\n")
            line = await asyncio.wait_for(process.stdout.readline(), seconds)
            if line:
                return json.loads(line)
        except (TimeoutError, ConnectionError):
            pass
        except BaseException:
            await self.stop()  # its reply would be taken for that of the next job
            raise
        await self.stop()
        return None

    async def stop(self) -> None:
        """Kill it, and wait until it has ended, whoever killed it; the next job starts another."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._killed, self._process = self._process, None
        if self._killed is not None:
            await self._killed.wait()


def serve_jobs(max_memory: int = MAX_MEMORY) -> None:
    """What a process does, until its input ends: a job a line in, a reply a line out.

    Args:
        max_memory: Bytes that it may hold.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not spoil the replies
    resource.setrlimit(resource.RLIMIT_DATA, (max_memory, max_memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)  # answers go first
    for line in sys.stdin:
        print(json.dumps(_reply(**json.loads(line))), file=replies, flush=True)


def _reply(source: str, place: str, at_least: int, max_pixels: int | None) -> dict[str, Any]:
    try:
        if is_video(source):
            return {"name": store_frames(Path(source), Path(place), at_least=at_least).name}
        content = Path(source).read_bytes()
        if max_pixels is not None:
            width, height = open_header(content).size
            if width * height > max_pixels:
                return {"large": True}
        return {"name": store_copy(content, Path(place), at_least=at_least).name}
    except BadImage as error:
        return {"problem": error.problem, "message": str(error)}
    except OSError as error:
        return {"problem": "unreadable", "message": f"The file can't be read ({error.strerror})."}
