"""Settings from YAML and the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lagamc.config import parse_arguments
from lagamc.errors import LagamcError

CONFIGS = sorted(Path(__file__).parent.parent.joinpath("configs").rglob("*.yaml"))


def config(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def message(*arguments: str) -> str:
    with pytest.raises(LagamcError) as error:
        parse_arguments(arguments)
    return str(error.value)


def test_yaml(tmp_path: Path) -> None:
    text = """
        data_dir: data
        learning_rate: 2e-4
        num_train_epochs: 3
        lora_alpha: null
        train_sentence_encoder: false
        minimum_similarity: -0.4
        instruction: "Read: it - twice"
        unlabelled: keep
        output_dir: out
    """
    model, data, training = parse_arguments(["--config", config(tmp_path, text)])
    assert isinstance(training.learning_rate, float)
    assert (training.learning_rate, training.num_train_epochs, training.output_dir) == (2e-4, 3, "out")
    assert (model.lora_alpha, model.train_sentence_encoder, model.minimum_similarity) == (None, False, -0.4)
    assert (data.data_dir, data.instruction, data.unlabelled) == ("data", "Read: it - twice", "keep")


@pytest.mark.parametrize(
    "key",
    ["lora_rank", "learning_rate", "lambda_minimum", "max_input_length", "train_sentence_encoder", "label_vocabulary"],
)
def test_yaml_without_a_value(tmp_path: Path, key: str) -> None:
    found = message("--config", config(tmp_path, f"data_dir: data\n{key}:\n"))
    assert f"{key}: expected a value, found nothing" in found


@pytest.mark.parametrize("before", [True, False])
def test_command_line_overrides_yaml(tmp_path: Path, before: bool) -> None:
    path = config(tmp_path, "data_dir: data\nlearning_rate: 2e-4\nmax_input_length: 64\nlora_rank: 4\n")
    override = ["--learning_rate", "1e-3", "--lora_rank=8", "--train_sentence_encoder", "false"]
    model, data, training = parse_arguments(
        [*override, "--config", path] if before else [f"--config={path}", *override]
    )
    assert (training.learning_rate, model.lora_rank, model.train_sentence_encoder) == (1e-3, 8, False)
    assert data.max_input_length == 64


def test_command_line_alone() -> None:
    model, data, training = parse_arguments(["--data_dir", "demo", "--selection_metric", "loss"])
    assert (model.model_name_or_path, model.lora_rank, data.data_dir) == (None, 2, "demo")
    assert (training.metric_for_best_model, training.greater_is_better) == ("loss", False)
    assert parse_arguments(["--data_dir", "demo"])[2].greater_is_better is True


def test_unknown_key_with_suggestion(tmp_path: Path) -> None:
    path = config(tmp_path, "data_dir: data\nlearning_rat: 1e-3\nzzz: 1\n")
    text = message("--config", path)
    assert text.startswith(path)
    assert "unknown key 'learning_rat'; did you mean 'learning_rate'?" in text
    assert "unknown key 'zzz'\n" in text + "\n"


def test_unknown_argument_with_suggestion() -> None:
    assert "unknown argument --lora_rnak; did you mean 'lora_rank'?" in message("--data_dir", "d", "--lora_rnak", "4")
    assert "did you mean 'per_device_train_batch_size'?" in message("--data_dir", "d", "--batch_size", "8")
    assert "unexpected argument 'stray'" in message("--data_dir", "d", "stray")


def test_arguments_are_not_abbreviated() -> None:
    assert "unknown argument --lora_r" in message("--data_dir", "d", "--lora_r", "4")


def test_several_bad_settings_in_one_error(tmp_path: Path) -> None:
    text = """
        learning_rate: 7
        unlabelled: maybe
        lamda_mode: fixed
        lora_rank: much
        temperature: 0
        label_order: random
        train_file: train.jsonl
        data_dir: data
        num_train_epochs: -1
        threshold_goal: accuracy
        lora: true
    """
    text = message("--config", config(tmp_path, text), "--beam", "0", "--promt=news")
    for part in (
        "learning_rate: expected 0 to 1, found 7.0",
        "unlabelled: expected one of ['error', 'keep', 'drop'], found 'maybe'",
        "unknown key 'lamda_mode'; did you mean 'lambda_mode'?",
        "invalid int value: 'much'",
        "temperature: expected 0.001 to 100, found 0.0",
        "label_order: expected one of ['bank', 'frequency', 'given'], found 'random'",
        "found ['data_dir', 'train_file']",
        "train_file needs labels_file",
        "num_train_epochs: expected 1e-06 to 1e+06, found -1.0",
        "threshold_goal: expected micro_f1, macro_f1 or precision>=x, such as precision>=0.9, found 'accuracy'",
        "the embedded generator is trained whole",
        "beam: expected 1 to 256, found 0",
        "unknown argument --promt=news; did you mean 'prompt'?",
    ):
        assert part in text
    assert "13 problems" in text


@pytest.mark.parametrize(
    ("setting", "value", "wrong"),
    [
        ("lambda_initial", "0.05", True),
        ("lambda_minimum", "0.5", True),
        ("semantic_form", "cosine", True),
        ("soft_tokens", "hard", True),
        ("prompt", "poems", True),
        ("max_train_rows", "0", True),
        ("decoder_layers", "7", True),
        ("minimum_similarity", "1.5", True),
        ("dev_fraction", "1", True),
        ("max_input_length", "7", True),
        ("window_stride", "-1", True),
        ("window_stride", "129", True),
        ("temperature", "nan", True),
        ("max_steps", "0", True),
        ("max_grad_norm", "nan", True),
        ("logging_steps", "nan", True),
        ("eval_steps", "-1", True),
        ("data_seed", "-4", True),
        ("torch_compile_backend", "fortran", True),
        ("max_steps", "-1", False),
        ("max_grad_norm", "0", False),
        ("data_seed", "4", False),
        ("gradient_checkpointing_kwargs", '{"use_reentrant": false}', False),
        ("lambda_initial", "0.3", False),
        ("decoder_layers", "6", False),
        ("minimum_similarity", "0.4", False),
        ("max_train_rows", "1", False),
        ("prompt", "news", False),
    ],
)
def test_ranges(setting: str, value: str, wrong: bool) -> None:
    arguments = ["--data_dir", "demo", f"--{setting}", value]
    if wrong:
        assert f"{setting}: expected" in message(*arguments)
    else:
        parse_arguments(arguments)


def test_arguments_of_checkpointing_are_those_of_torch() -> None:
    found = message("--data_dir", "demo", "--gradient_checkpointing_kwargs", '{"reentrant": false}')
    assert "gradient_checkpointing_kwargs: 'reentrant' is none of torch's" in found


def test_files_that_would_not_be_read() -> None:
    found = message("--dataset_name", "them/mail", "--dev_file", "dev.jsonl")
    assert "dev_file: expected with train_file or data_dir alone" in found
    assert "dataset_config: expected with dataset_name alone" in message("--data_dir", "d", "--dataset_config", "x")


@pytest.mark.parametrize("name", ["predict_with_generate", "eval_do_concat_batches"])
def test_what_evaluation_needs(name: str) -> None:
    assert f"{name}: expected true, found false" in message("--data_dir", "demo", f"--{name}", "false")


def test_a_fixed_lambda_may_switch_a_term_off() -> None:
    parse_arguments(["--data_dir", "demo", "--lambda_mode", "fixed", "--lambda_initial", "1"])
    assert "lambda_initial" in message("--data_dir", "demo", "--lambda_initial", "1")


def test_one_source_of_data() -> None:
    assert "expected one of data_dir, train_file or dataset_name, found none" in message()
    assert "found ['data_dir', 'dataset_name']" in message("--data_dir", "d", "--dataset_name", "d")


def test_a_source_of_data_on_the_command_line_takes_the_place_of_the_files(tmp_path: Path) -> None:
    path = config(tmp_path, "data_dir: data\nlabels_file: labels.json\ndev_file: dev.jsonl\n")
    data = parse_arguments(["--config", path, "--train_file", "train.csv"])[1]
    assert (
        parse_arguments(["--config", path, "--train-file", "train.csv", "--labels_file", "l.csv"])[1].data_dir is None
    )
    assert (data.data_dir, data.train_file, data.dev_file, data.labels_file) == (
        None,
        "train.csv",
        None,
        "labels.json",
    )
    data = parse_arguments(["--config", path, "--data_dir", "other"])[1]
    assert (data.data_dir, data.dev_file) == ("other", "dev.jsonl")
    assert "found ['data_dir', 'dataset_name']" in message("--config", path, "--data_dir", "d", "--dataset_name", "d")


def test_problems_of_the_command_line_are_not_those_of_the_file(tmp_path: Path) -> None:
    path = config(tmp_path, "data_dir: data\n")
    assert message("--config", path, "--beam", "0").startswith(f"{path} and command line: beam: ")
    assert message("--config", config(tmp_path, "data_dir: data\nbeam: 0\n")).startswith(f"{path}: beam: ")


def test_lora_with_a_named_model() -> None:
    assert parse_arguments(["--data_dir", "d", "--model_name_or_path", "m", "--lora", "true"])[0].lora is True


@pytest.mark.parametrize(
    "text", ["a: [1, 2", "data_dir: data\n\tlora_rank: 3", "a: b: c", "seed: 1\nseed: 2", "seed: !!int abc"]
)
def test_bad_yaml(tmp_path: Path, text: str) -> None:
    path = config(tmp_path, text)
    found = message("--config", path)
    assert found.startswith(f"{path}: not a YAML file (")
    assert "line " in found
    assert "\n" not in found


def test_a_list_for_one_value(tmp_path: Path) -> None:
    text = message("--config", config(tmp_path, "data_dir: data\nbeam: [3, 4]\nlora_targets: [q, v]\n"))
    assert "beam: expected one value, found list ['3', '4']" in text
    assert "lora_targets: expected one value, found list ['q', 'v']" in text


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("gradient_accumulation_steps: 0", "gradient_accumulation_steps: expected 1 to"),
        ("per_device_eval_batch_size: -4", "per_device_eval_batch_size: expected 1 to"),
        ("seed: -1", "seed: expected 0 to"),
        ("num_train_epochs: 0", "num_train_epochs: expected"),
        ("sentence_encoder_learning_rate: -1", "sentence_encoder_learning_rate: expected 0 to 1"),
        ("label_smoothing_factor: 0.1", "label_smoothing_factor: is not supported"),
        ("bf16: true", "precision is set in accelerate_config.yaml alone"),
        ("generation_max_length: 20", "generation_max_length: set max_response_length instead"),
        ("early_stopping_patience: -1", "early_stopping_patience: expected 0 to"),
        ("early_stopping_patience: 2\neval_strategy: no\nload_best_model_at_end: no", "eval_strategy is no"),
        ("report_to: nobody", "nobody is not supported"),
    ],
)
def test_settings_that_would_fail_later_or_be_ignored(tmp_path: Path, setting: str, found: str) -> None:
    assert found in message("--config", config(tmp_path, f"data_dir: data\n{setting}\n"))


def test_values_in_yaml_are_read_as_they_stand(tmp_path: Path) -> None:
    text = "data_dir: 010\noutput_dir: 1:30\neval_strategy: no\nload_best_model_at_end: no\nlabels_file: on\n"
    _, data, training = parse_arguments(["--config", config(tmp_path, text)])
    assert (data.data_dir, training.output_dir, data.labels_file) == ("010", "1:30", "on")
    assert training.eval_strategy == "no"
    assert training.load_best_model_at_end is False


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "list"), ("just words", "str")])
def test_yaml_that_is_no_mapping(tmp_path: Path, text: str, kind: str) -> None:
    assert f"expected `key: value` lines, found {kind}" in message("--config", config(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "no.yaml")
    assert message("--config", path) == f"{path}: no such configuration file"
    assert message("--config", str(tmp_path)).startswith(f"{tmp_path}: not a YAML file")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs(path: Path) -> None:
    _, data, training = parse_arguments(["--config", str(path)])
    assert data.data_dir or data.dataset_name or data.train_file
    assert training.output_dir
    assert 0 < training.learning_rate < 0.1
