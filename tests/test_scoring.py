"""Label probabilities and thresholds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor

from lagamc import scoring
from lagamc.encoding import pad_texts
from lagamc.labels import LabelBank
from lagamc.modeling import LagamcModel
from lagamc.scoring import LabelScorer

PLAIN = LabelBank({"late": "Late parcel.", "broken": "Broken lamp.", "refund": "The money back."})
SHARED = LabelBank(
    {
        "refund": "The customer wants a refund.",
        "back": "The customer wants a parcel.",
        "happy": "The customer is happy.",
        "work": "It does not work",
    }
)


def _inputs(model: LagamcModel) -> tuple[Tensor, Tensor]:
    rows = torch.arange(10, 31).view(3, 7).tolist()
    rows[1] = rows[1][:4]
    return pad_texts(rows, model.backbone.padding_id, model.backbone.padding_side)


def _scores(model: LagamcModel, scores: str = "accurate", **settings: int) -> np.ndarray:
    """Probabilities from each source, (rows, labels, sources)."""
    with torch.no_grad():
        reading = model.backbone.read(*_inputs(model))
        bank = None if model.retrieval is None else model.encode_bank()
        evidence = LabelScorer(model, **settings).evidence(reading, model.retrieve(reading, bank), scores)
    return expit(evidence)


@torch.no_grad()
def _brute_force(model: LagamcModel) -> np.ndarray:
    """Marginals from every possible response, each teacher-forced on its own with the full head."""
    codec, bank = model.codec, model.codec.bank
    input_ids, mask = _inputs(model)
    start = model.generation_config.decoder_start_token_id or 0
    openings = [(*ids[:i], ids[i]) for ids in codec.token_ids for i in range(len(ids))]

    def next_chances(row: int, written: tuple[int, ...]) -> dict[int | None, float]:
        """Chance of each label, and of the end (None), behind the written ones."""
        if codec.order == "given":
            possible = [label for label in range(len(bank)) if label not in written]
        else:
            possible = [i for i in range(len(bank)) if not written or codec.rank[i] > codec.rank[written[-1]]]
        before = [start, *(token for label in written for token in codec.token_ids[label])]
        logs: dict[int | None, float] = {}
        forced = [torch.tensor([*before, *ids]) for ids in codec.token_ids]
        text = input_ids[row : row + 1][mask[row : row + 1].bool()][None].expand(len(bank), -1)
        padded = torch.nn.utils.rnn.pad_sequence(forced, batch_first=True)  # causal: the rest is ignored
        if model.base_generator.config.is_encoder_decoder:
            everything = model.generator(input_ids=text, decoder_input_ids=padded).logits
        else:  # the response stands behind the text, whose last token takes the place of the start token
            whole = torch.cat([text, padded[:, 1:]], dim=1)
            everything = model.generator(input_ids=whole).logits[:, text.shape[1] - 1 :]
        for label in range(len(bank)):
            ids = codec.token_ids[label]
            logits = everything[label, len(before) - 1 :]
            log = 0.0
            for step, token in enumerate(ids):
                rivals = {o[-1] for o in openings if o[:-1] == tuple(ids[:step])}
                rivals |= {codec.end_token_id} if step == 0 else set()
                log += float(torch.log_softmax(logits[step, sorted(rivals)].double(), 0)[sorted(rivals).index(token)])
                if step == 0:
                    end = torch.log_softmax(logits[0, sorted(rivals)].double(), 0)
                    logs[None] = float(end[sorted(rivals).index(codec.end_token_id)])
            logs[label] = log
        kept = {choice: np.exp(log) for choice, log in logs.items() if choice is None or choice in possible}
        return {choice: value / sum(kept.values()) for choice, value in kept.items()}

    scores = np.zeros((len(input_ids), len(bank)))
    for row in range(len(input_ids)):
        chances: dict[tuple[int, ...], dict[int | None, float]] = {}
        total = 0.0
        for size in range(len(bank) + 1):
            for response in permutations(range(len(bank)), size):
                if codec.order != "given" and list(response) != codec.sort(response):
                    continue
                probability = 1.0
                for step, label in enumerate([*response, None]):
                    opening = response[:step]
                    if opening not in chances:
                        chances[opening] = next_chances(row, opening)
                    probability *= chances[opening][label]
                total += probability
                scores[row, list(response)] += probability
        assert total == pytest.approx(1.0)
    return scores


@pytest.mark.parametrize(
    ("labels", "order", "lora"),
    [(PLAIN, "bank", False), (PLAIN, "given", False), (SHARED, "bank", False), (SHARED, "bank", True)],
    ids=["plain", "any order", "shared openings", "shared openings, LoRA"],
)
def test_marginals_equal_those_of_all_label_sets(
    labels: LabelBank,
    order: str,
    lora: bool,
    make_model: Callable[..., LagamcModel],
    tiny_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "MINIMUM_PATH", 0.0)
    model = make_model(tiny_t5, lora=lora, labels=labels, order=order).eval()
    _sharpen(model)
    if labels is SHARED:
        assert any(model.codec.branches.keys() - {()})  # some descriptions do part behind their first token
    scores = _scores(model, beam=1000, chunk=7)[..., 0]
    assert scores.dtype == np.float64
    assert np.ptp(scores) > 0.1
    np.testing.assert_allclose(scores, _brute_force(model), atol=1e-5)


@torch.no_grad()
def _sharpen(model: LagamcModel) -> None:
    """Makes the random generator opinionated: its near-uniform choices would hide mistakes."""
    torch.manual_seed(4)
    for name, parameter in model.generator.named_parameters():
        if "lora_B" in name:
            parameter.normal_()
    weight = model.base_generator.get_output_embeddings().weight
    model.base_generator.get_output_embeddings().weight.copy_(weight + torch.randn_like(weight))


def test_texts_of_many_labels_are_followed_to_the_end(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    names = ["refund", "late", "broken", "lamp", "parcel", "money", "shop", "thank", "post", "arrival"]
    many = LabelBank({f"{a}-{b}": f"{a} {b}" for a in names for b in names[:2]})
    assert len(many) == 20
    assert LabelScorer(make_model(tiny_t5, labels=many)).maximum_labels == 20


def test_retrieval_is_a_source_of_its_own(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MINIMUM_PATH", 0.0)
    model = make_model(tiny_t5, labels=PLAIN, retrieval_weight=0.5).eval()
    assert model.retrieval is not None
    input_ids, mask = _inputs(model)
    with torch.no_grad():
        states = model.base_generator.get_encoder()(input_ids=input_ids, attention_mask=mask)[0]
        retrieved = torch.sigmoid(model.retrieval(states, mask, model.encode_bank()))[..., 0].numpy()
    both = _scores(model, beam=1000)
    np.testing.assert_allclose(both[..., 0], _brute_force(model), atol=1e-5)
    np.testing.assert_allclose(both[..., 1], retrieved, atol=1e-5)
    fast = _scores(model, "fast")
    assert fast.shape == (3, 3, 1)
    np.testing.assert_array_equal(fast[..., 0], both[..., 1])


@torch.no_grad()
def test_each_reader_of_retrieval_is_a_source(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    model = make_model(tiny_t5, labels=PLAIN, retrieval_weight=0.5, retrieval_readers="both").eval()
    reading = model.backbone.read(*_inputs(model))
    texts = torch.randn(3, model.embedding_dimensions, generator=torch.Generator().manual_seed(1))
    retrieved = model.retrieve(reading, model.encode_bank(), texts)
    assert retrieved is not None
    scorer = LabelScorer(model)
    accurate, fast = (scorer.evidence(reading, retrieved, scores) for scores in ("accurate", "fast"))
    assert accurate.shape == (3, 3, 3)
    np.testing.assert_array_equal(accurate[..., 1:], fast)
    np.testing.assert_allclose(fast, retrieved.numpy(), atol=1e-6)
    np.testing.assert_array_equal(
        scorer.evidence(reading, model.retrieve(reading, model.encode_bank()), "fast"), fast[..., :1]
    )


def test_fast_scores_take_no_decoder_pass_where_there_is_retrieval(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tiny_t5, labels=PLAIN, retrieval_weight=0.5).eval()
    monkeypatch.setattr(model.backbone, "continued", None)
    assert _scores(model, "fast").shape == (3, 3, 1)


@pytest.mark.parametrize("labels", [PLAIN, SHARED], ids=["plain", "shared openings"])
def test_fast_scores_without_retrieval_follow_the_most_probable_set(
    labels: LabelBank, make_model: Callable[..., LagamcModel], tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one label set is nearly certain, they are those of the beam."""
    monkeypatch.setattr(scoring, "MINIMUM_PATH", 0.0)
    model = make_model(tiny_t5, labels=labels).eval()
    head = model.base_generator.get_output_embeddings()
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(1)) * 30)
    chain, marginals = _scores(model, "fast")[..., 0], _scores(model, beam=1000)[..., 0]
    sure = (np.minimum(marginals, 1 - marginals) < 0.01).all(axis=1)
    assert sure.any()
    np.testing.assert_allclose(chain[sure], marginals[sure], atol=0.05)


