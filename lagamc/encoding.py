"""Examples as token ids, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lagamc.data import Example
from lagamc.prompts import Prompt, ResponseCodec

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

LOSS_IGNORE = -100


@dataclass(frozen=True)
class ClippedShares:
    """Shares of rows, 0 to 1, whose text or response did not fit."""

    prompts: float
    responses: float


def encode_examples(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    codec: ResponseCodec,
    max_input_length: int,
    max_response_length: int,
    window_stride: int = 0,
    text_pieces: Sequence[Sequence[int]] | None = None,
) -> tuple[Dataset, ClippedShares]:
    """Token ids for the trainer. With a stride every window of a long text is a row with all of the text's labels.

    Args:
        examples: with labels of the codec's bank.
        tokenizer: the generator's.
        prompt: around each text.
        codec: of the responses.
        max_input_length: tokens of prompt and text.
        max_response_length: tokens of a response.
        window_stride: tokens from one window to the next; 0 cuts long texts.
        text_pieces: the text of each example as the sentence encoder reads it, where that takes part.

    Returns:
        a data set with `input_ids`, `labels` (the response), `label_index`, `decisions` (see `prompts.Response`),
        `truth` (bank positions of all its labels), `row` (position in `examples`), `length` and, where they are given,
        `text_pieces`; and the clipped shares.
    """
    from datasets import Dataset

    texts = [example.text for example in examples]
    inputs, owners, cut = prompt.encode_windows(tokenizer, texts, max_input_length, window_stride)
    encoded = [codec.encode(codec.bank.index(example.labels), max_response_length) for example in examples]
    responses = [encoded[owner][0] for owner in owners]
    columns: dict[str, list[Any]] = {
        "input_ids": inputs,
        "labels": [response.token_ids for response in responses],
        "label_index": [response.label_index for response in responses],
        "decisions": [response.decisions for response in responses],
        "truth": [codec.bank.index(examples[owner].labels) for owner in owners],
        "row": owners,
        "length": [len(ids) for ids in inputs],
    }
    if text_pieces is not None:
        columns["text_pieces"] = [text_pieces[owner] for owner in owners]
    rows = max(1, len(examples))
    return Dataset.from_dict(columns), ClippedShares(sum(cut) / rows, sum(clipped for _, clipped in encoded) / rows)


@dataclass
class LagamcCollator:
    """Pads rows of `encode_examples` to the longest of the batch.

    Args:
        pad_token_id: the generator's.
        labels: size of the bank.
        padding_side: of the texts: `right`, or `left` for a decoder-only generator.
        piece_pad_id: the sentence encoder's.
    """

    pad_token_id: int
    labels: int
    padding_side: str = "right"
    piece_pad_id: int = 0

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `attention_mask`, `labels`, `label_index`, `decisions`, each (rows, tokens), `truth`,
        (rows, labels) 0 or 1, `row`, (rows,), and where the rows have them `text_pieces`, (rows, pieces), and
        `text_lengths`, (rows,).
        """
        truth = torch.zeros(len(rows), self.labels, dtype=torch.int8)
        for i, row in enumerate(rows):
            truth[i, row["truth"]] = 1
        inputs, mask = pad_texts([row["input_ids"] for row in rows], self.pad_token_id, self.padding_side)
        batch = {
            "input_ids": inputs,
            "attention_mask": mask,
            "labels": pad([row["labels"] for row in rows], LOSS_IGNORE),
            "label_index": pad([row["label_index"] for row in rows], LOSS_IGNORE),
            "decisions": pad([row["decisions"] for row in rows], False),
            "truth": truth,
            "row": torch.tensor([row["row"] for row in rows]),
        }
        if "text_pieces" in rows[0]:
            batch["text_pieces"], batch["text_lengths"] = pad_pieces(
                [row["text_pieces"] for row in rows], self.piece_pad_id
            )
        return batch


def pad_texts(rows: Sequence[Sequence[int]], value: int, side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of texts and their attention mask, (rows, tokens), padded on a side."""
    if side == "right":
        return pad(rows, value), pad([[1] * len(row) for row in rows], 0)
    turned = [row[::-1] for row in rows]
    return pad(turned, value).flip(1), pad([[1] * len(row) for row in rows], 0).flip(1)


def pad_pieces(rows: Sequence[Sequence[int]], value: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of texts, (rows, tokens), and how many each has, (rows,); there may be none."""
    return pad([row or [value] for row in rows], value), torch.tensor([len(row) for row in rows])


def pad(sequences: Sequence[Sequence[Any]], value: Any) -> torch.Tensor:
    """Sequences of different length as one tensor, filled up on the right."""
    longest = max(len(sequence) for sequence in sequences)
    return torch.tensor([[*sequence, *[value] * (longest - len(sequence))] for sequence in sequences])
