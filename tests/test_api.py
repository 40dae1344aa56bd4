"""What `from dogbreeds import ...` gives, and that the README's example runs as it stands."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT, make_photo, make_photo_folder

import dogbreeds
from dogbreeds.training.models.registry import ARCHITECTURES


@pytest.mark.slow
def test_the_readmes_example_runs(tmp_path, monkeypatch, capsys):
    """With two of the model's twelve layers: the export of all takes most of the time."""
    shallow = ARCHITECTURES["vit_tiny"](image_size=224)
    shallow.num_hidden_layers = 2
    monkeypatch.setitem(ARCHITECTURES, "vit_tiny", lambda image_size: shallow)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    make_photo_folder(tmp_path / "photos", num_breeds=2)
    make_photo(1, 77).save(tmp_path / "photo.jpg")
    exec(example, {})
    top1, breed = capsys.readouterr().out.splitlines()[-1].split(maxsplit=1)
    assert 0 <= float(top1) <= 1 and re.fullmatch(r"(Chihuahua|Shih-Tzu) 0\.\d+", breed)
    assert (tmp_path / "runs" / "mine" / "run.json").is_file()


def test_importing_the_package_imports_nothing_slow():
    code = "import sys, dogbreeds; print(sorted(name.split('.')[0] for name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not any(f"'{name}'" in loaded for name in ("torch", "numpy", "onnxruntime", "transformers", "gradio"))


def test_every_name_is_there_and_explained():
    for name in dogbreeds.__all__:
        documented = getattr(dogbreeds, name).__doc__
        assert documented and len(documented) > 40, name
        assert name in dogbreeds.__doc__ and name in dir(dogbreeds)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        dogbreeds.nonsense  # noqa: B018
