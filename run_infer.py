"""Predicts labels of texts: `python run_infer.py --model FOLDER --input texts.jsonl --output predictions.jsonl`."""

import sys

from lagamc.cli import guarded, predict

if __name__ == "__main__":
    sys.exit(guarded(lambda: predict(sys.argv[1:], "run_infer.py")))
