"""The label descriptions as the sentence encoder reads them: embeddings with gradient, from single pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lagamc.bridge import AlignedText, PaddedAlignments, pad_alignments
from lagamc.encoding import pad_pieces
from lagamc.lengths import in_parts
from lagamc.prompts import special_tokens

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def encoder_backbone(encoder: SentenceTransformer) -> Any:
    """The `transformers` model inside a sentence encoder."""
    first: Any = encoder[0]
    return first.auto_model


@dataclass(frozen=True)
class Texts:
    """Texts whose descriptions are given one by one.

    Args:
        piece_ids: (descriptions, pieces) of the encoder.
        lengths: (descriptions,) pieces of each.
        rows: (descriptions,) the text each belongs to, ascending.
        added: (descriptions, pieces, dimensions) to the embeddings of the pieces.
    """

    piece_ids: Tensor
    lengths: Tensor
    rows: Tensor
    added: Tensor | None = None

    @classmethod
    def apart(cls, piece_ids: Tensor, lengths: Tensor) -> Texts:
        """Each a text of its own."""
        return cls(piece_ids, lengths, torch.arange(len(lengths), device=lengths.device))


class DescriptionEncoder(nn.Module):
    """Encodes the descriptions of a bank, and texts joined from them, by a sentence encoder that is being trained.

    Args:
        encoder: the sentence encoder; it stays a part of the model around it, not of this module.
        descriptions: of the bank, aligned with the generator's tokens.
        tokens: the most tokens of a description.
    """

    piece_ids: Tensor
    alignment: Tensor
    piece_lengths: Tensor
    head_ids: Tensor
    tail_ids: Tensor

    def __init__(self, encoder: SentenceTransformer, descriptions: Sequence[AlignedText], tokens: int):
        super().__init__()
        self._encoder = (encoder,)  # in a tuple, it is not registered a second time
        self.keeps_bank = False
        self._kept: Tensor | None = None
        head, tail = special_tokens(encoder.tokenizer)
        self.padding_id = int(encoder.tokenizer.pad_token_id or 0)
        aligned = pad_alignments(descriptions, tokens, self.padding_id)
        self.register_buffer("piece_ids", aligned.piece_ids, persistent=False)
        self.register_buffer("alignment", aligned.alignment, persistent=False)
        self.register_buffer("piece_lengths", aligned.lengths, persistent=False)
        self.register_buffer("head_ids", torch.tensor(head, dtype=torch.long), persistent=False)
        self.register_buffer("tail_ids", torch.tensor(tail, dtype=torch.long), persistent=False)

    @property
    def embedding_table(self) -> Tensor:
        """(pieces, dimensions): the sentence encoder's live input embeddings."""
        return encoder_backbone(self._encoder[0]).get_input_embeddings().weight

    def of_labels(self, labels: Tensor) -> PaddedAlignments:
        """The descriptions of some labels, (descriptions,) positions in the bank."""
        return PaddedAlignments(self.piece_ids[labels], self.alignment[labels], self.piece_lengths[labels])

    @property
    def everything(self) -> Texts:
        """Every description as a text of its own."""
        return self.single(torch.arange(len(self.piece_ids), device=self.piece_ids.device))

    def of_bank(self, labels: Tensor | None = None) -> Tensor:
        """Embeddings of the descriptions, (labels, dimensions).

        Args:
            labels: positions of some, (labels,), ascending.
        """
        if self._kept is not None:
            return self._kept if labels is None else self._kept[labels]
        embeddings = self.joined(self.everything if labels is None else self.single(labels))[0]
        if self.keeps_bank and len(embeddings) == len(self.piece_ids):
            self._kept = embeddings.detach()
        return embeddings

    @contextmanager
    def keeping_bank(self) -> Iterator[None]:
        """Inside the context the whole bank is encoded once, for evaluation: the weights must not change."""
        self.keeps_bank = True
        try:
            yield
        finally:
            self.keeps_bank, self._kept = False, None

    def single(self, labels: Tensor) -> Texts:
        """The descriptions of some labels, (descriptions,) positions in the bank, as texts of their own."""
        return Texts.apart(self.piece_ids[labels], self.piece_lengths[labels])

    def texts(self, pieces: Sequence[Sequence[int]]) -> Tensor:
        """Embeddings of any texts, (texts, dimensions), as a training step reads them.

        Args:
            pieces: token ids of each, without special tokens.
        """
        ids, lengths = (part.to(self.piece_ids.device) for part in pad_pieces(pieces, self.padding_id))
        return self.read(ids, lengths)

    def read(self, piece_ids: Tensor, lengths: Tensor, dropout: float = 0.0) -> Tensor:
        """As `texts`, of pieces that are padded already.

        Args:
            piece_ids: (texts, pieces).
            lengths: (texts,) pieces of each.
            dropout: in training; descriptions, which a response has to match, are embedded without.
        """
        layers = [m for m in self._encoder[0].modules() if isinstance(m, nn.Dropout)] if dropout else []
        for layer in layers:
            layer.p = dropout
        embeddings = self.joined(Texts.apart(piece_ids, lengths))[0]
        for layer in layers:
            layer.p = 0.0
        return embeddings

    def responses(self, label: Tensor, rows: Tensor, encoded: Tensor | None) -> tuple[Texts | None, Tensor]:
        """The true responses as texts; rows with the same labels are encoded once.

        Args:
            label: (descriptions,) bank position of each.
            rows: (descriptions,) the row each belongs to, ascending.
            encoded: (descriptions,) bank positions of those that are encoded anyway: a response of one description is
                taken from there; None where there are none.

        Returns:
            the different texts, None where there are none; for each row with labels its place among the embeddings
            that are there anyway and behind them those of the texts.
        """
        place: dict[tuple[int, ...], int] = {}
        if encoded is not None:
            place = {(member,): i for i, member in enumerate(encoded.tolist())}
        sets: dict[int, tuple[int, ...]] = {}
        for row, member in zip(rows.tolist(), label.tolist(), strict=True):
            sets[row] = (*sets.get(row, ()), member)
        distinct = [members for members in dict.fromkeys(sets.values()) if members not in place]
        place |= {members: len(place) + i for i, members in enumerate(distinct)}
        chosen = [place[members] for members in sets.values()]
        texts = None
        if distinct:
            members = torch.tensor([label for members in distinct for label in members], device=label.device)
            owners = torch.tensor([i for i, members in enumerate(distinct) for _ in members], device=label.device)
            texts = Texts(self.piece_ids[members], self.piece_lengths[members], owners)
        return texts, torch.tensor(chosen, device=label.device)

    def joined(self, *groups: Texts) -> list[Tensor]:
        """Encodes groups of texts together: one look-up in the table, which has a gradient of the table's size.

        Returns:
            (texts, dimensions) of each group, texts in the order of their first description.
        """
        arranged = [self._arranged(group) for group in groups]
        width = max(ids.shape[1] for ids, _, _ in arranged)
        ids = torch.cat([F.pad(ids, (0, width - ids.shape[1]), value=self.padding_id) for ids, _, _ in arranged])
        sizes = torch.cat([sizes for _, sizes, _ in arranged])
        embeds = self.embedding_table[ids]
        first = 0
        for group, (own, _, (text, place, keep)) in zip(groups, arranged, strict=True):
            if group.added is not None:
                added = group.added[keep].to(embeds.dtype)
                embeds = embeds.index_put((first + text, place), added, accumulate=True)
            first += len(own)
        mask = (torch.arange(width, device=ids.device) < sizes[:, None]).long()
        encoded = in_parts(lambda part, wide: self.encode(embeds[part, :wide], mask[part, :wide]), sizes)
        return list(encoded.split([len(own) for own, _, _ in arranged]))

    def _arranged(self, texts: Texts) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Pieces of whole texts with the special tokens around them.

        Returns:
            (texts, pieces) ids; (texts,) their sizes; text and place of every piece of a description, and which of
            (descriptions, pieces) these are.
        """
        piece_ids, lengths, rows = texts.piece_ids, texts.lengths, texts.rows
        _, text = torch.unique_consecutive(rows, return_inverse=True)
        count = int(text[-1]) + 1
        ends = torch.cumsum(lengths, 0)
        first = torch.zeros(count, dtype=torch.long, device=rows.device)
        first = first.scatter_reduce(0, text, ends - lengths, "amin", include_self=False)
        total = torch.zeros(count, dtype=torch.long, device=rows.device).scatter_add_(0, text, lengths)
        lead, tail = len(self.head_ids), len(self.tail_ids)
        limit = (self._encoder[0].max_seq_length or 512) - lead - tail
        total = total.clamp_max(limit)
        steps = torch.arange(piece_ids.shape[1], device=rows.device)
        place = lead + (ends - lengths - first[text])[:, None] + steps
        keep = (steps < lengths[:, None]) & (place < lead + limit)
        owner = text[:, None].expand_as(place)[keep]
        ids = torch.full((count, int(total.max()) + lead + tail), self.padding_id, device=rows.device)
        ids[owner, place[keep]] = piece_ids[keep]
        ids[:, :lead] = self.head_ids
        behind = (lead + total)[:, None] + torch.arange(tail, device=rows.device)
        ids.scatter_(1, behind, self.tail_ids.expand_as(behind))
        return ids, lead + total + tail, (owner, place[keep], keep)

    def encode(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Sentence embeddings, (texts, dimensions).

        Args:
            embeds: (texts, pieces, dimensions) input embeddings, special tokens included.
            mask: (texts, pieces), 0 on padding.
        """
        return self._encoder[0]({"inputs_embeds": embeds, "attention_mask": mask})["sentence_embedding"]
