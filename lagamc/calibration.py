"""Probabilities that can be read as frequencies: log-odds of several sources joined by a logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

MINIMUM_POSITIVES = 20  # true labels below which a calibration would be noise
SPREAD = 0.3  # standard deviation of the offsets before a row is seen; of 0.1 to 3 the best on held-out rows
RIDGE = 1e-6  # keeps weights finite where rows can be told apart without an error


@dataclass
class Calibration:
    """`sigmoid(weights @ log-odds + bias + offset of the label)`, Platt scaling with one input a source.

    Without weights the probabilities of the sources are averaged as they are.

    Args:
        weights: one a source, the same for all labels, none negative.
        bias: added to the sum, the same for all labels.
        offsets: label -> added for it; 0 where it is absent.
    """

    weights: list[float] = field(default_factory=list)
    bias: float = 0.0
    offsets: dict[str, float] = field(default_factory=dict)

    def apply(self, evidence: np.ndarray, names: Sequence[str] | None = None) -> np.ndarray:
        """Probabilities, (rows, labels).

        Args:
            evidence: (rows, labels, sources) log-odds.
            names: of the labels, whose offsets are added; None adds none.
        """
        if not self.weights:
            return expit(evidence).mean(axis=-1)
        offsets = 0.0 if names is None else np.array([self.offsets.get(name, 0.0) for name in names])
        return expit(evidence @ np.array(self.weights) + self.bias + offsets)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit_calibration(evidence: np.ndarray, true: np.ndarray, names: Sequence[str] | None = None) -> Calibration:
    """Fits weights, bias and offsets to labelled rows; none where these hold too few labels.

    A source that would count against a label gets no weight: more evidence for a label must never make it less
    probable. Offsets have a normal prior around 0, so that a label with few rows stays near the common curve.

    Args:
        evidence: (rows, labels, sources) log-odds.
        true: (rows, labels), 0 or 1.
        names: of the labels, for their offsets; None fits one curve for all.
    """
    positives = int(true.sum())
    if positives < MINIMUM_POSITIVES or positives == true.size:
        return Calibration()
    labels, sources = evidence.shape[1:]
    target = true.astype(np.float64)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias, offsets = np.split(parameters, [sources, sources + 1])
        odds = evidence @ weights + bias + offsets
        value = (np.logaddexp(0, odds) - target * odds).sum()
        value += RIDGE * (weights @ weights) / 2 + offsets @ offsets / SPREAD**2 / 2
        gap = expit(odds) - target
        by_offset = gap.sum(0) + offsets / SPREAD**2
        return value, np.concatenate([np.tensordot(gap, evidence, 2) + RIDGE * weights, [gap.sum()], by_offset])

    start = np.concatenate([np.full(sources, 1 / sources), np.zeros(1 + labels)])
    free = (None, None) if names is not None else (0, 0)
    bounds = [(0, None)] * sources + [(None, None)] + [free] * labels
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x.round(6).tolist()
    if not any(found[:sources]):
        return Calibration()
    offsets = {} if names is None else dict(zip(names, found[sources + 1 :], strict=True))
    return Calibration(found[:sources], found[sources], offsets)


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
