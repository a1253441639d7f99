"""Reading a text and writing behind it, for every kind of generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, BartConfig, M2M100Config, M2M100ForConditionalGeneration

from lagamc.backbones import check_lengths
from lagamc.encoding import pad_texts
from lagamc.errors import LagamcError
from lagamc.lengths import parts_by_length
from lagamc.modeling import LagamcModel

GENERATORS = ["tiny_t5", "tiny_bart", "tiny_m2m", "tiny_llama", "tiny_mistral"]
TEXTS = [[0, 40, 41, 42, 43, 44, 45, 46, 47, 48], [0, 50, 51], [0, *range(20, 54)], [0]]
WRITTEN = [[30, 31, 32, 33, 34], [35], [], [36, 37]]


@pytest.fixture(scope="session")
def tiny_m2m(tiny_bart: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random M2M-100: positions without weights, scaled embeddings, no method that shifts the labels."""
    folder = tmp_path_factory.mktemp("tiny-m2m")
    config = M2M100Config.from_dict({**BartConfig.from_pretrained(tiny_bart).to_dict(), "model_type": "m2m_100"})
    torch.manual_seed(0)
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bart).save_pretrained(folder)
    return folder


@pytest.fixture(params=GENERATORS)
def model(request: pytest.FixtureRequest, make_model: Callable[..., LagamcModel], lora: bool) -> LagamcModel:
    built = make_model(request.getfixturevalue(request.param), lora=lora, label_vocabulary=False).eval()
    torch.manual_seed(1)
    for name, parameter in built.generator.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return built


@torch.no_grad()
def _alone(model: LagamcModel, text: list[int], written: list[int]) -> Tensor:
    """Logits behind the start and every written token, of one text without any padding."""
    if model.base_generator.config.is_encoder_decoder:
        start = model.generation_config.decoder_start_token_id
        decoder_ids = torch.tensor([[start, *written]])
        logits = model.generator(input_ids=torch.tensor([text]), decoder_input_ids=decoder_ids).logits[0]
    else:
        logits = model.generator(input_ids=torch.tensor([[*text, *written]])).logits[0, len(text) - 1 :]
    return logits[:, model.vocabulary.token_ids] if logits.shape[-1] != len(model.vocabulary) else logits


def _batch(model: LagamcModel) -> tuple[Tensor, Tensor]:
    return pad_texts(TEXTS, model.backbone.padding_id, model.backbone.padding_side)


@pytest.mark.parametrize("lora", [False, True])
@torch.no_grad()
def test_teacher_forcing_is_not_changed_by_padding(model: LagamcModel) -> None:
    width = max(len(row) for row in WRITTEN) + 1
    labels = torch.tensor([[*row, model.codec.end_token_id, *[-100] * (width - len(row) - 1)] for row in WRITTEN])
    logits, states = model.response_logits(*_batch(model), labels)
    assert states.shape == (4, 35, model.backbone.hidden_size)
    for row, (text, written) in enumerate(zip(TEXTS, WRITTEN, strict=True)):
        torch.testing.assert_close(logits[row, : len(written) + 1], _alone(model, text, written), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lora", [False, True])
@torch.no_grad()
def test_writing_behind_a_reading_equals_reading_all_again(model: LagamcModel) -> None:
    reading = model.backbone.read(*_batch(model))
    rows = [2, 0, 0, 1, 3, 2]
    written = [[33, 34, 35], [], [60, 61, 62, 63, 64, 65], [70], [71, 72], [33]]
    for _ in range(2):  # a reading is not used up
        with model.vocabulary.restricted_head(model.base_generator):
            logits = model.backbone.continued(reading, rows, written)
        assert logits.shape[:2] == (6, 7)
        for i, (row, tokens) in enumerate(zip(rows, written, strict=True)):
            expected = _alone(model, TEXTS[row], tokens)
            torch.testing.assert_close(logits[i, : len(tokens) + 1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("generator", ["tiny_t5", "tiny_bart"])
@torch.no_grad()
def test_a_decoder_projects_the_text_once(
    generator: str, make_model: Callable[..., LagamcModel], request: pytest.FixtureRequest
) -> None:
    model = make_model(request.getfixturevalue(generator)).eval()
    reading = model.backbone.read(*_batch(model))
    first = model.backbone.continued(reading, [1, 0], [[30, 31], [32]])
    forgotten = replace(reading, states=torch.full_like(reading.states, torch.nan))
    assert torch.equal(model.backbone.continued(forgotten, [1, 0], [[30, 31], [32]]), first)


@pytest.mark.parametrize("lora", [False])
@torch.no_grad()
def test_generation_is_not_changed_by_padding(model: LagamcModel) -> None:
    ids, mask = _batch(model)
    together = model.generate(ids, mask, max_new_tokens=8, do_sample=False)
    for row, text in enumerate(TEXTS):
        alone = model.generate(
            torch.tensor([text]), torch.ones(1, len(text)).long(), max_new_tokens=8, do_sample=False
        )
        assert together[row, : alone.shape[1]].tolist() == alone[0].tolist()
    logits = _alone(model, TEXTS[0], [])
    assert int(together[0, 0]) == int(model.vocabulary.token_ids[logits[0].argmax()])


@pytest.mark.parametrize("generator", ["tiny_t5", "tiny_bart"])
def test_responses_in_parts_have_the_logits_of_the_whole(
    generator: str, make_model: Callable[..., LagamcModel], request: pytest.FixtureRequest, monkeypatch: Any
) -> None:
    model = make_model(request.getfixturevalue(generator)).eval()
    ids, mask = _batch(model)
    labels = torch.full((len(ids), 40), -100)
    for row, length in enumerate(torch.arange(len(ids)) * 12 + 2):
        labels[row, :length] = torch.arange(int(length)) % 7 + 5
    assert len(parts_by_length((labels >= 0).sum(1).tolist())) > 1
    logits, states = model.backbone.teacher_forced(ids, mask, labels)
    monkeypatch.setattr("lagamc.lengths.MOST_PARTS", 1)
    whole, same = model.backbone.teacher_forced(ids, mask, labels)
    real = labels >= 0
    torch.testing.assert_close(logits[real], whole[real], atol=1e-5, rtol=1e-5)
    assert torch.equal(states, same)


@pytest.mark.parametrize(
    ("generator", "free", "message"),
    [
        ("tiny_t5", None, ""),
        ("tiny_bart", 256, "a response: the generator knows 256 positions, found 257"),
        ("tiny_llama", 412, "max_input_length: the generator knows 512 positions, found 513"),
    ],
)
def test_positions_that_a_text_leaves(
    generator: str,
    free: int | None,
    message: str,
    make_model: Callable[..., LagamcModel],
    request: pytest.FixtureRequest,
) -> None:
    """Where the response follows the text, as many fewer as that has tokens."""
    backbone = make_model(request.getfixturevalue(generator)).backbone
    assert backbone.response_positions(100) == free
    check_lengths(backbone, 100, free or 10**6)
    if free is not None:
        with pytest.raises(LagamcError, match=message):
            check_lengths(backbone, 100, free + 1)
