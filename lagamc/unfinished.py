"""The unfinished work of a prediction run: what was done survives a stop, and the output appears whole or not at all.

While a run works, `<output>.unfinished/` stands beside the output:

run.json                    what the run depends on
part-0000.jsonl             predictions of a process
part-0000.errors.jsonl      its bad rows
part-0000.journal           a line per finished window, written when all of the window is on the disk
part-0000.lock              held by the process
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from lagamc.errors import LagamcError
from lagamc.outputs import ERRORS, PredictionSummary, errors_path, real_path, writing

UNFINISHED = ".unfinished"
RUN_FILE, PART = "run.json", "part-"


class WorkFolder:
    """`<output>.unfinished/`.

    Args:
        target: the output.
    """

    def __init__(self, target: str):
        self.target, self.path = target, real_path(target)
        self.folder = self.path.with_name(self.path.name + UNFINISHED)

    def make(self) -> None:
        """Makes the folder where it is not there yet.

        Raises:
            LagamcError: something that is not ours is in its place.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise LagamcError(f"{self.folder}: is in the way, this run would work there; move it away")
        with writing(self.target):
            self.folder.mkdir(exist_ok=True)
            strange = [path.name for path in self.folder.iterdir() if not _is_ours(path)]
        if strange:
            raise LagamcError(f"{self.folder}: holds {strange[0]!r}, which is not ours; move the folder away")

    def begin(self, identity: Mapping[str, Any], resume: bool) -> None:
        """Notes what the run is, or checks that the one that is there is the same; for the main process.

        Args:
            identity: what the run depends on; without `input` it cannot be resumed.
            resume: whether a run that was stopped goes on.

        Raises:
            LagamcError: a stopped run is there and not to be resumed, another one than this, or one that cannot be
                told.
        """
        identity = json.loads(json.dumps(identity))
        found = self._read_identity()
        # without that file the work was being thrown away
        if found is None and self.has_progress() and (self.folder / RUN_FILE).exists():
            raise LagamcError(
                f"{self.folder}: its {RUN_FILE} cannot be read, so the work in it cannot be gone on with; delete that "
                "folder to begin anew"
            )
        if found is not None and found.get("input") and self.has_progress():
            if not resume:
                raise LagamcError(
                    f"{self.folder}: holds the unfinished work of a run that was stopped; "
                    "go on with it by --resume, or delete that folder to begin anew"
                )
            self._compare(found, identity)
            return
        with writing(self.target):
            for path in self.folder.iterdir():
                if path.suffix != ".lock":
                    path.unlink()
            partial = self.folder / f"{PART}{RUN_FILE}"
            partial.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
            partial.replace(self.folder / RUN_FILE)

    def has_progress(self) -> bool:
        """Whether a window was finished."""
        return any(path.stat().st_size for path in self.folder.glob(f"{PART}*.journal"))

    def _read_identity(self) -> dict[str, Any] | None:
        try:
            found = json.loads((self.folder / RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _compare(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        changed = [name for name in wanted if name != "settings" and found.get(name) != wanted[name]]
        shown = [
            f"{name} (was {found.get(name)!r}, is {wanted[name]!r})"
            if isinstance(wanted[name], int)
            else f"the {name}"
            for name in changed
        ]
        before, now = found.get("settings") or {}, wanted["settings"]
        shown += [
            f"{name} (was {before.get(name)!r}, is {now.get(name)!r})"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if shown:
            raise LagamcError(
                f"{self.folder}: cannot be resumed, since that run was stopped these have changed: "
                f"{', '.join(shown)}; put them back, or delete that folder to begin anew"
            )

    def finish(self, processes: int, rows: int | None = None) -> PredictionSummary:
        """Puts predictions and bad rows into place, in order, and removes the folder; for the main process.

        Cut short at any point it can be done again. Where every row was bad there is no output.

        Args:
            processes: that took windows in turn.
            rows: of the input, bad ones included.

        Raises:
            LagamcError: a part or a row is missing, or the output cannot be written.
        """
        merged, errors = self.folder / f"{PART}merged.jsonl", self.folder / f"{PART}merged{ERRORS}"
        with writing(self.target):
            summary = self._merge([Part(self, index) for index in range(processes)], merged, errors)
            if rows not in (None, summary.rows + summary.failures):
                raise LagamcError(
                    f"{self.folder}: holds {summary.rows + summary.failures} of {rows} rows; did all processes read "
                    "the same input? Delete that folder to begin anew"
                )
            if summary.failures:
                os.replace(errors, errors_path(self.target))
            else:
                errors_path(self.target).unlink(missing_ok=True)  # of an earlier run
            if summary.rows:
                os.replace(merged, self.path)
        self.discard()
        return summary

    def _merge(self, parts: Sequence[Part], merged: Path, errors: Path) -> PredictionSummary:
        summary = PredictionSummary()
        if len(parts) == 1:
            for _, _, counts, _ in parts[0].journal():
                summary.add(counts)
            for whole, place in ((parts[0].rows, merged), (parts[0].errors, errors)):
                place.unlink(missing_ok=True)
                try:
                    os.link(whole, place)
                except OSError:  # not every disk has links
                    shutil.copyfile(whole, place)
            return summary
        missing = [part.rows.name for part in parts if not part.rows.is_file()]
        if missing:
            raise LagamcError(
                f"{self.folder}: {missing[0]} is missing; several machines need the output on a disk they share"
            )
        with ExitStack() as stack:
            names = [(part.rows, part.errors) for part in parts]
            sources = [[stack.enter_context(path.open("rb")) for path in pair] for pair in names]
            targets = [stack.enter_context(path.open("wb")) for path in (merged, errors)]
            journals = [part.journal() for part in parts]
            for turn in itertools.cycle(range(len(parts))):
                if (entry := next(journals[turn], None)) is None:
                    break
                for source, target, length in zip(sources[turn], targets, entry[:2], strict=True):
                    _copy(source, target, length)
                summary.add(entry[2])
            for target in targets:
                target.flush()
                os.fsync(target.fileno())
        return summary

    def discard(self) -> None:
        """Removes the folder; first out of its place, at once, so that no half of it is ever found there."""
        gone = self.folder.with_name(f"{self.folder.name}.done")
        with suppress(OSError):
            _remove(gone)  # of a run that was stopped right here
            self.folder.rename(gone)
            _remove(gone)


def _is_ours(path: Path) -> bool:
    return path.name == RUN_FILE or path.name.startswith(PART)


def _remove(folder: Path) -> None:
    if folder.is_dir():
        for path in filter(_is_ours, list(folder.iterdir())):
            path.unlink()
        folder.rmdir()


def _copy(source: IO[bytes], target: IO[bytes], length: int) -> None:
    while length:
        block = source.read(min(length, 2**20))
        if not block:
            raise LagamcError(f"{source.name}: is shorter than its journal says; delete the folder to begin anew")
        target.write(block)
        length -= len(block)


class Part:
    """The windows of one process.

    Args:
        work: the folder.
        index: of the process.
    """

    def __init__(self, work: WorkFolder, index: int):
        self.target = work.target
        stem = work.folder / f"{PART}{index:04d}"
        self.rows, self.errors = stem.with_name(f"{stem.name}.jsonl"), stem.with_name(stem.name + ERRORS)
        self.log, self._lock = stem.with_name(f"{stem.name}.journal"), FileLock(f"{stem}.lock")
        self.windows, self.summary = 0, PredictionSummary()
        self._files: list[IO[bytes]] = []

    def lock(self) -> None:
        """Keeps other runs away until `close`.

        Raises:
            LagamcError: another run is at work.
        """
        with writing(self.target), suppress(NotImplementedError):  # not every disk has locks
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                raise LagamcError(f"{self.target}: another run is writing it at this moment") from error

    def open(self) -> None:
        """Goes back to the end of the last whole window.

        Raises:
            LagamcError: the files are shorter than the journal says, or cannot be written.
        """
        lengths = [0, 0, 0]
        for rows, errors, counts, line in self.journal():
            lengths = [length + more for length, more in zip(lengths, (rows, errors, line), strict=True)]
            self.windows += 1
            self.summary.add(counts)
        with writing(self.target):
            for path, length in zip((self.rows, self.errors, self.log), lengths, strict=True):
                file = path.open("ab")
                self._files.append(file)
                if file.tell() < length:
                    raise LagamcError(f"{path}: is shorter than its journal says; delete the folder to begin anew")
                file.truncate(length)

    def journal(self) -> Iterator[tuple[int, int, PredictionSummary, int]]:
        """Bytes of rows, bytes of bad rows and counts of every finished window, and the length of its line."""
        if not self.log.is_file():
            return
        with self.log.open("rb") as lines:
            for line in lines:
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else {}
                    found = int(entry["bytes"]), int(entry["error_bytes"]), PredictionSummary(**entry["counts"])
                except (ValueError, TypeError, KeyError):  # the last line, cut short
                    return
                yield (*found, len(line))

    def write(self, lines: Sequence[str], errors: Sequence[Mapping[str, Any]], summary: PredictionSummary) -> None:
        """One window: its lines without their ends, its bad rows, its counts.

        Raises:
            LagamcError: they cannot be written; what was written before counts.
        """
        bad = [json.dumps(error, ensure_ascii=False) for error in errors]
        contents = ["".join(line + "\n" for line in part).encode() for part in (lines, bad)]
        entry = {"bytes": len(contents[0]), "error_bytes": len(contents[1]), "counts": asdict(summary)}
        with writing(self.target):
            for file, content in zip(self._files, [*contents, (json.dumps(entry) + "\n").encode()], strict=True):
                if content:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
        self.windows += 1
        self.summary.add(summary)

    def close(self) -> None:
        """Lets go of the files."""
        for file in self._files:
            with suppress(OSError):  # a full disk: what is not in the journal does not count
                file.close()
        self._files = []
        self._lock.release()
