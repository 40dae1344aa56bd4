"""One run from its options to its folder; ViT and CNN are trained the same way.

run = set_up(config)    data, model, optimiser
fit(run)                epochs, each validated and saved for --resume
finish(run)             best weights: predictions, calibration, ONNX, run folder
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from dogbreeds.calibration import MIN_OTHERS
from dogbreeds.errors import UserError, first_line
from dogbreeds.files import partial_path
from dogbreeds.images import BadImage, open_image
from dogbreeds.photos import photo_files, read_photos
from dogbreeds.run_folder import STATE, check_output
from dogbreeds.training.base_run import find_base
from dogbreeds.training.context import Context
from dogbreeds.training.datasets.splits import Splits, load_data
from dogbreeds.training.inputs import Features, Inputs
from dogbreeds.training.learner import Learner
from dogbreeds.training.linear_probing import train_classifier
from dogbreeds.training.locks import locked
from dogbreeds.training.loop import Loop, Row
from dogbreeds.training.models.adapt import merge_parts
from dogbreeds.training.models.build import build_model, check_start, model_preprocessing
from dogbreeds.training.models.checkpoint import open_checkpoint
from dogbreeds.training.models.inspection import flops_per_photo
from dogbreeds.training.options import OPTIONS, TrainConfig
from dogbreeds.training.profiling import measured_peak, time_in_words
from dogbreeds.training.resume import begin_run
from dogbreeds.training.run import Run
from dogbreeds.training.save_run import Logits, judge, save_run
from dogbreeds.training.saved_states import SavedStates
from dogbreeds.training.teacher import Teacher
from dogbreeds.training.teacher_run import open_teacher


def train(config: TrainConfig, *, tuning_trials: int = 0) -> Path:
    """Train a model and write its run folder.

    Args:
        config: All options.
        tuning_trials: How many trials of a search chose them, for `RunRecord.tuning_trials`.

    Returns:
        The run folder.

    Raises:
        UserError: The user can mend it: data, model, options or the run folder; the loss is not a number any more; or
            another process is making this run.
        SystemExit: The process got SIGTERM; the state is saved for --resume.
    """
    with locked(config.run.output_dir):
        run = dataclasses.replace(set_up(config), tuning_trials=tuning_trials)
        fit(run)
        finish(run)
    return config.run.output_dir


def set_up(
    config: TrainConfig,
    *,
    splits: Splits | None = None,
    features: Features | None = None,
    saves: bool = True,
    quiet: bool = False,
) -> Run:
    """Read the data, make model, optimiser and loop, and restore the state of a run that is resumed.

    With `--adapt lp-ft` the classifier is trained here.

    Args:
        config: All options.
        splits: The data, if it has been read already.
        features: Of a frozen backbone, shared with other runs on the same data.
        saves: Whether the run makes a folder; without, only its losses remain, as in tuning.
        quiet: Print nothing.

    Raises:
        UserError: As `train`.
    """
    config.check_options_apply()
    output_dir, features = config.run.output_dir, features or Features()
    for folder in (config.data.other_photos, config.data.other_dogs):
        if folder is not None:
            _check_enough(folder)
    if saves:
        check_output(output_dir, overwrite=config.run.overwrite, resume=config.run.resume)
    teacher_run, checkpoint = open_teacher(config), open_checkpoint(config.model.model)
    check_start(config.model, checkpoint)
    context = Context(config.run, config.optim, partial_path(output_dir) / "logs", quiet=quiet)

    if splits is None:
        with context.timed("data"), context.accelerator.main_process_first():
            splits = load_data(config, progress=context.is_main)
    for line in (*splits.in_words(), *_notes(config)):
        context.say(line)

    base = find_base(config, context, splits)
    model = build_model(config.model, config.preprocessing.image_size, splits.names, checkpoint)
    preprocessing = model_preprocessing(config.model, config.preprocessing, checkpoint)
    teacher = Teacher(teacher_run, preprocessing, splits.names, context) if teacher_run else None

    partial = begin_run(config, context, splits) if saves else partial_path(output_dir)
    saved_states = SavedStates(partial / STATE) if saves else None
    flops = flops_per_photo(merge_parts(copy.deepcopy(model)), config.preprocessing.image_size)
    peak = measured_peak(context) if config.run.measure_peak else None

    before, learning = None, config
    if config.model.adapt == "lp-ft":
        folder = saved_states.folder if saved_states else None
        before = train_classifier(config, context, splits, model, preprocessing, features, folder)
        # From here on the classifier is as good as the rest; the run's own features are computed for each batch
        learning, features = config.replace(head_learning_rate=config.optim.learning_rate), Features()
    inputs = Inputs(config, context, splits, model, preprocessing, features)
    learner = Learner(learning, context, model, inputs, teacher)
    loop = Loop(config, context, inputs, learner, saved_states, before)
    return Run(config, context, splits, base, inputs, features, learner, loop, saved_states, partial, flops, peak)


def _notes(config: TrainConfig) -> Iterator[str]:
    """What may not be meant by the learning rate."""
    rate, default, adapt = config.optim.learning_rate, OPTIONS["learning_rate"].default, config.model.adapt
    if config.model.freeze_backbone and rate != default:
        yield "note: --learning-rate does nothing with a frozen backbone; --head-learning-rate is what trains"
    if adapt in ("bitfit", "lora", "vpt") and rate == default:
        yield f"note: --adapt {adapt} trains at {rate:g}, the default for all weights; try --learning-rate 1e-3"


def _check_enough(folder: Path) -> None:
    """Refuse now what thresholds can't be fitted on when all is trained: the photos that are whole are too few."""
    sizes = read_photos(photo_files(folder), lambda path: open_image(path, at_least=1).size)
    num = sum(not isinstance(each, BadImage) for each in sizes)
    if num < MIN_OTHERS:
        raise UserError(
            f"{str(folder)!r} holds {num} photos that can be read: thresholds are fitted on at least {MIN_OTHERS}"
        )


def fit(run: Run, after_epoch: Callable[[Row], None] | None = None) -> None:
    """Train the epochs that are left, and say what they took; see `Loop.fit`."""
    try:
        run.loop.fit(after_epoch)
    except KeyboardInterrupt:  # perhaps in the middle of a step, whose weights are none to save
        if run.saved_states:
            run.context.say("\nstopped: --resume continues after the last checkpoint")
        raise
    for line in time_in_words(run.time_record()):
        run.context.say(line)


def finish(run: Run, save: Callable[[Run, Logits], None] = save_run) -> None:
    """Judge the best weights, and complete the run folder.

    Args:
        run: Trained.
        save: `save_run`, which also exports the model, or `save_answers`.

    Raises:
        UserError: The best weights are damaged, photos can't be read any more, or the folder can't be written.
    """
    assert run.saved_states, "a run that saves nothing has no best weights"
    best = run.saved_states.load_best() if run.context.is_main else None
    [best] = broadcast_object_list([best])  # other machines need not see the run folder
    model = run.learner.load_best(best)
    logits = judge(model, run.inputs, run.context)
    if run.context.is_main:
        try:
            save(run, logits)
        except (OSError, SafetensorError) as error:  # the state is removed last
            reason = getattr(error, "strerror", None) or first_line(error)
            raise UserError(
                f"can't write the run to {str(run.partial)!r} ({reason}): mend that and continue with --resume; what "
                "was trained is kept"
            ) from None
    run.context.accelerator.wait_for_everyone()
