"""Texts in batches of similar length, as the generator has read them; long ones in windows."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lagamc.artifact import ArtifactConfig, artifact_prompt
from lagamc.backbones import Reading
from lagamc.encoders import text_pieces
from lagamc.encoding import pad_texts
from lagamc.errors import LagamcError
from lagamc.modeling import LagamcModel
from lagamc.predictions import is_whole
from lagamc.rows import is_encodable

Report = Callable[[int], Any]  # is told how many texts were finished
Progress = str | Report | None  # title of a bar, or what takes its place


@dataclass(frozen=True)
class TextBatch:
    """Windows of texts, read.

    Args:
        input_ids: (windows, tokens) prompt and text.
        attention_mask: (windows, tokens).
        reading: of the generator.
        embedded: (windows, dimensions) of the sentence encoder; None where it did not read them.
        retrieved: (windows, labels, readers) logits of retrieval; None where the model has no such part.
        lexical: (windows, labels) log-odds by the words of the whole text; None where the model has no such part.
    """

    input_ids: Tensor
    attention_mask: Tensor
    reading: Reading
    embedded: Tensor | None
    retrieved: Tensor | None
    lexical: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def unit_embeddings(self) -> np.ndarray:
        """(windows, dimensions) of the sentence encoder, of length 1."""
        assert self.embedded is not None
        return torch.nn.functional.normalize(self.embedded.float(), dim=-1).cpu().numpy()


# a batch changes the generator's head for a moment, and a tokenizer what it cuts; models may share both
ONE_AT_A_TIME = threading.RLock()


class BatchReader:
    """Reads texts of any number.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: LagamcModel):
        self.model = model

    @cached_property
    def bank_embeddings(self) -> Tensor | None:
        """(labels, dimensions) of the descriptions, which retrieval compares with; None without that part."""
        with torch.no_grad():
            return None if self.model.retrieval is None else self.model.encode_bank()

    def read(
        self,
        rows: Sequence[Sequence[int]],
        pieces: Sequence[Sequence[int]] | None = None,
        lexical: np.ndarray | None = None,
    ) -> TextBatch:
        """A batch of token ids.

        Args:
            rows: of prompt and text.
            pieces: of the same texts for the sentence encoder; None where it need not read them.
            lexical: (rows, labels) of the same texts, see `TextBatch`.
        """
        backbone = self.model.backbone
        padded = pad_texts(rows, backbone.padding_id, backbone.padding_side)
        ids, mask = (part.to(self.model.device) for part in padded)
        reading = backbone.read(ids, mask)
        embedded = None
        if pieces is not None:  # windows of one text have the same ones
            place = {row: i for i, row in enumerate(dict.fromkeys(map(tuple, pieces)))}
            embedded = self.model.descriptions.texts(list(place))[[place[tuple(row)] for row in pieces]]
        retrieved = self.model.retrieve(reading, self.bank_embeddings, embedded)
        return TextBatch(ids, mask, reading, embedded, retrieved, lexical)

    def run(
        self,
        texts: Sequence[str],
        answer: Callable[[TextBatch], list[Any]],
        config: ArtifactConfig,
        batch_size: int = 32,
        progress: Progress = None,
        window_stride: int | None = None,
        embed: bool = False,
    ) -> tuple[list[list[Any]], list[bool]]:
        """What `answer` gives for every window of every text, in order, and whether a text was cut.

        Args:
            texts: any number.
            answer: one for each row of a batch.
            config: prompt, input length and stride of the windows.
            batch_size: windows at a time.
            progress: title of a progress bar, or takes the number of texts that each batch finished; None shows none.
            window_stride: tokens from one window to the next, 0 cuts long texts; None takes that of the configuration.
            embed: whether the sentence encoder reads the texts, too; with windows each text as far as it can.

        Raises:
            LagamcError: a text is empty or no string, or the stride is no number.
        """
        if not isinstance(texts, Sequence):
            raise LagamcError(f"predict: expected a list of texts, found {type(texts).__name__}")
        if isinstance(texts, str):
            raise LagamcError("predict: expected a list of texts, found one string; write predict([text])")
        for number, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip() or not is_encodable(text):
                raise LagamcError(f"predict: text {number} is empty or no valid string ({text!r:.40})")
        if not (progress is None or isinstance(progress, str) or callable(progress)):  # the bar would keep its lock
            raise LagamcError(f"progress: expected the title of a bar, a function or None, found {progress!r}")
        prompt = artifact_prompt(config)
        stride = config.window_stride if window_stride is None else window_stride
        if not is_whole(stride) or stride < 0:
            raise LagamcError(f"window_stride: expected a number of tokens, or 0, found {stride!r}")
        encoder, longest = self.model.sentence_encoder, config.max_input_length
        with ONE_AT_A_TIME:
            inputs, owners, clipped = prompt.encode_windows(self.model.tokenizer, texts, longest, stride)
            pieces = text_pieces(encoder, texts, longest, stride) if embed else None
            lexical = None if self.model.lexical is None else self.model.lexical.score(texts)
        results: list[Any] = [None] * len(inputs)
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
        left = Counter(owners)
        title = progress if isinstance(progress, str) else None
        with tqdm(total=len(texts), desc=title, disable=title is None, unit=" texts") as bar:
            report = progress if callable(progress) else bar.update
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                of_rows = [owners[i] for i in rows]
                read_too = None if pieces is None else [pieces[owner] for owner in of_rows]
                words = None if lexical is None else lexical[of_rows]
                with ONE_AT_A_TIME, torch.inference_mode():
                    answers = answer(self.read([inputs[i] for i in rows], read_too, words))
                for i, found in zip(rows, answers, strict=True):
                    results[i] = found
                left.subtract(of_rows)
                report(sum(not left[owner] for owner in set(of_rows)))
        windows: list[list[Any]] = [[] for _ in texts]
        for owner, result in zip(owners, results, strict=True):
            windows[owner].append(result)
        return windows, clipped
