"""Checkpoints of a run: which are whole, where a killed run goes on, and what a new run finds in its folder."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lagamc.artifact import LABELS_FILE, ArtifactConfig, read_config
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.losses import LossSettings
from lagamc.publishing import COPY_PREFIX

ADAPTER_SETTINGS = ("lora_rank", "lora_alpha", "lora_targets")
METRICS_FILE = "metrics.json"  # written at the end of a run: without it the run is unfinished
REPORT_FOLDER = "report"
REPORT_DATA_FOLDER = "report_data"  # what a run leaves for its report


def problem_of(checkpoint: str | Path) -> str | None:
    """Why a checkpoint cannot be resumed from; None where it is whole.

    The trainer's state is the last file that is written, so a checkpoint that has it has the rest.
    """
    checkpoint = Path(checkpoint)
    try:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        read_config(checkpoint)
        if not (checkpoint / OPTIMIZER_NAME).is_file():
            return f"it holds no {OPTIMIZER_NAME} (save_only_model leaves it out)"
    except FileNotFoundError:
        return f"it holds no {TRAINER_STATE_NAME}"
    except json.JSONDecodeError:
        return f"its {TRAINER_STATE_NAME} is cut short"
    except LagamcError as error:
        return str(error)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        return f"its {TRAINER_STATE_NAME} cannot be read ({type(error).__name__}: {error})"
    if not isinstance(state.global_step, int) or state.global_step < 1:
        return f"its {TRAINER_STATE_NAME} tells no step"
    for path in (checkpoint / OPTIMIZER_NAME, checkpoint / SCHEDULER_NAME, *checkpoint.glob("rng_state*.pth")):
        if path.is_file() and not zipfile.is_zipfile(path):
            return f"its {path.name} is cut short"
    for path in checkpoint.rglob("*.safetensors"):
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError):
            return f"its {path.relative_to(checkpoint)} is cut short"
    return None


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints of a run, whole or not, newest first."""
    named = Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    found = [path for path in named if path.name.split("-")[-1].isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: -int(path.name.split("-")[-1]))


def checkpoint_to_resume(setting: str | None, folder: str | Path, say: Callable[[str], None]) -> Path | None:
    """Where a run begins.

    Args:
        setting: `true` takes the newest whole checkpoint of the run's own folder, or the beginning where there is
            none; a path takes that one; None or `false` begins anew.
        folder: of the run.
        say: takes messages.

    Raises:
        LagamcError: the named checkpoint is not whole; or a new run would write over an unfinished one.
    """
    folder = Path(folder)
    found = checkpoints(folder)
    word = (setting or "false").lower()
    finished = (folder / METRICS_FILE).is_file()
    replaced = f"{folder}: holds a finished run, which this one replaces"
    if word == "true":
        for checkpoint in found:
            problem = problem_of(checkpoint)
            if problem is None:
                say(f"going on from {checkpoint}")
                return checkpoint
            say(f"{checkpoint} cannot be resumed from and is passed over: {problem}")
        say(f"no whole checkpoint in {folder}: starting from the beginning")
        if finished:
            say(replaced)
        return None
    named = None if word == "false" else Path(str(setting))
    problem = None if named is None else problem_of(named)
    if problem:
        raise LagamcError(f"resume_from_checkpoint: {setting!r} cannot be resumed from: {problem}")
    if found and not _with_older(named, found) and not finished:
        raise LagamcError(
            f"output_dir {str(folder)!r} holds {found[0].name} of an unfinished run: go on with it by "
            "--resume_from_checkpoint true, remove its checkpoints, or name another output_dir"
        )
    if finished:
        say(replaced)
    return named


def clear(folder: str | Path, keep: Path | None) -> None:
    """Makes the folder that of an unfinished run: what an earlier run left would be taken for this one's.

    Args:
        folder: of the run.
        keep: the checkpoint that is resumed from; older ones stay too, half-written and newer ones go.
    """
    (Path(folder) / METRICS_FILE).unlink(missing_ok=True)
    own = checkpoints(folder)
    older = _with_older(keep, own)
    for checkpoint in own:
        if checkpoint in older:
            continue
        if checkpoint.is_symlink():
            checkpoint.unlink()
        else:
            shutil.rmtree(checkpoint)
    for copy in Path(folder).glob(f"{COPY_PREFIX}*"):  # a run that was killed could not remove it
        shutil.rmtree(copy, ignore_errors=True)


