"""The published folder: what is in it, writing and checking it. Safetensors and JSON only.

adapter_config.json, adapter_model.safetensors   trained with LoRA: a plain PEFT adapter
generator/                                       trained without LoRA: loads with its Auto class
sentence_encoder/                                loads with SentenceTransformer(folder)
unseen_encoder/                                  the same, for labels that are added later, with their background
retrieval.safetensors                            trained with a retrieval term: its scales, offsets, projection
background.safetensors                           tuned: how near texts are to descriptions by chance
lagamc_config.json                               everything else that a prediction depends on
labels.json                                      label -> description
README.md                                        the model card
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import save_model

from lagamc.artifact_checks import config_problems
from lagamc.errors import LagamcError
from lagamc.hub import HubAccess, ModelFolder, resolve
from lagamc.labels import LabelBank
from lagamc.losses import LossSettings
from lagamc.modeling import LagamcModel
from lagamc.prompts import Prompt
from lagamc.thresholds import Thresholds
from lagamc.unseen import UNSEEN

FORMAT_VERSION = 1
CONFIG_FILE, LABELS_FILE, CARD_FILE = "lagamc_config.json", "labels.json", "README.md"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
RETRIEVAL_FILE, BACKGROUND_FILE, LEXICAL_FILE = (
    f"{part}.safetensors" for part in ("retrieval", "background", "lexical")
)
GENERATOR_FOLDER, ENCODER_FOLDER, UNSEEN_FOLDER = "generator", "sentence_encoder", "unseen_encoder"
PART_FOLDERS = (GENERATOR_FOLDER, ENCODER_FOLDER, UNSEEN_FOLDER)
TOKENIZER_FILES = ("tokenizer.json", "*vocab.*", "*.model")  # a tokenizer is in one of these
# all that is ever published, and all that is fetched of a published model
PUBLISHED = (
    *(*ADAPTER_FILES, RETRIEVAL_FILE, BACKGROUND_FILE, LEXICAL_FILE, CONFIG_FILE, LABELS_FILE, CARD_FILE),
    *(
        f"{part}/{pattern}"
        for part in PART_FOLDERS
        for pattern in ("*.json", "*.safetensors", "*vocab.txt", "*merges.txt", "*.model")
    ),
)
PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "accelerate")


@dataclass
class ArtifactConfig:
    """What `lagamc_config.json` holds beside the weights.

    Args:
        prompt: its parts.
        max_input_length: tokens of prompt and text.
        max_response_length: tokens of the longest response.
        window_stride: tokens between the beginnings of the windows of a long text; 0: it is cut.
        label_order: how a row's labels follow each other.
        label_counts: training rows per label.
        label_vocabulary: whether the softmax ranges over the descriptions' tokens alone.
        base_model: of the adapter; None where the whole generator is saved.
        base_revision: of the base model.
        minimum_similarity: of the matcher, or None.
        beam: sets followed by the scorer.
        scores: how labels are scored by default, `accurate` or `fast`: the better of the two on development rows.
        decoding: how descriptions are written by default.
        thresholds: used by default, tuned on development rows.
        tuned: scores -> goal -> thresholds, all that were tuned.
        calibration: scores -> how log-odds become probabilities.
        untrained: labels that no training row had, and those that were added or reworded later.
        unseen_encoder: whether these have a sentence encoder of their own.
        lexical: whether what the words say is a source of the scores.
        loss: settings of the losses.
        lambda_mode, lambda_value: of the hybrid loss.
        bridge_fidelity: mean and minimum similarity over the bank's descriptions.
        figures: measured ones, for the card.
        versions: of the libraries at training.
        card_digest: SHA-256 of the model card as it was written: another one was changed by hand.
        format_version: of this file.
    """

    prompt: dict[str, Any]
    max_input_length: int
    max_response_length: int
    window_stride: int = 0
    label_order: str = "bank"
    label_counts: dict[str, int] = field(default_factory=dict)
    label_vocabulary: bool = True
    base_model: str | None = None
    base_revision: str | None = None
    minimum_similarity: float | None = None
    beam: int = 8
    scores: str = "accurate"
    decoding: str = "exact"
    thresholds: dict[str, Any] = field(default_factory=lambda: Thresholds().to_dict())
    tuned: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    calibration: dict[str, dict[str, Any]] = field(default_factory=dict)
    untrained: list[str] = field(default_factory=list)
    unseen_encoder: bool = False
    lexical: bool = False
    loss: dict[str, Any] = field(default_factory=lambda: LossSettings().to_dict())
    lambda_mode: str = "learnable"
    lambda_value: float = 0.5
    lambda_state: dict[str, list[float]] = field(default_factory=dict)
    lambda_minimum: float = 0.1
    bridge_fidelity: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    card_digest: str | None = None
    format_version: int = FORMAT_VERSION


def library_versions() -> dict[str, str]:
    """Versions of what a model depends on."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def save_artifact(
    model: LagamcModel,
    folder: str | Path,
    config: ArtifactConfig,
    card: str | Callable[[ArtifactConfig, LabelBank], str] | None = None,
) -> None:
    """Writes the published folder.

    Args:
        model: its weights and labels.
        folder: is made where it is missing.
        config: lambda and the versions in it are set to those of now.
        card: the text of a model card that was written by hand, or what renders it from configuration and labels.

    Raises:
        LagamcError: the folder cannot be written, or holds files of somebody's own.
    """
    if not isinstance(folder, (str, Path)) or not str(folder).strip():
        raise LagamcError(f"expected a folder to write the model to, found {folder!r}")
    folder = Path(folder)
    try:
        check_own(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # written last: a folder in which a save was cut short is no model rather than a mixed one
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        generator = model.generator
        adapted = isinstance(generator, PeftModel)
        for stale in [GENERATOR_FOLDER] if adapted else ADAPTER_FILES:  # of an earlier run of the other kind
            if (folder / stale).is_dir():
                shutil.rmtree(folder / stale)
            else:
                (folder / stale).unlink(missing_ok=True)
        if isinstance(generator, PeftModel):
            # embeddings are never adapted; to find that out, peft would ask the Hub
            generator.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
            (folder / CARD_FILE).unlink(missing_ok=True)  # peft writes a card of its own
        else:
            generator.save_pretrained(folder / GENERATOR_FOLDER)
            model.tokenizer.save_pretrained(folder / GENERATOR_FOLDER)
        model.sentence_encoder.save_pretrained(
            str(folder / ENCODER_FOLDER), create_model_card=False, safe_serialization=True
        )
        config.unseen_encoder = model.unseen_encoder is not None
        if model.unseen_encoder is not None:
            half = deepcopy(model.unseen_encoder).half()
            half.save_pretrained(str(folder / UNSEEN_FOLDER), create_model_card=False, safe_serialization=True)
        elif (folder / UNSEEN_FOLDER).is_dir():
            shutil.rmtree(folder / UNSEEN_FOLDER)
        if model.retrieval is not None:
            save_model(model.retrieval, str(folder / RETRIEVAL_FILE))
        else:
            (folder / RETRIEVAL_FILE).unlink(missing_ok=True)  # of an earlier run
        config.lexical = model.lexical is not None
        if model.lexical is not None:
            model.lexical.save(folder / LEXICAL_FILE)
        else:
            (folder / LEXICAL_FILE).unlink(missing_ok=True)
        write_backgrounds(folder, model)
        config.lambda_mode, config.lambda_value = model.balance.mode, float(model.balance.value.detach())
        config.lambda_minimum = model.balance.minimum
        config.lambda_state = {k: v.detach().flatten().tolist() for k, v in model.balance.state_dict().items()}
        config.versions = library_versions()
        bank = model.codec.bank
        bank.to_json(folder / LABELS_FILE)
        if card is not None:
            text = card if isinstance(card, str) else card(config, bank)
            (folder / CARD_FILE).write_text(text, encoding="utf-8")
            config.card_digest = config.card_digest if isinstance(card, str) else card_digest(text)
        write_config(folder, config)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LagamcError(f"{folder}: the model cannot be written ({reason})") from error


def write_backgrounds(folder: str | Path, model: LagamcModel) -> None:
    """Writes what nearness to a description is judged by; removes what was there where there is none.

    Raises:
        OSError: it cannot be written.
    """
    for place, background in (("", model.background), (UNSEEN_FOLDER, model.unseen_background)):
        path = Path(folder, place, BACKGROUND_FILE)
        if background is None:
            path.unlink(missing_ok=True)
        else:
            background.save(path)


def write_config(folder: str | Path, config: ArtifactConfig) -> None:
    """Writes `lagamc_config.json` of a folder, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(asdict(config), indent=1, ensure_ascii=False)
    partial = Path(folder) / f"{CONFIG_FILE}.partial"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(Path(folder) / CONFIG_FILE)


def published_files(folder: str | Path) -> list[str]:
    """The files of a folder that belong to the artifact, relative; nothing else is ever published."""
    folder = Path(folder)
    found = [*folder.glob("*"), *(path for part in PART_FOLDERS for path in (folder / part).rglob("*"))]
    names = [path.relative_to(folder).as_posix() for path in found if path.is_file()]
    return sorted(name for name in names if is_published(name))


def is_published(name: str) -> bool:
    """Whether a file of this relative name belongs to an artifact."""
    return any(fnmatchcase(name, pattern) for pattern in PUBLISHED)


def find_artifact(reference: str | Path, revision: str | None = None, access: HubAccess | None = None) -> ModelFolder:
    """The folder of a published model; one of the Hub is fetched, safetensors, JSON and the card alone.

    Args:
        reference: a folder, `you/name` or `you/name@revision`.
        revision: branch, tag or commit.
        access: token, cache and the rest.

    Raises:
        LagamcError: there is none.
    """
    return resolve(reference, PUBLISHED, revision, access)


def edited_card(folder: str | Path, config: ArtifactConfig) -> str | None:
    """The model card of a folder where it was changed by hand, None where it is as it was written.

    Raises:
        LagamcError: it is no text.
    """
    path = Path(folder) / CARD_FILE
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, ValueError) as error:
        raise LagamcError(f"{path}: cannot be read ({error})") from error
    return None if text is None or config.card_digest in (None, card_digest(text)) else text


def card_digest(text: str) -> str:
    """By which a card that was changed by hand is known."""
    return sha256(text.encode("utf-8")).hexdigest()


def copy_artifact(source: str | Path, target: str | Path) -> None:
    """Copies the published files of a folder into another."""
    for name in published_files(source):
        (Path(target) / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(source) / name, Path(target) / name)


def read_config(folder: str | Path) -> ArtifactConfig:
    """Reads and checks `lagamc_config.json`, and that every part is there.

    Raises:
        LagamcError: the folder is no artifact, of a newer format, or a part is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LagamcError(f"{folder}: no such model folder")
    if not (folder / CONFIG_FILE).is_file():
        raise LagamcError(
            f"{folder}: holds no {CONFIG_FILE}, so it is no lagamc model; expected the output folder of run_train.py"
        )
    try:
        fields = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LagamcError(f"{folder / CONFIG_FILE}: cannot be read ({error})") from error
    found = fields.get("format_version") if isinstance(fields, dict) else None
    if not isinstance(found, int) or found > FORMAT_VERSION:
        raise LagamcError(
            f"{folder / CONFIG_FILE}: format_version is {found!r}, this version of lagamc reads up to "
            f"{FORMAT_VERSION}; install a newer lagamc"
        )
    try:
        config = ArtifactConfig(**fields)
        wrong = config_problems(config)
    except (TypeError, AttributeError) as error:
        raise LagamcError(f"{folder / CONFIG_FILE}: not a configuration of lagamc ({error})") from error
    if wrong:
        raise LagamcError.from_problems(str(folder / CONFIG_FILE), wrong)
    encoders = [ENCODER_FOLDER, *([UNSEEN_FOLDER] if config.unseen_encoder else [])]
    needed = [LABELS_FILE, *(f"{part}/{name}" for part in encoders for name in ("modules.json", "model.safetensors"))]
    needed += list(ADAPTER_FILES) if config.base_model else [f"{GENERATOR_FOLDER}/config.json"]
    needed += [RETRIEVAL_FILE] if config.loss.get("retrieval_weight") else []
    needed += [LEXICAL_FILE] if config.lexical else []
    if UNSEEN in config.tuned:
        needed += [BACKGROUND_FILE, *([f"{UNSEEN_FOLDER}/{BACKGROUND_FILE}"] if config.unseen_encoder else [])]
    missing = [name for name in needed if not (folder / name).is_file()]
    if not config.base_model and not list((folder / GENERATOR_FOLDER).glob("*.safetensors")):
        missing.append(f"{GENERATOR_FOLDER}/model.safetensors")
    # without these files transformers would make up a tokenizer
    for part in encoders if config.base_model else [*encoders, GENERATOR_FOLDER]:
        if not any(file for pattern in TOKENIZER_FILES for file in (folder / part).glob(pattern)):
            missing.append(f"{part}/tokenizer.json")
    if missing:
        raise LagamcError(f"{folder}: the model is incomplete, missing: {', '.join(missing)}; copy or pull it again")
    return config


def check_own(folder: Path) -> None:
    """A model's card and labels are not written over those of a folder that is something else.

    Raises:
        LagamcError: it holds one of them, and nothing else of a model.
    """
    found = [name for name in (CARD_FILE, LABELS_FILE) if (folder / name).is_file()]
    parts = (CONFIG_FILE, GENERATOR_FOLDER, ENCODER_FOLDER, *ADAPTER_FILES)
    if found and not any((folder / part).exists() for part in parts):
        raise LagamcError(
            f"{folder}: expected a new folder or one with a model, found {' and '.join(found)} without a model, which "
            "would be written over; name another folder"
        )


def artifact_prompt(config: ArtifactConfig) -> Prompt:
    """The prompt a model was trained with."""
    return Prompt(**config.prompt)
