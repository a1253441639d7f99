"""Where the benchmarks find real data sets: folders in the format of the README, never part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
VARIABLE = "LAGAMC_DATA"


def find_dataset(name: str) -> Path | None:
    """The folder of a data set below `$LAGAMC_DATA`, or else `data/` or `../shared/data/`; None where it is absent."""
    places = [Path(os.environ[VARIABLE])] if VARIABLE in os.environ else [ROOT / "data", ROOT.parent / "shared/data"]
    for place in places:
        if (place / name / "labels.json").is_file():
            return place / name
    return None
