"""Generator, sentence encoder and lambda as one module."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lagamc.encoders import text_pieces
from lagamc.labels import LabelBank
from lagamc.losses import LAMBDA_MODES, RETRIEVAL_POOLING, RETRIEVAL_READERS, LossBalance
from lagamc.modeling import LagamcModel
from lagamc.prompts import strip_response
from tests.batches import FORMS, LABEL_SETS, TEXTS, batch_of

# gradients

RETRIEVALS = list(itertools.product(RETRIEVAL_READERS, RETRIEVAL_POOLING))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("generator", "lora"), [("tiny_t5", False), ("tiny_t5", True), ("tiny_bart", True), ("tiny_llama", True)]
)
@pytest.mark.parametrize("tokens", ["softmax", "gumbel_hard"])
def test_the_semantic_term_trains_generator_and_sentence_encoder(
    form: str,
    generator: str,
    lora: bool,
    tokens: str,
    make_model: Callable[..., LagamcModel],
    request: pytest.FixtureRequest,
) -> None:
    folder = request.getfixturevalue(generator)
    model = make_model(folder, lora=lora, semantic_form=form, soft_tokens=tokens).train()
    semantic = model(**batch_of(model)).semantic
    assert semantic is not None
    semantic.backward()
    if lora:  # the matrices A get their first gradient once B is no longer zero
        reached = {n: p.grad for n, p in model.generator.named_parameters() if "lora_B" in n}
    else:
        reached = {n: p.grad for n, p in model.generator.named_parameters()}
    assert reached
    assert all(grad is not None and grad.abs().max() > 0 for grad in reached.values())
    encoder = dict(model.sentence_encoder.named_parameters())
    for part in ("word_embeddings", "layer.0.attention.self.query.weight", "layer.1.output.dense.weight"):
        [grad] = [p.grad for name, p in encoder.items() if part in name]
        assert grad is not None
        assert grad.abs().max() > 0


def test_cross_entropy_does_not_train_the_sentence_encoder(
    make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    model = make_model(tiny_t5, semantic_form="none")
    output = model(**batch_of(model))
    assert output.semantic is not None
    assert output.semantic.item() == 0
    assert output.cross_entropy is not None
    output.cross_entropy.backward()
    assert all(p.grad is None for p in model.sentence_encoder.parameters())
    assert all(p.grad is not None for p in model.generator.parameters())


@pytest.mark.parametrize(("readers", "pooling"), RETRIEVALS)
@pytest.mark.parametrize(
    ("generator", "lora"), [("tiny_t5", False), ("tiny_t5", True), ("tiny_bart", True), ("tiny_llama", True)]
)
def test_the_retrieval_term_trains_the_generators_encoder_and_the_sentence_encoder(
    generator: str,
    lora: bool,
    readers: str,
    pooling: str,
    make_model: Callable[..., LagamcModel],
    request: pytest.FixtureRequest,
) -> None:
    folder = request.getfixturevalue(generator)
    settings = {"retrieval_weight": 0.5, "retrieval_readers": readers, "retrieval_pooling": pooling}
    model = make_model(folder, lora=lora, semantic_form="none", **settings)
    output = model.train()(**batch_of(model))
    assert output.retrieval is not None
    assert output.retrieval.item() > 0
    output.retrieval.backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {name for name, _ in model.named_parameters() if name.startswith("retrieval.")} <= reached
    assert ("retrieval.dual.offset" in reached) == (readers == "both")
    assert any(name.startswith("generator.") for name in reached)
    if generator != "tiny_llama":
        assert not any("decoder." in name for name in reached)
    assert any("word_embeddings" in name for name in reached if name.startswith("sentence_encoder."))


@pytest.mark.parametrize(("readers", "pooling"), RETRIEVALS)
def test_the_retrieval_term_is_the_mean_of_its_rows(
    readers: str, pooling: str, make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    """Neither the micro-batches nor the padding matter."""
    model = make_model(tiny_t5, retrieval_weight=0.5, retrieval_readers=readers, retrieval_pooling=pooling).eval()
    rows = [model(**batch_of(model, [ls], [text])).retrieval for ls, text in zip(LABEL_SETS, TEXTS, strict=True)]
    torch.testing.assert_close(model(**batch_of(model)).retrieval, torch.stack(rows).mean(), atol=1e-5, rtol=0)


def test_dropout_of_texts_leaves_descriptions_alone(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    settings = {"retrieval_weight": 0.5, "retrieval_readers": "both", "text_dropout": 0.5}
    model = make_model(tiny_t5, **settings).eval()
    assert model(**batch_of(model)).retrieval == model(**batch_of(model)).retrieval
    model.sentence_encoder.train()
    outputs = [model(**batch_of(model)) for _ in range(2)]
    assert outputs[0].retrieval != outputs[1].retrieval
    assert outputs[0].semantic == outputs[1].semantic
    assert torch.equal(model.encode_bank(), model.encode_bank())


@torch.no_grad()
def test_texts_are_embedded_as_by_encode(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    """Those that are cut, too."""
    model = make_model(tiny_t5).eval()
    encoder, texts = model.sentence_encoder, ["Where is my parcel?", "late and broken " * 20, "Hi", "\u200b"]
    for longest in (9, 64):
        embedded = model.descriptions.texts(text_pieces(encoder, texts, longest))
        encoder.max_seq_length = longest
        torch.testing.assert_close(embedded, encoder.encode(texts, convert_to_tensor=True), atol=1e-5, rtol=0)
        encoder.max_seq_length = 128


def test_the_paper_loss_has_no_retrieval_term(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    model = make_model(tiny_t5)
    assert model.retrieval is None
    assert model(**batch_of(model)).retrieval.item() == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", LAMBDA_MODES)
@pytest.mark.parametrize("lora", [False, True])
def test_gradient_of_the_whole_hybrid_loss(
    form: str, mode: str, lora: bool, make_model: Callable[..., LagamcModel], tiny_bart: Path
) -> None:
    """In float64, along random directions through all weights, lambda included, against finite differences."""
    model = make_model(
        tiny_bart, lora=lora, semantic_form=form, retrieval_weight=0.5, balance=LossBalance(mode, 0.4), temperature=0.7
    )
    model.double().eval()
    batch = batch_of(model)
    weights = [p for p in model.parameters() if p.requires_grad]

    def loss() -> Tensor:
        output = model(**batch)
        return model.balance(output.cross_entropy + 0.5 * output.retrieval, output.semantic)

    gradients = torch.autograd.grad(loss(), weights)
    # a random direction may be nearly level, the gradient as a whole is not
    norm = float(torch.cat([g.flatten() for g in gradients]).norm())
    assert norm > 0.1
    torch.manual_seed(1)
    for _ in range(3):
        direction = [torch.randn_like(p) for p in weights]
        expected = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        values = []
        for step in (1e-6, -2e-6):  # forth, then back to the other side
            with torch.no_grad():
                for p, d in zip(weights, direction, strict=True):
                    p.add_(d, alpha=step)
                values.append(float(loss()))
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p.add_(d, alpha=1e-6)
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(expected, abs=1e-6 * norm)


def test_labels_cut_from_a_response_are_no_negatives(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    """Of the contrastive form: a row that carries them all has none left."""
    model = make_model(tiny_t5, semantic_form="contrastive").eval()
    every = list(model.codec.bank)
    batch = batch_of(model, [every], TEXTS[:1])
    first = int((batch["label_index"] == batch["label_index"][0, 0]).sum())
    cut = {**batch, **{name: batch[name][:, :first] for name in ("labels", "label_index", "decisions")}}
    assert model(**cut).semantic.item() == pytest.approx(0, abs=1e-6)
    cut["truth"] = torch.zeros_like(cut["truth"])
    cut["truth"][0, cut["label_index"][0, 0]] = 1
    assert model(**cut).semantic.item() > 0.1


# rows without labels


@pytest.mark.parametrize("form", FORMS)
def test_rows_without_labels_count_as_zero_in_the_semantic_term(
    form: str, make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    model = make_model(tiny_t5, semantic_form=form).eval()
    labelled = [i for i, labels in enumerate(LABEL_SETS) if labels]
    full = model(**batch_of(model)).semantic
    fewer = model(**batch_of(model, [LABEL_SETS[i] for i in labelled], [TEXTS[i] for i in labelled])).semantic
    assert full.item() == pytest.approx(fewer.item() * len(labelled) / len(LABEL_SETS), abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_semantic_term_is_the_mean_of_its_rows(
    form: str, make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    """Micro-batches, also those without any label, add up to the whole batch."""
    model = make_model(tiny_t5, semantic_form=form).eval()
    rows = [
        model(**batch_of(model, [labels], [text])).semantic for labels, text in zip(LABEL_SETS, TEXTS, strict=True)
    ]
    torch.testing.assert_close(model(**batch_of(model)).semantic, torch.stack(rows).mean(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_without_any_label_keeps_every_weight_in_the_graph(
    form: str, make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    model = make_model(tiny_t5, lora=True, semantic_form=form).train()
    output = model(**batch_of(model, [[], []], TEXTS[:2]))
    assert output.semantic.item() == 0
    assert output.cross_entropy.item() > 0
    model.balance(output.cross_entropy, output.semantic).backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(grad is not None and torch.isfinite(grad).all() for grad in trained.values())
    assert all(grad.abs().max() == 0 for name, grad in trained.items() if name.startswith("sentence_encoder."))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("retrieval_weight", [0.0, 0.5])
def test_every_trained_weight_is_used_in_a_step(
    form: str, lora: bool, retrieval_weight: float, make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    """Without a search for unused weights `DistributedDataParallel` fails behind a step that left some out."""
    model = make_model(tiny_t5, lora=lora, semantic_form=form, retrieval_weight=retrieval_weight).train()
    output = model(**batch_of(model))
    (model.balance(output.cross_entropy, output.semantic) + output.retrieval).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


# logits and cross-entropy


@pytest.mark.parametrize("generator", ["tiny_t5", "tiny_bart"])
@pytest.mark.parametrize("label_vocabulary", [True, False])
def test_cross_entropy_and_decision_loss_from_the_generators_own_logits(
    generator: str,
    label_vocabulary: bool,
    make_model: Callable[..., LagamcModel],
    request: pytest.FixtureRequest,
) -> None:
    """Row by row without padding, full head, sliced afterwards."""
    folder = request.getfixturevalue(generator)
    model = make_model(folder, label_vocabulary=label_vocabulary, decision_weight=3.0).eval()
    batch = batch_of(model)
    rows, decided = [], []
    for row in range(len(TEXTS)):
        targets = batch["labels"][row][batch["labels"][row] >= 0]
        start = torch.tensor([model.generation_config.decoder_start_token_id])
        logits = model.generator(
            input_ids=batch["input_ids"][row][batch["attention_mask"][row] > 0][None],
            decoder_input_ids=torch.cat([start, targets[:-1]])[None],
        ).logits[0]
        logits = logits[:, model.vocabulary.token_ids]
        assert logits.shape[1] == (len(model.vocabulary) if label_vocabulary else len(model.tokenizer))
        positions = torch.searchsorted(model.vocabulary.token_ids, targets)
        surprisal = F.cross_entropy(logits, positions, reduction="none")
        decisions = batch["decisions"][row][: len(targets)]
        weights = torch.where(decisions, 3.0, 1.0)
        rows.append((surprisal * weights).sum() / weights.sum())
        decided.append(surprisal[decisions].sum())
    output = model(**batch)
    assert output.cross_entropy.item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-5)
    assert output.decision_loss.item() == pytest.approx(torch.stack(decided).mean().item(), abs=1e-5)
    assert not output.decision_loss.requires_grad


def test_padded_logits_of_t5_are_never_targets_nor_predictions(
    make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    model = make_model(tiny_t5, label_vocabulary=False)
    assert model.base_generator.get_output_embeddings().weight.shape[0] == len(model.tokenizer) + 6
    batch = batch_of(model)
    logits, _ = model.response_logits(batch["input_ids"], batch["attention_mask"], batch["labels"])
    assert logits.shape[-1] == len(model.tokenizer)


def test_the_temperature_is_led_from_one_value_to_another(
    make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    model = make_model(tiny_t5, temperature=2.0, final_temperature=0.5).eval()
    batch, seen = batch_of(model), []
    for progress, expected in ((0.0, 2.0), (0.5, 1.0), (1.0, 0.5)):
        model.anneal(progress)
        assert model.temperature == pytest.approx(expected)
        seen.append(model(**batch).semantic.item())
    assert len(set(seen)) == 3
    plain = make_model(tiny_t5, temperature=2.0)
    plain.anneal(0.7)
    assert plain.temperature == 2.0


def test_evaluation_repeats_to_the_bit(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    model = make_model(tiny_t5, soft_tokens="gumbel").eval()
    batch = batch_of(model)
    assert torch.equal(model(**batch).semantic, model(**batch).semantic)
    model.train()
    assert not torch.equal(model(**batch).semantic, model(**batch).semantic)


# labels and the rest


def test_set_labels_takes_another_bank_without_touching_weights(
    make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    model = make_model(tiny_t5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = LabelBank({"hiring": "Hiring: the customer wants work", "late": "Late post."})
    model.set_labels(type(model.codec)(fresh, model.tokenizer))
    assert {token for ids in model.codec.token_ids for token in ids} < set(model.vocabulary.token_ids.tolist())
    assert model.codec.end_token_id in model.vocabulary.token_ids
    assert len(model.encode_bank()) == 2
    assert torch.isfinite(model(**batch_of(model, [["hiring"], ["hiring", "late"]], TEXTS[:2])).semantic)
    after = model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_evaluating_restores_the_mode(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    model = make_model(tiny_t5).train()
    with model.evaluating():
        assert not model.training
        assert not model.generator.training
    assert model.training
    assert model.generator.training


def test_strip_response() -> None:
    assert strip_response([5, 6, 1, 0, 0], end_token_id=1, padding_id=0) == [5, 6]
    assert strip_response([5, 6, 2, 7, -100], end_token_id=2, padding_id=1) == [5, 6]
    assert strip_response([2, 1, 1], end_token_id=2, padding_id=1) == []
    assert strip_response([0, 5, 6], end_token_id=1, padding_id=0) == [5, 6]


def test_the_semantic_term_can_be_taken_on_a_share_of_the_rows(
    make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    """In training alone: every other row gives the loss that those rows give by themselves."""
    model = make_model(tiny_t5).train()
    batch = batch_of(model)
    half = {name: value[::2] for name, value in batch.items()}
    alone = model(**half).semantic
    assert not torch.isclose(model(**batch).semantic, alone)
    model.settings.semantic_share = 0.5
    torch.testing.assert_close(model(**batch).semantic, alone)
    whole = model.eval()(**batch).semantic
    model.settings.semantic_share = 1.0
    assert torch.equal(model(**batch).semantic, whole)
