"""The semantic term against the sentence encoder's own `encode`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from lagamc.generators import load_tokenizer
from lagamc.modeling import LagamcModel
from tests.batches import FORMS, TEXTS, batch_of


@pytest.fixture
def shared_t5(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A random T5 in the sentence encoder's own vocabulary."""
    tokenizer = load_tokenizer(tiny_encoder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=tokenizer.cls_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "shared")
    tokenizer.save_pretrained(tmp_path / "shared")
    return tmp_path / "shared"


def _one_hot(model: LagamcModel, labels: Tensor) -> Tensor:
    """Logits whose soft tokens are the given tokens, one-hot in float32."""
    return 1e4 * F.one_hot(model.vocabulary.localise(labels), len(model.vocabulary)).float()


def _semantic(model: LagamcModel, batch: dict[str, Tensor], logits: Tensor) -> Tensor:
    return model.semantic_loss(logits, model.vocabulary.localise(batch["labels"]), batch["label_index"])[0]


@pytest.mark.parametrize("generator", ["tiny_t5", "tiny_bart", "tiny_llama", "shared_t5"])
@pytest.mark.parametrize("form", ["response", "description"])
@pytest.mark.parametrize("label_vocabulary", [True, False])
def test_a_perfect_prediction_has_no_semantic_loss(
    generator: str,
    form: str,
    label_vocabulary: bool,
    make_model: Callable[..., LagamcModel],
    request: pytest.FixtureRequest,
) -> None:
    folder = request.getfixturevalue(generator)
    model = make_model(folder, semantic_form=form, label_vocabulary=label_vocabulary).train()
    batch = batch_of(model)
    assert _semantic(model, batch, _one_hot(model, batch["labels"])).item() == pytest.approx(0.0, abs=1e-5)
    torch.manual_seed(0)
    noise = torch.randn(*batch["labels"].shape, len(model.vocabulary))
    assert _semantic(model, batch, noise).item() > 1e-3


