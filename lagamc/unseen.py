"""How near a text is to descriptions under a sentence encoder, standardised.

Labels that were never trained are scored by it alone, under an encoder that is less far from where it started; of the
others it is one source of evidence, under the trained encoder, which tells most of those that few rows had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lagamc.errors import LagamcError

NEARNESS = "nearness"  # what this evidence is called beside `accurate` and `fast` ones
UNSEEN = "unseen"  # and what scores by it alone are called
SMALLEST_SPREAD = 1e-3  # of cosines; below it every text is equally near
BEST_SHARE = 0.4  # of a text's best label that counts against all its labels


@dataclass
class Background:
    """How near texts are to descriptions by chance, told from texts of the same kind without a look at their labels.

    A cosine means little by itself: some descriptions are near to every text, and training drew the trained ones
    nearer to theirs. In standard deviations from its mean over such texts, the cosine of a new description can be
    judged by the threshold that suits the old ones. What is near to a text whose best label is far nearer counts less:
    a part of the best one's distance is subtracted.

    Args:
        mean: (dimensions,) of the texts' unit embeddings.
        covariance: (dimensions, dimensions).
    """

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, texts: np.ndarray) -> Background:
        """From unit embeddings, (texts, dimensions)."""
        texts = texts.astype(np.float64)
        return cls(texts.mean(axis=0), np.cov(texts, rowvar=False, bias=True).reshape(texts.shape[1], -1))

    def save(self, path: Path) -> None:
        """Writes it as safetensors, float32."""
        save_file({"mean": self.mean.astype(np.float32), "covariance": self.covariance.astype(np.float32)}, path)

    @classmethod
    def load(cls, path: Path, dimensions: int) -> Background:
        """What `save` wrote, for embeddings of some dimensions.

        Raises:
            LagamcError: it is damaged or belongs to another encoder.
        """
        try:
            found = load_file(path)
            mean, covariance = found["mean"], found["covariance"]
            fits = mean.shape == (dimensions,) and covariance.shape == (dimensions, dimensions)
        except (OSError, KeyError, SafetensorError) as error:
            raise LagamcError(f"{path}: cannot be read ({error}); copy or pull the model again") from error
        if not fits or not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise LagamcError(f"{path}: expected finite numbers for {dimensions} dimensions, found {mean.shape}")
        return cls(mean.astype(np.float64), covariance.astype(np.float64))

    def score(self, texts: np.ndarray, descriptions: np.ndarray, untrained: Sequence[int] = ()) -> np.ndarray:
        """`standardise`, less a part of each text's highest, (texts, labels).

        Args:
            texts: (texts, dimensions) unit embeddings.
            descriptions: (labels, dimensions) unit embeddings, of the whole bank.
            untrained: positions of labels that were added later; they take nothing from the others.
        """
        distances = self.standardise(texts, descriptions)
        best = np.repeat(distances.max(axis=1, keepdims=True), distances.shape[1], axis=1)
        trained = np.setdiff1d(np.arange(distances.shape[1]), untrained)
        if len(trained):
            best[:, trained] = distances[:, trained].max(axis=1, keepdims=True)
        return distances - BEST_SHARE * best

    def standardise(self, texts: np.ndarray, descriptions: np.ndarray) -> np.ndarray:
        """Standard deviations by which each cosine is above its mean, (texts, labels).

        Args:
            texts: (texts, dimensions) unit embeddings.
            descriptions: (labels, dimensions) unit embeddings.
        """
        texts, descriptions = texts.astype(np.float64), descriptions.astype(np.float64)
        variance = ((descriptions @ self.covariance) * descriptions).sum(axis=1)
        spread = np.maximum(np.sqrt(np.maximum(variance, 0)), SMALLEST_SPREAD)
        return (texts @ descriptions.T - descriptions @ self.mean) / spread
