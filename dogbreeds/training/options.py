"""Every option of a training run, in groups; each part of training takes the groups that it needs.

An option has the same name everywhere: the field here, the flag (`learning_rate` is `--learning-rate`), the key in
run.json and in a TOML file for `--config`. A field's docstring is its help on the command line and its line in
docs/training.md.
"""

import dataclasses
import difflib
import functools
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import to_jsonable_python

from dogbreeds.errors import UserError
from dogbreeds.photo_paths import valid_text
from dogbreeds.preprocessing import Fit, Preprocessing

OptimizerName = Literal["adamw", "adam", "sgd", "rmsprop", "nadam", "adadelta", "adagrad", "adamax", "ftrl"]
ActivationName = Literal["relu", "tanh", "elu", "selu", "gelu", "silu", "leaky_relu", "sigmoid"]
LossName = Literal["cross-entropy", "kl-divergence", "poisson", "hinge", "squared-hinge"]
AdaptName = Annotated[
    Literal["full", "classifier", "lp-ft", "bitfit", "lora", "vpt"],
    BeforeValidator(lambda name: "full" if name == "all" else name),  # as older versions called it
]
AugmentationName = Literal["mild", "strong", "turns", "ninefold"]
TrackerName = Literal["tensorboard", "trackio", "wandb"]

CONFIG = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


def _listed(entries: tuple[str, ...]) -> tuple[str, ...]:
    """The names in entries that may each hold several, separated by commas."""
    names = tuple(name.strip() for entry in entries for name in entry.split(",") if name.strip())
    if len(names) == 1:
        raise ValueError("two or more")
    return names


