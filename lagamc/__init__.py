"""LAGAMC: label-semantics aware generative multi-label text classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lagamc.classifier import LagamcClassifier
    from lagamc.errors import LagamcError
    from lagamc.labels import LabelBank
    from lagamc.matcher import LabelMatcher
    from lagamc.modeling import LagamcModel
    from lagamc.predictions import Prediction
    from lagamc.trainer import LagamcTrainer
    from lagamc.training_args import LagamcTrainingArguments

__version__ = "0.1.0"

_HOMES = {
    "LabelBank": "labels",
    "LabelMatcher": "matcher",
    "LagamcClassifier": "classifier",
    "LagamcError": "errors",
    "LagamcModel": "modeling",
    "LagamcTrainer": "trainer",
    "LagamcTrainingArguments": "training_args",
    "Prediction": "predictions",
}
__all__ = [
    "LabelBank",
    "LabelMatcher",
    "LagamcClassifier",
    "LagamcError",
    "LagamcModel",
    "LagamcTrainer",
    "LagamcTrainingArguments",
    "Prediction",
]


def __getattr__(name: str) -> Any:
    # loading torch and transformers takes seconds: a message about a mistyped file must not wait for them
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"lagamc.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lagamc' has no attribute {name!r}")
