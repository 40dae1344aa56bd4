"""Every option of a training run, in one frozen dataclass: the command line, run.json and Python share it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dogbreeds.errors import UserError
from dogbreeds.preprocessing import Fit, Preprocessing

OptimizerName = Literal["adamw", "adam", "sgd", "rmsprop", "nadam", "adadelta", "adagrad", "adamax", "ftrl"]
ActivationName = Literal["relu", "tanh", "elu", "selu", "gelu", "silu", "leaky_relu", "sigmoid"]
LossName = Literal["cross-entropy", "kl-divergence", "poisson", "hinge", "squared-hinge"]

AugmentationName = Literal["mild", "strong", "turns", "ninefold"]
AUGMENTATIONS: dict[AugmentationName, dict[str, Any]] = {
    "mild": {"rotation": 20.0, "zoom": 0.15, "contrast": 0.1},
    "strong": {"rotation": 30.0, "shift": 0.1, "shear": 0.01, "zoom": 0.1, "brightness": 0.5},
    "turns": {"turns": (0, 180, 270), "vertical_flip": 0.5},
    "ninefold": {"rotation": 20.0, "fixed_views": 9},
}
"""The recipes of the project's earlier systems, as the options in which each differs from a horizontal flip alone."""

FREE_OPTIONS = {
    "output_dir", "overwrite", "resume", "num_workers", "tensorboard", "measure_peak", "cache", "cache_dir",
    "max_cache_gigabytes", "checkpoint_minutes",
}  # fmt: skip
"""Options that change nothing of a run's result: it may be continued with others."""

WITHOUT_VIEWS: dict[str, Any] = {
    "crop_scale": 1.0, "flip": 0.0, "vertical_flip": 0.0, "turns": (0,), "rotation": 0.0, "zoom": 0.0, "shift": 0.0,
    "shear": 0.0, "brightness": 0.0, "contrast": 0.0, "fixed_views": 0,
}  # fmt: skip
"""The options of random views, each with the value with which it does nothing."""

