"""The processes of a prediction run under `accelerate launch`: who does what, and how they wait for each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from lagamc.errors import LagamcError

PATIENCE = timedelta(days=30)  # shares of the input may take very different times


@dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Args:
        index: from 0, the main one.
        count: of all machines.
    """

    index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def takes(self, window: int) -> bool:
        """Whether a window of the input is this process's: they take them in turn."""
        return window % self.count == self.index

    def share(self, rows: int, window: int) -> int:
        """How many of the rows this process takes, in windows of so many."""
        starts = range(self.index * window, rows, self.count * window)
        return sum(min(window, rows - start) for start in starts)

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def find_processes() -> Processes:
    """As the launcher says, without loading anything."""
    index, count = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    return Processes(index, count)


def join(processes: Processes, device: str | None) -> str | None:
    """Connects the processes.

    Args:
        processes: as found.
        device: that was asked for.

    Returns:
        the device of this process.

    Raises:
        LagamcError: one device was asked for by its number, which all would share.
    """
    if processes.count == 1:
        return device
    if device is not None and ":" in device:
        raise LagamcError(f"device: {device!r} is one device for {processes.count} processes; give its kind alone")

    import torch
    from accelerate import PartialState
    from accelerate.utils import InitProcessGroupKwargs

    # without a GPU accelerate makes no group of processes unless it is told
    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu, **InitProcessGroupKwargs(timeout=PATIENCE).to_kwargs())
    # a kind that is not here is refused by name when the model is put there
    return str(state.device) if device in (None, state.device.type) else device
