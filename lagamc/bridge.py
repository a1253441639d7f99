"""The differentiable map from the generator's tokens to the sentence encoder's embeddings.

Soft tokens are distributions over the generator's vocabulary, the sentence encoder reads embeddings of its own
pieces. Two things bind them:

* a sparse matrix A (generator token -> the encoder's pieces of its surface string, averaged), the identity where the
  vocabularies coincide;
* for every text that the generator's most probable tokens spell, the pieces that the encoder really cuts it into,
  aligned by character offsets with the generator's tokens.

The embeddings of the real pieces are used as they are, and only the *difference* between the soft token and the most
probable one, `(p A) E - (onehot A) E`, is added where they overlap. So the bridge is exact wherever the generator is
sure, at the target and at any other text, and the gradient flows everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lagamc.prompts import decode_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANCHOR = "a"
CACHE_SIZE = 20_000  # texts whose alignment is kept


@dataclass(frozen=True)
class AlignedText:
    """A text as the sentence encoder reads it, beside the generator's tokens of the same text.

    Args:
        piece_ids: the encoder's pieces, without its special tokens.
        alignment: (pieces, tokens) how much of the difference at each generator token reaches each piece.
    """

    piece_ids: list[int]
    alignment: Tensor


@dataclass(frozen=True)
class PaddedAlignments:
    """Several `AlignedText`s as tensors.

    Args:
        piece_ids: (texts, pieces), padded.
        alignment: (texts, pieces, tokens), 0 on padding.
        lengths: (texts,) pieces of each.
    """

    piece_ids: Tensor
    alignment: Tensor
    lengths: Tensor

    def to(self, device: torch.device) -> PaddedAlignments:
        """The same on another device."""
        return PaddedAlignments(self.piece_ids.to(device), self.alignment.to(device), self.lengths.to(device))


def pad_alignments(texts: Sequence[AlignedText], tokens: int, padding_id: int) -> PaddedAlignments:
    """Fills texts up to the longest.

    Args:
        texts: at least one.
        tokens: width of the last axis.
        padding_id: of the encoder.
    """
    lengths = torch.tensor([len(text.piece_ids) for text in texts])
    ids = torch.full((len(texts), int(lengths.max())), padding_id)
    alignment = torch.zeros(len(texts), ids.shape[1], tokens)
    for row, text in enumerate(texts):
        ids[row, : len(text.piece_ids)] = torch.tensor(text.piece_ids, dtype=torch.long)
        alignment[row, : text.alignment.shape[0], : text.alignment.shape[1]] = text.alignment
    return PaddedAlignments(ids, alignment, lengths)


class TokenBridge(nn.Module):
    """Maps distributions over generator tokens to input embeddings of a sentence encoder.

    Args:
        generator_tokenizer: any fast or slow tokenizer.
        encoder_tokenizer: the sentence encoder's, fast.
        token_ids: (tokens,) the generator tokens that the distributions range over, in their order.
    """

    columns: Tensor
    offsets: Tensor
    shares: Tensor

    def __init__(
        self,
        generator_tokenizer: PreTrainedTokenizerBase,
        encoder_tokenizer: PreTrainedTokenizerBase,
        token_ids: Sequence[int],
    ):
        super().__init__()
        self.generator_tokenizer, self.encoder_tokenizer = generator_tokenizer, encoder_tokenizer
        self.is_identity = generator_tokenizer.get_vocab() == encoder_tokenizer.get_vocab()
        pieces = [[token] if self.is_identity else self._pieces(token) for token in token_ids]
        self._aligned: dict[tuple[int, ...], AlignedText] = {}
        # A in the layout of `embedding_bag`: a row's pieces, where each row begins, the weight of each piece
        counts = torch.tensor([len(ids) for ids in pieces], dtype=torch.long)
        self.register_buffer("columns", torch.tensor([p for ids in pieces for p in ids], dtype=torch.long), False)
        self.register_buffer("offsets", torch.cumsum(counts, 0) - counts, False)
        self.register_buffer("shares", torch.repeat_interleave(1.0 / counts.clamp_min(1), counts), False)

    def _pieces(self, token: int) -> list[int]:
        """The encoder's pieces of one generator token; none for special tokens and ids beyond the vocabulary."""
        tokenizer = self.generator_tokenizer
        if token >= len(tokenizer) or token in tokenizer.all_special_ids:
            return []
        anchor = tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"]
        start = decode_text(tokenizer, anchor)
        text = decode_text(tokenizer, [*anchor, token])
        surface = text[len(start) :] if text.startswith(start) else decode_text(tokenizer, [token])
        if not surface.strip():
            return []
        return self._encode_surface(surface.strip(), continues_word=not surface[0].isspace())

    def _encode_surface(self, surface: str, continues_word: bool) -> list[int]:
        encoder = self.encoder_tokenizer
        backend = getattr(encoder, "backend_tokenizer", None)
        if not continues_word or not surface[0].isalnum() or backend is None:
            return encoder(surface, add_special_tokens=False)["input_ids"]
        if backend.normalizer is not None:
            surface = backend.normalizer.normalize_str(surface)
        words = backend.pre_tokenizer.pre_tokenize_str(surface) if backend.pre_tokenizer else [(surface, (0, 0))]
        # inside a word WordPiece marks a piece with its prefix, the others by the absence of their word mark
        prefix = getattr(backend.model, "continuing_subword_prefix", None) or ""
        parts = [prefix + words[0][0].lstrip("▁Ġ"), *(word for word, _ in words[1:])] if words else []
        return [piece.id for part in parts for piece in backend.model.tokenize(part)]

    def embed(self, weight: Tensor) -> Tensor:
        """Embeddings of the generator's tokens in the encoder's space, A E.

        Args:
            weight: (pieces, dimensions) the encoder's live embedding table E.

        Returns:
            (tokens, dimensions).
        """
        return F.embedding_bag(
            self.columns, weight, self.offsets, mode="sum", per_sample_weights=self.shares.to(weight.dtype)
        )

    def align(self, token_ids: Sequence[int]) -> AlignedText:
        """Aligns the encoder's pieces of a text with the generator's tokens of it.

        Args:
            token_ids: the generator's tokens of the text; special ones spell nothing.
        """
        key = tuple(token_ids)
        if key not in self._aligned:
            if len(self._aligned) >= CACHE_SIZE:
                self._aligned.clear()
            self._aligned[key] = self._align(key)
        return self._aligned[key]

    def _align(self, token_ids: tuple[int, ...]) -> AlignedText:
        if self.is_identity:
            return AlignedText(list(token_ids), torch.eye(len(token_ids)))
        text = decode_text(self.generator_tokenizer, token_ids)
        encoding = self.encoder_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans: list[tuple[int, int]] = encoding["offset_mapping"]
        token_spans = self._token_spans(token_ids, text)
        alignment = torch.zeros(len(spans), len(token_ids))
        for row, (start, end) in enumerate(spans):
            for column, (left, right) in enumerate(token_spans):
                overlap = min(end, right) - max(start, left)
                if overlap > 0:
                    alignment[row, column] = overlap / (end - start)
        return AlignedText(list(encoding["input_ids"]), alignment)

    def _token_spans(self, token_ids: Sequence[int], text: str) -> list[tuple[int, int]]:
        """Character spans in the text of the generator's tokens, found by decoding ever longer openings."""
        # decoding puts spaces where it likes: count the other characters
        places = [place for place, character in enumerate(text) if not character.isspace()]
        spans, seen = [], 0
        for end in range(1, len(token_ids) + 1):
            opening = decode_text(self.generator_tokenizer, token_ids[:end])
            count = min(len("".join(opening.split())), len(places))
            spans.append((places[seen], places[count - 1] + 1) if count > seen else (0, 0))
            seen = max(seen, count)
        return spans
