"""The label descriptions as the sentence encoder reads them: embeddings with gradient, from single pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lagamc.bridge import AlignedText, PaddedAlignments, pad_alignments
from lagamc.prompts import special_tokens

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def encoder_backbone(encoder: SentenceTransformer) -> Any:
    """The `transformers` model inside a sentence encoder."""
    first: Any = encoder[0]
    return first.auto_model


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

    def bank(self) -> Tensor:
        """Embeddings of all descriptions, (labels, dimensions)."""
        everything = torch.arange(len(self.piece_ids), device=self.piece_ids.device)
        return self.joined(self.piece_ids, self.piece_lengths, everything)

    def responses(self, label: Tensor, rows: Tensor, bank: Tensor | None = None) -> Tensor:
        """Embeddings of the true responses; rows with the same labels are encoded once.

        Args:
            label: (descriptions,) bank position of each.
            rows: (descriptions,) the row each belongs to, ascending.
            bank: (labels, dimensions) what `bank` gave; a response of one description is taken from it.

        Returns:
            (rows with labels, dimensions).
        """
        sets: dict[int, tuple[int, ...]] = {}
        for row, member in zip(rows.tolist(), label.tolist(), strict=True):
            sets[row] = (*sets.get(row, ()), member)
        distinct = [members for members in dict.fromkeys(sets.values()) if bank is None or len(members) > 1]
        known = [] if bank is None else [bank]
        if distinct:
            members = torch.tensor([label for members in distinct for label in members], device=label.device)
            owners = torch.tensor([i for i, members in enumerate(distinct) for _ in members], device=label.device)
            known.append(self.joined(self.piece_ids[members], self.piece_lengths[members], owners))
        offset = 0 if bank is None else len(bank)
        place = {members: offset + i for i, members in enumerate(distinct)}
        chosen = [place[members] if members in place else members[0] for members in sets.values()]
        return torch.cat(known)[torch.tensor(chosen, device=label.device)]

    def joined(self, piece_ids: Tensor, lengths: Tensor, rows: Tensor, added: Tensor | None = None) -> Tensor:
        """Encodes texts whose descriptions are given one by one.

        Args:
            piece_ids: (descriptions, pieces) of the encoder.
            lengths: (descriptions,) pieces of each.
            rows: (descriptions,) the text each belongs to, ascending.
            added: (descriptions, pieces, dimensions) to the embeddings of the pieces.

        Returns:
            (texts, dimensions), texts in the order of their first description.
        """
        _, text = torch.unique_consecutive(rows, return_inverse=True)
        texts = int(text[-1]) + 1
        ends = torch.cumsum(lengths, 0)
        first = torch.zeros(texts, dtype=torch.long, device=rows.device)
        first = first.scatter_reduce(0, text, ends - lengths, "amin", include_self=False)
        total = torch.zeros(texts, dtype=torch.long, device=rows.device).scatter_add_(0, text, lengths)
        lead, tail = len(self.head_ids), len(self.tail_ids)
        limit = (self._encoder[0].max_seq_length or 512) - lead - tail
        total = total.clamp_max(limit)
        width = int(total.max()) + lead + tail
        steps = torch.arange(piece_ids.shape[1], device=rows.device)
        place = lead + (ends - lengths - first[text])[:, None] + steps
        keep = (steps < lengths[:, None]) & (place < lead + limit)
        where = (text[:, None].expand_as(place)[keep], place[keep])
        ids = torch.full((texts, width), self.padding_id, device=rows.device)
        ids[where] = piece_ids[keep]
        ids[:, :lead] = self.head_ids
        behind = (lead + total)[:, None] + torch.arange(tail, device=rows.device)
        ids.scatter_(1, behind, self.tail_ids.expand_as(behind))
        # one look-up in the table: each has a gradient of the table's size
        embeds = self.embedding_table[ids]
        if added is not None:
            embeds = embeds.index_put(where, added[keep].to(embeds.dtype), accumulate=True)
        mask = torch.arange(width, device=rows.device) < (lead + total + tail)[:, None]
        return self.encode(embeds, mask.long())

    def encode(self, embeds: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sentence embeddings, (texts, dimensions).

        Args:
            embeds: (texts, pieces, dimensions) input embeddings, special tokens included.
            mask: (texts, pieces); None where nothing is padding.
        """
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        return self._encoder[0]({"inputs_embeds": embeds, "attention_mask": mask})["sentence_embedding"]
