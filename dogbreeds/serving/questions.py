"""Questions that are posted to the page: what gradio gets of them, or a sentence about what is wrong with them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

PUBLIC_FOLDER = "uploads"
"""The name of the folder of uploads in replies and requests; nobody learns where it lies on the server."""

_QUESTION = re.compile(r"/gradio_api/(?:call/(?:v2/)?(\w{1,64})|queue/join|run/\w{1,64}|cancel|reset)")
_UPLOAD = re.compile(rf"{PUBLIC_FOLDER}/([0-9a-f]{{32}}/(?:(?:photo|unreadable)\.(?:webp|png)|video\.json))")
_MAX_FILES = 2_000
_NO_ADDRESS = "Photos are uploaded; this page fetches none from an address."

Form = TypeVar("Form", bound=BaseModel)
Session = Field(pattern=r"^[\w-]{1,64}$")


class Refused(Exception):
    """Why a request gets no answer, in a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Input:
    """One input of an event."""

    name: str
    kind: Literal["photo", "photos", "choice", "breeds"]
    choices: tuple[Any, ...] = ()
    default: Any = None


@dataclass(frozen=True)
class Event:
    """What can be asked of the page."""

    number: int
    """By which the page names it."""
    name: str | None
    """By which programs name it; None where they are not meant to."""
    queued: bool
    inputs: tuple[Input, ...]


class _File(BaseModel):
    path: str
    orig_name: str | None = Field(None, max_length=1000)


class _Breeds(BaseModel):
    only_breeds: list[Annotated[str, Field(max_length=100)]] = Field(max_length=1000)


class _Call(BaseModel):
    data: list[Any]


class _Join(_Call):
    fn_index: int
    session_hash: str = Session
    trigger_id: int | None = None


class _Cancel(BaseModel):
    session_hash: str = Session
    fn_index: int
    event_id: str = Session


class _Reset(BaseModel):
    event_id: str = Session


class Questions:
    """Checks what is posted against the events of the page."""

    def __init__(self, events: Sequence[Event], uploads: Path) -> None:
        """Know the events.

        Args:
            events: Of the page.
            uploads: The folder of uploads, of which alone files are read.
        """
        self._by_number = {event.number: event for event in events}
        self._by_name = {event.name: event for event in events if event.name}
        self._uploads = uploads

    def known(self, path: str) -> bool:
        """Whether something can be posted there."""
        question = _QUESTION.fullmatch(path)
        return question is not None and (question[1] is None or question[1] in self._by_name)

    def upload(self, public: str) -> Path | None:
        """Where an upload lies, of which a reply said this; None if none can be of this name."""
        found = _UPLOAD.fullmatch(public)
        return self._uploads / found[1] if found else None

    def for_gradio(self, path: str, body: bytes) -> tuple[str, dict[str, Any]]:
        """The path and the body that gradio gets in place of a question's.

        Args:
            path: One that is `known`.
            body: What was posted.

        Raises:
            Refused: It is no JSON, or does not fit the event.
        """
        try:
            question = json.loads(body)
        except (ValueError, RecursionError):  # not JSON, or nested too deeply
            raise Refused(422, "This request is not in JSON.") from None
        if _has_address(question):
            raise Refused(400, _NO_ADDRESS)
        place = path.removeprefix("/gradio_api/")
        if place == "cancel":
            return path, _valid(_Cancel, question).model_dump()
        if place == "reset":
            return path, _valid(_Reset, question).model_dump()
        if place.startswith("call/"):
            event = self._by_name[place.rpartition("/")[2]]
            named = place.startswith("call/v2/")
            values = _in_order(event, question) if named else _valid(_Call, question).data
            return f"/gradio_api/call/{event.name}", {"data": self._data(event, values)}
        if place.startswith("run/"):
            if not isinstance(question, dict) or "fn_index" not in question:
                raise Refused(404, "There is nothing here.")  # programs use call/
            question = {**question, "session_hash": question.get("session_hash") or "none"}
        asked = _valid(_Join, question)
        found = self._by_number.get(asked.fn_index)
        if found is None or (found.queued and place != "queue/join"):
            raise Refused(404, "There is nothing here.")
        return path, {**asked.model_dump(), "data": self._data(found, asked.data)}

    def _data(self, event: Event, values: list[Any]) -> list[Any]:
        inputs = event.inputs
        if len(values) > len(inputs):
            raise Refused(422, f"data has {len(values)} values: at most {len(inputs)} are expected.")
        filled = [*values, *(each.default for each in inputs[len(values) :])]
        return [self._value(each, value) for each, value in zip(inputs, filled, strict=True)]

    def _value(self, wanted: Input, value: Any) -> Any:
        if wanted.kind == "choice":
            if value not in wanted.choices:
                raise Refused(422, f"{wanted.name} must be one of {', '.join(map(repr, wanted.choices))}.")
            return value
        if value is None:
            return None
        if wanted.kind == "breeds":
            return _valid(_Breeds, {"only_breeds": value}).only_breeds
        if wanted.kind == "photo":
            return self._file(wanted.name, value)
        if not isinstance(value, list) or len(value) > _MAX_FILES:
            raise Refused(422, f"{wanted.name} must be a list of at most {_MAX_FILES} files.")
        files = [self._file(f"{wanted.name}[{number}]", each) for number, each in enumerate(value)]
        first: dict[str, int] = {}
        for number, file in enumerate(files):  # or one upload would be answered 500 times
            if (same := first.setdefault(file["path"], number)) != number:
                place = f"{wanted.name}[{number}].path"
                raise Refused(422, f"{place} names the same upload as {wanted.name}[{same}]: name each once.")
        return files

    def _file(self, name: str, value: Any) -> dict[str, Any]:
        file = _valid(_File, value, name)
        path = self.upload(file.path)
        if path is None:
            raise Refused(422, f"{name}.path must be what POST /gradio_api/upload replied.")
        return {"path": str(path), "orig_name": file.orig_name, "meta": {"_type": "gradio.FileData"}}


def _in_order(event: Event, question: Any) -> list[Any]:
    """The values of a question that names its parameters."""
    if not isinstance(question, dict):
        raise Refused(422, "This request must be a JSON object with the parameters by name.")
    names = [each.name for each in event.inputs]
    if unknown := sorted(set(question) - {*names, "session_hash", "oauth_token"}):
        raise Refused(422, f"There is no parameter {unknown[0][:100]!r}: the parameters are {', '.join(names)}.")
    return [question.get(each.name, each.default) for each in event.inputs]


def _valid(form: type[Form], value: Any, name: str = "") -> Form:
    try:
        return form.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(filter(None, (name, *map(str, first["loc"])))) or "This request"
        raise Refused(422, f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}.") from None


def _has_address(value: Any) -> bool:
    if isinstance(value, dict):
        path = value.get("path")
        return (isinstance(path, str) and "://" in path) or any(map(_has_address, value.values()))
    return isinstance(value, list) and any(map(_has_address, value))
