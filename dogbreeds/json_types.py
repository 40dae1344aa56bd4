"""The types of values in JSON files, which may be damaged or a stranger's: numbers in range, texts of one line."""

import reprlib
import unicodedata
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic_core
from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError

from dogbreeds.errors import UserError, printable

Value = TypeVar("Value")

_UNSEEN_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
"""Control characters, which a terminal obeys, halves of characters, and ends of lines ..."""
_TURNS = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""... and what turns the direction of all the text behind it."""


def is_plain(text: str) -> bool:
    """Whether the text has no characters that do something to a terminal or a page instead of being shown."""
    return not any(char in _TURNS or unicodedata.category(char) in _UNSEEN_CATEGORIES for char in text)


def _plain(text: str) -> str:
    if not is_plain(text):
        raise ValueError("text without control characters")
    return text


Finite = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1.001)]
"""A probability, or a threshold of one, which may lie just above 1: never."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, AfterValidator(_plain)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_plain)]
"""The name of a class."""


def checked(type_: type[Value], value: Any, file: Path, *, within: tuple[str, ...] = ()) -> Value:
    """A value of JSON as the type that it is said to have.

    Args:
        type_: A dataclass, or what pydantic takes besides.
        value: What `json` read.
        file: It was read from, of a run folder.
        within: The keys that lead to it there.

    Raises:
        UserError: It lacks a key, or has a value of a wrong type or out of range.
    """
    try:  # as JSON, where strict validation takes objects for dataclasses
        return TypeAdapter(type_).validate_json(pydantic_core.to_json(value, inf_nan_mode="constants"), strict=True)
    except ValidationError as error:
        fault = _fault(error, file.name, within)
    except ValueError:  # half a character
        fault = f"{file.name} is damaged: it holds text that is none"
    raise UserError(f"the run folder {str(file.parent)!r} is damaged: {fault}; copy it again or train again")


def _fault(error: ValidationError, file: str, within: tuple[str, ...]) -> str:
    """The first error in words."""
    first = error.errors(include_url=False)[0]
    key = printable(".".join((*within, *map(str, first["loc"]))), 100)
    if first["type"] == "missing":
        return f"{file} has no {key!r}"
    if first["type"] == "json_invalid":
        return f"{file} is damaged: it holds a number or a text that is none"
    context = first.get("ctx", {})
    is_range = first["type"].split("_")[0] in ("greater", "less", "too", "finite", "string")
    wanted = context.get("error") or context.get("class_name") or context.get("expected")
    if is_range and not wanted:
        wanted = f"but must {first['msg'].partition(' should ')[2]}"
    else:
        wanted = f"not {wanted or first['type'].removesuffix('_type')}"
    return f"{file} is damaged: its {key} is {reprlib.repr(first['input'])}, {wanted}"
