"""A probability for every label of the bank, and the thresholds that turn probabilities into labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from lagamc.backbones import Reading
from lagamc.errors import LagamcError

if TYPE_CHECKING:
    from lagamc.modeling import LagamcModel

GOALS = ("micro_f1", "macro_f1")
MINIMUM_PATH = 1e-2  # sets less probable than this are not followed further


class LabelScorer:
    """Label probabilities from a beam over label sets, averaged with those of retrieval where the model has that part.

    A response is a chain of choices: at the start and after each description one more label or the end. With a fixed
    label order every set of labels is written in exactly one way, so the product of its choices is the probability of
    the *set*, and the sum over the sets that hold a label is the probability of the *label*. Choices are
    renormalised over what can come: the labels behind the last one in the order, and the end. Where descriptions
    share their opening tokens, a choice is the product over the tokens at which they part.

    Args:
        model: the trained model.
        beam: sets followed per row.
        maximum_labels: no longer sets are followed; None follows all.
        chunk: decoder rows computed at a time.
    """

    def __init__(self, model: LagamcModel, beam: int = 8, maximum_labels: int | None = None, chunk: int = 256):
        self.model, self.beam, self.chunk = model, beam, chunk
        self.codec = model.codec
        self.maximum_labels = min(maximum_labels or len(self.codec.bank), len(self.codec.bank))
        vocabulary = model.vocabulary
        # node -> (opening tokens, local token ids of its choices, and for every choice the labels behind it)
        self.nodes: list[tuple[tuple[int, ...], Tensor, list[list[int]]]] = []
        for opening, nexts in self.codec.branches.items():
            tokens = vocabulary.localise(torch.tensor(list(nexts)))
            self.nodes.append((opening, tokens, list(nexts.values())))
        self.end = int(vocabulary.localise(torch.tensor([self.codec.end_token_id])))
        self.ordered = self.codec.order != "given"
        self.ranks = np.array([self.codec.rank[label] for label in range(len(self.codec.bank))])
        with torch.no_grad():
            self.bank_embeddings = None if model.retrieval is None else model.encode_bank()

    @torch.no_grad()
    def score(self, input_ids: Tensor, attention_mask: Tensor) -> np.ndarray:
        """Label probabilities, (rows, labels), float64.

        Args:
            input_ids: (rows, tokens) prompt and text.
            attention_mask: (rows, tokens).
        """
        return self.score_reading(self.model.backbone.read(input_ids, attention_mask))

    @torch.no_grad()
    def score_reading(self, reading: Reading) -> np.ndarray:
        """As `score`, of texts that are read already."""
        written = self._marginals(reading)
        if self.model.retrieval is None or self.bank_embeddings is None:
            return written
        logits = self.model.retrieval(reading.states, reading.attention_mask, self.bank_embeddings)
        return (written + torch.sigmoid(logits.double()).cpu().numpy()) / 2

    def _marginals(self, reading: Reading) -> np.ndarray:
        """The generator's probability of each label, (rows, labels), summed over the label sets of the beam."""
        rows, labels = len(reading.states), len(self.codec.bank)
        scores = np.zeros((rows, labels))
        mass = np.zeros(rows)
        beams: list[tuple[int, tuple[int, ...], float]] = [(row, (), 1.0) for row in range(rows)]
        for _ in range(self.maximum_labels + 1):
            if not beams:
                break
            log_choices = self._choices(beams, reading)
            following: list[list[tuple[int, tuple[int, ...], float]]] = [[] for _ in range(rows)]
            for (row, labels_so_far, probability), choices in zip(beams, log_choices, strict=True):
                chances = np.exp(choices) * probability
                ended = float(chances[-1])
                mass[row] += ended
                scores[row, list(labels_so_far)] += ended
                if len(labels_so_far) < self.maximum_labels:
                    for label in np.flatnonzero(chances[:-1] > MINIMUM_PATH):
                        following[row].append((row, (*labels_so_far, int(label)), float(chances[label])))
            beams = [b for row in following for b in sorted(row, key=lambda b: -b[2])[: self.beam]]
        return scores / np.maximum(mass, 1e-12)[:, None]

    def _choices(self, beams: Sequence[tuple[int, tuple[int, ...], float]], reading: Reading) -> np.ndarray:
        """Log-probability of each label and, last, of the end, (beams, labels + 1), renormalised."""
        labels = len(self.codec.bank)
        total = np.zeros((len(beams), labels + 1))
        prefixes = [[token for label in b[1] for token in self.codec.token_ids[label]] for b in beams]
        for opening, tokens, groups in self.nodes:
            ids = tokens if opening else torch.cat([tokens, torch.tensor([self.end])])
            logits = self._next_logits([[*p, *opening] for p in prefixes], [b[0] for b in beams], reading)
            chosen = torch.log_softmax(logits[:, ids.to(logits.device)].double(), dim=-1).cpu().numpy()
            for column, group in enumerate(groups):
                total[:, group] += chosen[:, [column]]
            if not opening:
                total[:, labels] = chosen[:, -1]
        allowed = np.ones_like(total, dtype=bool)
        if self.ordered:
            last = np.array([self.ranks[b[1][-1]] if b[1] else -1 for b in beams])
            allowed[:, :labels] = self.ranks > last[:, None]
        else:
            for index, (_, so_far, _) in enumerate(beams):
                allowed[index, list(so_far)] = False
        total[~allowed] = -np.inf
        return total - np.logaddexp.reduce(total, axis=1, keepdims=True)

    def _next_logits(self, prefixes: list[list[int]], rows: list[int], reading: Reading) -> Tensor:
        """Logits behind each prefix over the vocabulary in use, (prefixes, vocabulary)."""
        model = self.model
        order = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i]))
        result = torch.zeros(len(prefixes), len(model.vocabulary))
        for begin in range(0, len(order), self.chunk):
            part = order[begin : begin + self.chunk]
            written = [prefixes[i] for i in part]
            with model.vocabulary.restricted_head(model.base_generator):
                logits = model.backbone.continued(reading, [rows[i] for i in part], written)
            result[part] = logits[torch.arange(len(part)), [len(tokens) for tokens in written]].float().cpu()
        return result


