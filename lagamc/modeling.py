"""`LagamcModel`: generator, trainable sentence encoder and lambda as one module (paper, figure 1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from lagamc.backbones import DecoderOnlyBackbone, EncoderDecoderBackbone, Reading
from lagamc.bridge import TokenBridge, pad_alignments
from lagamc.compared import ComparedLabels
from lagamc.descriptions import DescriptionEncoder, Texts, encoder_backbone
from lagamc.lexical import LexicalScorer
from lagamc.losses import (
    LabelRetrieval,
    LossBalance,
    LossSettings,
    contrastive_loss,
    cosine_loss,
    mean_pairwise_cosine,
    response_cross_entropy,
    retrieval_loss,
    soft_tokens,
)
from lagamc.prompts import ResponseCodec, strip_response
from lagamc.unseen import Background
from lagamc.vocabulary import LabelVocabulary, VocabularyMask

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass
class LagamcOutput(ModelOutput):
    """The named losses of a batch; `compute_loss` of the trainer combines them.

    Args:
        cross_entropy: L_CE of equation 1, nats a token, decisions weighted.
        semantic: L_semantic of equation 1; 0 without a semantic form.
        retrieval: nats a row of telling a row's labels by the similarity of text and descriptions, summed over the
            readers; 0 where it is off.
        decision_loss: nats a response that its decisions cost, without gradient.
    """

    cross_entropy: Tensor | None = None
    semantic: Tensor | None = None
    retrieval: Tensor | None = None
    decision_loss: Tensor | None = None


class LagamcModel(nn.Module):
    """Generator, sentence encoder and lambda.

    Args:
        generator: an encoder-decoder or a decoder-only model, with or without LoRA.
        sentence_encoder: trained together with the generator.
        tokenizer: the generator's.
        codec: the label bank in the generator's tokens.
        balance: lambda.
        settings: of the losses.
        label_vocabulary: whether the softmax ranges over the tokens of the descriptions alone.
        retrieval: a trained retrieval part; None makes a new one where the settings weigh it.
    """

    main_input_name = "input_ids"

    def __init__(
        self,
        generator: PreTrainedModel | PeftModel,
        sentence_encoder: SentenceTransformer,
        tokenizer: PreTrainedTokenizerBase,
        codec: ResponseCodec,
        balance: LossBalance,
        settings: LossSettings,
        label_vocabulary: bool = True,
        retrieval: LabelRetrieval | None = None,
    ):
        super().__init__()
        self.generator = generator
        self.sentence_encoder = sentence_encoder
        pooler = getattr(encoder_backbone(sentence_encoder), "pooler", None)
        if pooler is not None:  # no part of the embedding, and DistributedDataParallel waits for all that is trained
            pooler.requires_grad_(False)
        self.balance = balance
        self.settings = settings
        self.temperature = settings.temperature
        self.tokenizer = tokenizer
        self.restricted = label_vocabulary
        kind = EncoderDecoderBackbone if self.base_generator.config.is_encoder_decoder else DecoderOnlyBackbone
        self.backbone = kind(generator, self.base_generator, int(tokenizer.pad_token_id or 0))
        if retrieval is None and settings.retrieval_weight > 0:
            retrieval = LabelRetrieval(
                self.backbone.hidden_size,
                self.embedding_dimensions,
                settings.retrieval_readers,
                settings.retrieval_pooling,
            )
        self.retrieval = retrieval
        self.background: Background | None = None  # set when the thresholds are tuned
        # what labels that are added later are scored by; without it that is the sentence encoder
        self.unseen_encoder: SentenceTransformer | None = None
        self.unseen_background: Background | None = None
        self.lexical: LexicalScorer | None = None  # told from the training texts
        # (labels,) bool, those that training rows have: no text is led away from the others; None is all
        self.learned: Tensor | None = None
        self.set_labels(codec)

    def set_labels(self, codec: ResponseCodec) -> None:
        """Takes another label bank; no weight changes."""
        self.codec = codec
        base = self.base_generator
        size = base.get_output_embeddings().weight.shape[0]
        tokens = [token for ids in codec.token_ids for token in ids] if self.restricted else range(len(self.tokenizer))
        device = next(self.generator.parameters()).device
        self.vocabulary = LabelVocabulary([t for t in [*tokens, codec.end_token_id] if t < size]).to(device)
        self.bridge = TokenBridge(self.tokenizer, self.sentence_encoder.tokenizer, self.vocabulary.token_ids.tolist())
        self.bridge.to(device)
        aligned = [self.bridge.align(ids) for ids in codec.token_ids]
        longest = max(len(ids) for ids in codec.token_ids)
        self.descriptions = DescriptionEncoder(self.sentence_encoder, aligned, longest).to(device)

    def with_codec(self, codec: ResponseCodec) -> LagamcModel:
        """The same weights under another label bank, as a model of its own."""
        parts = (self.generator, self.sentence_encoder, self.tokenizer, codec, self.balance, self.settings)
        other = LagamcModel(*parts, self.restricted, self.retrieval)
        for name in ("background", "unseen_encoder", "unseen_background"):
            setattr(other, name, getattr(self, name))
        if self.lexical is not None:
            other.lexical = self.lexical.of_labels(codec.bank.names)
        return other

    # the parts

    @property
    def base_generator(self) -> PreTrainedModel:
        """The generator without its LoRA wrapper (the adapted layers stay adapted)."""
        return self.generator.get_base_model() if isinstance(self.generator, PeftModel) else self.generator  # type: ignore[return-value]

    @property
    def config(self) -> Any:
        return self.generator.config

    @property
    def generation_config(self) -> Any:
        return self.base_generator.generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        self.base_generator.generation_config = value

    @property
    def embedding_dimensions(self) -> int:
        """Of the sentence embeddings."""
        return int(self.sentence_encoder.get_embedding_dimension() or self.descriptions.embedding_table.shape[1])

    @property
    def reads_texts(self) -> bool:
        """Whether the sentence encoder reads the texts, too."""
        return self.retrieval is not None and self.retrieval.dual is not None

    @property
    def device(self) -> torch.device:
        return self.vocabulary.token_ids.device

    def gradient_checkpointing_enable(self, *arguments: Any, **settings: Any) -> None:
        """Recomputes activations of the generator in the backward pass to save memory."""
        generator: Any = self.generator
        generator.gradient_checkpointing_enable(*arguments, **settings)
        if isinstance(self.generator, PeftModel):
            self.generator.enable_input_require_grads()

    # losses

    def anneal(self, progress: float) -> None:
        """Sets the temperature of the soft tokens for a point of the run.

        Args:
            progress: share of the steps that are done, 0 to 1.
        """
        start, end = self.settings.temperature, self.settings.final_temperature
        self.temperature = start if end is None else start * (end / start) ** progress

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        label_index: Tensor,
        decisions: Tensor,
        truth: Tensor,
        text_pieces: Tensor | None = None,
        text_lengths: Tensor | None = None,
    ) -> LagamcOutput:
        """The named losses of a batch.

        Args:
            input_ids: (rows, tokens) prompt and text.
            attention_mask: (rows, tokens).
            labels: (rows, response) target tokens, -100 on padding.
            label_index: (rows, response) bank position of each token's label, -1 on the end token, -100 on padding.
            decisions: (rows, response) bool, tokens at which labels part.
            truth: (rows, labels), 0 or 1: all labels of each row, also those cut from its response.
            text_pieces: (rows, pieces) the text as the sentence encoder reads it, without special tokens.
            text_lengths: (rows,) pieces of each.
        """
        logits, states = self.response_logits(input_ids, attention_mask, labels)
        targets = self.vocabulary.localise(labels)
        weights = (labels >= 0) * torch.where(decisions, self.settings.decision_weight, 1.0)
        cross_entropy = response_cross_entropy(logits, targets, weights)
        with torch.no_grad():
            surprisal = -torch.log_softmax(logits.float(), dim=-1).gather(-1, targets[..., None])[..., 0]
            decision_loss = (surprisal * (decisions & (labels >= 0))).sum(1).mean()
        semantic = torch.zeros_like(cross_entropy)
        bank = None
        compared = ComparedLabels.of(truth, self.settings.bank_sample if self.training else None, self.learned)
        if self.settings.semantic_form != "none":
            rows = self._semantic_rows(len(labels))
            semantic, bank = self.semantic_loss(
                logits[rows], targets[rows], label_index[rows], replace(compared, carried=compared.carried[rows])
            )
        elif self.retrieval is not None:
            bank = self.encode_bank(compared.labels)
        retrieval = torch.zeros_like(cross_entropy)
        if self.retrieval is not None and bank is not None:
            texts = None
            if self.retrieval.dual is not None and text_pieces is not None and text_lengths is not None:
                texts = self.descriptions.read(text_pieces, text_lengths, self.settings.text_dropout)
            found = self.retrieval(states, attention_mask, bank, texts)
            retrieval = retrieval_loss(found, compared.carried, compared.counts)
        return LagamcOutput(
            cross_entropy=cross_entropy, semantic=semantic, retrieval=retrieval, decision_loss=decision_loss
        )

    def response_texts(self, tokens: np.ndarray) -> list[str]:
        """The texts of generated rows, (rows, tokens), with -100 or the padding token behind their end."""
        end, padding = self.codec.end_token_id, self.backbone.padding_id
        return [self.codec.decode(strip_response(row.tolist(), end, padding)) for row in tokens]

    def _semantic_rows(self, rows: int) -> Tensor:
        """The rows of a batch with a semantic term, spread evenly: batches are sorted by length."""
        taken = max(1, round(self.settings.semantic_share * rows)) if self.training else rows
        return torch.arange(taken, device=self.device) * rows // taken

    def response_logits(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher-forced logits over the vocabulary in use, and the encoder's states.

        Returns:
            (rows, response, vocabulary) and (rows, tokens, hidden).
        """
        with self.vocabulary.restricted_head(self.base_generator):
            return self.backbone.teacher_forced(input_ids, attention_mask, labels)

    def semantic_loss(
        self, logits: Tensor, targets: Tensor, label_index: Tensor, compared: ComparedLabels | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """L_semantic in the form of the settings, averaged over the rows; a row without labels counts as 0.

        Args:
            logits: (rows, response, vocabulary).
            targets: (rows, response) positions in the vocabulary.
            label_index: (rows, response), see `forward`.
            compared: all labels of the rows among them; None takes the whole bank, and the labels of `label_index`.

        Returns:
            the loss, and what `encode_bank` gives where this or the retrieval term compares with it: all
            descriptions of a step are encoded together.
        """
        settings, descriptions = self.settings, self.descriptions
        soft = soft_tokens(logits, settings.soft_tokens, self.temperature, self.training)
        table = descriptions.embedding_table
        token_embeddings = self.bridge.embed(table)
        # the text that the most probable tokens spell is embedded as the encoder reads it; where the vocabularies
        # coincide every token is its own piece, and any text does
        anchor = targets if self.bridge.is_identity else soft.argmax(-1)
        difference = soft.to(table.dtype) @ token_embeddings - token_embeddings[anchor]

        whole = settings.semantic_form == "response"
        if compared is None:
            truth = label_index.new_zeros(len(label_index), len(self.codec.bank) + 1)
            compared = ComparedLabels.of(truth.scatter_(1, label_index.clamp_min(-1) + 1, 1)[:, 1:])
        with_bank = not whole or self.retrieval is not None
        previous = torch.cat([torch.full_like(label_index[:, :1], -2), label_index[:, :-1]], dim=1)
        rows, starts = torch.nonzero((label_index >= 0) & (label_index != previous), as_tuple=True)
        if len(rows) == 0:  # no labels at all: nothing to compare, but every weight stays in the graph
            bank = self.encode_bank(compared.labels)
            return bank.sum() * 0 + difference.sum() * 0, bank
        kept = self.encode_bank(compared.labels) if with_bank and descriptions.keeps_bank else None
        label = label_index[rows, starts]
        # each description's own differences, then through its alignment onto the encoder's pieces
        steps = torch.arange(descriptions.alignment.shape[2], device=label.device)
        positions = (starts[:, None] + steps).clamp_max(label_index.shape[1] - 1)
        own = difference[rows[:, None], positions]  # beyond its end the alignment is 0
        if self.bridge.is_identity:
            written = descriptions.of_labels(label)
        else:
            tokens = self.vocabulary.token_ids[anchor[rows[:, None], positions]].tolist()
            sizes = [len(self.codec.token_ids[i]) for i in label.tolist()]
            texts = [self.bridge.align(ids[:size]) for ids, size in zip(tokens, sizes, strict=True)]
            written = pad_alignments(texts, descriptions.alignment.shape[2], descriptions.padding_id).to(label.device)
        added = written.alignment.to(table.dtype) @ own
        owner = rows if whole else torch.arange(len(rows), device=rows.device)
        targeted, place = None, torch.searchsorted(compared.labels, label)
        if whole:
            targeted, place = descriptions.responses(label, rows, compared.labels if with_bank else None)
        groups = [Texts(written.piece_ids, written.lengths, owner, added)]
        groups += [descriptions.single(compared.labels)] if with_bank and kept is None else []
        groups += [] if targeted is None else [targeted]
        generated, *others = descriptions.joined(*groups)
        others = others if kept is None else [kept, *others]
        known, encoded_bank = torch.cat(others), others[0] if with_bank else None

        if whole:
            weights = generated.new_full((len(generated),), 1 / len(label_index))
            return cosine_loss(generated, known[place], weights), encoded_bank
        # per row first, then over all rows: independent of how rows are spread over micro-batches
        weights = 1 / torch.bincount(rows, minlength=len(label_index))[rows] / len(label_index)
        if settings.semantic_form == "description":
            return cosine_loss(generated, known[place], weights), encoded_bank
        loss = contrastive_loss(
            generated, known, place, compared.carried[rows], weights=weights, counts=compared.counts
        )
        return loss, encoded_bank

    def encode_bank(self, labels: Tensor | None = None) -> Tensor:
        """The sentence encoder's embedding of every description, (labels, dimensions), with gradient.

        Args:
            labels: positions of some, (labels,), ascending.
        """
        return self.descriptions.of_bank(labels)

    def retrieve(self, reading: Reading, bank: Tensor | None, texts: Tensor | None = None) -> Tensor | None:
        """Logits of all labels without a decoder pass, (rows, labels, readers); None without a retrieval part.

        Args:
            reading: the texts.
            bank: (labels, dimensions) as `encode_bank` gives it; None where there is no retrieval part.
            texts: (rows, dimensions) of the sentence encoder; None leaves that reader out.
        """
        if self.retrieval is None or bank is None:
            return None
        return self.retrieval(reading.states, reading.attention_mask, bank, texts)

    @torch.no_grad()
    def bridge_similarities(self) -> Tensor:
        """Fidelity of the bridge: cosine between each description through it and the same encoded as text, (labels,).

        1 where the bridge is exact; less where the generator's tokenizer does not bring a description back.
        """
        with self.evaluating():
            through = self.encode_bank().float()
            texts = [text + "." for text in self.codec.bank.descriptions]
            encoded = self.sentence_encoder.encode(texts, convert_to_tensor=True, show_progress_bar=False, prompt="")
        return torch.nn.functional.cosine_similarity(through, encoded.float().to(through.device))

    @torch.no_grad()
    def collapse(self) -> float:
        """Mean cosine between different labels' descriptions under the sentence encoder."""
        return mean_pairwise_cosine(self.encode_bank())

    # generation

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor, restrict: bool = True, **settings: Any) -> Tensor:
        """`generate` of the generator; what it wrote, without the text and the start token.

        Args:
            input_ids: (rows, tokens).
            attention_mask: (rows, tokens).
            restrict: whether only tokens of the label vocabulary may be written.
            settings: passed on.
        """
        processors = [VocabularyMask(self.vocabulary.token_ids)] if restrict else []
        generator: Any = self.generator
        generated = generator.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            logits_processor=[*settings.pop("logits_processor", []), *processors],
            **{"pad_token_id": self.backbone.padding_id, "eos_token_id": self.codec.end_token_id, **settings},
        )
        return self.backbone.response_of(generated, input_ids)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside the context the model is in evaluation mode."""
        before = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(before)
