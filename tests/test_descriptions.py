"""The bank's descriptions, and responses joined from them, under the sentence encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from lagamc.descriptions import Texts
from lagamc.encoders import unit_embeddings
from lagamc.modeling import LagamcModel


@pytest.mark.parametrize("generator", ["tiny_t5", "tiny_bart"])
def test_the_bank_is_encoded_as_by_encode(
    generator: str, make_model: Callable[..., LagamcModel], request: pytest.FixtureRequest
) -> None:
    model = make_model(request.getfixturevalue(generator)).eval()
    expected = model.sentence_encoder.encode([t + "." for t in model.codec.bank.descriptions], convert_to_tensor=True)
    assert torch.allclose(model.encode_bank(), expected, atol=1e-5)
    pairs = [F.cosine_similarity(expected[i], expected[j], dim=0) for i in range(4) for j in range(i)]
    assert model.collapse() == pytest.approx(float(sum(pairs)) / 6, abs=1e-5)


# bank positions of the descriptions of five responses, and the response of each
LABELS = torch.tensor([0, 2, 1, 0, 2, 0, 1, 3])
ROWS = torch.tensor([0, 0, 1, 2, 2, 3, 4, 4])


@torch.no_grad()
def test_responses_are_encoded_as_by_encode_with_and_without_the_bank(
    make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    model = make_model(tiny_t5).eval()
    texts = [""] * 5
    for label, row in zip(LABELS.tolist(), ROWS.tolist(), strict=True):
        texts[row] = f"{texts[row]} {model.codec.bank.descriptions[label]}.".strip()
    expected = model.sentence_encoder.encode(texts, convert_to_tensor=True)
    for encoded in (None, torch.arange(4), torch.tensor([0, 1, 3])):
        texts, place = model.descriptions.responses(LABELS, ROWS, encoded)
        assert texts is not None
        groups = [] if encoded is None else [model.descriptions.single(encoded)]
        known = torch.cat(model.descriptions.joined(*groups, texts))
        torch.testing.assert_close(known[place], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("known", "encoded"), [([0, 1, 2, 3], 2), ([0, 2, 3], 3), (None, 4)])
def test_equal_responses_are_encoded_once_and_known_ones_not_again(
    known: list[int] | None, encoded: int, make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    """Of five responses two are the same, and of the four different ones two are a single description."""
    there = None if known is None else torch.tensor(known)
    texts, place = make_model(tiny_t5).descriptions.responses(LABELS, ROWS, there)
    assert texts is not None
    assert len(texts.rows.unique()) == encoded
    assert place[0] == place[2]


def test_responses_that_the_bank_knows_all_need_no_text(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    texts, place = make_model(tiny_t5).descriptions.responses(
        torch.tensor([2, 0]), torch.tensor([0, 1]), torch.tensor([0, 2, 3])
    )
    assert texts is None
    assert place.tolist() == [1, 0]


@torch.no_grad()
def test_texts_encoded_together_are_as_if_alone(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    """Groups of different width, one with differences added to its pieces."""
    descriptions = make_model(tiny_t5).eval().descriptions
    bank = descriptions.everything
    added = torch.randn(len(LABELS), descriptions.piece_ids.shape[1], descriptions.embedding_table.shape[1])
    moved = Texts(descriptions.piece_ids[LABELS], descriptions.piece_lengths[LABELS], ROWS, added)
    together = descriptions.joined(bank, moved, bank)
    for group, embeddings in zip((bank, moved, bank), together, strict=True):
        torch.testing.assert_close(embeddings, descriptions.joined(group)[0], atol=1e-5, rtol=1e-5)
    still = Texts(moved.piece_ids, moved.lengths, moved.rows)
    assert not torch.allclose(descriptions.joined(still)[0], together[1], atol=1e-3)


def test_a_default_prompt_of_the_encoder_is_left_out_everywhere(
    make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    model = make_model(tiny_t5).eval()
    texts = [text + "." for text in model.codec.bank.descriptions]
    plain = unit_embeddings(model.sentence_encoder, texts)
    model.sentence_encoder.prompts = {"query": "find what is meant: "}
    model.sentence_encoder.default_prompt_name = "query"
    assert not np.allclose(model.sentence_encoder.encode(texts, normalize_embeddings=True), plain, atol=1e-3)
    assert np.array_equal(unit_embeddings(model.sentence_encoder, texts), plain)
    assert model.bridge_similarities().min() > 0.999


def test_an_encoder_without_a_bound_reads_as_much_as_one_can_expect(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    transformer = Transformer(str(tiny_t5))
    modules = [transformer, Pooling(transformer.auto_model.config.d_model, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path), create_model_card=False)
    assert SentenceTransformer(str(tmp_path), device="cpu").max_seq_length > 10**20  # what there is to mend
    model = make_model(tiny_t5, encoder=tmp_path).eval()
    assert model.sentence_encoder.max_seq_length == 512
    expected = model.sentence_encoder.encode([t + "." for t in model.codec.bank.descriptions], convert_to_tensor=True)
    assert torch.allclose(model.encode_bank(), expected, atol=1e-5)
