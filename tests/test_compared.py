"""Labels that a training step compares with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lagamc.compared import ComparedLabels
from lagamc.modeling import LagamcModel
from tests.batches import FORMS, TEXTS, batch_of


@pytest.mark.parametrize("form", FORMS)
def test_a_sample_of_the_bank_stands_for_all_of_it(
    form: str, make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    """On average over the draws, in training alone; the labels of the batch are always there."""
    model = make_model(tiny_t5, semantic_form=form, retrieval_weight=0.3).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = batch_of(model, [["late"], [], []], TEXTS[:3])
    whole = model(**batch)
    model.settings.bank_sample = 1
    draws = {round(drawn.retrieval.item(), 4): drawn for drawn in (model(**batch) for _ in range(40))}
    assert len(draws) == len(model.codec.bank) - 1  # the label that is sampled, all of them alike
    mean = torch.stack([drawn.retrieval for drawn in draws.values()]).mean()
    torch.testing.assert_close(mean, whole.retrieval)
    # the sample stands in the denominator of the contrastive form, of which the one labelled row is a third
    mean = torch.stack([torch.exp(3 * drawn.semantic) for drawn in draws.values()]).mean()
    torch.testing.assert_close(mean.log() / 3, whole.semantic)
    compared = ComparedLabels.of(batch["truth"], sample=1)
    assert len(compared.labels) == 2
    assert compared.counts.sum() == len(model.codec.bank)
    assert torch.equal(model.eval()(**batch).retrieval, whole.retrieval)


@pytest.mark.parametrize("sample", [None, 1])
def test_no_text_is_led_away_from_a_label_that_training_does_not_show(
    sample: int | None, make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    model = make_model(tiny_t5, retrieval_weight=0.5).eval()
    batch, praise = batch_of(model, [["late"], ["late"]], TEXTS[:2]), model.codec.bank.names.index("praise")
    learned = torch.arange(len(model.codec.bank)) != praise
    for _ in range(20):
        compared = ComparedLabels.of(batch["truth"], sample, learned)
        assert praise not in compared.labels
        assert compared.counts.sum() == len(model.codec.bank) - 1
    logits = model.retrieval(
        *model.response_logits(*(batch[name] for name in ("input_ids", "attention_mask", "labels")))[1:],
        batch["attention_mask"],
        model.encode_bank(),
    )[..., 0]
    led_away = torch.nn.functional.softplus(logits[:, praise]).mean()
    whole = model(**batch).retrieval
    model.learned = learned
    torch.testing.assert_close(whole - model(**batch).retrieval, led_away)
    shown = ComparedLabels.of(batch_of(model, [["praise"], []], TEXTS[:2])["truth"], sample, learned)
    assert praise in shown.labels  # of a development row
