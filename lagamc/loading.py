"""Building a model from a published folder: a part that is missing or does not fit is an error that names it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from transformers import PreTrainedTokenizerBase

from lagamc.artifact import (
    ADAPTER_FILES,
    BACKGROUND_FILE,
    CONFIG_FILE,
    ENCODER_FOLDER,
    GENERATOR_FOLDER,
    LABELS_FILE,
    LEXICAL_FILE,
    RETRIEVAL_FILE,
    UNSEEN_FOLDER,
    ArtifactConfig,
    read_config,
)
from lagamc.descriptions import encoder_backbone
from lagamc.encoders import load_sentence_encoder
from lagamc.errors import LagamcError
from lagamc.generators import find_generator, first_line, load_generator, load_tokenizer
from lagamc.hub import HubAccess, ModelFolder
from lagamc.labels import LabelBank
from lagamc.lexical import LexicalScorer
from lagamc.losses import LossBalance, LossSettings
from lagamc.modeling import LagamcModel
from lagamc.prompts import ResponseCodec
from lagamc.unseen import UNSEEN, Background

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load_artifact(
    folder: str | Path, base_model: str | None = None, access: HubAccess | None = None
) -> tuple[LagamcModel, ArtifactConfig]:
    """Builds the model of a published folder, in evaluation mode on the CPU.

    Args:
        folder: as `save_artifact` wrote it.
        base_model: in place of the recorded base model of an adapter: a folder, `NAME` or `NAME@revision`.
        access: for the base model.

    Raises:
        LagamcError: a part is missing or does not fit.
    """
    folder = Path(folder)
    config = read_config(folder)
    bank = LabelBank.from_json(folder / LABELS_FILE)
    encoder = load_sentence_encoder(folder / ENCODER_FOLDER, access=access)
    _require_encoder(folder / ENCODER_FOLDER, encoder)
    tokenizer: PreTrainedTokenizerBase
    generator: Any
    if config.base_model:
        base = find_base(config, base_model, access)
        trusted = access is not None and access.trust_remote_code
        tokenizer = load_tokenizer(base.folder, trusted)
        generator = load_generator(base.folder, trusted)
        try:
            generator = PeftModel.from_pretrained(generator, str(folder))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise LagamcError(
                f"{folder}: the adapter does not fit the base model '{base}': {first_line(error)}"
            ) from error
        _require_adapter(folder, generator)
    else:
        tokenizer = load_tokenizer(folder / GENERATOR_FOLDER)
        generator = load_generator(folder / GENERATOR_FOLDER)
    codec = ResponseCodec(bank, tokenizer, config.label_order, config.label_counts)
    balance = LossBalance(config.lambda_mode, minimum=config.lambda_minimum)
    _load_balance(balance, config, folder)
    model = LagamcModel(
        generator, encoder, tokenizer, codec, balance, LossSettings(**config.loss), config.label_vocabulary
    )
    _load_retrieval(model, folder)
    if config.lexical:
        stored = LexicalScorer.load(folder / LEXICAL_FILE, encoder.tokenizer)
        expected = {*stored.names, *config.untrained}
        strange = [name for name in bank if name not in expected]
        if strange:
            raise LagamcError(
                f"{folder / LEXICAL_FILE}: knows no words of {strange[0]!r}, so it is of another model; "
                "copy or pull the model again"
            )
        model.lexical = stored.of_labels(bank.names)
    if UNSEEN in config.tuned:
        model.background = Background.load(folder / BACKGROUND_FILE, model.embedding_dimensions)
    if config.unseen_encoder:
        model.unseen_encoder = load_sentence_encoder(folder / UNSEEN_FOLDER, access=access)
        _require_encoder(folder / UNSEEN_FOLDER, model.unseen_encoder)
        if UNSEEN in config.tuned:
            path = folder / UNSEEN_FOLDER / BACKGROUND_FILE
            model.unseen_background = Background.load(path, model.embedding_dimensions)
    return model.eval(), config


def find_base(config: ArtifactConfig, base_model: str | None = None, access: HubAccess | None = None) -> ModelFolder:
    """The base model of an adapter, at the revision that was trained on.

    Raises:
        LagamcError: it is not there.
    """
    if base_model is not None:
        return find_generator(base_model, access=access)
    assert config.base_model is not None
    try:
        return find_generator(config.base_model, config.base_revision, access)
    except LagamcError as error:
        raise LagamcError(f"the adapter's base model: {error}; or name it by base_model") from error


def load_weights(model: LagamcModel, folder: str | Path) -> None:
    """Puts the weights of a published folder, lambda included, into a model that is already built.

    Raises:
        LagamcError: a part is missing or does not fit.
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        _require_encoder(folder / ENCODER_FOLDER, model.sentence_encoder)
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
    _require_weights(folder / "model.safetensors", names)


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
