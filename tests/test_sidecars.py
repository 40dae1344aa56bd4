"""index --write-tags: answers as XMP sidecars beside the photos."""

import xml.etree.ElementTree as ET

import pytest
from conftest import make_photo_folder, run_cli

from dogbreeds.addresses import Address
from dogbreeds.errors import UserError
from dogbreeds.photo_paths import open_paths
from dogbreeds.photos import photo_files
from dogbreeds.serving.sidecars import tags, write_sidecars

NAMES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
}
DARKTABLE = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2"/>'
)


def confident(path: str, breed: str = "Norfolk terrier") -> dict:
    return {"path": path, "verdict": "confident", "breed": breed, "probability": 0.9}


def said(sidecar) -> dict[str, list[str]]:
    """The tags of a sidecar, read as XML."""
    root = ET.parse(sidecar).getroot()
    assert root.tag == "{adobe:ns:meta/}xmpmeta"
    found = {}
    for name, container in (("dc:subject", "Bag"), ("lr:hierarchicalSubject", "Bag"), ("digiKam:TagsList", "Seq")):
        items = root.findall(f"rdf:RDF/rdf:Description/{name}/rdf:{container}/rdf:li", NAMES)
        found[name] = [item.text for item in items]
    return found


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a & <b>.jpg"
    path.write_bytes(b"a photo")
    return path


def write(photo, *rows) -> str:
    return write_sidecars(rows, lambda path: photo.parent / path)


def test_a_sure_answer_is_written_as_each_program_reads_it(photo):
    words = write(photo, confident(photo.name))
    sidecar = photo.with_name("a & <b>.jpg.xmp")
    assert said(sidecar) == {
        "dc:subject": ["Dog", "terrier", "Norfolk terrier"],
        "lr:hierarchicalSubject": ["Dog|terrier|Norfolk terrier"],
        "digiKam:TagsList": ["Dog/terrier/Norfolk terrier"],
    }
    assert words == "1 photos have their tags in a sidecar" and photo.read_bytes() == b"a photo"
    assert sorted(path.name for path in photo.parent.iterdir()) == [photo.name, sidecar.name]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"verdict": "confident", "breed": "Corgipoo"}, ["Dog", "Corgipoo"]),
        ({"verdict": "unsure", "breed": "beagle", "group": "scent_hound"}, ["Dog", "scent hound"]),
        ({"verdict": "unsure", "breed": "beagle"}, []),
        ({"verdict": "unknown_breed", "breed": "beagle"}, []),
        ({"verdict": "not_a_dog", "breed": "beagle"}, []),
        ({"error": "no photo"}, []),
    ],
)
def test_only_what_is_sure_is_said(row, expected):
    assert tags(row) == expected


def test_odd_names_make_good_xml(photo):
    write(photo, confident(photo.name, "A|B/C \"<&>' \ufffe dog 🐶"))
    assert said(photo.with_name(photo.name + ".xmp"))["lr:hierarchicalSubject"] == ["Dog|A-B-C \"<&>'  dog 🐶"]


def test_an_own_sidecar_follows_the_answer(photo):
    sidecar = photo.with_name(photo.name + ".xmp")
    write(photo, confident(photo.name))
    before = sidecar.stat().st_mtime_ns
    write(photo, confident(photo.name))
    assert sidecar.stat().st_mtime_ns == before
    write(photo, confident(photo.name, "beagle"))
    assert said(sidecar)["dc:subject"][-1] == "beagle"
    words = write(photo, {"path": photo.name, "verdict": "unsure"})
    assert not sidecar.exists() and words == "0 photos have their tags in a sidecar"


