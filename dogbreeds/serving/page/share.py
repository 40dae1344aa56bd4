"""Buttons that make the answer something to keep: a picture to pass on, and a sheet of paper, as for a kennel's door.

share.js draws both in the browser from what the page shows, so they hold nothing that was hidden in the photo's file.
"""

from html import escape
from pathlib import Path

from dogbreeds.serving.page.texts import Texts

SCRIPT = Path(__file__).with_name("share.js").read_text(encoding="utf-8")


def buttons(texts: Texts) -> str:
    """The buttons, with the sentence that picture and sheet say besides the answer."""
    return (
        f'<p class="keep" data-note="{escape(texts.no_proof)}">'
        f'<button type="button" data-keep="picture">{escape(texts.save_picture)}</button>'
        f'<button type="button" data-keep="sheet">{escape(texts.print_sheet)}</button></p>'
    )
