"""How the weights are changed: which learn at which rate, and that a resumed run goes on in the same way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lagamc.errors import LagamcError
from lagamc.training_args import LagamcTrainingArguments

# of a group of weights: its present rate, and how its steps are computed
PASSING = ("params", "lr", "fused", "foreach", "capturable", "differentiable")


def weight_groups(model: nn.Module, arguments: LagamcTrainingArguments, decayed: Collection[str]) -> list[Any]:
    """Groups for an optimizer: generator, its own encoder, sentence encoder, scalars; norms and biases do not decay.

    They are the same whatever the rates, so that those of a checkpoint fit. The generator's come first: its rate
    is the one that is logged.

    Args:
        model: whose trained weights are grouped.
        arguments: with the rates and the decay.
        decayed: names of weights that may decay.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = name in decayed and "balance." not in name and parameter.ndim > 0
            groups[(_rate_of(name, parameter), decays)].append(parameter)
    found = []
    for (name, decays), members in sorted(groups.items(), key=lambda group: group[0][0] != "learning_rate"):
        rate = getattr(arguments, name)
        rate = arguments.learning_rate if rate is None else rate
        found.append({"params": members, "lr": rate, "weight_decay": arguments.weight_decay if decays else 0.0})
    return found


def _rate_of(name: str, parameter: nn.Parameter) -> str:
    """The training argument with the rate of a weight."""
    if "balance." in name or ("retrieval." in name and parameter.ndim == 0):
        return "lambda_learning_rate"
    if "sentence_encoder." in name:
        return "sentence_encoder_learning_rate"
    if "generator." in name and "encoder." in name.split("generator.", 1)[1].split("decoder.")[0]:
        return "encoder_learning_rate"
    return "learning_rate"


@contextmanager
def explained(setting: str, value: object) -> Iterator[None]:
    """Turns what the libraries say about settings that do not suit into an error that names the setting."""
    try:
        yield
    except (ValueError, TypeError, ImportError, ArithmeticError) as error:
        raise LagamcError(
            f"{setting} {str(value)!r}: cannot be set up as it is asked for ({type(error).__name__}: {error}); "
            "correct it or what belongs to it"
        ) from error


def lasting_settings(optimizer: torch.optim.Optimizer | None) -> list[dict[str, Any]]:
    """What is set for each group of weights and stays."""
    groups = [] if optimizer is None else optimizer.param_groups
    return [{name: value for name, value in group.items() if name not in PASSING} for group in groups]


def check_resumed(asked: list[dict[str, Any]], found: list[dict[str, Any]], checkpoint: str) -> None:
    """The settings of a checkpoint take the place of those asked for: they have to be the same.

    Args:
        asked: `lasting_settings` before the checkpoint was loaded.
        found: behind it.
        checkpoint: its place.

    Raises:
        LagamcError: they differ.
    """
    pairs = [(name, old.get(name), new[name]) for old, new in zip(found, asked, strict=True) for name in new]
    changed = dict.fromkeys(f"{name} {old}, now {new}" for name, old, new in pairs if old != new)
    if changed:
        raise other_optimizer(checkpoint, "; ".join(list(changed)[:4]))


def other_optimizer(checkpoint: str, reason: str) -> LagamcError:
    """That the optimizer of a checkpoint is another one."""
    return LagamcError(
        f"resume_from_checkpoint: the optimizer of {checkpoint} was set up in another way ({reason}); go on with the "
        "same optim, rates and decay, or start anew in another output_dir"
    )
