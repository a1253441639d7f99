"""Label trees over TF-IDF: the family of Parabel, Bonsai, AttentionXML and DeepXML."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import omikuji
from napkinxc.models import PLT
from sklearn.datasets import dump_svmlight_file

from benchmarks.datasets import Task
from benchmarks.peers import Scored, tfidf


def parabel(task: Task) -> Scored:
    """Omikuji in its setting for Parabel, Prabhu et al. (2018): three balanced trees."""
    rows, labels = tfidf(task), len(task.bank)
    with tempfile.NamedTemporaryFile("wb", suffix=".txt") as file:
        count, width = rows["train"].shape
        file.write(f"{count} {width} {labels}\n".encode())
        dump_svmlight_file(rows["train"], task.true["train"], file, multilabel=True, comment=None)
        file.flush()
        model = omikuji.Model.train_on_data(file.name)
    scores = {}
    for split in ("dev", "test"):
        scores[split] = np.zeros((rows[split].shape[0], labels))
        for i, row in enumerate(rows[split]):
            pairs = list(zip(row.indices.tolist(), row.data.tolist(), strict=True))
            for label, score in model.predict(pairs, beam_size=labels, top_k=labels):
                scores[split][i, label] = score
    return Scored(scores, f"omikuji {version('omikuji')}", "words and pairs, Parabel", 0, 0)


def probabilistic_tree(task: Task) -> Scored:
    """napkinXC's probabilistic label tree, Jasinska-Kobus et al. (2020)."""
    rows, labels = tfidf(task), len(task.bank)
    true = [np.flatnonzero(row).tolist() for row in task.true["train"]]
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        model = PLT(str(Path(folder, "plt")), seed=task.seed)
        model.fit(rows["train"], true)
        for split in ("dev", "test"):
            scores[split] = np.zeros((rows[split].shape[0], labels))
            for i, found in enumerate(model.predict_proba(rows[split], top_k=labels)):
                for label, score in found:
                    scores[split][i, label] = score
    return Scored(scores, f"napkinxc {version('napkinxc')}", "words and pairs, hierarchical k-means", 0, 0)
