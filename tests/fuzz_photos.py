"""Mutated files of the corpus, those kept that reach new code: each must give an RGB image or one sentence.

    PYTHONPATH=. python tests/fuzz_photos.py --minutes 10      # a file that fails is kept in the folder --failures

The coverage is of Pillow's Python code and of `dogbreeds.images`. The process ends at the first file that crashes it,
gives neither an RGB image nor a refusal in a sentence, or takes more than 5 seconds or 600 MB.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "dogbreeds.images"]):
    from PIL import Image

    Image.init()
    from dogbreeds.images import BadImage, open_image

from photo_corpus import EITHER, MAX_MEGABYTES, MAX_SECONDS, check, check_refusal, samples


def open_anything(content: bytes) -> None:
    """Open a file that may be a photo, and check the result."""
    try:
        opened = open_image(content)
    except BadImage as error:
        check_refusal(error, EITHER)
    else:
        check(opened, EITHER)


def main() -> None:
    """Fuzz; the exit status is 0 if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--runs", type=int, default=-1, help="files to try at most, always the same ones")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="folder for the file that failed")
    options = parser.parse_args()
    options.failures.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(samples(enlarged=1).values()):
            Path(folder, str(number)).write_bytes(content)
        limits = {
            "max_total_time": round(60 * options.minutes),
            "timeout": MAX_SECONDS,
            "rss_limit_mb": MAX_MEGABYTES,
            "runs": options.runs,
            "seed": 1,
            "max_len": 100_000,
            "print_final_stats": 1,
            "artifact_prefix": f"{options.failures}/",
        }
        atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in limits.items()), folder], open_anything)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
