"""Serve the page that tells a dog's breed from a photo.

    python app.py
    python app.py --run-dir runs/vit runs/mobilenet_v2 --host 0.0.0.0 --port 8000

Needs no GPU, no torch and no network: by default efficientnet_lite2 answers, and mobilenet_v2 and vit_tiny if they are
chosen. All three come with the project.
"""

import os
from pathlib import Path

from dogbreeds.errors import one_line_errors

with one_line_errors():  # of a Ctrl-C or a package that is missing, too
    import tyro

    from dogbreeds.run_folder import SHIPPED_RUNS


def main(
    run_dir: tuple[Path, ...] = SHIPPED_RUNS,
    host: str | None = None,
    port: int | None = None,
    allowed_host: tuple[str, ...] = (),
    trusted_proxy: tuple[str, ...] = (),
    video: bool = False,
) -> None:
    """Serve the page.

    Args:
        run_dir: Run folders, or USER/NAME[@REVISION] of models on the Hugging Face Hub. Of several, the person chooses
            which answers.
        host: Address to listen on; 0.0.0.0 to serve other machines too. By default this machine alone.
        port: Port to listen on. By default the first free one from 7860 on.
        allowed_host: Names under which the page is served, such as dogs.example.org, besides the names and addresses of
            this machine.
        trusted_proxy: Addresses or networks of proxies before the page, such as 127.0.0.1, whose X-Forwarded-For is
            believed.
        video: Take short videos too, besides photos. Needs PyAV.

    With the environment variable DOGBREEDS_ACCESS_KEY, only who knows that key may ask: people give it as password,
    programs as "Authorization: Bearer KEY".
    """
    from dogbreeds.serving.page.app import Access, serve  # takes seconds, which --help need not wait for

    access = Access(allowed_host, trusted_proxy, os.environ.get("DOGBREEDS_ACCESS_KEY"))
    serve(run_dir, host, port, access, takes_videos=video)


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, description=__doc__)
