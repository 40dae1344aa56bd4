"""Tables for LaTeX: every cell is printed as it is, whatever stands in it."""

import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from report_files import latex_tables, shown

from dogbreeds.errors import UserError
from dogbreeds.research.document import check_format, write_document, write_table
from dogbreeds.research.latex import LONG_COLUMN, escape

MARKDOWN = r"""# All & everything

Before the *first*, 95 % of it.

| name_1 | top-1, % | command |
| --- | --- | --- |
| \[50 %\] & a#1 | -0.3 (-1.0 to +0.5) | `--seed 1_0 & {x}` |
| \*star ± é --resume | 5.0 – 6.0 | – |

**Note:** no caption.

## Is it real?

![A picture.](pictures/one.png)

| x\|y\\z ^~&lt;b> $1$ | of “r” |
| --- | --- |
| %s | – |

After it
and so on.

### One

| ![A photo.](pictures/one.png) |
| --- |
| A gallery |

| only |
| --- |
| $\x$ {} vit-base-patch16-224 |
""".replace("%s", "so long a cell that its column has to break into lines")


def test_every_cell_is_printed_as_it_is(tmp_path):
    write_table(tmp_path / "table.tex", MARKDOWN, ["not used"], [])
    text = (tmp_path / "table.tex").read_text()
    first, second, third = latex_tables(text).items()
    assert first == (
        "1. All & everything. Before the first, 95 % of it.",
        [
            ["name_1", "top-1, %", "command"],
            ["[50 %] & a#1", "-0.3 (-1.0 to +0.5)", "--seed 1_0 & {x}"],
            ["*star ± é --resume", "5.0 – 6.0", "–"],
        ],
    )
    assert second[0] == "2. Is it real? After it and so on." and second[1][0] == ["x|y\\z ^~<b> $1$", "of “r”"]
    assert third == ("3. Is it real?: One.", [["only"], ["$\\x$ {} vit-base-patch16-224"]])
    assert re.findall(r"\\begin\{tabular\}\{(.*)\}", text) == ["lrl", f"{LONG_COLUMN}r", "l"]
    assert re.findall(r"\\label\{(.*)\}", text) == [f"tab:table-{number}" for number in (1, 2, 3)]


def test_what_latex_would_take_for_a_command_is_none():
    assert escape("100% & $5 #1 a_b {c} \\d") == r"100\% \& \$5 \#1 a\_b \{c\} \textbackslash{}d"
    assert escape("-0.5 to -.1, not a-1, 2-3 or --x") == "$-$0.5 to $-$.1, not a-1, 2-3 or -{}-x"
    assert escape("[h] *") == "{[}h{]} {*}", "after \\\\ they would be its argument and its star"
    for not_latex in ("50 %", "a_b", "a & b", "±1", "{", "\\texttt{a", "}"):
        with pytest.raises(AssertionError):
            shown(not_latex)


def test_a_report_holds_all_forms_of_itself(tmp_path):
    write_document(tmp_path, "mine", MARKDOWN, {"one.png": b"PNG", "one.svg": b"<svg/>"})
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")} == {
        "mine.md", "mine.html", "mine.tex", "pictures/one.png", "pictures/one.svg",
    }  # fmt: skip
    assert len(latex_tables((tmp_path / "mine.tex").read_text())) == 3
    check_format(Path("a.TEX"))
    with pytest.raises(UserError, match=r"must end in .html, .csv, .md, .tex"):
        check_format(Path("a.pdf"))


def test_bibtex_says_what_the_citation_file_says():
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    page = (ROOT / "dogbreeds" / "docs" / "comparing.md").read_text()
    (entry,) = re.findall(r"^```bibtex\n@software\{dogbreeds,\n(.*?)\n\}\n```$", page, re.DOTALL | re.MULTILINE)
    fields = dict(re.fullmatch(r"  (\w+) = \{(.*)\},", line).groups() for line in entry.splitlines())
    fields["title"] = re.sub(r"[{}]", "", fields["title"])
    assert fields == {
        "author": " and ".join(f"{{{author['name']}}}" for author in about["authors"]),
        "title": about["title"],
        "year": str(about["date-released"].year),
        "version": about["version"],
        "license": about["license"],
    }
