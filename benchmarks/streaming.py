"""Memory of a prediction run at two sizes of input, and what is lost when it is killed again and again.

    python -m benchmarks.streaming [--quick]

The model is replaced by a stub that makes an answer of a text's token ids; reading, checking, tokenising, bucketing,
ordering, writing and the journal are those of `lagamc predict`. `peak_mib_small` and `peak_mib_large`: highest
resident memory of a process that predicts 100,000 and 1,000,000 short rows, all libraries included; `grown_mib_*`: how
much of it came after the start. Then a run over `rows` rows is killed by SIGKILL at random moments and resumed each
time, over again until there were `kills`; `lost` and `duplicated` count the rows of its outputs that are missing from,
or stand more often than in, that of an undisturbed run, `identical` whether all are the same byte for byte. Linux
only. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes are forked here

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.outcomes import finish, run
from lagamc.artifact import ArtifactConfig
from lagamc.batches import BatchReader
from lagamc.classifier import LagamcClassifier
from lagamc.labels import LabelBank
from lagamc.predictions import Prediction
from lagamc.prompts import Prompt
from lagamc.streaming import PredictionJob, Predictor

WORDS = ["parcel", "lamp", "refund", "late", "broken", "thanks", "the", "my", "is", "where", "again", "shop"]
IDENTITY = {"model": "stub", "settings": {}}


class StubReader(BatchReader):
    """Gives token ids as they are."""

    def read(self, rows: Any, pieces: Any = None, lexical: Any = None) -> Any:
        """The rows."""
        return rows


class Stub(LagamcClassifier):
    """A classifier whose model is none: labels and scores follow from the token ids of a text."""

    def __init__(self) -> None:
        alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        tokenizer = Tokenizer(models.BPE(alphabet, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bank = LabelBank({f"label {i}": f"Case {i}: the text is about {word}" for i, word in enumerate(WORDS)})
        self.device = torch.device("cpu")
        self.config = ArtifactConfig(Prompt().to_dict(), max_input_length=128, max_response_length=32)
        model: Any = SimpleNamespace(
            tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer),
            codec=SimpleNamespace(bank=bank),
            reads_texts=False,
            sentence_encoder=None,
            lexical=None,
        )
        self.model = model
        self.reader = StubReader(model)

    def predict(self, texts: Sequence[str], batch_size: int = 32, *_: Any, **__: Any) -> list[Prediction]:
        """Answers that depend on every token."""

        def answer(batch: Any) -> list[Prediction]:
            answers = []
            for ids in batch:
                key = zlib.crc32(bytes(ids))
                scores = {name: (key % (97 + i)) / (97 + i) for i, name in enumerate(self.bank)}
                labels = [name for name, score in scores.items() if score > 0.7]
                answers.append(Prediction(labels, scores, ". ".join(self.bank[name] for name in labels), []))
            return answers

        return [windows[0] for windows in self.reader.run(texts, answer, self.config, batch_size)[0]]


def write_rows(path: Path, rows: int) -> None:
    """Short texts of different length."""
    rng = random.Random(rows)
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            text = " ".join(rng.choices(WORDS, k=rng.randint(2, 14)))
            file.write(json.dumps({"id": f"r{row}", "text": text}) + "\n")


def memory() -> tuple[float, float]:
    """Resident memory of this process in MiB: now, and at its highest."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, highest = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, highest


def predict(source: Path, target: Path, resume: bool = False, figures: Path | None = None) -> None:
    """One run, in a process of its own."""
    start, _ = memory()
    begin = time.monotonic()
    with PredictionJob(str(source), str(target), resume=resume, identity=IDENTITY) as job:
        summary = job.run(Predictor(Stub()), progress=False)
    if figures is not None:
        found = {"rows": summary.rows, "peak": memory()[1], "start": start, "seconds": time.monotonic() - begin}
        figures.write_text(json.dumps(found))


def measured(source: Path, target: Path) -> dict[str, float]:
    """A run from start to end."""
    figures = target.with_suffix(".figures")
    process = FORK.Process(target=predict, args=(source, target, False, figures))
    process.start()
    process.join()
    if process.exitcode:  # it said why
        raise RuntimeError(f"the prediction over {source.name} ended with exit code {process.exitcode}")
    found: dict[str, float] = json.loads(figures.read_text())
    print(f"{found['rows']:,} rows: {found['seconds']:.1f} s, {found['rows'] / found['seconds']:,.0f} rows a second")
    return found


def killed(source: Path, whole: bytes, seconds: float, kills: int, seed: int = 0) -> dict[str, Any]:
    """Kills runs at random moments and resumes them, until there were so many kills and the last run has finished."""
    rng, target = random.Random(seed), source.with_name("killed.jsonl")
    done, finished, identical, lost, duplicated = 0, 0, True, 0, 0
    while done < kills or not target.exists():
        process = FORK.Process(target=predict, args=(source, target, True))
        process.start()
        process.join(rng.uniform(0, seconds / 2) if done < kills else None)
        if process.is_alive():
            process.kill()
            process.join()
            if not target.exists():  # else the run was over before it was killed
                done += 1
                kept = sum(1 for _ in source.parent.glob("killed.jsonl.unfinished/*.journal") for _ in _.open())
                print(f"kill {done}: {kept} windows are kept")
        elif process.exitcode:
            raise RuntimeError(f"a resumed prediction ended with exit code {process.exitcode}")
        if target.exists():
            finished += 1
            found = target.read_bytes()
            wanted, there = Counter(whole.splitlines()), Counter(found.splitlines())
            lost, duplicated = lost + (wanted - there).total(), duplicated + (there - wanted).total()
            identical &= found == whole
            if done < kills:
                target.unlink()
    return {"kills": done, "runs": finished, "lost": lost, "duplicated": duplicated, "identical": identical}


def main() -> None:
    """Prints the time of every run, then the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, fewer kills")
    quick = parser.parse_args().quick
    small, large, rows, kills = (10_000, 100_000, 10_000, 4) if quick else (100_000, 1_000_000, 20_000, 10)
    figures: dict[str, Any] = {"rows": rows}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size, count in (("small", small), ("large", large)):
            source = folder / f"{size}.jsonl"
            write_rows(source, count)
            found = measured(source, folder / f"{size}.out.jsonl")
            figures |= {f"{size}_rows": int(found["rows"]), f"peak_mib_{size}": round(found["peak"], 1)}
            figures[f"grown_mib_{size}"] = round(found["peak"] - found["start"], 1)
        source = folder / "rows.jsonl"
        write_rows(source, rows)
        seconds = measured(source, folder / "whole.jsonl")["seconds"]
        figures |= killed(source, (folder / "whole.jsonl").read_bytes(), seconds, kills)
    finish(figures, quick)


FORK = multiprocessing.get_context("fork")

if __name__ == "__main__":
    run(main)
