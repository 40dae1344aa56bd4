"""What the trackers of --tracker are told: TensorBoard by its files, trackio and Weights & Biases by stand-ins."""

import subprocess
import sys

import accelerate.tracking
import pytest
from accelerate.utils import LoggerType
from conftest import ROOT, tiny_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dogbreeds.errors import UserError
from dogbreeds.files import partial_path
from dogbreeds.training import loop
from dogbreeds.training.config_file import read_config_file
from dogbreeds.training.options import TrainConfig
from dogbreeds.training.train import fit, set_up, train

STAND_IN = """
runs = []

class Run:
    def __init__(self, **about):
        self.about, self.told, self.is_finished = about, [], False
        runs.append(self)

    def log(self, values, step):
        assert not self.is_finished
        self.told.append((step, values))

    def finish(self):
        self.is_finished = True

def init(**about):
    if about["name"].startswith("refused"):
        raise ValueError("api_key not configured\\nlog in first")
    return Run(**about)
"""


def fitted(config):
    run = set_up(config)
    fit(run)
    return run


def scalars(folder):
    """By name, the steps and values in TensorBoard's files."""
    events = EventAccumulator(str(folder / "logs" / "dogbreeds"))
    events.Reload()
    return {name: [(each.step, each.value) for each in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """trackio and wandb as modules that remember what they are told."""
    found = {}
    for name in ("trackio", "wandb"):
        (tmp_path / f"{name}.py").write_text(STAND_IN)
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType.TRACKIO, LoggerType.WANDB])
    for name in ("trackio", "wandb"):
        found[name] = __import__(name)
        assert found[name].runs == []
    yield found
    for name in found:
        del sys.modules[name]


