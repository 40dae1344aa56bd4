"""Fine-tune a Vision Transformer, all weights, on dog breeds.

    python train_vit.py                        one CPU or GPU
    accelerate launch train_vit.py             several GPUs or machines, after `accelerate config`
    python train_vit.py --tune 30              search for better options
    python train_vit.py --help                 every option

The preset's ViT-B/16 wants a GPU: before the pixel cache, one H200 trained it on about 770 photos a second (bf16,
batch 128, validation and checkpoints included). Its score is not measured yet. A ViT-Ti/16 on 13 breeds takes 3.5
minutes on 2 CPU cores and reaches a validation top-1 of 92 to 95 % (two seeds); dogbreeds/docs/results.md has the
command.
"""

from dogbreeds.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from dogbreeds.training.presets import VIT
        from dogbreeds.training_script import run_training_script

        run_training_script(VIT, __doc__)
