"""Answers as HTML for the page. All text from outside is escaped here."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Literal

from PIL import Image

from dogbreeds.answers import Answer, BreedProbability
from dogbreeds.record import Figures
from dogbreeds.run_folder import RunFolder
from dogbreeds.serving import heat_map
from dogbreeds.serving.model_set import ModelSet, agree
from dogbreeds.serving.page.texts import Texts
from dogbreeds.serving.prediction import Prediction, Shares
from dogbreeds.serving.uploaded import Pictures

SIGNS = {
    "confident": "✔",
    "unsure": "?",
    "unknown_breed": "≈",
    "not_a_dog": "✖",
    "error": "!",
    "agree": "=",
    "disagree": "≠",
}
"""A sign for each kind of answer, for people who don't see the colours."""
MIN_SHOWN = 0.005
"""Of a breed's probability: less is 0 %."""
THUMBNAIL_SIZE = (320, 240)
"""Pixels at most."""
HEAT_MAP_SIZE = (128, 128)
"""Pixels; a model's own heat map has about 10 x 10, and the browser stretches it over the photo."""


def headline(answer: Answer, num_breeds: int, texts: Texts, *, num_listed: int | None = None) -> str:
    """The verdict in one to four sentences.

    Args:
        answer: To one photo.
        num_breeds: How many breeds the model knows.
        texts: The person's language.
        num_listed: How many breeds come into question, if the person made a list.
    """
    listed = "" if num_listed is None else texts.among_listed.format(num_listed)
    if answer.verdict == "unknown_breed":
        names = [texts.name(candidate.breed) for candidate in answer.candidates]
        sentence = texts.another_breed.format(num_breeds) if num_listed is None else texts.none_listed
        return _banner("unknown_breed", texts.unknown_breed, sentence, texts.resembles.format(", ".join(names)), listed)
    first = answer.breeds[0]
    if answer.verdict == "confident":
        num_right = min(round(100 * first.probability), 99)  # none is certain
        return _banner("confident", texts.confident, texts.name(first.breed), texts.sure.format(num_right), listed)
    if answer.verdict == "not_a_dog":
        return _banner("not_a_dog", texts.not_a_dog, texts.none_of_mine.format(num_breeds), texts.hard_to_see, listed)
    perhaps = texts.perhaps.format(f"{texts.name(first.breed)} ({texts.percent(first.probability)})")
    sentence = texts.is_a.format(texts.group(answer.group)) if answer.group else perhaps
    return _banner("unsure", texts.unsure, sentence, texts.try_closer, listed)


def problem(sentence: str, texts: Texts) -> str:
    """Why there is no answer."""
    return _banner("error", texts.error, sentence)


def waiting(sentence: str) -> str:
    """What is shown in place of the answer until there is one."""
    return f'<p class="waiting">{escape(sentence)}</p>'


def progress(num_done: int, num_all: int, texts: Texts) -> str:
    """How many of the photos are answered."""
    sentence = texts.progress.format(num_done, num_all)
    bar = f'<progress value="{num_done}" max="{num_all}" aria-label="{escape(sentence)}"></progress>'
    return f"{waiting(sentence)}{bar}"


def picture(prediction: Prediction, pictures: Pictures, texts: Texts) -> str:
    """The photo with the heat map over it, which a press on the photo, or the space bar, takes away and brings back.

    Args:
        prediction: The answer.
        pictures: What was answered.
        texts: The person's language.
    """
    base, note = base_layer(pictures[prediction.decided_by], texts), frame_note(prediction, texts)
    note = f"<figcaption>{note}</figcaption>" if note else ""
    if prediction.heat_map is None:
        return f'<figure class="photo"><div>{base}</div>{note}</figure>'
    layers = f'<span class="layers">{base}{heat_layer(prediction, texts)}</span>'
    return f'<figure class="photo">{heat_switch(heat_caption(prediction, texts), layers)}{note}</figure>'


def base_layer(photo: Image.Image, texts: Texts) -> str:
    """The photo itself."""
    return f'<img class="base" src="{_data_url(heat_map.shown(photo), "JPEG")}" alt="{escape(texts.photo_alt)}">'


def heat_layer(prediction: Prediction, texts: Texts) -> str:
    """The heat map, to lie over the photo; empty where there is none."""
    if prediction.heat_map is None:
        return ""
    source = _data_url(heat_map.colours(prediction.heat_map, HEAT_MAP_SIZE), "WEBP")
    alt = escape(texts.heat_map_alt.format(texts.name(prediction.breeds[0].breed)))
    return f'<img class="heat" src="{source}" style="{place(prediction.region)}" alt="{alt}">'


def frame_note(prediction: Prediction, texts: Texts) -> str:
    """Which frame of a video is shown; empty for a photo."""
    shot = prediction.decided_by
    if shot is None or shot.seconds is None:
        return ""
    return escape(texts.decided_by_frame.format(texts.decimal(shot.seconds)))


def heat_caption(prediction: Prediction, texts: Texts) -> str:
    """What the heat map shows."""
    return escape(texts.heat_map.format(texts.name(prediction.breeds[0].breed)))


def heat_switch(caption: str, layers: str = "") -> str:
    """What takes the heat maps away and brings them back.

    Args:
        caption: What they show, as HTML.
        layers: The photo with its heat map, if a press on them does it too, as HTML.
    """
    return f'<label>{layers}<input type="checkbox" role="switch" checked><span>{caption}</span></label>'


def place(part: Shares) -> str:
    """The style of what lies over a part of the photo."""
    left, top, right, bottom = (f"{100 * edge:.2f}" for edge in part)
    return f"left: {left}%; top: {top}%; width: calc({right}% - {left}%); height: calc({bottom}% - {top}%)"


