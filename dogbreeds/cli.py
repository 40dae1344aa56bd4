"""The command line: python -m dogbreeds COMMAND. Each command imports what it needs when it runs."""

import json
import os
import shlex
import signal
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from dogbreeds.addresses import place
from dogbreeds.errors import UserError, one_line_errors
from dogbreeds.files import check_absent, check_parent
from dogbreeds.hub import HubId
from dogbreeds.run_folder import DEFAULT_RUN, RunFolder
from dogbreeds.serving.publish import publish_model, publish_space, publish_static

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dogbreeds.answers import Answer
    from dogbreeds.serving.library import Engine
    from dogbreeds.serving.prediction import Prediction
    from dogbreeds.serving.rows import Summary


def main() -> None:
    """Run the command that the arguments name; the process ends with its exit status."""
    arguments = sys.argv[1:]
    if arguments[:2] == ["index", "merge"]:  # a command of its own: its flags are others
        arguments[:2] = ["index-merge"]
    with one_line_errors():
        commands = (
            predict,
            index,
            index_merge,
            similar,
            calibrate,
            add_breed,
            evaluate,
            compare,
            reproduce,
            benchmark,
            robustness,
            table,
            probe,
            layers,
            study,
            doctor,
            export,
            publish,
            mcp,
            breeds,
        )
        status: int | None = tyro.extras.subcommand_cli_from_dict(
            {command.__name__.replace("_", "-"): command for command in commands},
            args=arguments,
            prog="python -m dogbreeds",
            description="Tell a dog's breed from a photo.",
            config=(OmitSubcommandPrefixes, OmitArgPrefixes),  # publish model --repo-id, not command:model
        )
    sys.exit(status or 0)


def predict(
    photos: Positional[Annotated[tuple[str, ...], arg(metavar="PHOTO [PHOTO ...]")]],
    top_k: int = 5,
    only_breeds: tuple[str, ...] = (),
    one_dog: bool = False,
    json: bool = False,
    run_dir: Path = DEFAULT_RUN,
) -> int:
    """Name the breed of the dog on each photo, or of each dog, or of the dog in a short video.

    The exit status is 1 if a file could not be read; the others are still answered.

    Args:
        photos: Image files, or videos (MP4, MOV, WebM, AVI and the like) of at most 60 seconds and 200 MB.
        top_k: How many breeds to name.
        only_breeds: The breeds that come into question, two or more; by default all.
        one_dog: All files show the same dog: give one answer from all of them.
        json: Print one JSON object a line.
        run_dir: The run folder that answers, or USER/NAME[@REVISION] of one on the Hugging Face Hub.
    """
    if not photos:
        raise UserError("no photo is named: python -m dogbreeds predict PHOTO [PHOTO ...]")
    if top_k < 1:
        raise UserError(f"--top-k {top_k}: must be 1 or more")
    from dogbreeds.answers import NO_ANSWER
    from dogbreeds.images import BadImage
    from dogbreeds.serving.one_dog import predict_files
    from dogbreeds.serving.predictor import Predictor

    predictor = Predictor(RunFolder.open(run_dir).only(only_breeds))
    num_failed = 0
    started = time.perf_counter()
    for paths, found in predict_files(predictor, photos, top_k=top_k, one_dog=one_dog):
        seconds = time.perf_counter() - started
        is_bad = isinstance(found, BadImage)
        num_failed += is_bad
        if json:
            named = {"path": paths[0]} if len(paths) == 1 else {"paths": paths}
            values = NO_ANSWER if isinstance(found, BadImage) else found.to_dict()
            _dump({**named, **values, "seconds": seconds, "error": str(found) if is_bad else None})
        elif isinstance(found, BadImage):
            print(f"{paths[0]}: {found}", file=sys.stderr)
        else:
            for name, answer in _answers_by_name(paths, found):
                print(f"{name}: {_sentence(answer, predictor.run)}")
        started = time.perf_counter()
    return 1 if num_failed else 0


