"""Peers whose packages cannot stand beside ours: each in an environment below `outputs/environments`, made once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, save_npz
from transformers import AutoModel

from benchmarks.datasets import ROOT, Task
from benchmarks.peers import Scored, tfidf
from lagamc.generators import embedded_folder, load_tokenizer

SCRIPTS = Path(__file__).parent / "apart"
# package -> what is installed before it, and whether with what it asks for: PECOS wants torch for models not run here
PECOS = ("libpecos==1.2.8", ("numpy<2", "scipy<1.14", "scikit-learn", "sentencepiece"), False)
LIB_MULTI_LABEL = ("libmultilabel[nn]==0.10.0", ("setuptools<81", f"torch=={torch.__version__.split('+')[0]}"), True)


def run_apart(package: str, before: tuple[str, ...], whole: bool, script: str, folder: Path) -> dict[str, np.ndarray]:
    """Runs a script of `apart/` on a folder; the scores it wrote.

    Args:
        package: with its version.
        before: what is installed first.
        whole: whether what the package asks for is installed with it.
        script: without its ending.
        folder: where it reads and writes.
    """
    place = ROOT / "outputs" / "environments" / re.sub(r"\W+", "-", package)
    python = place / "bin" / "python"
    if not (place / "ready").is_file():
        venv.create(place, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *before], check=True, stdout=sys.stderr)
        subprocess.run([*install, *([] if whole else ["--no-deps"]), package], check=True, stdout=sys.stderr)
        (place / "ready").touch()
    subprocess.run([str(python), str(SCRIPTS / f"{script}.py"), str(folder)], check=True, stdout=sys.stderr)
    return {split: np.load(folder / f"{split}_scores.npy").astype(np.float64) for split in ("dev", "test")}


def pecos(task: Task) -> Scored:
    """PECOS, XR-Linear over TF-IDF of words and word pairs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, rows in tfidf(task).items():
            save_npz(folder / f"{split}_features.npz", rows)
        save_npz(folder / "train_labels.npz", csr_matrix(task.true["train"]))
        scores = run_apart(*PECOS, "pecos_linear", folder)
    return Scored(scores, PECOS[0].replace("==", " "), "words and pairs, XR-Linear", 0, 0)


def _on_words(task: Task, network: str, settings: dict[str, Any]) -> Scored:
    """A network of LibMultiLabel; a word starts as the mean of MiniLM's embeddings of its pieces."""
    tokenizer = load_tokenizer(embedded_folder())
    table = AutoModel.from_pretrained(embedded_folder()).get_input_embeddings().weight.detach().numpy()
    words = sorted({word.lower() for text in task.texts["train"] for word in re.findall(r"\w+", text)})
    pieces = tokenizer(words, add_special_tokens=False)["input_ids"]
    start = np.stack(
        [np.zeros(table.shape[1]), table.mean(axis=0), *(table[ids or [0]].mean(axis=0) for ids in pieces)]
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "embeddings.npy", start.astype(np.float32))
        given = {
            "network": network,
            "settings": settings,
            "seed": task.seed,
            "max_length": task.max_length,
            "words": words,
            "labels": [str(i).zfill(4) for i in range(len(task.bank))],  # they come back in alphabetical order
            "splits": {
                split: [[e.text, [str(i).zfill(4) for i in task.bank.index(e.labels)]] for e in found]
                for split, found in task.splits.items()
            },
        }
        (folder / "task.json").write_text(json.dumps(given), encoding="utf-8")
        scores = run_apart(*LIB_MULTI_LABEL, "word_networks", folder)
        weights = int((folder / "weights.json").read_text(encoding="utf-8"))
    setting = f"{network}, words start as MiniLM's pieces, until the development micro-F1 stops rising"
    return Scored(scores, LIB_MULTI_LABEL[0].replace("[nn]==", " "), setting, weights, weights)


def text_cnn(task: Task) -> Scored:
    """TextCNN (Kim, 2014)."""
    return _on_words(task, "KimCNN", {"filter_sizes": [2, 4, 8], "num_filter_per_size": 128})


def attention_rnn(task: Task) -> Scored:
    """A bidirectional LSTM with an attention for each label: TextRNN's encoder under AttentionXML's head."""
    return _on_words(task, "BiLSTMLWAN", {"rnn_dim": 512, "embed_dropout": 0.4, "post_encoder_dropout": 0.4})