VIEW_OPTIONS = ("image_size", "fit", "grayscale", "equalize", "whitening")
"""The options of a run that decide what its model sees of a photo."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train one model. Checked on construction.

    Raises:
        UserError: A value is out of its range; the message names the option.
    """

    output_dir: Path
    """The run folder to make."""
    model: str
    """A Hub id, a local folder with the same files, or a name from the table in dogbreeds/training/models.py."""

    data: str = "amaye15/stanford-dogs"
    """A Hub dataset; or a folder: of Parquet files, with one sub-folder a breed (or train/ and test/ that hold them),
    or with Stanford's extracted archives (Images/ and lists/)."""
    breeds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B,...")] = ()
    """Use only these breeds, separated by commas. All by default."""
    images_per_breed: int | None = None
    """Use at most this many photos of each breed, over all splits, drawn with the seed."""
    validation_fraction: float = 0.1
    """Share of the training photos held out for validation where the data has no validation split."""
    test_fraction: float = 0.1
    """Share of the photos held out for test where the data has no test split; 0 for none."""

    from_scratch: bool = False
    """Build the architecture of --model with random weights."""
    freeze_backbone: bool = False
    """Train the classifier alone and leave the pre-trained backbone as it is."""
    keep_known_breeds: bool = False
    """Start the classifier's rows of those breeds that the checkpoint's own classifier knows by name from its rows, not
    anew. A checkpoint trained on ImageNet knows all 120, from whole photos; that helps most with everyday photos, and
    is no fair start beside a checkpoint without a classifier."""
    dropout: float = 0.0
    """Share of the features dropped before the classifier in training."""
    activation: ActivationName | None = None
    """Of plain CNNs built from nothing; by default the architecture's own, as for the next three."""
    batch_norm: Literal["on", "off"] | None = None
    """Of plain CNNs: normalise after each convolution."""
    pooling: Literal["flatten", "average"] | None = None
    """Of plain CNNs: what the dense layers get, all places or their mean."""
    conv_dropout: float | None = None
    """Of plain CNNs: share of the values dropped after each pooling."""

    image_size: int = 224
    """Height and width of what the model sees, pixels."""
    fit: Fit = "crop"
    """How a photo becomes square: its centre is cut out (crop), or it is squashed."""
    grayscale: bool = False
    """Show the model, here and wherever it answers, photos without colour: three equal channels (ITU-R BT.601)."""
    equalize: bool = False
    """Likewise photos whose brightness (luma) has an equalised histogram."""
    whitening: Literal["none", "blur", "zca"] = "none"
    """Likewise photos without what neighbouring pixels tell of each other. zca: by a convolution fitted on the training
    photos. blur: what an earlier system called whitening, a Gaussian blur of 2 pixels of 224."""
    augment: Literal["auto", "on", "off"] = "auto"
    """Random views in training. auto: on, unless the backbone is frozen, whose features are then computed only once,
    and no --augmentation is named."""
    augmentation: AugmentationName | None = None
    """A recipe of an earlier system for random views, without random crops, flipped half of the time; it sets the
    options below. mild: rotation 20, zoom 0.15, contrast 0.1. strong: rotation 30, shift 0.1, shear 0.01, zoom 0.1,
    brightness 0.5. turns: turns 0 180 270, vertical flip 0.5. ninefold: rotation 20, 9 fixed views."""
    crop_scale: float = 0.35
    """Augmentation: smallest share of the photo's area that a random resized crop keeps; 1 for no crop."""
    flip: float = 0.5
    """Augmentation: probability of a horizontal flip."""
    vertical_flip: float = 0.0
    """Augmentation: probability of a vertical flip."""
    turns: tuple[Literal[0, 90, 180, 270], ...] = (0,)
    """Augmentation: one of these rotations is drawn, degrees counter-clockwise."""
    rotation: float = 0.0
    """Augmentation: largest rotation either way, degrees."""
    zoom: float = 0.0
    """Augmentation: largest change of scale either way; 0.15 for 0.85 to 1.15."""
    shift: float = 0.0
    """Augmentation: largest shift either way, share of the size."""
    shear: float = 0.0
    """Augmentation: largest shear either way, degrees."""
    brightness: float = 0.0
    """Augmentation: largest change of brightness either way; 0.5 for 0.5 to 1.5."""
    contrast: float = 0.0
    """Augmentation: largest change of contrast either way; 0.1 for 0.9 to 1.1."""
    fixed_views: int = 0
    """Augmentation: draw this many views of each photo once, of which each epoch shows the next; 0 for new ones in
    every epoch. N times as many --epochs show as much as one epoch of a set that is N times as large."""

    epochs: int = 5
    """Passes over the training photos."""
    batch_size: int = 32
    """Photos in a batch, for each process."""
    gradient_accumulation_steps: int = 1
    """Batches summed up before each step of the optimiser."""
    optimizer: OptimizerName = "adamw"
    """What takes the steps. SGD has momentum 0.9, RMSprop Keras's constants, ftrl (with --schedule constant
    --warmup-fraction 0) the rate alone, the others PyTorch's. Adadelta wants a rate of about 1."""
    loss: LossName = "cross-entropy"
    """What is minimised; see dogbreeds/training/losses.py. The validation loss is cross-entropy always."""
    learning_rate: float = 5e-5
    """Largest learning rate of the backbone."""
    head_learning_rate: float = 1e-3
    """Largest learning rate of the classifier, which starts from nothing unless known breeds are kept."""
    weight_decay: float | None = None
    """Decoupled weight decay of AdamW, by default 0.05; with the other optimisers a penalty on the squared weights, by
    default none. Biases and normalisation layers are spared."""
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    """Learning rate after the warm-up. plateau: times 0.5 after 3 epochs without a better validation loss."""
    warmup_fraction: float = 0.1
    """Share of all steps over which the learning rate rises from 0."""
    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over all breeds."""
    max_grad_norm: float = 1.0
    """Gradients with a larger norm are scaled down to it; 0 for no limit."""
    ema_decay: float = 0.0
    """Decay for each step of an exponential moving average of the weights, which then is what is validated and saved;
    0 for none. 0.999 averages about the last 1,000 steps."""
    early_stopping_patience: int = 0
    """Stop after this many epochs without a better validation; 0 for never."""
    seed: int = 0
    """Decides the split, the order of the photos, the augmentation and the new weights."""

    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Arithmetic of the forward and backward pass; by default what `accelerate launch` says (no, unless told), and
    started without it bf16 on a GPU that has it, else no."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the network (torch.compile), which takes a minute and a C++ compiler. auto: on a GPU, in runs long enough
    for it to pay."""
    cache: Literal["on", "off"] = "on"
    """Decode every photo once, into a pixel cache on disk that later runs find again; off: decode in every epoch."""
    cache_dir: Path | None = None
    """Where pixel caches are kept; by default $XDG_CACHE_HOME/dogbreeds or ~/.cache/dogbreeds."""
    max_cache_gigabytes: float = 20.0
    """What all pixel caches may take; those not used for longest make room."""
    measure_peak: bool = False
    """Time a large matrix product first, and say how much of that speed training reaches."""
    num_workers: int | None = None
    """Processes that decode photos with --cache off; by default the machine's cores, 8 at most, shared among the
    training processes."""
    checkpoint_minutes: float = 10.0
    """How often what --resume needs is saved within an epoch, besides after each: what a crash can cost at most. 0:
    only after each epoch, and when the run is told to end (SIGTERM)."""
    tensorboard: bool = False
    """Write TensorBoard logs to OUTPUT_DIR/logs."""
    overwrite: bool = False
    """Replace a run that exists already, once the new one is complete."""
    resume: bool = False
    """Continue an unfinished run after its last checkpoint."""

    def __post_init__(self) -> None:
        listed = tuple(name.strip() for entry in self.breeds for name in entry.split(",") if name.strip())
        object.__setattr__(self, "breeds", listed)
        if self.augmentation is not None:
            self._apply_augmentation(self.augmentation)

        def check(ok: bool, option: str, must: str) -> None:
            if not ok:
                flag = option.replace("_", "-")
                raise UserError(f"--{flag} {getattr(self, option)}: must be {must}")

        for option in ("epochs", "batch_size", "gradient_accumulation_steps"):
            check(getattr(self, option) >= 1, option, "1 or more")
        for option in ("learning_rate", "head_learning_rate"):
            check(getattr(self, option) > 0, option, "above 0")
        check(self.decay >= 0, "weight_decay", "0 or more")
        for option in (
            "max_grad_norm",
            "early_stopping_patience",
            "rotation",
            "shear",
            "fixed_views",
            "seed",
            "checkpoint_minutes",
        ):
            check(getattr(self, option) >= 0, option, "0 or more")
        for option in ("test_fraction", "dropout", "label_smoothing", "ema_decay", "warmup_fraction", "zoom", "shift"):
            check(0 <= getattr(self, option) < 1, option, "from 0 to below 1")
        for option in ("flip", "vertical_flip", "brightness", "contrast"):
            check(0 <= getattr(self, option) <= 1, option, "from 0 to 1")
        check(self.conv_dropout is None or 0 <= self.conv_dropout < 1, "conv_dropout", "from 0 to below 1")
        check(0 < self.crop_scale <= 1, "crop_scale", "above 0 and at most 1")
        check(bool(self.turns) and {*self.turns} <= {0, 90, 180, 270}, "turns", "some of 0, 90, 180 and 270")
        check(0 < self.validation_fraction < 1, "validation_fraction", "above 0 and below 1")
        check(
            self.validation_fraction + self.test_fraction < 1, "test_fraction", "small enough to leave photos to train"
        )
        check(self.image_size >= 32, "image_size", "32 or more")
        check(self.images_per_breed is None or self.images_per_breed >= 3, "images_per_breed", "3 or more")
        check(self.seed < 2**32, "seed", "below 2**32")
        check(self.output_dir.name not in ("", ".."), "output_dir", "the name of a folder to make")
        check(self.max_cache_gigabytes > 0, "max_cache_gigabytes", "above 0")
        check(self.num_workers is None or self.num_workers >= 0, "num_workers", "0 or more")
        check(len(self.breeds) != 1, "breeds", "two or more")
        if self.from_scratch and self.freeze_backbone:
            raise UserError("--from-scratch has no backbone worth freezing: add --no-freeze-backbone")
        if self.from_scratch and self.keep_known_breeds:
            raise UserError(
                "--from-scratch leaves no classifier whose breeds could be kept: leave --keep-known-breeds out"
            )

    def check_options_apply(self) -> None:
        """See that what is given can have an effect; before training, and not of runs that there are.

        Raises:
            UserError: An option of random views is given and there will be none; or FTRL's rate would change.
        """
        if self.optimizer == "ftrl" and not (self.schedule == "constant" and self.warmup_fraction == 0):
            raise UserError(
                "--optimizer ftrl makes the weights anew from the present rate in each step, so the rate must not "
                "change: add --schedule constant --warmup-fraction 0"
            )
        for option, nothing in ({} if self.random_views else WITHOUT_VIEWS).items():
            given = getattr(self, option)
            if given not in (nothing, getattr(type(self), option)):
                why = "--augment off" if self.augment == "off" else "a frozen backbone"
                flag = option.replace("_", "-")
                raise UserError(f"--{flag} {_as_typed(given)}: {why} leaves nothing of it; add --augment on")

    def _apply_augmentation(self, name: AugmentationName) -> None:
        """Set the options of a named recipe.

        Raises:
            UserError: There is no such recipe, or an option was given another value than its default and the recipe's.
        """
        if name not in AUGMENTATIONS:
            raise UserError(f"--augmentation {name}: must be one of {', '.join(AUGMENTATIONS)}")
        if self.augment == "off":
            raise UserError(f"--augment off leaves nothing of --augmentation {name}: leave one of them out")
        for option, value in {"crop_scale": 1.0, "flip": 0.5, **AUGMENTATIONS[name]}.items():
            given = getattr(self, option)
            if given not in (value, getattr(type(self), option)):  # the dataclass keeps its defaults as attributes
                flag = option.replace("_", "-")
                raise UserError(
                    f"--{flag} {_as_typed(given)}: --augmentation {name} sets it to {_as_typed(value)}; leave one out"
                )
            object.__setattr__(self, option, value)

    @property
    def decay(self) -> float:
        """The weight decay: `weight_decay`, or the optimiser's default."""
        if self.weight_decay is None:
            return 0.05 if self.optimizer == "adamw" else 0.0
        return self.weight_decay

    @property
    def random_views(self) -> bool:
        """Whether the model is trained on random views."""
        if self.augment == "auto":
            return not self.freeze_backbone or self.augmentation is not None
        return self.augment == "on"

    @property
    def view(self) -> Preprocessing:
        """The view that the options ask for, without what the checkpoint (mean, std) and the training photos (zca) add.

        Evaluation sees it; for random views, `dogbreeds.training.datasets.splits.kept_view` makes of it what is kept of a photo.
        """
        return Preprocessing(
            self.image_size,
            self.fit,
            grayscale=self.grayscale,
            equalize=self.equalize,
            blur=self.whitening == "blur",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the weight decay that holds."""
        cache_dir = None if self.cache_dir is None else str(self.cache_dir)
        plain = {"output_dir": str(self.output_dir), "cache_dir": cache_dir, "weight_decay": self.decay}
        return {**dataclasses.asdict(self), **plain, "breeds": list(self.breeds), "turns": list(self.turns)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`, but that a default weight decay is as if it had been given.

        Options that this version does not have, of a run of another version, are ignored.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in values.items() if name in known}
        cache_dir = values.get("cache_dir")
        typed = {
            "output_dir": Path(values["output_dir"]),
            "breeds": tuple(values.get("breeds", ())),
            "turns": tuple(values.get("turns", (0,))),  # runs of earlier versions had none
            "cache_dir": None if cache_dir is None else Path(cache_dir),
        }
        return cls(**{**values, **typed})


def _as_typed(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
