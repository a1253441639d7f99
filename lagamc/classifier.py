"""`LagamcClassifier`: loading a published model and predicting with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from lagamc.artifact import ArtifactConfig, artifact_prompt, load_artifact, save_artifact
from lagamc.data import LOSS_IGNORE, is_encodable, pad, pad_texts
from lagamc.decoding import MODES, DescriptionDecoder
from lagamc.errors import LagamcError
from lagamc.generators import first_line
from lagamc.labels import LabelBank
from lagamc.matcher import LabelMatcher, Match
from lagamc.modeling import LagamcModel, check_lengths
from lagamc.prompts import ResponseCodec
from lagamc.scoring import LabelScorer, Thresholds
from lagamc.trainer import response_texts

DECIDE_BY = ("scores", "generated")


@dataclass(frozen=True)
class Prediction:
    """What the model says about one text.

    Args:
        labels: most probable first (by scores), or in the order they were written.
        scores: label -> probability, for every label of the bank; empty where scores were not asked for.
        generated: the descriptions the model wrote.
        matches: where each generated sentence went.
        clipped: whether the text was cut to the model's input length.
    """

    labels: list[str]
    scores: dict[str, float]
    generated: str
    matches: list[Match]
    clipped: bool = False


class LagamcClassifier:
    """A trained model, ready to predict.

    Args:
        model: generator, sentence encoder and label bank.
        config: what a prediction depends on.
        device: `cpu`, `cuda`, ...; None takes a GPU where there is one.
    """

    def __init__(self, model: LagamcModel, config: ArtifactConfig, device: str | None = None):
        self.config = config
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.model = model.to(self.device).eval()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise LagamcError(f"device: {device!r} cannot be used here ({first_line(error)})") from error
        self.thresholds = Thresholds(**config.thresholds)
        self._decoders: dict[str, DescriptionDecoder] = {}

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | None = None, base_model: str | None = None
    ) -> LagamcClassifier:
        """Loads the output folder of a training run.

        Args:
            folder: as `run_train.py` wrote it.
            device: where to compute.
            base_model: in place of the recorded base model of an adapter.

        Raises:
            LagamcError: the folder is no model, or a part is missing.
        """
        model, config = load_artifact(folder, base_model)
        return cls(model, config, device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model as `from_pretrained` reads it."""
        self.config.thresholds = self.thresholds.to_dict()
        save_artifact(self.model, folder, self.config)

    @property
    def bank(self) -> LabelBank:
        return self.model.codec.bank

    @cached_property
    def matcher(self) -> LabelMatcher:
        """Matches generated sentences to the bank under the trained encoder."""
        return LabelMatcher(
            self.bank, self.model.sentence_encoder, self.config.minimum_similarity, self.model.codec.round_trip
        )

    @cached_property
    def scorer(self) -> LabelScorer:
        """Gives every label of the bank a probability."""
        return LabelScorer(self.model, beam=self.config.beam)

    def decoder(self, mode: str) -> DescriptionDecoder:
        """Writes descriptions, `exact` or `constrained`."""
        if mode not in self._decoders:
            self._decoders[mode] = DescriptionDecoder(self.model, mode, self.config.max_response_length)
        return self._decoders[mode]

    def with_labels(self, descriptions: Mapping[str, str], remove: Sequence[str] = ()) -> LagamcClassifier:
        """A classifier with labels added, reworded or removed; nothing is retrained and the weights are shared.

        Args:
            descriptions: label -> description; a name of the bank is reworded, another one added.
            remove: labels to leave out.
        """
        if not isinstance(descriptions, Mapping):
            raise LagamcError(f"with_labels: expected label -> description, found {type(descriptions).__name__}")
        unknown = [name for name in remove if name not in self.bank]
        if unknown:
            raise LagamcError(f"with_labels: {unknown[0]!r} is no label of the bank {self.bank.names[:12]}")
        kept = {name: text for name, text in self.bank.items() if name not in remove}
        bank = LabelBank({**kept, **descriptions})
        old = self.model
        codec = ResponseCodec(bank, old.tokenizer, self.config.label_order, self.config.label_counts)
        model = LagamcModel(
            old.generator,
            old.sentence_encoder,
            old.tokenizer,
            codec,
            old.balance,
            old.settings,
            old.restricted,
            old.retrieval,
        )
        longest = max(len(ids) for ids in codec.token_ids) + 1
        config = replace(
            self.config,
            max_response_length=max(self.config.max_response_length, longest),
            thresholds=self.thresholds.to_dict(),
        )
        check_lengths(model, config.max_input_length, longest)
        return LagamcClassifier(model, config, str(self.device))

    def predict(
        self,
        texts: Sequence[str],
        batch_size: int = 32,
        decide_by: str = "scores",
        generate: bool = True,
        decoding: str = "exact",
        beams: int = 1,
        progress: str | None = None,
    ) -> list[Prediction]:
        """Predicts labels of texts.

        Args:
            texts: any number; computed in batches of similar length, returned in order.
            batch_size: texts at a time.
            decide_by: `scores`, the labels whose probability reaches the tuned threshold; or `generated`, the
                labels the generated sentences match (paper, section 5.4).
            generate: whether descriptions are written; needed for `generated`.
            decoding: `exact` (what greedy decoding writes), `constrained` (descriptions of the bank alone), both
                verified in a few decoder passes; or `generate`, the decoding of `transformers`.
            beams: of `generate`.
            progress: title of a progress bar on the standard error; None shows none.

        Raises:
            LagamcError: an argument is not one of the above, or a text is empty or no string.
        """
        if decide_by not in DECIDE_BY:
            raise LagamcError(f"decide_by: expected one of {list(DECIDE_BY)}, found {decide_by!r}")
        if decoding not in MODES:
            raise LagamcError(f"decoding: expected one of {list(MODES)}, found {decoding!r}")
        if beams != 1 and decoding != "generate":
            raise LagamcError(f"beams: {beams} need decoding 'generate', found {decoding!r}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise LagamcError(f"batch_size: expected a number of at least 1, found {batch_size!r}")
        if not isinstance(texts, Sequence):
            raise LagamcError(f"predict: expected a list of texts, found {type(texts).__name__}")
        if isinstance(texts, str):
            raise LagamcError("predict: expected a list of texts, found one string; write predict([text])")
        for number, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip() or not is_encodable(text):
                raise LagamcError(f"predict: text {number} is empty or no valid string ({text!r:.40})")
        inputs, clipped = artifact_prompt(self.config).encode(
            self.model.tokenizer, texts, self.config.max_input_length
        )
        results: list[Prediction | None] = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(inputs[i]))
        starts = range(0, len(order), batch_size)
        for start in tqdm(starts, desc=progress, disable=progress is None, unit="batch"):
            rows = order[start : start + batch_size]
            batch = self._predict_batch([inputs[i] for i in rows], decide_by, generate, decoding, beams)
            for i, prediction in zip(rows, batch, strict=True):
                results[i] = replace(prediction, clipped=clipped[i])
        return [prediction for prediction in results if prediction is not None]

    def scores(self, texts: Sequence[str], batch_size: int = 32, progress: str | None = None) -> np.ndarray:
        """Label probabilities, (texts, labels)."""
        rows = self.predict(texts, batch_size, generate=False, progress=progress)
        return np.array([[row.scores[name] for name in self.bank] for row in rows])

    @torch.inference_mode()
    def _predict_batch(
        self, inputs: list[list[int]], decide_by: str, generate: bool, decoding: str, beams: int
    ) -> list[Prediction]:
        backbone = self.model.backbone
        ids, mask = (t.to(self.device) for t in pad_texts(inputs, backbone.padding_id, backbone.padding_side))
        texts, matches = [""] * len(inputs), [list[Match]() for _ in inputs]
        reading = self.model.backbone.read(ids, mask)
        if generate or decide_by == "generated":
            if decoding == "generate":
                settings: dict[str, Any] = {"do_sample": False, "num_beams": beams}
                rows = self.model.generate(ids, mask, max_new_tokens=self.config.max_response_length, **settings)
            else:
                rows = pad(self.decoder(decoding).decode(reading), LOSS_IGNORE)
            texts = response_texts(rows.cpu().numpy(), self.model)
            matches = self.matcher.match(texts)
        if decide_by == "generated":
            return [
                Prediction(list(dict.fromkeys(m.label for m in found if m.label is not None)), {}, text, found)
                for text, found in zip(texts, matches, strict=True)
            ]
        names = self.bank.names
        values = self.scorer.score_reading(reading)
        if not np.isfinite(values).all():
            raise LagamcError("the model's scores are not finite: its weights are damaged; copy or pull it again")
        chosen = values >= self.thresholds.values(names)
        predictions = []
        for row in range(len(inputs)):
            ranked = [i for i in np.argsort(-values[row], kind="stable") if chosen[row, i]]
            scores = {name: round(float(values[row, i]), 6) for i, name in enumerate(names)}
            predictions.append(Prediction([names[i] for i in ranked], scores, texts[row], matches[row]))
        return predictions
