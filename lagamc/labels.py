"""`LabelBank`: the labels of a task and the sentences that describe them (paper, section 3.2)."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from lagamc.csv_rows import read_csv_rows
from lagamc.errors import LagamcError
from lagamc.rows import NO_TEXT, is_encodable, without_repeats

NEAR_DUPLICATE_SIMILARITY = 0.9
_SENTENCE_BOUNDARY = re.compile(r"(?<=[.!?])\s+")


def split_sentences(text: str) -> list[str]:
    """Splits a text at full stops, question and exclamation marks, and drops the final full stops.

    The same rule serves descriptions and generated responses, so both fall apart in the same places.
    """
    return [bare for part in _SENTENCE_BOUNDARY.split(text.strip()) if (bare := strip_final_stop(part))]


def strip_final_stop(text: str) -> str:
    """The text without white space around it and without its final full stops."""
    return text.strip().rstrip(".").strip()


class LabelBank(Mapping[str, str]):
    """Label names and descriptions, in a fixed order. Immutable: changes return a new bank.

    Args:
        descriptions: label name -> description. A final full stop is optional; several sentences are allowed.

    Raises:
        LagamcError: the bank is empty, a name or description is empty, or two descriptions cannot be told apart.
    """

    def __init__(self, descriptions: Mapping[str, str], source: str = "label bank"):
        self._descriptions: dict[str, str] = {}
        problems = []
        if not isinstance(descriptions, Mapping):
            raise LagamcError(
                f'{source}: expected an object {{"label": "description", ...}}, found {type(descriptions).__name__}'
            )
        if not descriptions:
            raise LagamcError(f"{source}: the label bank is empty; give at least one label with a description")
        for name, description in descriptions.items():
            if not isinstance(name, str) or not name.strip():
                problems.append(f"a label name is empty or not a string: {name!r}")
            elif not all(is_encodable(part) for part in (name, description) if isinstance(part, str)):
                problems.append(f"label {name!r} {NO_TEXT}")
            elif not isinstance(description, str) or not strip_final_stop(description):
                problems.append(
                    f"label {name!r} has no description (found {description!r}); write a sentence that describes it"
                )
            else:
                self._descriptions[name] = strip_final_stop(" ".join(description.split()))
        problems += self._collisions()
        if problems:
            raise LagamcError.from_problems(source, problems)

    def _collisions(self) -> list[str]:
        problems = []
        by_text: dict[str, str] = {}
        for name, description in self._descriptions.items():
            key = _normalise(description)
            if key in by_text:
                problems.append(
                    f"labels {by_text[key]!r} and {name!r} have the same description ({description!r}); "
                    "reword one of them, a generated description could not be told apart"
                )
            by_text[key] = name
        for name, description in self._descriptions.items():
            sentences = split_sentences(description)
            for end in range(1, len(sentences)):
                other = by_text.get(_normalise(". ".join(sentences[:end])))
                if other is not None:
                    problems.append(
                        f"the description of {other!r} is the opening of that of {name!r} up to a full stop; "
                        "reword one of them, the end of the first could not be recognised"
                    )
        return problems

    def warnings(self) -> list[str]:
        """What is allowed but makes labels hard to tell apart: near-duplicates, prefixes, shared sentences."""
        found = []
        normalised = sorted((_normalise(text), name) for name, text in self._descriptions.items())
        openings: list[tuple[str, str]] = []  # descriptions that the one at hand may begin with
        for text, name in normalised:
            while openings and not text.startswith(openings[-1][0] + " "):
                openings.pop()
            if openings:
                found.append(f"the description of {openings[-1][1]!r} is a prefix of that of {name!r}")
            openings.append((text, name))
        owners: dict[str, str] = {}
        for sentence, index in zip(*self.sentences(), strict=True):
            name = self.names[index]
            if owners.setdefault(_normalise(sentence), name) != name:
                found.append(f"labels {owners[_normalise(sentence)]!r} and {name!r} share the sentence {sentence!r}")
        for first, second, similarity in self._near_duplicates():
            found.append(
                f"the descriptions of {first!r} and {second!r} are nearly the same (similarity {similarity:.2f})"
            )
        return found

    def _near_duplicates(self, block: int = 1024) -> Iterator[tuple[str, str, float]]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        if len(self) < 2 or not any(character.isalnum() for text in self.descriptions for character in text):
            return
        features = TfidfVectorizer(token_pattern=r"(?u)\w+", sublinear_tf=True).fit_transform(
            [_normalise(text) for text in self._descriptions.values()]
        )
        names = self.names
        for start in range(0, len(self), block):
            similarities = (features[start : start + block] @ features.T).tocoo()
            near = (similarities.data >= NEAR_DUPLICATE_SIMILARITY) & (start + similarities.row < similarities.col)
            found = (part[near] for part in (similarities.row, similarities.col, similarities.data))
            for row, column, value in zip(*found, strict=True):
                yield names[start + row], names[column], float(value)

    # reading and writing

    @classmethod
    def from_json(cls, path: str | Path) -> LabelBank:
        """Reads `{"label": "description", ...}`; a name that stands twice is an error."""
        path = Path(path)

        text = _read_text(path)
        try:
            descriptions = json.loads(text, object_pairs_hook=partial(without_repeats, noun="label"))
        except json.JSONDecodeError as error:
            raise LagamcError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error
        except LagamcError as error:
            raise LagamcError(f"{path}: {error}") from error
        except (RecursionError, ValueError) as error:
            raise LagamcError(f"{path}: not valid JSON ({type(error).__name__}: {error})") from error
        return cls(descriptions, source=str(path))

    @classmethod
    def from_csv(
        cls, path: str | Path, name_column: str = "label", description_column: str = "description"
    ) -> LabelBank:
        """Reads a CSV with a header and one label a line."""
        path = Path(path)
        descriptions: dict[str, str] = {}
        for line, row in read_csv_rows(io.StringIO(_read_text(path), newline=""), str(path)):
            if name_column not in row or description_column not in row:
                raise LagamcError(
                    f"{path}: expected the columns {name_column!r} and {description_column!r}, found {list(row)}"
                )
            if row[name_column] in descriptions:
                raise LagamcError(f"{path}, line {line}: the label {row[name_column]!r} stands twice")
            descriptions[row[name_column]] = row[description_column]
        return cls(descriptions, source=str(path))

    @classmethod
    def from_file(cls, path: str | Path) -> LabelBank:
        """Reads JSON or CSV, by the file's ending."""
        suffix = Path(path).suffix.lower()
        if suffix == ".csv":
            return cls.from_csv(path)
        if suffix == ".json":
            return cls.from_json(path)
        raise LagamcError(
            f"{path}: expected a labels file that ends in .json or .csv, found {suffix or 'no ending'!r}"
        )

    @classmethod
    def from_features(cls, features: Mapping[str, Any], column: str) -> LabelBank:
        """Label names from a `datasets` column of `ClassLabel`s, each described by its own name."""
        feature = features.get(column)
        feature = getattr(feature, "feature", feature)  # Sequence(ClassLabel) or ClassLabel
        names = getattr(feature, "names", None)
        if not names:
            raise LagamcError(
                f"column {column!r} of the data set carries no label names (found {feature}); give a labels file"
            )
        return cls({name: str(name).replace("_", " ") for name in names}, source=f"data set column {column!r}")

    def to_json(self, path: str | Path) -> None:
        """Writes the bank as `from_json` reads it."""
        Path(path).write_text(json.dumps(self._descriptions, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    # contents

    def __getitem__(self, name: str) -> str:
        return self._descriptions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._descriptions)

    def __len__(self) -> int:
        return len(self._descriptions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelBank) and list(self.items()) == list(other.items())

    def __repr__(self) -> str:
        return f"LabelBank({len(self)} labels: {', '.join(self.names[:5])}{', ...' if len(self) > 5 else ''})"

    @property
    def names(self) -> list[str]:
        """Label names in bank order."""
        return list(self._descriptions)

    @property
    def descriptions(self) -> list[str]:
        """Descriptions in bank order, without their final full stop."""
        return list(self._descriptions.values())

    def index(self, names: Iterable[str]) -> list[int]:
        """Positions of the named labels in the bank."""
        if isinstance(names, str):
            raise LagamcError(f"expected a list of labels, found {names!r}; write [{names!r}]")
        if not isinstance(names, Iterable):
            raise LagamcError(f"expected a list of labels, found {names!r:.60}")
        names = list(names)
        try:
            return [self._positions[name] for name in names]
        except (KeyError, TypeError):  # looked for here alone: this is called for every row
            self._require(names)
            raise

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._descriptions)}

    def sentences(self) -> tuple[list[str], list[int]]:
        """Every sentence of every description and, beside it, the position of the label it belongs to."""
        pairs = [(s, i) for i, text in enumerate(self._descriptions.values()) for s in split_sentences(text)]
        return [sentence for sentence, _ in pairs], [index for _, index in pairs]

    # changes

    def add(self, descriptions: Mapping[str, str]) -> LabelBank:
        """A bank with further labels behind the present ones."""
        present = sorted(set(descriptions) & set(self))
        if present:
            raise LagamcError(f"labels {present} are in the bank already; use `reword` to change a description")
        return LabelBank({**self, **descriptions})

    def reword(self, descriptions: Mapping[str, str]) -> LabelBank:
        """A bank in which the named labels have other descriptions."""
        self._require(descriptions)
        return LabelBank({**self, **descriptions})

    def remove(self, names: Iterable[str]) -> LabelBank:
        """A bank without the named labels."""
        names = set(names)
        self._require(names)
        return LabelBank({name: text for name, text in self.items() if name not in names})

    def subset(self, names: Iterable[str]) -> LabelBank:
        """A bank of the named labels alone, in the order given."""
        names = list(names)
        self._require(names)
        return LabelBank({name: self[name] for name in names})

    def atomic(self) -> LabelBank:
        """A bank in which each label is described by its bare name (the ablation of paper section 7.2)."""
        return LabelBank({name: name for name in self})

    def _require(self, names: Iterable[str]) -> None:
        unknown = sorted({str(name) for name in names if not (isinstance(name, str) and name in self)})
        if unknown:
            raise LagamcError(f"labels {unknown} are not in the bank; it holds {self.names}")


def _normalise(text: str) -> str:
    return " ".join(re.findall(r"\w+|[^\w\s]", text.casefold()))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise LagamcError(
            f"{path}: no such labels file; give a JSON or CSV file of labels with descriptions"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise LagamcError(f"{path}: cannot be read as UTF-8 text ({error})") from error
