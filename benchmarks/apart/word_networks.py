"""A network of LibMultiLabel on words. Reads `task.json` and `embeddings.npy` of a folder.

The first two embeddings are those of padding and of unknown words. Training stops when the micro-F1 of the development
rows does; the best weights are taken. Writes `{dev,test}_scores.npy`, (rows, labels), and `weights.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from libmultilabel.nn.data_utils import PAD, UNK, get_dataset_loader, tokenize
from libmultilabel.nn.model import Model
from libmultilabel.nn.nn_utils import init_device, init_model, init_trainer, set_seed


def main(folder: Path) -> None:
    """Trains and scores."""
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    set_seed(task["seed"])
    device = init_device(use_cpu=True)
    places = {word: i for i, word in enumerate([PAD, UNK, *task["words"]])}
    rows = {
        split: [{"text": tokenize(text) or [UNK], "label": labels} for text, labels in found]
        for split, found in task["splits"].items()
    }

    def batches(split: str) -> torch.utils.data.DataLoader:
        return get_dataset_loader(
            rows[split], task["labels"], device, task["max_length"], 32, split == "train", 0, word_dict=places
        )

    model = init_model(
        task["network"],
        task["settings"],
        task["labels"],
        torch.from_numpy(np.load(folder / "embeddings.npy")),
        learning_rate=1e-3,
        monitor_metrics=["Micro-F1"],
        val_metric="Micro-F1",
        silent=True,
    )
    trainer = init_trainer(
        str(folder),
        epochs=50,
        patience=5,
        early_stopping_metric="Micro-F1",
        val_metric="Micro-F1",
        silent=True,
        use_cpu=True,
    )
    trainer.fit(model, batches("train"), batches("dev"))
    best = Model.load_from_checkpoint(trainer.checkpoint_callback.best_model_path, weights_only=False).eval()
    for split in ("dev", "test"):
        with torch.no_grad():
            scores = [torch.sigmoid(best.network(batch)["logits"]) for batch in batches(split)]
        np.save(folder / f"{split}_scores.npy", torch.cat(scores).numpy())
    (folder / "weights.json").write_text(json.dumps(sum(p.numel() for p in best.parameters())), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
