"""The progress bar of a training run."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback


class SamplesProgressCallback(ProgressCallback):
    """The bar of `transformers` with samples per second; a resumed run counts the time of its own steps alone."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the bar where the run starts."""
        super().on_train_begin(args, state, control, **kwargs)
        self.current_step = state.global_step
        if self.training_bar is not None:
            self.training_bar.initial = self.training_bar.n = state.global_step
            self.training_bar.refresh()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Moves the bar."""
        if self.training_bar is not None:
            shown = self.training_bar.format_dict
            done = state.global_step - self.training_bar.initial
            rate = shown["rate"] or done / max(shown["elapsed"], 1e-9)  # the bar has none before it was first redrawn
            if rate:
                samples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
                self.training_bar.set_postfix_str(f"{rate * samples:.1f} samples/s", refresh=False)
        super().on_step_end(args, state, control, **kwargs)


def replace_progress_bar(trainer: Any) -> None:
    """Puts the bar in the place of that of `transformers`; where another one is shown, it stays."""
    shown: TrainerCallback | None = trainer.pop_callback(ProgressCallback)
    if shown is not None:
        trainer.add_callback(SamplesProgressCallback)
