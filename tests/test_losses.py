"""The parts of the hybrid loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lagamc.losses import (
    RETRIEVAL_POOLING,
    LabelRetrieval,
    LossBalance,
    contrastive_loss,
    cosine_loss,
    mean_pairwise_cosine,
    response_cross_entropy,
    retrieval_loss,
    soft_tokens,
)


def test_cross_entropy_averages_each_response_before_the_rows() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 2, 3], [4, 0, 0]])
    weights = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    surprisal = -torch.log_softmax(logits, -1)
    long = (surprisal[0, 0, 1] + surprisal[0, 1, 2] + surprisal[0, 2, 3]) / 3
    short = surprisal[1, 0, 4]
    value = response_cross_entropy(logits, targets, weights)
    assert value == pytest.approx(float((long + short) / 2), abs=1e-6)
    assert value != pytest.approx(float((3 * long + short) / 4), abs=1e-3)  # the mean over tokens is another figure


def test_cross_entropy_weights_decisions_within_their_response() -> None:
    logits = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(1))
    first, second = -torch.log_softmax(logits, -1)[0, [0, 1], [2, 3]]
    value = response_cross_entropy(logits, torch.tensor([[2, 3]]), torch.tensor([[10.0, 1.0]]))
    assert value == pytest.approx(float((10 * first + second) / 11), abs=1e-6)


def test_cross_entropy_does_not_depend_on_the_spread_over_micro_batches() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, targets = torch.randn(4, 3, 5, generator=generator), torch.randint(0, 5, (4, 3), generator=generator)
    weights = torch.tensor([[1.0, 1, 1], [1, 0, 0], [1, 1, 0], [10, 1, 1]])
    halves = [response_cross_entropy(logits[part], targets[part], weights[part]) for part in ([0, 1], [2, 3])]
    assert response_cross_entropy(logits, targets, weights) == pytest.approx(float(sum(halves)) / 2, abs=1e-6)


def test_softmax_tokens_follow_the_temperature() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    assert torch.allclose(soft_tokens(logits, "softmax", 0.5, True), torch.softmax(logits * 2, -1))


@pytest.mark.parametrize("kind", ["softmax", "gumbel", "gumbel_hard"])
def test_soft_tokens_are_float32_distributions_with_gradient(kind: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 7, dtype=torch.bfloat16).requires_grad_()
    tokens = soft_tokens(logits, kind, 0.7, training=True)
    assert tokens.dtype == torch.float32
    assert torch.allclose(tokens.sum(-1), torch.ones(4), atol=1e-5)
    (tokens * torch.arange(7.0)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_hard_gumbel_tokens_are_one_hot_and_the_soft_ones_are_not() -> None:
    torch.manual_seed(0)
    logits = torch.randn(50, 7)
    hard = soft_tokens(logits, "gumbel_hard", 1.0, training=True)
    assert torch.allclose(hard.max(-1).values, torch.ones(50))
    assert torch.allclose(hard.sum(-1), torch.ones(50))
    assert soft_tokens(logits, "gumbel", 1.0, training=True).max(-1).values.min() < 0.9


def test_gumbel_tokens_are_drawn_from_the_distribution() -> None:
    torch.manual_seed(0)
    probabilities = torch.tensor([0.1, 0.2, 0.7])
    drawn = soft_tokens(probabilities.log().expand(20_000, 3), "gumbel_hard", 1.0, training=True)
    assert torch.allclose(drawn.mean(0), probabilities, atol=0.02)


@pytest.mark.parametrize("kind", ["gumbel", "gumbel_hard"])
def test_gumbel_noise_is_drawn_in_training_alone(kind: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 7)
    assert not torch.equal(soft_tokens(logits, kind, 1.0, True), soft_tokens(logits, kind, 1.0, True))
    assert torch.equal(soft_tokens(logits, kind, 1.0, False), torch.softmax(logits, -1))


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="'hard'"):
        soft_tokens(torch.zeros(1, 2), "hard", 1.0, True)
    with pytest.raises(ValueError, match="'free'"):
        LossBalance("free")


def test_cosine_loss_of_equal_orthogonal_and_opposite_rows() -> None:
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert cosine_loss(torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]), target) == pytest.approx(1.0)
    assert cosine_loss(target * 7, target) == pytest.approx(0.0, abs=1e-6)


def test_contrastive_loss_masks_the_other_labels_of_the_row() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    generated = torch.tensor([[1.0, 0.0]])
    labels = torch.tensor([0])
    alone = contrastive_loss(generated, bank, labels, torch.tensor([[True, False, False]]), scale=2.0)
    assert alone == pytest.approx(-2.0 + math.log(math.exp(2.0) + math.exp(1.6) + 1.0), abs=1e-5)
    shared = contrastive_loss(generated, bank, labels, torch.tensor([[True, True, False]]), scale=2.0)
    assert shared == pytest.approx(-2.0 + math.log(math.exp(2.0) + 1.0), abs=1e-5)


def test_contrastive_labels_can_stand_for_several() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = contrastive_loss(
        bank[:1], bank, torch.tensor([0]), torch.tensor([[True, False]]), scale=2.0, counts=torch.tensor([1.0, 5.0])
    )
    assert loss == pytest.approx(-2.0 + math.log(math.exp(2.0) + 5.0), abs=1e-5)


def test_contrastive_gradient_does_not_reach_masked_labels() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]], requires_grad=True)
    present = torch.tensor([[True, True, False]])
    contrastive_loss(torch.tensor([[0.9, 0.1]]), bank, torch.tensor([0]), present).backward()
    assert bank.grad is not None
    assert bank.grad.abs().sum(1).gt(0).tolist() == [True, False, True]


def test_mean_pairwise_cosine() -> None:
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    pairs = [float(F.cosine_similarity(rows[i], rows[j], dim=0)) for i in range(5) for j in range(i)]
    assert mean_pairwise_cosine(rows) == pytest.approx(sum(pairs) / 10, abs=1e-5)
    assert mean_pairwise_cosine(rows[:1].expand(3, 4)) == pytest.approx(1.0, abs=1e-5)
    assert mean_pairwise_cosine(rows[:1]) == 0.0


@pytest.mark.parametrize("mode", ["learnable", "fixed", "uncertainty"])
@pytest.mark.parametrize("initial", [0.3, 0.5, 0.8])
def test_lambda_starts_where_it_is_told(mode: str, initial: float) -> None:
    assert float(LossBalance(mode, initial).value.detach()) == pytest.approx(initial, abs=1e-5)


@pytest.mark.parametrize("mode", ["learnable", "fixed"])
def test_the_hybrid_loss_is_the_weighted_sum_of_its_terms(mode: str) -> None:
    loss = LossBalance(mode, 0.3)(torch.tensor(2.0), torch.tensor(0.5))
    assert loss.item() == pytest.approx(0.3 * 2.0 + 0.7 * 0.5, abs=1e-6)


def test_uncertainty_weights_both_terms() -> None:
    balance = LossBalance("uncertainty", 0.25)
    first, second = balance.log_variances.tolist()
    expected = math.exp(-first) * 2.0 + math.exp(-second) * 0.5 + (first + second) / 2
    assert balance(torch.tensor(2.0), torch.tensor(0.5)).item() == pytest.approx(expected, abs=1e-6)


def test_a_fixed_lambda_is_saved_but_not_trained() -> None:
    balance = LossBalance("fixed", 0.4)
    assert list(balance.parameters()) == []
    assert float(balance.state_dict()["constant"]) == pytest.approx(0.4)


def test_gradient_of_the_learnable_lambda() -> None:
    balance = LossBalance("learnable", 0.5, minimum=0.1)
    balance(torch.tensor(2.0), torch.tensor(0.5)).backward()
    # d loss / d logit = (CE - semantic) * 0.8 * sigmoid'(0)
    assert balance.logit.grad == pytest.approx(1.5 * 0.8 * 0.25, abs=1e-6)


@pytest.mark.parametrize(("cross_entropy", "semantic", "bound"), [(1.5, 0.3, 0.1), (0.05, 0.9, 0.9)])
def test_the_learnable_lambda_stays_within_its_bounds(cross_entropy: float, semantic: float, bound: float) -> None:
    balance = LossBalance("learnable", 0.5, minimum=0.1)
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.05)
    for _ in range(1000):
        optimizer.zero_grad()
        balance(torch.tensor(cross_entropy), torch.tensor(semantic)).backward()
        optimizer.step()
    value = float(balance.value.detach())
    assert 0.1 - 1e-6 <= value <= 0.9 + 1e-6
    assert value == pytest.approx(bound, abs=0.02)  # it did run to the smaller term


# retrieval


def test_retrieval_compares_the_mean_of_the_states_that_are_no_padding() -> None:
    retrieval = LabelRetrieval(2, 2)
    assert retrieval.projection is None
    states = torch.tensor([[[2.0, 0.0], [0.0, 2.0], [9.0, -9.0]]])
    logits = retrieval(states, torch.tensor([[1, 1, 0]]), torch.tensor([[3.0, 3.0], [1.0, -1.0], [5.0, 0.0]]))
    expected = torch.tensor([[1.0, 0.0, math.sqrt(0.5)]]) * 10 - 3
    torch.testing.assert_close(logits, expected[..., None])


def test_the_second_reader_has_logits_of_its_own() -> None:
    retrieval = LabelRetrieval(3, 2, "both")
    states, mask, bank = torch.randn(4, 5, 3), torch.ones(4, 5, dtype=torch.long), torch.tensor([[3.0, 0.0], [1, 1]])
    texts = torch.tensor([[2.0, 0.0], [0, 5], [1, 1], [-1, 0]])
    logits = retrieval(states, mask, bank, texts)
    assert logits.shape == (4, 2, 2)
    cosines = torch.tensor([[1, 0.5**0.5], [0, 0.5**0.5], [0.5**0.5, 1], [-1, -(0.5**0.5)]])
    torch.testing.assert_close(logits[..., 1], cosines * 10 - 3)
    torch.testing.assert_close(logits[..., :1], retrieval(states, mask, bank))
    retrieval_loss(logits, torch.eye(4)[:, :2], torch.ones(2)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in retrieval.parameters())
    with pytest.raises(ValueError, match=r"readers: expected one of \('generator', 'both'\), found 'encoder'"):
        LabelRetrieval(3, 2, "encoder")
    with pytest.raises(ValueError, match=r"pooling: expected one of \('mean', 'attention'\), found 'max'"):
        LabelRetrieval(3, 2, "both", "max")


def test_with_attention_the_tokens_near_to_a_description_count_most_for_it() -> None:
    retrieval = LabelRetrieval(2, 2, pooling="attention")
    states = torch.tensor([[[2.0, 0.0], [0.0, 2.0], [9.0, -9.0]]])
    mask, bank = torch.tensor([[1, 1, 0]]), torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    share = 1 / (1 + math.exp(-5))  # of the near token, under the sharpness at the start
    cosines = torch.tensor([[share / math.hypot(share, 1 - share), 1.0]])
    torch.testing.assert_close(retrieval(states, mask, bank), (cosines * 10 - 3)[..., None])
    with torch.no_grad():
        retrieval.log_sharpness.fill_(-20)  # all tokens alike
    torch.testing.assert_close(retrieval(states, mask, bank), LabelRetrieval(2, 2)(states, mask, bank))


@pytest.mark.parametrize("pooling", RETRIEVAL_POOLING)
def test_retrieval_maps_between_different_sizes(pooling: str) -> None:
    retrieval = LabelRetrieval(3, 2, pooling=pooling)
    states, bank = torch.randn(4, 5, 3), torch.randn(6, 2)
    logits = retrieval(states, torch.ones(4, 5, dtype=torch.long), bank)
    assert logits.shape == (4, 6, 1)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in retrieval.parameters())


def test_retrieval_loss_is_summed_over_labels_and_readers_and_averaged_over_rows() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [100.0, -100.0, 0.0]])[..., None]
    truth = torch.tensor([[1, 0, 1], [1, 0, 0]], dtype=torch.int8)
    loss = retrieval_loss(logits, truth, torch.tensor([1.0, 1.0, 1.0]))
    assert loss.item() == pytest.approx((3 + 1) * math.log(2) / 2)
    loss = retrieval_loss(logits, truth, torch.tensor([1.0, 1.0, 4.0]))
    assert loss.item() == pytest.approx((6 + 4) * math.log(2) / 2)
    both = torch.cat([logits, torch.tensor([[0.0, 0.0, 0.0], [100.0, -100.0, -100.0]])[..., None]], -1)
    loss = retrieval_loss(both, truth, torch.tensor([1.0, 1.0, 4.0]))
    assert loss.item() == pytest.approx((6 + 4 + 6) * math.log(2) / 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert retrieval_loss(logits.bfloat16(), truth, torch.ones(3)).dtype == torch.float32
