"""Description-aware decoding: whole descriptions are drafted and verified in one decoder pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lagamc.backbones import Reading
from lagamc.lengths import parts_by_length

if TYPE_CHECKING:
    from lagamc.modeling import LagamcModel

MODES = ("exact", "constrained", "generate")
LIKELY = 0.5  # labels that retrieval finds as probable as this are drafted before anything is written


@dataclass
class _Row:
    """What one row has written so far.

    Args:
        source: its text in the reading.
        guess: labels expected in the response, in the label order.
        tokens: of the response.
        partial: the tokens behind the last complete description.
        labels: the complete descriptions.
    """

    source: int
    guess: list[int]
    tokens: list[int] = field(default_factory=list)
    partial: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


class DescriptionDecoder:
    """Greedy decoding with drafts.

    Within a description every token is forced once its first tokens are written. So the rest of it, and the
    descriptions that retrieval expects behind it, are drafted, and one decoder pass checks the whole draft: tokens
    are kept as long as the model's own choice agrees, and its choice at the first disagreement is the next token.

    * `exact`: the model's choice is its most probable token; the response is that of greedy `generate`.
    * `constrained`: its choice is the most probable token that continues a description of the bank which may stand
      here: none twice, none against the label order.

    Args:
        model: the trained model.
        mode: `exact` or `constrained`.
        max_new_tokens: of a response.
    """

    def __init__(self, model: LagamcModel, mode: str = "exact", max_new_tokens: int = 512):
        if mode not in MODES[:2]:
            raise ValueError(f"decoding: expected one of {MODES[:2]}, found {mode!r}")
        self.model, self.mode, self.max_new_tokens = model, mode, max_new_tokens
        self.codec = model.codec
        self.vocabulary = model.vocabulary.token_ids.tolist()
        self.local = {token: position for position, token in enumerate(self.vocabulary)}
        self.openings: dict[tuple[int, ...], list[int]] = {}
        for label, ids in enumerate(self.codec.token_ids):
            for end in range(len(ids) + 1):
                self.openings.setdefault(tuple(ids[:end]), []).append(label)
        self.closing = {ids[-1] for ids in self.codec.token_ids}
        self.passes = 0  # decoder passes so far
        self.row_passes = 0  # the same, each counted once for every row in it

    @torch.no_grad()
    def decode(self, reading: Reading, retrieved: Tensor | None = None) -> list[list[int]]:
        """The response tokens of every row of a reading, with the end token where it was written.

        Args:
            reading: the texts.
            retrieved: (rows, labels, readers) logits of `LagamcModel.retrieve`; what they expect is drafted.
        """
        rows = [_Row(source, guess) for source, guess in enumerate(self._guess(len(reading.states), retrieved))]
        active = rows
        while active:
            drafts = [self._draft(row) for row in active]
            written = [row.tokens + draft for row, draft in zip(active, drafts, strict=True)]
            self.passes += 1
            self.row_passes += len(active)
            unfinished = []
            with self.model.vocabulary.restricted_head(self.model.base_generator):
                for part, _ in parts_by_length([len(tokens) for tokens in written]):
                    sources = [active[i].source for i in part]
                    logits = self.model.backbone.continued(reading, sources, [written[i] for i in part])
                    unfinished += self._check([active[i] for i in part], [drafts[i] for i in part], logits)
            active = unfinished
        return [row.tokens for row in rows]

    def _check(self, rows: Sequence[_Row], drafts: Sequence[list[int]], logits: Tensor) -> list[_Row]:
        """Takes over what the model agrees with; the rows that are not finished."""
        best = logits.argmax(-1).tolist() if self.mode == "exact" else None
        unfinished = []
        for number, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
            if best is not None:
                first = len(row.tokens)
                choices = [self.vocabulary[i] for i in best[number][first : first + len(draft) + 1]]
                done = self._accept(row, draft, choices)
            else:
                done = self._accept_constrained(row, draft, logits[number])
            if not done:
                unfinished.append(row)
        return unfinished

    def _guess(self, rows: int, retrieved: Tensor | None) -> list[list[int]]:
        """Labels that retrieval expects in each row, at least one, in the label order."""
        if retrieved is None:
            return [[] for _ in range(rows)]
        together = retrieved.mean(-1)
        likely = torch.sigmoid(together) > LIKELY
        likely |= together == together.amax(1, keepdim=True)
        return [self.codec.sort(label for label, yes in enumerate(row) if yes) for row in likely.tolist()]

    def _allowed(self, row: _Row, label: int) -> bool:
        """Whether a label may follow the complete ones."""
        if self.codec.order == "given":
            return label not in row.labels
        return not row.labels or self.codec.rank[label] > self.codec.rank[row.labels[-1]]

    def _draft(self, row: _Row) -> list[int]:
        expected = [label for label in row.guess if self._allowed(row, label)]
        draft: list[int] = []
        if row.partial:
            begun = [label for label in self.openings.get(tuple(row.partial), []) if self._allowed(row, label)]
            if not begun:
                return []
            chosen = next((label for label in expected if label in begun), begun[0])
            draft = self.codec.token_ids[chosen][len(row.partial) :]
            expected = [label for label in expected if self.codec.rank[label] > self.codec.rank[chosen]]
        for label in expected:
            draft = draft + self.codec.token_ids[label]
        return draft[: max(0, self.max_new_tokens - len(row.tokens) - 1)]

    def _append(self, row: _Row, token: int) -> bool:
        """Adds a token; True where the row is finished."""
        row.tokens.append(token)
        if token == self.codec.end_token_id or len(row.tokens) >= self.max_new_tokens:
            return True
        row.partial.append(token)
        labels = self.openings.get(tuple(row.partial), [])
        complete = [label for label in labels if len(self.codec.token_ids[label]) == len(row.partial)]
        if complete:
            row.labels.append(complete[0])
        if complete or (not labels and token in self.closing):  # free text, too, ends with a full stop
            row.partial = []
        return False

    def _accept(self, row: _Row, draft: Sequence[int], choices: Sequence[int]) -> bool:
        for position, token in enumerate(choices):
            if self._append(row, token):
                return True
            if position < len(draft) and token != draft[position]:
                return False
        return False

    def _accept_constrained(self, row: _Row, draft: Sequence[int], logits: Tensor) -> bool:
        for position in range(len(draft) + 1):
            length = len(row.partial)
            begun = [label for label in self.openings[tuple(row.partial)] if self._allowed(row, label)]
            candidates = sorted({self.codec.token_ids[label][length] for label in begun})
            if not row.partial:
                candidates.append(self.codec.end_token_id)
            token = candidates[0]
            if len(candidates) > 1:
                token = candidates[int(logits[len(row.tokens), [self.local[t] for t in candidates]].argmax())]
            if self._append(row, token):
                return True
            if position < len(draft) and token != draft[position]:
                return False
        return False
