"""Shipped runs answer in JavaScript too, with the library that most people use there."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from conftest import make_photo

from dogbreeds.run_folder import PRETRAINED
from dogbreeds.serving.predictor import Predictor

pytestmark = pytest.mark.slow

PACKAGE = "@huggingface/transformers@4.3.2"
SCRIPT = """
import { pipeline, env, RawImage } from '@huggingface/transformers';
env.allowRemoteModels = false;
env.localModelPath = process.argv[2];
const classify = await pipeline('image-classification', process.argv[3]);
const photo = await RawImage.read(process.argv[4]);
console.log(JSON.stringify(await classify(photo, { top_k: 120 })));
"""


@pytest.fixture(scope="module")
def node_project(tmp_path_factory):
    """A folder in which Node finds the library; where it can't be fetched the tests skip, but fail in CI."""
    folder = tmp_path_factory.mktemp("node")
    npm = shutil.which("npm")
    command = [npm or "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
    done = npm and subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if not done or done.returncode:
        why = f"npm can't install {PACKAGE}: {done.stderr if done else 'it is not there'}"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    (folder / "classify.mjs").write_text(SCRIPT)
    return folder


@pytest.mark.parametrize("name", ["mobilenet_v2", "vit_tiny"])
def test_transformers_js_opens_a_shipped_run_as_it_is(node_project, tmp_path, name):
    photo = make_photo(0, 1, (224, 224))  # of the size that the model takes: libraries shrink photos differently
    photo.save(tmp_path / "photo.png")
    command = ["node", "classify.mjs", f"{PRETRAINED}/", name, str(tmp_path / "photo.png")]
    done = subprocess.run(command, cwd=node_project, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-1000:]
    found = {each["label"]: each["score"] for each in json.loads(done.stdout)}
    predictor = Predictor(PRETRAINED / name)
    expected = predictor.run.calibration.probabilities(predictor.logits(predictor.run.preprocessing(photo)[None]))[0]
    probabilities = np.array([found[label] for label in predictor.run.labels])
    assert probabilities.argmax() == expected.argmax()
    # 8-bit sums differ by what is rounded; with another temperature the slope would not be 1.
    assert np.corrcoef(np.log(probabilities), np.log(expected))[0, 1] > 0.99
    assert np.polyfit(np.log(expected), np.log(probabilities), 1)[0] == pytest.approx(1, abs=0.05)
