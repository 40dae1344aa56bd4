"""README.md and dogbreeds/docs say what the code has: links, commands, flags and generated lists."""

import ast
import inspect
import json
import re
import shlex
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import generate_docs
import pytest
from conftest import ROOT

from dogbreeds import cli
from dogbreeds.training.options import OPTIONS

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "dogbreeds" / "docs").glob("*.md"))]
CONTENTS = {page: page.read_text(encoding="utf-8") for page in PAGES}

TASK_FLAGS = {"--config", "--seeds", "--tune", "--tune-fraction", "--help"}
SCRIPTS = {"train_vit.py", "train_cnn_baseline.py"}
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
FLAG = re.compile(r"--[a-z][a-z-]+")

per_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page: Path) -> str:
    """The text without its code blocks and its front matter."""
    text = re.sub(r"\A---\n.*?\n---\n", "", CONTENTS[page], flags=re.DOTALL)
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every line of the page's shell blocks, with the page's variables filled in."""
    variables = {}
    for block in re.findall(r"^```sh\n(.*?)^```$", CONTENTS[page], re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            filled = string.Template(line).safe_substitute(variables)
            words = shlex.split(filled, comments=True)
            assignments = re.findall(r'\b([A-Z]+)="([^"]*)"', filled)
            if words and re.match(r"[A-Z]+=", words[0]) and all("=" in word for word in words):
                variables |= dict(assignments)
            elif words:
                yield words


def flags_of(function: object) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    flags = {f"--{each.name.replace('_', '-')}" for each in parameters if "Positional" not in str(each.annotation)}
    return flags | {"--help"}


def training_flags() -> set[str]:
    flags = {f"--{name.replace('_', '-')}" for name in OPTIONS}
    switches = {f"--{option.name.replace('_', '-')}" for option in OPTIONS.values() if option.type is bool}
    return flags | {f"--no-{switch[2:]}" for switch in switches} | TASK_FLAGS


def subcommand_flags(words: list[str]) -> set[str]:
    """The flags of the command that these words name, such as `publish space`."""
    one, two = ("_".join(words[:num]).replace("-", "_") for num in (1, 2))
    name = two if callable(getattr(cli, two, None)) else one
    assert callable(getattr(cli, name, None)), f"no command {' '.join(words[:2])}"
    return flags_of(getattr(cli, name))


def script_flags(script: Path) -> set[str]:
    """The flags of app.py, a benchmark or a check: the parameters of its `main`, or what its source names."""
    source = script.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    named = [argument.arg for function in functions if function.name == "main" for argument in function.args.args]
    return {f"--{name.replace('_', '-')}" for name in named} | set(re.findall(r'"(--[a-z-]+)"', source)) | {"--help"}


def test_the_readme_is_short():
    assert README.stat().st_size <= 8000


@per_page
def test_table_cells_are_short(page):
    rows = [line for line in prose(page).splitlines() if line.startswith("|")]
    long = [cell.strip() for row in rows for cell in row.strip("|").split("|") if len(cell.strip()) > 120]
    assert not long


@per_page
def test_links_lead_to_files_and_headings(page):
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_linked_from_the_readme():
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in LINK.findall(prose(README))}
    assert set(PAGES) - {README} <= linked


def test_pictures_are_files():
    named = [(page, name) for page in PAGES for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", CONTENTS[page])]
    pictures = [page.parent / name for page, name in named]
    assert all(picture.is_file() for picture in pictures)
    assert ROOT / "tests/screenshots/side-by-side.png" in pictures


@pytest.mark.parametrize("name", generate_docs.GENERATED)
def test_generated_lists_are_those_of_the_code(name):
    expected = generate_docs.with_generated_parts(name)
    page = generate_docs.DOCS / name
    assert CONTENTS[page] == expected, f"{name} is out of date: PYTHONPATH=. python tests/generate_docs.py"


def test_every_option_is_listed():
    listed = re.findall(r"^- `(--[a-z-]+)`", CONTENTS[generate_docs.DOCS / "training.md"], re.MULTILINE)
    assert {f"--{name.replace('_', '-')}" for name in OPTIONS} <= set(listed)


@per_page
def test_commands_and_their_flags_exist(page):
    for words in commands(page):
        known, arguments = known_flags(words)
        given = {word.partition("=")[0] for word in arguments if FLAG.match(word)}
        assert given <= known, f"{' '.join(words)}: {given - known}"


def known_flags(words: list[str]) -> tuple[set[str], list[str]]:
    """The flags of the program in a command of this project, and the words after its name; of others nothing."""
    for place, word in enumerate(words):
        if word in SCRIPTS:
            return training_flags(), words[place + 1 :]
        if word == "app.py":
            return script_flags(ROOT / word), words[place + 1 :]
        if word.startswith("tests/") and word.endswith(".py") and words[place - 1].endswith("python"):
            return script_flags(ROOT / word), words[place + 1 :]
        if words[place - 1 : place + 1] == ["-m", "dogbreeds"]:
            return subcommand_flags(words[place + 1 :]), words[place + 1 :]
        if word.startswith((".ci/", "tests/")):
            assert (ROOT / word).exists(), word
    return set(), []


def test_the_shell_blocks_are_read():
    assert len(list(commands(README))) >= 10
    results = [" ".join(words) for words in commands(ROOT / "dogbreeds" / "docs" / "results.md")]
    assert any("--data data/stanford-dogs-224" in command and "$" not in command for command in results)


@pytest.mark.parametrize(
    "line",
    [
        "python train_vit.py --learning-speed 3",
        "python -m dogbreeds guess photo.jpg",
        "python -m dogbreeds evaluate --photos x",
        "python -m dogbreeds publish space --run-dir x",
        "python app.py --together x",
        "python tests/benchmarks/load.py --persons 3",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line):
    with pytest.raises(AssertionError):
        known, arguments = known_flags(line.split())
        assert {word for word in arguments if FLAG.match(word)} <= known


@per_page
def test_flags_in_the_text_exist(page):
    scripts = [ROOT / "app.py", *(ROOT / "tests").glob("*.py"), *(ROOT / "tests" / "benchmarks").glob("*.py")]
    known = training_flags()
    for function in vars(cli).values():
        if inspect.isfunction(function) and function.__module__ == cli.__name__:
            known |= flags_of(function)
    for script in scripts:
        known |= script_flags(script)
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        assert set(re.findall(r"(?<!\S)--[a-z][a-z-]+", code)) <= known, code
        for command in re.findall(r"python -m dogbreeds ([\w-]+)", code):
            assert callable(getattr(cli, command.replace("-", "_"), None)), code


@pytest.mark.parametrize("name", ["results.md", "study.md", "reliability.md"])
def test_every_figure_has_its_command(name):
    page = ROOT / "dogbreeds" / "docs" / name
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```$", CONTENTS[page], re.DOTALL | re.MULTILINE))
    numbered = [int(number) for number in re.findall(r" # (\d+)\b", blocks)]
    assert numbered == [*range(1, len(numbered) + 1)]
    header, used = "", set()
    for line in prose(page).splitlines():
        if not line.startswith("|"):
            header = ""
        elif not header:
            header = line
        elif not line.startswith("| ---") and re.search(r"\| commands? \|$", header):
            numbers = line.strip("| ").rpartition("|")[2].split(",")
            used |= {int(number) for number in numbers}
    assert used and used <= set(numbered)


def test_the_figures_of_the_readme_stand_where_their_commands_do():
    docs = ROOT / "dogbreeds" / "docs"
    sections = {}  # of results.md, by the number of each command
    for section in CONTENTS[docs / "results.md"].split("\n## "):
        sections |= dict.fromkeys(re.findall(r" # (\d+)\b", section), section)
    table = prose(README).partition("## What it reaches")[2].partition("Not measured yet")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert 0 < len(rows) <= 10
    for row in rows:
        _, _, measured, _, command, _ = row.split("|")
        pages = re.findall(r"dogbreeds/docs/([\w.]+)", command)
        text = CONTENTS[docs / pages[0]] if pages else sections[command.strip()]
        for figure in re.findall(r"\d[\d.,]*\d|\d", measured):
            assert re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d])", text), (figure, command)


def test_the_faults_of_stanford_dogs_are_as_many_as_the_docs_say():
    folder = ROOT / "dogbreeds" / "docs"
    faults = json.loads((folder / "stanford-dogs-faults.json").read_text(encoding="utf-8"))["findings"]
    kinds = Counter(fault["kind"] for fault in faults)
    assert set(kinds) == {"alike", "alike_in_two_breeds", "cropped", "cropped_in_two_breeds", "suspect_label"}
    results = (folder / "results.md").read_text(encoding="utf-8")
    groups = kinds["alike"] + kinds["alike_in_two_breeds"]
    assert f"{groups} groups of near duplicates, {kinds['alike_in_two_breeds']} of them in two breeds" in results
    assert f"names {kinds['suspect_label']} of the\n12,000 photos" in results
    in_two = kinds["cropped_in_two_breeds"]
    assert (
        f"names {kinds['cropped'] + in_two} pairs of photos" in results and f"{in_two} of them in two breeds" in results
    )


def test_nothing_names_a_folder_of_one_machine():
    for page in PAGES:
        assert not re.search(r"(?<![\w.~*])/(?:home|root|work|tmp|Users|mnt)/", CONTENTS[page]), page
