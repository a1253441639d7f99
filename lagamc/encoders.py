"""Reading sentence encoders from a folder or the Hub, safetensors only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from lagamc.errors import LagamcError
from lagamc.generators import first_line
from lagamc.hub import ENCODER_PATTERNS, HubAccess, ModelFolder, resolve
from lagamc.modeling import LagamcModel, encoder_backbone
from lagamc.prompts import special_tokens

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

UNBOUNDED_LENGTH = 512  # tokens read by an encoder that names no bound


def find_sentence_encoder(
    name: str | Path, revision: str | None = None, access: HubAccess | None = None
) -> ModelFolder:
    """The folder of a sentence encoder; one of the Hub is fetched.

    Raises:
        LagamcError: there is none.
    """
    return resolve(name, ENCODER_PATTERNS, revision, access, "sentence encoder")


def load_sentence_encoder(
    name: str | Path, revision: str | None = None, access: HubAccess | None = None
) -> SentenceTransformer:
    """A sentence encoder from a folder or the Hub, on the CPU, without dropout and with a bound to what it reads.

    Dropout would make a perfect response differ from its own target. Code that comes with an encoder never runs: a
    model folder could not hold it.

    Raises:
        LagamcError: there is none, its weights are no safetensors, or it needs code of its own.
    """
    from sentence_transformers import SentenceTransformer

    folder = find_sentence_encoder(name, revision, access).folder
    # a part behind the first one would fall back to a pickle
    pickles = [p for p in sorted(folder.glob("*/pytorch_model.bin")) if not p.with_name("model.safetensors").is_file()]
    if pickles:
        raise LagamcError(
            f"no sentence encoder can be loaded from {str(name)!r}: {pickles[0]} is a pickle, which is never opened; "
            "expected model.safetensors beside it"
        )
    try:
        encoder = SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
        encoder_backbone(encoder).get_input_embeddings()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = first_line(error)
        if "trust_remote_code" in str(error):
            reason = "it needs Python code of its own, which never runs here; take one that transformers knows"
        raise LagamcError(f"no sentence encoder can be loaded from {str(name)!r}: {reason}") from error
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout"):  # some keep the number and drop out by a function
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    if (encoder.max_seq_length or VERY_LARGE_INTEGER) >= VERY_LARGE_INTEGER:  # neither model nor tokenizer has a bound
        encoder.max_seq_length = UNBOUNDED_LENGTH
    return encoder


def unit_embeddings(encoder: SentenceTransformer, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
    """Embeddings of length 1, (texts, dimensions), float32; without a prompt before them, as in training.

    Args:
        encoder: any.
        texts: any number.
        batch_size: texts at a time.
    """
    if not texts:
        return np.zeros((0, encoder.get_embedding_dimension() or 0), dtype=np.float32)
    found = encoder.encode(
        list(texts), batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False, prompt=""
    )
    return np.asarray(found, dtype=np.float32)


def draw_back(encoder: SentenceTransformer, start: Mapping[str, Tensor], share: float) -> None:
    """Moves trained weights back towards where they started (Wortsman et al., 2022, WiSE-FT).

    Between the two lie encoders that know most of what was learned and still most of what they knew before.

    Args:
        encoder: is changed.
        start: name -> parameter before training.
        share: of the trained weights, from 0 to 1.
    """
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.lerp_(start[name].to(parameter), 1 - share)


def drawn_back(encoder: SentenceTransformer, start: Mapping[str, Tensor], share: float) -> SentenceTransformer:
    """As `draw_back`, a copy, with weights that half precision holds: it is stored in that."""
    copy = deepcopy(encoder)
    draw_back(copy, start, share)
    return copy.half().float()


def text_pieces(
    encoder: SentenceTransformer, texts: Sequence[str], longest: int | None = None, window_stride: int = 0
) -> list[list[int]]:
    """Texts as token ids of an encoder, without its special tokens.

    A text that the generator reads in windows is read once, as far as the encoder can.

    Args:
        encoder: any.
        texts: any number.
        longest: tokens of a text without windows, special ones included; never more than the encoder reads, as None
            gives.
        window_stride: 0 where there are none.
    """
    if not len(texts):  # of which tokenizers make an error
        return []
    head, tail = special_tokens(encoder.tokenizer)
    bounds = (encoder.max_seq_length, None if window_stride else longest)
    limit = min((size for size in bounds if size is not None), default=None)
    room = None if limit is None else limit - len(head) - len(tail)
    pieces: list[list[int]] = encoder.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [row[:room] for row in pieces]


def pieces_to_read(
    model: LagamcModel, texts: Sequence[str], max_input_length: int, window_stride: int = 0
) -> list[list[int]] | None:
    """`text_pieces` for training; None where the sentence encoder reads no texts.

    Args:
        model: with its sentence encoder.
        texts: any number.
        max_input_length: tokens of a text without windows.
        window_stride: 0 where there are none.
    """
    if not model.reads_texts:
        return None
    return text_pieces(model.sentence_encoder, texts, max_input_length, window_stride)
