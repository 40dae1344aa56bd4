"""What the page says, in English and in French; the sentences are in locales/, one file a language."""

import tomllib
from functools import cached_property
from pathlib import Path

from dogbreeds.breeds import breed_groups, find_breed
from dogbreeds.images import MAX_PIXELS, BadImage

_LOCALES = Path(__file__).with_name("locales")


class Texts:
    """The page in one language; each sentence is an attribute. Those with {} are to be filled in."""

    def __init__(self, language: str) -> None:
        self.language = language
        """As in HTTP: ``en`` or ``fr``."""

    @cached_property
    def _tables(self) -> dict[str, dict[str, str]]:
        return tomllib.loads((_LOCALES / f"{self.language}.toml").read_text(encoding="utf-8"))

    @property
    def sentences(self) -> dict[str, str]:
        """Every sentence by its name."""
        return self._tables["sentences"]

    @property
    def static_page(self) -> dict[str, str]:
        """What the page without a server says besides `sentences`, or instead."""
        return self._tables["static_page"]

    def __getattr__(self, name: str) -> str:
        if name not in self.sentences:
            raise AttributeError(f"locales/{self.language}.toml has no sentence {name!r}")
        return self.sentences[name]

    def problem(self, error: BadImage) -> str:
        """Why a photo can't be read."""
        sentence = self._tables["problems"].get(error.problem)
        return sentence.format(megapixels=MAX_PIXELS // 1_000_000) if sentence else str(error)

    def name(self, label: str) -> str:
        """A breed's name in this language."""
        breed = find_breed(label) if self.language == "fr" else None
        return breed.name_fr if breed else label

    def group(self, group: str) -> str:
        """What one dog of a breed group is called."""
        called = breed_groups()[group]
        return called.name_fr if self.language == "fr" else called.name

    def decimal(self, number: float) -> str:
        """A number with one decimal."""
        return f"{number:.1f}".replace(".", "," if self.language == "fr" else ".")

    def percent(self, share: float) -> str:
        """A share as a whole percentage; the narrow no-break space keeps number and sign on one line."""
        return f"{share:.0%}".replace("%", "\u202f%")


ENGLISH = Texts("en")
FRENCH = Texts("fr")


def texts_for(accept_language: str | None) -> Texts:
    """The language that a browser prefers, if the page has it. gradio chooses its own words on the page the same way.

    Args:
        accept_language: The HTTP header, such as ``fr-CH,fr;q=0.9,en;q=0.8``: languages in the order of preference.
    """
    return FRENCH if (accept_language or "").strip().lower().startswith("fr") else ENGLISH