def index(
    photos: Positional[str],
    output: str,
    top_k: int = 3,
    only_breeds: tuple[str, ...] = (),
    embeddings: bool = False,
    write_tags: bool = False,
    retry_unreadable: bool = False,
    shard: str | None = None,
    engine: Literal["cores", "ray"] = "cores",
    ray_address: str | None = None,
    run_dir: Path = DEFAULT_RUN,
) -> int:
    """Name the breed on every photo of a folder and its sub-folders, in a table with one row for each file.

    The same command continues it, if it was interrupted or photos were added; what that needs is kept in OUTPUT.rows.
    The exit status is 1 if a file could not be read; the table says why. `index merge` joins the tables of shards.

    Args:
        photos: The photo library: a folder, or a list of paths (.txt, or .csv or .parquet with a column "path"). It and
            the output may be fsspec addresses, such as s3://bucket/photos. Hidden files, XMP sidecars and links to
            folders are left out.
        output: The table to make, .csv or .parquet.
        top_k: How many breeds to name; no more than the run knows are named.
        only_breeds: The breeds that come into question, two or more; by default all.
        embeddings: Add a column with what the network found in each photo (float16), for `similar`; in Parquet only.
        write_tags: Write the breed of each confident answer, or the breed group where only that is sure, beside the
            photo for photo libraries, such as Dog|terrier|Norfolk terrier in photo.jpg.xmp.
        retry_unreadable: Where a table is continued, try again the files that could not be read. Those that are gone
            from the folder lose their row.
        shard: Do a part only, such as 3/64, and name its table after it; which photo is in which part depends on its
            path alone.
        engine: What classifies the photos: the cores of this machine, or Ray Data.
        ray_address: The Ray cluster to use, such as auto; by default Ray is started on this machine.
        run_dir: The run folder that answers, or USER/NAME[@REVISION] of one on the Hugging Face Hub.
    """
    if top_k < 1:
        raise UserError(f"--top-k {top_k}: must be 1 or more")
    if ray_address and engine != "ray":
        raise UserError(f"--ray-address {ray_address!r}: give --engine ray too")
    from dogbreeds.photo_paths import Shard
    from dogbreeds.serving.library import index_library
    from dogbreeds.serving.shards import shard_table

    part = Shard.parse(shard) if shard else None
    summary = index_library(
        run_dir,
        photos,
        output,
        top_k=top_k,
        only_breeds=only_breeds,
        embeddings=embeddings,
        write_tags=write_tags,
        retry_unreadable=retry_unreadable,
        shard=part,
        engine=_engine(engine, ray_address),
        progress=sys.stderr.isatty(),
    )
    return _sum_up(summary, os.fspath(shard_table(place(output), part)) if part else output)


def _engine(name: Literal["cores", "ray"], ray_address: str | None) -> "Engine":
    if name == "cores":
        from dogbreeds.serving.library import rows_on_all_cores

        return rows_on_all_cores
    if find_spec("ray") is None:
        raise UserError("--engine ray needs the package Ray: pip install 'ray[data]'")
    from dogbreeds.serving.on_ray import rows_on_ray

    return partial(rows_on_ray, address=ray_address)


def index_merge(photos: Positional[str], output: str) -> int:
    """Join the tables of all shards of `index`, after checking that every photo has a row in them, once.

    What is missing is named. The exit status is that of `index` without shards.

    Args:
        photos: The folder or list that the shards were given.
        output: The table to make, .csv or .parquet, as the shards were given it.
    """
    from dogbreeds.serving.shards import merge

    return _sum_up(merge(photos, output), output)


def similar(
    photos: Positional[Annotated[tuple[str, ...], arg(metavar="PHOTO [PHOTO ...]")]],
    index: str,
    top_k: int = 10,
    json: bool = False,
    run_dir: Path = DEFAULT_RUN,
) -> int:
    """Find the photos of a table that are most like each of these: a lost dog, or the same photo twice.

    The exit status is 1 if a photo could not be read; the others are still answered.

    Args:
        photos: Image files.
        index: A table that `index --embeddings` made. What makes the search fast is kept in INDEX.faiss.
        top_k: How many photos to name.
        json: Print one JSON object a line.
        run_dir: The run folder that the table was made with, or USER/NAME[@REVISION] of one on the Hugging Face Hub.
    """
    if not photos:
        raise UserError("no photo is named: python -m dogbreeds similar PHOTO [PHOTO ...] --index TABLE")
    if top_k < 1:
        raise UserError(f"--top-k {top_k}: must be 1 or more")
    if find_spec("faiss") is None or find_spec("pyarrow") is None:
        raise UserError("similar needs the packages FAISS and pyarrow: pip install faiss-cpu pyarrow")
    from dogbreeds.images import BadImage
    from dogbreeds.photos import read_photo
    from dogbreeds.serving.predictor import Predictor
    from dogbreeds.serving.similar import SimilarPhotos

    run = RunFolder.open(run_dir)
    library = SimilarPhotos(place(index), run, progress=sys.stderr.isatty())
    predictor = Predictor(run)
    num_failed = 0
    for path in photos:
        features = read_photo(path, predictor.features)
        if isinstance(features, BadImage):
            num_failed += 1
            if json:
                _dump({"path": path, "similar": [], "error": str(features)})
            else:
                print(f"{path}: {features}", file=sys.stderr)
            continue
        (found,) = library.nearest(features, top_k)
        if json:
            _dump({"path": path, "similar": [vars(each) for each in found], "error": None})
        else:
            print("\n".join([f"{path}:", *(f"  {each.similarity:.3f}  {each.path}" for each in found)]))
    return 1 if num_failed else 0


