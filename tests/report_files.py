"""What the files of a report say: its tables as LaTeX, read strictly, and the words in its figures for print."""

import re
import zlib
from pathlib import Path
from xml.etree import ElementTree

SPECIAL = r"&%$#_{}~^\\<>|\[\]*±–“”\u202f\u00a0"
SHOWN = {
    **{f"\\{sign}": sign for sign in "&%$#_{}"},
    **{f"{{{sign}}}": sign for sign in "[]*"},
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\textquotedblleft{}": "“",
    r"\textquotedblright{}": "”",
    r"\textendash{}": "–",
    r"$\pm$": "±",
    "$-$": "-",
    r"\,": "\u202f",
    "~": "\u00a0",
    "{}": "",
}
"""What LaTeX prints of all that may stand in a table besides plain letters and typewriter's text."""
PIECE = re.compile("|".join([r"\\texttt\{", *map(re.escape, SHOWN), r"\}", f"[^{SPECIAL}]"]))
LAYOUT = re.compile(
    r"\\begin\{table\}\n  \\centering\n  \\caption\{(?P<caption>.*)\}\n"
    r"  \\label\{tab:(?P<label>[\w-]+)\}\n  \\medskip\n"
    r"  \\resizebox\{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi\}\{!\}\{%\n"
    r"  \\begin\{tabular\}\{(?P<columns>(?:[lr]|p\{6cm\})+)\}\n    \\toprule\n(?P<header>.*)\n    \\midrule\n"
    r"(?P<rows>(?:.*\n)*?)    \\bottomrule\n  \\end\{tabular\}\}\n\\end\{table\}\n"
)


def shown(latex: str) -> str:
    """What LaTeX prints of a piece of text; nothing in it may have a meaning besides."""
    place, found, depth = 0, "", 0
    while place < len(latex):
        piece = PIECE.match(latex, place)
        assert piece, f"not escaped: {latex[place:]!r}"
        place = piece.end()
        depth += {"\\texttt{": 1, "}": -1}.get(piece[0], 0)
        assert depth in (0, 1), latex
        found += "" if piece[0] in ("\\texttt{", "}") else SHOWN.get(piece[0], piece[0])
    assert depth == 0, latex
    return found


def latex_tables(text: str) -> dict[str, list[list[str]]]:
    """The printed cells of each table by its caption, the header first."""
    assert text.startswith("% \\usepackage{booktabs, graphicx}\n\n")
    tables, labels = {}, set()
    for table in text.split("\n\n", 1)[1].split("\n\n"):
        read = LAYOUT.fullmatch(table.rstrip("\n") + "\n")
        assert read, table
        columns = re.findall(r"[lr]|p\{6cm\}", read["columns"])
        cells = []
        for row in [read["header"], *read["rows"].splitlines()]:
            assert row.startswith("    ") and row.endswith(r" \\"), row
            cells.append([shown(cell.strip()) for cell in re.split(r"(?<!\\)&", row[4:-3])])
            assert len(cells[-1]) == len(columns), row
        tables[f"{len(tables) + 1}. {shown(read['caption'])}"] = cells
        labels.add(read["label"])
    assert len(labels) == len(tables) > 0
    return tables


def words_of_svg(content: bytes) -> list[str]:
    """Each text of the picture."""
    return [
        "".join(text.itertext()) for text in ElementTree.fromstring(content).iter("{http://www.w3.org/2000/svg}text")
    ]


def words_of_pdf(content: bytes) -> list[str]:
    """Each text of the picture, whose letters have two bytes, those of Unicode; a ligature has a code of its own."""
    found = []
    # A carriage return before the line feed is the stream's own last byte, which 1 of 256 checksums ends with
    for stream in re.findall(rb"stream\n(.*?)\nendstream", content, re.DOTALL):
        try:
            drawn = zlib.decompress(stream)
        except zlib.error:
            continue
        for text in re.findall(rb"\bBT\b.*?\bET\b", drawn, re.DOTALL):
            letters = b"".join(re.findall(rb"\(((?:\\.|[^\\)])*)\)", text, re.DOTALL))
            found.append(re.sub(rb"\\(.)", rb"\1", letters).decode("utf-16-be", "replace"))
    return found


def check_pictures(folder: Path, names: set[str], *words: str) -> None:
    """Each of these pictures is there for pages and for print, where the words in them are text."""
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        for texts in (
            words_of_svg((folder / f"{name}.svg").read_bytes()),
            words_of_pdf((folder / f"{name}.pdf").read_bytes()),
        ):
            assert set(words) <= set(texts), (name, texts)
