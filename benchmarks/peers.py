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
from lagamc.calibration import familiarity, fit_calibration
from lagamc.encoders import load_sentence_encoder, unit_embeddings
from lagamc.generators import embedded_folder
from lagamc.thresholds import goal_figure, tune_thresholds

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


def decide(task: Task, scores: dict[str, np.ndarray], goal: str) -> tuple[dict[str, np.ndarray], bool]:
    """The labels given, (rows, labels) for every split, by thresholds tuned on the development rows.

    Scores as they are, or through a curve that depends on a label's training rows: what is better for the goal on the
    development rows.

    Those for macro-F1 need probabilities that tell how often a label is right: for them the scores of every system,
    LAGAMC's too, go through one curve over their log-odds.

    Args:
        task: rows and labels.
        scores: see `Scored`.
        goal: of the thresholds.

    Returns:
        The labels, and whether scores went through such a curve.
    """
    found = {}
    odds = {split: logit(rows.clip(LEAST, 1 - LEAST)) for split, rows in scores.items()}
    for by_rows in (False, True):
        judged = as_probabilities(task, odds, by_rows) if by_rows or goal == "macro_f1" else scores
        limits = tune_thresholds(judged["dev"], task.true["dev"], task.bank.names, goal).values(task.bank.names)
        found[by_rows] = {split: rows >= limits for split, rows in judged.items()}
    best = max(found, key=lambda way: goal_figure(goal, found[way]["dev"], task.true["dev"]))
    return found[best], best


def as_probabilities(task: Task, scores: dict[str, np.ndarray], by_rows: bool = False) -> dict[str, np.ndarray]:
    """Any scores by one logistic curve, fitted to the development rows, or by one that depends on a label's training
    rows, as LAGAMC's own sources are joined: among the scores of a label the order stays."""
    counts = dict(zip(task.bank.names, task.true["train"].sum(axis=0).tolist(), strict=True))
    familiar = familiarity(counts, task.bank.names) if by_rows else None
    curve = fit_calibration(scores["dev"][..., None], task.true["dev"], None, familiar)
    return {split: curve.apply(found[..., None], None, familiar) for split, found in scores.items()}


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