def left_by_run(folder: str | Path) -> list[Path]:
    """What an output folder holds and never publishes: figures, the report and its data, checkpoints."""
    folder = Path(folder)
    places = [folder / REPORT_DATA_FOLDER, folder / REPORT_FOLDER, *checkpoints(folder)]
    return [folder / METRICS_FILE, *(path for place in places for path in place.rglob("*"))]


class ClearCallback(TrainerCallback):
    """`clear` where a run begins: until then it may be refused, and an earlier one's work has to stay.

    Args:
        keep: see `clear`.
    """

    def __init__(self, keep: Path | None):
        self.keep = keep

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clears the output folder."""
        if state.is_world_process_zero:
            clear(args.output_dir or "", self.keep)


def _with_older(named: Path | None, found: list[Path]) -> list[Path]:
    """A checkpoint and those behind it in a list, newest first; none where it is not there. Any path to it will do."""
    places = [checkpoint.resolve() for checkpoint in found]
    return found[places.index(named.resolve()) :] if named is not None and named.resolve() in places else []


def check_labels(checkpoint: Path, bank: LabelBank) -> None:
    """A run goes on with the labels it began with.

    Raises:
        LagamcError: they differ.
    """
    before = LabelBank.from_json(checkpoint / LABELS_FILE)
    if list(before.items()) != list(bank.items()):
        changed = sorted({name for name in {*before, *bank} if before.get(name) != bank.get(name)})
        changed = changed or ["the same in another order"]
        raise LagamcError(
            f"resume_from_checkpoint: {checkpoint} was trained with other labels or descriptions "
            f"({', '.join(changed)}); go on with the same label bank, or start anew in another output_dir"
        )


def check_settings(checkpoint: Path, config: ArtifactConfig) -> None:
    """A run goes on with the weights it began to train and the rows it began to train on.

    Args:
        checkpoint: that is resumed from.
        config: of the run that goes on.

    Raises:
        LagamcError: other weights are trained now, or the labels have other numbers of training rows.
    """
    stored = read_config(checkpoint)
    before, now = _trained(stored), _trained(config)
    changed = [f"{name} ({before[name]}, now {now[name]})" for name in now if before[name] != now[name]]
    if changed:
        raise LagamcError(
            f"resume_from_checkpoint: {checkpoint} was trained with another {', '.join(changed)}; go on with the same "
            "settings, or start anew in another output_dir"
        )
    counts = config.label_counts
    if differing := [name for name, count in counts.items() if stored.label_counts.get(name) != count]:
        raise LagamcError(
            f"resume_from_checkpoint: {checkpoint} was trained on other rows: {differing[0]!r} had "
            f"{stored.label_counts.get(differing[0])} of them, now {counts[differing[0]]}; go on with the same "
            "training rows, or start anew in another output_dir"
        )


def _trained(config: ArtifactConfig) -> dict[str, object]:
    """Settings on which it depends what is trained."""
    loss = LossSettings(**config.loss)
    figures = config.figures
    return {
        "model_name_or_path": figures.get("generator"),
        "sentence_encoder": figures.get("sentence_encoder"),
        "lambda_mode": config.lambda_mode,
        "retrieval_weight": "above 0" if loss.retrieval_weight else 0,
        "retrieval_readers": loss.retrieval_readers if loss.retrieval_weight else "none",
        "retrieval_pooling": loss.retrieval_pooling if loss.retrieval_weight else "none",
        "repeat_threshold": figures.get("repeat_threshold") or 0,
        "seed": figures.get("seed"),
        "data_seed": figures.get("data_seed"),
        "max_input_length": config.max_input_length,
        "window_stride": config.window_stride,
        "train_sentence_encoder": bool(figures.get("sentence_encoder_trained")),
        **{name: figures.get(name) or "none" for name in ADAPTER_SETTINGS},
    }