@torch.no_grad()
def test_improbable_openings_are_not_looked_at(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    """Labels that share an opening nobody would write share its probability evenly."""
    model = make_model(tiny_t5, labels=SHARED).eval()
    scorer = LabelScorer(model)
    reading = model.backbone.read(*_inputs(model))
    everything = scorer._choices([(0, (), 1.0)], reading)[0]
    hardly = scorer._choices([(0, (), 1e-3)], reading)[0]
    assert len(scorer.nodes) > 1
    np.testing.assert_allclose(np.exp(everything).sum(), 1.0)
    np.testing.assert_allclose(np.exp(hardly).sum(), 1.0)
    assert np.ptp(everything[:3]) > 1e-6
    opening = scorer.nodes[0][2][0]  # the labels behind the first token they share
    assert len(opening) == 3
    assert np.exp(hardly[opening]).sum() == pytest.approx(np.exp(everything[opening]).sum())
    assert hardly[3] == pytest.approx(everything[3])


@pytest.mark.parametrize("generator", ["tiny_bart", "tiny_llama", "tiny_mistral"])
def test_marginals_of_other_generators(
    generator: str,
    make_model: Callable[..., LagamcModel],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """BART adds a bias to its head; texts of decoder-only models are padded on the left."""
    monkeypatch.setattr(scoring, "MINIMUM_PATH", 0.0)
    model = make_model(request.getfixturevalue(generator), labels=PLAIN).eval()
    scores = _scores(model, beam=1000, chunk=5)[..., 0]
    np.testing.assert_allclose(scores, _brute_force(model), atol=1e-5)


def test_labels_of_another_order_are_followed_by_frequency(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MINIMUM_PATH", 0.0)
    model = make_model(tiny_t5, labels=PLAIN).eval()
    _sharpen(model)
    by_bank = _scores(model, beam=1000)[..., 0]
    model.set_labels(type(model.codec)(PLAIN, model.tokenizer, "frequency", {"refund": 3, "broken": 2, "late": 1}))
    by_frequency = _scores(model, beam=1000)[..., 0]
    assert np.abs(by_bank - by_frequency).max() > 1e-3
    np.testing.assert_allclose(by_frequency, _brute_force(model), atol=1e-5)


def test_a_narrow_beam_still_gives_probabilities(make_model: Callable[..., LagamcModel], tiny_t5: Path) -> None:
    model = make_model(tiny_t5, labels=SHARED).eval()
    scores = _scores(model, beam=1)[..., 0]
    assert ((scores >= 0) & (scores <= 1 + 1e-9)).all()
    singles = _scores(model, beam=8, maximum_labels=1)[..., 0]
    assert (singles.sum(axis=1) <= 1 + 1e-9).all()
