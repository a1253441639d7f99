"""The hybrid loss (paper, section 5.3): soft tokens, the semantic term, lambda and their combination."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SOFT_TOKENS = ("softmax", "gumbel", "gumbel_hard")
SEMANTIC_FORMS = ("none", "response", "description", "contrastive")
LAMBDA_MODES = ("learnable", "fixed", "uncertainty")


def response_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy averaged over the tokens of each response, then over the rows (L_CE of equation 1).

    Averaging per response first makes the value independent of how rows are spread over micro-batches.

    Args:
        logits: (rows, tokens, vocabulary).
        targets: (rows, tokens) positions in the last axis of `logits`; ignored where the weight is 0.
        weights: (rows, tokens), 0 on padding.

    Returns:
        a scalar in nats a token.
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view_as(weights)
    return ((losses * weights).sum(1) / weights.sum(1).clamp_min(1e-8)).mean()


def soft_tokens(logits: Tensor, kind: str, temperature: float, training: bool) -> Tensor:
    """A distribution over tokens through which gradients flow.

    Gumbel noise is drawn in float32 whatever the logits' type, and never in evaluation, so that an evaluation
    repeats to the bit.

    Args:
        logits: (..., vocabulary).
        kind: `softmax`, `gumbel` or `gumbel_hard` (one-hot forward, soft backward).
        temperature: above 0; lower is sharper.
        training: whether noise is drawn.

    Returns:
        (..., vocabulary), float32, rows that sum to 1.
    """
    if kind not in SOFT_TOKENS:
        raise ValueError(f"soft tokens: expected one of {SOFT_TOKENS}, found {kind!r}")
    scaled = logits.float() if logits.dtype != torch.float64 else logits
    if kind == "softmax" or not training:
        return torch.softmax(scaled / temperature, dim=-1)
    return F.gumbel_softmax(scaled, tau=temperature, hard=kind == "gumbel_hard", dim=-1)


def cosine_loss(generated: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """`1 - CosSim(v_gen, v_target)` (L_semantic of equation 1).

    Args:
        generated: (rows, dimensions).
        target: (rows, dimensions).
        weights: (rows,) of a weighted sum; None takes the mean.
    """
    losses = 1 - F.cosine_similarity(generated, target, dim=-1)
    return losses.mean() if weights is None else (losses * weights).sum()


def contrastive_loss(
    generated: Tensor,
    bank: Tensor,
    labels: Tensor,
    present: Tensor,
    scale: float = 20.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Each generated description against every description of the bank.

    The other labels of the same row are no negatives: they are masked.

    Args:
        generated: (descriptions, dimensions).
        bank: (labels, dimensions).
        labels: (descriptions,) bank position of each generated description.
        present: (descriptions, labels) whether the row of the description carries the label.
        scale: inverse temperature of the cosine similarities.
        weights: (descriptions,) of a weighted sum; None takes the mean.
    """
    similarities = F.normalize(generated, dim=-1) @ F.normalize(bank, dim=-1).T * scale
    own = F.one_hot(labels, bank.shape[0]).bool()
    losses = F.cross_entropy(similarities.masked_fill(present & ~own, float("-inf")), labels, reduction="none")
    return losses.mean() if weights is None else (losses * weights).sum()


def mean_pairwise_cosine(embeddings: Tensor) -> float:
    """Mean cosine between different rows: near 1 when the encoder maps everything to one point.

    Args:
        embeddings: (labels, dimensions).
    """
    rows = embeddings.shape[0]
    if rows < 2:
        return 0.0
    unit = F.normalize(embeddings.float(), dim=-1)
    total = unit.sum(0)
    return float((total @ total - rows) / (rows * (rows - 1)))


class LossBalance(nn.Module):
    """Lambda of equation 1.

    * `learnable`: `sigmoid` of a free parameter, kept within `[minimum, 1 - minimum]`. Left free, it runs to
      whichever term is smaller and switches the other one off.
    * `fixed`: the starting value.
    * `uncertainty`: both terms are weighted by learned variances (Kendall et al., 2018), the loss is
      `exp(-a) CE + a/2 + exp(-b) semantic + b/2`; the value shown is the share of the first weight.

    Args:
        mode: one of `LAMBDA_MODES`.
        initial: lambda at the start, between 0 and 1.
        minimum: how near lambda may come to 0 and to 1.
    """

    constant: Tensor

    def __init__(self, mode: str = "learnable", initial: float = 0.5, minimum: float = 0.1):
        super().__init__()
        if mode not in LAMBDA_MODES:
            raise ValueError(f"lambda: expected one of {LAMBDA_MODES}, found {mode!r}")
        self.mode, self.minimum = mode, minimum
        if mode == "uncertainty":
            self.log_variances = nn.Parameter(torch.log(torch.tensor([1.0 / initial, 1.0 / (1.0 - initial)])))
        elif mode == "learnable":
            self.logit = nn.Parameter(torch.logit(torch.tensor((initial - minimum) / (1.0 - 2.0 * minimum))))
        else:
            self.register_buffer("constant", torch.tensor(float(initial)))

    @property
    def value(self) -> Tensor:
        """Lambda, a scalar between 0 and 1."""
        if self.mode == "uncertainty":
            return torch.softmax(-self.log_variances, dim=0)[0]
        if self.mode == "learnable":
            return self.minimum + (1.0 - 2.0 * self.minimum) * torch.sigmoid(self.logit)
        return self.constant

    def forward(self, cross_entropy: Tensor, semantic: Tensor) -> Tensor:
        """The hybrid loss, a scalar."""
        if self.mode == "uncertainty":
            weights = torch.exp(-self.log_variances)
            return weights[0] * cross_entropy + weights[1] * semantic + self.log_variances.sum() / 2
        return self.value * cross_entropy + (1.0 - self.value) * semantic
