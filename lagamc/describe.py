"""Writing label descriptions from Wikipedia's definitions, examples and a chat model (paper, section 3.2)."""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np
from tqdm.auto import tqdm

from lagamc.data import Columns, Example, parse_example, parse_label_names
from lagamc.encoders import load_sentence_encoder
from lagamc.errors import LagamcError
from lagamc.generators import embedded_folder
from lagamc.labels import NEAR_DUPLICATE_SIMILARITY, LabelBank, strip_final_stop
from lagamc.outputs import check_target
from lagamc.rows import read_rows
from lagamc.skeletons import readable, skeleton_descriptions

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from lagamc.services import ChatModel, Messages, Wikipedia

TRIES = 3  # answers asked for, for one label
EXAMPLES = 2  # of a label, in its prompt
EXAMPLE_LENGTH = 400  # characters
OPENING = 3  # words by which descriptions have to differ
SHORTEST = 3  # words
CACHE_ENDING = ".answers.jsonl"
SYSTEM = (
    "You write label descriptions for a text classifier. Answer with the description alone: one or two sentences of "
    "at most {longest} words, without quotation marks or a heading. Begin with the label itself, so that no two "
    "descriptions begin alike; never begin with words such as 'This label'."
)
AGAIN = "This description cannot be used: {problem}. Write another one for '{label}'; answer with it alone."


def read_labelled(path: str | Path, columns: Columns | None = None) -> list[Example]:
    """Examples with whatever labels they have; a bank is what they are read for.

    Args:
        path: JSONL, CSV or Parquet.
        columns: where text and labels stand.

    Raises:
        LagamcError: one message with every bad line; or the file holds no labels.
    """
    columns, problems, examples = columns or Columns(), list[str](), list[Example]()
    for number, row in read_rows(path, problems):
        where = f"{path}, line {number}"
        try:
            example = parse_example(row, where, columns, str(number))
            examples.append(replace(example, labels=tuple(parse_label_names(row, where, columns))))
        except LagamcError as error:
            problems.append(str(error))
    if problems:
        raise LagamcError.from_problems("examples", problems)
    if not any(example.labels for example in examples):
        raise LagamcError(f"{path}: holds no labels in {columns.labels!r}; expected training examples with labels")
    return examples


def label_names(examples: Sequence[Example], path: str | Path | None = None) -> list[str]:
    """The labels to describe: those of the examples, most frequent first, or those of a file.

    Args:
        examples: with labels.
        path: a text file with one name a line, in the order they should have.

    Raises:
        LagamcError: the file cannot be read, a name stands twice, or a label of the examples is not in it.
    """
    counts = Counter(label for example in examples for label in example.labels)
    if path is None:
        return sorted(counts, key=lambda name: (-counts[name], name))
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LagamcError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    names = [line.strip() for line in lines if line.strip()]
    twice = [name for name, count in Counter(names).items() if count > 1]
    absent = sorted(set(counts) - set(names))
    if twice or absent or not names:
        found = f"{twice} twice" if twice else f"no line for {absent[:10]}" if absent else "none"
        raise LagamcError(f"{path}: expected every label of the examples once, one name a line, found {found}")
    return names


def examples_of(name: str, examples: Sequence[Example], count: int = EXAMPLES) -> list[Example]:
    """Examples that show a label: with the fewest other labels, and of usual length.

    Args:
        name: of the label.
        examples: to choose from.
        count: at most.
    """
    theirs = list({example.text: example for example in examples if name in example.labels}.values())
    usual = float(np.median([len(example.text) for example in theirs])) if theirs else 0.0
    theirs.sort(key=lambda example: (len(example.labels), abs(len(example.text) - usual)))
    return theirs[:count]


class DescriptionPrompt:
    """The prompt of the paper's section 3.2.

    Args:
        dataset: what the data set contains, in a sentence.
        text_name: what its texts are called.
        longest: words of a description at most.
    """

    def __init__(self, dataset: str, text_name: str, longest: int):
        self.dataset, self.text_name, self.longest = dataset, text_name, longest
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("lagamc"),
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._template = environment.get_template("describe_prompt.txt")

    def text(self, name: str, examples: Sequence[Example], definition: str | None) -> str:
        """The prompt for a label."""
        rows = [
            {
                "text": " ".join(example.text.split())[:EXAMPLE_LENGTH],
                "labels": ", ".join(readable(label) for label in example.labels),
            }
            for example in examples_of(name, examples)
        ]
        return self._template.render(
            label=readable(name),
            definition=definition,
            dataset=self.dataset,
            text_name=self.text_name,
            examples=rows,
        )

    def messages(self, name: str, examples: Sequence[Example], definition: str | None) -> Messages:
        """The conversation that begins with the prompt."""
        return [
            {"role": "system", "content": SYSTEM.format(longest=self.longest)},
            {"role": "user", "content": self.text(name, examples, definition)},
        ]


