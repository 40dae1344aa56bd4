"""Answers as XMP sidecars, which photo libraries read as tags; the photos themselves are never touched.

photo.jpg gets photo.jpg.xmp, which digiKam and darktable read (https://docs.darktable.org, "sidecar files"); Lightroom
reads no sidecars of JPEG files. The tags are in the properties of each of the three: `lr:hierarchicalSubject`,
`digiKam:TagsList`, and `dc:subject`, which all programs know.
"""

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dogbreeds.addresses import Address, Place, reason
from dogbreeds.breeds import breed_groups, group_of
from dogbreeds.errors import UserError
from dogbreeds.files import atomic_write
from dogbreeds.photo_paths import SIDECAR
from dogbreeds.serving.rows import Row

ROOT_TAG = "Dog"
MAX_BYTES = 10_000
"""A sidecar of ours is much smaller."""
NUM_NAMED = 3
"""Sidecars of other programs that a message names."""

_NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
}
for _prefix, _address in _NAMESPACES.items():
    ET.register_namespace(_prefix, _address)

_NOT_IN_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
"""What XML can't hold, even escaped (https://www.w3.org/TR/xml/#charsets)."""


def tags(row: Row) -> list[str]:
    """What a row says for sure, from the general to the particular: a breed, a breed group, or nothing."""
    if row.get("verdict") == "confident":
        group = group_of(row["breed"])
        return [ROOT_TAG, *([breed_groups()[group].name] if group else []), row["breed"]]
    return [ROOT_TAG, breed_groups()[row["group"]].name] if row.get("group") else []


def write_sidecars(rows: Iterable[Row], place_of: Callable[[str], Place]) -> str:
    """Write a sidecar for each photo whose row has `tags`, and remove those of before whose photo has none any more.

    A sidecar is written or removed only if there was none, or this program wrote it and nobody has changed it since.

    Args:
        rows: Of photos on this machine. Those that are gone get no sidecar.
        place_of: Where the photo of a path is.

    Returns:
        What was done, in words.

    Raises:
        UserError: A sidecar can't be written.
    """
    num_tagged = num_elsewhere = num_foreign = 0
    foreign: list[str] = []
    for row in rows:
        found = tags(row)
        photo = place_of(row["path"])
        if isinstance(photo, Address):
            num_elsewhere += bool(found)
            continue
        if not os.path.isfile(photo):  # gone, or in a folder that can't be read
            continue
        path = photo.with_name(photo.name + SIDECAR)
        try:
            is_done = _write(path, found)
        except OSError as error:
            raise UserError(
                f"can't write the sidecar {str(path)!r} ({reason(error)}): solve that and give the same command again"
            ) from None
        if is_done:
            num_tagged += bool(found)
        else:
            num_foreign += 1
            foreign = [*foreign, repr(row["path"] + SIDECAR)][:NUM_NAMED]
    words = f"{num_tagged:,} photos have their tags in a sidecar"
    if num_foreign:
        more = f" and {num_foreign - len(foreign):,} more" if num_foreign > len(foreign) else ""
        words += f"; those that something else wrote or changed are left as they are: {', '.join(foreign)}{more}"
    if num_elsewhere:
        words += f"; {num_elsewhere:,} photos are at addresses and got none"
    return words


def _write(path: Path, found: Sequence[str]) -> bool:
    """Make a sidecar say this, or be absent for no tags; False where that would lose what is not ours."""
    exists = os.path.lexists(path)
    before = _read(path) if exists else b""
    content = _sidecar(found) if found else b""
    if content == before:
        return True
    if exists and not _is_ours(before):
        return not found
    if not found:
        path.unlink()
        return True
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return True


def _read(path: Path) -> bytes:
    """The beginning of a sidecar; nothing of what is no ordinary file."""
    if path.is_symlink() or not path.is_file():
        return b"no file"
    with path.open("rb") as file:
        return file.read(MAX_BYTES)


def _is_ours(content: bytes) -> bool:
    """Whether a sidecar is, byte for byte, what this program writes."""
    try:
        root = ET.fromstring(content)
    except ET.ParseError:
        return False
    items = root.findall(".//dc:subject/rdf:Bag/rdf:li", _NAMESPACES)
    return content == _sidecar([item.text or "" for item in items])


def _sidecar(found: Sequence[str]) -> bytes:
    """The content of a sidecar with these tags, each inside of the one before."""
    names = [re.sub(r"[|/]", "-", _NOT_IN_XML.sub("", name)) for name in found]  # these two separate levels
    root = ET.Element(_qualified("x:xmpmeta"))
    description = ET.SubElement(
        ET.SubElement(root, _qualified("rdf:RDF")), _qualified("rdf:Description"), {_qualified("rdf:about"): ""}
    )
    for name, container, values in (
        ("dc:subject", "rdf:Bag", names),
        ("lr:hierarchicalSubject", "rdf:Bag", ["|".join(names)]),
        ("digiKam:TagsList", "rdf:Seq", ["/".join(names)]),
    ):
        items = ET.SubElement(ET.SubElement(description, _qualified(name)), _qualified(container))
        for value in values:
            ET.SubElement(items, _qualified("rdf:li")).text = value
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _qualified(name: str) -> str:
    prefix, _, local = name.partition(":")
    return f"{{{_NAMESPACES[prefix]}}}{local}"
