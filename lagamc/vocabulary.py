"""The label vocabulary: the tokens that descriptions can contain, and the head restricted to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LogitsProcessor, PreTrainedModel


class LabelVocabulary(nn.Module):
    """The tokens a response can consist of, as positions in the generator's vocabulary.

    Args:
        token_ids: ids in the generator's vocabulary, in any order, repeats allowed.
    """

    token_ids: Tensor

    def __init__(self, token_ids: Iterable[int]):
        super().__init__()
        self.register_buffer("token_ids", torch.tensor(sorted(set(token_ids)), dtype=torch.long), persistent=False)

    def __len__(self) -> int:
        return int(self.token_ids.shape[0])

    def extend(self, token_ids: Iterable[int]) -> LabelVocabulary:
        """A vocabulary with further tokens, for labels added after training."""
        return LabelVocabulary([*self.token_ids.tolist(), *token_ids]).to(self.token_ids.device)

    def localise(self, token_ids: Tensor) -> Tensor:
        """Positions in this vocabulary of full-vocabulary ids; what is not a member (-100, padding) becomes 0.

        Args:
            token_ids: any shape, on any device, where the positions are, too.
        """
        own = self.token_ids.to(token_ids.device)
        positions = torch.searchsorted(own, token_ids.contiguous()).clamp_max(len(self) - 1)
        return torch.where(own[positions] == token_ids, positions, 0)

    @contextmanager
    def restricted_head(self, generator: PreTrainedModel) -> Iterator[None]:
        """Inside the context the generator's logits have one column per token of this vocabulary.

        The live head's rows are indexed on the way, once: each indexing has a gradient of the head's size. No module
        is replaced, so weight tying, saving and `generate` are untouched. The generator must not be given labels
        inside: its own loss expects the full vocabulary.
        """
        head = generator.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise TypeError(f"the generator's output head is a {type(head).__name__}, expected a linear layer")
        bias_owner, full_bias = _final_logits_bias(generator)

        rows: list[Tensor | None] = []

        def restricted(hidden: Tensor) -> Tensor:
            if not rows:
                rows.extend(None if part is None else part[self.token_ids] for part in (head.weight, head.bias))
            return F.linear(hidden, *rows)  # type: ignore[arg-type]

        head.forward = restricted  # type: ignore[method-assign, assignment]
        if bias_owner is not None and full_bias is not None:  # BART adds a bias behind its head
            bias_owner.final_logits_bias = full_bias[:, self.token_ids]
        try:
            yield
        finally:
            del head.forward
            if bias_owner is not None and full_bias is not None:
                bias_owner.final_logits_bias = full_bias


def _final_logits_bias(generator: PreTrainedModel) -> tuple[nn.Module | None, Tensor | None]:
    for module in generator.modules():
        bias = module._buffers.get("final_logits_bias")
        if bias is not None:
            return module, bias
    return None, None


class VocabularyMask(LogitsProcessor):
    """Keeps `generate` to a set of tokens.

    Args:
        token_ids: (tokens,) ids that may be written.
    """

    def __init__(self, token_ids: Tensor):
        self.token_ids = token_ids

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        masked = torch.full_like(scores, float("-inf"))
        masked[:, self.token_ids] = scores[:, self.token_ids]
        return masked  # type: ignore[return-value]
