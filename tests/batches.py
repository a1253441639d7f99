"""Labelled texts, and a batch of them as a model trains on it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lagamc.data import Example
from lagamc.encoders import pieces_to_read
from lagamc.encoding import LagamcCollator, encode_examples
from lagamc.modeling import LagamcModel
from lagamc.prompts import Prompt
from lagamc.trainer import MODEL_INPUTS

FORMS = ["response", "description", "contrastive"]
LABEL_SETS = [["late", "refund"], [], ["praise"], ["late", "broken", "refund"]]
TEXTS = ["Where is my parcel?", "Are you hiring?", "Lovely shop, thank you so much!", "It came late and broken."]


def example(text: str, *labels: str) -> Example:
    return Example(text, text, labels)


def batch_of(
    model: LagamcModel, label_sets: Sequence[Sequence[str]] = LABEL_SETS, texts: Sequence[str] = TEXTS
) -> dict[str, Tensor]:
    examples = [
        Example(str(i), text, tuple(labels)) for i, (text, labels) in enumerate(zip(texts, label_sets, strict=True))
    ]
    pieces = pieces_to_read(model, texts, 64)
    data, _ = encode_examples(examples, model.tokenizer, Prompt(), model.codec, 64, 128, text_pieces=pieces)
    rows = LagamcCollator(model.tokenizer.pad_token_id, len(model.codec.bank))([data[i] for i in range(len(data))])
    return {name: rows[name] for name in MODEL_INPUTS if name in rows}
