"""`LabelMatcher`: generated sentences to labels by cosine similarity (paper, section 5.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lagamc.encoders import unit_embeddings
from lagamc.labels import LabelBank, split_sentences

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BLOCK_BYTES = 32 * 2**20  # similarities computed at a time


@dataclass(frozen=True)
class Match:
    """One generated sentence and where it went.

    Args:
        sentence: as generated.
        label: the nearest label, None where the similarity is below the minimum.
        similarity: cosine to the nearest sentence of the bank.
    """

    sentence: str
    label: str | None
    similarity: float


class LabelMatcher:
    """Assigns every generated sentence to the label whose description is nearest.

    A description of several sentences is several entries for one label.

    Args:
        bank: the labels.
        encoder: the trained sentence encoder.
        minimum_similarity: sentences below it get no label (paper, section 8.5: 0.4); None takes all.
        normalise: how a description reads after the generator's tokenizer; None leaves it as it is.
        batch_size: of the encoder.
    """

    def __init__(
        self,
        bank: LabelBank,
        encoder: SentenceTransformer,
        minimum_similarity: float | None = None,
        normalise: Callable[[str], str] | None = None,
        batch_size: int = 64,
    ):
        self.bank, self.encoder, self.batch_size = bank, encoder, batch_size
        self.minimum_similarity = minimum_similarity
        entries = [
            (sentence, label)
            for label, text in enumerate(bank.descriptions)
            for sentence in split_sentences(normalise(text) if normalise else text)
        ]
        self.owners = np.array([label for _, label in entries])
        self.embeddings = self._encode([sentence for sentence, _ in entries])
        self._cache: dict[str, tuple[int, float]] = {}

    def _encode(self, sentences: Sequence[str]) -> np.ndarray:
        return unit_embeddings(self.encoder, sentences, self.batch_size)

    def nearest(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest label of each embedding, by matrix products over blocks of embeddings.

        A block and its similarities take at most `BLOCK_BYTES` beyond what is given.

        Args:
            embeddings: (sentences, dimensions), float32, rows of length 1.

        Returns:
            bank positions (sentences,) and cosine similarities (sentences,).
        """
        size = max(1, BLOCK_BYTES // (4 * len(self.embeddings)))
        best = np.empty(len(embeddings), dtype=np.intp)
        similarity = np.empty(len(embeddings), dtype=np.float32)
        for start in range(0, len(embeddings), size):
            block = embeddings[start : start + size] @ self.embeddings.T
            best[start : start + size] = places = block.argmax(axis=1)
            similarity[start : start + size] = block[np.arange(len(block)), places]
        return self.owners[best], similarity.clip(-1, 1)

    def match(self, responses: Sequence[str]) -> list[list[Match]]:
        """The matches of every generated response, in the order of its sentences."""
        sentences = [split_sentences(response) for response in responses]
        new = sorted({s for row in sentences for s in row} - set(self._cache))
        if new:
            labels, similarities = self.nearest(self._encode(new))
            if len(self._cache) > 100_000:  # free-running text rarely repeats
                self._cache.clear()
            self._cache.update(zip(new, zip(labels.tolist(), similarities.tolist(), strict=True), strict=True))
        return [[self._as_match(sentence) for sentence in row] for row in sentences]

    def _as_match(self, sentence: str) -> Match:
        label, similarity = self._cache[sentence]
        enough = self.minimum_similarity is None or similarity >= self.minimum_similarity
        return Match(sentence, self.bank.names[label] if enough else None, similarity)

    def labels(self, responses: Sequence[str]) -> list[list[str]]:
        """The labels of every response, each once."""
        return [list(dict.fromkeys(m.label for m in row if m.label is not None)) for row in self.match(responses)]
