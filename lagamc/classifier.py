"""`LagamcClassifier`: loading a published model and predicting with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import CommitInfo

from lagamc.artifact import ArtifactConfig, edited_card, find_artifact, save_artifact
from lagamc.batches import BatchReader, Progress, TextBatch
from lagamc.cards import render_card, without_evaluation
from lagamc.decisions import DecisionRules
from lagamc.decoding import DescriptionDecoder
from lagamc.encoding import LOSS_IGNORE, pad
from lagamc.errors import LagamcError
from lagamc.generators import first_line
from lagamc.hub import HubAccess
from lagamc.labels import LabelBank
from lagamc.loading import load_artifact
from lagamc.matcher import LabelMatcher, Match
from lagamc.metrics import binarise
from lagamc.modeling import LagamcModel
from lagamc.nearness import NearnessScorer
from lagamc.predictions import Prediction, check_request
from lagamc.publishing import MESSAGE, create_repo, publish
from lagamc.relabelling import relabelled
from lagamc.scoring import SCORES, LabelScorer
from lagamc.thresholds import usual_goal
from lagamc.unseen import NEARNESS, UNSEEN

DTYPES = ("float32", "bfloat16", "float16")


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
            torch.ones(1, device=self.device).tolist()  # of `meta` nothing comes back
            self.model = model.to(self.device).eval()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise LagamcError(f"device: {device!r} cannot be used here ({first_line(error)})") from error
        self.rules = DecisionRules(config, self.bank.names, model.retrieval is not None)
        self._decoders: dict[str, DescriptionDecoder] = {}
        self.edited_card: str | None = None  # a model card that was changed by hand; it goes where the model goes

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | None = None,
        base_model: str | None = None,
        dtype: str | torch.dtype = "float32",
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        trust_remote_code: bool = False,
    ) -> LagamcClassifier:
        """Loads a model from the output folder of a training run or from the Hub; safetensors and JSON alone.

        Args:
            name: a folder, `you/name`, or `you/name@revision`.
            device: where to compute.
            base_model: in place of the recorded base model of an adapter.
            dtype: of the weights: `float32`, `bfloat16` or `float16`, by name or of torch.
            revision: branch, tag or commit of the repo.
            token: of the Hub; None takes that of `HF_TOKEN` or `hf auth login`, False none.
            local_files_only: takes what is in the cache and asks nobody.
            cache_dir: None is the usual cache of the Hub.
            trust_remote_code: whether Python code that comes with the base model may run.

        Raises:
            LagamcError: there is no such model, it cannot be fetched, a part is missing, or the dtype does not suit.
        """
        dtype = str(dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise LagamcError(f"dtype: expected one of {list(DTYPES)}, found {dtype!r}")
        access = HubAccess(token, local_files_only, cache_dir, trust_remote_code)
        source = find_artifact(name, revision, access)
        with source.named():
            model, config = load_artifact(source.folder, base_model, access)
            if dtype == "float16" and "t5" in model.generator.config.model_type:
                raise LagamcError("dtype: a T5 model overflows in float16; take bfloat16 or float32")
            classifier = cls(model.to(getattr(torch, dtype)), config, device)
            classifier.edited_card = edited_card(source.folder, config)
        return classifier

    def save_pretrained(self, folder: str | Path, model_id: str | None = None) -> None:
        """Writes the model as `from_pretrained` reads it, with its card.

        Args:
            folder: is made where it is missing.
            model_id: the name on the Hub that the card gives.
        """
        config = self.current_config()
        config.figures = {**config.figures, "model_id": model_id}
        save_artifact(self.model, folder, config, self.edited_card or render_card)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        commit_message: str = MESSAGE,
    ) -> CommitInfo:
        """Publishes the model with its card: the files of the model folder and no other.

        Args:
            name: `you/name`; the repo is made where it is missing.
            private: whether only you see it; None is your default. A repo that is there stays as it is.
            revision: branch, made where it is missing; None is `main`.
            token: with the right to write; None takes that of `HF_TOKEN` or `hf auth login`.
            commit_message: of the commit.

        Returns:
            the commit: `oid`, which `from_pretrained` takes as revision, and `commit_url`.

        Raises:
            LagamcError: the repo cannot be made or written to.
        """
        access = HubAccess(token)
        repo = create_repo(name, private, revision, access)
        with tempfile.TemporaryDirectory(prefix="lagamc-") as folder:
            self.save_pretrained(folder, repo)
            return publish(folder, repo, revision, commit_message, access=access)

    def current_config(self) -> ArtifactConfig:
        """The configuration with the thresholds and calibration in use."""
        return replace(self.config, **self.rules.to_dict())

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
    def reader(self) -> BatchReader:
        """Reads texts in batches."""
        return BatchReader(self.model)

    @cached_property
    def nearness(self) -> NearnessScorer:
        """Tells how near texts are to descriptions."""
        return NearnessScorer(self.model, self.rules.untrained)

    @cached_property
    def scorer(self) -> LabelScorer:
        """Gives every label of the bank its log-odds."""
        return LabelScorer(self.model, beam=self.config.beam)

    def decoder(self, mode: str) -> DescriptionDecoder:
        """Writes descriptions, `exact` or `constrained`."""
        if mode not in self._decoders:
            self._decoders[mode] = DescriptionDecoder(self.model, mode, self.config.max_response_length)
        return self._decoders[mode]

    def with_labels(self, descriptions: Mapping[str, str], remove: Iterable[str] = ()) -> LagamcClassifier:
        """A classifier with labels added, reworded or removed; nothing is retrained and the weights are shared.

        Args:
            descriptions: label -> description; a name of the bank is reworded, another one added.
            remove: labels to leave out.
        """
        model, config = relabelled(self.model, self.config, self.rules, descriptions, remove)
        return LagamcClassifier(model, config, str(self.device))

    def with_bank(self, bank: LabelBank) -> LagamcClassifier:
        """A classifier with the labels of a bank and no others, in other respects as `with_labels`.

        Labels stay in the order of this classifier's bank, behind them come those that are added.
        """
        gone = [name for name in self.bank if name not in bank] if isinstance(bank, Mapping) else []
        return self.with_labels(bank, remove=gone)

    def predict(
        self,
        texts: Sequence[str],
        batch_size: int = 32,
        decide_by: str = "scores",
        scores: str | None = None,
        goal: str | None = None,
        threshold: float | None = None,
        top_k: int | None = None,
        generate: bool = True,
        decoding: str | None = None,
        beams: int = 1,
        window_stride: int | None = None,
        progress: Progress = None,
    ) -> list[Prediction]:
        """Predicts labels of texts.

        Args:
            texts: any number; computed in batches of similar length, returned in order.
            batch_size: texts at a time.
            decide_by: `scores`, the labels whose probability reaches the tuned threshold; or `generated`, the
                labels the generated sentences match (paper, section 5.4).
            scores: `accurate` or `fast` (no decoder pass for the probabilities); `none` gives no probabilities and
                decides by the generated sentences; None takes the better of the first two on the development rows.
            goal: takes the thresholds tuned for it: `micro_f1`, `macro_f1`, `precision>=x`; None the model's own.
            threshold: one probability for all labels in place of the tuned ones.
            top_k: at most so many labels; alone, without goal and threshold, exactly the most probable ones.
            generate: whether descriptions are written; needed for `generated`.
            decoding: `exact` (what greedy decoding writes), `constrained` (descriptions of the bank alone), both
                verified in a few decoder passes; or `generate`, the decoding of `transformers`; None takes the
                model's default.
            beams: of `generate`.
            window_stride: a text longer than the model's input is read in windows that begin so many tokens apart;
                a label has its highest score in any of them, and what was written to them is joined. 0: it is cut;
                None the model's own.
            progress: title of a progress bar on the standard error, or a function that is given the number of texts
                that each batch finished; None shows none.

        Raises:
            LagamcError: an argument is not one of the above, or a text is empty or no string.
        """
        if scores == "none":
            decide_by = "generated"
        scores = self.rules.scores if scores in (None, "none") else scores
        decoding = self.config.decoding if decoding is None else decoding
        check_request(decide_by, scores, decoding, beams, batch_size, top_k, {"goal": goal, "threshold": threshold})
        limits = self.rules.limits(scores, goal, threshold, top_k) if decide_by == "scores" else None
        scored = limits is not None
        added = scored and bool(self.rules.untrained)
        near = scored and self.rules.joins_nearness(scores, self.scorer.sources(scores))
        near = self.model.background is not None and (near or (added and not self.nearness.reads_for_unseen))

        def answer(batch: TextBatch) -> list[tuple[np.ndarray | None, np.ndarray | None, str, list[Match]]]:
            written, matches = [""] * len(batch), [list[Match]() for _ in range(len(batch))]
            if generate or limits is None:
                if decoding == "generate":
                    settings: dict[str, Any] = {"do_sample": False, "num_beams": beams}
                    longest = self.config.max_response_length
                    rows = self.model.generate(
                        batch.input_ids, batch.attention_mask, max_new_tokens=longest, **settings
                    )
                else:
                    rows = pad(self.decoder(decoding).decode(batch.reading, batch.retrieved), LOSS_IGNORE)
                written = self.model.response_texts(rows.cpu().numpy())
                matches = self.matcher.match(written)
            none = [None] * len(batch)
            evidence = self.scorer.evidence(batch.reading, batch.retrieved, scores, batch.lexical) if scored else none
            nearest = self.nearness.score(batch.unit_embeddings) if near else none
            return list(zip(evidence, nearest, written, matches, strict=True))

        embed = near or (scored and self.model.reads_texts)
        answers, clipped = self.reader.run(texts, answer, self.config, batch_size, progress, window_stride, embed)
        unseen: Iterable[np.ndarray | None] = [None] * len(texts)
        if added and self.model.unseen_background is not None:
            unseen = self.nearness.score_for_unseen(self.nearness.embed_for_unseen(texts, batch_size))
        return [
            self._decide(windows, scores, limits, top_k, cut, own)
            for windows, cut, own in zip(answers, clipped, unseen, strict=True)
        ]

    def _decide(
        self,
        windows: Sequence[tuple[np.ndarray, np.ndarray | None, str, list[Match]]],
        scores: str,
        limits: np.ndarray | None,
        top_k: int | None,
        clipped: bool,
        unseen: np.ndarray | None,
    ) -> Prediction:
        """The prediction for one text from what was found in its windows: evidence, nearness, written, matches.

        `unseen` is (labels,) the nearness that counts for labels which were added later; None takes the other one.
        """
        evidence, near, written, matches = zip(*windows, strict=True)
        found = [match for window in matches for match in window]
        text = " ".join(dict.fromkeys(filter(None, written)))
        if limits is None:
            labels = list(dict.fromkeys(match.label for match in found if match.label is not None))
            return Prediction(labels, {}, text, found, clipped)
        names = self.bank.names
        strongest = np.max(evidence, axis=0, keepdims=True)
        nearest = None if near[0] is None else np.max(near, axis=0, keepdims=True)
        values = self.rules.probabilities(strongest, scores, nearest, nearest if unseen is None else unseen[None])[0]
        chosen = [names[i] for i in self.rules.ranked(values, limits, top_k)]
        given = {name: round(float(value), 6) for name, value in zip(names, values, strict=True)}
        return Prediction(chosen, given, text, found, clipped)

    def scores(self, texts: Sequence[str], batch_size: int = 32, progress: str | None = None) -> np.ndarray:
        """Label probabilities, (texts, labels)."""
        rows = self.predict(texts, batch_size, generate=False, progress=progress)
        found = [[row.scores[name] for name in self.bank] for row in rows]
        return np.array(found).reshape(len(rows), len(self.bank))

    def tune(
        self,
        texts: Sequence[str],
        labels: Sequence[Sequence[str]],
        goal: str | None = None,
        batch_size: int = 32,
        progress: str | None = None,
    ) -> dict[str, dict[str, float]]:
        """Calibrates the probabilities and tunes the thresholds on labelled texts that were not trained on.

        The better of accurate and fast scores for the goal becomes the default, the fast ones where they are equal.

        Args:
            texts: any number.
            labels: the true label names of each.
            goal: of the default thresholds; those for `GOALS` are tuned in any case. None keeps the present one.
            batch_size: texts at a time.
            progress: title of a progress bar.

        Returns:
            for each kind of scores the calibration error before and after, and the figure of the goal, all measured
            on these texts.

        Raises:
            LagamcError: the goal or a label is none, or there are too few.
        """
        goal = usual_goal(self.rules.thresholds.goal if goal is None else goal)
        if not isinstance(texts, Sequence) or not isinstance(labels, Sequence):
            raise LagamcError(
                f"tune: expected lists of texts and of their labels, found {texts!r:.40}, {labels!r:.40}"
            )
        if len(texts) != len(labels) or not len(texts):
            raise LagamcError(f"tune: expected labels for every text, found {len(texts)} texts, {len(labels)} labels")
        true = binarise([self.bank.index(row) for row in labels], len(self.bank))
        backgrounds = self.model.background, self.model.unseen_background
        try:
            figures = self.rules.tune(self.evidence(texts, batch_size, progress, anew=True), true, goal)
        except LagamcError:
            self.model.background, self.model.unseen_background = backgrounds
            raise
        # what was measured before is no figure of these thresholds, nor is a card that was written for them
        measured = {k: round(v, 4) for k, v in figures[self.rules.scores].items() if k != "goal"}
        kept = without_evaluation(self.config.figures)
        self.config.figures = {**kept, "calibration": measured, "tuned_rows": len(texts)}
        self.edited_card = None
        return figures

    def evidence(
        self, texts: Sequence[str], batch_size: int = 32, progress: str | None = None, anew: bool = False
    ) -> dict[str, np.ndarray]:
        """What speaks for the labels before calibration, (texts, labels, sources).

        Args:
            texts: any number.
            batch_size: texts at a time.
            progress: title of a progress bar.
            anew: whether these texts become what nearness is told by, as in tuning.

        Returns:
            for each kind of scores the log-odds, and as `NEARNESS` and `UNSEEN` with one source what
            `Background.score` gives, unless the model was never tuned.
        """

        def answer(batch: TextBatch) -> list[dict[str, np.ndarray]]:
            read = batch.reading, batch.retrieved
            found = {scores: self.scorer.evidence(*read, scores, batch.lexical) for scores in SCORES}
            found[NEARNESS] = batch.unit_embeddings
            return [{scores: values[row] for scores, values in found.items()} for row in range(len(batch))]

        answers, _ = self.reader.run(texts, answer, self.config, batch_size, progress, embed=True)
        found = {
            scores: np.stack([np.max([window[scores] for window in windows], axis=0) for windows in answers])
            for scores in SCORES
        }
        read = np.stack([windows[0][NEARNESS] for windows in answers])
        own = self.nearness.embed_for_unseen(texts, batch_size) if self.nearness.reads_for_unseen else None
        if anew:
            self.nearness.tell_by(read, own)
        if self.model.background is not None:
            found[NEARNESS] = self.nearness.score(read)[..., None]
            found[UNSEEN] = found[NEARNESS] if own is None else self.nearness.score_for_unseen(own)[..., None]
        return found
