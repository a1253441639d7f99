"""Linear classifiers to compare with: what a user would otherwise reach for first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from lagamc.encoders import load_sentence_encoder, unit_embeddings
from lagamc.generators import embedded_folder


def linear_scores(
    train: Sequence[str], true: np.ndarray, others: Sequence[Sequence[str]], seed: int
) -> list[np.ndarray]:
    """TF-IDF of words and word pairs, LinearSVC for each label.

    Args:
        train: training texts.
        true: (rows, labels), 0 or 1.
        others: texts to score, one list a split.
        seed: of the solver.

    Returns:
        (rows, labels) between 0 and 1 for each split: margins through the logistic function.
    """
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1)
    model = OneVsRestClassifier(LinearSVC(random_state=seed)).fit(features.fit_transform(train), true)
    return [expit(2 * model.decision_function(features.transform(texts))) for texts in others]


def frozen_scores(
    train: Sequence[str], true: np.ndarray, others: Sequence[Sequence[str]], seed: int
) -> list[np.ndarray]:
    """Frozen all-MiniLM-L6-v2 embeddings, logistic regression for each label; see `linear_scores`."""
    encoder = load_sentence_encoder(embedded_folder())

    model = OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=2000, random_state=seed)).fit(
        unit_embeddings(encoder, train), true
    )
    return [model.predict_proba(unit_embeddings(encoder, texts)) for texts in others]
