"""The answer to a photo or video of several dogs as HTML: a box around each, and the answer to the one that is chosen.

Each part of the page holds the answers to all of them, and choose_dog.js shows the one that is chosen: the first, at
first.
"""

from collections.abc import Callable
from html import escape
from pathlib import Path

from dogbreeds.serving.page import cards
from dogbreeds.serving.page.texts import Texts
from dogbreeds.serving.prediction import Dog, Prediction
from dogbreeds.serving.uploaded import Pictures

SCRIPT = Path(__file__).with_name("choose_dog.js").read_text(encoding="utf-8")


def headline(prediction: Prediction, num_breeds: int, texts: Texts, *, num_listed: int | None = None) -> str:
    """The verdict on each dog, and which dog it is.

    Args:
        prediction: With `dogs`.
        num_breeds: How many breeds the model knows.
        texts: The person's language.
        num_listed: As for `cards.headline`.
    """
    num = len(prediction.dogs)
    which = texts.dog_of_video if prediction.decided_by else texts.dog_of
    return _of_each(
        prediction,
        lambda number, dog: (
            f'<p class="which-dog">{escape(which.format(number, num))}</p>'
            + cards.headline(dog.prediction, num_breeds, texts, num_listed=num_listed)
        ),
    )


def picture(prediction: Prediction, pictures: Pictures, texts: Texts) -> str:
    """The photo with a box around each dog, the heat map of the one that is chosen, and the dogs to choose from.

    Args:
        prediction: With `dogs`.
        pictures: What was answered. Of a video, each dog is shown in the frame that decided.
        texts: The person's language.
    """
    choices = "".join(
        f'<label><input type="radio" name="dog" value="{number}"{" checked" * (number == 1)}>'
        f"<span>{number}</span> {escape(cards.in_short(dog.prediction, texts))}</label>"
        for number, dog in _numbered(prediction)
    )
    legend = escape(texts.choose_dog.format(len(prediction.dogs)))
    switch = ""
    if any(dog.prediction.heat_map is not None for dog in prediction.dogs):
        captions = _of_each(prediction, lambda _, dog: cards.heat_caption(dog.prediction, texts), "span")
        switch = cards.heat_switch(captions)
    note = ""
    if prediction.decided_by:
        notes = _of_each(prediction, lambda _, dog: cards.frame_note(dog.prediction, texts), "span")
        note = f"<figcaption>{notes}</figcaption>"
    return (
        f'<figure class="photo"><div class="layers">{_layers(prediction, pictures, texts)}</div>'
        f'<fieldset class="dogs"><legend>{legend}</legend>{choices}</fieldset>{switch}{note}</figure>'
    )


def _layers(prediction: Prediction, pictures: Pictures, texts: Texts) -> str:
    shown_in = {dog.prediction.decided_by for dog in prediction.dogs}
    if len(shown_in) > 1:
        return _of_each(
            prediction,
            lambda number, dog: (
                cards.base_layer(pictures[dog.prediction.decided_by], texts)
                + cards.heat_layer(dog.prediction, texts)
                + _box(number, dog)
            ),
        )
    heat_maps = _of_each(prediction, lambda _, dog: cards.heat_layer(dog.prediction, texts))
    # A small dog before a large one can be pressed too: it is drawn above.
    boxes = "".join(_box(*each) for each in sorted(_numbered(prediction), key=lambda each: -_area(each[1])))
    return cards.base_layer(pictures[shown_in.pop()], texts) + heat_maps + boxes


def details(prediction: Prediction, model: str, texts: Texts) -> str:
    """What `cards.details` says, of each dog.

    Args:
        prediction: With `dogs`.
        model: The name of the model.
        texts: The person's language.
    """
    return _of_each(prediction, lambda _, dog: cards.details(dog.prediction, model, texts))


def _numbered(prediction: Prediction) -> list[tuple[int, Dog]]:
    return list(enumerate(prediction.dogs, 1))


def _of_each(prediction: Prediction, say: Callable[[int, Dog], str], tag: str = "div") -> str:
    """What is said of each dog, in an element of its own, of which that of the chosen one is shown."""
    return "".join(
        f'<{tag} data-dog="{number}"{" hidden" * (number > 1)}>{say(number, dog)}</{tag}>'
        for number, dog in _numbered(prediction)
    )


def _box(number: int, dog: Dog) -> str:
    """What is drawn around a dog. It is for the mouse and the finger: there are radio buttons for all others."""
    chosen = " data-chosen" * (number == 1)
    return f'<span class="box" data-box="{number}"{chosen} style="{cards.place(dog.box)}"><span>{number}</span></span>'


def _area(dog: Dog) -> float:
    left, top, right, bottom = dog.box
    return (right - left) * (bottom - top)