class DescriptionCheck:
    """Accepts descriptions one after the other, each beside those before it.

    Args:
        encoder: a sentence encoder: what it cannot tell apart, the matcher cannot.
        longest: words at most.
        similar: cosine from which two descriptions are nearly the same.
    """

    def __init__(self, encoder: SentenceTransformer, longest: int, similar: float = NEAR_DUPLICATE_SIMILARITY):
        self.encoder, self.longest, self.similar = encoder, longest, similar
        self.accepted: dict[str, str] = {}
        self._embeddings: list[np.ndarray] = []

    def problem(self, name: str, description: str) -> str | None:
        """Accepts a description, or says why not."""
        words = description.split()
        if not SHORTEST <= len(words) <= self.longest:
            return f"it has {len(words)} words, expected {SHORTEST} to {self.longest}"
        for other, text in self.accepted.items():
            if opening(text) == opening(description):
                return f"it begins as that of '{readable(other)}' does: '{' '.join(words[:OPENING])}'"
        try:
            LabelBank({**self.accepted, name: description})
        except LagamcError as error:
            return str(error).removeprefix("label bank: ")
        embedding = self.encoder.encode(description, normalize_embeddings=True, show_progress_bar=False)
        if self._embeddings:
            similarities = np.stack(self._embeddings) @ embedding
            nearest = int(similarities.argmax())
            if similarities[nearest] >= self.similar:
                other, text = list(self.accepted.items())[nearest]
                return f"it says nearly the same as that of '{readable(other)}': '{text}'"
        self.accepted[name] = description
        self._embeddings.append(np.asarray(embedding))
        return None


def opening(description: str) -> tuple[str, ...]:
    """The words by which a description has to differ from the others."""
    return tuple(re.findall(r"\w+", description.casefold())[:OPENING])


def clean(answer: str) -> str:
    """A chat model's answer as a description: one line, without marks around it and without its final stop."""
    line = "".join(" " if unicodedata.category(c) == "Cc" else c for c in answer.replace("**", ""))
    line = " ".join(line.split())
    return strip_final_stop(line.strip("\"'`“”„ "))


def write_descriptions(
    names: Sequence[str],
    examples: Sequence[Example],
    prompt: DescriptionPrompt,
    chat: ChatModel,
    wikipedia: Wikipedia | None,
    check: DescriptionCheck,
    say: Callable[[str], None],
) -> LabelBank:
    """Descriptions of all labels; one that fails the check is asked for again, with the reason.

    Where no answer passes, the skeleton of `lagamc.skeletons` takes its place, and it is said.

    Args:
        names: of the labels.
        examples: training examples.
        prompt: for each label.
        chat: writes the descriptions.
        wikipedia: gives initial definitions; None goes without.
        check: of each answer.
        say: takes messages.
    """
    written: dict[str, str] = {}
    failed: dict[str, str] = {}
    undefined = []
    for name in tqdm(names, desc="describing", unit="label"):
        definition = None if wikipedia is None else wikipedia.definition(name)
        if wikipedia is not None and definition is None:
            undefined.append(name)
        messages = list(prompt.messages(name, examples, definition))
        for _ in range(TRIES):
            answer = chat.answer(messages, name)
            description = clean(answer)
            problem = check.problem(name, description)
            if problem is None:
                written[name] = description
                break
            messages += [
                {"role": "assistant", "content": answer},
                {"role": "user", "content": AGAIN.format(problem=problem, label=readable(name))},
            ]
        else:
            failed[name] = problem or ""
    if undefined:
        say(f"Wikipedia has no article of its own for: {', '.join(undefined)}")
    for name, problem in failed.items():
        say(
            f"warning: {name!r}: none of {TRIES} answers can be used (the last: {problem}); a skeleton of its name "
            "and words of its texts is written in its place, reword it"
        )
    skeletons = skeleton_descriptions(list(failed), examples)
    return LabelBank({name: written.get(name) or skeletons[name] for name in names}, source="descriptions")


def run(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Does what `lagamc describe` was asked for.

    Args:
        options: of its command line.
        say: takes messages.

    Raises:
        LagamcError: bad input, or a service that gives no usable answer.
    """
    if options.output:
        check_target(options.output, options.file)
        if Path(options.output).exists() and not options.dry_run:
            raise LagamcError(f"{options.output}: is there already and is not replaced; remove it or name another")
    examples = read_labelled(options.file, Columns(options.text_column, options.labels_column))
    names = label_names(examples, options.names)
    if options.offline:
        bank = LabelBank(skeleton_descriptions(names, examples), source="descriptions")
    else:
        from lagamc.services import AnswerCache, ChatModel, Wikipedia

        cache = AnswerCache(f"{options.output}{CACHE_ENDING}" if options.output else None)
        wikipedia = None if options.wikipedia_url == "none" else Wikipedia(options.wikipedia_url, cache)
        prompt = DescriptionPrompt(options.dataset, options.text_name, options.max_words)
        if options.dry_run:
            print(_rehearsal(names, examples, prompt, wikipedia))
            return
        chat = ChatModel(options.model, cache, options.base_url)
        encoder = load_sentence_encoder(options.sentence_encoder or embedded_folder())
        bank = write_descriptions(
            names, examples, prompt, chat, wikipedia, DescriptionCheck(encoder, options.max_words), say
        )
    for warning in bank.warnings():
        say(f"warning: {warning}")
    try:
        bank.to_json(options.output)
    except OSError as error:
        raise LagamcError(f"{options.output}: cannot be written ({error.strerror or error})") from error
    say(f"{len(bank)} descriptions are in {options.output}; read them before you train")


def _rehearsal(
    names: Sequence[str], examples: Sequence[Example], prompt: DescriptionPrompt, wikipedia: Wikipedia | None
) -> str:
    parts = [prompt.messages(names[0], examples, None)[0]["content"]]
    for name in names:
        definition = None
        if wikipedia is not None:
            known = wikipedia.known(name)
            definition = wikipedia.definition(name) if known else f"(to be read from {wikipedia.address(name)})"
        parts.append(prompt.text(name, examples, definition))
    words = sum(len(part.split()) for part in parts[1:])
    parts.append(
        f"{len(names)} prompts of {words:,} words together, and the instruction above with each; a description that "
        f"fails the check is asked for again, up to {TRIES} times"
    )
    return f"\n{'-' * 80}\n".join(parts)
