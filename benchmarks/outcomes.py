"""What a benchmark found: how it is timed, the last line that it prints, and what is kept for BENCHMARKS.md."""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.datasets import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def machine() -> str:
    """Where figures come from, in a few words."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{platform.machine()}, {device}, torch {torch.__version__.split('+')[0]}"


def timed(action: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def write(path: Path, found: Any) -> None:
    """Keeps something as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, default=float) + "\n", encoding="utf-8")


def finish(figures: dict[str, Any], quick: bool, name: str = "") -> None:
    """Prints the figures of a benchmark as one JSON object and keeps them, unless it was a quick run.

    Args:
        figures: what was measured.
        quick: whether it was a run of a few rows.
        name: tells runs of the same benchmark apart that stand side by side.
    """
    module = Path(sys.argv[0]).stem
    if not quick and "skipped" not in figures:
        command = shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])
        kept = {"command": command, "machine": machine(), "figures": figures}
        write(RESULTS / f"{module}{'-' if name else ''}{name}.json", kept)
    print(json.dumps(figures, default=float))