def calibrate(
    run: Positional[Path],
    data: Path,
    other_photos: Path | None = None,
    other_dogs: Path | None = None,
    looks: FlagCreatePairsOff[bool] = False,
    one_look: FlagCreatePairsOff[bool] = False,
    json: bool = False,
) -> None:
    """Fit how sure a run's answers are on your own photos, and which are no answers; no breed is learned from them.

    Three in five of the photos fit it, chosen by their content. The others check it, and what is printed is theirs.

    Args:
        run: A local run folder; its run.json and card are changed.
        data: Photos of breeds that the run knows, one sub-folder a breed, or a list (.csv or .parquet with the columns
            "path" and "label"), and none that it was trained on.
        other_photos: A folder or a list of photos without a dog, cats above all. Without, there is no dog probe.
        other_dogs: A folder or a list of photos of dogs of other breeds. Without, no answer is unknown_breed.
        looks: Look closer, up to twice, where a first look at a photo is not sure. A run that did so goes on.
        one_look: Look at each photo once, also if the run looked closer before.
        json: Print one JSON object.
    """
    if looks and one_look:
        raise UserError("--looks and --one-look exclude each other: give one of them")
    from dogbreeds.serving.calibrate import calibrate as calibrate_run
    from dogbreeds.serving.calibrate import in_words

    figures = calibrate_run(
        run,
        data,
        other_photos=other_photos,
        other_dogs=other_dogs,
        looks=False if one_look else looks or None,
        progress=sys.stderr.isatty(),
    )
    if json:
        _dump(dict(figures))
    else:
        print(in_words(figures))


def add_breed(name: Positional[str], photos: Positional[Path], output: Path, run_dir: Path = DEFAULT_RUN) -> None:
    """Add a breed to a run from five to twenty photos of it, in seconds and without training.

    What is printed is how many of the photos are recognised by the others, and which breeds lose answers to it. A photo
    on which no dog is seen, or that can't be read, is named and left out.

    Args:
        name: Of the breed.
        photos: A folder of photos of it.
        output: The run folder to make, which answers as any other; it has no weights for PyTorch.
        run_dir: The run to add it to, or USER/NAME[@REVISION] of one on the Hugging Face Hub.
    """
    if missing := [package for package in ("onnx", "pyarrow") if find_spec(package) is None]:
        raise UserError(f"add-breed needs the package {missing[0]}: pip install onnx pyarrow")
    from dogbreeds.serving.add_breed import add_breed as add_to_run

    print(add_to_run(name, photos, run_dir, output, progress=sys.stderr.isatty()))


