"""A benchmark as a command: how it is timed, the last line that it prints, and what is kept for BENCHMARKS.md."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.datasets import ROOT
from lagamc.cli import guarded
from lagamc.errors import LagamcError

RESULTS = ROOT / "benchmarks" / "results"


def run(main: Callable[[], None]) -> NoReturn:
    """Runs a benchmark: bad input is one message, and a kill ends what it started as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(guarded(main, "benchmarks"))


def machine() -> str:
    """Where figures come from, in a few words."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{platform.machine()}, {device}, torch {torch.__version__.split('+')[0]}"


def timed(action: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def flops(action: Callable[[], object]) -> int:
    """Floating-point operations that it takes; attention by its plain products, as a fused one is not counted."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def write(path: Path, found: Any) -> None:
    """Keeps something as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(found, indent=1, default=float) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"the number {constant}")


def read(path: Path, *keys: str) -> dict[str, Any]:
    """What `write` kept: an object with some keys at least."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused)
    except (OSError, ValueError, RecursionError) as error:
        raise LagamcError(
            f"{path}: expected a result in JSON, found {error}; remove it and measure it again"
        ) from error
    absent = [key for key in keys if key not in found] if isinstance(found, dict) else ["JSON object"]
    if absent:
        raise LagamcError(f"{path}: expected a result, found no {absent[0]}; remove it and measure it again")
    return found


def finish(figures: dict[str, Any], quick: bool) -> None:
    """Prints the figures of a benchmark as one JSON object and keeps them, each command's in a file of its own.

    Nothing is kept of a quick run, or where a data set was missing.

    Args:
        figures: what was measured.
        quick: whether it was a run of a few rows.
    """
    module = Path(sys.argv[0]).stem
    skipped = [found for found in (figures, *figures.values()) if isinstance(found, dict) and "skipped" in found]
    if not quick and not skipped:
        command = shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])
        kept = {"command": command, "machine": machine(), "figures": figures}
        name = re.sub(r"[^\w.]+", "-", " ".join([module, *sys.argv[1:]]))
        write(RESULTS / f"{name}.json", kept)
    print(json.dumps(figures, default=float))
