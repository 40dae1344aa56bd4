"""Reports as Markdown, written by the templates in templates/, and what is made of it: an HTML page, LaTeX tables."""

import base64
import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jinja2
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from dogbreeds.errors import UserError
from dogbreeds.research.latex import LONG_CELL, to_latex

PICTURES = "pictures"
"""The folder beside a Markdown report that holds its pictures."""

ENDINGS = (".html", ".csv", ".md", ".tex")
"""The endings of tables."""

_SPECIAL = re.compile(
    r"""[`*~#\[\]|]                             # has a meaning anywhere
    |\\(?![^\W_]|\s)                            # would escape what follows
    |(?<!^)(?<![^\W_])_|_(?![^\W_])             # may close emphasis; within words and at the start "_" is literal""",
    re.VERBOSE,
)


def render(template: str, **values: Any) -> str:
    """Fill a Markdown template. Every value is escaped to appear literally, in a table or outside.

    In templates, `code` shows a value as code (`code(in_table=true)` within tables), and `number` formats it, with a
    dash for None. A value must not begin a line, where it could start a list or a quotation.

    Args:
        template: The name of a file in templates/.
        values: What the template uses.
    """
    environment = _environment(finalize=_escape)
    environment.filters |= {"code": _code, "number": _number, "p_value": _p_value}
    text = environment.get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def to_html(markdown: str, pictures: Mapping[str, bytes]) -> str:
    """One page that holds everything: no script, and nothing is loaded.

    Pictures in one paragraph are shown side by side, tables of pictures as a gallery, and a picture that is a link to
    itself can be enlarged. A bold paragraph is shown larger, and one that follows a table is its caption.

    Args:
        markdown: From `render`.
        pictures: The content of each PNG or JPEG file that it shows from the folder `PICTURES`, by file name.
    """
    parser = _parser()
    tokens = parser.parse(markdown)
    title = next(_plain(inline) for heading, inline in pairwise(tokens) if heading.tag == "h1")
    for index, token in enumerate(tokens):
        if token.type == "table_open":
            _adapt_table(tokens[index:])
        elif token.type == "paragraph_open":
            _adapt_paragraph(*tokens[index : index + 3])
        for image in _images(token):
            name = unquote(str(image.attrs["src"])).removeprefix(f"{PICTURES}/")
            kind = "png" if name.endswith("png") else "jpeg"
            image.attrSet("src", f"data:image/{kind};base64,{base64.b64encode(pictures[name]).decode()}")
    body = parser.renderer.render(tokens, parser.options, {})
    return _environment().get_template("page.html.jinja").render(title=title, body=Markup(body))


def write_document(folder: Path, name: str, markdown: str, pictures: Mapping[str, bytes]) -> None:
    """Write a report: NAME.md with the folder `PICTURES`, the same as one page NAME.html, and its tables as NAME.tex.

    Args:
        folder: The folder to write to.
        name: Of the files.
        markdown: From `render`.
        pictures: The content of each file of `PICTURES`, by its name.
    """
    if pictures:
        (folder / PICTURES).mkdir()
    for file, content in pictures.items():
        (folder / PICTURES / file).write_bytes(content)
    for ending in (".md", ".html", ".tex"):
        (folder / f"{name}{ending}").write_text(_as(ending, name, markdown, pictures), encoding="utf-8")


def check_format(path: Path | None) -> None:
    """Refuse a name that `write_table` has no format for, before any work is done.

    Raises:
        UserError: It ends in none of `ENDINGS`.
    """
    if path and path.suffix.lower() not in ENDINGS:
        raise UserError(f"--output {str(path)!r}: the name must end in {', '.join(ENDINGS)}")


