"""The label matcher's nearest labels against a bare matrix product and against loops (paper, section 8.5).

    python -m benchmarks.matcher_speed [--quick]

10,000 sentences, 1,000 labels, 1,024 dimensions, float32, random unit vectors; median of paired repeats.
`over_matmul`: time of the matcher divided by that of the product alone. `over_sequential`: time of a loop over the
sentences divided by that of the matcher. `over_pairs`: the same for a loop over pairs of a sentence and a label, of
which a part is timed. `same`: whether matcher and loop agree on every sentence. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np

from benchmarks.outcomes import finish, run, timed
from lagamc.labels import LabelBank
from lagamc.matcher import LabelMatcher

PAIRS = 20_000  # pairs that are timed


class Vectors:
    """Stands for a sentence encoder: the label number in a text is the row of its vector."""

    def __init__(self, rows: np.ndarray):
        self.rows = rows

    def encode(self, sentences: list[str], **_: object) -> np.ndarray:
        """(sentences, dimensions)."""
        return self.rows[[int(sentence.split()[-1]) for sentence in sentences]]


def unit_rows(rng: np.random.Generator, rows: int, dimensions: int) -> np.ndarray:
    """Random vectors of length 1, (rows, dimensions), float32."""
    values = rng.normal(size=(rows, dimensions)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def main() -> None:
    """Prints the seconds of every repeat, then the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the sentences, fewer repeats")
    quick = parser.parse_args().quick
    sentences, labels, dimensions, repeats = (1_000 if quick else 10_000), 1_000, 1_024, (3 if quick else 9)
    rng = np.random.default_rng(0)
    bank, written = unit_rows(rng, labels, dimensions), unit_rows(rng, sentences, dimensions)
    names = LabelBank({f"label {i}": f"about {i}" for i in range(labels)})
    matcher = LabelMatcher(names, Vectors(bank))  # type: ignore[arg-type]

    def sequential() -> list[int]:
        return [int((matcher.embeddings @ sentence).argmax()) for sentence in written]

    def pairs() -> list[float]:
        return [float(written[i % sentences] @ bank[i % labels]) for i in range(PAIRS)]

    same = sequential() == matcher.nearest(written)[0].tolist()  # warms up, too
    ratios: dict[str, list[float]] = {"over_matmul": [], "over_sequential": [], "over_pairs": []}
    for repeat in range(repeats):
        product = timed(lambda: written @ matcher.embeddings.T)
        ours = timed(lambda: matcher.nearest(written))
        loop = timed(sequential)
        each = timed(pairs) * sentences * labels / PAIRS
        print(f"repeat {repeat}: product {product:.3f} s, matcher {ours:.3f} s, loops {loop:.3f} s and {each:.1f} s")
        ratios["over_matmul"].append(ours / product)
        ratios["over_sequential"].append(loop / ours)
        ratios["over_pairs"].append(each / ours)
    finish({name: round(median(values), 2) for name, values in ratios.items()} | {"same": same}, quick)


if __name__ == "__main__":
    run(main)
