"""A chat model behind an OpenAI-compatible endpoint: the instruction of the paper, answers matched to labels."""

from __future__ import annotations

import os

import numpy as np
import openai

from benchmarks.datasets import ROOT, Task
from benchmarks.peers import Scored
from lagamc.encoders import load_sentence_encoder
from lagamc.generators import embedded_folder
from lagamc.matcher import LabelMatcher
from lagamc.metrics import binarise
from lagamc.prompts import PROMPTS
from lagamc.services import AnswerCache, ChatModel

MODEL_VARIABLE = "LAGAMC_CHAT_MODEL"
MINIMUM_SIMILARITY = 0.4  # of an answered sentence to a description (paper, section 8.5)
ASK = (
    "These are the descriptions of all labels, one a line:\n{descriptions}\n\nAnswer with the descriptions of the "
    "labels that the text has, word for word, each closed by a full stop, and with nothing else."
)


def chat(task: Task) -> Scored:
    """Labels of every row as a chat model writes them, zero-shot; 0 or 1, so thresholds change nothing.

    The model is `$LAGAMC_CHAT_MODEL` at `$OPENAI_BASE_URL`. Answers are kept in `outputs/`: a run that was killed
    does not ask again.
    """
    name = os.environ[MODEL_VARIABLE]
    places = ROOT / "outputs"
    places.mkdir(exist_ok=True)
    model = ChatModel(name, AnswerCache(places / f"chat-{task.name}-{len(task.bank)}.jsonl"))
    descriptions = "\n".join(f"{description}." for description in task.bank.descriptions)
    system = PROMPTS["general"].prefix + ASK.format(descriptions=descriptions)
    matcher = LabelMatcher(task.bank, load_sentence_encoder(embedded_folder()), MINIMUM_SIMILARITY)
    scores = {}
    for split in ("dev", "test"):
        answers = [
            model.answer([{"role": "system", "content": system}, {"role": "user", "content": text}], f"{split} {row}")
            for row, text in enumerate(task.texts[split])
        ]
        found = [task.bank.index(labels) for labels in matcher.labels(answers)]
        scores[split] = binarise(found, len(task.bank)).astype(np.float64)
    return Scored(scores, f"openai {openai.__version__}", f"{name}, zero-shot, temperature 0", 0, 0)
