"""Serve the page that tells a dog's breed from a photo.

    python app.py
    python app.py --run-dir runs/vit runs/mobilenet_v2 --host 0.0.0.0 --port 8000

Needs no GPU, no torch and no network: by default the CNN and the ViT that come with the project answer.
"""

from pathlib import Path

import tyro

from dogbreeds.errors import one_line_errors
from dogbreeds.run_folder import SHIPPED_RUNS


def main(run_dir: tuple[Path, ...] = SHIPPED_RUNS, host: str | None = None, port: int | None = None) -> None:
    """Serve the page.

    Args:
        run_dir: Run folders, or USER/NAME[@REVISION] of models on the Hugging Face Hub. Of several, the person chooses
            which answers.
        host: Address to listen on; 0.0.0.0 to serve other machines too. By default this machine alone.
        port: Port to listen on. By default the first free one from 7860 on.
    """
    with one_line_errors():
        from dogbreeds.serving.page.app import serve  # takes seconds, which --help need not wait for

        serve(run_dir, host, port)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
