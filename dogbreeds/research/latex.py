"""The tables of a report as LaTeX, from the same Markdown as its page."""

import re
from collections.abc import Sequence

from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode

LONG_CELL = 40
"""Characters of a cell above which its column breaks into lines."""
LONG_COLUMN = "p{6cm}"

PREAMBLE = r"% \usepackage{booktabs, graphicx}"
"""What a document needs that `\\input`s the tables."""

_ESCAPED = str.maketrans(
    {
        **{sign: rf"\{sign}" for sign in "&%$#_{}"},
        **{sign: f"{{{sign}}}" for sign in "[]*"},  # at the start of a row they would belong to the \\ above it
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "“": r"\textquotedblleft{}",
        "”": r"\textquotedblright{}",
        "–": r"\textendash{}",
        "±": r"$\pm$",
        "\u202f": r"\,",
        "\u00a0": "~",
        "\u200b": "",
    }
)
_MINUS = re.compile(r"(?<![\w-])-(?=[\d.])")
_NUMBER = re.compile(r"[+(-]?\d|–$")
"""What the cells of a column begin with that is aligned at its right."""


def to_latex(tokens: Sequence[Token], name: str) -> str:
    r"""The tables of a report as floats: for booktabs, and with graphicx no wider than the text.

    The caption of a table is the headings above it, and the paragraph after it, else that before it. Cells keep their
    order and their words; no other package is needed, but letters that the font lacks want XeLaTeX or LuaLaTeX.

    Args:
        tokens: Of markdown-it, of the report's Markdown.
        name: Of the report; the labels are `tab:NAME-1` and so on.
    """
    blocks = SyntaxTreeNode(tokens).children
    headings: dict[str, str] = {}
    floats: list[str] = []
    for index, block in enumerate(blocks):
        if block.type == "heading":
            headings = {tag: words for tag, words in headings.items() if tag < block.tag} | {block.tag: _text(block)}
        elif block.type == "table" and not _has_pictures(block):
            beside = [*blocks[index + 1 : index + 2], *blocks[max(0, index - 1) : index]]
            above = ": ".join([*headings.values()][1:] or headings.values())  # not the title above all tables
            caption = [above if above.endswith("?") else f"{above}."]
            caption += [_text(each) for each in beside if _is_words(each)][:1]
            floats.append(_float(block, " ".join(caption), f"tab:{name}-{len(floats) + 1}"))
    return "\n".join([f"{PREAMBLE}\n", *floats])


def escape(text: str) -> str:
    """Text that LaTeX shows literally, with signs of minus that are as long as those of plus."""
    parts = [re.sub("-(?=-)", "-{}", part.translate(_ESCAPED)) for part in _MINUS.split(text)]
    return "$-$".join(parts)


def _float(table: SyntaxTreeNode, caption: str, label: str) -> str:
    rows = [node for node in table.walk() if node.type == "tr"]
    header, *body = [[_text(cell) for cell in row.children] for row in rows]
    columns = zip(*([_plain(cell) for cell in row.children] for row in rows), strict=True)
    lines = [" & ".join(row) + r" \\" for row in (header, *body)]
    indented = "\n".join(f"    {line}" for line in [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"])
    return rf"""\begin{{table}}
  \centering
  \caption{{{caption}}}
  \label{{{label}}}
  \medskip
  \resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{%
  \begin{{tabular}}{{{"".join(map(_alignment, columns))}}}
{indented}
  \end{{tabular}}}}
\end{{table}}
"""


def _alignment(column: Sequence[str]) -> str:
    """Of a column of plain text, the header first."""
    if max(map(len, column)) > LONG_CELL:
        return LONG_COLUMN
    return "r" if all(map(_NUMBER.match, column[1:])) else "l"


def _text(node: SyntaxTreeNode) -> str:
    """Everything in a block as LaTeX, in one line."""
    return "".join(
        rf"\texttt{{{each.content.translate(_ESCAPED)}}}" if each.type == "code_inline" else escape(_words_of(each))
        for each in node.walk()
    )


def _plain(node: SyntaxTreeNode) -> str:
    return "".join(map(_words_of, node.walk()))


def _words_of(node: SyntaxTreeNode) -> str:
    """The words of a node itself."""
    if node.type in ("softbreak", "hardbreak"):
        return " "
    return node.content if node.type in ("text", "code_inline") else ""


def _has_pictures(node: SyntaxTreeNode) -> bool:
    return any(each.type == "image" for each in node.walk())


def _is_words(node: SyntaxTreeNode) -> bool:
    """Whether it is a paragraph, neither of pictures nor one that begins bold, as a note does."""
    if node.type != "paragraph" or _has_pictures(node):
        return False
    (inline,) = node.children
    return next(each.type for each in inline.children if each.type != "text" or each.content) != "strong"
