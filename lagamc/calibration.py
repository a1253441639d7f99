"""Probabilities that can be read as frequencies: log-odds of several sources joined by a logistic regression."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit

MINIMUM_POSITIVES = 20  # true labels below which a calibration would be noise


@dataclass
class Calibration:
    """`sigmoid(weights @ log-odds + bias)`, the same for all labels (Platt scaling with one input a source).

    Without weights the probabilities of the sources are averaged as they are.

    Args:
        weights: one a source, none negative.
        bias: added to the sum.
    """

    weights: list[float] = field(default_factory=list)
    bias: float = 0.0

    def apply(self, evidence: np.ndarray) -> np.ndarray:
        """Probabilities, (rows, labels).

        Args:
            evidence: (rows, labels, sources) log-odds.
        """
        if not self.weights:
            return expit(evidence).mean(axis=-1)
        return expit(evidence @ np.array(self.weights) + self.bias)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit_calibration(evidence: np.ndarray, true: np.ndarray) -> Calibration:
    """Fits weights and bias to labelled rows; none where these hold too few labels.

    A source that would count against a label is left out: more evidence for a label must never make it less probable.

    Args:
        evidence: (rows, labels, sources) log-odds.
        true: (rows, labels), 0 or 1.
    """
    from sklearn.linear_model import LogisticRegression

    positives = int(true.sum())
    if positives < MINIMUM_POSITIVES or positives == true.size:
        return Calibration()
    flat, target = evidence.reshape(-1, evidence.shape[-1]), true.reshape(-1)
    sources = list(range(flat.shape[1]))
    while sources:
        fitted = LogisticRegression(C=1e6, max_iter=1000).fit(flat[:, sources], target)
        lowest = int(np.argmin(fitted.coef_[0]))
        if fitted.coef_[0][lowest] > 0:
            weights = np.zeros(flat.shape[1])
            weights[sources] = fitted.coef_[0]
            return Calibration([round(float(w), 6) for w in weights], round(float(fitted.intercept_[0]), 6))
        sources.pop(lowest)
    return Calibration()


def expected_calibration_error(probabilities: np.ndarray, true: np.ndarray, bins: int = 15) -> float:
    """Mean distance between probability and frequency over all pairs of a row and a label (Guo et al., 2017).

    Args:
        probabilities: (rows, labels).
        true: (rows, labels), 0 or 1.
        bins: of equal width; each counts by the pairs in it.
    """
    values, target = probabilities.reshape(-1), true.reshape(-1)
    places = np.minimum((values * bins).astype(int), bins - 1)
    gaps = np.bincount(places, weights=values - target, minlength=bins)
    return float(np.abs(gaps).sum() / max(1, len(values)))
