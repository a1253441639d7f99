"""The published folder: writing, reading and checking it. Safetensors and JSON only.

adapter_config.json, adapter_model.safetensors   trained with LoRA: a plain PEFT adapter
generator/                                       trained without LoRA: loads with its Auto class
sentence_encoder/                                loads with SentenceTransformer(folder)
retrieval.safetensors                            trained with a retrieval term: its scale, offset, projection
lagamc_config.json                               everything else that a prediction depends on
labels.json                                      label -> description
README.md                                        the model card
"""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from transformers import PreTrainedTokenizerBase

from lagamc.calibration import Calibration
from lagamc.decoding import MODES
from lagamc.errors import LagamcError
from lagamc.generators import auto_class, load_config, load_generator, load_tokenizer, quiet_load
from lagamc.labels import LabelBank
from lagamc.losses import LAMBDA_MODES, LossBalance
from lagamc.modeling import LagamcModel, LossSettings, encoder_backbone
from lagamc.prompts import Prompt, ResponseCodec
from lagamc.scoring import SCORES
from lagamc.thresholds import Thresholds

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FORMAT_VERSION = 1
CONFIG_FILE, LABELS_FILE, CARD_FILE = "lagamc_config.json", "labels.json", "README.md"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
RETRIEVAL_FILE = "retrieval.safetensors"
GENERATOR_FOLDER, ENCODER_FOLDER = "generator", "sentence_encoder"
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
        untrained: labels that were added or reworded after training.
        loss: settings of the losses.
        lambda_mode, lambda_value: of the hybrid loss.
        bridge_fidelity: mean and minimum similarity over the bank's descriptions.
        figures: measured ones, for the card.
        versions: of the libraries at training.
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
    loss: dict[str, Any] = field(default_factory=lambda: LossSettings().to_dict())
    lambda_mode: str = "learnable"
    lambda_value: float = 0.5
    lambda_state: dict[str, list[float]] = field(default_factory=dict)
    lambda_minimum: float = 0.1
    bridge_fidelity: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def library_versions() -> dict[str, str]:
    """Versions of what a model depends on."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def save_artifact(model: LagamcModel, folder: str | Path, config: ArtifactConfig, card: str | None = None) -> None:
    """Writes the published folder.

    Raises:
        LagamcError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
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
            generator.save_pretrained(str(folder), safe_serialization=True)
            (folder / CARD_FILE).unlink(missing_ok=True)  # peft writes a card of its own
        else:
            generator.save_pretrained(folder / GENERATOR_FOLDER)
            model.tokenizer.save_pretrained(folder / GENERATOR_FOLDER)
        model.sentence_encoder.save_pretrained(
            str(folder / ENCODER_FOLDER), create_model_card=False, safe_serialization=True
        )
        if model.retrieval is not None:
            save_model(model.retrieval, str(folder / RETRIEVAL_FILE))
        else:
            (folder / RETRIEVAL_FILE).unlink(missing_ok=True)  # of an earlier run
        config.lambda_mode, config.lambda_value = model.balance.mode, float(model.balance.value.detach())
        config.lambda_minimum = model.balance.minimum
        config.lambda_state = {k: v.detach().flatten().tolist() for k, v in model.balance.state_dict().items()}
        config.versions = library_versions()
        model.codec.bank.to_json(folder / LABELS_FILE)
        if card is not None:
            (folder / CARD_FILE).write_text(card, encoding="utf-8")
        write_config(folder, config)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LagamcError(f"{folder}: the model cannot be written ({reason})") from error


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
    names = [*ADAPTER_FILES, RETRIEVAL_FILE, CONFIG_FILE, LABELS_FILE, CARD_FILE]
    files = [folder / name for name in names]
    for part in (GENERATOR_FOLDER, ENCODER_FOLDER):
        files += [
            p for p in sorted((folder / part).rglob("*")) if p.suffix in (".json", ".safetensors", ".txt", ".model")
        ]
    return [str(path.relative_to(folder)) for path in files if path.is_file()]


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
        Prompt(**config.prompt), LossSettings(**config.loss)
        tuned = [Thresholds(**t) for goals in config.tuned.values() for t in goals.values()]
        tuned.append(Thresholds(**config.thresholds))
        calibrations = [Calibration(**c) for c in config.calibration.values()]
        limits = [limit for t in tuned for limit in (t.overall, *t.per_label.values())]
        factors = [number for c in calibrations for number in (*c.weights, c.bias)]
    except (TypeError, AttributeError) as error:
        raise LagamcError(f"{folder / CONFIG_FILE}: not a configuration of lagamc ({error})") from error
    numbers = {name: getattr(config, name) for name in ("max_input_length", "max_response_length", "beam")}
    wrong = [f"{k}: expected a whole number above 0, found {v!r}" for k, v in numbers.items() if not _is_count(v)]
    if config.window_stride != 0 and not _is_count(config.window_stride):
        wrong.append(f"window_stride: expected a whole number, found {config.window_stride!r}")
    if not all(isinstance(value, float) and 0 <= value <= 1 for value in limits):
        wrong.append(f"thresholds: expected numbers from 0 to 1, found {limits!r:.60}")
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in factors):
        wrong.append(f"calibration: expected numbers, found {factors!r:.60}")
    for name, choices in (("scores", SCORES), ("decoding", MODES)):
        if getattr(config, name) not in choices:
            wrong.append(f"{name}: expected one of {choices}, found {getattr(config, name)!r}")
    if config.lambda_mode not in LAMBDA_MODES:
        wrong.append(f"lambda_mode: expected one of {LAMBDA_MODES}, found {config.lambda_mode!r}")
    if wrong:
        raise LagamcError.from_problems(str(folder / CONFIG_FILE), wrong)
    needed = [LABELS_FILE, f"{ENCODER_FOLDER}/modules.json", f"{ENCODER_FOLDER}/model.safetensors"]
    needed += list(ADAPTER_FILES) if config.base_model else [f"{GENERATOR_FOLDER}/config.json"]
    needed += [RETRIEVAL_FILE] if config.loss.get("retrieval_weight") else []
    missing = [name for name in needed if not (folder / name).is_file()]
    if not config.base_model and not list((folder / GENERATOR_FOLDER).glob("*.safetensors")):
        missing.append(f"{GENERATOR_FOLDER}/model.safetensors")
    if missing:
        raise LagamcError(f"{folder}: the model is incomplete, missing: {', '.join(missing)}; copy or pull it again")
    return config


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def load_sentence_encoder(name: str | Path, revision: str | None = None) -> SentenceTransformer:
    """A sentence encoder from a folder or the Hub, on the CPU, without dropout.

    Dropout would make a perfect response differ from its own target.

    Raises:
        LagamcError: there is none.
    """
    from sentence_transformers import SentenceTransformer

    try:
        encoder = SentenceTransformer(
            str(name), device="cpu", revision=revision, model_kwargs={"use_safetensors": True}
        )
        encoder_backbone(encoder).get_input_embeddings()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise LagamcError(f"no sentence encoder can be loaded from {str(name)!r}: {reason}") from error
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return encoder


