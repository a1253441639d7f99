"""Precision and defaults of the training arguments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lagamc.training_args import (
    PRECISION_VARIABLE,
    LagamcTrainingArguments,
    settle_mixed_precision,
    suited_attention,
    use_all_cores,
)


def set_instructions(monkeypatch: pytest.MonkeyPatch, only: str) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == only, raising=False)


@pytest.mark.parametrize(
    ("gpu", "cpu_has", "asked", "expected"),
    [
        (False, "", "bf16", "no"),
        (False, "_is_amx_tile_supported", "bf16", "bf16"),
        (False, "_is_avx512_bf16_supported", "bf16", "bf16"),
        (True, "", "bf16", "bf16"),
        (False, "", "fp16", "fp16"),
        (False, "", "no", "no"),
    ],
)
def test_bf16_only_where_it_pays(
    gpu: bool, cpu_has: str, asked: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRECISION_VARIABLE, asked)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    set_instructions(monkeypatch, cpu_has)
    assert settle_mixed_precision() == expected
    assert os.environ[PRECISION_VARIABLE] == expected


def test_arguments_take_the_settled_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRECISION_VARIABLE, "bf16")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    set_instructions(monkeypatch, "")
    assert LagamcTrainingArguments(output_dir=str(tmp_path), use_cpu=True).mixed_precision == "no"


@pytest.mark.parametrize(("cpu_has", "fused"), [("_is_avx512_bf16_supported", False), ("", True)])
def test_attention_is_not_fused_in_bf16_on_a_cpu(
    cpu_has: str, fused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRECISION_VARIABLE, "bf16")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    set_instructions(monkeypatch, cpu_has)
    with suited_attention(LagamcTrainingArguments(output_dir=str(tmp_path), use_cpu=True)):
        assert torch.backends.cuda.flash_sdp_enabled() is fused
    assert torch.backends.cuda.flash_sdp_enabled()


def test_selection_metric_decides_the_direction(tmp_path: Path) -> None:
    arguments = LagamcTrainingArguments(output_dir=str(tmp_path), use_cpu=True, selection_metric="loss")
    assert arguments.metric_for_best_model == "loss"
    assert arguments.greater_is_better is False


def test_a_label_of_that_name_is_no_loss(tmp_path: Path) -> None:
    for metric, greater in (("f1_hearing_loss", True), ("hamming_loss", False)):
        arguments = LagamcTrainingArguments(output_dir=str(tmp_path), use_cpu=True, selection_metric=metric)
        assert arguments.greater_is_better is greater


@pytest.mark.parametrize(
    ("launched", "set_to", "processes", "expected"),
    [(True, "1", "1", 4), (True, "1", "2", 2), (True, "3", "1", 1), (False, "1", "1", 1)],
)
def test_threads_left_at_one_by_the_launcher(
    launched: bool, set_to: str, processes: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [1]
    monkeypatch.setenv("OMP_NUM_THREADS", set_to)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    if launched:
        monkeypatch.setenv(PRECISION_VARIABLE, "no")
    else:
        monkeypatch.delenv(PRECISION_VARIABLE, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    use_all_cores()
    assert taken[-1] == expected
