"""The hybrid loss (paper, section 5.3): soft tokens, the semantic term, lambda and their combination."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SOFT_TOKENS = ("softmax", "gumbel", "gumbel_hard")
SEMANTIC_FORMS = ("none", "response", "description", "contrastive")
LAMBDA_MODES = ("learnable", "fixed", "uncertainty")
RETRIEVAL_READERS = ("generator", "both")  # the generator's encoder, or it and the sentence encoder
RETRIEVAL_POOLING = ("mean", "attention")
LABELS_AT_A_TIME = 1024  # whose own readings of the texts are in memory at once


@dataclass
class LossSettings:
    """How the components of the hybrid loss are computed.

    Args:
        decision_weight: weight of the tokens at which labels part, relative to the forced ones.
        semantic_form: `none`, `response` (paper), `description` or `contrastive`.
        soft_tokens: `softmax`, `gumbel` or `gumbel_hard`.
        temperature: of the soft tokens.
        final_temperature: where it is led to over the run, geometrically; None leaves it as it is.
        semantic_share: share of a batch's rows, 0 to 1, on which the semantic term is taken, one row at least; the
            cost of the sentence encoder falls with it.
        retrieval_weight: of the retrieval term, which is added to the cross-entropy; 0 is the paper's loss.
        retrieval_readers: what reads the text in the retrieval term, of `RETRIEVAL_READERS`.
        retrieval_pooling: how the generator's states become one vector, of `RETRIEVAL_POOLING`.
        text_dropout: of the sentence encoder while it reads a text in training; it has none elsewhere.
        bank_sample: descriptions drawn at random that a training step compares with beside those of its rows' labels;
            None takes all.
    """

    decision_weight: float = 10.0
    semantic_form: str = "response"
    soft_tokens: str = "softmax"
    temperature: float = 1.0
    final_temperature: float | None = None
    semantic_share: float = 1.0
    retrieval_weight: float = 0.0
    retrieval_readers: str = "generator"
    retrieval_pooling: str = "mean"
    text_dropout: float = 0.0
    bank_sample: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes float32, in which losses are computed and noise is drawn; float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


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
    losses = F.cross_entropy(at_least_float32(logits).flatten(0, 1), targets.flatten(), reduction="none")
    losses = losses.view_as(weights)
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
    scaled = at_least_float32(logits)
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
    counts: Tensor | None = None,
) -> Tensor:
    """Each generated description against every description of the bank, or of a sample of it.

    The other labels of the same row are no negatives: they are masked.

    Args:
        generated: (descriptions, dimensions).
        bank: (labels, dimensions).
        labels: (descriptions,) bank position of each generated description.
        present: (descriptions, labels) whether the row of the description carries the label.
        scale: inverse temperature of the cosine similarities.
        weights: (descriptions,) of a weighted sum; None takes the mean.
        counts: (labels,) how many labels each stands for; None is one each.
    """
    similarities = F.normalize(generated, dim=-1) @ F.normalize(bank, dim=-1).T * scale
    if counts is not None:
        similarities = similarities + counts.log()
    own = F.one_hot(labels, bank.shape[0]).bool()
    losses = F.cross_entropy(similarities.masked_fill(present & ~own, float("-inf")), labels, reduction="none")
    return losses.mean() if weights is None else (losses * weights).sum()


class LabelRetrieval(nn.Module):
    """How well a text fits each description, from encoders alone.

    The generator's encoder states are compared with the sentence encoder's embedding of every description: their mean,
    or, with `attention`, a mean for each label in which a token counts by how near it is to the label's description
    (label-wise attention, Mullenbach et al., 2018, with descriptions as queries). With `both` readers so is the
    sentence encoder's embedding of the text, as in a dual encoder. The logit of a label is `scale * cosine + offset`
    (Zhai et al., 2023, sigmoid loss), with a scale and an offset a reader. In training this term shows the encoders
    all labels at once, which the decisions of the decoder then build upon; in prediction it scores a whole bank,
    labels never seen included, without a decoder pass.

    Args:
        hidden_size: of the generator's encoder.
        dimensions: of the sentence embeddings; where they differ a linear map lies between.
        readers: one of `RETRIEVAL_READERS`.
        pooling: one of `RETRIEVAL_POOLING`.
    """

    def __init__(self, hidden_size: int, dimensions: int, readers: str = "generator", pooling: str = "mean"):
        super().__init__()
        for name, value, choices in (
            ("readers", readers, RETRIEVAL_READERS),
            ("pooling", pooling, RETRIEVAL_POOLING),
        ):
            if value not in choices:
                raise ValueError(f"retrieval {name}: expected one of {choices}, found {value!r}")
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.offset = nn.Parameter(torch.tensor(-3.0))
        # how much more near tokens count than far ones
        self.log_sharpness = nn.Parameter(torch.tensor(5.0).log()) if pooling == "attention" else None
        self.projection = None if hidden_size == dimensions else nn.Linear(hidden_size, dimensions, bias=False)
        self.dual: nn.ParameterDict | None = None
        if readers == "both":
            start = {"log_scale": self.log_scale, "offset": self.offset}
            self.dual = nn.ParameterDict({name: nn.Parameter(value.detach().clone()) for name, value in start.items()})

    def forward(self, states: Tensor, attention_mask: Tensor, bank: Tensor, texts: Tensor | None = None) -> Tensor:
        """Logits by each reader, (rows, labels, readers), the generator's first.

        Args:
            states: (rows, tokens, hidden) of the generator's encoder.
            attention_mask: (rows, tokens).
            bank: (labels, dimensions) embeddings of the descriptions.
            texts: (rows, dimensions) the sentence encoder's embeddings; None leaves that reader out.
        """
        unit = F.normalize(bank, dim=-1)

        def projected(values: Tensor) -> Tensor:
            return (values if self.projection is None else self.projection(values)).to(bank.dtype)

        def cosines(embedded: Tensor) -> Tensor:
            return F.normalize(embedded, dim=-1) @ unit.T

        def logits(cosine: Tensor, log_scale: Tensor, offset: Tensor) -> Tensor:
            return cosine * log_scale.exp() + offset

        if self.log_sharpness is None:
            present = attention_mask[..., None].to(states.dtype)
            cosine = cosines(projected((states * present).sum(1) / present.sum(1).clamp_min(1)))
        else:
            tokens, sharpness = projected(states), self.log_sharpness.exp()
            unit_tokens, padding = F.normalize(tokens, dim=-1), attention_mask[..., None] == 0

            def read_for(labels: Tensor) -> Tensor:
                nearness = (unit_tokens @ labels.T) * sharpness
                weights = nearness.masked_fill(padding, torch.finfo(nearness.dtype).min).softmax(dim=1)
                read = torch.einsum("rtl,rth->rlh", weights.to(tokens.dtype), tokens)
                return (F.normalize(read, dim=-1) * labels).sum(-1)

            cosine = torch.cat([read_for(labels) for labels in unit.split(LABELS_AT_A_TIME)], dim=-1)
        found = [logits(cosine, self.log_scale, self.offset)]
        if self.dual is not None and texts is not None:
            found.append(logits(cosines(texts.to(bank.dtype)), **self.dual))
        return torch.stack(found, dim=-1)


def retrieval_loss(logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy summed over labels and readers, averaged over the rows, nats a row.

    Args:
        logits: (rows, labels, readers).
        truth: (rows, labels), 0 or 1.
        weights: (labels,), how many labels each stands for.
    """
    logits = at_least_float32(logits)
    expected = truth.to(logits.dtype)[..., None].expand_as(logits)
    each = F.binary_cross_entropy_with_logits(logits, expected, reduction="none")
    return (each * weights[:, None]).sum((1, 2)).mean()


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
