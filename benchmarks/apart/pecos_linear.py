"""PECOS, XR-Linear (Yu et al., 2022). Reads `{train,dev,test}_features.npz` and `train_labels.npz` of a folder.

Writes `{dev,test}_scores.npy`, (rows, labels).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pecos.xmc import Indexer, LabelEmbeddingFactory
from pecos.xmc.xlinear.model import XLinearModel
from scipy.sparse import load_npz


def main(folder: Path) -> None:
    """Trains and scores."""
    features = {
        split: load_npz(folder / f"{split}_features.npz").astype(np.float32) for split in ("train", "dev", "test")
    }
    labels = load_npz(folder / "train_labels.npz").astype(np.float32)
    clusters = Indexer.gen(LabelEmbeddingFactory.create(labels, features["train"], method="pifa"))
    model = XLinearModel.train(features["train"], labels, C=clusters)
    for split in ("dev", "test"):
        found = model.predict(features[split], only_topk=labels.shape[1], beam_size=labels.shape[1])
        np.save(folder / f"{split}_scores.npy", found.toarray())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
