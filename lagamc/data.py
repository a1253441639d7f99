"""Examples: reading and checking them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lagamc.errors import LagamcError, listed
from lagamc.labels import LabelBank
from lagamc.rows import NO_TEXT, STANDARD_STREAM, is_encodable, read_rows

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "dev", "test")
FEW_ROWS = 50  # development rows below which thresholds are mostly noise
MOST_PROBLEMS = 200  # after which a file is not read on


@dataclass(frozen=True)
class Columns:
    """Where the parts of an example stand."""

    text: str = "text"
    labels: str = "labels"
    id: str = "id"


@dataclass(frozen=True)
class Example:
    """One text with its labels; `where` is the file and line it came from."""

    id: str
    text: str
    labels: tuple[str, ...]
    where: str = ""


# reading


def parse_example(
    row: dict[str, Any],
    where: str,
    columns: Columns,
    default_id: str,
    bank: LabelBank | None = None,
    allow_unlabelled: bool = True,
) -> Example:
    """Checks one row.

    Args:
        row: column -> value; labels are a list of names, or in one string separated by `|`.
        where: file and line, for messages.
        columns: where the parts stand.
        default_id: for rows without an id.
        bank: the labels that may occur; None reads no labels.
        allow_unlabelled: whether a row may be without labels.

    Raises:
        LagamcError: the text or the labels are missing, of the wrong kind, empty or unknown.
    """
    if columns.text not in row:
        raise _no_column(where, columns.text, "text", row)
    text = row[columns.text]
    if not isinstance(text, str) or not text.strip():
        found = "an empty text" if isinstance(text, str) else f"{type(text).__name__} ({text!r:.40})"
        raise LagamcError(f"{where}: expected a non-empty string in {columns.text!r}, found {found}")
    if columns.id not in row and columns.id != Columns.id:
        raise _no_column(where, columns.id, "id", row)
    identity = row.get(columns.id)
    if isinstance(identity, (list, dict, bool)):
        found = f"{type(identity).__name__} ({identity!r:.40})"
        raise LagamcError(f"{where}: expected a string or a number in {columns.id!r}, found {found}")
    for name, value in ((columns.text, text), (columns.id, str(identity))):
        if not is_encodable(value):
            raise LagamcError(f"{where}: {name!r} {NO_TEXT}")
    labels: tuple[str, ...] = ()
    if bank is not None:
        labels = _parse_labels(row, where, columns, bank)
        if not labels and not allow_unlabelled:
            raise LagamcError(
                f"{where}: the row has no labels; set `unlabelled: keep` if no label is a valid answer, "
                "or `unlabelled: drop` to leave such rows out"
            )
    return Example(default_id if identity is None else str(identity), text, labels, where)


def parse_label_names(row: dict[str, Any], where: str, columns: Columns) -> list[str]:
    """The label names of a row, whatever they are.

    Raises:
        LagamcError: they are missing or of the wrong kind.
    """
    if columns.labels not in row:
        raise _no_column(where, columns.labels, "labels", row)
    value = row[columns.labels]
    if isinstance(value, str):
        value = [part.strip() for part in value.split("|") if part.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise LagamcError(f"{where}: expected a list of label names in {columns.labels!r}, found {value!r:.60}")
    if not all(map(is_encodable, value)):
        raise LagamcError(f"{where}: {columns.labels!r} {NO_TEXT}")
    return list(dict.fromkeys(value))


def _no_column(where: str, column: str, kind: str, row: dict[str, Any]) -> LagamcError:
    found = sorted(map(str, row))
    return LagamcError(f"{where}: expected a column {column!r} with the {kind} (--{kind}_column), found {found}")


def _parse_labels(row: dict[str, Any], where: str, columns: Columns, bank: LabelBank) -> tuple[str, ...]:
    value = parse_label_names(row, where, columns)
    unknown = [name for name in value if name not in bank]
    if unknown:
        raise LagamcError(
            f"{where}: unknown label {unknown[0]!r}; the label bank holds {bank.names[:12]}"
            f"{' and more' if len(bank) > 12 else ''}; add it there with a description, correct "
            "the row, or leave it out"
        )
    return tuple(value)


def read_examples(
    path: str | Path,
    bank: LabelBank | None,
    columns: Columns | None = None,
    unlabelled: str = "error",
    limit: int | None = None,
) -> list[Example]:
    """All examples of a file. Every bad line is reported, not only the first.

    Args:
        path: JSONL, CSV or Parquet.
        bank: the labels that may occur; None reads texts alone.
        columns: where the parts stand.
        unlabelled: rows without labels are an `error`, are `keep`-ed (no label is an answer) or `drop`-ped.
        limit: reads the first rows alone.

    Raises:
        LagamcError: one message with every problem and its line.
    """
    problems: list[str] = []
    rows = read_rows(path, problems)
    return _check_rows(rows, str(path), "line", bank, columns or Columns(), unlabelled, limit, problems)


def _check_rows(
    rows: Iterable[tuple[int, dict[str, Any]]],
    source: str,
    unit: str,
    bank: LabelBank | None,
    columns: Columns,
    unlabelled: str,
    limit: int | None,
    problems: list[str] | None = None,
) -> list[Example]:
    examples: list[Example] = []
    problems = [] if problems is None else problems
    for number, row in rows:
        if limit is not None and len(examples) >= limit:
            break
        where = f"{source}, {unit} {number}"
        try:
            example = parse_example(row, where, columns, str(number), bank, unlabelled != "error")
        except LagamcError as error:
            problems.append(str(error))
            if len(problems) >= MOST_PROBLEMS:
                raise LagamcError.from_problems(f"examples, read as far as {unit} {number}", problems) from error
            continue
        if bank is None or example.labels or unlabelled != "drop":
            examples.append(example)
    if problems:
        raise LagamcError.from_problems("examples", problems)
    if not examples:
        raise LagamcError(f"{'standard input' if source == STANDARD_STREAM else source}: holds no examples")
    return examples


def load_hub_splits(name: str, config: str | None = None, revision: str | None = None) -> dict[str, Dataset]:
    """Every split of a `datasets` data set, from the Hub or a folder; one without splits is training data."""
    from datasets import Dataset, load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    try:
        if Path(name, "dataset_info.json").is_file() or Path(name, "dataset_dict.json").is_file():
            loaded = load_from_disk(name)
        else:
            loaded = load_dataset(name, config, revision=revision)
    except (OSError, ValueError, KeyError, RuntimeError, DatasetsError) as error:
        raise LagamcError(f"data set {name!r}: cannot be loaded ({error})") from error
    return {"train": loaded} if isinstance(loaded, Dataset) else dict(loaded)


def read_hub_split(
    data: Dataset, name: str, bank: LabelBank, columns: Columns, unlabelled: str, limit: int | None = None
) -> list[Example]:
    """Examples of one split of a `datasets` data set; integer labels become their names."""
    missing = [column for column in (columns.text, columns.labels) if column not in data.column_names]
    if missing:
        raise LagamcError(
            f"data set {name!r}: expected the columns {missing}, found {data.column_names}; "
            "name them with --text_column and --labels_column"
        )
    feature = data.features[columns.labels]
    names = getattr(getattr(feature, "feature", feature), "names", None)

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in enumerate(data, start=1):
            value = row[columns.labels]
            if names is not None:
                ids = value if isinstance(value, list) else [value]
                value = [names[i] if i in range(len(names)) else i for i in ids]  # -1 and None are refused below
            yield number, {**row, columns.labels: value}

    return _check_rows(rows(), name, "row", bank, columns, unlabelled, limit)


def carve_dev(examples: Sequence[Example], fraction: float, seed: int = 13) -> tuple[list[Example], list[Example]]:
    """Takes a share of the examples for development, the same for the same examples and seed.

    A row that is the last training example of one of its labels stays in training.

    Returns:
        what is left for training, and the development rows.

    Raises:
        LagamcError: one of the two would be empty.
    """
    remaining = Counter(label for example in examples for label in example.labels)
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    wanted = max(1, round(len(examples) * fraction))
    taken: set[int] = set()
    for i in order:
        if len(taken) == wanted:
            break
        if all(remaining[label] > 1 for label in examples[i].labels):
            taken.add(i)
            remaining.subtract(examples[i].labels)
    if not taken or len(taken) == len(examples):
        raise LagamcError(
            f"{len(examples)} training examples are too few to take development examples from; "
            "give more, or a development file of their own"
        )
    return [e for i, e in enumerate(examples) if i not in taken], [e for i, e in enumerate(examples) if i in taken]


# the check before a model is loaded


@dataclass
class DataReport:
    """What a data set holds; `lines` is for people, `warnings` for what deserves a look."""

    splits: dict[str, int] = field(default_factory=dict)
    label_counts: dict[str, dict[str, int]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_data(splits: Mapping[str, Sequence[Example]], bank: LabelBank) -> DataReport:
    """Counts per split and label, lengths, duplicates across splits, labels without training examples."""
    report = DataReport(warnings=list(bank.warnings()))
    keys = {name: {" ".join(e.text.casefold().split()) for e in examples} for name, examples in splits.items()}
    for name, examples in sorted(splits.items(), key=lambda pair: SPLITS.index(pair[0])):
        counts = Counter(label for example in examples for label in example.labels)
        report.splits[name] = len(examples)
        report.label_counts[name] = {label: counts[label] for label in bank}
        words = sorted(len(example.text.split()) for example in examples)
        report.lines.append(
            f"{name}: {len(examples)} rows, {sum(counts.values()) / len(examples):.2f} labels a row "
            f"(most {max(len(e.labels) for e in examples)}, none in {sum(not e.labels for e in examples)}), "
            f"words a text: median {words[len(words) // 2]}, longest {words[-1]}"
        )
        if len(keys[name]) < len(examples):
            report.warnings.append(f"{name}: {len(examples) - len(keys[name])} texts stand more than once")
    for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
        shared = len(keys.get(first, set()) & keys.get(second, set()))
        if shared:
            report.warnings.append(f"{shared} texts stand in both {first} and {second}")
    dev = report.label_counts.get("dev", {})
    unseen = [label for label, count in dev.items() if count == 0]
    if "dev" in splits and (len(splits["dev"]) < FEW_ROWS or unseen):
        report.warnings.append(
            f"the {len(splits['dev'])} dev rows choose checkpoint and thresholds"
            + (f"; labels that none of them has: {listed(unseen)}" if unseen else "; they are few")
        )
    if "train" in splits:
        absent = [label for label, count in report.label_counts["train"].items() if count == 0]
        if absent:
            number = "a label has" if len(absent) == 1 else f"{len(absent)} labels have"
            report.warnings.append(
                f"{number} no training example: {listed(absent)}; scored by how near a text is to their "
                "descriptions, as labels that are added later"
            )
    return report
