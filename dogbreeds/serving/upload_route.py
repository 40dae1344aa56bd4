"""The route for uploads: each photo of a request is decoded and deleted before the next one arrives."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive

from dogbreeds.serving.questions import Refused
from dogbreeds.serving.turns import Turns
from dogbreeds.serving.uploads import UploadFolder, delete_copies, kept
from dogbreeds.serving.video import MAX_BYTES, is_video

MAX_FILE = 40_000_000
"""Bytes of one photo."""
NUM_VIDEOS = 4
"""Videos larger than a photo may be that are received at the same time; no two of one address."""
VIDEO_SECONDS = 600.0
"""How long one may take to come."""
MAX_FILES = 1_000
"""Of one request; gradio's page sends at most so many in one."""
MAX_REQUEST = 4_000_000_000
"""Bytes of one request."""
MAX_FIELDS = 10_000
"""Bytes of a request that are of no file."""
NUM_AT_ONCE, NUM_OF_ADDRESS = 32, 8
"""Requests whose photos are received at the same time. Each has at most one file on the disk."""
MAX_WAITING_OF_ADDRESS = 64
"""Requests of one address that wait until its others are received."""

PAUSE_SECONDS = 15.0
"""How long the next bytes of a request may take."""
MIN_BYTES_PER_SECOND = 4_000
"""A slower request is ended, after `GRACE_SECONDS`."""
GRACE_SECONDS = 20.0

_MAX_PROGRESS = 256
"""Requests whose progress is known."""


async def body_parts(receive: Receive) -> AsyncIterator[bytes]:
    """The body of a request as it comes.

    Raises:
        Refused: It comes too slowly.
        ConnectionError: The client went away.
    """
    waited, num_bytes, more = 0.0, 0, True
    while more:
        begun = time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), PAUSE_SECONDS)
        except TimeoutError:
            raise Refused(408, "This request came too slowly.") from None
        if message["type"] == "http.disconnect":
            raise ConnectionError
        waited += time.monotonic() - begun
        content, more = message.get("body", b""), message.get("more_body", False)
        num_bytes += len(content)
        if waited > GRACE_SECONDS and num_bytes < waited * MIN_BYTES_PER_SECOND:
            raise Refused(408, "This request came too slowly.")
        yield content


