"""The label vocabulary and the head restricted to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from lagamc.generators import load_generator
from lagamc.modeling import LagamcModel
from lagamc.vocabulary import LabelVocabulary, VocabularyMask

TOKENS = [40, 7, 2, 7, 19]
INPUTS: dict[str, Any] = {
    "input_ids": torch.tensor([[5, 9, 11, 3], [8, 4, 6, 2]]),
    "decoder_input_ids": torch.tensor([[2, 7, 40], [2, 19, 19]]),
}


def test_localise_gives_positions_and_0_for_strangers() -> None:
    vocabulary = LabelVocabulary(TOKENS)
    assert vocabulary.token_ids.tolist() == [2, 7, 19, 40]
    assert len(vocabulary) == 4
    assert vocabulary.localise(torch.tensor([[40, 2, -100], [19, 7, 1000]])).tolist() == [[3, 0, 0], [2, 1, 0]]
    assert vocabulary.localise(torch.tensor([8])).tolist() == [0]


def test_localise_leaves_ids_where_they_are() -> None:
    """Those of label scores are made on the CPU, wherever the model is."""
    vocabulary = LabelVocabulary(TOKENS)
    with FakeTensorMode() as mode:
        there = torch.empty(4, dtype=torch.long, device="meta")
        vocabulary.token_ids = FakeTensor(mode, there, torch.device("cuda"))
        assert vocabulary.localise(torch.tensor([40, 2])).device.type == "cpu"


def test_extend_adds_tokens() -> None:
    vocabulary = LabelVocabulary(TOKENS)
    assert vocabulary.extend([3, 7]).token_ids.tolist() == [2, 3, 7, 19, 40]
    assert vocabulary.token_ids.tolist() == [2, 7, 19, 40]


@pytest.mark.parametrize("generator", ["tiny_t5", "tiny_bart"])
def test_restricted_logits_are_the_full_ones_at_the_label_tokens(
    generator: str, request: pytest.FixtureRequest
) -> None:
    model = load_generator(str(request.getfixturevalue(generator))).eval()
    if generator == "tiny_bart":
        assert model.final_logits_bias.abs().max() > 0.1  # the fixture's bias counts
    vocabulary = LabelVocabulary(TOKENS)
    with torch.no_grad():
        full = model(**INPUTS).logits
        with vocabulary.restricted_head(model):
            restricted = model(**INPUTS).logits
        after = model(**INPUTS).logits
    assert restricted.shape == (2, 3, 4)
    assert torch.allclose(restricted, full[..., [2, 7, 19, 40]], atol=1e-6)
    assert torch.equal(after, full)


@pytest.mark.parametrize("generator", ["tiny_t5", "tiny_bart"])
def test_the_head_is_untouched_afterwards(generator: str, request: pytest.FixtureRequest) -> None:
    model = load_generator(str(request.getfixturevalue(generator)))
    head, state = model.get_output_embeddings(), {k: v.clone() for k, v in model.state_dict().items()}
    bias = getattr(model, "final_logits_bias", None)

    def fail_inside() -> None:
        with LabelVocabulary(TOKENS).restricted_head(model):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert model.get_output_embeddings() is head
    assert "forward" not in vars(head)
    assert head.weight is model.get_input_embeddings().weight  # still tied
    assert getattr(model, "final_logits_bias", None) is bias
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_gradients_reach_only_the_rows_of_the_vocabulary(tiny_bart: Path) -> None:
    model = load_generator(str(tiny_bart))
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # untied: the rest reaches it through the inputs
    with LabelVocabulary(TOKENS).restricted_head(model):
        model(**INPUTS).logits.square().sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum(1).nonzero()[:, 0].tolist() == [2, 7, 19, 40]


def test_other_heads_are_refused(tiny_t5: Path) -> None:
    model = load_generator(str(tiny_t5))
    model.lm_head = torch.nn.Identity()
    with pytest.raises(TypeError, match="Identity"), LabelVocabulary(TOKENS).restricted_head(model):
        pass


def test_mask_keeps_scores_of_the_tokens_alone() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    masked = VocabularyMask(torch.tensor([1, 3]))(torch.zeros(1, 1, dtype=torch.long), scores)  # type: ignore[arg-type]
    assert masked.tolist() == [[float("-inf"), pytest.approx(0.2), float("-inf"), pytest.approx(0.4)]]


@pytest.mark.parametrize("generator", ["tiny_t5", "tiny_bart"])
@pytest.mark.parametrize("beams", [1, 3])
def test_generate_keeps_within_the_label_vocabulary(
    generator: str, beams: int, make_model: Callable[..., LagamcModel], request: pytest.FixtureRequest
) -> None:
    model = make_model(request.getfixturevalue(generator)).eval()
    config = model.generation_config
    allowed = {*model.vocabulary.token_ids.tolist(), config.pad_token_id, config.decoder_start_token_id}
    inputs = {"input_ids": torch.arange(4, 84).view(8, 10), "attention_mask": torch.ones(8, 10, dtype=torch.long)}
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": beams == 1, "num_beams": beams}
    torch.manual_seed(0)
    assert set(model.generate(**inputs, **settings).flatten().tolist()) <= allowed
    if beams == 1:  # drawn from the nearly uniform random model: others would come
        torch.manual_seed(0)
        assert not set(model.generate(**inputs, restrict=False, **settings).flatten().tolist()) <= allowed