@pytest.mark.parametrize("kind", ["darktable", "edited", "empty", "link", "folder"])
def test_what_is_not_ours_is_never_touched(photo, kind):
    sidecar = photo.with_name(photo.name + ".xmp")
    write(photo, confident(photo.name))
    content = sidecar.read_bytes()
    sidecar.unlink()
    other = photo.with_name("elsewhere")
    if kind == "folder":
        sidecar.mkdir()
    elif kind == "link":
        other.write_bytes(content)
        sidecar.symlink_to(other)
    else:
        content = {"darktable": DARKTABLE, "empty": b"", "edited": content.replace(b">Dog<", b">My dog<")}[kind]
        sidecar.write_bytes(content)
    for breed in ("Norfolk terrier", "beagle"):
        words = write(photo, confident(photo.name, breed))
        assert words == (
            "0 photos have their tags in a sidecar; those that something else wrote or changed are left as they are: "
            "'a & <b>.jpg.xmp'"
        )
    assert write(photo, {"path": photo.name, "verdict": "unsure"}) == "0 photos have their tags in a sidecar"
    assert sidecar.is_dir() if kind == "folder" else sidecar.read_bytes() == content
    assert sidecar.is_symlink() == (kind == "link")


def test_many_that_are_not_ours_are_counted_and_photos_elsewhere_too(photo):
    for number in range(5):
        (photo.parent / f"{number}.jpg").write_bytes(b"")
        (photo.parent / f"{number}.jpg.xmp").write_bytes(DARKTABLE)
    rows = [confident(f"{number}.jpg") for number in range(5)]
    words = write_sidecars(
        [*rows, confident("s3://bucket/a.jpg"), confident("gone.jpg")],
        lambda path: Address(path) if "://" in path else photo.parent / path,
    )
    assert words.endswith(": '0.jpg.xmp', '1.jpg.xmp', '2.jpg.xmp' and 2 more; 1 photos are at addresses and got none")
    assert not (photo.parent / "gone.jpg.xmp").exists()


def test_a_folder_that_can_not_be_written_is_one_line(photo, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(UserError, match=r"can't write the sidecar .*No space left.* same command again"):
        write(photo, confident(photo.name))
    assert [path.name for path in photo.parent.iterdir()] == [photo.name]


def test_the_command_writes_them_and_takes_none_for_a_photo(tiny_run, tmp_path, monkeypatch, capsys):
    photos, output = make_photo_folder(tmp_path / "photos", num_photos=3), tmp_path / "breeds.csv"
    (photos / "IMG.XMP").write_bytes(DARKTABLE)
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    arguments = (photos, "--output", output, "--run-dir", tiny_run, "--write-tags")
    status, out, err = run_cli(monkeypatch, capsys, "index", *arguments)
    sidecars = sorted(photos.rglob("*.png.xmp"))
    assert status == 0 and out.startswith("12 files: ") and sidecars
    assert err == f"{len(sidecars)} photos have their tags in a sidecar\n"
    assert {path: path.read_bytes() for path in before} == before
    assert all(said(sidecar)["dc:subject"][0] == "Dog" for sidecar in sidecars)
    # A finished table gets those that are missing, and the sidecars are no new files.
    sidecars[0].unlink()
    status, out, err = run_cli(monkeypatch, capsys, "index", *arguments)
    assert status == 0 and out.startswith("12 files: ") and sorted(photos.rglob("*.png.xmp")) == sidecars
    with open_paths(photos) as paths:
        assert len(list(paths)) == len(photo_files(photos)) == 12


def test_what_other_programs_keep_beside_photos_is_no_photo(tmp_path):
    for name in ("a.jpg", "a.jpg.XMP", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / name).write_bytes(b"content")
    with open_paths(tmp_path) as paths:
        assert list(paths) == ["a.jpg"]
    assert photo_files(tmp_path) == [tmp_path / "a.jpg"]


def test_where_it_can_not_is_said_at_once(tiny_run, tmp_path, monkeypatch, capsys):
    import fsspec

    fsspec.filesystem("memory").pipe("/sidecars/a.jpg", b"a photo")
    photos = make_photo_folder(tmp_path / "photos", num_photos=1)
    for arguments, words in (
        (("memory://sidecars", "--output", tmp_path / "a.csv"), "'memory://sidecars', which are not on this machine"),
        ((photos, "--output", tmp_path / "a.parquet", "--shard", "1/2"), "with --shard: leave it out"),
    ):
        status, out, err = run_cli(monkeypatch, capsys, "index", *arguments, "--run-dir", tiny_run, "--write-tags")
        assert status == 2 and not out and words in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
