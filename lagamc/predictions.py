"""A prediction: what it says, and what can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import TypeGuard

from lagamc.decoding import MODES
from lagamc.errors import LagamcError
from lagamc.matcher import Match
from lagamc.scoring import SCORES

DECIDE_BY = ("scores", "generated")


@dataclass(frozen=True)
class Prediction:
    """What the model says about one text.

    Args:
        labels: most probable first (by scores), or in the order they were written.
        scores: label -> probability, for every label of the bank; empty where scores were not asked for.
        generated: the descriptions the model wrote.
        matches: where each generated sentence went.
        clipped: whether the text was cut to the model's input length.
    """

    labels: list[str]
    scores: dict[str, float]
    generated: str
    matches: list[Match]
    clipped: bool = False


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number, of Python or NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_request(
    decide_by: str,
    scores: str,
    decoding: str,
    beams: int,
    batch_size: int,
    top_k: int | None,
    thresholds: Mapping[str, object],
) -> None:
    """Refuses arguments of `LagamcClassifier.predict` that are none, or that contradict each other.

    Args:
        decide_by: see there, as the next five.
        scores: of which kind.
        decoding: in which way.
        beams: of `generate`.
        batch_size: texts at a time.
        top_k: labels at most.
        thresholds: `goal` and `threshold`.

    Raises:
        LagamcError: says which one and why.
    """
    for name, value, choices in (
        ("decide_by", decide_by, DECIDE_BY),
        ("scores", scores, (*SCORES, "none")),
        ("decoding", decoding, MODES),
    ):
        if value not in choices:
            raise LagamcError(f"{name}: expected one of {list(choices)}, found {value!r}")
    for name, number in (("beams", beams), ("batch_size", batch_size), ("top_k", 1 if top_k is None else top_k)):
        if not is_whole(number) or number < 1:
            raise LagamcError(f"{name}: expected a number of at least 1, found {number!r}")
    if beams != 1 and decoding != "generate":
        raise LagamcError(f"beams: {beams} need decoding 'generate', found {decoding!r}")
    unused = [name for name, value in {**thresholds, "top_k": top_k}.items() if value is not None]
    if unused and decide_by == "generated":
        raise LagamcError(f"{unused[0]}: picks labels by their scores, which are not asked for here; leave it out")