def evaluate(
    data: str,
    run_dir: Path = DEFAULT_RUN,
    split: Literal["train", "validation", "test"] | None = None,
    output: str | None = None,
    json: bool = False,
) -> int:
    """Classify a labelled set and print how good the answers are and what they cost.

    The exit status is 1 if a photo could not be read; it is named and not in the figures.

    Args:
        data: A folder of Parquet files, a folder with one sub-folder a breed, Stanford's extracted archives, a Hub
            data set, an fsspec address of a folder with one sub-folder a breed, or a list of such paths (.txt, or
            .csv or .parquet with a column "path" and perhaps one "label").
        run_dir: The run folder to evaluate, or USER/NAME[@REVISION] of one on the Hugging Face Hub.
        split: The split to use; one that the data does not bring is cut as in training. By default test, else
            validation, else all there is.
        output: A folder to make, here or at an fsspec address, with all results: figures (JSON), each breed and both
            confusion matrices (CSV), and the probabilities of every photo (Parquet).
        json: Print one JSON object.
    """
    folder = place(output) if output else None
    check_absent(folder)
    _check_are_there({"--data": data})
    from dogbreeds.research.evaluate import evaluate as evaluate_run
    from dogbreeds.research.evaluate import photos_of
    from dogbreeds.serving.predictor import Predictor

    predictor = Predictor(run_dir)
    result = evaluate_run(predictor, photos_of(predictor, data, split), progress=sys.stderr.isatty())
    for photo in result.unreadable:
        print(f"left out {photo.id}: {photo.reason}", file=sys.stderr)
    for remark in result.remarks:
        print(f"note: {remark}", file=sys.stderr)
    if folder:
        result.save(folder)
    if json:
        _dump(result.to_dict())
    else:
        print(result)
    return 1 if result.unreadable else 0


def compare(
    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN RUN [RUN ...]")]],
    output: Path,
    split: Literal["train", "validation", "test"] | None = None,
    data: str | None = None,
    photos: str | None = None,
    without_photos: bool = False,
    common: bool = False,
) -> None:
    """Compare runs on the same photos: a page to look at, the same as Markdown and LaTeX, its figures as JSON and CSV.

    Args:
        runs: Run folders, two or more. Runs that differ in nothing but the seed are one recipe, and the report gives
            its mean and standard deviation.
        output: The folder to make; its comparison.html is one self-contained page, and its charts are there as PNG, SVG
            and PDF.
        split: Which of the predictions that the runs hold; by default test where all have it, else validation.
        data: Evaluate the runs on this labelled set, instead of by the predictions that they hold.
        photos: Where the photos of the predictions are, to show some; by default the data that the runs were trained
            on, where it is a folder here.
        without_photos: Show none, for a report that can be published whatever the photos' licence.
        common: Use the photos that all runs were evaluated on, where they were not evaluated on the same ones.
    """
    check_absent(output)
    if without_photos and photos:
        raise UserError("--photos and --without-photos exclude each other: give one of them")
    _check_are_there({"--data": data})
    from dogbreeds.research.compare import compare as compare_runs
    from dogbreeds.research.report import write_report

    comparison = compare_runs(
        runs,
        split=split,
        data=data,
        photos=photos,
        show_photos=not without_photos,
        common=common,
        progress=sys.stderr.isatty(),
    )
    write_report(comparison, output)
    print(f"what differs ({' | '.join(entry.recipe for entry in comparison.main.entries)}):")
    for each in comparison.what_differs:
        print(f"  {each}")
    print(f"  {comparison.tuning_budget}")
    print(output / "comparison.html")


def reproduce(report: Positional[Path]) -> int:
    """Make a report again, and name each value that comes out otherwise; times are left out.

    Photos are answered, and features computed, as they were for the report. Nothing is trained: a study, and a
    comparison without --data, is computed from the predictions that its runs keep. Ends with status 1 if a value is
    not as it was.

    Args:
        report: The folder that `compare`, `benchmark`, `robustness`, `layers`, `probe` or `study` has made. Paths in it
            are meant from the folder in which it was made.
    """
    from dogbreeds.research.reproduce import reproduce as reproduce_report

    found = reproduce_report(report, progress=sys.stderr.isatty())
    if found.is_of_predictions:
        print("no run was trained again: the figures are computed from the predictions that the runs keep")
    for change in (*found.surroundings, *found.changes):
        print(change)
    print(f"{found.num_same:,} values are as they were, {len(found.changes):,} are not")
    return int(bool(found.changes))


