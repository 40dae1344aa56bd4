"""The tab "Breeds": what the model knows, by today's names, and what it does not."""

import csv
from collections.abc import Sequence
from html import escape
from pathlib import Path

from dogbreeds.breeds import find_breed
from dogbreeds.serving.page.texts import Texts

_NAMES_TODAY = Path(__file__).with_name("names_today.csv")


def layout(labels: Sequence[str], texts: Texts) -> str:
    """The breeds that a model knows, as HTML.

    A name that is not the data set's has that one behind it.

    Args:
        labels: Its classes.
        texts: The person's language.
    """
    with _NAMES_TODAY.open(newline="", encoding="utf-8") as file:
        today = {row["dataset_name"]: row[texts.language] for row in csv.DictReader(file)}
    named = []
    for label in labels:
        breed = find_breed(label)
        in_data = breed.dataset_name.replace("_", " ") if breed else label
        name = (today.get(breed.dataset_name) if breed else None) or texts.name(label)
        named.append((name, "" if name.casefold() == in_data.casefold() else in_data))
    items = "".join(_item(*each) for each in sorted(named, key=lambda each: each[0].casefold()))
    return (
        f"<p>{escape(texts.breeds_known.format(len(named)))} {escape(texts.breeds_unknown)}</p>"
        f'<ul class="all-breeds">{items}</ul>'
    )


def _item(name: str, in_data: str) -> str:
    remark = f' <small lang="en">{escape(in_data)}</small>' if in_data else ""
    return f"<li>{escape(name)}{remark}</li>"
