"""Prediction over files of any size: in windows, in input order, across stops and processes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from tqdm.auto import tqdm

from lagamc.artifact import CARD_FILE, find_artifact, published_files, read_config
from lagamc.batches import Report
from lagamc.checkpoints import left_by_run
from lagamc.classifier import LagamcClassifier
from lagamc.data import Columns, Example
from lagamc.decisions import UNTUNED
from lagamc.errors import LagamcError
from lagamc.inputs import BadRow, InputCheck, check_input, file_state, fingerprint, input_name, read_inputs, windows
from lagamc.labels import LabelBank
from lagamc.outputs import ERRORS, PredictionSummary, StreamOutput, check_target, is_stream
from lagamc.predictions import Prediction
from lagamc.processes import Processes, find_processes, join
from lagamc.rows import STANDARD_STREAM, check_ending
from lagamc.thresholds import usual_goal
from lagamc.training_args import use_all_cores
from lagamc.unfinished import Part, WorkFolder

WINDOW = 1024  # rows that are sorted by length at a time
WINDOW_SCORES = 4_000_000  # of a window at most
FIRST_BATCH = {"cpu": 32, "cuda": 256}  # of an automatic batch size
FORMAT = 1  # of the unfinished work
Predict = Callable[[list[str], Report], Sequence[Prediction]]


class PredictionJob:
    """One run over a file. What can be checked without a model is checked when it is made.

    Args:
        source: JSONL, CSV or Parquet; `-` reads JSONL from the standard input.
        target: JSONL; `-` writes to the standard output.
        columns: where text and id stand.
        on_error: a bad row stops the run (`fail`), or goes to `<target>.errors.jsonl` (`skip`).
        resume: goes on with a run that was stopped; there may be none.
        identity: what the predictions depend on beside the input; a run without it cannot be resumed.
        processes: that share the input.

    Raises:
        LagamcError: the input is bad, the output cannot be written, or there is nothing to resume.
    """

    def __init__(
        self,
        source: str,
        target: str,
        columns: Columns | None = None,
        on_error: str = "fail",
        resume: bool = False,
        identity: Mapping[str, Any] | None = None,
        processes: Processes | None = None,
    ):
        self.source, self.target, self.columns = source, target, columns or Columns()
        self.on_error, self.processes = on_error, processes or Processes()
        self.check: InputCheck | None = None
        self.work: WorkFolder | None = None
        self._output: Part | StreamOutput | None = None
        streams = [name for name in (source, target) if name == STANDARD_STREAM or is_stream(name)]
        if self.processes.is_main:  # the launcher stops the others where it fails
            if streams and self.processes.count > 1:
                raise LagamcError(
                    f"{self.processes.count} processes cannot share {streams[0]!r}; give files, or run one process"
                )
            if streams and resume:
                raise LagamcError(f"resume: needs an input and an output file, found {streams[0]!r}")
            check_target(target, source)
            if source != STANDARD_STREAM:
                self.check = check_input(source, self.columns, on_error)
            if not is_stream(target):
                WorkFolder(target).make()
        self.processes.wait()
        self._resumable = identity is not None and not streams
        if not is_stream(target):
            self._begin(identity or {}, resume)
        if self.check is not None and self.check.rows == self.check.bad:
            with self:
                self.run(lambda *_: [], "no model", progress=False)

    def _begin(self, identity: Mapping[str, Any], resume: bool) -> None:
        self.work = WorkFolder(self.target)
        self._output = Part(self.work, self.processes.index)
        self._output.lock()
        try:
            if self.processes.is_main:
                shown = self.check.fingerprint if self.check is not None and self._resumable else None
                whole: dict[str, Any] = {
                    "format": FORMAT,
                    "input": shown,
                    "processes": self.processes.count,
                    "settings": {},
                }
                self.work.begin({**whole, **identity}, resume)
            self.processes.wait()
            self._output.open()
        except BaseException:
            self._output.close()
            if self.processes.count == 1 and not self.work.has_progress():
                self.work.discard()
            raise

    def __enter__(self) -> PredictionJob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._output is not None:
            self._output.close()
        if kind is None or self.work is None or self._output is None or not self.work.folder.is_dir():
            return
        if self._output.windows and self._resumable:
            if self.processes.is_main:
                done = self._output.summary
                print(
                    f"{done.rows + done.failures} rows are done and kept in {self.work.folder}; "
                    "the same command with --resume goes on behind them",
                    file=sys.stderr,
                )
        elif self.processes.count == 1:
            self.work.discard()

    def run(self, predict: Predict, title: str = "", window: int = WINDOW, progress: bool = True) -> PredictionSummary:
        """Predicts what is not done yet and puts the output into place.

        Args:
            predict: predictions for the texts of a window, in order; tells how many are finished meanwhile.
            title: of the progress bar.
            window: rows at a time; the same when a run is resumed.
            progress: whether a bar is shown on the standard error.

        Returns:
            counts of the whole run; of the process's own part where it is not the main one.

        Raises:
            LagamcError: a row is bad, the input has changed or holds no text, or the output cannot be written.
        """
        start = time.monotonic()
        output = self._output = StreamOutput(self.target) if self._output is None else self._output
        total = None if self.check is None else self.processes.share(self.check.rows, window)
        done = output.summary.rows + output.summary.failures
        hidden = not progress or not self.processes.is_main
        with tqdm(
            total=total, initial=done, unit=" texts", desc=title or None, disable=hidden, file=sys.stderr
        ) as bar:
            rows, turn = 0, -1
            for turn, found in enumerate(windows(read_inputs(self.source, self.columns), window)):
                rows += len(found)
                if self.processes.takes(turn) and turn // self.processes.count >= output.windows:
                    before = bar.n
                    self._window(output, found, predict, bar.update)
                    bar.update(len(found) - (bar.n - before))
        if self.check is not None and (rows != self.check.rows or file_state(self.source) != self.check.state):
            raise LagamcError(f"{self.source}: was changed while it was read; begin anew")
        summary = output.summary
        output.close()
        self.processes.wait()
        if self.work is not None and self.processes.is_main:
            summary = self.work.finish(self.processes.count, None if self.check is None else self.check.rows)
        self.processes.wait()
        if self.processes.is_main and not summary.rows:
            where = f", see {self.target}{ERRORS}" if self.work is not None else ""
            bad = f"none of the {summary.failures} rows is a text{where}" if summary.failures else "holds no rows"
            raise LagamcError(f"{input_name(self.source)}: {bad}")
        summary.seconds = time.monotonic() - start
        return summary

    def _window(
        self, output: Part | StreamOutput, rows: Sequence[Example | BadRow], predict: Predict, report: Report
    ) -> None:
        bad = [row for row in rows if isinstance(row, BadRow)]
        if bad and self.on_error == "fail":
            raise LagamcError(str(bad[0]))
        examples = [row for row in rows if isinstance(row, Example)]
        predictions = predict([example.text for example in examples], report) if examples else []
        lines = [as_json(row.id, answer) for row, answer in zip(examples, predictions, strict=True)]
        errors = [{"file": row.file, "line": row.line, "reason": row.reason} for row in bad]
        output.write(lines, errors, _counts(predictions, len(bad)))


class Predictor:
    """Predictions in batches as large as the memory takes.

    Args:
        classifier: the model.
        batch_size: texts at a time, or `auto`: halved wherever memory runs out.
        settings: of `LagamcClassifier.predict`.
    """

    def __init__(self, classifier: LagamcClassifier, batch_size: int | str = "auto", **settings: Any):
        self.classifier, self.settings = classifier, settings
        self.automatic = batch_size == "auto"
        self.batch_size = FIRST_BATCH.get(classifier.device.type, 32) if batch_size == "auto" else batch_size

    def __call__(self, texts: list[str], report: Report | None = None) -> list[Prediction]:
        """Raises LagamcError where memory does not suffice."""
        while True:
            try:
                return self.classifier.predict(
                    texts,
                    batch_size=self.batch_size,  # type: ignore[arg-type]
                    progress=report,
                    **self.settings,
                )
            except (RuntimeError, MemoryError) as error:
                if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                    raise
                self._shrink(error)

    def _shrink(self, error: Exception) -> None:
        size = self.batch_size
        if not isinstance(size, int) or size == 1 or not self.automatic:
            hint = "--batch_size auto finds one that fits" if not self.automatic else "take a smaller model or dtype"
            raise LagamcError(
                f"out of memory with {size} texts at a time on {self.classifier.device}: {hint}"
            ) from error
        self.batch_size = size // 2
        tqdm.write(f"out of memory with {size} texts at a time, going on with {self.batch_size}", file=sys.stderr)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def predict_file(
    classifier: LagamcClassifier,
    source: str,
    target: str,
    columns: Columns | None = None,
    window: int | None = None,
    progress: bool = True,
    on_error: str = "fail",
    batch_size: int | str = "auto",
    **settings: Any,
) -> PredictionSummary:
    """Predicts every row of a file. The output appears whole or not at all.

    Args:
        classifier: the model.
        source, target, columns, on_error: of `PredictionJob`.
        window: rows held in memory and sorted by length at a time.
        progress: whether a bar is shown on the standard error.
        batch_size: texts computed at a time, or `auto`.
        settings: of `LagamcClassifier.predict`.

    Raises:
        LagamcError: a row is bad (with its line), the input is empty, or the output cannot be written.
    """
    with PredictionJob(source, target, columns, on_error) as job:
        predictor = Predictor(classifier, batch_size, **settings)
        return job.run(predictor, window=window or window_size(len(classifier.bank)), progress=progress)


def predict_from_options(options: argparse.Namespace) -> None:
    """What `lagamc predict` does: checks all it can, loads the model, predicts, and says what came of it.

    Raises:
        LagamcError: as `PredictionJob` and `LagamcClassifier` raise it.
    """
    use_all_cores()
    processes = find_processes()
    columns = Columns(text=options.text_column, id=options.id_column)
    if options.input != STANDARD_STREAM:
        check_ending(options.input)
    check_target(options.output, options.input, *([options.labels] if options.labels else []))
    bank = LabelBank.from_file(options.labels) if options.labels else None
    names = ("decide_by", "scores", "threshold", "top_k", "decoding", "window_stride")
    decisions = {name: getattr(options, name) for name in names}
    decisions["goal"] = None if options.goal is None else usual_goal(options.goal)
    source = find_artifact(options.model)
    with source.named():
        read_config(source.folder)
    published = [Path(source.folder, name) for name in published_files(source.folder)]
    check_target(options.output, *map(str, [*published, *left_by_run(source.folder)]))
    identity = {
        "model": model_fingerprint(source.folder) if processes.is_main else None,
        "labels": None if bank is None else fingerprint([options.labels]),
        "settings": {**decisions, "dtype": options.dtype, "columns": [columns.text, columns.id]},
    }
    device = join(processes, options.device)
    arguments = (options.input, options.output, columns, options.on_error, options.resume, identity, processes)
    with PredictionJob(*arguments) as job:
        with source.named():
            classifier = LagamcClassifier.from_pretrained(
                source.folder, device, dtype=options.dtype, trust_remote_code=options.trust_remote_code
            )
        if bank is not None:
            classifier = classifier.with_bank(bank)
        predictor = Predictor(classifier, options.batch_size, **decisions)
        by_scores = options.decide_by == "scores" and options.scores != "none"
        by_tuned = by_scores and options.threshold is None and options.top_k is None
        if processes.is_main and by_tuned and not classifier.rules.tuned:
            print(f"warning: {source}: {UNTUNED}", file=sys.stderr)
        summary = job.run(predictor, window=window_size(len(classifier.bank)))
    if processes.is_main:
        print(summary, file=sys.stderr)
        if job.work is not None and summary.failures:
            print(f"the bad rows are in {options.output}{ERRORS}", file=sys.stderr)


def window_size(labels: int) -> int:
    """Rows of a window: fewer with very many labels, each of which has a score in every row."""
    return max(32, min(WINDOW, WINDOW_SCORES // labels))


def model_fingerprint(folder: str | Path) -> str:
    """A digest of all that a model folder's predictions depend on, the base model included where it is a folder.

    Raises:
        LagamcError: it is no model folder.
    """
    base = Path(read_config(folder).base_model or "")
    kinds = {".json", ".safetensors", ".model", ".txt"}
    paths = [Path(folder, name) for name in published_files(folder) if name != CARD_FILE]
    if base.name and base.is_dir():
        paths += sorted(path for path in base.iterdir() if path.suffix in kinds)
    return fingerprint(paths)


def as_json(identity: str, prediction: Prediction) -> str:
    """One line of the output."""
    return json.dumps(
        {
            "id": identity,
            "labels": prediction.labels,
            "scores": prediction.scores,
            "generated": prediction.generated,
        },
        ensure_ascii=False,
    )


def _counts(predictions: Sequence[Prediction], failures: int) -> PredictionSummary:
    counts: dict[str, int] = {}
    for prediction in predictions:
        for label in prediction.labels:
            counts[label] = counts.get(label, 0) + 1
    return PredictionSummary(len(predictions), failures, sum(p.clipped for p in predictions), counts)