def benchmark(
    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]],
    output: Path,
    data: str | None = None,
    everyday: str | None = None,
    other_photos: Path | None = None,
    other_dogs: Path | None = None,
    manifest: Path | None = None,
    dataset_id: str | None = None,
) -> int:
    """Judge runs by one protocol: a table with a row for each run, 95 % intervals, and a hash of the photos.

    A run is judged on the photos that its training held out (test, else validation), and on the folders that are
    named. Of these folders, photos that one of the runs was trained or calibrated on are left out for all. The exit
    status is 1 if a photo could not be read; it is named and not in the figures.

    Args:
        runs: Run folders, or USER/NAME[@REVISION] of some on the Hugging Face Hub.
        output: The folder to make: benchmark.md, .html and .tex, benchmark.csv with all figures, photos.csv, and for
            each run its answers, model-index.yaml for its card, and .eval_results/ for the Hub. Or one file with the
            table, .html, .csv, .md or .tex.
        data: Where the data is that the runs were trained on; by default where it was then.
        everyday: Photos of breeds that the runs know, one sub-folder a breed.
        other_photos: A folder of photos without a dog, cats above all.
        other_dogs: A folder of photos of dogs of other breeds.
        manifest: photos.csv of an earlier benchmark: its photos are used, and no others, those held out and those of
            these folders.
        dataset_id: The id on the Hub of the data that the runs were trained on, for model-index.yaml and
            .eval_results/; by default as their training recorded it.
    """
    if not runs:
        raise UserError("no run is named: python -m dogbreeds benchmark RUN [RUN ...] --output FOLDER")
    if dataset_id and not HubId.parse(dataset_id):
        raise UserError(f"--dataset-id {dataset_id!r}: must be USER/NAME")
    from dogbreeds.research.document import ENDINGS

    check_absent(output)
    if is_table := output.suffix.lower() in ENDINGS:
        check_parent(output)
    _check_are_there({"--data": data, "--everyday": everyday}, other_photos, other_dogs)
    from dogbreeds.research.benchmark import benchmark as judge
    from dogbreeds.research.benchmark_report import in_words, write_benchmark, write_benchmark_table

    found = judge(
        runs,
        data=data,
        everyday=everyday,
        other_photos=other_photos,
        other_dogs=other_dogs,
        manifest=manifest,
        progress=sys.stderr.isatty(),
    )
    for photo in found.unreadable:
        print(f"left out {photo.id}: {photo.reason}", file=sys.stderr)
    if is_table:
        write_benchmark_table(found, output)
    else:
        write_benchmark(found, output, dataset_id)
    print(in_words(found), end="")
    return 1 if any(judged.num_unreadable for row in found.rows for judged in row.judged.values()) else 0


def table(runs: Path = Path("runs"), data: str | None = None, output: Path | None = None) -> None:
    """Compare the earlier systems' published figures with ours, and print the commands that train the missing runs.

    Args:
        runs: The folder of the run folders.
        data: What the commands train on; by default the data set that training uses.
        output: A file to make, .html, .csv, .md or .tex, instead of printing the table.
    """
    from dogbreeds.research.document import check_format
    from dogbreeds.research.tables import earlier_systems

    check_absent(output)
    check_format(output)
    if runs != Path("runs") and not runs.is_dir():
        raise UserError(f"--runs {str(runs)!r}: there is no such folder")
    filled = earlier_systems(runs, data)
    if output:
        filled.write(output)
        print(output)
    else:
        print(filled, end="")


def robustness(
    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]],
    data: str,
    output: Path | None = None,
    num_photos: int = 200,
    severities: tuple[int, ...] = (1, 3, 5),
) -> int:
    """Say how runs answer photos that are made worse: noise, blur, light, JPEG, small dogs, covered ones and others.

    All runs get the same photos, each as it is and with every kind of damage in several strengths. With --output, the
    same command continues one that was stopped. The exit status is 1 if a photo could not be read; it is named and not
    in the figures.

    Args:
        runs: Run folders of the same breeds, or USER/NAME[@REVISION] of some on the Hugging Face Hub.
        data: Labelled photos, one sub-folder a breed; best some that no run was trained or calibrated on.
        output: A folder to make: robustness.md, .html and .tex, the picture as PNG, SVG and PDF, robustness.csv, and
            answers.csv with each answer.
        num_photos: How many of the photos are drawn.
        severities: The strengths, from 1 to 5.
    """
    if not runs:
        raise UserError("no run is named: python -m dogbreeds robustness RUN [RUN ...] --data FOLDER")

    check_absent(output)
    check_parent(output)
    _check_are_there({"--data": data})
    from dogbreeds.research.robustness import robustness as answer_worse_photos

    unfinished = output and output.with_name(output.name + ".answers")
    progress = sys.stderr.isatty()
    found = answer_worse_photos(
        runs, data, num_photos=num_photos, severities=severities, unfinished=unfinished, progress=progress
    )
    for photo in found.unreadable:
        print(f"left out {photo.id}: {photo.reason}", file=sys.stderr)
    if output and unfinished:
        found.save(output)
        unfinished.unlink()
    print(found, end="")
    return int(bool(found.unreadable))


