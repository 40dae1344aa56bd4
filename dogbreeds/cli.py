"""The command line: python -m dogbreeds COMMAND. Each command imports what it needs when it runs."""

import dataclasses
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from dogbreeds.errors import UserError, one_line_errors
from dogbreeds.run_folder import DEFAULT_RUN


def main() -> None:
    """Run the command that the arguments name; the process ends with its exit status."""
    for stream in (sys.stdout, sys.stderr):  # a file name need not be valid text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with one_line_errors():
        commands: dict[str, Callable[..., Any]] = {"predict": predict, "evaluate": evaluate, "breeds": breeds}
        status: int = tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m dogbreeds", description="Tell a dog's breed from a photo."
        )
    sys.exit(status)


def predict(
    photos: Positional[Annotated[tuple[str, ...], arg(metavar="PHOTO [PHOTO ...]")]],
    top_k: int = 5,
    json: bool = False,
    run_dir: Path = DEFAULT_RUN,
) -> int:
    """Name the breed of the dog on each photo.

    The exit status is 1 if a photo could not be read; the others are answered all the same.

    Args:
        photos: Image files.
        top_k: How many breeds to name.
        json: Print one JSON object a line.
        run_dir: The run folder that answers.
    """
    if not photos:
        raise UserError("no photo is named: python -m dogbreeds predict PHOTO [PHOTO ...]")
    if top_k < 1:
        raise UserError(f"--top-k {top_k}: must be 1 or more")
    from dogbreeds.images import BadImage
    from dogbreeds.serving.predictor import Predictor

    predictor = Predictor(run_dir)
    num_failed = 0
    for path in photos:
        started = time.perf_counter()
        try:
            prediction = predictor.predict(path, top_k=top_k)
        except BadImage as error:
            num_failed += 1
            if json:
                _print_json(path, None, [], time.perf_counter() - started, str(error))
            else:
                print(f"{path}: {error}", file=sys.stderr)
            continue
        candidates = [dataclasses.asdict(candidate) for candidate in prediction.breeds]
        if json:
            _print_json(path, prediction.verdict, candidates, prediction.seconds, None)
        else:
            named = ", ".join(f"{c.breed} {c.probability:.0%}" for c in prediction.breeds)
            words = {
                "confident": named,
                "unsure": f"not sure: {named}",
                "not_a_dog": f"does not look like one of my {len(predictor.run.labels)} breeds (nearest: {named})",
            }
            print(f"{path}: {words[prediction.verdict]}", flush=True)
    return 1 if num_failed else 0


def evaluate(
    data: str,
    run_dir: Path = DEFAULT_RUN,
    split: Literal["train", "validation", "test"] | None = None,
    json: bool = False,
) -> int:
    """Classify a labelled set and print how good the calibrated probabilities are.

    The exit status is 1 if a photo could not be read; it is named and not in the figures.

    Args:
        data: A folder of Parquet files, a folder with one sub-folder a breed, Stanford's extracted archives, or a Hub
            data set.
        run_dir: The run folder to judge.
        split: The split to use; one that the data does not bring is cut as in training. By default test, else
            validation, else all there is.
        json: Print one JSON object.
    """
    from dogbreeds.research.evaluate import evaluate as evaluate_run
    from dogbreeds.research.evaluate import photos_of
    from dogbreeds.serving.predictor import Predictor

    predictor = Predictor(run_dir)
    photos = photos_of(predictor, data, split)
    started = time.perf_counter()
    result = evaluate_run(predictor, photos, progress=sys.stderr.isatty())
    seconds = time.perf_counter() - started
    for photo in result.unreadable:
        print(f"left out {photo.id}: {photo.reason}", file=sys.stderr)
    if json:
        record: dict[str, object] = {**result.figures, "num_unreadable": len(result.unreadable), "seconds": seconds}
        _dump(record)
    else:
        figures = result.figures
        print(f"n               {figures['n']}" + (f" of {len(photos)}" if result.unreadable else ""))
        for name, key in (("top-1", "top1"), ("top-3", "top3"), ("macro F1", "macro_f1"), ("ECE", "ece")):
            print(f"{name:<15} {figures[key]:.1%}")
        print(f"log-loss        {figures['log_loss']:.3f}")
        if "top1_confident" in figures:
            print(f"top-1 confident {figures['top1_confident']:.1%}")
        for verdict in ("confident", "unsure", "not_a_dog"):
            print(f"{verdict.replace('_', ' '):<15} {figures[f'share_{verdict}']:.1%}")
        print(f"seconds         {seconds:.1f}")
    return 1 if result.unreadable else 0


def breeds() -> int:
    """List the 120 breeds of Stanford Dogs: WordNet id, name."""
    from dogbreeds.breeds import all_breeds

    for breed in all_breeds():
        print(f"{breed.wordnet_id}  {breed.name}")
    return 0


def _print_json(path: str, verdict: str | None, breeds: list[dict], seconds: float, error: str | None) -> None:
    _dump({"path": path, "verdict": verdict, "breeds": breeds, "seconds": seconds, "error": error})


def _dump(record: dict[str, object]) -> None:
    print(json.dumps(record), flush=True)
