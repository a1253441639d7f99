"""The command line: `lagamc train, evaluate, predict, show`; `run_train.py` and `run_infer.py` open the same."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from lagamc.errors import LagamcError

EXIT_CODES = "exit codes: 0 done, 2 bad input or usage, 1 a failure of ours"


class _Parser(argparse.ArgumentParser):
    def __init__(self, prog: str, description: str):
        super().__init__(
            prog=prog,
            description=description,
            epilog=EXIT_CODES,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> None:  # type: ignore[override]
        raise LagamcError(f"{message} (see {self.prog} --help)")


def train(arguments: Sequence[str], prog: str = "lagamc train") -> None:
    """`lagamc train`: trains a model; see `lagamc.training.train`."""
    from lagamc.config import parse_arguments
    from lagamc.training import train as run

    quiet_libraries()
    run(parse_arguments(arguments, prog))


def predict(arguments: Sequence[str], prog: str = "lagamc predict") -> None:
    """`lagamc predict`: labels for every row of a file."""
    parser = _Parser(prog, "Predict labels for every text of a file.")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="output folder of run_train.py")
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="JSONL, CSV or Parquet; - is the standard input"
    )
    parser.add_argument("--output", default="-", metavar="FILE", help="JSONL; - is the standard output")
    parser.add_argument("--text_column", default="text", help="column of the text")
    parser.add_argument("--id_column", default="id", help="column of the id")
    parser.add_argument(
        "--decide_by",
        default="scores",
        choices=("scores", "generated"),
        help="labels by probability and threshold, or by the generated descriptions",
    )
    parser.add_argument("--batch_size", type=_positive, default=32, help="texts computed at a time")
    _add_device(parser)
    options = parser.parse_args(arguments)
    if options.input != "-" and not os.path.isfile(options.input):
        raise LagamcError(f"{options.input}: no such input file")

    from lagamc.classifier import LagamcClassifier
    from lagamc.data import Columns, check_ending
    from lagamc.streaming import check_target, predict_file

    quiet_libraries()
    check_target(options.output, options.input)
    if options.input != "-":
        check_ending(options.input)
    classifier = LagamcClassifier.from_pretrained(options.model, options.device)
    summary = predict_file(
        classifier,
        options.input,
        options.output,
        Columns(text=options.text_column, id=options.id_column),
        decide_by=options.decide_by,
        batch_size=options.batch_size,
    )
    print(summary, file=sys.stderr)


def evaluate(arguments: Sequence[str], prog: str = "lagamc evaluate") -> None:
    """`lagamc evaluate`: figures of a model on labelled examples, as JSON; tunes its thresholds where asked to."""
    parser = _Parser(prog, "Measure a model on labelled examples and print the figures as JSON.")
    parser.add_argument("model", metavar="MODEL", help="output folder of run_train.py")
    parser.add_argument("file", metavar="FILE", help="labelled examples: JSONL, CSV or Parquet")
    parser.add_argument("--text_column", default="text", help="column of the text")
    parser.add_argument("--labels_column", default="labels", help="column of the labels")
    parser.add_argument("--unlabelled", default="keep", choices=("error", "keep", "drop"), help="rows without labels")
    parser.add_argument("--batch_size", type=_positive, default=32, help="texts computed at a time")
    parser.add_argument("--scores", choices=("accurate", "fast"), help="how labels are scored; default: the model's")
    parser.add_argument("--goal", metavar="GOAL", help="thresholds tuned for micro_f1, macro_f1 or precision>=x")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="calibrate and tune the thresholds on these examples first, and write them into the model folder",
    )
    _add_device(parser)
    options = parser.parse_args(arguments)

    from lagamc.artifact import LABELS_FILE, read_config, write_config
    from lagamc.classifier import LagamcClassifier
    from lagamc.data import Columns, read_examples
    from lagamc.labels import LabelBank
    from lagamc.training import evaluate as run

    quiet_libraries()
    read_config(options.model)
    bank = LabelBank.from_json(os.path.join(options.model, LABELS_FILE))
    columns = Columns(options.text_column, options.labels_column)
    examples = read_examples(options.file, bank, columns, options.unlabelled)
    classifier = LagamcClassifier.from_pretrained(options.model, options.device)
    settings = {"batch_size": options.batch_size, "progress": "evaluating"}
    figures = {}
    if options.tune:
        texts, labels = [e.text for e in examples], [e.labels for e in examples]
        figures["tuned"] = classifier.tune(texts, labels, options.goal, options.batch_size, "tuning thresholds")
        try:
            write_config(options.model, classifier.current_config())
        except OSError as error:
            raise LagamcError(f"{options.model}: thresholds cannot be written ({error.strerror})") from error
    figures |= run(classifier, examples, scores=options.scores, goal=options.goal, **settings)
    print(json.dumps(figures, indent=1, ensure_ascii=False))


def show(arguments: Sequence[str], prog: str = "lagamc show") -> None:
    """`lagamc show`: a table of texts, predicted labels and generated descriptions."""
    parser = _Parser(prog, "Print predictions beside their texts.")
    parser.add_argument("predictions", metavar="PREDICTIONS", help="JSONL that run_infer.py wrote")
    parser.add_argument("--input", required=True, metavar="FILE", help="what they were made from")
    parser.add_argument("--text_column", default="text", help="column of the text")
    parser.add_argument("--limit", type=_positive, default=None, help="the first rows alone")
    options = parser.parse_args(arguments)

    from lagamc.data import Columns
    from lagamc.reports import prediction_table

    print(prediction_table(options.predictions, options.input, Columns(text=options.text_column), options.limit))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "show": show,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The `lagamc` command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    usage = f"usage: lagamc {{{','.join(COMMANDS)}}} ...\n\n{EXIT_CODES}"
    if words and words[0] in ("-h", "--help"):
        lines = [f"  {name:10} {(command.__doc__ or '').split(': ', 1)[-1]}" for name, command in COMMANDS.items()]
        print("\n".join([usage, "", *lines]))
        return 0
    if not words or words[0] not in COMMANDS:
        found = f"found {words[0]!r}" if words else "found none"
        return _fail(LagamcError(f"lagamc: expected a command, one of {', '.join(COMMANDS)}, {found}\n{usage}"))
    return guarded(lambda: COMMANDS[words[0]](words[1:]))


def guarded(action: Callable[[], None]) -> int:
    """Runs a command and turns its errors into messages and exit codes."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        action()
    except LagamcError as error:
        return _fail(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "lagamc":
            raise
        return _fail(
            LagamcError(
                f"the package {error.name!r} is not installed in {sys.prefix}; run `make install` and activate its "
                "environment (`source .venv/bin/activate`), or `pip install .[embedded]`"
            )
        )
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        traceback.print_exc()
        print("this is a failure of lagamc, not of your input; please report it with the lines above", file=sys.stderr)
        return 1
    return 0


def quiet_libraries() -> None:
    """Leaves out the bars that `transformers` shows for every file it reads or writes; ours stay."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _fail(error: LagamcError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text}")
    return value


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default=None, help="cpu, cuda, ...; default: a GPU where there is one")


if __name__ == "__main__":
    sys.exit(main())