def probe(
    models: Positional[Annotated[tuple[str, ...], arg(metavar="MODEL [MODEL ...]")]],
    data: str,
    everyday: str | None = None,
    output: Path | None = None,
    features: Path | None = None,
    image_size: int | None = None,
    split_seed: int = 0,
) -> None:
    """Say what frozen backbones are worth, without training them: a table of top-1 with 95 % intervals.

    The features of each photo are computed once. A linear classifier, nearest neighbours and the nearest class mean
    are fitted on those of the training photos, chosen on those of the validation photos, and tested on others.

    Args:
        models: Backbones: Hub ids, names of timm or of this project, folders, or run folders.
        data: As of training, which splits it in the same way: a folder of Parquet files, a folder with one sub-folder a
            breed, Stanford's extracted archives, or a Hub data set.
        everyday: Other photos of breeds of the data, one sub-folder a breed: the same classifiers are tested on them
            too. Those that look like one of the data are left out.
        output: A folder to make: probe.md, probe.tex, and probe.csv with all figures; or one file, .html, .csv, .md or
            .tex. The table is printed too.
        features: A Parquet file that keeps the features. What it has already is not computed again, so the same command
            continues one that was interrupted, and other splits take less time.
        image_size: Height and width of what all backbones see, pixels; by default each sees what it was trained to see.
        split_seed: Decides which photos are held out.
    """
    if not models:
        raise UserError("no model is named: python -m dogbreeds probe MODEL [MODEL ...] --data FOLDER")
    if features and features.suffix.lower() != ".parquet":
        raise UserError(f"--features {str(features)!r}: the name must end in .parquet")
    from dogbreeds.research.document import check_format

    check_absent(output)
    if output and output.suffix:
        check_format(output)
    check_parent(output)
    check_parent(features, option="--features")
    _check_are_there({"--data": data, "--everyday": everyday})
    _check_models_are_there(models)
    from dogbreeds.research.probe import probe as probe_backbones  # imports torch

    found = probe_backbones(
        models, data, everyday=everyday, image_size=image_size, split_seed=split_seed, features=features
    )
    if output:
        found.write(output)
    print(found, end="")


def layers(
    models: Positional[Annotated[tuple[str, ...], arg(metavar="MODEL [MODEL ...]")]],
    photos: Path,
    output: Path | None = None,
    num_photos: int = 512,
    image_size: int = 224,
) -> int:
    """Say which layers of networks are alike (CKA), and how far the attention heads of a ViT look.

    All networks see the same photos, whose labels are not needed. The exit status is 1 if a photo could not be read.

    Args:
        models: Networks: Hub ids, names of timm or of this project, folders, or run folders.
        photos: A folder of photos and sub-folders, or a list of paths.
        output: A folder to make: layers.md, .html and .tex, the pictures as PNG, SVG and PDF, and layers.csv and
            attention.csv with all figures.
        num_photos: How many of the photos are drawn, in batches of 32.
        image_size: Height and width of what the networks see, pixels.
    """
    if not models:
        raise UserError("no model is named: python -m dogbreeds layers MODEL [MODEL ...] --photos FOLDER")
    check_absent(output)
    check_parent(output)
    from dogbreeds.photos import photo_files

    photo_files(photos)
    _check_models_are_there(models)
    from dogbreeds.research.layers import compare_layers  # imports torch

    found = compare_layers(models, photos, num_photos=num_photos, image_size=image_size, progress=sys.stderr.isatty())
    for file, why in found.unreadable:
        print(f"left out {file}: {why}", file=sys.stderr)
    if output:
        found.save(output)
    print(found, end="")
    return int(bool(found.unreadable))


