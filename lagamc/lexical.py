"""What the words of a text say about its labels: a logistic regression for each label over TF-IDF features.

It errs elsewhere than generator and sentence encoder do, and reads a text to its end. Such features are joined with
those of a language model in XR-Transformer as well (Zhang et al., 2021).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression

from lagamc.errors import LagamcError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEATURES = 2**16  # that pieces and pairs of them are hashed to, at most
WEIGHTS = 2**24  # features x labels at most: 32 MiB as stored
PRODUCTS = 5 * 10**8  # features of the rows x labels that are fitted to at most: about two minutes
FEWEST = 200  # rows without a label that it is told from in any case
STRENGTH = 10.0  # C of the regressions; of 1 to 100 it matters little
NEVER = math.log(1e-4)  # log-odds of a label that was not trained


class LexicalScorer:
    """Log-odds of every label from the pieces of a text and the pairs of neighbours among them.

    Args:
        tokenizer: cuts texts into pieces: the sentence encoder's.
        idf: (features,) weights of the features themselves.
        weights: (features, labels).
        offsets: (labels,).
        names: of the labels.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        idf: np.ndarray,
        weights: np.ndarray,
        offsets: np.ndarray,
        names: Sequence[str],
    ):
        self.tokenizer, self.names = tokenizer, list(names)
        self.idf, self.offsets = idf.astype(np.float32), offsets.astype(np.float32)
        self.weights = weights.astype(np.float16).astype(np.float32)  # as it is stored

    @classmethod
    def fit(
        cls, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], true: np.ndarray, names: Sequence[str]
    ) -> LexicalScorer:
        """Learns from the training rows; the same ones always give the same.

        With very many labels and rows each label is told from all rows that have it and from a sample of the others.

        Args:
            tokenizer: see above.
            texts: one at least.
            true: (texts, labels), 0 or 1. A label that no text or every text has is told by how many there are.
            names: of the labels.
        """
        rows, labels = true.shape
        features = min(FEATURES, 2 ** int(math.log2(WEIGHTS / labels)))
        counted = _counts(tokenizer, texts, features)
        transformer = TfidfTransformer(sublinear_tf=True).fit(counted)
        seen = np.unique(counted.indices)  # without the others it is faster
        known = transformer.transform(counted)[:, seen]
        most = max(FEWEST, int(PRODUCTS / labels / max(known.nnz / rows, 1)))
        drawn = np.random.default_rng(0)
        support = true.sum(axis=0)
        weights, offsets = np.zeros((features, labels), np.float32), np.log((support + 0.5) / (rows - support + 0.5))
        for label in np.flatnonzero((support > 0) & (support < rows) & (len(seen) > 0)):
            having, others = np.flatnonzero(true[:, label]), np.flatnonzero(true[:, label] == 0)
            taken = others if len(others) <= most else drawn.choice(others, most, replace=False)
            looked_at = np.sort(np.concatenate([having, taken]))
            model = LogisticRegression(C=STRENGTH, solver="liblinear").fit(known[looked_at], true[looked_at, label])
            weights[seen, label] = model.coef_[0]
            offsets[label] = model.intercept_[0] + np.log(len(taken) / len(others))
        return cls(tokenizer, transformer.idf_, weights, offsets, names)

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Log-odds, (texts, labels)."""
        if not len(texts):  # of which tokenizers make an error
            return np.zeros((0, len(self.offsets)), np.float32)
        transformer = TfidfTransformer(sublinear_tf=True)
        transformer.idf_ = self.idf
        found: np.ndarray = transformer.transform(_counts(self.tokenizer, texts, len(self.idf))) @ self.weights
        return found + self.offsets

    def of_labels(self, names: Sequence[str]) -> LexicalScorer:
        """For another bank; of a label that is new in it nothing is known."""
        place = {name: i for i, name in enumerate(self.names)}
        taken = [place.get(name, -1) for name in names]
        weights = np.pad(self.weights, ((0, 0), (0, 1)))[:, taken]
        return LexicalScorer(self.tokenizer, self.idf, weights, np.append(self.offsets, NEVER)[taken], names)

    def save(self, path: Path) -> None:
        """Writes it as safetensors, the weights in half precision."""
        weights = np.ascontiguousarray(self.weights, dtype=np.float16)  # others would be written in another order
        parts: dict[str, np.ndarray] = {"idf": self.idf, "weights": weights, "offsets": self.offsets}
        save_file(parts, path, {"labels": json.dumps(self.names)})

    @classmethod
    def load(cls, path: Path, tokenizer: PreTrainedTokenizerBase) -> LexicalScorer:
        """What `save` wrote.

        Raises:
            LagamcError: it is damaged.
        """
        try:
            with safe_open(path, "np") as file:
                names = json.loads((file.metadata() or {})["labels"])
                idf, weights, offsets = (file.get_tensor(name) for name in ("idf", "weights", "offsets"))
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            raise LagamcError(f"{path}: cannot be read ({error}); copy or pull the model again") from error
        fits = isinstance(names, list) and all(isinstance(name, str) for name in names)
        fits = fits and len(set(names)) == len(names) and idf.ndim == 1 and len(idf) > 0
        fits = fits and weights.shape == (len(idf), len(names)) and offsets.shape == (len(names),)
        found = cls(tokenizer, idf, weights, offsets, names) if fits else None
        if found is None or not all(np.isfinite(part).all() for part in (found.idf, found.weights, found.offsets)):
            raise LagamcError(
                f"{path}: weights of shape {weights.shape} are not finite or not those of the labels {names!r:.60}; "
                "copy or pull the model again"
            )
        return found


def _counts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], features: int) -> csr_matrix:
    """How often each feature stands in each text, (texts, features)."""
    cut = tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)["input_ids"]

    def names(pieces: Sequence[int]) -> Iterator[str]:
        yield from map(str, pieces)
        yield from (f"{first} {second}" for first, second in pairwise(pieces))

    hasher = FeatureHasher(features, input_type="string", alternate_sign=False)
    return csr_matrix(hasher.transform(names(pieces) for pieces in cut))