@pytest.mark.parametrize("label_vocabulary", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_another_response_costs_its_distance_by_encode(
    form: str, label_vocabulary: bool, make_model: Callable[..., LagamcModel], shared_t5: Path
) -> None:
    """Where the vocabularies coincide, the term equals what `SentenceTransformer.encode` says of the texts."""
    model = make_model(shared_t5, semantic_form=form, label_vocabulary=label_vocabulary).eval()
    batch = batch_of(model)
    known = dict(enumerate(model.tokenizer.convert_ids_to_tokens(list(range(len(model.tokenizer))))))
    pairs = {pair for ids in model.codec.token_ids for pair in pairwise(ids)}
    opening = {first for first, second in pairs if known[second].startswith("##")}
    words = sorted({first for first, _ in pairs if known[first].isalpha()} - opening)
    swap = dict(zip(words, [*words[1:], words[0]], strict=True))  # every word becomes another one
    written = batch["labels"].clone().apply_(lambda token: swap.get(token, token))

    def encode(texts: list[str]) -> Tensor:
        return model.sentence_encoder.encode(texts, convert_to_tensor=True)

    wholes, parts = [], []  # (as written, as it should be, bank position)
    for row in range(len(written)):
        index = batch["label_index"][row]
        texts = []
        for label in dict.fromkeys(i for i in index.tolist() if i >= 0):
            ids = written[row, index == label].tolist()
            text = model.tokenizer.decode(ids)
            assert model.tokenizer(text, add_special_tokens=False)["input_ids"] == ids
            texts.append((text, model.codec.bank.descriptions[label] + ".", label))
        parts += [(*triple, row) for triple in texts]
        if texts:
            wholes.append((" ".join(p[0] for p in texts), " ".join(p[1] for p in texts)))
    if form == "response":
        expected = 1 - F.cosine_similarity(*(encode(list(texts)) for texts in zip(*wholes, strict=True)))
    elif form == "description":
        expected = 1 - F.cosine_similarity(encode([p[0] for p in parts]), encode([p[1] for p in parts]))
    else:
        bank = F.normalize(encode([text + "." for text in model.codec.bank.descriptions]), dim=-1)
        scores = 20 * F.normalize(encode([p[0] for p in parts]), dim=-1) @ bank.T
        for i, (_, _, label, row) in enumerate(parts):
            for other in set(batch["label_index"][row].tolist()) - {label}:
                if other >= 0:
                    scores[i, other] = float("-inf")
        expected = F.cross_entropy(scores, torch.tensor([p[2] for p in parts]), reduction="none")
    assert expected.max() > 0.01
    value = _semantic(model, batch, _one_hot(model, written))
    owners = [p[3] for p in parts] if form != "response" else list(dict.fromkeys(p[3] for p in parts))
    per_row = [expected[[i for i, owner in enumerate(owners) if owner == row]].mean().item() for row in set(owners)]
    assert value.item() == pytest.approx(sum(per_row) / len(written), abs=1e-5)  # a row without labels counts as 0


@pytest.mark.parametrize("generator", ["tiny_t5", "tiny_bart"])
@pytest.mark.parametrize("seed", range(3))
def test_any_written_text_is_encoded_as_by_encode(
    generator: str, seed: int, make_model: Callable[..., LagamcModel], request: pytest.FixtureRequest
) -> None:
    """Between different vocabularies too, also where the written tokens spell no word of the bank."""
    model = make_model(request.getfixturevalue(generator), semantic_form="description").eval()
    assert not model.bridge.is_identity
    batch = batch_of(model, [["refund"]], TEXTS[:1])
    codec = model.codec
    words = [t for t in model.vocabulary.token_ids.tolist() if t != codec.end_token_id]
    chosen = torch.randint(len(words), batch["labels"].shape, generator=torch.Generator().manual_seed(seed))
    written = torch.where(batch["label_index"] >= 0, torch.tensor(words)[chosen], batch["labels"])
    texts = [codec.decode(written[0, :-1].tolist()), codec.bank["refund"] + "."]
    real = F.cosine_similarity(*model.sentence_encoder.encode(texts, convert_to_tensor=True)[:, None])
    assert real.item() < 0.999
    assert _semantic(model, batch, _one_hot(model, written)).item() == pytest.approx(1 - real.item(), abs=1e-5)


def test_long_responses_are_cut_as_the_encoder_cuts_them(
    make_model: Callable[..., LagamcModel], shared_t5: Path
) -> None:
    model = make_model(shared_t5).eval()
    model.sentence_encoder.max_seq_length = 16
    batch = batch_of(model, [["late", "broken", "refund"]], TEXTS[:1])
    # what differs lies behind the cut: the beginning is 'Late parcel: ...', 11 pieces, and 3 of the next
    beyond = batch["labels"].clone()
    beyond[0, 16:-1] = beyond[0, 3]
    assert not torch.equal(beyond, batch["labels"])
    assert _semantic(model, batch, _one_hot(model, beyond)).item() == pytest.approx(0.0, abs=1e-5)
    within = batch["labels"].clone()
    within[0, 1:9] = within[0, 9]
    assert not torch.equal(within, batch["labels"])
    assert _semantic(model, batch, _one_hot(model, within)).item() > 1e-4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("generator", ["tiny_t5", "tiny_bart"])
def test_a_t5_as_the_sentence_encoder(
    form: str,
    generator: str,
    make_model: Callable[..., LagamcModel],
    tiny_t5_encoder: Path,
    request: pytest.FixtureRequest,
) -> None:
    """As sentence-t5: no token in front of the text, a linear map and a normalisation behind the pooling."""
    model = make_model(
        request.getfixturevalue(generator), encoder=tiny_t5_encoder, semantic_form=form, retrieval_weight=0.5
    ).eval()
    assert model.embedding_dimensions == 12
    torch.testing.assert_close(model.bridge_similarities(), torch.ones(4), atol=1e-5, rtol=0)
    batch = batch_of(model)
    if form != "contrastive":
        assert _semantic(model, batch, _one_hot(model, batch["labels"])).item() == pytest.approx(0, abs=1e-5)
    output = model.train()(**batch)
    model.balance(output.cross_entropy + output.retrieval, output.semantic).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