def study(plan: Positional[Path], shard: str | None = None, report_only: bool = False) -> int:
    """Train models in several ways with more and more photos, and report curves with intervals.

    What is trained is kept, so the same command continues a study that was stopped, and several processes may run it at
    once. When all is trained, the report is written. The exit status is 1 if a run was given up, its loss being no
    number any more.

    Args:
        plan: A TOML file: models, ways to train them, images per breed, seeds (dogbreeds/docs/comparing.md).
        shard: Train a part of the runs only, such as 1/4.
        report_only: Train nothing, and report what is trained already.
    """
    from dogbreeds.photo_paths import Shard
    from dogbreeds.research.study_plan import read_plan

    checked, part = read_plan(plan, trains=not report_only), Shard.parse(shard) if shard else None
    from dogbreeds.research.study import run_study  # imports torch, which a mistake need not wait for

    left, diverged = ([], []) if report_only else run_study(checked, part)
    if left:
        print(f"{len(left)} cells are left to other shards or processes; the last one of these writes the report")
        return 1 if diverged else 0
    from dogbreeds.research.study_report import read_study, write_study_report

    command = shlex.join(["python", "-m", "dogbreeds", "study", str(plan), "--report-only"])
    print(write_study_report(read_study(checked), command))
    return 1 if diverged else 0


def doctor(data: str, output: Path | None = None, image_size: int = 224, labels_by: str | None = None) -> int:
    """List what is wrong with a data set, with examples.

    Photos that can't be read, are cut short, in another format than their name says, films, too small or with bad EXIF;
    the same photo, or nearly the same, twice, in two splits or in two breeds; breeds with few photos. The exit status
    is 1 if anything is wrong.

    Args:
        data: A folder of Parquet files, a folder with one sub-folder a breed, Stanford's extracted archives, or a Hub
            data set.
        output: A JSON file to make that names every photo.
        image_size: Sides of what the model sees, pixels: smaller photos are listed.
        labels_by: Also list photos whose label is probably wrong, and photos that are cut out of others, by the
            features of this pre-trained model: a Hub id, a name of timm or of this project, or a folder. It must not
            have been trained on these labels.
    """
    from dogbreeds.training.doctor import examine

    check_absent(output)
    check_parent(output)
    if image_size < 1:
        raise UserError(f"--image-size {image_size}: must be 1 or more")
    diagnosis = examine(data, image_size=image_size, labels_by=labels_by, progress=sys.stderr.isatty())
    if output:
        diagnosis.save(output)
    print(diagnosis)
    return 1 if diagnosis.findings else 0


def export(
    run: Positional[Path],
    output: Path,
    precision: Literal["auto", "int8", "float32"] = "auto",
    data: str | None = None,
) -> None:
    """Copy what serving needs of a run, by default with 8-bit arithmetic where that is worth it.

    8-bit arithmetic makes a model less than a third of the size, and on most CPUs faster. The copy is measured and
    calibrated on the run's validation photos; where its top-1 is more than 0.3 points below the run's own, or an
    answer takes no less time, it is float32.

    Args:
        run: A run folder.
        output: The run folder to make.
        precision: Of the arithmetic. int8 insists, and fails where it costs too much; float32 copies the model.
        data: Where the photos that the run was trained on are; by default where they were then.
    """
    from dogbreeds.research.serving_copy import export_serving_copy

    print(export_serving_copy(run, output, precision=precision, data=data, progress=sys.stderr.isatty()))


def publish(
    address: Annotated[Any, subcommand("model", constructor=publish_model)]
    | Annotated[Any, subcommand("space", constructor=publish_space)]
    | Annotated[Any, subcommand("static", constructor=publish_static)],
) -> None:
    """Push a run to the Hugging Face Hub: as a model, or as a Space that answers with it, there or in the browser.

    Args:
        address: What to push.
    """
    print(address)  # of what that command has pushed by now


def mcp(photos: Path | None = None, only_breeds: tuple[str, ...] = (), run_dir: Path = DEFAULT_RUN) -> None:
    """Answer an assistant that speaks the Model Context Protocol (MCP), which starts this command.

    It asks over standard input, and gets the answers over standard output. Nothing leaves this machine from here.

    Args:
        photos: The folder whose photos and videos may be asked about; by default every file that you can read.
        only_breeds: The breeds that come into question, two or more; by default all.
        run_dir: The run folder that answers, or USER/NAME[@REVISION] of one on the Hugging Face Hub.
    """
    if photos is not None and not photos.is_dir():
        raise UserError(f"--photos {photos}: there is no such folder")
    if find_spec("mcp") is None:
        raise UserError("mcp needs the package mcp: pip install 'mcp>=2'")
    from dogbreeds.serving.mcp_server import mcp_server
    from dogbreeds.serving.predictor import Predictor

    server = mcp_server(Predictor(RunFolder.open(run_dir).only(only_breeds)), photos)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio puts its own in place of no other
    server.run()


