from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import expit, logit

import lagamc.training
from lagamc.artifact import read_config
from lagamc.classifier import LagamcClassifier
from lagamc.config import parse_arguments
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.modeling import LagamcModel
from lagamc.report_data import read_run
from lagamc.training import measure_bridge, train
from lagamc.training_args import PRECISION_VARIABLE
from tests.artifacts import NO_CHECKPOINTS, Trained, train_quickly, write_data


def test_metrics_file_holds_the_figures(trained_t5: Trained, trained_bart: Trained) -> None:
    for trained in (trained_t5, trained_bart):
        metrics = json.loads((trained.folder / "metrics.json").read_text(encoding="utf-8"))
        assert metrics == trained.figures
        for name in ("dev_micro_f1", "dev_macro_f1", "test_micro_f1", "test_macro_f1", "test_generated_micro_f1"):
            assert 0.0 <= metrics[name] <= 1.0
        assert metrics["test_rows"] == 6
        assert {name: row["support"] for name, row in metrics["test_labels"].items()} == {
            "late": 3,
            "broken": 2,
            "refund": 2,
            "praise": 1,
        }
    assert trained_t5.figures["threshold_goal"] == "macro_f1"
    assert trained_bart.figures["threshold_goal"] == "micro_f1"


def test_without_test_rows_there_are_no_test_figures(trained_whole: Trained) -> None:
    metrics = json.loads((trained_whole.folder / "metrics.json").read_text(encoding="utf-8"))
    assert not [name for name in metrics if name.startswith("test_")]
    assert "dev_micro_f1" in metrics


