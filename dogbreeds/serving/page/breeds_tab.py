"""The tab "Breeds": what the model knows, by today's names, and what it does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dogbreeds.breeds import find_breed
from dogbreeds.serving.page.texts import Texts


def layout(labels: Sequence[str], texts: Texts) -> str:
    """The breeds that a model knows, as HTML.

    Args:
        labels: Its classes.
        texts: The person's language.
    """
    items = "".join(f"<li>{each.html}</li>" for each in named_today(labels, texts))
    return (
        f"<p>{escape(texts.breeds_known.format(len(labels)))} {escape(texts.breeds_unknown)}</p>"
        f'<ul class="all-breeds">{items}</ul>'
    )


@dataclass(frozen=True)
class Named:
    """A breed as people call it today."""

    label: str
    name: str
    in_data: str
    """Its name in the data set, if that is another."""

    @property
    def html(self) -> str:
        """The name, and behind it that of the data set if it is another."""
        remark = f' <small lang="en">{escape(self.in_data)}</small>' if self.in_data else ""
        return f"{escape(self.name)}{remark}"


def named_today(labels: Sequence[str], texts: Texts) -> list[Named]:
    """The breeds of a model, by their names in one language.

    Args:
        labels: Its classes.
        texts: The person's language.
    """
    named = []
    for label in labels:
        breed = find_breed(label)
        in_data = breed.dataset_name.replace("_", " ") if breed else label
        today = (breed.name_today_fr if texts.language == "fr" else breed.name_today) if breed else ""
        name = today or texts.name(label)
        named.append(Named(label, name, "" if name.casefold() == in_data.casefold() else in_data))
    return sorted(named, key=lambda each: each.name.casefold())
