"""What a user would otherwise reach for first: linear classifiers, and MiniLM as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sklearn
from scipy.sparse import csr_matrix
from scipy.special import expit, logit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from benchmarks.datasets import Task
from lagamc.calibration import fit_calibration
from lagamc.encoders import load_sentence_encoder, unit_embeddings
from lagamc.generators import embedded_folder
from lagamc.thresholds import tune_thresholds

LEAST = 1e-6  # a score nearer to 0 or 1 counts as this near
SCIKIT_LEARN = f"scikit-learn {sklearn.__version__}"


@dataclass(frozen=True)
class Scored:
    """What a system says about the rows of a task.

    Args:
        scores: split -> (rows, labels) between 0 and 1, of `dev` and `test`.
        library: with its version.
        setting: what was set, in words.
        trainable: parameters that were trained.
        total: all parameters.
    """

    scores: dict[str, np.ndarray]
    library: str
    setting: str
    trainable: int
    total: int


def decide(task: Task, scores: dict[str, np.ndarray], goal: str) -> dict[str, np.ndarray]:
    """The labels given, (rows, labels) for every split, by thresholds tuned on the development rows.

    Those for macro-F1 need probabilities that tell how often a label is right: for them the scores of every system,
    LAGAMC's too, go through one curve over their log-odds.

    Args:
        task: rows and labels.
        scores: see `Scored`.
        goal: of the thresholds.
    """
    if goal == "macro_f1":
        scores = as_probabilities(task, {s: logit(found.clip(LEAST, 1 - LEAST)) for s, found in scores.items()})
    limits = tune_thresholds(scores["dev"], task.true["dev"], task.bank.names, goal).values(task.bank.names)
    return {split: found >= limits for split, found in scores.items()}


def as_probabilities(task: Task, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Any scores by one logistic curve, fitted to the development rows: the order stays."""
    curve = fit_calibration(scores["dev"][..., None], task.true["dev"])
    return {split: curve.apply(found[..., None]) for split, found in scores.items()}


def tfidf(task: Task) -> dict[str, csr_matrix]:
    """Features of every split: words and word pairs of the training texts."""
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1).fit(task.texts["train"])
    return {split: csr_matrix(features.transform(texts)) for split, texts in task.texts.items()}


def _of_words(task: Task, setting: str, scores: dict[str, np.ndarray], features: int) -> Scored:
    weights = len(task.bank) * (features + 1)
    return Scored(scores, SCIKIT_LEARN, f"words and pairs, {setting}", weights, weights)


def tfidf_svc(task: Task) -> Scored:
    """TF-IDF of words and word pairs, LinearSVC for each label; margins through the logistic function."""
    rows = tfidf(task)
    model = OneVsRestClassifier(LinearSVC(random_state=task.seed)).fit(rows["train"], task.true["train"])
    known = task.true["train"].any(axis=0)  # the margin of a label that no row has is 0, which would count as one half
    scores = {split: expit(2 * model.decision_function(rows[split])) * known for split in ("dev", "test")}
    return _of_words(task, "C 1", scores, rows["train"].shape[1])


def tfidf_logistic(task: Task) -> Scored:
    """TF-IDF of words and word pairs, logistic regression for each label."""
    rows = tfidf(task)
    model = OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=2000, random_state=task.seed))
    model.fit(rows["train"], task.true["train"])
    scores = {split: model.predict_proba(rows[split]) for split in ("dev", "test")}
    return _of_words(task, "C 10", scores, rows["train"].shape[1])


def frozen_minilm(task: Task) -> Scored:
    """Frozen all-MiniLM-L6-v2 embeddings, logistic regression for each label."""
    encoder = load_sentence_encoder(embedded_folder())
    embeddings = {split: unit_embeddings(encoder, texts) for split, texts in task.texts.items()}
    model = OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=2000, random_state=task.seed))
    model.fit(embeddings["train"], task.true["train"])
    weights = len(task.bank) * (embeddings["train"].shape[1] + 1)
    total = weights + sum(p.numel() for p in encoder.parameters())
    scores = {s: model.predict_proba(embeddings[s]) for s in ("dev", "test")}
    return Scored(scores, SCIKIT_LEARN, "C 10", weights, total)


def zero_shot_minilm(task: Task) -> Scored:
    """Cosine of text and description under all-MiniLM-L6-v2 as it is."""
    from sentence_transformers import __version__

    encoder = load_sentence_encoder(embedded_folder())
    descriptions = unit_embeddings(encoder, task.bank.descriptions)
    cosines = {s: unit_embeddings(encoder, task.texts[s]) @ descriptions.T for s in ("dev", "test")}
    total = sum(p.numel() for p in encoder.parameters())
    return Scored(as_probabilities(task, cosines), f"sentence-transformers {__version__}", "untrained", 0, total)
