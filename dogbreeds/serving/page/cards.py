"""Answers as HTML for the page. All text from outside is escaped here."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from dogbreeds.answers import Answer, BreedProbability
from dogbreeds.run_folder import RunFolder
from dogbreeds.serving.heat_map import overlay
from dogbreeds.serving.model_set import ModelSet, agree
from dogbreeds.serving.page.texts import Texts
from dogbreeds.serving.predictor import Prediction

_SIGNS = {
    "confident": "✔",
    "unsure": "?",
    "unknown_breed": "≈",
    "not_a_dog": "✖",
    "error": "!",
    "agree": "=",
    "disagree": "≠",
}
"""A sign for each kind of answer, for people who don't see the colours."""


def headline(answer: Answer, num_breeds: int, texts: Texts) -> str:
    """The verdict in one to three sentences.

    Args:
        answer: To one photo.
        num_breeds: How many breeds the model knows.
        texts: The person's language.
    """
    names = [texts.name(candidate.breed) for candidate in answer.candidates]
    if answer.verdict == "unknown_breed":
        sentence = texts.another_breed.format(num_breeds)
        return _banner("unknown_breed", texts.unknown_breed, sentence, texts.resembles.format(", ".join(names)))
    best = f"{texts.name(answer.breeds[0].breed)} ({texts.percent(answer.breeds[0].probability)})"
    if answer.verdict == "confident":
        return _banner("confident", texts.confident, best, texts.looks_like)
    if answer.verdict == "not_a_dog":
        return _banner("not_a_dog", texts.not_a_dog, texts.none_of_mine.format(num_breeds), texts.hard_to_see)
    one_of = texts.look_alikes.format(one_of_several(names, texts)) if len(names) > 1 else ""
    sentence = texts.is_a.format(texts.group(answer.group)) if answer.group else texts.perhaps.format(best)
    return _banner("unsure", texts.unsure, sentence, f"{one_of} {texts.try_closer}".strip())


def problem(sentence: str, texts: Texts) -> str:
    """Why there is no answer."""
    return _banner("error", texts.error, sentence, "")


def waiting(sentence: str) -> str:
    """What is shown in place of the answer until there is one."""
    return f'<p class="waiting">{escape(sentence)}</p>'


def progress(num_done: int, num_all: int, texts: Texts) -> str:
    """How many of the photos are answered."""
    sentence = texts.progress.format(num_done, num_all)
    bar = f'<progress value="{num_done}" max="{num_all}" aria-label="{escape(sentence)}"></progress>'
    return f"{waiting(sentence)}{bar}"


def details(prediction: Prediction, photo: Image.Image, model: str, texts: Texts) -> str:
    """The most probable breeds as bars, the heat map over the photo, which model answered and how fast.

    A dog of an unknown breed has no bars: it is none of these breeds, however probable they are.

    Args:
        prediction: The answer.
        photo: The photo that was answered, upright and RGB.
        model: The name of the model.
        texts: The person's language.
    """
    best = texts.name(prediction.breeds[0].breed)
    alt, caption = texts.heat_map_alt.format(best), texts.heat_map.format(model, best)
    if prediction.heat_map is None:
        alt, caption = texts.no_heat_map_alt, texts.no_heat_map.format(model)
    answered = texts.answered_by.format(model, f"{prediction.seconds * 1000:.0f}")
    bars = f'<p class="list">{escape(texts.most_probable)}</p>{_bars(prediction.breeds, texts)}'
    return (
        ("" if prediction.verdict == "unknown_breed" else bars)
        + f'<figure><img src="{_data_url(overlay(photo, prediction))}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        f'<p class="answered">{escape(answered)}</p>'
    )


def agreement(answers: Sequence[Answer], texts: Texts) -> str:
    """Whether the models agree."""
    if not agree(answers):
        named = " / ".join(_in_short(answer, texts) for answer in answers)
        return _banner("disagree", texts.side_by_side, texts.disagree.format(named), "")
    if answers[0].verdict == "not_a_dog":
        sentence = texts.none_sees_a_dog
    elif answers[0].verdict == "unknown_breed":
        sentence = texts.all_see_another_breed
    else:
        sentence = texts.agree.format(texts.name(answers[0].breeds[0].breed))
    return _banner("agree", texts.side_by_side, sentence, "")


