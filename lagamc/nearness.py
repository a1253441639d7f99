"""How near texts are to the descriptions of a bank, for labels that were trained and for those added later."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from lagamc.batches import ONE_AT_A_TIME
from lagamc.encoders import unit_embeddings
from lagamc.modeling import LagamcModel
from lagamc.unseen import Background


class NearnessScorer:
    """`Background.score` under the sentence encoder, and under the one for labels that were added later.

    Training takes the sentence encoder away from what it does not see. The other one was drawn back towards where both
    started; it is read when such labels are there. A model without it scores them by the sentence encoder.

    Args:
        model: with its encoders and backgrounds.
        untrained: positions of labels that were added later.
    """

    def __init__(self, model: LagamcModel, untrained: Sequence[int]):
        self.model, self.untrained = model, untrained

    @property
    def reads_for_unseen(self) -> bool:
        """Whether labels that were added later have an encoder of their own."""
        return self.model.unseen_encoder is not None

    def tell_by(self, embedded: np.ndarray, embedded_for_unseen: np.ndarray | None) -> None:
        """Takes texts as what nearness by chance is told from.

        Args:
            embedded: (texts, dimensions) unit embeddings of the sentence encoder.
            embedded_for_unseen: of the other one, as `embed_for_unseen` gives them.
        """
        self.model.background = Background.of(embedded)
        self.model.unseen_background = None if embedded_for_unseen is None else Background.of(embedded_for_unseen)

    def score(self, embedded: np.ndarray) -> np.ndarray:
        """Nearness under the sentence encoder, (texts, labels).

        Args:
            embedded: (texts, dimensions) its unit embeddings.
        """
        assert self.model.background is not None
        return self.model.background.score(embedded, self._descriptions, self.untrained)

    def score_for_unseen(self, embedded: np.ndarray) -> np.ndarray:
        """As `score`, of what `embed_for_unseen` gives."""
        assert self.model.unseen_background is not None
        return self.model.unseen_background.score(embedded, self._descriptions_for_unseen, self.untrained)

    def embed_for_unseen(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Unit embeddings by the encoder of labels that were added later, (texts, dimensions); as far as it reads."""
        assert self.model.unseen_encoder is not None
        with ONE_AT_A_TIME:
            return unit_embeddings(self.model.unseen_encoder, texts, batch_size)

    @cached_property
    def _descriptions(self) -> np.ndarray:
        return unit_embeddings(self.model.sentence_encoder, self._sentences)

    @cached_property
    def _descriptions_for_unseen(self) -> np.ndarray:
        return self.embed_for_unseen(self._sentences)

    @property
    def _sentences(self) -> list[str]:
        return [text + "." for text in self.model.codec.bank.descriptions]
