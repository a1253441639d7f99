"""Prompt construction (paper, section 5.1) and response construction (section 5.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lagamc.errors import LagamcError
from lagamc.labels import LabelBank

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABEL_ORDERS = ("bank", "frequency", "given")
RESPONSE_LEAD = "\n\nLabel descriptions:\n"  # behind the text, for a decoder-only generator
END_OF_RESPONSE = -1  # in `Response.label_index`: the token that ends the response
_TASK = "Task: Multi-label Text Classification\n\nDescription: Generate label description for the given texts."


@dataclass(frozen=True)
class Prompt:
    """Instruction, task description and text, one after the other (paper, section 5.1).

    Args:
        instruction: what the input is; may be empty.
        task_description: what is to be done; may be empty.
        separator: what stands between the parts.
        ending: what stands behind the text, where a decoder-only generator begins its response; may be empty.
        closed: whether the tokenizer's own end token stands behind all that.
    """

    instruction: str = ""
    task_description: str = ""
    separator: str = "\n\n"
    ending: str = ""
    closed: bool = True

    @property
    def prefix(self) -> str:
        """All that stands before the text."""
        parts = [part.strip() for part in (self.instruction, self.task_description) if part.strip()]
        return "".join(part + self.separator for part in parts)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
    ) -> tuple[list[list[int]], list[bool]]:
        """Token ids of prompt and text. What is too long is cut from the text, never from the instruction.

        Args:
            tokenizer: the generator's.
            texts: one string a row.
            max_length: tokens of the whole input, special tokens included.

        Returns:
            the ids of each row, and whether its text was cut.

        Raises:
            LagamcError: the instruction leaves no room for the text.
        """
        rows, _, clipped = self.encode_windows(tokenizer, texts, max_length, 0)
        return rows, clipped

    def encode_windows(
        self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, stride: int
    ) -> tuple[list[list[int]], list[int], list[bool]]:
        """As `encode`, but a text that is too long gives several rows, each with the whole prompt.

        Args:
            tokenizer: the generator's.
            texts: one string a row.
            max_length: tokens of the whole input, special tokens included.
            stride: tokens from the beginning of a window to that of the next; 0 gives the first one alone.

        Returns:
            the ids of each window, the position of its text, and for each text whether a part of it is in no window.

        Raises:
            LagamcError: the instruction leaves no room for the text, or text would fall between two windows.
        """
        prefix_ids: list[int] = tokenizer(self.prefix, add_special_tokens=False)["input_ids"] if self.prefix else []
        head, tail = special_tokens(tokenizer)
        if not self.closed:
            tail = []
        if self.ending:
            tail = [*tokenizer(self.ending, add_special_tokens=False)["input_ids"], *tail]
        room = max_length - len(prefix_ids) - len(head) - len(tail)
        if room < 8:
            raise LagamcError(
                f"max_input_length is {max_length}, but the instruction alone takes {max_length - room} tokens; "
                f"set max_input_length to at least {max_length - room + 8} or shorten the instruction"
            )
        bodies = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if len(texts) else []
        if stride > room:
            raise LagamcError(
                f"window_stride: expected at most {room}, the tokens of a text that fit a window, found {stride}; "
                "text between two windows would be lost"
            )
        rows, owners = [], []
        for owner, body in enumerate(bodies):
            # the last window is the first one that reaches the end
            starts = range(0, max(1, len(body) - room + stride), stride) if stride else range(1)
            rows += [head + prefix_ids + body[start : start + room] + tail for start in starts]
            owners += [owner] * len(starts)
        return rows, owners, [not stride and len(body) > room for body in bodies]


def decode_text(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of one row of tokens, special tokens left out."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and behind a single text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise LagamcError(f"the tokenizer {type(tokenizer).__name__} does not keep a text between its special tokens")


def _instruction(kind: str, article: str = "a") -> str:
    return (
        "Instruction: First read the task description. "
        f"There could be multiple categories description for {article} {kind}."
    )


PROMPTS: dict[str, Prompt] = {
    "plain": Prompt(),
    "general": Prompt(_instruction("text"), _TASK),
    "tweets": Prompt(_instruction("tweet"), _TASK),
    "news": Prompt(_instruction("news article"), _TASK),
    "abstracts": Prompt(_instruction("abstract", "an"), _TASK),
}


@dataclass(frozen=True)
class Response:
    """The target of one row.

    Args:
        token_ids: descriptions in label order, each with its full stop, then the end token.
        label_index: for every token the bank position of its label, `END_OF_RESPONSE` for the end token.
        decisions: for every token whether the labels that are possible before it disagree on it; all
            other tokens are forced.
    """

    token_ids: list[int]
    label_index: list[int]
    decisions: list[bool]


class ResponseCodec:
    """Responses for a label bank in the tokens of one generator (paper, section 5.2).

    Every description stands without the bank's optional final stop, closed by exactly one full stop; the
    descriptions of a row's labels follow each other in the label order, then the end token. An empty label set is
    the end token alone. The tokens of a description are the same wherever it stands.

    Args:
        bank: the labels.
        tokenizer: the generator's.
        order: `bank`, `frequency` (most frequent label first) or `given` (as the row lists them).
        counts: label -> rows that carry it; needed for the order `frequency`.

    Raises:
        LagamcError: unknown order, two descriptions with the same tokens, a tokenizer that has no end
            token or does not bring a description back.
    """

    def __init__(
        self,
        bank: LabelBank,
        tokenizer: PreTrainedTokenizerBase,
        order: str = "bank",
        counts: dict[str, int] | None = None,
    ):
        if order not in LABEL_ORDERS:
            raise LagamcError(f"label_order: expected one of {list(LABEL_ORDERS)}, found {order!r}")
        self.bank, self.tokenizer, self.order = bank, tokenizer, order
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if end is None:
            raise LagamcError(f"the tokenizer {type(tokenizer).__name__} has no end token (eos_token or sep_token)")
        self.end_token_id: int = end
        self._lead = self._lead_in()
        self.token_ids = [self._encode(text) for text in bank.descriptions]
        self._check_tokens()
        if order == "frequency":
            # the sort is stable: labels of the same frequency keep the bank's order
            ranked = sorted(range(len(bank)), key=lambda i: -(counts or {}).get(bank.names[i], 0))
        else:
            ranked = list(range(len(bank)))
        self.rank = {label: rank for rank, label in enumerate(ranked)}

    def _lead_in(self) -> str:
        # byte-level tokenizers glue descriptions together unless each begins with a space
        ids = self.tokenizer("One.", add_special_tokens=False)["input_ids"]
        glued = decode_text(self.tokenizer, ids + ids)
        return "" if glued.split() == decode_text(self.tokenizer, ids).split() * 2 else " "

    def _encode(self, description: str) -> list[int]:
        return self.tokenizer(self._lead + description + ".", add_special_tokens=False)["input_ids"]

    def _check_tokens(self) -> None:
        unknown = self.tokenizer.unk_token_id
        seen: dict[tuple[int, ...], str] = {}
        problems = []
        for name, ids in zip(self.bank.names, self.token_ids, strict=True):
            if all(token == unknown for token in ids[:-1]):
                problems.append(f"the generator's tokenizer knows no token of the description of {name!r}")
            other = seen.setdefault(tuple(ids), name)
            if other != name:
                problems.append(f"the descriptions of {other!r} and {name!r} are the same in the generator's tokens")
        for short, longer in pairwise(sorted(seen)):  # what begins with some tokens stands right behind them
            if longer[: len(short)] == short:
                problems.append(
                    f"the description of {seen[short]!r} is the opening of that of {seen[longer]!r} "
                    "in the generator's tokens; reword one of them, the end of the first could not be recognised"
                )
        if problems:
            raise LagamcError.from_problems("label descriptions", problems)

    @cached_property
    def branches(self) -> dict[tuple[int, ...], dict[int, list[int]]]:
        """Where descriptions part: opening tokens -> next token -> labels (bank positions) that go on with it.

        Only openings that leave more than one next token are listed; the empty opening always is. At the empty
        opening the end token is one more choice, which is not listed.
        """
        nodes: dict[tuple[int, ...], dict[int, list[int]]] = {}
        for label, ids in enumerate(self.token_ids):
            for position, token in enumerate(ids):
                nodes.setdefault(tuple(ids[:position]), {}).setdefault(token, []).append(label)
        return {opening: nexts for opening, nexts in nodes.items() if len(nexts) > 1 or not opening}

    @cached_property
    def decisions(self) -> list[list[bool]]:
        """For every label and token of its description: is there a choice before it?"""
        return [[tuple(ids[:i]) in self.branches for i in range(len(ids))] for ids in self.token_ids]

    def sort(self, labels: Iterable[int]) -> list[int]:
        """Label positions without duplicates, in the label order."""
        unique = list(dict.fromkeys(labels))
        return unique if self.order == "given" else sorted(unique, key=self.rank.__getitem__)

    def encode(self, labels: Iterable[int], max_length: int | None = None) -> tuple[Response, bool]:
        """The response for a set of labels.

        Args:
            labels: bank positions.
            max_length: tokens at most; a longer response loses its last descriptions, never half of one.

        Returns:
            the response, and whether it was cut.
        """
        ids: list[int] = []
        index: list[int] = []
        decisions: list[bool] = []
        clipped = False
        for label in self.sort(labels):
            if max_length is not None and len(ids) + len(self.token_ids[label]) + 1 > max_length:
                clipped = True
                break
            ids += self.token_ids[label]
            index += [label] * len(self.token_ids[label])
            decisions += self.decisions[label]
        return Response([*ids, self.end_token_id], [*index, END_OF_RESPONSE], [*decisions, True]), clipped

    def longest(self, label_sets: Iterable[Sequence[int]]) -> int:
        """Tokens of the longest response to any of the label sets, the end token included."""
        lengths = [len(ids) for ids in self.token_ids]
        return max((sum(lengths[label] for label in set(labels)) + 1 for labels in label_sets), default=1)

    @property
    def longest_description(self) -> int:
        """Tokens of the longest response with a single label, the end token included."""
        return self.longest([label] for label in range(len(self.token_ids)))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a response."""
        return decode_text(self.tokenizer, token_ids).strip()

    def round_trip(self, description: str) -> str:
        """The description as it reads after the generator's tokens: the form in which it can be generated."""
        return self.decode(self._encode(description))


def prompt_from(setting: str | dict[str, Any], instruction: str | None = None, task: str | None = None) -> Prompt:
    """A preset by name, or a prompt from its saved fields, with parts replaced where given.

    Raises:
        LagamcError: no preset has that name.
    """
    if isinstance(setting, str):
        if setting not in PROMPTS:
            raise LagamcError(f"prompt: expected one of {list(PROMPTS)}, found {setting!r}")
        prompt = PROMPTS[setting]
    else:
        prompt = Prompt(**setting)
    return replace(
        prompt,
        instruction=prompt.instruction if instruction is None else instruction,
        task_description=prompt.task_description if task is None else task,
    )


def strip_response(token_ids: Sequence[int], end_token_id: int, padding_id: int) -> list[int]:
    """A generated row without padding, the end token and what follows it."""
    kept: list[int] = []
    for token in token_ids:
        if token == end_token_id:
            break
        if token >= 0 and token != padding_id:
            kept.append(int(token))
    return kept