@dataclass
class Thresholds:
    """From which probability on a label is given.

    Args:
        goal: what they were tuned for.
        overall: one value for every label.
        per_label: label -> value, where it differs; shrunk towards `overall` for rare labels.
    """

    goal: str = "micro_f1"
    overall: float = 0.5
    per_label: dict[str, float] = field(default_factory=dict)

    def values(self, names: Sequence[str]) -> np.ndarray:
        """Thresholds in bank order; a label that was not there when they were tuned gets the overall one."""
        return np.array([self.per_label.get(name, self.overall) for name in names])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_GRID = np.round(np.arange(0.02, 0.99, 0.01), 2)


def tune_thresholds(
    scores: np.ndarray, true: np.ndarray, names: Sequence[str], goal: str = "micro_f1", shrinkage: float = 10.0
) -> Thresholds:
    """Thresholds for a goal from scored development rows.

    For `micro_f1` one value serves all labels. For `macro_f1` each label has its own, shrunk towards the one that is
    best for all: a label with n true rows keeps n / (n + shrinkage) of its own. Labels without a true row take
    the overall value; their own optimum is noise.

    Args:
        scores: (rows, labels).
        true: (rows, labels), 0 or 1.
        names: of the labels.
        goal: one of `GOALS`.
        shrinkage: rows at which a label's own threshold counts half.
    """
    if goal not in GOALS:
        raise LagamcError(f"goal: expected one of {list(GOALS)}, found {goal!r}")
    average = "micro" if goal == "micro_f1" else "macro"
    overall = _best([f1_score(true, scores >= t, average=average, zero_division=0) for t in _GRID])
    per_label: dict[str, float] = {}
    if goal == "macro_f1":
        for i, name in enumerate(names):
            support = int(true[:, i].sum())
            if support:
                own = _best([f1_score(true[:, i], scores[:, i] >= t, zero_division=0) for t in _GRID])
                share = support / (support + shrinkage)
                per_label[name] = round(share * own + (1 - share) * overall, 4)
    return Thresholds(goal, overall, per_label)


def _best(values: Sequence[float]) -> float:
    """The middle of the thresholds that give the best value: the edge of a plateau generalises worse."""
    best = np.flatnonzero(np.asarray(values) >= max(values) - 1e-12)
    return float(_GRID[best[len(best) // 2]])
