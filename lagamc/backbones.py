"""How a generator reads a text and writes behind it: encoder-decoder and decoder-only under one interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from lagamc.errors import LagamcError
from lagamc.lengths import in_parts


@dataclass(frozen=True)
class Reading:
    """A batch of texts as a generator has read them: all that is needed to write behind them.

    Args:
        states: (rows, tokens, hidden) of the encoder, or the last layer of a decoder-only generator.
        attention_mask: (rows, tokens).
        starts: (rows,) the token behind which the response begins.
        past: keys and values of the text in each layer, of a decoder-only generator those before `starts`; the
            cross-attention of an encoder-decoder has them as soon as something is written behind the reading.
    """

    states: Tensor
    attention_mask: Tensor
    starts: Tensor
    past: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class EncoderDecoderBackbone:
    """T5, BART and their like; texts are padded on the right.

    Args:
        generator: with or without LoRA.
        base: the same without its wrapper.
        padding_id: of the tokenizer.
    """

    padding_side = "right"

    def __init__(self, generator: Any, base: PreTrainedModel, padding_id: int):
        self.generator, self.base, self.padding_id = generator, base, padding_id

    @property
    def hidden_size(self) -> int:
        """Width of the states."""
        return int(self.base.get_encoder().config.hidden_size)

    @property
    def positions(self) -> int | None:
        """Tokens at most in a text or a response; None where positions are relative."""
        configs = (self.base.config, *(getattr(self.base.config, part, None) for part in ("encoder", "decoder")))
        found = [getattr(config, "max_position_embeddings", None) for config in configs if config is not None]
        return min((size for size in found if size is not None), default=None)

    def response_positions(self, max_input_length: int) -> int | None:
        """Those that are left for a response to inputs of so many tokens; None where there is no limit."""
        return self.positions

    def teacher_forced(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits before each target token, (rows, response, vocabulary), and the states of the text.

        Args:
            input_ids: (rows, tokens) prompt and text.
            attention_mask: (rows, tokens).
            labels: (rows, response), -100 on padding.
        """
        base: Any = self.base
        states = self.read(input_ids, attention_mask).states
        # one look-up for all parts: each has a gradient of the table's size
        before = torch.cat([self._start(labels)[:, None], labels[:, :-1]], dim=1)
        given = base.get_decoder().get_input_embeddings()(before.masked_fill(before < 0, self.padding_id))
        mask = (torch.cat([labels.new_ones(len(labels), 1), labels[:, :-1]], 1) >= 0).long()

        def logits(rows: list[int], width: int) -> Tensor:
            part = self.generator(
                encoder_outputs=(states[rows],),
                attention_mask=attention_mask[rows],
                decoder_inputs_embeds=given[rows, :width],
                decoder_attention_mask=mask[rows, :width],
                use_cache=False,
            ).logits
            return F.pad(part, (0, 0, 0, labels.shape[1] - width))

        return in_parts(logits, (labels >= 0).sum(1)), states

    def read(self, input_ids: Tensor, attention_mask: Tensor) -> Reading:
        """Reads texts, (rows, tokens)."""
        encoder = self.base.get_encoder()
        states = encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)[0]
        return Reading(states, attention_mask, self._start(input_ids))

    def _start(self, rows: Tensor) -> Tensor:
        """The token that a response begins behind, one a row."""
        return torch.full_like(rows[:, 0], self.base.generation_config.decoder_start_token_id)

    def continued(self, reading: Reading, rows: Sequence[int], written: Sequence[Sequence[int]]) -> Tensor:
        """Logits behind the start and behind every written token, (prefixes, longest + 1, vocabulary).

        Keys and values of the text are computed once. The decoder's short input is computed anew: with right padding
        that needs no surgery on caches, and it also works with relative positions.

        Args:
            reading: the texts.
            rows: the text of each prefix.
            written: response tokens of each prefix.
        """
        if not reading.past:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            self._written(reading, slice(None), reading.starts[:, None], None, cache)
            layers: list[Any] = cache.cross_attention_cache.layers
            reading.past.extend((layer.keys, layer.values) for layer in layers)
        ids, mask, source = _right_padded(reading, rows, written, self.padding_id)
        cache = EncoderDecoderCache(DynamicCache(), _text_cache(reading, source))
        return self._written(reading, source, ids, mask, cache)

    def _written(
        self, reading: Reading, source: Any, ids: Tensor, mask: Tensor | None, cache: EncoderDecoderCache
    ) -> Tensor:
        return self.generator(
            encoder_outputs=(reading.states[source],),
            attention_mask=reading.attention_mask[source],
            decoder_input_ids=ids,
            decoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).logits

    def response_of(self, generated: Tensor, input_ids: Tensor) -> Tensor:
        """What `generate` wrote, without the start token."""
        return generated[:, 1:]


