"""Another label bank for a trained model: labels added, reworded or removed without training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from lagamc.artifact import ArtifactConfig
from lagamc.backbones import check_lengths
from lagamc.cards import without_evaluation
from lagamc.decisions import DecisionRules
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.modeling import LagamcModel
from lagamc.prompts import ResponseCodec


def relabelled(
    model: LagamcModel,
    config: ArtifactConfig,
    rules: DecisionRules,
    descriptions: Mapping[str, str],
    remove: Iterable[str] = (),
) -> tuple[LagamcModel, ArtifactConfig]:
    """A model with another bank, which shares the weights, and its configuration.

    Args:
        model: stays as it is.
        config: of the model.
        rules: of the model, which give new labels their threshold.
        descriptions: label -> description; a name of the bank is reworded, another one added.
        remove: labels to leave out.

    Raises:
        LagamcError: a label to remove is none, a description does not suit, or is too long for the model.
    """
    old = model.codec.bank
    if not isinstance(descriptions, Mapping):
        raise LagamcError(f"with_labels: expected label -> description, found {type(descriptions).__name__}")
    if isinstance(remove, str) or not isinstance(remove, Iterable):
        raise LagamcError(f"with_labels: expected a list of labels to remove, found {remove!r:.60}")
    remove = list(remove)
    unknown = [name for name in remove if not (isinstance(name, str) and name in old)]
    if unknown:
        raise LagamcError(f"with_labels: {unknown[0]!r} is no label of the bank {old.names[:12]}")
    gone = set(remove)
    bank = LabelBank({**{name: text for name, text in old.items() if name not in gone}, **descriptions})
    codec = ResponseCodec(bank, model.tokenizer, config.label_order, config.label_counts)
    longest, before = codec.longest_description, model.codec.longest_description
    check_lengths(model.backbone, config.max_input_length, longest)
    room = math.ceil(config.max_response_length * max(1, longest / before))  # for as many descriptions as before
    positions = model.backbone.response_positions(config.max_input_length)
    room = room if positions is None else min(room, positions)
    changed = [name for name, text in bank.items() if old.get(name) != text]
    untrained = {*config.untrained, *changed}
    return model.with_codec(codec), replace(
        config,
        **rules.to_dict(changed),
        max_response_length=max(config.max_response_length, longest, room),
        # left free, the generator would spell what it learned in tokens that are there no more
        decoding="constrained" if any(bank.get(name) != text for name, text in old.items()) else config.decoding,
        untrained=[name for name in bank if name in untrained],
        figures=without_evaluation(config.figures),
    )