def test_training_lowers_the_loss(trained_t5: Trained) -> None:
    state = json.loads((trained_t5.folder / "checkpoint-30" / "trainer_state.json").read_text(encoding="utf-8"))
    losses = [entry["cross_entropy"] for entry in state["log_history"] if "cross_entropy" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert all("lambda" in entry and "semantic" in entry for entry in state["log_history"] if "loss" in entry)


def test_the_sentence_encoder_is_drawn_back(
    tiny_t5: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path
) -> None:
    """A share of 1 is what training gave, 0 what it began with, and between them lies the straight line; so it is with
    the copy for labels that are added later, which is not there where it would be the same."""
    found, copies = {}, {}
    for share in ("0", "0.25", "1"):
        settings = ["--max_steps", "3", "--sentence_encoder_share", share, "--unseen_encoder_share", "0.25"]
        run = train_quickly(tiny_t5, tiny_encoder, session_data, tmp_path / share, *settings, *NO_CHECKPOINTS)
        found[share] = load_file(run.folder / "sentence_encoder" / "model.safetensors")
        if (run.folder / "unseen_encoder").exists():
            copies[share] = load_file(run.folder / "unseen_encoder" / "model.safetensors")
        card = (run.folder / "README.md").read_text(encoding="utf-8")
        assert (f", {float(share)} of what training changed in it kept" in card) == (share != "1")
        assert ("scored by a copy that keeps 0.25 of it" in card) == (share != "0.25")
    start = load_file(tiny_encoder / "model.safetensors")
    assert any(not torch.equal(value, start[name]) for name, value in found["1"].items())
    for name, value in found["1"].items():
        torch.testing.assert_close(found["0"][name], start[name])
        torch.testing.assert_close(found["0.25"][name], start[name] + 0.25 * (value - start[name]))
        for copy in copies.values():
            assert torch.equal(copy[name], found["0.25"][name].half())
    assert set(copies) == {"0", "1"}


def test_only_adapters_encoder_and_scalars_are_trained(trained_t5: Trained) -> None:
    config = json.loads((trained_t5.folder / "lagamc_config.json").read_text(encoding="utf-8"))
    adapter = load_file(trained_t5.folder / "adapter_model.safetensors")
    encoder = load_file(trained_t5.folder / "sentence_encoder" / "model.safetensors")
    read = [weight for name, weight in encoder.items() if not name.startswith("pooler.")]
    retrieval = load_file(trained_t5.folder / "retrieval.safetensors")
    expected = sum(weight.numel() for weight in (*adapter.values(), *read, *retrieval.values())) + 1
    assert config["figures"]["trainable_parameters"] == expected < config["figures"]["total_parameters"]


def test_same_seed_same_model_another_seed_another(
    tiny_bart: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path
) -> None:
    weights, figures = [], []
    for number, seed in enumerate((7, 7, 8)):
        output = tmp_path / str(number)
        settings = ["--lora", "false", "--seed", str(seed), *NO_CHECKPOINTS, "--max_steps", "3"]
        run = train_quickly(tiny_bart, tiny_encoder, session_data, output, *settings)
        weights.append(load_file(output / "generator" / "model.safetensors"))
        figures.append({name: value for name, value in run.figures.items() if name != "train_seconds"})
    assert figures[0] == figures[1]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    assert any(not torch.equal(weight, weights[2][name]) for name, weight in weights[0].items())


def test_weights_stay_in_float32_where_bf16_computes(
    tiny_bart: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    weights = {}
    for precision in ("no", "bf16"):
        monkeypatch.setenv(PRECISION_VARIABLE, precision)
        settings = ["--lora", "false", *NO_CHECKPOINTS, "--max_steps", "2"]
        output = tmp_path / precision
        train_quickly(tiny_bart, tiny_encoder, session_data, output, *settings)
        config = json.loads((output / "lagamc_config.json").read_text(encoding="utf-8"))
        assert config["figures"]["mixed_precision"] == precision
        weights[precision] = load_file(output / "generator" / "model.safetensors")
    assert {weight.dtype for weight in weights["bf16"].values()} == {torch.float32}
    assert any(not torch.equal(weight, weights["bf16"][name]) for name, weight in weights["no"].items())


def test_frozen_sentence_encoder_stays_as_it_was(
    tiny_bart: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path
) -> None:
    settings = ["--train_sentence_encoder", "false", *NO_CHECKPOINTS, "--max_steps", "2"]
    train_quickly(tiny_bart, tiny_encoder, session_data, tmp_path / "out", *settings)
    before = load_file(tiny_encoder / "model.safetensors")
    after = load_file(tmp_path / "out" / "sentence_encoder" / "model.safetensors")
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_the_bridge_is_measured_at_the_start(
    trained_t5: Trained, make_model: Callable[..., LagamcModel], tiny_t5: Path
) -> None:
    config = json.loads((trained_t5.folder / "lagamc_config.json").read_text(encoding="utf-8"))
    assert config["bridge_fidelity"] == {"mean": pytest.approx(1, abs=1e-3), "min": pytest.approx(1, abs=1e-3)}
    card = "| bridge fidelity (cosine of bridged to true descriptions) | mean 1.000, lowest 1.000 |"
    assert card in (trained_t5.folder / "README.md").read_text("utf-8")

    greek = LabelBank({"late": "Late parcel", "greek": "Αβγ δεζ ηθικλ μνξ refund"})
    said: list[str] = []
    found = measure_bridge(make_model(tiny_t5, labels=greek), said.append)
    assert found["min"] < 0.9 < found["mean"] + 0.5
    assert "the description of 'greek' does not survive the generator's tokenizer" in said[-1]


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parent.parent.glob("configs/ablations/*.yaml")), ids=lambda p: p.stem
)
def test_every_ablation_trains(
    path: Path, tiny_t5: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path
) -> None:
    settings = ["--config", str(path), "--max_steps", "2", "--warmup_steps", "0", "--max_input_length", "200"]
    trained = train_quickly(tiny_t5, tiny_encoder, session_data, tmp_path / "out", *NO_CHECKPOINTS, *settings)
    config = json.loads((trained.folder / "lagamc_config.json").read_text(encoding="utf-8"))
    names = json.loads((trained.folder / "labels.json").read_text(encoding="utf-8"))
    assert (config["loss"]["semantic_form"] == "none") == (path.stem in ("cross_entropy", "retrieval"))
    assert (names["late"] == "late") == (path.stem == "atomic_labels")
    encoder = load_file(trained.folder / "sentence_encoder" / "model.safetensors")
    before = load_file(tiny_encoder / "model.safetensors")
    unchanged = all(torch.equal(encoder[name], weight) for name, weight in before.items())
    assert unchanged == (path.stem in ("frozen_encoder", "cross_entropy"))


