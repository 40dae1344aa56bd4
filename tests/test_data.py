import os
import shutil

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from conftest import BREED_FOLDERS, make_photo, make_photo_folder, scene, tiny_config
from PIL import Image, ImageOps
from scipy.io import savemat

from dogbreeds.errors import UserError
from dogbreeds.photos import photo_files
from dogbreeds.training.datasets import checks
from dogbreeds.training.datasets.diagnosis import Diagnosis, Finding, Photo
from dogbreeds.training.datasets.sources import read_dataset
from dogbreeds.training.datasets.splits import load_data
from dogbreeds.training.doctor import examine


def splits_of(folder, tmp_path, **options):
    return load_data(tiny_config(folder, tmp_path / "run", **options), progress=False)


def contents(photos):
    return {source if isinstance(source, bytes) else source.read_bytes() for source in photos.sources}


def write_parquet(folder, *, names=BREED_FOLDERS, num_photos=10, splits=("train",), columns=("photo", "race")):
    """A Hub-like data set; its columns have names that nobody expects."""
    folder.mkdir()
    photos = [make_photo(label, seed) for label in range(len(names)) for seed in range(num_photos)]
    labels = [label for label in range(len(names)) for _ in range(num_photos)]
    features = datasets.Features({columns[0]: datasets.Image(), columns[1]: datasets.ClassLabel(names=list(names))})
    for index, split in enumerate(splits):
        part = slice(index, None, len(splits))
        data = {columns[0]: photos[part], columns[1]: labels[part]}
        datasets.Dataset.from_dict(data, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_folder_with_a_sub_folder_a_breed(photo_folder):
    photos = read_dataset(str(photo_folder))["train"]
    assert len(photos) == 40
    assert photos.names == ("Chihuahua", "Shih-Tzu", "Beagle", "Golden retriever")
    assert [photos.names[label] for label in photos.labels[::10]] == list(photos.names)


def test_plain_names_are_the_same_breeds(photo_folder, tmp_path):
    for folder in photo_folder.iterdir():
        shutil.copytree(folder, tmp_path / "plain" / folder.name.split("-", 1)[1].replace("_", " ").upper())
    plain = splits_of(tmp_path / "plain", tmp_path)
    assert plain.names == splits_of(photo_folder, tmp_path).names
    assert plain.split_hash == splits_of(photo_folder, tmp_path).split_hash


def test_a_folder_that_brings_its_splits(tmp_path):
    make_photo_folder(tmp_path / "data" / "train", 4)
    for label, name in enumerate(BREED_FOLDERS):
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        make_photo(label, 99).save(tmp_path / "data" / "val" / name / "a.jpg")
    given = read_dataset(str(tmp_path / "data"))
    assert {split: len(photos) for split, photos in given.items()} == {"train": 16, "validation": 4}


@pytest.mark.parametrize("splits", [("train",), ("train", "test"), ("train", "validation", "test")])
def test_parquet(tmp_path, splits):
    folder = write_parquet(tmp_path / "data", splits=splits)
    given = read_dataset(str(folder))
    assert set(given) == set(splits) and sum(map(len, given.values())) == 40
    assert all(photos.names == given["train"].names for photos in given.values())
    assert given["train"].names[2] == "Beagle"


def test_parquet_and_folder_give_the_same_split(tmp_path, photo_folder):
    """The same photos, whatever holds them: here PNG bytes in Parquet and PNG files."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    paths = sorted(photo_folder.rglob("*.png"))
    names = sorted({path.parent.name for path in paths})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    data = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path in reversed(paths)],
        "label": [names.index(path.parent.name) for path in reversed(paths)],
    }
    datasets.Dataset.from_dict(data, features=features).to_parquet(folder / "train.parquet")
    assert splits_of(folder, tmp_path).split_hash == splits_of(photo_folder, tmp_path).split_hash


def test_stanfords_archives_and_their_official_split(tmp_path):
    make_photo_folder(tmp_path / "Images")
    files = sorted(path.relative_to(tmp_path / "Images").as_posix() for path in (tmp_path / "Images").rglob("*.png"))
    for split, part in (("train", files[::2]), ("test", files[1::2])):
        cells = np.empty((len(part), 1), dtype=object)
        cells[:, 0] = part
        (tmp_path / "lists").mkdir(exist_ok=True)
        savemat(tmp_path / "lists" / f"{split}_list.mat", {"file_list": cells})
    splits = splits_of(tmp_path, tmp_path)
    assert sorted(splits.test.ids) == files[1::2]
    assert sorted(splits.train.ids + splits.validation.ids) == files[::2]
    (tmp_path / "lists" / "test_list.mat").unlink()
    with pytest.raises(UserError, match=r"test_list\.mat is missing"):
        read_dataset(str(tmp_path))


def test_splits_are_stratified_disjoint_and_seeded(photo_folder, tmp_path):
    splits = splits_of(photo_folder, tmp_path)
    for photos, count in ((splits.train, 6), (splits.validation, 2), (splits.test, 2)):
        assert np.bincount(photos.labels).tolist() == [count] * 4
    parts = [contents(photos) for photos in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40
    assert splits_of(photo_folder, tmp_path).split_hash == splits.split_hash
    other = splits_of(photo_folder, tmp_path, split_seed=1)
    assert other.split_hash != splits.split_hash and other.fingerprint == splits.fingerprint
    assert splits_of(photo_folder, tmp_path, seed=1).split_hash == splits.split_hash, "it decides the training alone"


def test_splits_do_not_depend_on_names_or_order(photo_folder, tmp_path):
    for folder in photo_folder.iterdir():
        for number, path in enumerate(sorted(folder.iterdir(), reverse=True)):
            (tmp_path / "renamed" / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "renamed" / folder.name / f"{number}.png")
    assert splits_of(tmp_path / "renamed", tmp_path).split_hash == splits_of(photo_folder, tmp_path).split_hash


def test_fewer_breeds_and_photos(photo_folder, tmp_path):
    splits = splits_of(photo_folder, tmp_path, breeds=("golden retriever, n02085620", "beagle"), images_per_breed=5)
    assert splits.names == ("Chihuahua", "Beagle", "Golden retriever")
    counts = [np.bincount(photos.labels).tolist() for photos in (splits.train, splits.validation, splits.test)]
    assert counts == [[3] * 3, [1] * 3, [1] * 3]


def test_fewer_photos_to_train_on_leave_the_others_as_they_are(photo_folder, tmp_path):
    whole = splits_of(photo_folder, tmp_path)
    before = set()
    for options, count in (
        ({"train_images_per_breed": 1}, 1),
        ({"train_fraction": 0.35}, 2),
        ({"train_images_per_breed": 4}, 4),
        ({"train_fraction": 0.9}, 5),
        ({"train_images_per_breed": 90}, 6),
    ):
        part = splits_of(photo_folder, tmp_path, **options)
        assert np.bincount(part.train.labels).tolist() == [count] * 4
        assert part.validation.ids == whole.validation.ids and part.test.ids == whole.test.ids
        assert part.split_hash == whole.split_hash and part.to_record().num_train == 4 * count
        assert before < set(part.train.ids) <= set(whole.train.ids)
        before = set(part.train.ids)
    other = splits_of(photo_folder, tmp_path, train_images_per_breed=2, seed=1)
    assert other.train.ids != splits_of(photo_folder, tmp_path, train_images_per_breed=2).train.ids
    assert other.validation.ids == whole.validation.ids
    with pytest.raises(UserError, match="--train-fraction and --train-images-per-breed exclude each other"):
        splits_of(photo_folder, tmp_path, train_images_per_breed=2, train_fraction=0.5)


@pytest.mark.parametrize("images_per_breed", [3, 5, 8, 100])
def test_fewer_photos_of_given_splits(tmp_path, images_per_breed):
    for number, split in enumerate(("train", "validation", "test")):
        for label, name in enumerate(BREED_FOLDERS):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for seed in range(6):
                make_photo(label, 10 * number + seed).save(folder / f"{seed}.png")
    splits = splits_of(tmp_path / "data", tmp_path, images_per_breed=images_per_breed)
    counts = [np.bincount(photos.labels) for photos in (splits.train, splits.validation, splits.test)]
    assert sum(counts).tolist() == [min(18, images_per_breed)] * 4
    assert np.max(counts) - np.min(counts) <= 1


def test_no_test_split_where_none_is_wanted(photo_folder, tmp_path):
    splits = splits_of(photo_folder, tmp_path, test_fraction=0.0)
    assert splits.test is None and len(splits.train) == 32


def test_unreadable_photos_are_left_out_counted_and_named(tmp_path):
    folder = make_photo_folder(tmp_path / "data", num_photos=40)
    (folder / BREED_FOLDERS[0] / "broken.jpg").write_bytes(b"no photo")
    splits = splits_of(folder, tmp_path)
    assert [photo.id for photo in splits.left_out] == [f"{BREED_FOLDERS[0]}/broken.jpg"]
    assert "not a photo" in splits.left_out[0].reason
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 160
    for number in range(2):
        (folder / BREED_FOLDERS[1] / f"notes{number}.txt").write_bytes(b"no photo")
    with pytest.raises(UserError, match=r"3 of 163 photos .* can't be read, more than 1%"):
        splits_of(folder, tmp_path)


def test_files_of_the_system_are_no_photos(tmp_path):
    folder = make_photo_folder(tmp_path / "data")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "ehthumbs.db", "Picasa.ini", ".picasa.ini", "Icon\r"):
        (folder / BREED_FOLDERS[0] / name).write_bytes(b"no photo")
    splits = splits_of(folder, tmp_path)  # 7 of 47 would be more than may be unreadable
    assert not splits.left_out and len(splits.train) == 24
    assert len(photo_files(folder)) == 40


def test_what_is_in_a_hidden_folder_of_a_breed_is_no_photo(tmp_path):
    folder = make_photo_folder(tmp_path / "data")
    hidden = folder / BREED_FOLDERS[0] / ".ipynb_checkpoints"
    hidden.mkdir()
    make_photo(0, 99).save(hidden / "copy.png")
    deeper = folder / BREED_FOLDERS[0] / "more"
    deeper.mkdir()
    make_photo(0, 98).save(deeper / "photo.png")
    (photos,) = read_dataset(str(folder)).values()
    assert len(photos) == 41 and f"{BREED_FOLDERS[0]}/more/photo.png" in photos.ids
    shutil.move(folder / BREED_FOLDERS[0], tmp_path / "elsewhere")
    (folder / BREED_FOLDERS[0]).symlink_to(tmp_path / "elsewhere")
    assert read_dataset(str(folder))["train"].ids == photos.ids


def test_a_broken_link_is_left_out_by_name(tmp_path):
    folder = make_photo_folder(tmp_path / "data", num_photos=30)
    (folder / BREED_FOLDERS[0] / "gone.png").symlink_to(tmp_path / "an unmounted disk")
    (left_out,) = splits_of(folder, tmp_path).left_out
    assert left_out.id == f"{BREED_FOLDERS[0]}/gone.png"


def test_names_that_are_no_utf_8_are_escaped_and_those_of_breeds_refused(tmp_path):
    folder = make_photo_folder(tmp_path / "data")
    first, second = (folder / BREED_FOLDERS[0] / os.fsdecode(name) for name in (b"caf\xe8.png", b"caf\xe9.png"))
    make_photo(0, 99).save(first)
    shutil.copy(first, second)
    examine(str(folder)).save(tmp_path / "faults.json")
    splits = splits_of(folder, tmp_path, faults=tmp_path / "faults.json")
    (left_out,) = splits.left_out
    assert left_out.id == f"{BREED_FOLDERS[0]}/caf\\udce9.png"
    assert left_out.reason == f"the same photo as {BREED_FOLDERS[0]}/caf\\udce8.png"
    (folder / BREED_FOLDERS[1]).rename(folder / os.fsdecode(b"\xc9pagneul"))
    with pytest.raises(UserError, match=r"has a breed '\\udcc9pagneul', which is no UTF-8: rename its folder"):
        read_dataset(str(folder))


def test_a_breed_in_the_test_split_alone_is_not_dropped_in_silence(tmp_path):
    make_photo_folder(tmp_path / "data" / "train", num_photos=8, num_breeds=3)
    for label, name in enumerate(BREED_FOLDERS):
        (tmp_path / "data" / "test" / name).mkdir(parents=True)
        for seed in (91, 92, 93):
            make_photo(label, seed).save(tmp_path / "data" / "test" / name / f"{seed}.png")
    with pytest.raises(UserError, match="too few photos of 'Golden retriever': none is left to train on; add some"):
        splits_of(tmp_path / "data", tmp_path)
    shutil.rmtree(tmp_path / "data" / "test" / BREED_FOLDERS[3])
    assert len(splits_of(tmp_path / "data", tmp_path).test) == 9


def test_the_labels_of_a_parquet_list_are_used_or_refused(tmp_path, photo_folder):
    paths = sorted(map(str, photo_folder.rglob("*.png")))
    labels = pyarrow.array(["pug", "boxer"] * 20)
    for name, column in (("text", labels), ("categories", labels.dictionary_encode())):
        pyarrow.parquet.write_table(pyarrow.table({"path": paths, "label": column}), tmp_path / f"{name}.parquet")
        assert read_dataset(str(tmp_path / f"{name}.parquet"))["train"].names == ("Boxer", "Pug")
    pyarrow.parquet.write_table(pyarrow.table({"path": paths, "label": [0, 1] * 20}), tmp_path / "numbers.parquet")
    with pytest.raises(UserError, match=r"the labels in the list .* are no text but int64: write the breeds' names"):
        read_dataset(str(tmp_path / "numbers.parquet"))


def test_copies_stay_on_one_side(tmp_path):
    train = make_photo_folder(tmp_path / "data" / "train", num_photos=5)
    test = make_photo_folder(tmp_path / "data" / "test", num_photos=1)
    splits = splits_of(tmp_path / "data", tmp_path)
    assert len(splits.test) == 4 and len(splits.train) + len(splits.validation) == 16
    assert all(photo.reason.startswith("the same photo as test/") for photo in splits.left_out)
    assert not contents(splits.test) & (contents(splits.train) | contents(splits.validation))
    assert train.exists() and test.exists()


def make_scenes(folder, num_scenes, retakes):
    """Pictures like no others of the four breeds, each several times: compressed and scaled otherwise."""
    for label, name in enumerate(BREED_FOLDERS):
        (folder / name).mkdir(parents=True)
        for number in range(num_scenes):
            for retake in retakes:
                photo = scene(100 * label + number, (80 - retake, 60 - retake))
                photo.save(folder / name / f"{number}-{retake}.jpg", quality=95 - retake)
    return folder


def shown_on(photos):
    """The scenes of these photos."""
    return {id_.rpartition("-")[0] for id_ in photos.ids}


@pytest.mark.parametrize("cache", ["on", "off"])
def test_photos_that_look_the_same_stay_on_one_side(tmp_path, cache):
    folder = make_scenes(tmp_path / "data", num_scenes=10, retakes=range(4))
    for split_seed in range(3):
        splits = splits_of(folder, tmp_path, split_seed=split_seed, cache=cache)
        parts = [shown_on(photos) for photos in (splits.train, splits.validation, splits.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 40
        assert len(splits.train) + len(splits.validation) + len(splits.test) == 160 and not splits.left_out
        assert 8 < len(splits.validation) < 60, "about a fifth, for whole groups are drawn"
    older = splits_of(folder, tmp_path, near_duplicates="ignore", cache=cache)
    assert np.bincount(older.validation.labels).tolist() == [8] * 4
    assert shown_on(older.validation) & shown_on(older.train)


def test_photos_that_look_like_one_held_out_by_the_data_are_not_trained_on(tmp_path):
    make_scenes(tmp_path / "data" / "train", num_scenes=5, retakes=[0])
    make_scenes(tmp_path / "data" / "test", num_scenes=1, retakes=[1])
    splits = splits_of(tmp_path / "data", tmp_path)
    assert len(splits.test) == 4 and len(splits.train) + len(splits.validation) == 16
    reasons = [f"nearly the same photo as {id_}" for id_ in splits.test.ids]
    assert sorted(photo.reason for photo in splits.left_out) == sorted(reasons)
    plain = splits_of(tmp_path / "data", tmp_path, near_duplicates="ignore")
    assert len(plain.train) + len(plain.validation) == 20 and not plain.left_out


def test_photos_that_the_doctor_found_to_be_the_same_are_on_one_side(tmp_path):
    folder = make_scenes(tmp_path / "data", num_scenes=20, retakes=[0])
    for photo in sorted(folder.glob("*/*"))[::10]:  # which splits do not look for
        ImageOps.mirror(Image.open(photo)).save(photo.with_name(f"mirrored-{photo.stem}.png"))
    examine(str(folder)).save(tmp_path / "report.json")
    groups = Diagnosis.load(tmp_path / "report.json").same_photos
    pairs = [{id_ for _, id_ in group} for group in groups]
    assert len(pairs) == 8

    def num_split(**options) -> int:
        splits = splits_of(folder, tmp_path, validation_fraction=0.2, test_fraction=0.2, **options)
        sides = [set(splits[split].ids) for split in ("train", "validation", "test")]
        assert sum(map(len, sides)) == 88
        return sum(not any(side.issuperset(pair) for side in sides) for pair in pairs)

    seeds = range(5)
    assert sum(num_split(split_seed=seed) for seed in seeds) > 10
    for near_duplicates in ("together", "ignore"):
        options = {"faults": tmp_path / "report.json", "near_duplicates": near_duplicates}
        assert not any(num_split(split_seed=seed, **options) for seed in seeds)


def test_a_report_of_faults_that_is_none_is_refused(tmp_path, photo_folder):
    for name, text in {"empty.json": "{}", "damaged.json": "{", "list.json": '{"findings": [{"kind": 3}]}'}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="is no report of faults: python -m dogbreeds doctor writes one"):
            splits_of(photo_folder, tmp_path, faults=tmp_path / name)
    with pytest.raises(UserError, match=r"can't read the report of faults .*missing\.json. .No such file"):
        splits_of(photo_folder, tmp_path, faults=tmp_path / "missing.json")
    same = Finding("same", (Photo("train", "beagle/x.jpg", "Beagle"), Photo("train", "beagle/y.jpg", "Beagle")))
    Diagnosis({"train": 2}, {"Beagle": 2}, 0.0, (same,)).save(tmp_path / "other.json")
    with pytest.raises(UserError, match=r"is of other photos than .* such as 'beagle/x\.jpg': run doctor on these"):
        splits_of(photo_folder, tmp_path, faults=tmp_path / "other.json")


def test_the_same_name_in_two_splits_is_not_the_same_photo(tmp_path):
    splits = {"train": 20, "test": 8}
    for split, num in splits.items():
        photos = [scene(100 * num + index) for index in range(num)]
        rows = {
            "image": photos,
            "name": [f"{index:04}.jpg" for index in range(num)],
            "breed": ["Pug", "beagle"] * (num // 2),
        }
        features = {"image": datasets.Image(), "name": datasets.Value("string"), "breed": datasets.Value("string")}
        (tmp_path / "data").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(tmp_path / f"data/{split}.parquet")
    data = read_dataset(str(tmp_path / "data"))
    assert data["train"].ids[:2] == data["test"].ids[:2] == ("0000.jpg", "0001.jpg")
    same = Finding("cropped", (Photo("train", "0000.jpg", "Pug"), Photo("train", "0002.jpg", "Pug")))
    Diagnosis({}, {}, 0.0, (same,)).save(tmp_path / "report.json")
    for seed in range(5):
        parts = splits_of(tmp_path / "data", tmp_path, faults=tmp_path / "report.json", split_seed=seed)
        sides = [set(parts[split].ids) for split in ("train", "validation")]
        assert any({"0000.jpg", "0002.jpg"} <= side for side in sides), "they are on one side"
        assert len(parts.test) == 8 and not parts.left_out, "and have nothing to do with those of their name"


def test_a_share_of_the_training_photos_has_some_of_each_breed(tmp_path):
    folder = make_scenes(tmp_path / "data", num_scenes=10, retakes=range(3))
    for seed in range(5):
        few = splits_of(folder, tmp_path, train_fraction=0.15, seed=seed).train
        more = splits_of(folder, tmp_path, train_fraction=0.5, seed=seed).train
        assert set(few.labels) == {0, 1, 2, 3} and set(few.ids) <= set(more.ids)


def test_a_folder_beside_those_of_the_splits_is_refused(tmp_path):
    for split in ("train", "test"):
        make_photo_folder(tmp_path / "data" / split, 4, 2)
    for ignored in ("__MACOSX", ".thumbnails"):
        (tmp_path / "data" / ignored).mkdir()
    expected = read_dataset(str(tmp_path / "data"))
    assert set(expected) == {"train", "test"}
    (tmp_path / "data" / "unsorted").mkdir()
    with pytest.raises(UserError, match="has a folder 'unsorted' beside test and train: move it elsewhere"):
        read_dataset(str(tmp_path / "data"))


def test_near_duplicates_are_looked_for_once(tmp_path, monkeypatch):
    folder = make_scenes(tmp_path / "data", num_scenes=10, retakes=range(2))
    first = splits_of(folder, tmp_path, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(checks, "find_near_duplicates", lambda *_, **__: pytest.fail("they were found before"))
    assert splits_of(folder, tmp_path, cache_dir=tmp_path / "cache").split_hash == first.split_hash
    (file,) = (tmp_path / "cache").glob("*/near-duplicates.json")
    file.write_text(file.read_text().replace("[[", "[[["))
    monkeypatch.undo()
    assert splits_of(folder, tmp_path, cache_dir=tmp_path / "cache").split_hash == first.split_hash


def test_photos_that_all_look_the_same_can_not_be_split(tmp_path):
    folder = make_scenes(tmp_path / "data", num_scenes=1, retakes=range(10))
    with pytest.raises(UserError, match=r"none is left to train on|that look different"):
        splits_of(folder, tmp_path)
    assert len(splits_of(folder, tmp_path, near_duplicates="ignore").train) == 24


def test_what_is_missing_is_named(tmp_path, photo_folder):
    cases = {
        "there is no data folder": (tmp_path / "nothing", {}),
        "holds no labelled photos": (tmp_path, {}),
        "unknown breed 'cat'": (photo_folder, {"breeds": ("cat", "beagle")}),
        "no photos of the breed 'Pug'": (photo_folder, {"breeds": ("pug", "beagle")}),
    }
    for words, (folder, options) in cases.items():
        with pytest.raises(UserError, match=words):
            splits_of(folder, tmp_path, **options)
    one = make_photo_folder(tmp_path / "one", num_breeds=1)
    with pytest.raises(UserError, match="holds 1 breed"):
        splits_of(one, tmp_path)
    with pytest.raises(UserError, match="--breeds"):
        tiny_config(photo_folder, tmp_path, breeds=("beagle",))


def test_too_few_photos_of_a_breed(tmp_path):
    folder = make_photo_folder(tmp_path / "data")
    (folder / "pug").mkdir()
    make_photo(3, 77).save(folder / "pug" / "only.png")
    with pytest.raises(UserError, match="too few photos of 'Pug'"):
        splits_of(folder, tmp_path)


def test_text_columns_serve_as_labels(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "breed": datasets.Value("string")})
    data = {"image": [make_photo(i % 2, i) for i in range(8)], "breed": ["Pug", "beagle"] * 4}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict(data, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    photos = read_dataset(str(tmp_path / "data"))["train"]
    assert photos.names == ("Beagle", "Pug") and photos.labels.tolist() == [1, 0] * 4


def test_without_labels_parquet_is_refused(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "number": datasets.Value("int64")})
    data = {"image": [make_photo(0, i) for i in range(2)], "number": [1, 2]}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict(data, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(UserError, match="no label column"):
        read_dataset(str(tmp_path / "data"))


def test_missing_images_are_left_out_and_missing_labels_refused(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["pug", "beagle"])})
    photos = [make_photo(i % 2, i) for i in range(400)]
    for name, images, labels in (
        ("no_image", [None, *photos[1:]], [i % 2 for i in range(400)]),
        ("no_label", photos, [-1, *(i % 2 for i in range(1, 400))]),
    ):
        (tmp_path / name).mkdir()
        dataset = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        dataset.to_parquet(tmp_path / name / "train.parquet")
    assert [photo.id for photo in splits_of(tmp_path / "no_image", tmp_path).left_out] == ["train/0"]
    with pytest.raises(UserError, match=r"1 of 400 photos .* have no label"):
        read_dataset(str(tmp_path / "no_label"))


def test_a_damaged_list_is_named(tmp_path):
    make_photo_folder(tmp_path / "Images")
    (tmp_path / "train_list.mat").write_bytes(b"")
    with pytest.raises(UserError, match=r"train_list\.mat' is damaged"):
        read_dataset(str(tmp_path))


def test_a_hub_data_set_out_of_reach_is_named_with_the_remedies(monkeypatch):
    def unreachable(name, **options):
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub\nlong explanation")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"connect to the network, or give a folder") as error:
        read_dataset("amaye15/stanford-dogs")
    assert "\n" not in str(error.value)


def test_a_hub_data_set_is_read_like_parquet(tmp_path, monkeypatch):
    folder = write_parquet(tmp_path / "data", splits=("train", "test"), columns=("pixel_values", "label"))
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: load(str(folder), **options))
    given = read_dataset("amaye15/stanford-dogs")
    assert len(given["train"]) == len(given["test"]) == 20
