"""The 120 breeds of Stanford Dogs: their WordNet ids, their names, and how to recognise a name.

The list is that of the data set (http://vision.stanford.edu/aditya86/ImageNetDogs/), in WordNet-id order, the order
of Stanford's own labels. The name shown to a person is one of WordNet's synonyms for that id: the data set's own
name, or, where kennel clubs use another of the synonyms, that one ("Boston bull" is shown as "Boston terrier").

A breed's group is that of the Fédération Cynologique Internationale (https://www.fci.be/en/nomenclature/): its groups,
the larger of them by their sections (2 as pinschers, mastiffs and Swiss mountain dogs; 8 as retrievers, spaniels and
water dogs). Breeds that it does not recognise (bluetick, redbone and Walker hound) stand with their kin; the three wild
dogs stand apart.
"""

import csv
import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dogbreeds.errors import UserError

_FOLDER = Path(__file__).parent
_WORDNET_PREFIX = re.compile(r"^(n\d{8})(?:[-_ ].*)?$")


@dataclass(frozen=True)
class Breed:
    """One breed."""

    wordnet_id: str
    """WordNet 3.0 id, such as ``n02096585``."""
    dataset_name: str
    """The name in the data set, such as ``Boston_bull``."""
    name: str
    """The name to show a person, such as ``Boston terrier``."""
    other_names: tuple[str, ...]
    """WordNet's other synonyms."""
    group: str
    """A key of `breed_groups`."""
    name_fr: str
    """The name to show a person who reads French."""
    name_today: str
    """What kennel clubs call it today, such as ``Japanese Chin``; empty where that is the `name`."""
    name_today_fr: str
    """The same in French, where it is not `name_fr`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a person may give it."""
        named = (self.dataset_name, self.name, self.name_fr, self.name_today, self.name_today_fr, *self.other_names)
        return tuple(filter(None, named))


@dataclass(frozen=True)
class BreedGroup:
    """What to call one dog of a breed group."""

    name: str
    name_fr: str


@cache
def all_breeds() -> tuple[Breed, ...]:
    """The 120 breeds, in the order of Stanford's labels."""
    with (_FOLDER / "breeds.csv").open(newline="", encoding="utf-8") as file:
        return tuple(
            Breed(other_names=tuple(filter(None, row.pop("other_names").split("|"))), **row)
            for row in csv.DictReader(file)
        )


@cache
def breed_groups() -> dict[str, BreedGroup]:
    """Each breed group by its key, such as ``scent_hound``."""
    with (_FOLDER / "breed_groups.csv").open(newline="", encoding="utf-8") as file:
        return {row.pop("key"): BreedGroup(**row) for row in csv.DictReader(file)}


def find_breed(text: str) -> Breed | None:
    """The breed that a folder name, a label or a person means, or None.

    Args:
        text: A WordNet id, with or without a name behind it (``n02086240-Shih-Tzu``), or any name of the breed, also
            today's, in English or French; case, underscores, hyphens and apostrophes do not matter.
    """
    by_id, by_name = _index()
    if match := _WORDNET_PREFIX.match(text.strip()):
        return by_id.get(match.group(1))
    return by_name.get(_plain(text))


def parse_breeds(names: list[str]) -> list[Breed]:
    """The breeds that a list of names means, each once, in the order of Stanford's labels.

    Raises:
        UserError: A name is not one of the 120; the message proposes the nearest.
    """
    found = set()
    for name in names:
        breed = find_breed(name)
        if breed is None:
            near = difflib.get_close_matches(_plain(name), _index()[1], n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "'python -m dogbreeds breeds' lists all 120"
            raise UserError(f"unknown breed {name!r}: {hint}")
        found.add(breed)
    return [breed for breed in all_breeds() if breed in found]


def label_name(text: str) -> str:
    """The name to show for a data set's label: the breed's, or for a class that is none of the 120 its own."""
    breed = find_breed(text)
    return breed.name if breed else text.strip().replace("_", " ")


def all_names(label: str) -> tuple[str, ...]:
    """The names of a label, in English and French."""
    breed = find_breed(label)
    return (label, *breed.names) if breed else (label,)


@cache
def group_of(label: str) -> str | None:
    """The breed group of a label, a key of `breed_groups`; None where the label is none of the 120 breeds."""
    breed = find_breed(label)
    return breed.group if breed else None


@cache
def _index() -> tuple[dict[str, Breed], dict[str, Breed]]:
    by_id = {breed.wordnet_id: breed for breed in all_breeds()}
    by_name: dict[str, Breed] = {}
    for breed in all_breeds():
        for name in breed.names:
            assert by_name.setdefault(_plain(name), breed) is breed, f"two breeds are called {name!r}"
    return by_id, by_name


def _plain(text: str) -> str:
    return re.sub(r"[\s_\-'’]+", " ", text).strip().casefold()
