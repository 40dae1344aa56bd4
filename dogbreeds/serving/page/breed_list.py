"""The list of breeds that come into question, if the person makes one; in the browser it is breed_list.js."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from dogbreeds.serving.model_set import ModelSet
from dogbreeds.serving.page import breeds_tab
from dogbreeds.serving.page.components import BreedsInput
from dogbreeds.serving.page.texts import Texts

_SCRIPT = Path(__file__).with_name("breed_list.js")


def breed_list() -> BreedsInput:
    """The breeds that are ticked, on both tabs; to be rendered below them, since nobody needs to tick any."""
    script = _SCRIPT.read_text(encoding="utf-8")
    return BreedsInput(None, html_template="", elem_id="listed", js_on_load=script, render=False)


def layout(models: ModelSet, texts: Texts) -> str:
    """The breeds that any of the models knows, to tick, as HTML in one language."""
    labels = dict.fromkeys(label for name in models.names for label in models.labels(name))
    items = "".join(
        f'<li><label><input type="checkbox" value="{escape(each.label)}" data-name="{escape(texts.name(each.label))}">'
        f"<span>{each.html}</span></label></li>"
        for each in breeds_tab.named_today(list(labels), texts)
    )
    return (
        f"<p>{escape(texts.only_breeds_info)}</p>"
        f'<p role="status" class="chosen" data-all="{escape(texts.all_in_question)}" '
        f'data-some="{escape(texts.some_in_question)}">{escape(texts.all_in_question)}</p>'
        f'<div class="find"><input type="search" aria-label="{escape(texts.find_breed)}" '
        f'placeholder="{escape(texts.find_breed)}"><button type="button" hidden>{escape(texts.all_breeds)}</button>'
        f'</div><ul class="all-breeds">{items}</ul>'
    )


def problem(models: ModelSet, names: Sequence[str], breeds: Sequence[str], texts: Texts) -> str | None:
    """What is wrong with a list, in a sentence; None if nothing is.

    Args:
        models: Those of the page.
        names: Which of them answer.
        breeds: The labels that are ticked.
        texts: The person's language.
    """
    if len(set(breeds)) == 1:
        return texts.one_alone.format(texts.name(breeds[0]))
    for name in names:
        if unknown := [texts.name(breed) for breed in breeds if breed not in models.labels(name)]:
            return texts.not_known_by.format(name, ", ".join(unknown))
    return None
