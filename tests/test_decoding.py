"""Description-aware decoding against the decoding of `transformers`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lagamc.backbones import Reading
from lagamc.classifier import LagamcClassifier
from lagamc.decoding import DescriptionDecoder
from lagamc.encoding import pad_texts
from lagamc.errors import LagamcError
from lagamc.generators import build_embedded, embedded_folder, load_tokenizer
from lagamc.labels import LabelBank
from lagamc.modeling import LagamcModel
from tests.artifacts import Trained
from tests.conftest import ROWS

GENERATORS = ["tiny_t5", "tiny_bart", "tiny_llama", "tiny_mistral"]
SHARED = LabelBank(
    {
        "refund": "The customer wants a refund. Soon.",
        "back": "The customer wants a parcel.",
        "happy": "The customer is happy.",
        "work": "It does not work",
    }
)
TEXTS = [[0, 40, 41, 42], [0, 50], [0, *range(20, 54)], [0, 33, 34], [0, 60, 61, 62, 63], [0, 7]]


def _batch(model: LagamcModel) -> tuple[Tensor, Tensor]:
    return pad_texts(TEXTS, model.backbone.padding_id, model.backbone.padding_side)


def _greedy(model: LagamcModel, longest: int) -> list[list[int]]:
    """What `generate` writes for each text alone."""
    end, rows = model.codec.end_token_id, []
    for text in TEXTS:
        ids = torch.tensor([text])
        written = model.generate(ids, torch.ones_like(ids), max_new_tokens=longest, do_sample=False)[0].tolist()
        rows.append(written[: written.index(end) + 1] if end in written else written)
    return rows


@torch.no_grad()
def _lean_to_descriptions(model: LagamcModel, strength: float) -> None:
    """Moves the head of a random model so that it often follows descriptions and often leaves them."""
    torch.manual_seed(3)
    weight = model.base_generator.get_output_embeddings().weight
    weight.add_(strength * torch.randn_like(weight))


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("strength", [0.0, 1.0])
@pytest.mark.parametrize("label_vocabulary", [True, False])
def test_exact_equals_greedy_generation_where_nothing_matches(
    generator: str,
    strength: float,
    label_vocabulary: bool,
    make_model: Callable[..., LagamcModel],
    request: pytest.FixtureRequest,
) -> None:
    model = make_model(
        request.getfixturevalue(generator), label_vocabulary=label_vocabulary, labels=SHARED, retrieval_weight=0.5
    ).eval()
    _lean_to_descriptions(model, strength)
    decoder = DescriptionDecoder(model, "exact", 25)
    assert decoder.decode(model.backbone.read(*_batch(model))) == _greedy(model, 25)


def test_exact_equals_greedy_generation_of_the_embedded_generator() -> None:
    from lagamc.encoders import load_sentence_encoder
    from lagamc.losses import LossBalance, LossSettings
    from lagamc.prompts import ResponseCodec

    tokenizer = load_tokenizer(embedded_folder())
    torch.manual_seed(0)
    model = LagamcModel(
        build_embedded(tokenizer),
        load_sentence_encoder(embedded_folder()),
        tokenizer,
        ResponseCodec(SHARED, tokenizer),
        LossBalance(),
        LossSettings(retrieval_weight=0.3),
    ).eval()
    decoder = DescriptionDecoder(model, "exact", 20)
    assert decoder.decode(model.backbone.read(*_batch(model))) == _greedy(model, 20)


@pytest.mark.parametrize("kind", ["t5", "bart", "llama", "whole"])
def test_a_trained_model_writes_what_generate_writes_in_no_more_passes(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier: LagamcClassifier = request.getfixturevalue(f"trained_{kind}").load()
    texts = [str(row["text"]) for row in ROWS]
    decoder = classifier.decoder("exact")
    tokens: list[int] = []
    original = decoder.decode

    def counted(reading: Reading, retrieved: torch.Tensor | None) -> list[list[int]]:
        rows = original(reading, retrieved)
        tokens.extend(len(row) for row in rows)
        return rows

    monkeypatch.setattr(decoder, "decode", counted)
    exact = classifier.predict(texts)
    assert [p.generated for p in exact] == [p.generated for p in classifier.predict(texts, decoding="generate")]
    assert len(texts) <= decoder.row_passes <= sum(tokens)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("order", ["bank", "given"])
def test_constrained_writes_descriptions_alone_and_none_twice(
    generator: str, order: str, make_model: Callable[..., LagamcModel], request: pytest.FixtureRequest
) -> None:
    model = make_model(request.getfixturevalue(generator), labels=SHARED, order=order, retrieval_weight=0.5).eval()
    _lean_to_descriptions(model, 1.0)
    codec = model.codec
    written = DescriptionDecoder(model, "constrained", 200).decode(model.backbone.read(*_batch(model)))
    assert written == [_constrained_by_hand(model, text) for text in TEXTS]
    for row in written:
        assert row[-1] == codec.end_token_id
        rest, labels = row[:-1], []
        while rest:
            [label] = [i for i, ids in enumerate(codec.token_ids) if rest[: len(ids)] == ids]
            labels.append(label)
            rest = rest[len(codec.token_ids[label]) :]
        assert len(set(labels)) == len(labels)
        assert order == "given" or labels == sorted(labels)


@torch.no_grad()
def _constrained_by_hand(model: LagamcModel, text: list[int]) -> list[int]:
    """Token by token, every continuation looked up among all responses that are possible."""
    from itertools import permutations

    codec = model.codec
    sets = [s for size in range(len(codec.bank) + 1) for s in permutations(range(len(codec.bank)), size)]
    possible = {
        (*(token for label in s for token in codec.token_ids[label]), codec.end_token_id)
        for s in sets
        if codec.order == "given" or list(s) == codec.sort(s)
    }
    ids = torch.tensor([text])
    reading = model.backbone.read(ids, torch.ones_like(ids))
    written: list[int] = []
    while not written or written[-1] != codec.end_token_id:
        logits = model.backbone.continued(reading, [0], [written])[0, -1]
        nexts = {response[len(written)] for response in possible if response[: len(written)] == tuple(written)}
        written.append(max(sorted(nexts), key=lambda token: float(logits[token])))
    return written


def test_a_response_is_cut_where_generate_cuts_it(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    model = make_model(tiny_t5, retrieval_weight=0.5).eval()
    for longest in (1, 2, 7):
        written = DescriptionDecoder(model, "exact", longest).decode(model.backbone.read(*_batch(model)))
        assert written == _greedy(model, longest)


def test_unknown_decodings_are_refused(
    trained_t5: Trained, make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    with pytest.raises(LagamcError, match="decoding: expected one of"):
        trained_t5.load().predict(["A text."], decoding="sampled")
    with pytest.raises(LagamcError, match="beams: 4 need decoding 'generate'"):
        trained_t5.load().predict(["A text."], beams=4)
    assert trained_t5.load().predict(["A text."], decoding="generate", beams=2)
    with pytest.raises(ValueError, match="decoding"):
        DescriptionDecoder(make_model(tiny_t5), "generate")