def details(prediction: Prediction, model: str, texts: Texts) -> str:
    """The look-alikes as bars; and, for who opens it, which model answered, how, and how fast.

    A dog of an unknown breed has no bars: it is none of these breeds, however probable they are.

    Args:
        prediction: The answer.
        model: The name of the model.
        texts: The person's language.
    """
    answered = texts.answered_by.format(model, f"{prediction.seconds * 1000:.0f}")
    where = texts.no_heat_map if prediction.heat_map is None else texts.how_heat_map
    all_breeds = () if prediction.verdict == "unknown_breed" else prediction.breeds
    return (
        f'{look_alikes(prediction, texts)}<details class="how"><summary>{escape(texts.how)}</summary>'
        f"<p>{escape(answered)} {escape(where)}</p>{_bars(all_breeds, texts.most_probable, texts)}</details>"
    )


def look_alikes(answer: Answer, texts: Texts) -> str:
    """The other breeds that it may be, as bars; empty where there are none."""
    if answer.verdict == "confident":
        return _bars(answer.breeds[1:], texts.look_alikes, texts)
    return _bars(answer.candidates, texts.one_of_these, texts) if answer.verdict == "unsure" else ""


def agreement(answers: Sequence[Answer], texts: Texts) -> str:
    """Whether the models agree."""
    if not agree(answers):
        named = " / ".join(in_short(answer, texts) for answer in answers)
        return _banner("disagree", texts.side_by_side, texts.disagree.format(named))
    if answers[0].verdict == "not_a_dog":
        sentence = texts.none_sees_a_dog
    elif answers[0].verdict == "unknown_breed":
        sentence = texts.all_see_another_breed
    else:
        sentence = texts.agree.format(texts.name(answers[0].breeds[0].breed))
    return _banner("agree", texts.side_by_side, sentence)


def in_short(answer: Answer, texts: Texts) -> str:
    """The answer in a few words."""
    if answer.verdict == "not_a_dog":
        return texts.not_a_dog
    if answer.verdict == "unknown_breed":
        return texts.unknown_breed
    best = f"{texts.name(answer.breeds[0].breed)} ({texts.percent(answer.breeds[0].probability)})"
    return best if answer.verdict == "confident" else texts.perhaps_short.format(best)


def side_by_side(predictions: dict[str, Prediction], models: ModelSet, photo: Image.Image, texts: Texts) -> str:
    """The models' answers beside each other, or below each other on a phone.

    Args:
        predictions: By the models' names.
        models: Which answered.
        photo: The photo that was answered, upright and RGB.
        texts: The person's language.
    """
    sections = []
    for name, prediction in predictions.items():
        verdict = headline(prediction, len(models.labels(name)), texts, num_listed=models.num_listed(name))
        sections.append(
            f'<section class="card" aria-label="{escape(name)}"><h2>{escape(name)}</h2>{verdict}'
            f"{picture(prediction, {None: photo}, texts)}{details(prediction, name, texts)}</section>"
        )
    return f'<div class="cards">{"".join(sections)}</div>'


def rates_in_short(run: RunFolder, texts: Texts) -> str:
    """How often a model is sure of photos it has not seen, and right, in short; empty where that is not known."""
    split, found = _rated(run)
    if not {"top1_confident", "candidates_right"} <= set(found):
        return ""
    return texts.rates_in_short.format(
        photos=_photos_of(split, texts).format(found["n"]),
        confident=texts.percent(found["share_confident"]),
        right=texts.percent(found["top1_confident"]),
    )


def rates(run: RunFolder, name: str, texts: Texts) -> str:
    """How often each kind of a model's answers was wrong when it was evaluated; empty where that was not measured."""
    split, found = _rated(run)
    if not {"top1_confident", "candidates_right"} <= set(found):
        return ""
    sentence = texts.rates.format(
        photos=_photos_of(split, texts).format(found["n"]),
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


def _rated(run: RunFolder) -> tuple[str, Figures]:
    """The photos that are most like those of the page's visitors, among those of which there are figures."""
    figures = run.record.figures
    split = next((split for split in ("everyday", "test", "validation") if split in figures), "everyday")
    return split, figures.get(split, {})


def _photos_of(split: str, texts: Texts) -> str:
    return {"everyday": texts.rates_everyday, "test": texts.rates_test, "validation": texts.rates_validation}[split]


def thumbnail(photo: Image.Image) -> str:
    """A small picture, as an address."""
    small = photo.copy()
    small.thumbnail(THUMBNAIL_SIZE)
    return _data_url(small, "JPEG")


def _banner(kind: str, title: str, sentence: str, *remarks: str) -> str:
    return (
        f'<div class="banner {kind}"><p class="kind"><span aria-hidden="true">{SIGNS[kind]}</span> {escape(title)}</p>'
        f'<p class="answer">{escape(sentence)}</p>'
        + "".join(f"<p>{escape(each)}</p>" for each in remarks if each)
        + "</div>"
    )


def _bars(breeds: Sequence[BreedProbability], title: str, texts: Texts) -> str:
    likely = [each for each in breeds if each.probability >= MIN_SHOWN]
    if not likely:
        return ""
    rows = "".join(
        f'<li><span class="name">{escape(texts.name(candidate.breed))}</span>'
        f'<span class="share">{texts.percent(candidate.probability)}</span>'
        f'<span class="bar" aria-hidden="true"><span style="width: {candidate.probability:.1%}"></span></span></li>'
        for candidate in likely
    )
    return f'<p class="list">{escape(title)}</p><ol class="breeds">{rows}</ol>'


def _data_url(picture: Image.Image, kind: Literal["JPEG", "WEBP"]) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