def breeds() -> None:
    """List the 120 breeds of Stanford Dogs: WordNet id, name, breed group."""
    from dogbreeds.breeds import all_breeds, breed_groups

    for breed in all_breeds():
        print(f"{breed.wordnet_id}  {breed.name} ({breed_groups()[breed.group].name})")


def _check_are_there(labelled: "Mapping[str, str | None]", *others: Path | None) -> None:
    """Refuse photos that are not there before what takes seconds to import.

    Args:
        labelled: By option the data that it names, if any.
        others: Folders of other photos.
    """
    from dogbreeds.photos import photo_files
    from dogbreeds.training.datasets.sources import check_is_there

    for option, data in labelled.items():
        if data is not None:
            check_is_there(data, option=option)
    for folder in others:
        if folder is not None:
            photo_files(folder)


def _check_models_are_there(models: "Sequence[str]") -> None:
    """Refuse models that are neither here nor on the Hub before torch is imported."""
    from dogbreeds.training.models.location import ask_hub, check_model_is_there

    for model in models:
        check_model_is_there(model)
        ask_hub(model)


def _answers_by_name(paths: "Sequence[str]", prediction: "Prediction") -> list[tuple[str, "Answer"]]:
    """The answer to some files, or where there are several dogs the answer to each, with what it is an answer to."""
    name = paths[0] if len(paths) == 1 else f"one dog in {len(paths)} files"
    if num := len(prediction.dogs):
        return [
            (f"{name}, dog {number} of {num}{_decided(dog.prediction) or ' from the left'}", dog.prediction)
            for number, dog in enumerate(prediction.dogs, 1)
        ]
    return [(name + _decided(prediction, of_one=len(paths) == 1), prediction)]


def _decided(prediction: "Prediction", *, of_one: bool = True) -> str:
    """By which photo or frame, of one file or of several; empty where there was but one."""
    shot = prediction.decided_by
    if shot is None:
        return ""
    return f" (decided at {shot.seconds:.1f} s)" if of_one and shot.seconds is not None else f" (decided by {shot})"


def _sentence(answer: "Answer", run: RunFolder) -> str:
    from dogbreeds.breeds import breed_groups

    breeds = f"{len(run.labels)} breeds I know" if run.listed is None else f"{len(run.listed)} breeds listed"
    named = ", ".join(f"{candidate.breed} {candidate.probability:.0%}" for candidate in answer.breeds)
    if answer.verdict == "confident":
        return named
    if answer.verdict == "unknown_breed":
        names = ", ".join(candidate.breed for candidate in answer.candidates)
        return f"a dog, but none of the {breeds}, or a mix; it resembles: {names}"
    if answer.verdict == "not_a_dog":
        return f"does not look like one of my {len(run.labels)} breeds (nearest: {named})"
    return f"a {breed_groups()[answer.group].name}, not sure which: {named}" if answer.group else f"not sure: {named}"


def _sum_up(summary: "Summary", table: str) -> int:
    """Print how many files got each verdict, and how many breeds are probably right; the exit status."""
    from dogbreeds.calibration import NAMING
    from dogbreeds.serving.rows import UNREADABLE

    counts, num_right = summary.counts, summary.num_probably_right
    parts = [", ".join(f"{count:,} {what}" for what, count in counts.most_common()) or "none"]
    if num_named := sum(counts[verdict] for verdict in NAMING):
        known = "how many breeds are right, this run does not tell (calibrate it again)"
        if summary.is_of_listed:
            known = "how many breeds are right is not told with --only-breeds"
        parts.append(known if num_right is None else f"about {num_right:,} of the {num_named:,} breeds named are right")
    print(f"{counts.total():,} files: {'; '.join(parts)}; the table is {table}")
    return 1 if counts[UNREADABLE] else 0


def _dump(record: dict[str, object]) -> None:
    print(json.dumps(record))