def _is_a_name(folder: Path) -> Path:
    if folder.name in ("", ".."):
        raise ValueError("the name of a folder to make")
    if valid_text(str(folder)) != str(folder):
        raise ValueError("a name in UTF-8, without which ONNX Runtime opens nothing in it")
    return folder


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ModelOptions:
    """Which network, and what of it is trained."""

    model: str
    """A Hub id, a local folder with the same files, a name of timm, or a name from
    dogbreeds/training/models/registry.py."""
    from_scratch: bool = False
    """Build the architecture of --model with random weights."""
    freeze_backbone: bool = False
    """The same as --adapt classifier, and --no-freeze-backbone, where a preset or a file has that, as --adapt full."""
    adapt: AdaptName = "full"
    """Which weights are trained. full: all. classifier: the classifier's; the pre-trained backbone is frozen. lp-ft:
    first the classifier's, for --classifier-epochs at --head-learning-rate, then all at --learning-rate (Kumar et al.
    2022, https://arxiv.org/abs/2202.10054). bitfit: the classifier's and all biases (Ben Zaken et al. 2022,
    https://arxiv.org/abs/2106.10199). lora: the classifier's and products of two small matrices, added to the weights
    of queries and values or, without attention, of pointwise convolutions (Hu et al. 2022,
    https://arxiv.org/abs/2106.09685). vpt: the classifier's and 50 prompts, tokens that a ViT of transformers sees
    beside the patches (VPT-Shallow, Jia et al. 2022, https://arxiv.org/abs/2203.12119). The last three want a
    --learning-rate of about 1e-3."""
    keep_known_breeds: bool = False
    """Initialise the classifier's rows of those breeds that the checkpoint's own classifier knows by name from its
    rows. A checkpoint trained on ImageNet knows all 120, from whole photos; that helps most with everyday photos, and
    is no fair start beside a checkpoint without a classifier."""
    average_with_start: Share = 0.0
    """Share of the start in the weights that are judged and saved at the end; the best epoch's have the rest (WiSE-FT,
    Wortsman et al. 2022, https://arxiv.org/abs/2109.01903). For a start that knows these breeds: a run on them,
    --keep-known-breeds, or --adapt lp-ft, where it is what the classifier's epochs give."""
    dropout: Share = 0.0
    """Share of the features dropped before the classifier in training."""
    drop_path: Share = 0.0
    """Stochastic depth: for this share of the photos the branch of the last residual block is left out in training, of
    those before in proportion to their depth (Huang et al. 2016, https://arxiv.org/abs/1603.09382)."""
    activation: ActivationName | None = None
    """Of plain CNNs built from nothing; by default the architecture's own, as for the next three."""
    batch_norm: Literal["on", "off"] | None = None
    """Of plain CNNs: normalise after each convolution."""
    pooling: Literal["flatten", "average"] | None = None
    """Of plain CNNs: what the dense layers get, all places or their mean."""
    conv_dropout: Share | None = None
    """Of plain CNNs: share of the values dropped after each pooling."""

    def __post_init__(self) -> None:
        """Let `freeze_backbone`, which was there before `adapt` and is in every run.json, say the same as `adapt`."""
        if self.freeze_backbone and self.adapt == "full":
            object.__setattr__(self, "adapt", "classifier")
        elif self.adapt == "classifier":
            object.__setattr__(self, "freeze_backbone", True)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class DataOptions:
    """Which photos, how they are split, and where their pixels are kept."""

    data: str = "amaye15/stanford-dogs"
    """A Hub dataset; or a folder: of Parquet files, with one sub-folder a breed (or train/ and test/ that hold them),
    or with Stanford's extracted archives (Images/ and lists/)."""
    breeds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B,..."), AfterValidator(_listed)] = ()
    """Use only these breeds, separated by commas. All by default."""
    images_per_breed: Annotated[int, Field(ge=3)] | None = None
    """Use at most this many photos of each breed, over all splits, drawn with --split-seed."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training photos held out for validation where the data has no validation split."""
    test_fraction: Share = 0.1
    """Share of the photos held out for test where the data has no test split; 0 for none."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides which photos are held out; nothing else does."""
    near_duplicates: Literal["together", "ignore"] = "together"
    """Keep photos that look the same on one side of the split, or split as if each were a photo of its own, as runs of
    older versions did. Where the data brings its splits, photos that look like one held out are not trained on."""
    faults: Path | None = None
    """A report of `doctor`: photos that it calls the same, alike, or cut out of another one are on one side of the
    split too."""
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Train on this share of the training photos of each breed, drawn with --seed. A larger share holds a smaller one;
    validation and test photos stay as they are."""
    train_images_per_breed: Count | None = None
    """Train on at most this many photos of each breed, likewise."""
    other_photos: Path | None = None
    """A folder or list of photos without a dog, cats above all. The "is there a dog?" of the run's answers is fitted on
    them and on the validation photos; nothing else learns from them."""
    other_dogs: Path | None = None
    """A folder or list of photos of dogs of other breeds, or of mixed breed. With them the run also answers "a dog, but
    of none of my breeds"; nothing else learns from them."""
    cache: Literal["on", "off"] = "on"
    """Decode every photo once, into a pixel cache on disk that later runs use again; off: decode in every epoch."""
    cache_dir: Path | None = None
    """Where pixel caches are kept; by default $XDG_CACHE_HOME/dogbreeds or ~/.cache/dogbreeds."""
    max_cache_gigabytes: Positive = 20.0
    """Size limit of all pixel caches together; the least recently used are removed first."""
    num_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that decode photos with --cache off; by default the machine's cores, 8 at most, shared among the
    training processes."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class PreprocessingOptions:
    """What the model sees of a photo."""

    image_size: Annotated[int, Field(ge=32)] = 224
    """Height and width of the model's input, pixels."""
    fit: Fit = "crop"
    """How a photo becomes square: its centre is cut out (crop), or it is squashed."""
    grayscale: bool = False
    """Remove the colour of photos, in training and in serving: three equal channels (ITU-R BT.601)."""
    equalize: bool = False
    """Equalise the histogram of each photo's brightness (luma), in training and in serving."""
    whitening: Literal["none", "blur", "zca"] = "none"
    """Remove what neighbouring pixels have in common, in training and in serving. zca: by a convolution fitted on the
    training photos. blur: what an earlier system called whitening, a Gaussian blur of 2 pixels of 224."""

    def build(self) -> Preprocessing:
        """The preprocessing without what the checkpoint (mean, std) and the training photos (zca) add to it."""
        blur = self.whitening == "blur"
        return Preprocessing(self.image_size, self.fit, grayscale=self.grayscale, equalize=self.equalize, blur=blur)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class AugmentOptions:
    """How training photos are changed at random."""

    augment: Literal["auto", "on", "off"] = "auto"
    """Random views in training. auto: on, unless the backbone is frozen, whose features are then computed only once,
    and no --augmentation is named."""
    augmentation: AugmentationName | None = None
    """A recipe of an earlier system for random views, without random crops, flipped half of the time; it sets the
    options below. mild: rotation 20, zoom 0.15, contrast 0.1. strong: rotation 30, shift 0.1, shear 0.01, zoom 0.1,
    brightness 0.5. turns: turns 0 180 270, vertical flip 0.5. ninefold: rotation 20, 9 fixed views."""
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.35
    """Smallest share of the photo's area that a random resized crop keeps; 1 for no crop."""
    flip: Probability = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: Probability = 0.0
    """Probability of a vertical flip."""
    turns: Annotated[tuple[Literal[0, 90, 180, 270], ...], Field(min_length=1)] = (0,)
    """One of these rotations is drawn, degrees counter-clockwise."""
    rotation: NotNegative = 0.0
    """Largest rotation either way, degrees."""
    zoom: Share = 0.0
    """Largest change of scale either way; 0.15 for 0.85 to 1.15."""
    shift: Share = 0.0
    """Largest shift either way, share of the size."""
    shear: NotNegative = 0.0
    """Largest shear either way, degrees."""
    brightness: Probability = 0.0
    """Largest change of brightness either way; 0.5 for 0.5 to 1.5."""
    contrast: Probability = 0.0
    """Largest change of contrast either way; 0.1 for 0.9 to 1.1."""
    rand_augment: Annotated[int, Field(ge=0, le=30)] = 0
    """Magnitude of RandAugment: two changes of 14 kinds (shear, shift, rotation, colours, sharpness, ...) are drawn for
    each view, after the others; 0 for none. 9 is the authors' for ResNet-50 (Cubuk et al. 2020,
    https://arxiv.org/abs/1909.13719)."""
    fixed_views: Annotated[int, Field(ge=0)] = 0
    """Draw this many views of each photo once, of which each epoch shows the next; 0 for new ones in every epoch. N
    times as many --epochs show as much as one epoch of a set that is N times as large."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class OptimOptions:
    """How the weights are learned."""

    epochs: Count = 5
    """Passes over the training photos."""
    classifier_epochs: Count = 5
    """With --adapt lp-ft, passes of the classifier alone, on features that are computed once, before the --epochs."""
    batch_size: Count = 32
    """Photos in a batch, for each process."""
    gradient_accumulation_steps: Count = 1
    """Batches summed up before each step of the optimiser."""
    optimizer: OptimizerName = "adamw"
    """The optimiser. SGD has momentum 0.9, RMSprop Keras's constants, ftrl (with --schedule constant
    --warmup-fraction 0) the rate alone, the others PyTorch's. Adadelta wants a rate of about 1."""
    loss: LossName = "cross-entropy"
    """What is minimised; see dogbreeds/training/earlier/losses.py. The validation loss is cross-entropy always."""
    teacher: Path | None = None
    """A run folder on the same breeds, with its model.safetensors, whose calibrated probabilities are learned instead
    of the labels: it is asked about every training view (Beyer et al. 2022, https://arxiv.org/abs/2106.05237)."""
    mixup: NotNegative = 0.0
    """Mix each photo of a batch with another one, and their targets alike, by a share drawn from Beta(MIXUP, MIXUP); 0
    for none (Zhang et al. 2018, https://arxiv.org/abs/1710.09412)."""
    cutmix: NotNegative = 0.0
    """Likewise, but a rectangle of each photo, of a share drawn from Beta(CUTMIX, CUTMIX), is another photo's (Yun et
    al. 2019, https://arxiv.org/abs/1905.04899). With --mixup, one of the two is drawn for each batch."""
    learning_rate: Positive = 5e-5
    """Largest learning rate of the backbone."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The backbone's learning rate is multiplied by this once for each layer above, as in BEiT (Bao et al. 2022,
    https://arxiv.org/abs/2106.08254): the first layers change least."""
    head_learning_rate: Positive = 1e-3
    """Largest learning rate of the classifier, which starts from nothing unless known breeds are kept."""
    weight_decay: NotNegative | None = None
    """Decoupled weight decay of AdamW, by default 0.05; with the other optimisers a penalty on the squared weights, by
    default none. Biases and normalisation layers are spared."""
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    """Learning rate after the warm-up. plateau: times 0.5 after 3 epochs without a better validation loss."""
    warmup_fraction: Share = 0.1
    """Share of all steps over which the learning rate rises from 0."""
    label_smoothing: Share = 0.0
    """Share of the target's probability that is spread over all breeds."""
    max_grad_norm: NotNegative = 1.0
    """Gradients with a larger norm are scaled down to it; 0 for no limit."""
    ema_decay: Share = 0.0
    """Decay for each step of an exponential moving average of the weights, which then is what is validated and saved;
    0 for none. 0.999 averages about the last 1,000 steps."""
    early_stopping_patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many epochs without a better validation; 0 for never."""

    @property
    def decay(self) -> float:
        """The weight decay: `weight_decay`, or the optimiser's default."""
        if self.weight_decay is None:
            return 0.05 if self.optimizer == "adamw" else 0.0
        return self.weight_decay


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class RunOptions:
    """Where the run goes, its seed, and how the machine is used."""

    output_dir: Annotated[Path, AfterValidator(_is_a_name)]
    """The run folder to make."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides all that is random in training: the order of the photos, their views and the new weights."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Arithmetic of the forward and backward pass; by default what `accelerate launch` says (no, unless configured);
    started without it, bf16 on a GPU that has it, else no."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the network (torch.compile), which takes a minute and a C++ compiler. auto: on a GPU, in runs long enough
    for it to pay."""
    measure_peak: bool = False
    """Time a large matrix product first, and report how much of that speed training reaches."""
    checkpoint_minutes: NotNegative = 10.0
    """How often what --resume needs is saved within an epoch, besides after each: the most that a crash can cost. 0:
    only after each epoch, and when the process gets SIGTERM."""
    tracker: tuple[TrackerName, ...] = ()
    """What shows the run while it trains, its loss and rate by step and its figures by epoch: tensorboard (in
    OUTPUT_DIR/logs), trackio (on this machine), wandb (Weights & Biases), or several of them."""
    overwrite: bool = False
    """Replace a run that exists already, once the new one is complete."""
    resume: bool = False
    """Continue an unfinished run after its last checkpoint."""