class UploadRoute:
    """Receives photos, and tells how far it is."""

    def __init__(self, uploads: UploadFolder) -> None:
        """Begin.

        Args:
            uploads: Where the photos' copies go.
        """
        self._uploads = uploads
        self._turns = Turns(NUM_AT_ONCE, num_for_address=NUM_OF_ADDRESS)
        self._videos: dict[Path, tuple[str, float]] = {}
        """Of each video that is received and larger than a photo may be: whose it is, and since when."""
        self._progress: OrderedDict[str, _Progress] = OrderedDict()

    async def receive(self, content_type: str, address: str, upload_id: str, receive: Receive) -> list[Path]:
        """Receive the photos of one request.

        Args:
            content_type: The request's header.
            address: Whose photos they are.
            upload_id: By which the page asks for the progress; empty where nobody does.
            receive: Gives the request's body.

        Returns:
            The photos' copies, see `UploadFolder.add`.

        Raises:
            Refused: Something is wrong with the request, or there is no room.
            ConnectionError: The client went away.
        """
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary or len(boundary) > 200:
            raise Refused(400, "Photos are sent as multipart/form-data, in the field 'files'.")
        if self._turns.num_of(address) >= NUM_OF_ADDRESS + MAX_WAITING_OF_ADDRESS:
            raise Refused(429, "Many photos of your address are on their way: please try again in a few seconds.")
        progress = self._begin_progress(upload_id)
        copies: list[Path] = []
        try:
            async with self._turns.turn(address), kept(copies):  # the request may come for an hour
                async for copy in self._received(boundary, address, progress, receive):
                    copies.append(copy)
            return copies
        except BaseException:
            delete_copies(copies)
            raise
        finally:
            progress.done = True

    async def _received(
        self, boundary: bytes, address: str, progress: "_Progress", receive: Receive
    ) -> AsyncIterator[Path]:
        """The copy of each photo, as soon as it is there."""
        parser, arrived = _Parser(boundary), self._uploads.arrival()
        num_files = num_bytes = num_bytes_of_file = 0
        name = ""
        try:
            async for content in body_parts(receive):
                num_bytes += len(content)
                if num_bytes > MAX_REQUEST:
                    raise Refused(413, f"These photos have more than {MAX_REQUEST // 10**9} GB: send fewer at a time.")
                for event, value in parser.events(content):
                    if event == "begin":
                        name, num_bytes_of_file, num_files = value.decode(errors="replace"), 0, num_files + 1
                        if num_files > MAX_FILES:
                            raise Refused(413, f"These are more than {MAX_FILES} photos: send fewer at a time.")
                        if refusal := self._uploads.refusal(address):
                            raise Refused(503, refusal)
                        arrived.touch()
                    elif event == "data":
                        num_bytes_of_file += len(value)
                        if num_bytes_of_file > MAX_FILE:
                            self._check_video(arrived, num_bytes_of_file, address)
                        with arrived.open("ab") as file:
                            file.write(value)
                        progress.news[name] += len(value)
                    else:
                        self._videos.pop(arrived, None)
                        yield await self._uploads.add(arrived, address)
            if not parser.is_complete:
                raise Refused(400, "This request is cut short.")
        finally:
            self._videos.pop(arrived, None)
            arrived.unlink(missing_ok=True)

    def _check_video(self, arrived: Path, num_bytes: int, address: str) -> None:
        """Refuse a file that is larger than a photo may be, unless it is a video of the few that may come now."""
        if arrived not in self._videos:
            if not (self._uploads.takes_videos and is_video(arrived)):
                raise Refused(413, f"This file is larger than {MAX_FILE // 10**6} MB, the maximum.")
            if refusal := self._uploads.refusal(address):
                raise Refused(503, refusal)
            if len(self._videos) >= NUM_VIDEOS or any(address == other for other, _ in self._videos.values()):
                raise Refused(503, "Other videos are on their way: please try again in a minute.")
            self._videos[arrived] = (address, time.monotonic())
        if num_bytes > MAX_BYTES:
            raise Refused(413, f"This video is larger than {MAX_BYTES // 10**6} MB, the maximum.")
        if time.monotonic() - self._videos[arrived][1] > VIDEO_SECONDS:
            raise Refused(408, "This video came too slowly.")

    def _begin_progress(self, upload_id: str) -> "_Progress":
        progress = _Progress()
        if upload_id:  # of those without one, anybody could ask for the names of others' photos
            self._progress[upload_id] = progress
        if len(self._progress) > _MAX_PROGRESS:
            self._progress.popitem(last=False)
        return progress

    async def progress(self, upload_id: str) -> AsyncIterator[dict[str, Any]]:
        """What gradio's page shows of a request's progress: updates, and that it is done."""
        for _ in range(30 if upload_id else 0):  # the page asks before it sends
            if upload_id in self._progress:
                break
            await asyncio.sleep(0.1)
        while progress := self._progress.get(upload_id):
            news, progress.news = progress.news, Counter()
            for name, num_bytes in news.items():
                yield {"msg": "update", "orig_name": name, "chunk_size": num_bytes}
            if progress.done:
                break
            await asyncio.sleep(0.1)
        yield {"msg": "done"}


@dataclass
class _Progress:
    news: Counter[str] = field(default_factory=Counter)
    """Bytes of each file that have come since the page was told last."""
    done: bool = False


class _Parser:
    """The files of a multipart body. Fields that are no files are short, and left out."""

    def __init__(self, boundary: bytes) -> None:
        self.is_complete = False
        self._events: list[tuple[str, bytes]] = []
        self._header, self._value = b"", b""
        self._is_file, self._num_field_bytes = False, 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._read_header,
                "on_header_value": self._read_value,
                "on_header_end": self._end_header,
                "on_part_data": self._read_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def events(self, content: bytes) -> Iterable[tuple[str, bytes]]:
        """What the next bytes hold: ("begin", name of a file), ("data", bytes) and ("end", nothing).

        Raises:
            Refused: The body is damaged.
        """
        try:
            self._parser.write(content)
        except FormParserError:
            raise Refused(400, "This request is no proper multipart/form-data.") from None
        events, self._events = self._events, []
        return events

    def _begin_part(self) -> None:
        self._is_file = False

    def _read_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _read_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            options = parse_options_header(self._value)[1]
            if b"filename" in options:
                self._is_file = True
                self._events.append(("begin", options[b"filename"][:1000]))
        self._header, self._value = b"", b""

    def _read_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._events.append(("data", data[start:end]))
            return
        self._num_field_bytes += end - start
        if self._num_field_bytes > MAX_FIELDS:
            raise Refused(413, "There is too much in this request that is no file.")

    def _end_part(self) -> None:
        if self._is_file:
            self._events.append(("end", b""))

    def _end(self) -> None:
        self.is_complete = True
