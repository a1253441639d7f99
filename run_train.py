"""Trains a model: `accelerate launch --config_file accelerate_config.yaml run_train.py --config configs/demo.yaml`."""

import sys

from lagamc.cli import guarded, train

if __name__ == "__main__":
    sys.exit(guarded(lambda: train(sys.argv[1:], "run_train.py")))
