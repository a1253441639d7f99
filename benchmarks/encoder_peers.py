"""Peers that fine-tune MiniLM, the backbone of the embedded generator, in other ways."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import sentence_transformers
import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset
from scipy.special import expit
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from torch import Tensor, nn
from transformers import (
    AutoModel,
    DataCollatorWithPadding,
    EncoderDecoderModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

from benchmarks.datasets import Task
from benchmarks.peers import Scored
from lagamc.generators import build_embedded, embedded_folder, load_tokenizer
from lagamc.training_args import suited_attention

RATE, HEAD_RATE = 2e-4, 5e-3  # best of those tried for the multi-label head on CAVES
DECODER_RATE = 5e-4  # of the same decoder in LAGAMC's configs
LIBRARY = f"transformers {transformers.__version__}"


def fine_tuned(task: Task, build: Callable[[Task, Any], nn.Module], rates: Mapping[str, float]) -> Scored:
    """Trains a model on text against all labels at once by binary cross-entropy.

    Args:
        task: rows and labels.
        build: makes the model from task and tokenizer; it takes `input_ids`, `attention_mask` and `labels`, (rows,
            labels), and returns `loss` and `logits`, (rows, labels).
        rates: beginnings of the names of weights that are learned faster -> their learning rate.
    """
    set_seed(task.seed)
    tokenizer = load_tokenizer(_backbone(task))
    model = build(task, tokenizer)
    groups: dict[str, dict[str, Any]] = {
        name: {"params": [], "lr": rate} for name, rate in {**rates, "": RATE}.items()
    }
    for name, parameter in model.named_parameters():
        groups[next(begin for begin in groups if name.startswith(begin))]["params"].append(parameter)
    rows = {}
    for split, texts in task.texts.items():
        ids = tokenizer(texts, truncation=True, max_length=task.max_length)["input_ids"]
        true = task.true[split].astype(np.float32).tolist()
        rows[split] = Dataset.from_dict({"input_ids": ids, "labels": true, "length": [len(row) for row in ids]})
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=task.peer_epochs,
                per_device_train_batch_size=32,
                per_device_eval_batch_size=64,
                warmup_steps=0.06,
                train_sampling_strategy="group_by_length",
                save_strategy="no",
                report_to="none",
                seed=task.seed,
            ),
            train_dataset=rows["train"],
            data_collator=DataCollatorWithPadding(tokenizer),
            optimizers=(torch.optim.AdamW(list(groups.values()), weight_decay=0.01), None),
        )
        with suited_attention(trainer.args):
            trainer.train()
        trainer.args.train_sampling_strategy = "sequential"  # `predict` would sort the rows by length as well
        scores = {split: expit(np.asarray(trainer.predict(rows[split]).predictions)) for split in ("dev", "test")}
    weights = sum(p.numel() for p in model.parameters())
    each = "".join(f", {name} {rate:g}" for name, rate in rates.items())
    setting = f"{task.backbone or 'MiniLM'}, batch 32, learning rate {RATE:g}{each}{_precision(trainer)}"
    return Scored(scores, LIBRARY, setting, weights, weights)


def _precision(trainer: Trainer) -> str:
    """That it trained in, as the setting of a row names it."""
    return "" if trainer.args.mixed_precision == "no" else f", {trainer.args.mixed_precision}"


def _backbone(task: Task) -> str:
    return task.backbone or str(embedded_folder())


def _encoder(task: Task) -> Any:
    model = AutoModel.from_pretrained(_backbone(task))
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def _output(logits: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    if labels is None:
        return {"logits": logits}
    return {"loss": F.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


class MultiLabelHead(nn.Module):
    """A linear head on the mean of the encoder's states, the pooling that MiniLM was trained with."""

    def __init__(self, task: Task, _: Any):
        super().__init__()
        self.encoder = _encoder(task)
        self.head = nn.Linear(self.encoder.config.hidden_size, len(task.bank))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **_: Any) -> Any:
        states = self.encoder(input_ids, attention_mask).last_hidden_state
        return _output(self.head(_mean(states, attention_mask)), labels)


def one_vs_all(task: Task) -> Scored:
    """A multi-label head on MiniLM: the family of BERT, RoBERTa, XLNet and Renee."""
    return fine_tuned(task, MultiLabelHead, {"head": HEAD_RATE})


class ReadsDescriptions(nn.Module):
    """Holds the tokens of the label descriptions."""

    ids: Tensor
    mask: Tensor

    def __init__(self, task: Task, tokenizer: Any):
        super().__init__()
        described = tokenizer(list(task.bank.descriptions), padding=True, truncation=True, return_tensors="pt")
        self.register_buffer("ids", described["input_ids"])
        self.register_buffer("mask", described["attention_mask"])


