"""The `lagamc` command and what follows it; `run_train.py` and `run_infer.py` open `train` and `predict`."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise

from lagamc import __version__
from lagamc.errors import LagamcError, without_tokens
from lagamc.usage import EXIT_CODES, HelpFormatter

# package -> the extra of setup.cfg that brings it
EXTRAS = {
    "matplotlib": "report",
    "gradio": "serve",
    "starlette": "serve",
    "openai": "describe",
    "requests": "describe",
}
MODEL_HELP = "output folder of run_train.py, or a model of the Hub: you/name or you/name@revision"


class _Parser(argparse.ArgumentParser):
    def __init__(self, prog: str, description: str):
        super().__init__(
            prog=prog,
            description=description,
            epilog=EXIT_CODES,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, arguments: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        for before, argument in pairwise(["", *arguments]):
            if not argument:
                self.error(f"expected a value{' after ' if before else ''}{before}, found an empty one")
        return super().parse_args(arguments)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise LagamcError(f"{message} (see {self.prog} --help)")


def train(arguments: Sequence[str], prog: str = "lagamc train") -> None:
    """`lagamc train`: trains a model on texts with labels and descriptions."""
    from lagamc.config import parse_arguments
    from lagamc.training import train as run

    quiet_libraries()
    run(parse_arguments(arguments, prog))


def predict(arguments: Sequence[str], prog: str = "lagamc predict") -> None:
    """`lagamc predict`: labels for every row of a file."""
    parser = _Parser(prog, "Predict labels for every text of a file, of any size; see the README on what it writes.")
    parser.add_argument("--model", required=True, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="JSONL or CSV (.gz too) or Parquet; - is the standard input"
    )
    parser.add_argument("--output", default="-", metavar="FILE", help="JSONL; - is the standard output")
    parser.add_argument("--text_column", default="text", help="column of the text")
    parser.add_argument("--id_column", default="id", help="column of the id")
    parser.add_argument(
        "--on_error",
        default="fail",
        choices=("fail", "skip"),
        help="a bad row stops the run, or goes to OUTPUT.errors.jsonl with its line and the reason",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped, if there is one")
    parser.add_argument(
        "--decide_by",
        default="scores",
        choices=("scores", "generated"),
        help="labels by probability and threshold, or by the generated descriptions",
    )
    parser.add_argument(
        "--scores",
        choices=("accurate", "fast", "none"),
        help="probabilities by generator and encoders, by the encoders alone, or none, which decides by the generated "
        "descriptions; default: the better of the first two on the development rows",
    )
    parser.add_argument("--top_k", type=positive, help="at most so many labels; alone, exactly the most probable ones")
    parser.add_argument(
        "--decoding",
        choices=("exact", "constrained", "generate"),
        help="how descriptions are written; default: the model's",
    )
    parser.add_argument(
        "--batch_size", type=_batch_size, default="auto", help="texts computed at a time; auto: halved out of memory"
    )
    _add_prediction_settings(parser)
    options = parser.parse_args(arguments)
    if options.input != "-" and not os.path.isfile(options.input):
        there = os.path.exists(options.input)
        found = "is no regular file; expected one, or - for the standard input" if there else "no such input file"
        raise LagamcError(f"{options.input}: {found}")
    decided = [name for name in ("goal", "threshold", "top_k") if getattr(options, name) is not None]
    if decided and (options.decide_by == "generated" or options.scores == "none"):
        raise LagamcError(f"--{decided[0]} picks labels by their scores, which are not asked for here; leave it out")
    _check_thresholds(options)

    from lagamc.streaming import predict_from_options

    quiet_libraries()
    predict_from_options(options)


def evaluate(arguments: Sequence[str], prog: str = "lagamc evaluate") -> None:
    """`lagamc evaluate`: figures of a model on labelled examples, as JSON; tunes its thresholds where asked to."""
    parser = _Parser(prog, "Measure a model on labelled examples and print the figures as JSON.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("file", metavar="FILE", help="labelled examples: JSONL, CSV or Parquet")
    parser.add_argument("--text_column", default="text", help="column of the text")
    parser.add_argument("--labels_column", default="labels", help="column of the labels")
    parser.add_argument("--unlabelled", default="keep", choices=("error", "keep", "drop"), help="rows without labels")
    parser.add_argument("--batch_size", type=positive, default=32, help="texts computed at a time")
    parser.add_argument("--scores", choices=("accurate", "fast"), help="how labels are scored; default: the model's")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="calibrate and tune the thresholds on these examples first, for --goal where it is given, which the "
        "model decides by from then on; write them into the model folder and card",
    )
    _add_prediction_settings(parser)
    options = parser.parse_args(arguments)
    for name in ("labels", "window_stride"):
        if options.tune and getattr(options, name) is not None:
            raise LagamcError(f"--tune writes into the model, which has its own {name}; leave out --{name} or --tune")
    _check_thresholds(options)

    from lagamc.evaluation import evaluate_from_options

    quiet_libraries()
    evaluate_from_options(options)


def show(arguments: Sequence[str], prog: str = "lagamc show") -> None:
    """`lagamc show`: a table of texts, predicted labels and generated descriptions."""
    parser = _Parser(prog, "Print predictions beside their texts.")
    parser.add_argument("predictions", metavar="PREDICTIONS", help="JSONL that run_infer.py or lagamc predict wrote")
    parser.add_argument("--input", required=True, metavar="FILE", help="what they were made from")
    parser.add_argument("--text_column", default="text", help="column of the text")
    parser.add_argument("--limit", type=positive, default=None, help="shows the first so many rows")
    options = parser.parse_args(arguments)

    from lagamc.data import Columns
    from lagamc.reports import prediction_table

    print(prediction_table(options.predictions, options.input, Columns(text=options.text_column), options.limit))


def report(arguments: Sequence[str], prog: str = "lagamc report") -> None:
    """`lagamc report`: one HTML page with tables, plots and worst errors of a finished run."""
    parser = _Parser(prog, "Write the report of a finished training run: an HTML page, and its plots as PNGs.")
    parser.add_argument("run", metavar="RUN", help="output folder of run_train.py")
    parser.add_argument("--output", default=None, metavar="FOLDER", help="where; default: RUN/report")
    options = parser.parse_args(arguments)

    from lagamc.report_page import write_report

    print(f"the report is {write_report(options.run, options.output)}; it holds texts of the data set")


def serve(arguments: Sequence[str], prog: str = "lagamc serve") -> None:
    """`lagamc serve`: a page to try a model, for this machine alone unless --host says otherwise."""
    parser = _Parser(prog, "Show a page to try a model: texts, thresholds, labels, files. Stop it with Ctrl-C.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; there is no password")
    parser.add_argument("--port", type=_port, default=7860, help="port to listen on")
    parser.add_argument(
        "--examples", default=None, metavar="FILE", help="texts to choose from; default: test rows of the run"
    )
    _add_device(parser)
    options = parser.parse_args(arguments)

    from lagamc.serving import serve as run

    quiet_libraries()
    run(options.model, options.host, options.port, options.device, options.examples, options.trust_remote_code)


def describe(arguments: Sequence[str], prog: str = "lagamc describe") -> None:
    """`lagamc describe`: writes label descriptions from label names and training examples."""
    parser = _Parser(
        prog,
        "Write a label bank: a description of every label, from its definition in Wikipedia, two training examples "
        "and a chat model; or, with --offline, from its name and the words of its texts.",
    )
    parser.add_argument("file", metavar="FILE", help="training examples with labels: JSONL, CSV or Parquet")
    parser.add_argument("--output", metavar="FILE", help="label bank to write, JSON; must not be there yet")
    parser.add_argument("--names", metavar="FILE", help="label names, one a line; default: those of the examples")
    parser.add_argument("--text_column", default="text", help="column of the text")
    parser.add_argument("--labels_column", default="labels", help="column of the labels")
    parser.add_argument("--model", help="chat model at the endpoint")
    parser.add_argument(
        "--base_url", help="endpoint that speaks OpenAI's protocol; default: $OPENAI_BASE_URL, or OpenAI's own"
    )
    parser.add_argument(
        "--dataset", default="Contains texts and corresponding label annotations.", help="what the data set contains"
    )
    parser.add_argument("--text_name", default="Text", help="what one of its texts is called: Tweet, Abstract, ...")
    parser.add_argument(
        "--wikipedia_url", default="https://en.wikipedia.org", help="where definitions come from; none: nowhere"
    )
    parser.add_argument("--max_words", type=positive, default=60, help="of a description")
    parser.add_argument("--sentence_encoder", help="that must tell descriptions apart; default: the embedded MiniLM")
    parser.add_argument("--offline", action="store_true", help="write skeletons; nobody is asked")
    parser.add_argument("--dry_run", action="store_true", help="print the prompts and their number; nobody is asked")
    options = parser.parse_args(arguments)
    if options.offline and options.dry_run:
        raise LagamcError("describe: --offline asks nothing, so there are no prompts for --dry_run to show")
    if not options.output and not options.dry_run:
        raise LagamcError("describe: expected --output FILE, the label bank to write, such as labels.json")
    if options.output and not options.output.endswith(".json"):
        raise LagamcError(f"describe: --output: expected a name that ends in .json, found {options.output!r}")
    if not (options.model or options.offline or options.dry_run):
        raise LagamcError("describe: expected --model NAME, a chat model; or --offline, or --dry_run")

    from lagamc.describe import run

    quiet_libraries()
    run(options, lambda line: print(line, file=sys.stderr))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "show": show,
    "report": report,
    "serve": serve,
    "describe": describe,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The `lagamc` command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    usage = f"usage: lagamc {{{','.join(COMMANDS)}}} ..., or --version\n\n{EXIT_CODES}"
    if words and words[0] in ("-h", "--help"):
        lines = [f"  {name:10} {(command.__doc__ or '').split(': ', 1)[-1]}" for name, command in COMMANDS.items()]
        print("\n".join([usage, "", *lines]))
        return 0
    if words == ["--version"]:
        print(f"lagamc {__version__}")
        return 0
    if not words or words[0] not in COMMANDS:
        found = f"found {words[0]!r}" if words else "found none"
        return _fail(LagamcError(f"lagamc: expected a command, one of {', '.join(COMMANDS)}, {found}\n{usage}"))
    return guarded(lambda: COMMANDS[words[0]](words[1:]))


def guarded(action: Callable[[], None], extra: str = "embedded") -> int:
    """Runs a command and turns its errors into messages and exit codes.

    Args:
        action: the command.
        extra: of setup.cfg, which brings a missing package that `EXTRAS` does not name.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal has no characters for is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        action()
        sys.stdout.flush()
    except LagamcError as error:
        return _fail(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "lagamc":
            raise
        extra = EXTRAS.get((error.name or "").partition(".")[0], extra)
        return _fail(
            LagamcError(
                f"the package {error.name!r} is not installed in {sys.prefix}; run `make install` and activate its "
                f"environment (`source .venv/bin/activate`), or `pip install .[{extra}]`"
            )
        )
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ENOSPC):
            return _failure()
        return _fail(LagamcError(f"{error.filename or 'the output'}: {error.strerror}; name another place"))
    except Exception:
        return _failure()
    return 0


