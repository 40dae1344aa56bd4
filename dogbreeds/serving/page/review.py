"""The answers to many photos as cards, to be looked through and put right; in the browser it is review_*.js.

What a person says of the photos stays in the browser. It is saved there as lists that training, `calibrate` and
`evaluate` take: paths and breeds, and the paths of `calibrate --other-photos` and `--other-dogs`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr

from dogbreeds.answers import Answer
from dogbreeds.breeds import find_breed
from dogbreeds.images import BadImage
from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page import breeds_tab, cards
from dogbreeds.serving.page.components import described_once
from dogbreeds.serving.page.texts import ENGLISH, Texts
from dogbreeds.serving.rows import answer_columns, columns, csv_records

NUM_BREEDS = 3
"""Breeds that a record of the CSV file names."""
COLUMNS = ["file", *columns(NUM_BREEDS)[1:]]
"""Of the CSV file."""
OTHER_PHOTOS, OTHER_DOGS = "/other-photos", "/other-dogs"
"""In place of a breed's name; no folder of a data set has a name like these."""
END = json.dumps({"ended": True}) + "\n"
"""The last of the lines."""

_PARTS = ("files", "order", "labels", "dialog", "cards")
"""Of the script: review_PART.js. They share one scope."""


@described_once
class Review(gr.HTML):
    """What `shown` makes, of which gradio sends only what is new. It shows nothing itself."""

    is_template = True

    def __init__(self) -> None:
        """Begin without answers."""
        parts = [Path(__file__).with_name(f"review_{part}.js").read_text(encoding="utf-8") for part in _PARTS]
        super().__init__(None, html_template="", elem_id="answers", js_on_load="\n".join(parts))

    def postprocess(self, value: dict[str, Any] | None) -> dict[str, Any] | None:  # type: ignore[override]
        """The value as it is; gradio's is a text."""
        return value


@dataclass(frozen=True)
class Row:
    """The result for one file."""

    file: str
    """Its own name, without the folder, which browsers don't tell."""
    thumbnail: str
    """The address of a small picture; empty where the file could not be read."""
    result: Answer | BadImage
    """The answer, or why there is none."""


def begin(model: str) -> str:
    """The first line of a review: who answers, the header of the CSV file, and what tells it from the last review."""
    (header,) = csv_records([], COLUMNS)
    return json.dumps({"model": model, "header": header, "id": uuid4().hex}) + "\n"


def shown(lines: str, last: Sequence[Row]) -> dict[str, Any]:
    """What the browser gets.

    gradio's page (6.31.0) goes through the whole of a value several times when a part of it changes, and shows only the
    last of values that follow each other closely. So each picture is sent with its line, and once more at the end. Up
    to then the browser shows the file of a photo whose picture it missed, if it can.

    Args:
        lines: What `begin` and `lines` made up to now, and perhaps `END`.
        last: The rows of the last of these lines, whose pictures are sent with them; of all at the end.
    """
    return {"lines": lines, "pictures": [row.thumbnail for row in last]}


def lines(rows: Sequence[Row], texts: Texts) -> str:
    """A line for each row."""
    return "".join(json.dumps(_card(row, texts)) + "\n" for row in rows)


def _card(row: Row, texts: Texts) -> dict[str, Any]:
    """What the browser shows of a row, and keeps to find, sort and save it."""
    answer, remark = in_words(row, texts)
    card = {"file": row.file, "answer": answer, "remark": remark, "record": _record(row)}
    if isinstance(row.result, BadImage):
        return {**card, "verdict": "error", "probability": 0}
    best = row.result.breeds[0]
    own_label = {"not_a_dog": OTHER_PHOTOS, "unknown_breed": OTHER_DOGS}.get(row.result.verdict)
    return {
        **card,
        "verdict": row.result.verdict,
        "probability": best.probability if own_label is None else 0,
        "label": own_label or _data_name(best.breed),
        "look_alikes": cards.look_alikes(row.result, texts),
    }


def in_words(row: Row, texts: Texts) -> tuple[str, str]:
    """The breed that is named, if one is, and what else there is to say besides the verdict."""
    result = row.result
    if isinstance(result, BadImage):
        return "", texts.problem(result)
    if result.verdict == "not_a_dog":
        return "", ""
    if result.verdict == "unknown_breed":
        return "", texts.resembles.format(", ".join(texts.name(candidate.breed) for candidate in result.candidates))
    best = result.breeds[0]
    group = f" ({texts.group(result.group)})" if result.group else ""
    return texts.name(best.breed), texts.percent(min(best.probability, 0.99)) + group  # none is certain


def _record(row: Row) -> str:
    """The line of the CSV file."""
    cells = answer_columns(row.result)
    if isinstance(row.result, BadImage):
        cells["error"] = ENGLISH.problem(row.result)
    _, record = csv_records([{"file": row.file, **cells}], COLUMNS)
    return record


def _data_name(label: str) -> str:
    """A breed as the data set calls it."""
    breed = find_breed(label)
    return breed.dataset_name if breed else label


