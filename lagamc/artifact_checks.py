"""What can be wrong in a `lagamc_config.json` that was changed by hand."""

from __future__ import annotations

import math
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from lagamc.calibration import Calibration
from lagamc.decoding import MODES
from lagamc.losses import LAMBDA_MODES, RETRIEVAL_POOLING, RETRIEVAL_READERS, LossSettings
from lagamc.prompts import Prompt
from lagamc.scoring import SCORES
from lagamc.thresholds import Thresholds
from lagamc.unseen import UNSEEN

if TYPE_CHECKING:
    from lagamc.artifact import ArtifactConfig


def config_problems(config: ArtifactConfig) -> list[str]:
    """One sentence for each field that no prediction could be made with.

    Raises:
        TypeError, AttributeError: a part has fields that it does not know.
    """
    wrong = _wrong_types(config)
    if wrong:
        return wrong
    loss = LossSettings(**config.loss)
    tuned = [Thresholds(**t) for goals in config.tuned.values() for t in goals.values()]
    tuned.append(Thresholds(**config.thresholds))
    calibrations = {scores: Calibration(**c) for scores, c in config.calibration.items()}
    parts: dict[str, list[Any]] = {"prompt": [Prompt(**config.prompt)], "loss": [loss]}
    parts |= {"thresholds": tuned, "calibration": [*calibrations.values()]}
    wrong = [f"{part}: {text}" for part, ones in parts.items() for one in ones for text in _wrong_types(one)]
    if wrong:
        return wrong
    for name in ("max_input_length", "max_response_length", "beam"):
        if getattr(config, name) < 1:
            wrong.append(f"{name}: expected a whole number above 0, found {getattr(config, name)!r}")
    if any(count < 0 for count in config.label_counts.values()):
        wrong.append(f"label_counts: expected numbers of training rows, found {config.label_counts!r:.60}")
    if config.window_stride < 0:
        wrong.append(f"window_stride: expected a whole number, found {config.window_stride!r}")
    limits = [limit for t in tuned for limit in (t.overall, *t.per_label.values())]
    limits = [limit for limit in limits if not (isinstance(limit, float) and 0 <= limit <= 1)]
    if limits:
        wrong.append(f"thresholds: expected numbers from 0 to 1, found {limits!r:.60}")
    factors = [number for c in calibrations.values() for number in c.numbers() if not math.isfinite(number)]
    if factors:
        wrong.append(f"calibration: expected numbers, found {factors!r:.60}")
    choices = {"scores": (config.scores, SCORES), "decoding": (config.decoding, MODES)}
    choices["retrieval_readers"] = (loss.retrieval_readers, RETRIEVAL_READERS)
    choices["retrieval_pooling"] = (loss.retrieval_pooling, RETRIEVAL_POOLING)
    choices["lambda_mode"] = (config.lambda_mode, LAMBDA_MODES)
    for name, (value, known) in choices.items():
        if value not in known:
            wrong.append(f"{name}: expected one of {known}, found {value!r}")
    readers = (1 + (loss.retrieval_readers == "both")) if loss.retrieval_weight else 0
    for scores, calibration in calibrations.items():
        weights, scarce = len(calibration.weights), len(calibration.scarce_weights)
        sources = {"accurate": readers + 1 + config.lexical, "fast": (readers or 1) + config.lexical}.get(scores, 1)
        most = sources + (scores in SCORES and UNSEEN in config.tuned)  # how near text and description are
        if weights not in (0, sources, most) or scarce not in (0, weights):
            wrong.append(f"calibration: expected {sources} weights of {scores} scores, found {weights} and {scarce}")
    if not isinstance(config.figures.get("evaluation", {}), dict):
        wrong.append(f"figures: expected an object in 'evaluation', found {config.figures['evaluation']!r:.60}")
    return wrong


def _wrong_types(made: Any) -> list[str]:
    """One sentence for each field of a data class that does not suit its annotation.

    `huggingface_hub.dataclasses.strict` passes over annotations that are strings, as they are in this package.
    """
    return [
        f"{name}: expected {kind.__name__ if isinstance(kind, type) else kind}, found {getattr(made, name)!r:.60}"
        for name, kind in get_type_hints(type(made)).items()
        if not _fits(getattr(made, name), kind)
    ]


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, kind) or (kind is float and _fits(value, int))
