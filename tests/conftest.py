"""Tiny models of real architectures, built once a session and saved to folders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tests.hub_server import HUB, Hub  # first: it names itself to all that reads the environment

# isort: split

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from lagamc.encoders import load_sentence_encoder
from lagamc.generators import LoraSettings, add_lora, load_generator, load_tokenizer
from lagamc.labels import LabelBank
from lagamc.losses import LossBalance, LossSettings
from lagamc.modeling import LagamcModel
from lagamc.prompts import ResponseCodec

DESCRIPTIONS = {
    "late": "Late parcel: the customer is still waiting for it.",
    "broken": "Broken article: it does not work or arrived damaged.",
    "refund": "Money back: the customer wants a refund.",
    "praise": "Praise for the shop. The customer is happy",
}
ROWS = [
    {"id": "a", "text": "Where is my parcel? I have waited for two weeks.", "labels": ["late"]},
    {"id": "b", "text": "The lamp is cracked and I want my money back.", "labels": ["broken", "refund"]},
    {"id": "c", "text": "Lovely shop, thank you!", "labels": ["praise"]},
    {"id": "d", "text": "Are you hiring at the moment?", "labels": []},
    {"id": "e", "text": "It came late and it was broken, refund please.", "labels": ["late", "broken", "refund"]},
    {"id": "f", "text": "Still nothing in the post.", "labels": ["late"]},
]
CORPUS = [
    *DESCRIPTIONS.values(),
    *(row["text"] for row in ROWS),
    "One. a b c d e f g h i j k l m n o p q r s t u v w",
] * 3


@pytest.fixture
def bank() -> LabelBank:
    return LabelBank(DESCRIPTIONS)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data set folder in the project's format."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "dev", "test"):
        lines = [json.dumps({**row, "id": f"{split}-{row['id']}"}) for row in ROWS]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "labels.json").write_text(json.dumps(DESCRIPTIONS), encoding="utf-8")
    return folder


DECODER_ONLY: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def _sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>")
    )
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"][len(special) :]
    # the trainer's order, and the last digits, are others in each process
    ordered = sorted((piece, round(score, 2)) for piece, score in pieces)
    tokenizer.model = models.Unigram([*((token, 0.0) for token in special), *ordered], special.index("<unk>"), False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _byte_level_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def _wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # pieces of BPE, as the trainer of WordPiece breaks ties by chance
    pieces = Tokenizer(models.BPE())
    pieces.normalizer, pieces.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    pieces.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=170))
    learned = sorted(pieces.get_vocab())
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *learned, *(f"##{piece}" for piece in learned)]
    tokenizer.model = models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]")
    tokenizer.add_special_tokens(vocabulary[:5])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 with a SentencePiece-like tokenizer and padded logits."""
    folder = tmp_path_factory.mktemp("tiny-t5")
    tokenizer = _sentencepiece_tokenizer()
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer) + 6,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BART with a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-bart")
    tokenizer = _byte_level_tokenizer()
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=256,
        dropout=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
        forced_bos_token_id=None,
    )
    model = BartForConditionalGeneration(config)
    model.final_logits_bias.normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT sentence encoder with mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    bert_folder = tmp_path_factory.mktemp("tiny-bert")
    folder = tmp_path_factory.mktemp("tiny-encoder")
    tokenizer = _wordpiece_tokenizer()
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(bert_folder)
    tokenizer.save_pretrained(bert_folder)
    transformer = Transformer(str(bert_folder), max_seq_length=128)
    encoder = SentenceTransformer(modules=[transformer, Pooling(16, "mean")], device="cpu")
    encoder.save_pretrained(str(folder), create_model_card=False)
    return folder


def _decoder_only(folder: Path, kind: Any, config: Any) -> Path:
    """Its tokenizer puts a start token in front of a text and nothing behind it, and has no padding token."""
    tokenizer = _byte_level_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    torch.manual_seed(0)
    kind(config(vocab_size=len(tokenizer), **DECODER_ONLY)).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama."""
    return _decoder_only(tmp_path_factory.mktemp("tiny-llama"), LlamaForCausalLM, LlamaConfig)


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mistral; its attention slides over a window shorter than the texts."""
    return _decoder_only(
        tmp_path_factory.mktemp("tiny-mistral"), MistralForCausalLM, partial(MistralConfig, sliding_window=24)
    )


@pytest.fixture(scope="session")
def tiny_t5_encoder(tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 encoder as a sentence encoder, shaped like sentence-t5."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    folder = tmp_path_factory.mktemp("tiny-t5-encoder")
    transformer = Transformer(str(tiny_t5), max_seq_length=128)
    torch.manual_seed(2)
    width = transformer.auto_model.config.d_model
    modules = [transformer, Pooling(width, "mean"), Dense(width, 12, bias=False), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="session", autouse=True)
def hub_home() -> Iterator[None]:
    """Where the client of the Hub keeps its cache goes with the tests."""
    yield
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def serving_hub() -> Iterator[Hub]:
    HUB.start()
    yield HUB
    HUB.stop()


@pytest.fixture
def hub(serving_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub that the client of this process talks to, and an empty cache."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    shutil.rmtree(huggingface_hub.constants.HF_HUB_CACHE, ignore_errors=True)
    serving_hub.reset()
    yield serving_hub
    serving_hub.reset()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models this small only lose time to threads."""
    torch.set_num_threads(1)


# at the end: it imports from here, and a session-wide fixture must be known to all test files as one
from tests.artifacts import (  # noqa: E402, F401
    classifier,
    session_data,
    trained,
    trained_bart,
    trained_llama,
    trained_t5,
    trained_whole,
)
from tests.commands import refused  # noqa: E402, F401


@pytest.fixture
def make_model(tiny_encoder: Path, bank: LabelBank) -> Callable[..., LagamcModel]:
    """Builds a model around a tiny generator; settings that are not named here are those of the losses."""

    def make(
        folder: Path,
        lora: bool = False,
        label_vocabulary: bool = True,
        order: str = "bank",
        labels: LabelBank | None = None,
        balance: LossBalance | None = None,
        encoder: Path | None = None,
        **settings: Any,
    ) -> LagamcModel:
        torch.manual_seed(0)
        tokenizer = load_tokenizer(folder)
        generator: Any = load_generator(str(folder))
        if lora:
            generator = add_lora(generator, LoraSettings())
        return LagamcModel(
            generator,
            load_sentence_encoder(encoder or tiny_encoder),
            tokenizer,
            ResponseCodec(labels or bank, tokenizer, order),
            balance or LossBalance(),
            LossSettings(**settings),
            label_vocabulary,
        )

    return make
