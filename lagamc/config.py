"""Model and data arguments; YAML files with command-line overrides; all problems reported at once."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, NoReturn, get_args, get_type_hints

from transformers import HfArgumentParser
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from lagamc.errors import LagamcError, not_between, outside
from lagamc.losses import LAMBDA_MODES, RETRIEVAL_POOLING, RETRIEVAL_READERS, SEMANTIC_FORMS, SOFT_TOKENS
from lagamc.plain_yaml import read_plain_yaml
from lagamc.prompts import LABEL_ORDERS, PROMPTS
from lagamc.training_args import LagamcTrainingArguments, checkpointing_problems, training_problems
from lagamc.usage import EXIT_CODES, HelpFormatter

UNLABELLED = ("error", "keep", "drop")
SOURCES = ("data_dir", "train_file", "dataset_name")  # of the rows: one of them is named
WITH_A_SOURCE = ("dev_file", "test_file", "dataset_config", "dataset_revision")


@dataclass
class ModelArguments:
    """Generator, sentence encoder and loss."""

    _argument_group_name = "model and loss"

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Generator, encoder-decoder or decoder-only: a folder or a Hub name; default: the embedded MiniLM."
        },
    )
    model_revision: str | None = field(default=None, metadata={"help": "Revision of the generator on the Hub."})
    sentence_encoder: str | None = field(
        default=None, metadata={"help": "Sentence encoder: a folder or a Hub name; default: the embedded MiniLM."}
    )
    sentence_encoder_revision: str | None = field(default=None, metadata={"help": "Its revision on the Hub."})
    train_sentence_encoder: bool = field(default=True, metadata={"help": "Whether the sentence encoder is trained."})
    sentence_encoder_share: float = field(
        default=0.8,
        metadata={
            "help": "Share of the trained weights in the final sentence encoder, the rest are those it started from, "
            "which serve rare labels."
        },
    )
    unseen_encoder_share: float = field(
        default=0.25,
        metadata={
            "help": "The same of a copy that scores labels without a training row and labels added later: training "
            "takes the sentence encoder away from what it does not see. The same value as sentence_encoder_share "
            "makes no copy."
        },
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether Python code that comes with the base model may run."}
    )
    license: str | None = field(
        default=None, metadata={"help": "Licence named in the model card, such as mit; default: the base model's."}
    )
    decoder_layers: int = field(default=2, metadata={"help": "Decoder layers of the embedded generator, 1 to 6."})
    lora: bool | None = field(
        default=None,
        metadata={"help": "Whether to train LoRA adapters; default: yes, except for the embedded generator."},
    )
    lora_rank: int = field(default=2, metadata={"help": "Rank of the adapters (the paper takes 2)."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Scale of the adapters; default: twice the rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapters' input."})
    lora_targets: str | None = field(
        default=None, metadata={"help": "Adapted layers, separated by commas; default: by architecture (T5: q,v)."}
    )
    label_vocabulary: bool = field(
        default=True, metadata={"help": "Whether the softmax ranges over the tokens of the descriptions alone."}
    )
    decision_weight: float = field(
        default=10.0, metadata={"help": "Weight of the tokens at which labels part, relative to the forced ones."}
    )
    semantic_form: str = field(
        default="response", metadata={"help": f"Semantic term of the loss: {', '.join(SEMANTIC_FORMS)}."}
    )
    soft_tokens: str = field(default="softmax", metadata={"help": f"{', '.join(SOFT_TOKENS)}."})
    temperature: float = field(default=1.0, metadata={"help": "Temperature of the soft tokens."})
    final_temperature: float | None = field(
        default=None, metadata={"help": "Where the temperature is led to over the run; default: it stays."}
    )
    semantic_share: float = field(
        default=1.0,
        metadata={"help": "Share of a batch's rows (one at least) on which the semantic term is taken in training."},
    )
    retrieval_weight: float = field(
        default=0.3,
        metadata={
            "help": "Weight of the retrieval term (text against all descriptions), added to cross-entropy; 0: off."
        },
    )
    retrieval_readers: str = field(
        default="both",
        metadata={
            "help": "What reads the text in the retrieval term: both, the generator's and the sentence encoder, "
            "or the generator alone, which is faster and less accurate."
        },
    )
    retrieval_pooling: str = field(
        default="attention",
        metadata={
            "help": "How the generator's reading of a text is summed up for retrieval: attention, for each label most "
            "of what is near to its description, or the mean."
        },
    )
    text_dropout: float = field(
        default=0.1,
        metadata={"help": "Dropout of the sentence encoder while it reads a text in training; none elsewhere."},
    )
    lexical: bool = field(
        default=True,
        metadata={
            "help": "Whether the words of a text, by a logistic regression for each label, are a source of scores."
        },
    )
    bank_sample: int | None = field(
        default=None,
        metadata={
            "help": "Descriptions drawn at random that a step compares with beside those of its labels; default: all. "
            "For banks of several hundred labels and more."
        },
    )
    lambda_mode: str = field(default="learnable", metadata={"help": f"{', '.join(LAMBDA_MODES)}."})
    lambda_initial: float = field(default=0.5, metadata={"help": "Lambda at the start (share of cross-entropy)."})
    lambda_minimum: float = field(default=0.1, metadata={"help": "How near a learnable lambda comes to 0 and 1."})
    minimum_similarity: float | None = field(
        default=None,
        metadata={"help": "Generated sentences less similar than this to every description get no label."},
    )
    beam: int = field(default=8, metadata={"help": "Label sets followed per text when labels are scored."})

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = outside("semantic_form", self.semantic_form, SEMANTIC_FORMS)
        found += outside("soft_tokens", self.soft_tokens, SOFT_TOKENS)
        found += outside("retrieval_readers", self.retrieval_readers, RETRIEVAL_READERS)
        found += outside("retrieval_pooling", self.retrieval_pooling, RETRIEVAL_POOLING)
        found += outside("lambda_mode", self.lambda_mode, LAMBDA_MODES)
        found += not_between("temperature", self.temperature, 1e-3, 100)
        if self.final_temperature is not None:
            found += not_between("final_temperature", self.final_temperature, 1e-3, 100)
        found += not_between("semantic_share", self.semantic_share, 0.01, 1.0)
        found += not_between("sentence_encoder_share", self.sentence_encoder_share, 0.0, 1.0)
        found += not_between("unseen_encoder_share", self.unseen_encoder_share, 0.0, 1.0)
        found += not_between("retrieval_weight", self.retrieval_weight, 0.0, 1e3)
        found += not_between("text_dropout", self.text_dropout, 0.0, 0.99)
        if self.bank_sample is not None:
            found += not_between("bank_sample", self.bank_sample, 1, 10**6)
        found += not_between("decision_weight", self.decision_weight, 1e-3, 1e6)
        found += not_between("lambda_minimum", self.lambda_minimum, 0.0, 0.49)
        low = {"learnable": self.lambda_minimum + 1e-3, "uncertainty": 1e-3}.get(self.lambda_mode, 0.0)
        found += not_between("lambda_initial", self.lambda_initial, low, 1.0 - low)
        found += not_between("lora_rank", self.lora_rank, 1, 1024)
        if self.lora_alpha is not None:
            found += not_between("lora_alpha", self.lora_alpha, 1, 10**6)
        found += not_between("lora_dropout", self.lora_dropout, 0.0, 0.99)
        found += not_between("decoder_layers", self.decoder_layers, 1, 6)
        found += not_between("beam", self.beam, 1, 256)
        if self.minimum_similarity is not None:
            found += not_between("minimum_similarity", self.minimum_similarity, -1.0, 1.0)
        if self.lora and self.model_name_or_path is None:
            found.append("lora: the embedded generator is trained whole; set `lora: false` or name a model")
        return found


@dataclass
class DataArguments:
    """Texts, labels and how they become tokens."""

    _argument_group_name = "data"

    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder with train.jsonl, dev.jsonl, test.jsonl and labels.json; `demo` is the built-in one."
        },
    )
    train_file: str | None = field(default=None, metadata={"help": "Training examples: JSONL, CSV or Parquet."})
    dev_file: str | None = field(
        default=None, metadata={"help": "Development examples; absent: carved from training."}
    )
    test_file: str | None = field(default=None, metadata={"help": "Test examples; optional."})
    labels_file: str | None = field(default=None, metadata={"help": "Label bank: JSON or CSV."})
    dataset_name: str | None = field(default=None, metadata={"help": "A `datasets` data set: Hub name or folder."})
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Its revision on the Hub."})
    text_column: str = field(default="text", metadata={"help": "Column of the text."})
    labels_column: str = field(default="labels", metadata={"help": "Column of the labels."})
    id_column: str = field(default="id", metadata={"help": "Column of the id."})
    unlabelled: str = field(
        default="error", metadata={"help": "Rows without labels: `error`, `keep` (no label is an answer) or `drop`."}
    )
    dev_fraction: float = field(default=0.1, metadata={"help": "Share of training carved out where dev is absent."})
    max_train_rows: int | None = field(default=None, metadata={"help": "Reads the first training rows alone."})
    max_dev_rows: int | None = field(default=None, metadata={"help": "Reads the first development rows alone."})
    max_test_rows: int | None = field(default=None, metadata={"help": "Reads the first test rows alone."})
    repeat_threshold: float = field(
        default=0.01,
        metadata={
            "help": "Share of the training rows below which a label is rare: a row comes sqrt(threshold / share) "
            "times in each epoch, by the share of its rarest label. The threshold is lowered where an epoch would be "
            "more than a quarter longer; 0: every row once."
        },
    )
    prompt: str = field(default="plain", metadata={"help": f"Wording of the prompt: {', '.join(PROMPTS)}."})
    instruction: str | None = field(default=None, metadata={"help": "Replaces the instruction of the prompt."})
    task_description: str | None = field(default=None, metadata={"help": "Replaces its task description."})
    label_order: str = field(default="bank", metadata={"help": f"Order of a row's labels: {', '.join(LABEL_ORDERS)}."})
    atomic_labels: bool = field(
        default=False, metadata={"help": "Bare label names in place of descriptions (paper, section 7.2)."}
    )
    max_input_length: int = field(default=128, metadata={"help": "Tokens of prompt and text; the text is cut."})
    window_stride: int = field(
        default=0,
        metadata={
            "help": "Read texts longer than that in windows that begin so many tokens apart, label scores merged by "
            "maximum; 0: they are cut."
        },
    )
    max_response_length: int | None = field(
        default=None, metadata={"help": "Tokens of a response; default: what the largest label set needs."}
    )

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = outside("unlabelled", self.unlabelled, UNLABELLED)
        found += outside("prompt", self.prompt, tuple(PROMPTS))
        found += outside("label_order", self.label_order, LABEL_ORDERS)
        found += not_between("dev_fraction", self.dev_fraction, 0.001, 0.9)
        found += not_between("repeat_threshold", self.repeat_threshold, 0, 1)
        found += not_between("max_input_length", self.max_input_length, 8, 100_000)
        found += not_between("window_stride", self.window_stride, 0, self.max_input_length)
        for name in ("max_train_rows", "max_dev_rows", "max_test_rows", "max_response_length"):
            if getattr(self, name) is not None:
                found += not_between(name, getattr(self, name), 1, 10**9)
        sources = [name for name in SOURCES if getattr(self, name)]
        if len(sources) != 1:
            found.append(
                f"expected one of data_dir, train_file or dataset_name, found {sources or 'none'}; "
                "`--data_dir demo` trains on the built-in demonstration corpus"
            )
        unread = ("dev_file", "test_file") if self.dataset_name else ("dataset_config", "dataset_revision")
        where = "with train_file or data_dir" if self.dataset_name else "with dataset_name"
        found += [f"{name}: expected {where} alone" for name in unread if getattr(self, name)]
        if self.train_file and not self.labels_file:
            found.append("train_file needs labels_file, a JSON or CSV file with a description for each label")
        return found


Arguments = tuple[ModelArguments, DataArguments, LagamcTrainingArguments]


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise LagamcError(message)


def parse_arguments(arguments: Sequence[str] | None = None, prog: str | None = None) -> Arguments:
    """Reads `--config FILE.yaml`, then the command line, which overrides it: a source of rows there, such as
    `--train_file`, takes the place of the file's.

    Args:
        arguments: the command line without the program's name.
        prog: the name shown in the help.

    Raises:
        LagamcError: one message with every unknown key and every bad value.
    """
    parser = _Parser(
        (ModelArguments, DataArguments, LagamcTrainingArguments),  # type: ignore[arg-type]
        prog=prog,
        description="Fine-tune a generator that writes label descriptions, and the encoder that matches them.",
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of the settings below")
    rest = list(arguments or [])
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("config", *SOURCES):
        early.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))
    first, others = early.parse_known_args(rest)
    path = first.config
    problems: list[str] = []
    from_file = _read_yaml(parser, path, problems) if path else {}
    sources = [name for name in SOURCES if getattr(first, name)]
    if sources and not any(from_file.get(name) for name in sources):  # another kind than the file's
        for name in (*SOURCES, *WITH_A_SOURCE):
            from_file.pop(name, None)
    parser.set_defaults(**from_file)
    namespace, unknown = parser.parse_known_args(rest)
    problems += [f"unknown argument {name}{_suggest(parser, name)}" for name in unknown if name.startswith("-")]
    problems += [f"unexpected argument {name!r}" for name in unknown if not name.startswith("-")]
    values = vars(namespace)

    parsed: list[Any] = []
    for kind in (ModelArguments, DataArguments):
        fields = {f.name: values[f.name] for f in dataclasses.fields(kind)}
        parsed.append(kind(**fields))
        problems += parsed[-1].problems()
    training = _training_arguments(values, problems)
    if problems:
        places = [*([path] if path else []), *(["command line"] if others or sources or not path else [])]
        raise LagamcError.from_problems(" and ".join(places), problems)
    assert training is not None
    return parsed[0], parsed[1], training


def _read_yaml(parser: HfArgumentParser, path: str, problems: list[str]) -> dict[str, Any]:
    """Values of a YAML file, typed as the command line types them; what is wrong is added to the problems."""
    values = read_plain_yaml(path)
    known = {action.dest for action in parser._actions}
    optional = {
        name
        for kind in (ModelArguments, DataArguments, LagamcTrainingArguments)
        for name, hint in get_type_hints(kind).items()
        if NoneType in get_args(hint)
    }
    typed: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known or key in ("config", "help"):
            problems.append(f"unknown key {key!r}{_suggest(parser, str(key))}")
        elif value is None and key in optional:
            typed[key] = None
        elif value is None:
            problems.append(f"{key}: expected a value, found nothing; leave the line out for the default")
        else:
            action = next(action for action in parser._actions if action.dest == key)
            if isinstance(value, (list, dict)) and action.nargs not in ("*", "+"):
                problems.append(f"{key}: expected one value, found {type(value).__name__} {value!r:.60}")
                continue
            words = [str(v) for v in value] if isinstance(value, list) else [str(value)]
            try:
                typed[key] = getattr(parser.parse_known_args([f"--{key}", *words])[0], key)
            except LagamcError as error:
                problems.append(str(error))
    return typed


def _training_arguments(values: dict[str, Any], problems: list[str]) -> LagamcTrainingArguments | None:
    fields = {f.name: values[f.name] for f in dataclasses.fields(LagamcTrainingArguments) if f.init}
    problems += training_problems(fields)
    try:
        training = LagamcTrainingArguments(**fields)
        for callback in get_reporting_integration_callbacks(training.report_to):
            callback()  # it says which package it lacks
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        problems.append(str(error))
        return None
    problems += checkpointing_problems(training)
    return training


def _suggest(parser: HfArgumentParser, name: str) -> str:
    name, known = name.lstrip("-").split("=")[0], [action.dest for action in parser._actions]
    # what ends alike first: the batch size is per_device_train_batch_size
    close = [one for one in known if one.endswith(f"_train_{name}")] or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
