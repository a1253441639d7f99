"""What calibration and tuned thresholds change on test rows, for each goal and both kinds of scores.

    python -m benchmarks.calibration [--quick] [--datasets caves reuters goemotions] [--rows 1000]

Models are trained once on the first 2,000 rows (see `benchmarks.models`), tuned on the first development rows and
measured on the first test rows. `before`: probabilities averaged over their sources, every label from 0.5 on.
`one_curve`: log-odds joined alike for all labels, thresholds tuned for the goal. `by_rows`: joined by weights that
depend on a label's training rows, which a system with a single score could do, too. `after`: as a model does it, with
how near the text is to the description as a further source, and an offset for each label. The last line is one JSON
object: data set -> figures of the model's default scores, `goals` with those of each goal.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import precision_score

from benchmarks.datasets import find_dataset, missing
from benchmarks.models import trained_model
from benchmarks.outcomes import finish, run
from lagamc.calibration import Calibration, expected_calibration_error, fit_calibration
from lagamc.classifier import LagamcClassifier
from lagamc.data import read_examples
from lagamc.metrics import binarise
from lagamc.scoring import SCORES
from lagamc.thresholds import GOALS, goal_figure, tune_thresholds
from lagamc.unseen import UNSEEN

ALL_GOALS = (*GOALS, "precision>=0.8")


def measure(classifier: LagamcClassifier, data: Path, rows: int) -> dict[str, Any]:
    """The figures of one data set."""
    bank = classifier.bank
    splits = {
        name: read_examples(data / f"{name}.jsonl", bank, unlabelled="keep", limit=rows) for name in ("dev", "test")
    }
    true = {name: binarise([bank.index(e.labels) for e in found], len(bank)) for name, found in splits.items()}
    texts = {name: [e.text for e in found] for name, found in splits.items()}
    classifier.tune(texts["dev"], [e.labels for e in splits["dev"]])
    evidence = {name: classifier.evidence(found) for name, found in texts.items()}
    near = {name: found[UNSEEN][..., 0] for name, found in evidence.items()}

    def limits(probabilities: np.ndarray, goal: str) -> np.ndarray:
        return tune_thresholds(probabilities, true["dev"], bank.names, goal).values(bank.names)

    figures: dict[str, Any] = {}
    for scores in SCORES:
        before = Calibration().apply(evidence["test"][scores])
        stages: dict[str, dict[str, np.ndarray]] = {}
        for stage, familiar in (("one_curve", None), ("by_rows", classifier.rules.familiar)):
            curve = fit_calibration(evidence["dev"][scores], true["dev"], None, familiar)
            stages[stage] = {name: curve.apply(evidence[name][scores], None, familiar) for name in splits}
        stages["after"] = {
            name: classifier.rules.probabilities(evidence[name][scores], scores, near[name]) for name in splits
        }
        found: dict[str, Any] = {"ece_before": round(expected_calibration_error(before, true["test"]), 4)}
        for stage, values in stages.items():
            found[f"ece_{stage}"] = round(expected_calibration_error(values["test"], true["test"]), 4)
        found["goals"] = {}
        for goal in ALL_GOALS:
            figure = {"before": goal_figure(goal, before >= 0.5, true["test"])}
            for stage, values in stages.items():
                thresholds = limits(values["dev"], goal)
                chosen = values["test"] >= thresholds
                figure[stage] = goal_figure(goal, chosen, true["test"])
            figure["dev"] = goal_figure(goal, values["dev"] >= thresholds, true["dev"])  # of the last stage
            figure["precision"] = float(precision_score(true["test"].ravel(), chosen.ravel(), zero_division=0))
            found["goals"][goal] = {name: round(value, 4) for name, value in figure.items()}
        for goal in GOALS:
            for when in ("before", *stages):
                found[f"{goal}_{when}"] = found["goals"][goal][when]
        figures[scores] = found
    best = max(reversed(SCORES), key=lambda scores: figures[scores]["goals"]["micro_f1"]["dev"])
    [other] = [scores for scores in SCORES if scores != best]
    return {"scores": best, "rows": len(true["test"]), **figures[best], other: figures[other]}


def main() -> None:
    """Prints a row per data set, then the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="caves alone, 200 rows, a model of a few steps")
    parser.add_argument("--datasets", nargs="+", default=["caves", "reuters", "goemotions"])
    parser.add_argument("--rows", type=int, default=1000, help="development rows and test rows at most")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name in ["caves"] if options.quick else options.datasets:
        data, folder = find_dataset(name), trained_model(name, rows=300 if options.quick else 2000)
        if data is None or folder is None:
            results[name] = {"skipped": missing(name)}
            continue
        classifier = LagamcClassifier.from_pretrained(folder, "cpu")
        results[name] = measure(classifier, data, 200 if options.quick else options.rows)
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    finish(results, options.quick)


if __name__ == "__main__":
    run(main)
