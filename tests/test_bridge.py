"""From the generator's tokens to the sentence encoder's embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from benchmarks import bridge_fidelity
from benchmarks.bridge_fidelity import build, perturbed
from lagamc.bridge import TokenBridge
from lagamc.config import DataArguments
from lagamc.generators import load_tokenizer
from lagamc.labels import LabelBank
from lagamc.prompts import ResponseCodec
from lagamc.training_data import data_files

PIECES = ["the", "wai", "parcel", "waiting", "customer", "cu", "c", ".", ":", "##t", "##st", "##r", "##ok", "##en"]
TOKENS = ["▁th", "▁wait", "▁parcel", "▁c", "roken", "st", "T", "in", "e", "g", ".", ":", "▁", "a", "▁a"]


@pytest.fixture(scope="module")
def encoder_tokenizer() -> PreTrainedTokenizerBase:
    """WordPiece with known pieces."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PIECES]
    letters = [mark + letter for letter in "abdefghiklmnoprstuwy" for mark in ("", "##")]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*words, *letters]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="module")
def t5_tokenizer() -> PreTrainedTokenizerBase:
    """SentencePiece-like with known tokens, the special ones first."""
    scored = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")] + [(token, -1.0) for token in TOKENS]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def test_the_real_t5_tokenizer_brings_descriptions_to_the_real_encoder() -> None:
    tokenizer = bridge_fidelity.t5_tokenizer()
    if tokenizer is None:
        pytest.skip("no T5 tokenizer is installed: `make install` could not fetch it")
    model = build(LabelBank.from_json(data_files(DataArguments(data_dir="demo"))["labels"]), tokenizer)
    assert model.bridge_similarities().min() > 0.999
    assert perturbed(model, count=10, seed=0)[0] > 0.99
    assert perturbed(model, count=20, seed=0, weights=(0.2, 0.5, 0.8), draws=8)[0] > 0.5


def _pieces(bridge: TokenBridge, row: int) -> list[str]:
    ends = [*bridge.offsets.tolist()[1:], len(bridge.columns)]
    columns = bridge.columns[bridge.offsets[row] : ends[row]].tolist()
    return list(bridge.encoder_tokenizer.convert_ids_to_tokens(columns))


def test_identity_where_the_vocabularies_coincide(encoder_tokenizer: PreTrainedTokenizerBase) -> None:
    token_ids = [7, 3, 40, 12]
    bridge = TokenBridge(encoder_tokenizer, encoder_tokenizer, token_ids)
    table = torch.randn(len(encoder_tokenizer), 5)
    assert bridge.is_identity
    assert torch.equal(bridge.embed(table), table[token_ids])
    aligned = bridge.align([9, 8, 9])
    assert aligned.piece_ids == [9, 8, 9]
    assert torch.equal(aligned.alignment, torch.eye(3))


@pytest.mark.parametrize(
    ("token", "pieces"),
    [
        ("roken", ["##r", "##ok", "##en"]),
        ("st", ["##st"]),
        ("in", ["##i", "##n"]),
        ("T", ["##t"]),
        ("▁parcel", ["parcel"]),
        ("▁c", ["c"]),
        ("▁wait", ["wai", "##t"]),
        (".", ["."]),
        (":", [":"]),
    ],
)
def test_pieces_of_sentencepiece_tokens(
    token: str,
    pieces: list[str],
    t5_tokenizer: PreTrainedTokenizerBase,
    encoder_tokenizer: PreTrainedTokenizerBase,
) -> None:
    token_id = t5_tokenizer.convert_tokens_to_ids(token)
    assert token_id != t5_tokenizer.unk_token_id
    bridge = TokenBridge(t5_tokenizer, encoder_tokenizer, [token_id])
    assert not bridge.is_identity
    assert _pieces(bridge, 0) == pieces


