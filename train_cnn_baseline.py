"""Train the MobileNetV2 baseline on dog breeds: a frozen backbone and a new classifier.

    python train_cnn_baseline.py
    python train_cnn_baseline.py --no-freeze-backbone      all weights
    accelerate launch train_cnn_baseline.py                several GPUs or machines, after `accelerate config`
    python train_cnn_baseline.py --tune 30                 search for better options
    python train_cnn_baseline.py --help                    every option

On 12,000 photos cropped to the dog, the preset takes 80 seconds on 2 CPU cores and reaches a validation top-1 of 83.5
to 84.8 % on 120 breeds (three seeds); dogbreeds/docs/results.md has the command.
"""

from dogbreeds.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        from dogbreeds.training.presets import CNN
        from dogbreeds.training_script import run_training_script

        run_training_script(CNN, __doc__)
