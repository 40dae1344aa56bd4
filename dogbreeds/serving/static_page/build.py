"""From a run folder to the files of the page without a server.

The scripts in site/ hold no figure of a model and none of the package's constants: they read model.json.
"""

import gzip
import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

from dogbreeds import looks
from dogbreeds.answers import NUM_RESEMBLED
from dogbreeds.breeds import breed_groups, group_of
from dogbreeds.calibration import MAX_CANDIDATES
from dogbreeds.dog_probe import DogProbe
from dogbreeds.errors import UserError
from dogbreeds.images import MAX_PIXELS
from dogbreeds.preprocessing import Preprocessing
from dogbreeds.run_folder import CARD, RunFolder
from dogbreeds.serving import dog_detector, heat_map
from dogbreeds.serving.model_set import TOP_K
from dogbreeds.serving.page import breeds_tab, cards
from dogbreeds.serving.page.head import PICTURES
from dogbreeds.serving.page.texts import ENGLISH, FRENCH, Texts
from dogbreeds.serving.predictor import Predictor
from dogbreeds.serving.static_page.packed_weights import LOCATION, pack_weights
from dogbreeds.serving.static_page.runtime import Runtime

_HERE = Path(__file__).parent
_PAGE = PICTURES.parent
SHARED = ("page.css", "choose_dog.js", "icon.svg")
"""Files of the page on a server that this one has too."""
EXAMPLES = ("white_dog.webp", "shaggy_dog.webp", "cat.webp")
"""Of the drawings that the page has."""
MARK = "service_worker.js"
"""A file by which such a folder is known."""


def build(run: RunFolder, runtime: Runtime, folder: Path) -> None:
    """Write the files of the page.

    Args:
        run: What answers.
        runtime: ONNX Runtime for browsers.
        folder: An empty folder.

    Raises:
        UserError: The run's model can't be used, or sees photos in a way that the page does not know.
    """
    model = _model(run)
    packed = pack_weights(run.onnx.read_bytes())
    network = _large(folder, "model", ".onnx", packed.network)
    weights = _large(folder, "weights", ".bin", packed.weights) | {"location": LOCATION, "rows": packed.rows}
    program = _large(folder, "onnxruntime", ".bin", gzip.compress(runtime.wasm, 6, mtime=0))
    detector = _large(folder, "detector", ".onnx", dog_detector.model())
    files = {"network": network, "weights": weights, "runtime": program, "detector": detector}
    _write_json(folder / "model.json", {**model, **files})
    _write_json(folder / "words.json", {texts.language: _words(run, texts) for texts in (ENGLISH, FRENCH)})
    (folder / "ort.wasm.bundle.min.mjs").write_bytes(runtime.script)
    shutil.copytree(_HERE / "site", folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for file in (*(_PAGE / name for name in SHARED), *(PICTURES / name for name in EXAMPLES)):
        shutil.copyfile(file, folder / file.name)
    shutil.copyfile(dog_detector.MODEL.with_name("LICENSE"), folder / "detector-licence.txt")
    for name in ("index.html", "manifest.webmanifest", CARD):
        text = Template((_HERE / "templates" / name).read_text(encoding="utf-8"))
        filled = text.substitute(title=ENGLISH.title, description=ENGLISH.static_page["description"], model=run.name)
        (folder / name).write_text(filled, encoding="utf-8")
    _write_site(folder, large=[file["path"] for file in files.values()])


def _large(folder: Path, name: str, suffix: str, content: bytes) -> dict[str, Any]:
    """Write a file with its hash in its name, and tell what kept_files.js checks."""
    digest = hashlib.sha256(content).hexdigest()
    path = f"{name}-{digest[:12]}{suffix}"
    (folder / path).write_bytes(content)
    return {"path": path, "bytes": len(content), "sha256": digest}


def _model(run: RunFolder) -> dict[str, Any]:
    """What model.json says, besides the files."""
    outputs = Predictor(run).output_names
    calibration = asdict(run.calibration)
    del calibration["fitted_on"]
    if run.calibration.dog_probe is not None:
        probe = DogProbe.from_text(run.calibration.dog_probe)
        calibration["dog_probe"] = {"weights": probe.weights.tolist(), "bias": probe.bias}
    return {
        "name": run.name,
        "labels": list(run.labels),
        "groups": [group_of(label) for label in run.labels],
        "view": _view(run.preprocessing),
        "photo": {"at_least": run.preprocessing.decoded_side, "max_pixels": MAX_PIXELS},
        "has_heat_map": "heat_map" in outputs,
        "looks": {
            "max_proportion": looks.MAX_PROPORTION,
            "spreads": looks.SPREADS,
            "min_side": looks.MIN_SIDE,
            "weight": looks.WEIGHT,
            "places_per_pixel": looks.PLACES_PER_PIXEL,
            "small_dog": looks.SMALL_DOG,
        },
        "dog_detector": {
            "num_pixels": dog_detector.NUM_PIXELS,
            "strides": dog_detector.STRIDES,
            "mean": dog_detector.MEAN.tolist(),
            "std": dog_detector.STD.tolist(),
            "min_score": dog_detector.MIN_SCORE,
            "sure_score": dog_detector.SURE_SCORE,
            "max_dogs": dog_detector.MAX_DOGS,
        },
        "logit_scale": run.record.logit_scale,
        "calibration": calibration,
        "answers": {"top_k": TOP_K, "max_candidates": MAX_CANDIDATES, "num_resembled": NUM_RESEMBLED},
        "heat_map": {"colours": heat_map.COLOURS.tolist(), "opacity": heat_map.OPACITY, "side": cards.HEAT_MAP_SIZE[0]},
        "cards": {"signs": cards.SIGNS, "min_shown": cards.MIN_SHOWN},
    }


def _view(preprocessing: Preprocessing) -> dict[str, Any]:
    steps = [name for name in ("grayscale", "equalize", "blur", "zca") if getattr(preprocessing, name)]
    if steps:
        raise UserError(f"this run sees photos after the step {steps[0]}, which a static page can't do: name another")
    scale, shift = preprocessing.scale_and_shift()
    return {
        "size": preprocessing.size,
        "fit": preprocessing.fit,
        "shortest_edge": preprocessing.shortest_edge or preprocessing.size,
        "scale": scale.tolist(),
        "shift": shift.tolist(),
    }


def _words(run: RunFolder, texts: Texts) -> dict[str, Any]:
    """What the page says in one language."""
    own = texts.static_page
    return {
        **texts.sentences,
        **own,
        "too_large": own["too_large"].format(MAX_PIXELS // 1_000_000),
        "lead": texts.lead.format(len(run.labels)),
        "rates_in_short": cards.rates_in_short(run, texts),
        "rates": cards.rates(run, run.name, texts),
        "breeds_html": breeds_tab.layout(run.labels, texts),
        "names": {label: texts.name(label) for label in run.labels},
        "group_names": {group: texts.group(group) for group in breed_groups()},
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _write_site(folder: Path, large: list[str]) -> None:
    """Tell the service worker which files there are."""
    small = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.iterdir())
        if file.name not in {*large, MARK, CARD, "index.html"}
    }
    small["./"] = hashlib.sha256((folder / "index.html").read_bytes()).hexdigest()
    (folder / "site.js").write_text(f"const SITE = {json.dumps({'small': small, 'large': large})};\n")