def load_artifact(folder: str | Path, base_model: str | None = None) -> tuple[LagamcModel, ArtifactConfig]:
    """Builds the model of a published folder, in evaluation mode on the CPU.

    Args:
        folder: as `save_artifact` wrote it.
        base_model: in place of the recorded base model of an adapter.

    Raises:
        LagamcError: a part is missing or does not fit.
    """
    folder = Path(folder)
    config = read_config(folder)
    bank = LabelBank.from_json(folder / LABELS_FILE)
    encoder = load_sentence_encoder(folder / ENCODER_FOLDER)
    _require_encoder(folder, encoder)
    tokenizer: PreTrainedTokenizerBase
    generator: Any
    if config.base_model:
        base = base_model or config.base_model
        tokenizer = load_tokenizer(base, config.base_revision)
        generator = load_generator(base, config.base_revision)
        try:
            generator = PeftModel.from_pretrained(generator, str(folder))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise LagamcError(f"{folder}: the adapter does not fit the base model {base!r}: {reason}") from error
        _require_adapter(folder, generator)
    else:
        tokenizer = load_tokenizer(folder / GENERATOR_FOLDER)
        try:
            kind = auto_class(load_config(str(folder / GENERATOR_FOLDER)))
            generator = quiet_load(kind, folder / GENERATOR_FOLDER, use_safetensors=True)
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise LagamcError(f"{folder / GENERATOR_FOLDER}: the generator cannot be loaded: {reason}") from error
    codec = ResponseCodec(bank, tokenizer, config.label_order, config.label_counts)
    balance = LossBalance(config.lambda_mode, minimum=config.lambda_minimum)
    _load_balance(balance, config, folder)
    model = LagamcModel(
        generator, encoder, tokenizer, codec, balance, LossSettings(**config.loss), config.label_vocabulary
    )
    _load_retrieval(model, folder)
    return model.eval(), config


