"""Every option of a training run, in one frozen dataclass: the command line, run.json and Python share it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dogbreeds.errors import UserError
from dogbreeds.view import Fit


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

    image_size: int = 224
    """Height and width of what the model sees, pixels."""
    fit: Fit = "crop"
    """How a photo becomes square: its centre is cut out (crop), or it is squashed."""
    augment: Literal["auto", "on", "off"] = "auto"
    """Random views in training. auto: on, unless the backbone is frozen; its features are then computed only once."""
    crop_scale: float = 0.35
    """Augmentation: smallest share of the photo's area that a random resized crop keeps; 1 for no crop."""
    flip: float = 0.5
    """Augmentation: probability of a horizontal flip."""
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

    epochs: int = 5
    """Passes over the training photos."""
    batch_size: int = 32
    """Photos in a batch, for each process."""
    gradient_accumulation_steps: int = 1
    """Batches summed up before each step of the optimiser."""
    learning_rate: float = 5e-5
    """Largest learning rate of the backbone."""
    head_learning_rate: float = 1e-3
    """Largest learning rate of the classifier, which starts from nothing unless known breeds are kept."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay; biases and normalisation layers are spared."""
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

        def check(ok: bool, option: str, must: str) -> None:
            if not ok:
                flag = option.replace("_", "-")
                raise UserError(f"--{flag} {getattr(self, option)}: must be {must}")

        for option in ("epochs", "batch_size", "gradient_accumulation_steps"):
            check(getattr(self, option) >= 1, option, "1 or more")
        for option in ("learning_rate", "head_learning_rate"):
            check(getattr(self, option) > 0, option, "above 0")
        for option in (
            "weight_decay",
            "max_grad_norm",
            "early_stopping_patience",
            "rotation",
            "shear",
            "seed",
            "checkpoint_minutes",
        ):
            check(getattr(self, option) >= 0, option, "0 or more")
        for option in ("test_fraction", "dropout", "label_smoothing", "ema_decay", "warmup_fraction", "zoom", "shift"):
            check(0 <= getattr(self, option) < 1, option, "from 0 to below 1")
        for option in ("flip", "brightness", "contrast"):
            check(0 <= getattr(self, option) <= 1, option, "from 0 to 1")
        check(0 < self.crop_scale <= 1, "crop_scale", "above 0 and at most 1")
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

    @property
    def random_views(self) -> bool:
        """Whether each epoch sees each photo differently."""
        return self.augment == "on" or (self.augment == "auto" and not self.freeze_backbone)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        cache_dir = None if self.cache_dir is None else str(self.cache_dir)
        plain = {"output_dir": str(self.output_dir), "breeds": list(self.breeds), "cache_dir": cache_dir}
        return {**dataclasses.asdict(self), **plain}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`."""
        cache_dir = values.get("cache_dir")
        typed = {
            "output_dir": Path(values["output_dir"]),
            "breeds": tuple(values["breeds"]),
            "cache_dir": None if cache_dir is None else Path(cache_dir),
        }
        return cls(**{**values, **typed})
