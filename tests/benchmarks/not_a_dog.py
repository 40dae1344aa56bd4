"""How well two scores tell photos without a dog from dogs: ours, and the plain largest logit.

    python tests/benchmarks/not_a_dog.py --run-dir RUN --dogs LABELLED --everyday FOLDER --not-dogs FOLDER

The threshold of each score is the one that passes a share of the validation photos of LABELLED, the data that the run
was trained on; the table gives the share of everyday photos of dogs that pass too, and of other photos that do not.
"""

from pathlib import Path

import numpy as np
import tyro

from dogbreeds.calibration import dog_score
from dogbreeds.images import open_image
from dogbreeds.research.evaluate import photos_of
from dogbreeds.run_folder import DEFAULT_RUN
from dogbreeds.serving.predictor import Predictor


def main(dogs: str, everyday: Path, not_dogs: Path, run_dir: Path = DEFAULT_RUN) -> None:
    """Print the table."""
    predictor = Predictor(run_dir)

    def logits(sources: list) -> np.ndarray:
        views = (predictor.run.preprocessing(open_image(source))[None] for source in sources)
        return np.concatenate([predictor.logits(view) for view in views])

    validation = logits(list(photos_of(predictor, dogs, "validation").sources))
    others = {path: logits(sorted(path.rglob("*.jpg"))) for path in (everyday, not_dogs)}
    print("validation dogs pass | score | everyday dogs pass | others stopped")
    for share in (0.95, 0.97, 0.98, 0.99):
        for name, score in (("ours", dog_score), ("largest logit", lambda values: values.max(axis=1))):
            threshold = np.quantile(score(validation), 1 - share)
            passing = (score(others[everyday]) >= threshold).mean()
            stopped = (score(others[not_dogs]) < threshold).mean()
            print(f"{share:20.0%} | {name:13} | {passing:18.1%} | {stopped:.1%}")


if __name__ == "__main__":
    tyro.cli(main)