AUGMENTATIONS: dict[AugmentationName, dict[str, Any]] = {
    "mild": {"rotation": 20.0, "zoom": 0.15, "contrast": 0.1},
    "strong": {"rotation": 30.0, "shift": 0.1, "shear": 0.01, "zoom": 0.1, "brightness": 0.5},
    "turns": {"turns": (0, 180, 270), "vertical_flip": 0.5},
    "ninefold": {"rotation": 20.0, "fixed_views": 9},
}
"""The recipes of the project's earlier systems, as the options in which each differs from a horizontal flip alone."""

NEUTRAL_OPTIONS = {
    "output_dir", "overwrite", "resume", "num_workers", "tracker", "measure_peak", "cache", "cache_dir",
    "max_cache_gigabytes", "checkpoint_minutes",
}  # fmt: skip
"""Options that do not change the result of a run."""

FREE_OPTIONS = NEUTRAL_OPTIONS | {"other_photos", "other_dogs"}
"""Options that do not change what is trained, which may be continued with others. The two that are not neutral decide,
when all is trained, which photos are none of a dog, or of another breed."""

WITHOUT_VIEWS: dict[str, Any] = {
    "crop_scale": 1.0, "flip": 0.0, "vertical_flip": 0.0, "turns": (0,), "rotation": 0.0, "zoom": 0.0, "shift": 0.0,
    "shear": 0.0, "brightness": 0.0, "contrast": 0.0, "rand_augment": 0, "fixed_views": 0,
}  # fmt: skip
"""The options of random views, each with the value with which it has no effect."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train one model: the groups of options, checked on construction.

    `TrainConfig.from_options(output_dir="runs/mine", model="vit_tiny", epochs=1)` makes one of single options.
    """

    model: ModelOptions
    data: DataOptions
    preprocessing: PreprocessingOptions
    augment: AugmentOptions
    optim: OptimOptions
    run: RunOptions

    def __post_init__(self) -> None:
        """Check what concerns several options.

        Raises:
            UserError: Two options exclude each other.
        """
        if self.data.validation_fraction + self.data.test_fraction >= 1:
            raise UserError(
                f"--validation-fraction {self.data.validation_fraction} --test-fraction {self.data.test_fraction}: "
                "must be small enough to leave photos to train"
            )
        if self.data.train_fraction < 1 and self.data.train_images_per_breed is not None:
            raise UserError("--train-fraction and --train-images-per-breed exclude each other: leave one of them out")
        if self.augment.augmentation and self.augment.augment == "off":
            raise UserError(
                f"--augment off leaves nothing of --augmentation {self.augment.augmentation}: leave one of them out"
            )
        if self.model.from_scratch and self.model.freeze_backbone:
            raise UserError("--from-scratch has no backbone worth freezing: add --no-freeze-backbone")
        if self.model.from_scratch and self.model.keep_known_breeds:
            raise UserError(
                "--from-scratch leaves no classifier whose breeds could be kept: leave --keep-known-breeds out"
            )
        if self.model.from_scratch and self.model.average_with_start:
            raise UserError("--from-scratch starts from nothing worth averaging: leave --average-with-start out")
        if self.model.from_scratch and self.model.adapt != "full":
            raise UserError(f"--from-scratch has no weights to adapt: leave --adapt {self.model.adapt} out")

    @classmethod
    def from_options(cls, **options: Any) -> "TrainConfig":
        """A config of single options, named as on the command line; the others have their defaults.

        Args:
            options: `output_dir` and `model` at least. `augmentation` sets the options of its recipe.

        Raises:
            UserError: An option is unknown or out of its range, or two exclude each other.
        """
        _check_known(options)
        return resolve(options)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`; options that this version does not know are left out.

        Raises:
            UserError: An option is out of its range, or two exclude each other.
        """
        return cls(**{group: group_of(kind, values) for group, kind in GROUPS.items()})

    def to_dict(self) -> dict[str, Any]:
        """All options by their names, as plain values for JSON, with the weight decay that applies."""
        return {**to_jsonable_python(self.options()), "weight_decay": self.optim.decay}

    def replace(self, **changes: Any) -> "TrainConfig":
        """The same with other values of single options; `augmentation` sets the options of its recipe.

        Raises:
            UserError: As `from_options`.
        """
        _check_known(changes)
        return self.from_dict(_overlaid(self.options(), changes))

    def check_options_apply(self) -> None:
        """Check that every option that is given has an effect; before training, not when a run is opened.

        Raises:
            UserError: An option of random views is given and there will be none; one of the backbone's training, which
                is frozen; one of the labels, which a teacher replaces; a tracker's package is missing; or FTRL's rate
                would change.
        """
        optim = self.optim
        if optim.optimizer == "ftrl" and not (optim.schedule == "constant" and optim.warmup_fraction == 0):
            raise UserError(
                "--optimizer ftrl computes the weights from the present rate in each step, so the rate must not "
                "change: add --schedule constant --warmup-fraction 0"
            )
        for name in self.run.tracker:
            if not list(importlib.metadata.distributions(name=name)):
                raise UserError(f"{_flag('tracker', name)} needs the package {name}: pip install {name}")
        for option, why in self._without_effect():
            if (given := self.options()[option]) != OPTIONS[option].default:
                raise UserError(f"{_flag(option, given)}: {why}")
        if optim.teacher is not None:
            self._check_teacher_applies()
        for option, nothing in ({} if self.random_views else WITHOUT_VIEWS).items():
            given = getattr(self.augment, option)
            if given not in (nothing, OPTIONS[option].default):
                why = "--augment off" if self.augment.augment == "off" else "a frozen backbone"
                raise UserError(f"{_flag(option, given)}: {why} leaves nothing of it; add --augment on")

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        """The options that would have no effect, hardly one, or none that helps, each with why and what to do."""
        if self.model.adapt != "lp-ft":
            yield "classifier_epochs", "add --adapt lp-ft, or leave it out"
        if self.model.adapt == "vpt":
            why = "prompts are before all layers, so it would hardly train them; leave it out, or --adapt vpt"
            yield "layer_decay", why
            yield "average_with_start", "prompts start at random, not worth averaging; leave it out, or --adapt vpt"
        if self.model.freeze_backbone:
            yield "layer_decay", "a frozen backbone has no rates; add --no-freeze-backbone"
            yield "drop_path", "a frozen backbone is not trained; add --no-freeze-backbone"
        if self.trains_on_features:
            yield "cutmix", "the features of a frozen backbone can't be cut; add --augment on"
        if self.data.cache == "off":
            yield "cache_dir", "--cache off keeps nothing there; leave one of them out"

    def _check_teacher_applies(self) -> None:
        flag = _flag("teacher", self.optim.teacher)
        if self.model.freeze_backbone and not self.random_views:
            raise UserError(
                f"{flag}: it can't answer the features of a frozen backbone; add --no-freeze-backbone or --augment on"
            )
        if self.optim.label_smoothing:
            smoothing = _flag("label_smoothing", self.optim.label_smoothing)
            raise UserError(f"{smoothing}: a teacher's answers replace the labels; leave one of them out")
        if self.preprocessing.whitening == "zca":
            raise UserError(f"{flag}: --whitening zca is fitted for each run, so no teacher sees it; leave it out")

    @property
    def random_views(self) -> bool:
        """Whether the model is trained on random views."""
        if self.augment.augment == "auto":
            return not self.model.freeze_backbone or self.augment.augmentation is not None
        return self.augment.augment == "on"

    @property
    def trains_on_features(self) -> bool:
        """Whether the classifier alone is trained, on features that a frozen backbone computes once."""
        return self.model.freeze_backbone and not self.random_views

    def options(self) -> dict[str, Any]:
        """All options by their names, as they were given."""
        return {name: value for group in GROUPS for name, value in vars(getattr(self, group)).items()}


Group = TypeVar("Group", ModelOptions, DataOptions, PreprocessingOptions, AugmentOptions, OptimOptions, RunOptions)

GROUPS: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
"""The groups of options, by their names in `TrainConfig`."""


@dataclasses.dataclass(frozen=True)
class Option:
    """What is known of one option."""

    name: str
    group: str
    type: Any
    """With its range, as annotated."""
    default: Any
    """`dataclasses.MISSING` where there is none."""
    description: str
    """In one line."""
    schema: dict[str, Any]
    """JSON schema of its value, from pydantic."""

    @property
    def must_be(self) -> str:
        """The type and range in words, as for a flag."""
        choices = [choice for kind in self.schema.get("anyOf", [self.schema]) for choice in kind.get("enum", ())]
        return f"one of {', '.join(choices)}" if choices else _in_words(self.schema)

    @property
    def type_in_words(self) -> str:
        """The type alone, in the words of a TOML file."""
        ranges = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
        kinds = self.schema.get("anyOf", [self.schema])
        return _in_words({"anyOf": [{key: kind[key] for key in kind if key not in ranges} for kind in kinds]})


def _options() -> Iterator[Option]:
    for group, kind in GROUPS.items():
        schemas = TypeAdapter(kind).json_schema()["properties"]
        for field in dataclasses.fields(kind):
            schema = schemas[field.name]
            description = " ".join(schema["description"].split())
            yield Option(field.name, group, field.type, field.default, description, schema)


def _in_words(schema: Mapping[str, Any]) -> str:
    """What a value must be, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_in_words(kind) for kind in schema["anyOf"] if kind.get("type") != "null")
    if "enum" in schema:
        return " or ".join(json.dumps(choice) for choice in schema["enum"])
    if schema["type"] == "array":
        return f"a list, each {_in_words(schema['items'])}"
    at_least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    at_most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    low = f"from {at_least}" if at_least is not None else f"above {above}" if above is not None else ""
    high = f"at most {at_most}" if at_most is not None else f"below {below:,}" if below is not None else ""
    if low and high:
        return f"{low} to {high.removeprefix('at most ')}" if at_least is not None else f"{low} and {high}"
    if low or high:
        return f"{at_least} or more" if at_least is not None else low or high
    plain = {"boolean": "true or false", "integer": "a whole number", "number": "a number"}
    return plain.get(schema["type"], "a text in quotes")


def nearest_option(name: str) -> str:
    """A hint for who mistyped an option's name."""
    near = difflib.get_close_matches(name, OPTIONS, n=1)
    return f"did you mean {near[0]}?" if near else "--help lists all options"


def resolve(*layers: Mapping[str, Any]) -> TrainConfig:
    """Combine options from several places, such as a preset, a file and the command line.

    Args:
        layers: Options that were given, by their names; later ones take precedence. A layer that names an
            `augmentation` also takes precedence over the random views of an earlier layer's recipe.

    Raises:
        UserError: An option is out of its range, excludes another, or contradicts the recipe named beside it.
    """
    return TrainConfig.from_dict(functools.reduce(_overlaid, layers, {}))


def _overlaid(values: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Options with those of a layer, which takes precedence."""
    if values.get("augmentation") and "augmentation" in layer:
        values = {name: value for name, value in values.items() if name not in WITHOUT_VIEWS}
    return {**values, **_with_recipe(_with_adapt(layer, values))}


def _check_known(names: Iterable[str]) -> None:
    for name in names:
        if name not in OPTIONS:
            raise UserError(f"unknown option {name!r}: {nearest_option(name)}")


def _with_adapt(given: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The options with both of `adapt` and `freeze_backbone`, where one is among them.

    Args:
        given: Of one layer.
        before: Those of earlier layers, over which this one takes precedence.
    """
    adapt, frozen = given.get("adapt"), given.get("freeze_backbone")
    if adapt is None and frozen is None:
        return dict(given)
    if adapt == "all":  # of an older version, in which the other option decided
        frozen = before.get("freeze_backbone", False) if frozen is None else frozen
        adapt = "classifier" if frozen else "full"
    elif adapt is None:
        trained = before.get("adapt", "full")
        adapt = "classifier" if frozen else "full" if trained == "classifier" else trained
    elif frozen is not None and frozen != (adapt == "classifier"):
        flag, trains = ("--freeze-backbone", "only the classifier") if frozen else ("--no-freeze-backbone", "all")
        raise UserError(f"{_flag('adapt', adapt)}: {flag} trains {trains}; leave one of them out")
    return {**given, "adapt": adapt, "freeze_backbone": adapt == "classifier" if frozen is None else frozen}


def _with_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options with those of the recipe that `augmentation` names among them."""
    name = given.get("augmentation")
    if name is None or name not in AUGMENTATIONS:  # an unknown name is refused with the other values
        return dict(given)
    recipe = {"crop_scale": 1.0, "flip": 0.5, **AUGMENTATIONS[name]}
    for option, value in recipe.items():
        if option in given and to_jsonable_python(given[option]) != to_jsonable_python(value):
            raise UserError(
                f"{_flag(option, given[option])}: --augmentation {name} sets it to {_as_typed(value)}; leave one out"
            )
    return {**given, **recipe}


def group_of(kind: type[Group], values: Mapping[str, Any]) -> Group:
    """A group of its options among these; the others have their defaults.

    Raises:
        UserError: One is out of its range, or missing.
    """
    mine = {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}
    try:
        return kind(**mine)
    except ValidationError as error:
        problem = error.errors()[0]
        option = OPTIONS[str(problem["loc"][0])]
        if problem["type"] == "missing":
            raise UserError(f"--{option.name.replace('_', '-')} is missing: name one") from None
        must = str(problem["ctx"]["error"]) if problem["type"] == "value_error" else option.must_be
        raise UserError(f"{_flag(option.name, mine[option.name])}: must be {must}") from None


def _flag(option: str, value: Any) -> str:
    return f"--{option.replace('_', '-')} {_as_typed(value)}"


def _as_typed(value: Any) -> str:
    return " ".join(map(str, value)) if value and isinstance(value, tuple | list) else str(value)


OPTIONS: dict[str, Option] = {option.name: option for option in _options()}
"""Every option by its name."""


def recorded_options(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run or a study as they were written, with those that an older version did not have.

    These have their defaults, but for the split: the seed decided it, and it took no notice of near duplicates. `adapt`
    has the name that it has now.
    """
    defaults = {name: option.default for name, option in OPTIONS.items() if option.default is not dataclasses.MISSING}
    then = {"split_seed": recorded.get("seed"), "near_duplicates": "ignore"}
    options = {**to_jsonable_python(defaults), **then, **recorded}
    if options["adapt"] in ("all", "full"):  # which said nothing where the backbone was frozen
        options["adapt"] = "classifier" if options["freeze_backbone"] else "full"
    return options