def test_long_texts_are_trained_and_measured_in_windows(
    tiny_t5: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--max_steps", "2", "--max_input_length", "12", "--window_stride", "6"]
    trained = train_quickly(tiny_t5, tiny_encoder, session_data, tmp_path / "out", *NO_CHECKPOINTS, *settings)
    said = capsys.readouterr().out
    assert "train: 0.0% of the texts are cut to 12 tokens" in said
    windows = re.search(r"; 6 texts give (\d+) windows", said)
    assert windows is not None
    assert int(windows[1]) > 6
    classifier = trained.load()
    assert classifier.config.window_stride == 6
    text = "Where is my parcel? I have waited for two weeks."
    assert [p.clipped for s in (None, 0) for p in classifier.predict([text], window_stride=s)] == [False, True]


def test_rows_of_rare_labels_are_trained_on_more_often(
    tiny_t5: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--repeat_threshold", "1", "--max_steps", "-1", "--num_train_epochs", "1", "--logging_steps", "1"]
    settings += ["--max_input_length", "17"]
    settings += ["--per_device_train_batch_size", "1", *NO_CHECKPOINTS]
    trained = train_quickly(tiny_t5, tiny_encoder, session_data, tmp_path / "out", *settings)
    more = re.search(r"train: (\d+) rows more in each epoch", capsys.readouterr().out)
    assert more is not None
    log = read_run(trained.folder).log
    assert max(entry["step"] for entry in log) == 6 + int(more[1])
    figures = read_config(trained.folder).figures
    assert (figures["train_rows"], figures["repeat_threshold"]) == (6, 1)
    assert figures["train_clipped_texts"] * 6 == pytest.approx(5)  # of the rows, not of their repeats
    assert sum(read_config(trained.folder).label_counts.values()) == 8


def test_best_checkpoint_is_the_one_that_is_saved(trained_t5: Trained) -> None:
    state = json.loads((trained_t5.folder / "checkpoint-30" / "trainer_state.json").read_text(encoding="utf-8"))
    best = load_file(trained_t5.folder / Path(state["best_model_checkpoint"]).name / "adapter_model.safetensors")
    saved = load_file(trained_t5.folder / "adapter_model.safetensors")
    assert best.keys() == saved.keys()
    assert all(torch.equal(weight, saved[name]) for name, weight in best.items())


def test_output_is_checked_before_the_data(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    arguments = parse_arguments(["--data_dir", str(tmp_path / "no"), "--output_dir", str(tmp_path / "file" / "out")])
    with pytest.raises(LagamcError, match="output_dir"):
        train(arguments)


@pytest.mark.parametrize(
    ("settings", "advised"),
    [(["--num_train_epochs", "3"], True), (["--num_train_epochs", "40"], False), (["--max_steps", "9"], False)],
)
def test_more_epochs_are_advised_for_few_rows(
    settings: list[str],
    advised: bool,
    session_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object) -> None:
        raise LagamcError("far enough")

    monkeypatch.setattr(lagamc.training, "build_model", stop)
    where = ["--data_dir", str(session_data), "--output_dir", str(tmp_path), "--unlabelled", "keep"]
    with pytest.raises(LagamcError, match="far enough"):
        train(parse_arguments([*where, *settings]))
    assert ("are few for 3 epochs: --num_train_epochs 40 suits them" in capsys.readouterr().out) is advised


def test_gradient_checkpointing_changes_no_weight(
    tiny_bart: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path
) -> None:
    weights = []
    for setting in ("true", "false"):
        more = ["--max_steps", "4", "--gradient_checkpointing", setting, *NO_CHECKPOINTS]
        run = train_quickly(tiny_bart, tiny_encoder, session_data, tmp_path / setting, *more)
        weights.append(load_file(run.folder / "adapter_model.safetensors"))
    assert all(torch.allclose(weights[0][name], value, atol=1e-6) for name, value in weights[1].items())


def test_a_run_of_the_other_kind_leaves_no_stale_part(
    tiny_bart: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path
) -> None:
    for lora, there, gone in (
        ("true", "adapter_model.safetensors", "generator"),
        ("false", "generator", "adapter_config.json"),
    ):
        more = ["--max_steps", "2", "--lora", lora, *NO_CHECKPOINTS]
        run = train_quickly(tiny_bart, tiny_encoder, session_data, tmp_path / "out", *more)
        assert (run.folder / there).exists()
        assert not (run.folder / gone).exists()
        run.load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--max_input_length", "300"], "max_input_length: the generator knows 256 positions, found 300"),
        (["--max_response_length", "5"], "max_response_length: 5 tokens do not hold the longest description"),
    ],
)
def test_lengths_that_do_not_fit(
    tiny_bart: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path, settings: list[str], message: str
) -> None:
    (tmp_path / "out" / "checkpoint-7").mkdir(parents=True)
    (tmp_path / "out" / "metrics.json").write_text("{}", encoding="utf-8")
    with pytest.raises(LagamcError, match=message):
        train_quickly(tiny_bart, tiny_encoder, session_data, tmp_path / "out", *settings)
    # what an earlier run left stays where a run is refused
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"checkpoint-7", "metrics.json"}