class DecoderOnlyBackbone(EncoderDecoderBackbone):
    """Llama, Mistral and their like; texts are padded on the left, the response follows the text."""

    padding_side = "left"

    @property
    def hidden_size(self) -> int:
        """Width of the states."""
        return int(self.base.config.get_text_config().hidden_size)

    def response_positions(self, max_input_length: int) -> int | None:
        """As of the encoder-decoder; the response follows the text."""
        return None if self.positions is None else self.positions - max_input_length

    def teacher_forced(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As of the encoder-decoder; tokens of the text are no targets."""
        given = labels[:, :-1]
        mask = torch.cat([attention_mask, (given >= 0).long()], dim=1)
        output = self.generator(
            input_ids=torch.cat([input_ids, torch.where(given >= 0, given, self.padding_id)], dim=1),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp_min(0),
            logits_to_keep=labels.shape[1],
            output_hidden_states=True,
            use_cache=False,
        )
        return output.logits, output.hidden_states[-1][:, : input_ids.shape[1]]

    def read(self, input_ids: Tensor, attention_mask: Tensor) -> Reading:
        """Reads texts, (rows, tokens); the last token of each is kept as the start of its response."""
        output = self.generator(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(1) - 1).clamp_min(0),
            past_key_values=DynamicCache(),
            logits_to_keep=1,
            output_hidden_states=True,
            use_cache=True,
        )
        layers: list[Any] = output.past_key_values.layers
        past = [(layer.keys[:, :, :-1], layer.values[:, :, :-1]) for layer in layers]
        return Reading(output.hidden_states[-1], attention_mask, input_ids[:, -1], past)

    def continued(self, reading: Reading, rows: Sequence[int], written: Sequence[Sequence[int]]) -> Tensor:
        """As of the encoder-decoder; the text is not read again."""
        ids, mask, source = _right_padded(reading, rows, written, self.padding_id)
        before = reading.attention_mask[source]
        positions = before.sum(1, keepdim=True) - 1 + torch.arange(ids.shape[1], device=ids.device)
        return self.generator(
            input_ids=ids,
            attention_mask=torch.cat([before[:, :-1], mask], dim=1),
            position_ids=positions,
            past_key_values=_text_cache(reading, source),
            use_cache=True,
        ).logits

    def response_of(self, generated: Tensor, input_ids: Tensor) -> Tensor:
        """What `generate` wrote, without the text."""
        return generated[:, input_ids.shape[1] :]


class _TextLayer(DynamicLayer):
    """One layer's keys and values of the texts, copied for the prefixes not before the layer is reached.

    Many prefixes belong to one text: copies of all layers at once can take more memory than the model.
    """

    is_initialized = True

    def __init__(self, text: tuple[Tensor, Tensor], source: Tensor):
        self.text, self.source = text, source

    @property
    def keys(self) -> Tensor:  # type: ignore[override]
        return self.text[0][self.source]

    @property
    def values(self) -> Tensor:  # type: ignore[override]
        return self.text[1][self.source]

    def get_seq_length(self) -> int:
        return self.text[0].shape[-2]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of text and prefix; nothing is kept, nothing is written behind them."""
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def _text_cache(reading: Reading, source: Tensor) -> DynamicCache:
    cache = DynamicCache()
    cache.layers = [_TextLayer(layer, source) for layer in reading.past]
    return cache


def _right_padded(
    reading: Reading, rows: Sequence[int], written: Sequence[Sequence[int]], padding_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids with the start in front, their mask, and the row of each prefix."""
    device = reading.starts.device
    source = torch.tensor(list(rows), device=device)
    width = max(len(tokens) for tokens in written)
    padded = [[*tokens, *[padding_id] * (width - len(tokens))] for tokens in written]
    tail = torch.tensor(padded, dtype=torch.long, device=device).view(len(padded), width)
    lengths = torch.tensor([len(tokens) + 1 for tokens in written], device=device)
    mask = (torch.arange(width + 1, device=device) < lengths[:, None]).long()
    return torch.cat([reading.starts[source, None], tail], dim=1), mask, source


def check_lengths(
    backbone: EncoderDecoderBackbone | DecoderOnlyBackbone, max_input_length: int, max_response_length: int
) -> None:
    """Whether inputs and responses fit the positions that the generator knows.

    Raises:
        LagamcError: they do not.
    """
    longest, free = backbone.positions, backbone.response_positions(max_input_length)
    if longest is None or free is None:
        return
    taken = longest - free
    found = max(max_input_length, taken + max_response_length)
    if found > longest:
        name = "max_input_length" if taken or max_input_length > longest else "a response"
        raise LagamcError(
            f"{name}: the generator knows {longest} positions, found {found}; lower max_input_length or "
            "max_response_length, or shorten the descriptions"
        )
