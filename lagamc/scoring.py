"""How much speaks for every label of the bank: from the generator's own probabilities and from retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import logit
from torch import Tensor

from lagamc.backbones import Reading

if TYPE_CHECKING:
    from lagamc.modeling import LagamcModel

SCORES = ("accurate", "fast")
MINIMUM_PATH = 1e-2  # sets less probable than this are not followed further
LIMIT = 1e-4  # log-odds are those of probabilities between this and 1 minus this


class LabelScorer:
    """Log-odds of every label, from one source or several.

    * `accurate`: the generator's probability of each label, from a beam over label sets; retrieval by each of its
      readers, where the model has that part; and what the words say, where it has that one.
    * `fast`: the same without a decoder pass. A model without retrieval follows its most probable label set alone.

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
        # node -> (opening tokens, local token ids of its choices, and for every choice the labels behind it); the
        # shortest openings first: the others are looked at only where they are probable
        self.nodes: list[tuple[tuple[int, ...], Tensor, list[list[int]]]] = []
        for opening, nexts in sorted(self.codec.branches.items(), key=lambda node: len(node[0])):
            tokens = vocabulary.localise(torch.tensor(list(nexts)))
            self.nodes.append((opening, tokens, list(nexts.values())))
        self.end = int(vocabulary.localise(torch.tensor([self.codec.end_token_id])))
        self.ordered = self.codec.order != "given"
        self.ranks = np.array([self.codec.rank[label] for label in range(len(self.codec.bank))])

    def sources(self, scores: str) -> int:
        """How many sources there are, for a kind of scores."""
        readers = (self.model.retrieval is not None) + self.model.reads_texts
        return readers + (scores == "accurate" or not readers) + (self.model.lexical is not None)

    @torch.no_grad()
    def evidence(
        self, reading: Reading, retrieved: Tensor | None, scores: str = "accurate", lexical: np.ndarray | None = None
    ) -> np.ndarray:
        """Log-odds of each label from each source, (rows, labels, sources), float64.

        Args:
            reading: the texts.
            retrieved: (rows, labels, readers) logits of `LagamcModel.retrieve`; None where the model has no such part.
            scores: `accurate` or `fast`.
            lexical: (rows, labels) of `LexicalScorer.score`; None where the model has no such part.
        """
        sources, highest = [], float(logit(1 - LIMIT))
        if scores == "accurate" or retrieved is None:
            written = self._marginals(reading) if scores == "accurate" else self._chain(reading)
            sources.append(logit(np.clip(written, LIMIT, 1 - LIMIT))[..., None])
        if retrieved is not None:
            sources.append(np.clip(retrieved.cpu().double().numpy(), -highest, highest))
        if lexical is not None:
            sources.append(np.clip(lexical.astype(np.float64), -highest, highest)[..., None])
        return np.concatenate(sources, axis=-1)

    def _chain(self, reading: Reading) -> np.ndarray:
        """Chance of each label to be chosen at some step of the most probable label set, (rows, labels)."""
        rows, labels = len(reading.states), len(self.codec.bank)
        absent = np.ones((rows, labels))
        chains: list[tuple[int, tuple[int, ...], float]] = [(row, (), 1.0) for row in range(rows)]
        while chains:
            following = []
            for (row, so_far, _), choices in zip(chains, self._choices(chains, reading), strict=True):
                absent[row] *= 1 - np.exp(choices[:-1])
                best = int(choices.argmax())
                if best < labels and len(so_far) + 1 < self.maximum_labels:
                    following.append((row, (*so_far, best), 1.0))
            chains = following
        return 1 - absent

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
        chances = np.array([b[2] for b in beams])
        for opening, tokens, groups in self.nodes:
            ids = tokens if opening else torch.cat([tokens, torch.tensor([self.end])])
            chosen = np.full((len(beams), len(ids)), -np.log(len(ids)))
            # all labels behind an opening have the same chance so far, that of the opening
            reached = np.full(len(beams), not opening) | (chances * np.exp(total[:, groups[0][0]]) >= MINIMUM_PATH)
            looked_at = np.flatnonzero(reached).tolist()
            if looked_at:
                openings = [[*prefixes[i], *opening] for i in looked_at]
                logits = self._next_logits(openings, [beams[i][0] for i in looked_at], reading)
                chosen[looked_at] = torch.log_softmax(logits[:, ids.to(logits.device)].double(), dim=-1).cpu().numpy()
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
