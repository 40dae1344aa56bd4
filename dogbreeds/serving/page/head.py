"""The head of the page's HTML: what runs before gradio does, and what other sites show of a link to the page."""

import re
from html import escape
from pathlib import Path

from dogbreeds.serving.page.texts import Texts

PICTURES = Path(__file__).with_name("pictures")
"""Served under this name too. tests/drawings.py has drawn them: none shows a photo of somebody."""

_HERE = Path(__file__).parent
_SCRIPTS = "".join(
    f"<script>{(_HERE / name).read_text(encoding='utf-8')}</script>" for name in ("language.js", "in_order.js")
)
# Read in gradio 6.31.0: its head has two sets of these, of gradio itself, one of them with "{url}".
_OF_GRADIO = re.compile(r'<meta\s[^<>]*\b(?:property="og:|name="twitter:)[^<>]*>\s*')


def with_own_head(page: str, address: str, texts: Texts) -> str:
    """The page with a head of this project.

    Args:
        page: gradio's HTML.
        address: Under which the page is reached, without a slash at the end.
        texts: The person's language.
    """
    properties = {
        "og:type": "website",
        "og:url": f"{address}/",
        "og:title": texts.title,
        "og:description": texts.description,
        "og:image": f"{address}/{PICTURES.name}/preview.jpg",
        "og:image:width": "1200",
        "og:image:height": "630",
        "og:image:alt": texts.preview_alt,
    }
    names = {"description": texts.description, "twitter:card": "summary_large_image"}
    metas = "".join(f'<meta name="{name}" content="{escape(value)}">' for name, value in names.items())
    metas += "".join(f'<meta property="{name}" content="{escape(value)}">' for name, value in properties.items())
    head, end, body = page.partition("</head>")
    head = _OF_GRADIO.sub("", head).replace('lang="en"', f'lang="{texts.language}"', 1)
    return head + metas + _SCRIPTS + end + body
