"""The runs that answer where none is named, the default first: folders of `pretrained/`, or ids of the Hub.

`python -m dogbreeds publish space` replaces this file in the Space.
"""

RUNS: tuple[str, ...] = ("efficientnet_lite2", "mobilenet_v2", "vit_tiny")
