"""A document as a list of blocks, written as one self-contained HTML page or as Markdown with picture files."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup, escape


@dataclass(frozen=True)
class Picture:
    """An image file within the report."""

    name: str
    data: bytes
    alt: str
    caption: str = ""

    @property
    def data_uri(self) -> str:
        """The picture as the address of an image in a page."""
        kind = "png" if self.name.endswith("png") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Heading:
    """A heading."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph. As in Markdown, `` `code` `` is between backticks and **strong** text between double stars."""

    text: str
    prominent: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Charts:
    """Pictures side by side, or below each other where the screen is narrow."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class LargeChart:
    """A picture with text too small for the page, which can be shown in full size and scrolled."""

    picture: Picture


@dataclass(frozen=True)
class Gallery:
    """Rows of small pictures that belong together, each with its caption."""

    rows: Sequence[Sequence[Picture]]


Block = Heading | Text | Table | Charts | LargeChart | Gallery


def to_html(blocks: Sequence[Block]) -> str:
    """One page that holds everything: no script, and nothing is loaded."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["inline"] = _inline
    environment.filters["kind"] = lambda block: type(block).__name__
    title = next(block.text for block in blocks if isinstance(block, Heading))
    return environment.get_template("document.html.jinja").render(title=title, blocks=blocks)


def _inline(text: str) -> Markup:
    """Backticks and double stars as in Markdown."""
    html = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*([^*]*)\*\*", r"<strong>\1</strong>", html))


def to_markdown(blocks: Sequence[Block]) -> str:
    """The same as Markdown; the pictures are files in pictures/."""
    parts = []
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {_plain(text)}")
            case Text(text, prominent):
                parts.append(f"**{_plain(text)}**" if prominent else _plain(text))
            case Table(header, rows, caption):
                lines = [header, ["---"] * len(header), *rows]
                parts.append("\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines))
                if caption:
                    parts.append(_plain(caption))
            case Charts(pictures):
                parts.append("\n".join(_markdown_picture(picture) for picture in pictures))
            case LargeChart(picture):
                parts.append(_markdown_picture(picture))
            case Gallery(rows):
                for row in rows:
                    captions = " | ".join(_plain(picture.caption) for picture in row)
                    images = " | ".join(_markdown_picture(picture) for picture in row)
                    parts.append(f"| {captions} |\n|{' --- |' * len(row)}\n| {images} |")
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")


def _markdown_picture(picture: Picture) -> str:
    return f"![{_plain(picture.alt)}](pictures/{picture.name})"


def pictures_of(blocks: Sequence[Block]) -> list[Picture]:
    """All pictures, which have different names."""
    found: list[Picture] = []
    for block in blocks:
        match block:
            case Charts(pictures):
                found += pictures
            case LargeChart(picture):
                found.append(picture)
            case Gallery(rows):
                found += [picture for row in rows for picture in row]
    assert len({picture.name for picture in found}) == len(found), "two pictures have the same name"
    return found