@pytest.mark.parametrize(("accumulated", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (4, [1, 1, 1, 1, 2, 2])])
def test_loss_and_rate_are_told_by_step_and_figures_by_epoch(accumulated, steps, photo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    options = {"batch_size": 4, "gradient_accumulation_steps": accumulated, "tracker": ("tensorboard",)}
    run = fitted(tiny_config(photo_folder, tmp_path / "run", **options))
    found, history = scalars(run.partial), run.loop.progress.history
    by_step = steps + [step + steps[-1] for step in steps]
    assert [step for step, _ in found["loss"]] == [step for step, _ in found["learning_rate"]] == by_step
    for epoch, row in enumerate(history):
        losses = [value for _, value in found["loss"][6 * epoch : 6 * epoch + 6]]
        assert sum(losses) / 6 == pytest.approx(row["train_loss"], rel=1e-5)
        assert found["learning_rate"][6 * epoch + 5][1] == pytest.approx(row["learning_rate"])
    for name in set(history[0]) - {"learning_rate"}:
        expected = [((epoch + 1) * steps[-1], pytest.approx(row[name])) for epoch, row in enumerate(history)]
        assert found[name] == expected, name


def test_a_loss_that_is_told_is_the_mean_since_the_one_before(photo_folder, tmp_path, monkeypatch):
    found = {}
    for every in (1, 3):
        monkeypatch.setattr(loop, "LOG_EVERY", every)
        config = tiny_config(photo_folder, tmp_path / str(every), epochs=1, batch_size=4, tracker=("tensorboard",))
        found[every] = dict(scalars(fitted(config).partial)["loss"])
    each = found[1]
    assert found[3] == {1: each[1], 4: pytest.approx((each[2] + each[3] + each[4]) / 3, rel=1e-5)}


def test_a_run_that_is_resumed_goes_on_along_its_steps(photo_folder, tmp_path, monkeypatch):
    """What was told after the last checkpoint is told again, and shown once."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    options = {"batch_size": 4, "tracker": ("tensorboard",)}
    whole = fitted(tiny_config(photo_folder, tmp_path / "whole", **options))
    killed = set_up(tiny_config(photo_folder, tmp_path / "killed", **options))
    step, steps = killed.learner.step, []

    def step_or_die():
        steps.append(1)
        if len(steps) == 10:  # in the second epoch of 6 steps
            raise KeyboardInterrupt
        step()

    killed.learner.step = step_or_die
    with pytest.raises(KeyboardInterrupt):
        fit(killed)
    assert [step for step, _ in scalars(killed.partial)["loss"]] == list(range(1, 10))
    resumed = fitted(tiny_config(photo_folder, tmp_path / "killed", resume=True, **options))
    assert resumed.loop.progress.run_id == killed.loop.progress.run_id != whole.loop.progress.run_id
    found, expected = scalars(resumed.partial), scalars(whole.partial)
    assert found.pop("seconds") and expected.pop("seconds")
    assert found == expected and len(found["loss"]) == 12


def test_trackio_and_wandb_know_the_run_again(stand_ins, photo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 3)
    options = {"epochs": 1, "batch_size": 4, "tracker": ("trackio", "wandb", "wandb")}
    run = fitted(tiny_config(photo_folder, tmp_path / "mine", **options))
    run_id, history = run.loop.progress.run_id, run.loop.progress.history
    fitted(tiny_config(photo_folder, tmp_path / "mine", **{**options, "epochs": 2, "resume": True}))
    for name, module in stand_ins.items():
        first, second = module.runs
        assert first.is_finished and second.is_finished
        assert [step for step, _ in first.told] == [1, 4, 6] and [step for step, _ in second.told] == [7, 10, 12]
        assert set(first.told[0][1]) == {"loss", "learning_rate"}
        assert first.told[-1][1] == {key: value for key, value in history[0].items() if key != "learning_rate"}
        config = first.about.pop("config")
        assert config["batch_size"] == 4 and config["model"] == "vit_nano" and second.about.pop("config")["epochs"] == 2
        known_by = {"project": "dogbreeds", "name": f"mine-{run_id[:8]}", "resume": "allow"}
        assert first.about == second.about == {**known_by, **({"id": run_id} if name == "wandb" else {})}


def test_a_tracker_that_can_not_start_is_one_line_and_trains_nothing(stand_ins, photo_folder, tmp_path):
    run = set_up(tiny_config(photo_folder, tmp_path / "refused", tracker=("wandb",)))
    with pytest.raises(UserError, match=r"--tracker wandb can't be .* \(api_key not configured\): .*--resume") as told:
        fit(run)
    assert "\n" not in str(told.value) and not run.loop.progress.history
    fitted(tiny_config(photo_folder, tmp_path / "refused", resume=True))  # without it


def test_a_tracker_that_is_not_installed_is_one_line_before_any_work(photo_folder, tmp_path, monkeypatch):
    arguments = ["train_vit.py", "--data", str(photo_folder), "--output-dir", str(tmp_path / "run")]
    arguments += ["--tracker", "tensorboard", "wandb"]
    code = (
        "import importlib.metadata, runpy, sys; found = importlib.metadata.distributions\n"
        "importlib.metadata.distributions = lambda **names: [] if names == {'name': 'wandb'} else found(**names)\n"
        f"sys.argv = {arguments}\n"
        "try: runpy.run_path('train_vit.py', run_name='__main__')\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --tracker wandb needs the package wandb: pip install wandb\n"
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("importlib.metadata.distributions", lambda **_: [])
    with pytest.raises(UserError, match="--tracker trackio needs the package trackio: pip install trackio"):
        train(tiny_config(photo_folder, tmp_path / "run", tracker=("trackio",)))
    assert not partial_path(tmp_path / "run").exists()


@pytest.mark.parametrize(("lines", "expected"), [("true", ("tensorboard",)), ("false", ())])
def test_files_of_older_versions_can_be_read(lines, expected, tmp_path):
    (tmp_path / "best.toml").write_text(f"epochs = 3\ntensorboard = {lines}\n")
    values = read_config_file(tmp_path / "best.toml")
    config = TrainConfig.from_options(output_dir=tmp_path, model="vit_nano", **values)
    assert config.run.tracker == expected and config.optim.epochs == 3


def test_unknown_trackers_are_named(tmp_path):
    with pytest.raises(UserError, match='--tracker mlflow: must be a list, each "tensorboard" or "trackio" or "wandb"'):
        tiny_config("data", tmp_path, tracker=("mlflow",))
