"""What answers where no run is named, the first before the others: folders of `pretrained/`, or ids of the Hub.

`python -m dogbreeds publish space` writes this file anew for the Space.
"""

RUNS: tuple[str, ...] = ("mobilenet_v2", "vit_tiny")