@pytest.mark.parametrize(
    ("token", "pieces"),
    [("st", ["##st"]), ("The", ["##t", "##h", "##e"]), ("Ġthe", ["the"]), ("Ġcust", ["cu", "##st"]), (".", ["."])],
)
def test_pieces_of_byte_level_tokens(
    token: str, pieces: list[str], encoder_tokenizer: PreTrainedTokenizerBase
) -> None:
    symbols = [*pre_tokenizers.ByteLevel.alphabet(), "st", "Th", "The", "Ġt", "Ġth", "Ġthe", "Ġc", "Ġcu", "Ġcust"]
    merges = [("s", "t"), ("T", "h"), ("Th", "e"), ("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e")]
    merges += [("Ġ", "c"), ("Ġc", "u"), ("Ġcu", "st")]
    backend = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    bridge = TokenBridge(tokenizer, encoder_tokenizer, [tokenizer.convert_tokens_to_ids(token)])
    assert _pieces(bridge, 0) == pieces


def test_rows_are_means_of_their_pieces_and_special_tokens_are_zero(
    t5_tokenizer: PreTrainedTokenizerBase, encoder_tokenizer: PreTrainedTokenizerBase
) -> None:
    roken, padded = t5_tokenizer.convert_tokens_to_ids("roken"), len(t5_tokenizer) + 3
    # specials first, between and last: an empty row must not shift the others
    bridge = TokenBridge(t5_tokenizer, encoder_tokenizer, [0, roken, 1, 2, padded])
    table = torch.randn(len(encoder_tokenizer), 5)
    rows = bridge.embed(table)
    pieces = encoder_tokenizer.convert_tokens_to_ids(["##r", "##ok", "##en"])
    assert torch.allclose(rows[1], table[pieces].mean(0), atol=1e-6)
    assert rows[[0, 2, 3, 4]].abs().max() == 0


def test_gradients_reach_the_embedding_table(
    t5_tokenizer: PreTrainedTokenizerBase, encoder_tokenizer: PreTrainedTokenizerBase
) -> None:
    roken = t5_tokenizer.convert_tokens_to_ids("roken")
    table = torch.randn(len(encoder_tokenizer), 5, requires_grad=True)
    TokenBridge(t5_tokenizer, encoder_tokenizer, [roken]).embed(table).sum().backward()
    assert table.grad is not None
    touched = table.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert touched == sorted(encoder_tokenizer.convert_tokens_to_ids(["##r", "##ok", "##en"]))
    assert torch.allclose(table.grad[touched], torch.full((3, 5), 1 / 3))


@pytest.mark.parametrize("generator", ["tiny_t5", "tiny_bart"])
def test_alignment_holds_the_true_pieces_and_covers_each(
    generator: str, bank: LabelBank, tiny_encoder: Path, request: pytest.FixtureRequest
) -> None:
    encoder_tokenizer = load_tokenizer(tiny_encoder)
    tokenizer = load_tokenizer(request.getfixturevalue(generator))
    codec = ResponseCodec(bank, tokenizer)
    bridge = TokenBridge(tokenizer, encoder_tokenizer, range(len(tokenizer)))
    for description, ids in zip(bank.descriptions, codec.token_ids, strict=True):
        aligned = bridge.align(ids)
        assert aligned.piece_ids == encoder_tokenizer(description + ".", add_special_tokens=False)["input_ids"]
        assert aligned.alignment.shape == (len(aligned.piece_ids), len(ids))
        assert torch.allclose(aligned.alignment.sum(1), torch.ones(len(aligned.piece_ids)))


def test_alignment_follows_the_characters(
    t5_tokenizer: PreTrainedTokenizerBase, encoder_tokenizer: PreTrainedTokenizerBase
) -> None:
    bridge = TokenBridge(t5_tokenizer, encoder_tokenizer, [])
    ids = t5_tokenizer.convert_tokens_to_ids(["▁th", "e", "▁wait", "in", "g", "."])
    aligned = bridge.align(ids)
    assert encoder_tokenizer.convert_ids_to_tokens(aligned.piece_ids) == ["the", "waiting", "."]
    assert torch.allclose(
        aligned.alignment,
        torch.tensor([[2 / 3, 1 / 3, 0, 0, 0, 0], [0, 0, 4 / 7, 2 / 7, 1 / 7, 0], [0, 0, 0, 0, 0, 1]]),
    )