def write_table(path: Path, markdown: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table as the ending of the file's name says.

    Args:
        path: Its name ends in one of `ENDINGS`.
        markdown: From `render`; for .md, for .html as a page, and of .tex the tables.
        header: Of the columns of .csv.
        rows: Below it.

    Raises:
        UserError: The file can't be written.
    """
    if path.suffix.lower() == ".csv":
        file = io.StringIO()
        csv.writer(file).writerows([header, *rows])
        text = file.getvalue()
    else:
        text = _as(path.suffix.lower(), path.stem, markdown, {})
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't write {str(path)!r}: {error.strerror}") from None


def _as(ending: str, name: str, markdown: str, pictures: Mapping[str, bytes]) -> str:
    if ending == ".html":
        return to_html(markdown, pictures)
    return to_latex(_parser().parse(markdown), name) if ending == ".tex" else markdown


def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _environment(**options: Any) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


def _escape(value: Any) -> Markup:
    """A value as Markdown that shows it literally; what is Markdown already stays."""
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).splitlines()).replace("&", "&amp;").replace("<", "&lt;")
    return Markup(_SPECIAL.sub(r"\\\g<0>", text))


def _code(value: Any, in_table: bool = False) -> Markup:
    text = " ".join(str(value).splitlines())
    if in_table:
        text = text.replace("|", r"\|")
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    padding = " " if len(fence) > 1 else ""
    return Markup(f"{fence}{padding}{text}{padding}{fence}")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form).replace("%", "\u202f%")


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


# The tokens of markdown-it, changed in place for the page


def _adapt_table(tokens: Sequence[Token]) -> None:
    """Make a table, which the tokens begin with, a scrollable region with header cells, or a part of a gallery."""
    end = next(index for index, token in enumerate(tokens) if token.type == "table_close")
    kind, label = "gallery", ""
    if not any(map(_images, tokens[:end])):
        kind, label = "wide", "table"
        if tokens[end + 1 : end + 2] and tokens[end + 1].type == "paragraph_open":
            tokens[end + 1].attrSet("class", "caption")
            label = _plain(tokens[end + 2])
        for index, token in enumerate(tokens[:end]):
            if token.type == "tr_open":
                name = tokens[index + 1]  # the first cell of a row names it
                name.attrSet("scope", "row" if name.type == "td_open" else "col")
                name.tag = tokens[index + 3].tag = "th"
            elif token.type == "th_open":
                token.attrSet("scope", "col")
            elif token.type == "td_open" and len(_plain(tokens[index + 1])) > LONG_CELL:
                token.attrSet("class", "long")
    _replace(tokens[0], f"{_region('div', kind, label)}<table>\n")
    _replace(tokens[end], "</table>\n</div>\n")


def _adapt_paragraph(start: Token, inline: Token, end: Token) -> None:
    """Give a paragraph its look, by what it consists of."""
    content = [child for child in inline.children or () if child.type != "softbreak" and (child.tag or child.content)]
    kinds = [child.type for child in content]
    if set(kinds) == {"image"}:
        start.attrSet("class", "charts")
    elif kinds == ["link_open", "image", "link_close"]:
        inline.children = [content[1]]
        label = '<label><input type="checkbox"> full size</label>'
        _replace(start, f'<div class="large">\n{label}\n{_region("figure", "wide", content[1].content)}')
        _replace(end, "</figure>\n</div>\n")
    elif kinds[0] == "strong_open" and kinds.index("strong_close") == len(kinds) - 1:
        start.attrSet("class", "prominent")


def _region(tag: str, kind: str, label: str) -> str:
    """The start of an element of a class; with a label one that can be scrolled with the keyboard too."""
    scrollable = Markup(' role="region" tabindex="0" aria-label="{}"').format(label) if label else ""
    return f'<{tag} class="{kind}"{scrollable}>\n'


def _replace(token: Token, html: str) -> None:
    token.type, token.content = "html_block", html


def _images(token: Token) -> list[Token]:
    return [child for child in token.children or () if child.type == "image"]


def _plain(inline: Token) -> str:
    return "".join(child.content or " " * (child.type == "softbreak") for child in inline.children or ())
