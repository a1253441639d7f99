"""Description-aware decoding against greedy `generate` with its cache: same model, texts and batches, in turns.

    python -m benchmarks.decoding_speed [--quick] [--dataset caves] [--decoder_layers 2] [--model FOLDER]

Without `--model` a small model is trained on the data set first and kept in `outputs/`. The ratios are medians over
the repeats of texts per second, encoder included. `passes_per_text` counts decoder passes of `exact`, each once for
every text in it. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.datasets import find_dataset, missing
from benchmarks.models import trained_model
from benchmarks.outcomes import finish, run
from lagamc.artifact import artifact_prompt
from lagamc.classifier import LagamcClassifier
from lagamc.data import read_examples
from lagamc.decoding import DescriptionDecoder
from lagamc.encoding import pad_texts


def batches(classifier: LagamcClassifier, texts: list[str], size: int) -> list[tuple[Tensor, Tensor]]:
    """Padded batches of texts of similar length."""
    config, backbone = classifier.config, classifier.model.backbone
    rows, _ = artifact_prompt(config).encode(classifier.model.tokenizer, texts, config.max_input_length)
    rows.sort(key=len)
    return [
        pad_texts(rows[i : i + size], backbone.padding_id, backbone.padding_side) for i in range(0, len(rows), size)
    ]


def written_by_generate(classifier: LagamcClassifier, ids: Tensor, mask: Tensor) -> list[list[int]]:
    """Greedy `generate` under the mask of the label vocabulary."""
    model, end = classifier.model, classifier.model.codec.end_token_id
    longest = classifier.config.max_response_length
    rows = model.generate(ids, mask, max_new_tokens=longest, do_sample=False, num_beams=1).tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def main() -> None:
    """Prints seconds for every repeat, then the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 texts, one repeat, a model of a few steps")
    parser.add_argument("--dataset", default="caves", help="caves, reuters, ...")
    parser.add_argument("--model", metavar="FOLDER", help="a trained model of that data set")
    parser.add_argument("--decoder_layers", type=int, default=2, help="of the model that is trained")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    data = find_dataset(options.dataset)
    if data is None:
        print(json.dumps({"skipped": missing(options.dataset)}))
        return
    count, repeats = (64, 1) if options.quick else (options.texts, options.repeats)
    layers, variant = (
        options.decoder_layers,
        "" if options.decoder_layers == 2 else f"-{options.decoder_layers}-layers",
    )
    folder = options.model or trained_model(
        options.dataset, "--decoder_layers", str(layers), rows=300 if options.quick else 2000, variant=variant
    )
    classifier = LagamcClassifier.from_pretrained(Path(str(folder)), "cpu")
    texts: list[str] = []
    for split in ("test", "dev", "train"):
        if len(texts) < count:
            texts += [e.text for e in read_examples(data / f"{split}.jsonl", None, limit=count - len(texts))]
    parts = batches(classifier, texts, options.batch_size)
    longest = classifier.config.max_response_length
    decoders = {mode: DescriptionDecoder(classifier.model, mode, longest) for mode in ("exact", "constrained")}

    def with_drafts(mode: str) -> Callable[[Tensor, Tensor], list[list[int]]]:
        def decode(ids: Tensor, mask: Tensor) -> list[list[int]]:
            reading = classifier.model.backbone.read(ids, mask)
            return decoders[mode].decode(
                reading, classifier.model.retrieve(reading, classifier.reader.bank_embeddings)
            )

        return decode

    ways: dict[str, Callable[[Tensor, Tensor], list[list[int]]]] = {
        "generate": lambda ids, mask: written_by_generate(classifier, ids, mask),
        "exact": with_drafts("exact"),
        "constrained": with_drafts("constrained"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    written: dict[str, list[list[int]]] = {}
    with torch.inference_mode():
        for way in ways.values():
            way(*parts[0])  # warm up
        decoders["exact"].passes = decoders["exact"].row_passes = 0
        for repeat in range(repeats):
            for name, way in ways.items():
                begin = time.perf_counter()
                written[name] = [row for part in parts for row in way(*part)]
                seconds[name].append(time.perf_counter() - begin)
            print(f"repeat {repeat}: " + ", ".join(f"{name} {seconds[name][-1]:.2f} s" for name in ways))
    same = sum(a == b for a, b in zip(written["generate"], written["exact"], strict=True))
    ratios = {
        name: round(median(g / s for g, s in zip(seconds["generate"], seconds[name], strict=True)), 2)
        for name in decoders
    }
    finish(
        {
            "dataset": options.dataset,
            "model": Path(str(folder)).name,
            "texts": len(written["exact"]),
            "identical": same,
            "exact_over_generate": ratios["exact"],
            "constrained_over_generate": ratios["constrained"],
            "passes_per_text": round(decoders["exact"].row_passes / repeats / len(written["exact"]), 3),
        },
        options.quick,
    )


if __name__ == "__main__":
    run(main)