def layout(models: ModelSet, texts: Texts) -> str:
    """What is around the cards, and what each is made of, as HTML in one language.

    Args:
        models: The breeds that any of them knows can be chosen.
        texts: The person's language.
    """
    verdicts = {
        "confident": texts.confident,
        "unsure": texts.unsure,
        "unknown_breed": texts.unknown_breed,
        "not_a_dog": texts.not_a_dog,
        "error": texts.could_not_be_read,
    }
    sections = "".join(
        f'<section data-verdict="{verdict}" aria-label="{escape(title)}" hidden><h2><span aria-hidden="true">'
        f'{cards.SIGNS[verdict]}</span> {escape(title)} <span class="num"></span></h2><ul></ul></section>'
        for verdict, title in verdicts.items()
    )
    filters = {"": texts.all_answers, **verdicts, "unchecked": texts.unchecked, "corrected": texts.corrected}
    return (
        f'<div class="review" data-replace="{escape(texts.replace_checked)}" '
        f'data-failed="{escape(cards.problem(texts.many_failed, texts))}" hidden>'
        f'<p class="model" data-text="{escape(texts.answers_of)}"></p>'
        f'<div class="find"><input type="search" aria-label="{escape(texts.filter)}" '
        f'placeholder="{escape(texts.filter)}">'
        f'<label>{escape(texts.show)} <select name="shown">{_options(filters)}</select></label>{_heads(texts)}</div>'
        f'<p class="shown" role="status" data-text="{escape(texts.num_shown)}"></p>'
        f'<a class="download" download="breeds.csv" data-all="{escape(texts.download)}" '
        f'data-some="{escape(texts.download_shown)}" hidden></a>{_checked(texts)}{sections}'
        f"{_template(texts)}{_dialog(models, texts)}</div>"
    )


def _heads(texts: Texts) -> str:
    """What the photos can be sorted by. A press on one sorts by it, the next press turns the order round."""
    buttons = "".join(
        f'<button type="button" data-sort="{key}" aria-pressed="false" '
        f'data-up="{escape(up)}" data-down="{escape(down)}">{escape(name)}</button>'
        for key, name, up, down in (
            ("file", texts.file, texts.a_to_z, texts.z_to_a),
            ("answer", texts.breed, texts.a_to_z, texts.z_to_a),
            ("probability", texts.how_sure, texts.least_sure_first, texts.surest_first),
        )
    )
    return (
        f'<div class="sort" role="group" aria-labelledby="sort-by"><span id="sort-by">{escape(texts.sort_by)}</span>'
        f"{buttons}</div>"
    )


def _checked(texts: Texts) -> str:
    """What the person has said of the photos, to save it."""
    links = "".join(
        f'<a class="download" download="{name}.csv" data-kind="{kind}" data-text="{escape(text)}" hidden></a>'
        for kind, name, text in (
            ("", "labels", texts.save_labels),
            (OTHER_PHOTOS, OTHER_PHOTOS[1:], texts.save_other_photos),
            (OTHER_DOGS, OTHER_DOGS[1:], texts.save_other_dogs),
        )
    )
    return (
        f'<div class="checked" hidden><p role="status" data-text="{escape(texts.num_checked)}"></p>{links}'
        f'<p class="remark">{escape(texts.what_labels_are_for)}</p></div>'
    )


def _template(texts: Texts) -> str:
    """A card, to be filled in."""
    return (
        '<template><li><button type="button" class="open">'
        '<span class="picture"><img alt="" loading="lazy" decoding="async"></span>'
        '<span class="answer"></span><span class="remark"></span><span class="file"></span></button>'
        f'<p class="label"></p><button type="button" class="right" aria-pressed="false">{escape(texts.right)}</button>'
        "</li></template>"
    )


def _dialog(models: ModelSet, texts: Texts) -> str:
    """A photo with all that there is to its answer, and what it shows."""
    labels = dict.fromkeys(label for name in models.names for label in models.labels(name))
    breeds = {
        _data_name(each.label): f"{each.name} ({each.in_data})" if each.in_data else each.name
        for each in breeds_tab.named_today(list(labels), texts)
    }
    choices = {"": texts.not_checked, OTHER_PHOTOS: texts.no_dog, OTHER_DOGS: texts.other_dog, **breeds}
    return (
        '<dialog aria-labelledby="review-file"><div class="photo"><img alt=""></div><div><h2 id="review-file"></h2>'
        '<p class="verdict"></p><p class="answer"></p><p class="remark"></p><div class="look-alikes"></div>'
        f'<label class="label">{escape(texts.it_shows)} <select name="label">{_options(choices)}</select></label>'
        f'<div class="buttons"><button type="button" data-go="right">{escape(texts.right)}</button>'
        f'<button type="button" data-go="close">{escape(texts.close)}</button>'
        f'<button type="button" data-go="-1">{escape(texts.previous)}</button>'
        f'<button type="button" data-go="1">{escape(texts.next)}</button></div></div></dialog>'
    )


def _options(choices: dict[str, str]) -> str:
    return "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in choices.items())
