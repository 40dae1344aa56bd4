"""Videos: short ones that the tests encode, turned, of variable rate, without pictures, cut short, too long."""

import json
import os
import struct
from pathlib import Path

import av
import numpy as np
import pillow_heif
import pytest
from conftest import drawings_beside, run_cli
from PIL import Image

from dogbreeds.calibration import Outputs
from dogbreeds.images import BadImage
from dogbreeds.run_folder import PRETRAINED
from dogbreeds.serving import video, video_prediction
from dogbreeds.serving.following import followed
from dogbreeds.serving.prediction import Shot
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.video import MAX_BYTES, MAX_FRAMES, is_video, read_frames
from dogbreeds.serving.video_prediction import predict_video
from tests.videos import SIZE, encode, even, numbered

RUN = PRETRAINED / "mobilenet_v2"


def number_of(picture: Image.Image) -> int:
    return round(float(np.asarray(picture)[picture.height // 2 :].mean()) / 4)


def seconds_of(path: Path) -> list[float]:
    return [frame.seconds for frame in read_frames(path, at_least=32)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts"])
def test_two_frames_a_second_are_taken(tmp_path, suffix):
    path = encode(tmp_path / f"clip{suffix}", [numbered(i) for i in range(60)], [i / 30 for i in range(60)])
    assert is_video(path)
    frames = read_frames(path, at_least=32)
    assert [round(frame.seconds, 2) for frame in frames] == [0, 0.5, 1, 1.5]
    assert [number_of(frame.image) for frame in frames] == pytest.approx([0, 15, 30, 45], abs=2)


def test_of_a_longer_video_frames_from_all_of_it_are_taken(tmp_path):
    path = encode(tmp_path / "clip.mp4", [numbered(i // 4) for i in range(240)], [i / 4 for i in range(240)])
    seconds = seconds_of(path)
    assert MAX_FRAMES / 2 <= len(seconds) <= MAX_FRAMES
    assert seconds[0] == 0 and seconds[-1] > 57 and set(np.diff(seconds).round(3)) == {2.0}


def test_a_video_of_variable_rate_is_taken_by_its_times(tmp_path):
    times = [0, 0.1, 0.2, 0.3, 0.4, 3, 3.1, 5, 5.1, 5.9]
    path = encode(tmp_path / "clip.mp4", [numbered(5 * i) for i in range(10)], times)
    frames = read_frames(path, at_least=32)
    assert [round(frame.seconds, 2) for frame in frames] == [0, 3, 5, 5.9]
    assert [number_of(frame.image) for frame in frames] == pytest.approx([0, 25, 35, 45], abs=2)


@pytest.mark.parametrize(
    ("matrix", "side"),
    [((0, 1, -1, 0), "right"), ((-1, 0, 0, -1), "bottom"), ((0, -1, 1, 0), "left")],
)
def test_a_turned_video_is_upright(tmp_path, matrix, side):
    path = encode(tmp_path / "clip.mp4", [numbered(30)] * 3, [0, 0.1, 0.2])
    content = bytearray(path.read_bytes())
    a, b, c, d = (65536 * value for value in matrix)
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    (frame,) = read_frames(path, at_least=32)
    pixels = np.asarray(frame.image).astype(int)
    is_red = pixels[..., 0] - pixels[..., 1] > 100
    assert frame.image.size == (SIZE if side == "bottom" else SIZE[::-1])
    edges = {"right": is_red[:, -1], "bottom": is_red[-1], "left": is_red[:, 0], "top": is_red[0]}
    assert [name for name, edge in edges.items() if edge.all()] == [side]


def test_frames_are_halved(tmp_path):
    path = encode(tmp_path / "clip.mp4", [numbered(30, (640, 480))], [0])
    assert read_frames(path, at_least=100)[0].image.size == (160, 120)


def music(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def cut_short(path: Path, **options: str) -> Path:
    """The first half of a video of noise."""
    noise = np.random.default_rng(0).integers(0, 255, (60, SIZE[1], SIZE[0], 3), dtype=np.uint8)
    encode(path, [Image.fromarray(each) for each in noise], [i / 15 for i in range(60)], **options)
    os.truncate(path, path.stat().st_size // 2)
    return path


def long(path: Path, seconds: float, **options: str) -> Path:
    return encode(path, [numbered(number) for number in range(20)], list(np.linspace(0, seconds, 20)), **options)


@pytest.mark.parametrize(
    ("make", "name", "problem", "words"),
    [
        (music, "music.mp4", "video_without_pictures", "no pictures"),
        (cut_short, "end_missing.mp4", "video_damaged", "another copy"),
        (lambda path: cut_short(path, movflags="faststart"), "cut.mp4", "video_cut_short", "incomplete"),
        (cut_short, "cut.mkv", "video_cut_short", "incomplete"),
        (cut_short, "cut.avi", "video_cut_short", "incomplete"),
        (
            lambda path: long(path, 7200),
            "long.mp4",
            "video_too_large",
            "takes 120 minutes: at most 60 seconds and 200 MB",
        ),
        (lambda path: long(path, 70, live="1"), "unknown_length.mkv", "video_too_large", "takes 63 seconds"),
    ],
)
def test_a_bad_video_gets_a_sentence(tmp_path, make, name, problem, words):
    path = make(tmp_path / name)
    assert is_video(path)
    with pytest.raises(BadImage, match=words) as caught:
        read_frames(path, at_least=32)
    assert caught.value.problem == problem and "Please" in str(caught.value)


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
    path = long(tmp_path / "clip.mp4", 2)
    os.truncate(path, MAX_BYTES + 50_000_000)
    monkeypatch.setattr(av, "open", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(BadImage, match="has 250 MB: at most 60 seconds and 200 MB"):
        read_frames(path, at_least=32)


def test_frames_that_take_too_much_memory_get_a_sentence(tmp_path, monkeypatch):
    path = long(tmp_path / "clip.mp4", 2)

    def no_memory(*_):
        raise av.error.MemoryError(12, "Cannot allocate memory")

    monkeypatch.setattr(video, "halved", no_memory)
    with pytest.raises(BadImage, match="takes too much memory"):
        read_frames(path, at_least=32)


def test_without_pyav_it_says_what_to_install(tmp_path, monkeypatch):
    path = long(tmp_path / "clip.mp4", 2)
    monkeypatch.setattr(video, "find_spec", lambda _: None)
    with pytest.raises(BadImage, match="pip install av"):
        read_frames(path, at_least=32)


def test_what_is_no_video_is_none(tmp_path):
    pillow_heif.register_heif_opener()
    for name in ("photo.jpg", "photo.png", "photo.avif", "photo.heic", "photo.gif", "photo.webp"):
        numbered(3).save(tmp_path / name)
        assert not is_video(tmp_path / name), name
    (tmp_path / "gif").write_bytes((tmp_path / "photo.gif").read_bytes().ljust(187, b"\0") + b"G" * 5)
    assert not is_video(tmp_path / "gif")
    playlist = tmp_path / "list.mp4"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/clip.ts\n")
    assert not is_video(playlist) and not is_video(tmp_path) and not is_video(tmp_path / "nowhere.mp4")


@pytest.fixture(scope="module")
def predictor():
    return Predictor(RUN)


def black(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size)


def test_a_video_has_one_answer_and_the_time_that_decided(predictor, tmp_path, monkeypatch, capsys):
    dog = even(drawings_beside("shaggy_dog"))
    shown = [black(dog.size), black(dog.size), dog, black(dog.size)]
    path = encode(tmp_path / "clip.mp4", shown, [0, 0.5, 1, 1.5])
    bad = cut_short(tmp_path / "cut.mkv")
    arguments = ("predict", path, bad, "--run-dir", RUN)
    status, printed, _ = run_cli(monkeypatch, capsys, *arguments, "--json")
    answer, failed = map(json.loads, printed.splitlines())
    assert status == 1 and "incomplete" in failed["error"] and failed["path"] == str(bad)
    assert answer["decided_by"] == {"path": str(path), "seconds": 1.0}
    assert answer["breeds"][0]["breed"] == predictor.predict_images([dog])[0].breeds[0].breed
    _, printed, error = run_cli(monkeypatch, capsys, *arguments)
    assert printed.startswith(f"{path} (decided at 1.0 s): ") and str(bad) in error


def test_several_photos_of_one_dog_have_one_answer(predictor, tmp_path, monkeypatch, capsys):
    dog = drawings_beside("white_dog")
    paths = [tmp_path / name for name in ("a.png", "b.png", "missing.png")]
    black(dog.size).save(paths[0])
    dog.save(paths[1])
    arguments = ("predict", "--one-dog", *paths, "--run-dir", RUN)
    status, printed, _ = run_cli(monkeypatch, capsys, *arguments, "--json")
    failed, answer = map(json.loads, printed.splitlines())
    assert status == 1 and failed["path"] == str(paths[2]) and "no file" in failed["error"]
    assert answer["paths"] == [str(paths[0]), str(paths[1])]
    assert answer["decided_by"] == {"path": str(paths[1]), "seconds": None}
    status, printed, _ = run_cli(monkeypatch, capsys, *arguments[:4], "--run-dir", RUN)
    assert status == 0 and printed.startswith(f"one dog in 2 files (decided by {paths[1]}): ")
    assert run_cli(monkeypatch, capsys, "predict", "--one-dog", paths[2], "--run-dir", RUN)[0] == 1


def test_one_photo_of_a_dog_is_answered_as_alone(predictor):
    """However many photos are in one forward pass."""
    dog = drawings_beside("white_dog")
    (alone,) = predictor.predict_images([dog])
    together, index = predictor.predict_one_dog([black(dog.size)] * 9 + [dog])
    assert index == 9 and together.breeds[0].breed == alone.breeds[0].breed and together.region == alone.region
    together, index = predictor.predict_one_dog([dog])
    assert index == 0 and together.to_dict() == alone.to_dict()


def test_each_dog_of_a_video_is_followed_and_answered_from_all_its_frames(predictor, tmp_path, monkeypatch, capsys):
    both, swapped = (
        even(drawings_beside(*names)) for names in (("white_dog", "shaggy_dog"), ("shaggy_dog", "white_dog"))
    )
    dark = Image.blend(both, black(both.size), 0.9)
    path = encode(tmp_path / "clip.mp4", [dark, both, swapped, black(both.size), both], [0, 0.5, 1, 1.5, 2])
    arguments = ("predict", path, "--run-dir", RUN)
    status, printed, _ = run_cli(monkeypatch, capsys, *arguments, "--json")
    answer = json.loads(printed)
    assert status == 0 and len(answer["dogs"]) == 2 and answer["decided_by"]["path"] == str(path)
    for dog, name in zip(answer["dogs"], ("white_dog", "shaggy_dog"), strict=True):
        assert dog["breeds"][0]["breed"] == predictor.predict_images([drawings_beside(name)])[0].breeds[0].breed
        is_swapped = dog["decided_by"]["seconds"] == 1
        assert dog["decided_by"]["seconds"] in (0.5, 1, 2)
        assert (dog["box"][2] < 0.55) == ((name == "white_dog") != is_swapped), "where it is in the frame that decided"
    _, printed, _ = run_cli(monkeypatch, capsys, *arguments)
    lines = [line.split(": ")[0] for line in printed.splitlines()]
    seconds = [dog["decided_by"]["seconds"] for dog in answer["dogs"]]
    assert lines == [f"{path}, dog {i} of 2 (decided at {at:.1f} s)" for i, at in enumerate(seconds, 1)]
    _, printed, _ = run_cli(monkeypatch, capsys, *arguments, "--json", "--one-dog")
    assert "dogs" not in json.loads(printed)


@pytest.mark.parametrize(
    "shown",
    [
        [("white_dog",)] * 3,
        [("white_dog", "cat")] * 3,
        [("white_dog",), ("shaggy_dog",), ("white_dog",)],  # never together
        [("white_dog", "shaggy_dog"), ("white_dog",), ("white_dog",)],  # the second once only
    ],
)
def test_a_video_without_two_dogs_together_for_a_while_has_one_answer(predictor, shown):
    frames = [drawings_beside(*names) for names in shown]
    shots = [Shot("clip.mp4", seconds) for seconds in range(len(frames))]
    answer = predict_video(predictor, shots, lambda number: frames[number])
    together, index = predictor.predict_one_dog(frames)
    assert answer.dogs == () and answer.decided_by == shots[index]
    assert answer.breeds == together.breeds and answer.region == together.region


def test_a_pack_of_dogs_takes_no_longer_than_three(predictor, monkeypatch):
    two = drawings_beside("white_dog", "shaggy_dog")
    opened = []
    monkeypatch.setattr(video_prediction, "MAX_CLOSE_UPS", 4)
    answer = predict_video(
        predictor, [Shot("clip.mp4", number / 2) for number in range(5)], lambda number: opened.append(number) or two
    )
    assert opened == [0, 1, 2, 3, 4, 0, 3], "ten are found in all, so every third frame is used"
    assert len(answer.dogs) == 2 and {dog.prediction.decided_by.seconds for dog in answer.dogs} <= {0, 1.5}


def test_a_video_of_one_frame_is_answered_as_a_photo(predictor):
    photo = drawings_beside("white_dog", "shaggy_dog")
    answer = predict_video(predictor, [Shot("clip.mp4", 0.0)], lambda _: photo)
    alone = predictor.predict(photo)
    assert [dog.box for dog in answer.dogs] == [dog.box for dog in alone.dogs] and len(alone.dogs) == 2
    assert [dog.prediction.verdict for dog in answer.dogs] == [dog.prediction.verdict for dog in alone.dogs]


def seen(*breeds: int) -> list[Outputs]:
    """A frame in which dogs of these classes are seen, each a little differently."""
    rng = np.random.default_rng(sum(breeds))
    return [Outputs((8 * np.eye(20)[[breed]] + rng.normal(0, 1, (1, 20))).astype(np.float32)) for breed in breeds]


def test_dogs_are_followed_by_what_they_are_and_not_by_where_they_are():
    frames = [seen(3, 7), seen(7, 3), [], seen(7), seen(5, 3, 7)]
    assert followed(frames) == [[(0, 0), (1, 1), (4, 1)], [(0, 1), (1, 0), (3, 0), (4, 2)], [(4, 0)]]


def test_two_dogs_of_a_frame_are_never_the_same():
    dogs = followed([seen(3, 3), seen(3, 3, 3), seen(3)])
    assert sorted(map(len, dogs)) == [1, 2, 3]
    assert all(len({frame for frame, _ in dog}) == len(dog) for dog in dogs)
    assert followed([]) == [] and followed([[], []]) == []
