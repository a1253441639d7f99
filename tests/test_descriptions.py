"""The bank's descriptions, and responses joined from them, under the sentence encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

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
    found = model.descriptions.responses(LABELS, ROWS)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.descriptions.responses(LABELS, ROWS, model.encode_bank()), found)


@torch.no_grad()
@pytest.mark.parametrize(("with_bank", "encoded"), [(True, 2), (False, 4)])
def test_equal_responses_are_encoded_once_and_known_ones_not_again(
    with_bank: bool,
    encoded: int,
    make_model: Callable[..., LagamcModel],
    tiny_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of five responses two are the same, and of the four different ones two are a single description."""
    model = make_model(tiny_t5).eval()
    bank, counts, encode = model.encode_bank(), list[int](), model.descriptions.encode
    monkeypatch.setattr(
        model.descriptions, "encode", lambda embeds, mask: counts.append(len(embeds)) or encode(embeds, mask)
    )
    model.descriptions.responses(LABELS, ROWS, bank if with_bank else None)
    assert counts == [encoded]