def side_by_side(predictions: dict[str, Prediction], models: ModelSet, photo: Image.Image, texts: Texts) -> str:
    """The models' answers beside each other, or below each other on a phone.

    Args:
        predictions: By the models' names.
        models: Which answered.
        photo: The photo that was answered, upright and RGB.
        texts: The person's language.
    """
    return '<div class="cards">' + "".join(
        f'<section class="card" aria-label="{escape(name)}"><h2>{escape(name)}</h2>'
        f"{headline(prediction, len(models.labels(name)), texts)}{details(prediction, photo, name, texts)}</section>"
        for name, prediction in predictions.items()
    ) + "</div>"  # fmt: skip


def rates(run: RunFolder, name: str, texts: Texts) -> str:
    """How often each kind of a model's answers was wrong when it was evaluated; empty where that was not measured."""
    figures = run.record.figures
    split = next(split for split in ("everyday", "test", "validation") if split in figures)
    found = figures[split]
    if not {"top1_confident", "candidates_right"} <= set(found):
        return ""
    photos = {"everyday": texts.rates_everyday, "test": texts.rates_test, "validation": texts.rates_validation}[split]
    sentence = texts.rates.format(
        photos=photos.format(found["n"]),
        model=name,
        confident=texts.percent(found["share_confident"]),
        wrong=texts.percent(1 - found["top1_confident"]),
        unsure=texts.percent(found["share_unsure"]),
        missed=texts.percent(1 - found["candidates_right"]),
        no_dog=texts.percent(found["share_not_a_dog"]),
    )
    if "group_right" in found:
        sentence += texts.rates_group.format(texts.percent(1 - found["group_right"]))
    if share := found.get("share_unknown_breed"):
        sentence += texts.rates_unknown_breed.format(texts.percent(share))
    if num := found.get("n_other_photos"):
        sentence += texts.rates_other_photos.format(num, texts.percent(found["other_photos_not_a_dog"]))
    if num := found.get("n_other_dogs"):
        sentence += texts.rates_other_dogs.format(num, texts.percent(found["other_dogs_confident"]))
    return sentence


def thumbnail(photo: Image.Image, height: int = 56) -> str:
    """A small picture for a row of a table. Its alt text is empty, because the file's name is in the same row."""
    small = photo.copy()
    small.thumbnail((2 * height, height))
    return f'<img src="{_data_url(small)}" alt="" height="{height}">'


def download_link(content: bytes, name: str, text: str) -> str:
    """A link that saves a CSV file, which is part of the page, so that no file is left on the server."""
    data = base64.b64encode(content).decode()
    return f'<a class="download" download="{escape(name)}" href="data:text/csv;base64,{data}">{escape(text)}</a>'


def one_of_several(names: Sequence[str], texts: Texts) -> str:
    """A list of names: "A, B or C"."""
    return f" {texts.or_} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _in_short(answer: Answer, texts: Texts) -> str:
    if answer.verdict == "not_a_dog":
        return texts.not_a_dog
    if answer.verdict == "unknown_breed":
        return texts.unknown_breed
    best = f"{texts.name(answer.breeds[0].breed)} ({texts.percent(answer.breeds[0].probability)})"
    return best if answer.verdict == "confident" else texts.perhaps_short.format(best)


def _banner(kind: str, title: str, sentence: str, remark: str) -> str:
    return (
        f'<div class="banner {kind}"><p class="kind"><span aria-hidden="true">{_SIGNS[kind]}</span> {escape(title)}</p>'
        f'<p class="answer">{escape(sentence)}</p>' + (f"<p>{escape(remark)}</p>" if remark else "") + "</div>"
    )


def _bars(breeds: Sequence[BreedProbability], texts: Texts) -> str:
    rows = "".join(
        f'<li><span class="name">{escape(texts.name(candidate.breed))}</span>'
        f'<span class="share">{texts.percent(candidate.probability)}</span>'
        f'<span class="bar" aria-hidden="true"><span style="width: {candidate.probability:.1%}"></span></span></li>'
        for candidate in breeds
    )
    return f'<ol class="breeds">{rows}</ol>'


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