def _failure() -> int:
    traceback.print_exc()
    print("this is a failure of lagamc, not of your input; please report it with the lines above", file=sys.stderr)
    return 1


def quiet_libraries() -> None:
    """Leaves out the bars that `transformers` shows for every file it reads or writes; ours stay."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _fail(error: LagamcError) -> int:
    print(f"error: {without_tokens(str(error))}", file=sys.stderr)
    return 2


def positive(text: str) -> int:
    with suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text!r}")


def _count(text: str) -> int:
    if text != "0" and not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, found {text!r}")
    return int(text)


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else positive(text)


def _probability(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a probability from 0 to 1, found {text!r}")


def _port(text: str) -> int:
    with suppress(ValueError):
        if 0 < int(text) < 2**16:
            return int(text)
    raise argparse.ArgumentTypeError(f"expected 1 to {2**16 - 1}, found {text!r}")


def _add_prediction_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", metavar="FILE", help="label bank in place of the model's; nothing is retrained")
    parser.add_argument(
        "--goal",
        metavar="GOAL",
        help="micro_f1, macro_f1 or precision>=x: takes the thresholds that were tuned for it",
    )
    parser.add_argument("--threshold", type=_probability, help="one probability for all labels in place of tuned ones")
    parser.add_argument(
        "--window_stride",
        type=_count,
        metavar="TOKENS",
        help="read texts longer than the model's input in windows that begin so far apart; 0: cut them; default: the "
        "model's setting",
    )
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the weights in memory"
    )
    _add_device(parser)


def _check_thresholds(options: argparse.Namespace) -> None:
    if options.goal is not None and options.threshold is not None:
        raise LagamcError("--threshold takes the place of the thresholds tuned for a --goal; give one of the two")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default=None, help="cpu, cuda, ...; default: a GPU where there is one")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="let Python code that comes with the base model run"
    )


if __name__ == "__main__":
    sys.exit(main())
