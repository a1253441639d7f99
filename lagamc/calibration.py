"""Probabilities that can be read as frequencies: log-odds of several sources joined by a logistic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

MINIMUM_POSITIVES = 20  # true labels below which a calibration would be noise
SPREAD = 0.3  # standard deviation of the offsets before a row is seen; of 0.1 to 3 the best on held-out rows
APART = 3.0  # standard deviation of what sets the weights of labels without training rows apart
RIDGE = 1e-6  # keeps weights finite where rows can be told apart without an error


@dataclass
class Calibration:
    """`sigmoid(weights @ log-odds + bias + offset of the label)`, Platt scaling with one input a source.

    How much each source tells depends on how many rows a label was trained with: weights and bias change evenly with
    `familiarity` between two ends. Without weights the probabilities of the sources are averaged as they are.

    Args:
        weights: one a source, of labels with familiarity 1, none negative.
        bias: added to the sum, of the same labels.
        offsets: label -> added for it; 0 where it is absent.
        scarce_weights: as `weights`, of labels with familiarity 0; empty where all labels have `weights`.
        scarce_bias: of those.
    """

    weights: list[float] = field(default_factory=list)
    bias: float = 0.0
    offsets: dict[str, float] = field(default_factory=dict)
    scarce_weights: list[float] = field(default_factory=list)
    scarce_bias: float = 0.0

    def apply(
        self, evidence: np.ndarray, names: Sequence[str] | None = None, familiar: np.ndarray | None = None
    ) -> np.ndarray:
        """Probabilities, (rows, labels).

        Args:
            evidence: (rows, labels, sources) log-odds.
            names: of the labels, whose offsets are added; None adds none.
            familiar: (labels,), see `familiarity`; None takes 1.
        """
        if not self.weights:
            return expit(evidence).mean(axis=-1)
        odds = evidence @ np.array(self.weights) + self.bias
        if self.scarce_weights and familiar is not None:
            odds += (1 - familiar) * (evidence @ np.array(self.scarce_weights) + self.scarce_bias - odds)
        offsets = 0.0 if names is None else np.array([self.offsets.get(name, 0.0) for name in names])
        return expit(odds + offsets)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def numbers(self) -> list[float]:
        """All of them."""
        return [*self.weights, self.bias, *self.offsets.values(), *self.scarce_weights, self.scarce_bias]

    def drop_last_if_unused(self) -> None:
        """Leaves the last source out where it has no weight, so that prediction need not ask for it."""
        if self.weights and not any((self.weights[-1], *self.scarce_weights[-1:])):
            self.weights.pop()
            del self.scarce_weights[-1:]


def familiarity(rows: Mapping[str, int], names: Sequence[str]) -> np.ndarray | None:
    """How well labels are known from training, from 0 without a row to 1 for the label with most, (labels,).

    Even steps are equal ratios of rows.

    Args:
        rows: label -> training rows; where they are not known there is no familiarity.
        names: of the labels.
    """
    most = max(rows.values(), default=0)
    return np.log1p([rows.get(name, 0) for name in names]) / np.log1p(most) if most else None


def fit_calibration(
    evidence: np.ndarray,
    true: np.ndarray,
    names: Sequence[str] | None = None,
    familiar: np.ndarray | None = None,
) -> Calibration:
    """Fits a calibration to labelled rows; an empty one where these hold too few labels.

    A source that would count against a label gets no weight: more evidence for a label must never make it less
    probable. Offsets, and what sets scarce labels apart, have normal priors around 0: with few rows labels stay near
    one curve.

    Args:
        evidence: (rows, labels, sources) log-odds.
        true: (rows, labels), 0 or 1.
        names: of the labels, for their offsets; None fits none.
        familiar: (labels,), see `familiarity`; None fits the same weights for all labels.
    """
    positives = int(true.sum())
    if positives < MINIMUM_POSITIVES or positives == true.size:
        return Calibration()
    labels, sources = evidence.shape[1:]
    target = true.astype(np.float64)
    known = np.ones(labels) if familiar is None else familiar
    inputs = np.concatenate([evidence, np.ones_like(evidence[..., :1])], axis=-1)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        common, scarce, offsets = np.split(parameters, [sources + 1, 2 * (sources + 1)])
        odds = known * (inputs @ common) + (1 - known) * (inputs @ scarce) + offsets
        apart = scarce - common
        value = (np.logaddexp(0, odds) - target * odds).sum()
        value += RIDGE * (common @ common) / 2 + apart @ apart / APART**2 / 2 + offsets @ offsets / SPREAD**2 / 2
        gap = expit(odds) - target
        by_common = np.tensordot(gap * known, inputs, 2) + RIDGE * common - apart / APART**2
        by_scarce = np.tensordot(gap * (1 - known), inputs, 2) + apart / APART**2
        return value, np.concatenate([by_common, by_scarce, gap.sum(0) + offsets / SPREAD**2])

    start = np.concatenate([np.tile([*[1 / sources] * sources, 0], 2), np.zeros(labels)])
    free = (None, None) if names is not None else (0, 0)
    bounds = [*[*[(0, None)] * sources, (None, None)] * 2, *[free] * labels]
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x.round(6)
    common, scarce, offsets = (part.tolist() for part in np.split(found, [sources + 1, 2 * (sources + 1)]))
    if not any((*common[:-1], *scarce[:-1])):
        return Calibration()
    ends = (common[:-1], common[-1], {} if names is None else dict(zip(names, offsets, strict=True)))
    return Calibration(*ends) if familiar is None else Calibration(*ends, scarce[:-1], scarce[-1])


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