def load_weights(model: LagamcModel, folder: str | Path) -> None:
    """Puts the weights of a published folder, lambda included, into a model that is already built.

    Raises:
        LagamcError: a part is missing or does not fit.
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        _require_encoder(folder, model.sentence_encoder)
        if isinstance(model.generator, PeftModel):
            _require_adapter(folder, model.generator)
            set_peft_model_state_dict(model.generator, load_peft_weights(str(folder), device="cpu"))
        else:
            load_model(model.generator, folder / GENERATOR_FOLDER / "model.safetensors")
        # the whole encoder: some have trained modules behind their pooling
        model.sentence_encoder.load_state_dict(load_sentence_encoder(folder / ENCODER_FOLDER).state_dict())
    except (OSError, RuntimeError, SafetensorError) as error:
        raise LagamcError(f"{folder}: the weights do not fit the model ({error})") from error
    _load_retrieval(model, folder)
    _load_balance(model.balance, config, folder)


def _load_retrieval(model: LagamcModel, folder: Path) -> None:
    if model.retrieval is not None:
        try:
            load_model(model.retrieval, folder / RETRIEVAL_FILE)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise LagamcError(f"{folder / RETRIEVAL_FILE}: the weights do not fit the model ({error})") from error


def _load_balance(balance: LossBalance, config: ArtifactConfig, folder: Path) -> None:
    shapes = balance.state_dict()
    try:
        balance.load_state_dict({k: torch.tensor(v).reshape(shapes[k].shape) for k, v in config.lambda_state.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise LagamcError(f"{folder / CONFIG_FILE}: lambda_state does not fit lambda_mode ({error})") from error


def _require_encoder(folder: Path, encoder: SentenceTransformer) -> None:
    names = [name for name, _ in encoder_backbone(encoder).named_parameters()]
    _require_weights(folder / ENCODER_FOLDER / "model.safetensors", names)


def _require_adapter(folder: Path, generator: PeftModel) -> None:
    names = get_peft_model_state_dict(generator, save_embedding_layers=False)
    _require_weights(folder / ADAPTER_FILES[1], names)


def _require_weights(path: Path, names: Iterable[str]) -> None:
    """Libraries start what is missing in a file at random and only warn; here it is an error."""
    with safe_open(path, "pt") as file:
        missing = sorted(set(names) - set(file.keys()))
    if missing:
        raise LagamcError(
            f"{path}: {len(missing)} weights are missing, among them {missing[0]}; copy or pull the model again"
        )


def artifact_prompt(config: ArtifactConfig) -> Prompt:
    """The prompt a model was trained with."""
    return Prompt(**config.prompt)