class JointEncoding(ReadsDescriptions):
    """Text and descriptions through one encoder (paper, section 8.7); a logit is the scaled product of both."""

    def __init__(self, task: Task, tokenizer: Any):
        super().__init__(task, tokenizer)
        self.encoder = _encoder(task)
        width = self.encoder.config.hidden_size
        self.head = nn.Linear(width, width)
        self.offset = nn.Parameter(torch.zeros(len(task.bank)))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **_: Any) -> Any:
        texts = _mean(self.encoder(input_ids, attention_mask).last_hidden_state, attention_mask)
        described = _mean(self.encoder(self.ids, self.mask).last_hidden_state, self.mask)
        return _output(self.head(texts) @ described.T / texts.shape[1] ** 0.5 + self.offset, labels)


def joint_encoding(task: Task) -> Scored:
    """See `JointEncoding`."""
    return fine_tuned(task, JointEncoding, {"head": 1e-3, "offset": 1e-3})


class LabelQueries(nn.Module):
    """T5Enc (Kementchedjhieva and Chalkidis, 2023): the decoder reads one query a label, all at once.

    A query starts as the mean of the word embeddings of its description; each has a linear head of its own.
    """

    def __init__(self, task: Task, tokenizer: Any):
        super().__init__()
        self.model: EncoderDecoderModel = build_embedded(tokenizer)
        encoder: Any = self.model.encoder
        table: Tensor = encoder.get_input_embeddings().weight
        described = tokenizer(list(task.bank.descriptions), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            starts = torch.stack([table[ids].mean(0) for ids in described])
        self.queries = nn.Parameter(starts)
        self.head = nn.Linear(table.shape[1], len(task.bank))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **_: Any) -> Any:
        rows, count = len(input_ids), len(self.queries)
        states = self.model.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        every = torch.zeros(rows, 1, count, count, dtype=states.dtype, device=states.device)  # added: all see all
        decoder: Any = self.model.decoder.bert
        decoded = decoder(
            inputs_embeds=self.queries.expand(rows, -1, -1),
            attention_mask=every,
            position_ids=torch.zeros(rows, count, dtype=torch.long, device=states.device),
            encoder_hidden_states=states,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        ).last_hidden_state
        return _output((decoded * self.head.weight).sum(-1) + self.head.bias, labels)


def label_queries(task: Task) -> Scored:
    """See `LabelQueries`; the same encoder, decoder and cross-attention as the embedded generator."""
    rates = {"head": HEAD_RATE, "queries": DECODER_RATE, "model.decoder": DECODER_RATE}
    return fine_tuned(task, LabelQueries, rates)


class DualEncoder(ReadsDescriptions):
    """sentence-transformers on text against description: the family of SiameseXML and DEXA.

    Each text meets the descriptions of all labels. In batches of pairs without duplicates, which
    sentence-transformers would make, a frequent label came up once a batch and most of its texts never.
    """

    def __init__(self, task: Task, tokenizer: Any):
        super().__init__(task, tokenizer)
        self.encoder = SentenceTransformer(_backbone(task), device="cpu")
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.offset = nn.Parameter(torch.tensor(-3.0))

    def _unit(self, ids: Tensor, mask: Tensor) -> Tensor:
        return F.normalize(self.encoder({"input_ids": ids, "attention_mask": mask})["sentence_embedding"], dim=-1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **_: Any) -> Any:
        cosine = self._unit(input_ids, attention_mask) @ self._unit(self.ids, self.mask).T
        return _output(cosine * self.log_scale.exp() + self.offset, labels)


def dual_encoder(task: Task) -> Scored:
    """See `DualEncoder`."""
    scored = fine_tuned(task, DualEncoder, {"log_scale": HEAD_RATE, "offset": HEAD_RATE})
    return replace(scored, library=f"sentence-transformers {sentence_transformers.__version__}")


def set_fit(task: Task) -> Scored:
    """SetFit (Tunstall et al., 2022) on MiniLM: pairs of texts, then logistic regression for each label."""
    import setfit

    set_seed(task.seed)
    encoder = SentenceTransformer(_backbone(task), device="cpu")
    encoder.max_seq_length = task.max_length  # `max_length` of its arguments does not reach an encoder
    model = setfit.SetFitModel(
        encoder,
        OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=2000, random_state=task.seed)),
        multi_target_strategy="one-vs-rest",
    )
    rows = Dataset.from_dict({"text": task.texts["train"], "label": task.true["train"].astype(int).tolist()})
    pairs = min(len(rows) * 40, 20_000)  # SetFit's own 40 a row, until it has read as many texts as others
    with tempfile.TemporaryDirectory() as folder:
        arguments = setfit.TrainingArguments(
            output_dir=folder,
            batch_size=32,
            max_steps=pairs // 32,
            sampling_strategy="unique",
            body_learning_rate=2e-5,
            save_strategy="no",
            report_to="none",
            seed=task.seed,
        )
        setfit.Trainer(model=model, args=arguments, train_dataset=rows).train()
    scores = {split: np.asarray(model.predict_proba(task.texts[split], as_numpy=True)) for split in ("dev", "test")}
    weights = sum(p.numel() for p in model.model_body.parameters())
    setting = f"MiniLM, {pairs // 32} batches of 32 pairs, learning rate 2e-05"
    return Scored(scores, f"setfit {setfit.__version__}", setting, weights, weights)
