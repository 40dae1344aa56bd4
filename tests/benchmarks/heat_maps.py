"""Do a ViT's heat maps show what its answer depends on? Ours against attention rollout and chance, in one run.

    python tests/benchmarks/heat_maps.py --run-dir runs/vit --photos FOLDER

The deletion test (Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421): the hottest patches of the view are painted
over with the photo's mean colour; the more the probability of the named breed falls, the better the map. Rollout is
that of Abnar & Zuidema 2020 (https://arxiv.org/abs/2005.00928): mean over the heads, identity added for the residual.
"""

from pathlib import Path

import numpy as np
import torch
import tyro
from transformers import AutoModelForImageClassification

from dogbreeds.images import open_image
from dogbreeds.run_folder import RunFolder
from dogbreeds.training.heat_maps import ServingModel


def rollout(attentions: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Heat `(B, N)` of the patches from the attentions `(B, heads, 1 + N, 1 + N)` of all layers."""
    joint = torch.eye(attentions[0].shape[-1])
    for attention in attentions:
        mixed = attention.mean(1) + torch.eye(attention.shape[-1])
        joint = (mixed / mixed.sum(-1, keepdim=True)) @ joint
    return joint[:, 0, 1:]


def main(run_dir: Path, photos: Path, num_photos: int = 100) -> None:
    """Print the mean probability of the named breed after the hottest patches are painted over."""
    run = RunFolder.open(run_dir)
    model = AutoModelForImageClassification.from_pretrained(
        run_dir, attn_implementation="eager", trust_remote_code=False
    ).eval()
    patch = model.config.patch_size
    every = sorted(photos.rglob("*.jpg"))
    chosen = every[:: max(1, len(every) // num_photos)][:num_photos]
    pixels = torch.stack([torch.from_numpy(run.preprocessing(open_image(path))) for path in chosen])
    rng = torch.Generator().manual_seed(0)
    shares = (0.1, 0.2, 0.3, 0.5)
    left: dict[str, list[np.ndarray]] = {"ours": [], "rollout": [], "chance": []}
    whole = []
    serving_model = ServingModel(model, run.preprocessing.size)
    with torch.no_grad():
        for batch in pixels.split(20):
            logits, heat = serving_model(batch)
            best = logits.argmax(1)
            rows = torch.arange(len(batch))
            whole.append(logits.softmax(1)[rows, best].numpy())
            maps = {
                "ours": (heat[rows, best] - heat.mean(1)).flatten(1),  # as dogbreeds.serving.predictor.evidence
                "rollout": rollout(model(batch, output_attentions=True).attentions),
                "chance": torch.rand(heat[:, 0].flatten(1).shape, generator=rng),
            }
            for name, values in maps.items():
                after = []
                for share in shares:
                    hidden = torch.zeros_like(values, dtype=torch.bool)
                    hidden.scatter_(1, values.topk(round(share * values.shape[1])).indices, True)
                    side = round(values.shape[1] ** 0.5)
                    mask = hidden.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
                    painted = torch.where(mask, batch.mean((2, 3), keepdim=True), batch)
                    after.append(model(painted).logits.softmax(1)[rows, best].numpy())
                left[name].append(np.stack(after))
    print(f"{len(chosen)} photos; mean probability of the named breed: {np.concatenate(whole).mean():.1%}")
    print("painted over | " + " | ".join(f"{share:.0%}" for share in shares))
    for name, values in left.items():
        print(f"{name:12} | " + " | ".join(f"{value:.1%}" for value in np.concatenate(values, axis=1).mean(1)))


if __name__ == "__main__":
    tyro.cli(main)