def test_the_model_is_saved_before_it_is_measured(
    tiny_bart: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(lagamc.training, "finish", fail)
    with pytest.raises(MemoryError):
        train_quickly(tiny_bart, tiny_encoder, session_data, tmp_path / "out", "--max_steps", "1", *NO_CHECKPOINTS)
    assert LagamcClassifier.from_pretrained(tmp_path / "out", "cpu").predict(["A text."])


def test_a_label_without_a_training_row_is_scored_by_its_description(
    tiny_t5: Path, tiny_encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that is added later: what was trained only learned to give it to no text."""
    data = write_data(tmp_path / "data")
    labels = json.loads((data / "labels.json").read_text(encoding="utf-8"))
    labels["rude"] = "Impolite staff: somebody at the shop was rude to the customer."
    (data / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    run = train_quickly(tiny_t5, tiny_encoder, data, tmp_path / "out", "--max_steps", "2", *NO_CHECKPOINTS)
    classifier = run.load()
    assert classifier.config.untrained == ["rude"]
    assert "told by their descriptions alone: rude." in (run.folder / "README.md").read_text(encoding="utf-8")
    place, texts = classifier.bank.names.index("rude"), ["The man at the till shouted at me.", "Where is my lamp?"]
    near = classifier.evidence(texts)["unseen"]
    as_frequent = classifier.rules.calibration["unseen"].apply(near)[:, place]
    counts = [count for count in classifier.config.label_counts.values() if count]
    rarer = logit(as_frequent) - np.log(1 + np.mean(counts))  # no row of so many: (0 + 1) / (mean + 1)
    assert [p.scores["rude"] for p in classifier.predict(texts)] == pytest.approx(expit(rarer), abs=1e-5)
    assert classifier.predict([]) == []
    # rows of it to tune on are not used by what scores it, and that is said
    classifier.tune([*texts, *texts], [["rude"], ["late"]] * 2)
    assert "labels ['rude']: no training row had them" in caplog.text
    # its tuned threshold is lost only where it is reworded
    kept = classifier.with_bank(classifier.bank).rules.limits("fast", "macro_f1", None, None)
    assert kept.tolist() == classifier.rules.limits("fast", "macro_f1", None, None).tolist()


def test_a_label_that_no_row_has_can_be_written(tiny_t5: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    """Its description may be longer than any response of the rows."""
    data = write_data(tmp_path / "data")
    labels = json.loads((data / "labels.json").read_text(encoding="utf-8"))
    labels["rare"] = "Rare: " + "a thing that nobody ever wrote about and that takes many words to describe " * 8
    (data / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    run = train_quickly(tiny_t5, tiny_encoder, data, tmp_path / "out", "--max_steps", "1", *NO_CHECKPOINTS)
    config = run.load().config
    assert config.max_response_length > max(len(ids) for ids in run.load().model.codec.token_ids)
