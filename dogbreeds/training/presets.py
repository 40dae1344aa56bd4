"""What the training scripts begin with, before the command line; the only place where the two differ."""

from typing import Any

VIT: dict[str, Any] = {"output_dir": "runs/vit", "model": "google/vit-base-patch16-224-in21k"}
"""Of train_vit.py: all weights are trained."""

CNN: dict[str, Any] = {
    "output_dir": "runs/mobilenet_v2",
    "model": "google/mobilenet_v2_1.0_224",
    "adapt": "classifier",
    "freeze_backbone": True,  # the same, which --help shows as the default of both
}
"""Of train_cnn_baseline.py: a frozen backbone and a new classifier."""

SCRIPTS = {"train_vit.py": VIT, "train_cnn_baseline.py": CNN}
"""The preset of each script."""
