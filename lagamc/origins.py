"""Where a model comes from, for its card: base model, data, licence and command, without secrets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from lagamc.artifact import CARD_FILE
from lagamc.config import DataArguments, ModelArguments
from lagamc.errors import without_tokens
from lagamc.generators import EMBEDDED, EMBEDDED_HUB_NAME, EMBEDDED_LICENSE
from lagamc.hub import ModelFolder
from lagamc.training_args import PRECISION_VARIABLE

PROGRAMS = {"lagamc": "lagamc", "cli.py": "lagamc", "run_train.py": "python run_train.py"}


def model_origin(arguments: ModelArguments, base: ModelFolder | None) -> dict[str, Any]:
    """What the card says about the models that a run started from; a folder is no name on the Hub.

    Args:
        arguments: of the run.
        base: the generator it started from; None is the embedded one.
    """
    found: dict[str, Any] = {"sentence_encoder": arguments.sentence_encoder or EMBEDDED_HUB_NAME}
    if base is None:
        layers = f"{arguments.decoder_layers} decoder layer{'s' if arguments.decoder_layers > 1 else ''}"
        found |= {"base_model": EMBEDDED_HUB_NAME, "generator": f"{EMBEDDED} all-MiniLM-L6-v2, {layers}"}
    else:
        found |= {"base_model": base.name, "base_revision": base.commit, "generator": base.name}
        if base.commit is None:
            found |= {"base_model": None, "generator": base.folder.resolve().name}
    if arguments.sentence_encoder and Path(arguments.sentence_encoder).is_dir():
        found["sentence_encoder"] = Path(arguments.sentence_encoder).resolve().name
    found["license"] = arguments.license or (EMBEDDED_LICENSE if base is None else license_of(base.folder))
    return found


def data_origin(arguments: DataArguments) -> dict[str, str | None]:
    """What the card says about the data set of a run."""
    name = arguments.dataset_name
    if name and not Path(name).exists():
        return {"dataset": name, "dataset_on_hub": name, "dataset_revision": arguments.dataset_revision}
    return {"dataset": Path(name or arguments.data_dir or arguments.train_file or "").resolve().name}


def command_line(words: Sequence[str], precision: str = "no") -> str | None:
    """The command of a training run without secrets and home folder; None where Python was called in another way.

    Args:
        words: program and arguments.
        precision: mixed precision, which may come from the launcher's configuration.
    """
    program = PROGRAMS.get(Path(words[0]).name) if words else None
    if program is None:
        return None
    shown: list[str] = []
    for word in words[1:]:
        secret = bool(shown) and re.fullmatch(r"--[\w-]*[_-]token", shown[-1]) is not None
        shown.append("[token]" if secret else re.sub(r"^(--[\w-]*[_-]token)=.*", r"\1=[token]", word, flags=re.DOTALL))
    line = shlex.join(shown).replace(str(Path.home()) + "/", "~/")
    launched = "" if precision == "no" else f"{PRECISION_VARIABLE}={precision} "
    return without_tokens(f"{launched}{program} {line}")


def license_of(folder: str | Path) -> str | None:
    """The licence that the card in a model's folder names."""
    path = Path(folder) / CARD_FILE
    try:
        named = ModelCard.load(path, ignore_metadata_errors=True).data.license if path.is_file() else None
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return None
    return named if isinstance(named, str) else None
