"""Token ids of examples, and batches of them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer

from lagamc.encoding import LOSS_IGNORE, ClippedShares, LagamcCollator, encode_examples
from lagamc.labels import LabelBank
from lagamc.prompts import END_OF_RESPONSE, Prompt, ResponseCodec
from tests.batches import example


def test_encode_examples(tiny_t5: Path, bank: LabelBank) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    codec = ResponseCodec(bank, tokenizer)
    examples = [example("where is my parcel", "praise", "late"), example("are you hiring")]
    data, shares = encode_examples(examples, tokenizer, Prompt("First read"), codec, 100, 100)
    assert shares == ClippedShares(0.0, 0.0)
    expected, _ = codec.encode([0, 3])
    row = data[0]
    assert row["input_ids"] == Prompt("First read").encode(tokenizer, [examples[0].text], 100)[0][0]
    assert (row["labels"], row["label_index"], row["decisions"]) == (
        expected.token_ids,
        expected.label_index,
        expected.decisions,
    )
    assert (sorted(row["truth"]), row["row"], row["length"]) == ([0, 3], 0, len(row["input_ids"]))
    assert (data[1]["labels"], data[1]["truth"], data[1]["row"]) == ([codec.end_token_id], [], 1)


def test_clipped_shares(tiny_t5: Path, bank: LabelBank) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    codec = ResponseCodec(bank, tokenizer)
    examples = [
        example("the lamp is broken and " * 20, "late"),
        example("late", "late", "broken"),
        example("late", "late", "broken"),
        example("late"),
    ]
    fits = codec.longest([[0]])
    data, shares = encode_examples(examples, tokenizer, Prompt(), codec, 20, fits)
    assert shares == ClippedShares(prompts=0.25, responses=0.5)
    assert max(data["length"]) == 20
    assert max(len(ids) for ids in data["labels"]) == fits
    assert sorted(data[1]["truth"]) == [0, 1], "the truth keeps labels that the response has no room for"


def test_every_window_of_a_long_text_is_a_row(tiny_t5: Path, bank: LabelBank) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    codec = ResponseCodec(bank, tokenizer)
    examples = [example("late", "late"), example("the lamp is broken and " * 20, "broken", "refund")]
    data, shares = encode_examples(examples, tokenizer, Prompt(), codec, 20, 100, 10)
    windows, owners, _ = Prompt().encode_windows(tokenizer, [e.text for e in examples], 20, 10)
    assert len(windows) > 5
    assert shares.prompts == 0.0
    assert (data["input_ids"][:], data["row"][:]) == (windows, owners)
    assert "text_pieces" not in data.column_names
    pieces = [[7], [8, 9]]
    data, _ = encode_examples(examples, tokenizer, Prompt(), codec, 20, 100, 10, pieces)
    assert data["text_pieces"][:] == [pieces[owner] for owner in owners], "the sentence encoder reads the whole text"
    assert all(sorted(row["truth"]) == [1, 2] and row["labels"] == data[1]["labels"] for row in data if row["row"])


def test_collator(tiny_t5: Path, bank: LabelBank) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    codec = ResponseCodec(bank, tokenizer)
    examples = [example("where is my parcel", "late", "praise"), example("late"), example("is it", "refund")]
    data, _ = encode_examples(examples, tokenizer, Prompt(), codec, 100, 100)
    rows = [data[2], data[0], data[1]]
    batch = LagamcCollator(pad_token_id=1000, labels=4)(rows)
    assert batch["row"].tolist() == [2, 0, 1]
    assert batch["truth"].tolist() == [[0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
    padding = {"input_ids": 1000, "labels": LOSS_IGNORE, "label_index": LOSS_IGNORE, "decisions": False}
    for name, value in padding.items():
        longest = max(len(row[name]) for row in rows)
        assert batch[name].tolist() == [row[name] + [value] * (longest - len(row[name])) for row in rows], name
    assert batch["attention_mask"].sum(1).tolist() == [row["length"] for row in rows]
    assert batch["attention_mask"].shape == batch["input_ids"].shape
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 1000).all()
    assert (batch["input_ids"][batch["attention_mask"] == 1] != 1000).all()
    assert "text_pieces" not in batch
    assert batch["decisions"].dtype == torch.bool
    assert (batch["label_index"] == END_OF_RESPONSE).sum() == 3


def test_collator_pads_the_pieces_of_the_sentence_encoder(tiny_t5: Path, bank: LabelBank) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    codec = ResponseCodec(bank, tokenizer)
    examples = [example("is it"), example("late"), example("\u200b")]
    data, _ = encode_examples(examples, tokenizer, Prompt(), codec, 100, 100, text_pieces=[[7, 8], [9], []])
    collator = LagamcCollator(97, 4, piece_pad_id=5)
    batch = collator([data[i] for i in range(3)])
    assert batch["text_pieces"].tolist() == [[7, 8], [9, 5], [5, 5]]
    assert batch["text_lengths"].tolist() == [2, 1, 0]
    assert collator([data[2]])["text_pieces"].tolist() == [[5]]
