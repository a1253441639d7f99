"""Models pushed over HTTP by the unmodified client: what is sent, and what comes back."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard

from lagamc.artifact import published_files, read_config
from lagamc.classifier import LagamcClassifier
from lagamc.errors import LagamcError
from lagamc.hub import HubAccess
from lagamc.publishing import create_repo, publish
from tests.artifacts import NO_CHECKPOINTS, Trained, assert_alike, train_quickly
from tests.conftest import ROWS
from tests.hub_server import READ_TOKEN, TOKEN, Hub

TEXTS = [str(row["text"]) for row in ROWS]
COMMON = {"README.md", "labels.json", "lagamc_config.json", "retrieval.safetensors", "lexical.safetensors"}
ENCODER = {
    *("1_Pooling/config.json", "config.json", "config_sentence_transformers.json", "model.safetensors"),
    *("modules.json", "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"),
}
TWO_CHECKPOINTS = ["--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "2", "--save_steps", "2"]
ADAPTER = COMMON | {f"sentence_encoder/{name}" for name in ENCODER}
ADAPTER |= {"adapter_config.json", "adapter_model.safetensors"}
# which a checkpoint is not
TUNED = ADAPTER | {
    "background.safetensors",
    *(f"unseen_encoder/{name}" for name in (*ENCODER, "background.safetensors")),
}


@pytest.fixture
def owner(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The Hub, with the token of the user `you` in the environment."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture
def pushing(owner: Hub, session_data: Path, tiny_t5: Path, tiny_encoder: Path, tmp_path: Path) -> Any:
    """Trains with `--push_to_hub` to `you/run`."""

    def run(*more: str) -> Trained:
        settings = ["--push_to_hub", "true", "--hub_model_id", "you/run", "--max_steps", "4", *more]
        return train_quickly(tiny_t5, tiny_encoder, session_data, tmp_path / "run", *settings)

    return run


# from Python


def test_exactly_the_model_folder_is_sent(owner: Hub, trained_t5: Trained, tmp_path: Path) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")
    (folder / "sentence_encoder" / "notes.txt").write_text("mine", encoding="utf-8")
    commit = LagamcClassifier.from_pretrained(folder, "cpu").push_to_hub("you/shop")
    assert owner.received["you/shop"] == TUNED
    repo = owner.repos["you/shop"]
    assert {*repo.files()} == TUNED | {".gitattributes"}
    assert not repo.private
    assert commit.oid == repo.branches["main"]
    for name in ("adapter_model.safetensors", "labels.json"):
        assert repo.files()[name] == (folder / name).read_bytes()
    card = ModelCard(repo.files()["README.md"].decode())
    assert 'from_pretrained("you/shop")' in card.content
    assert card.data.library_name == "lagamc"
    assert LagamcClassifier.from_pretrained("you/shop", "cpu", revision=commit.oid).predict(
        TEXTS
    ) == trained_t5.load().predict(TEXTS)


def test_private_branches_and_messages(owner: Hub, classifier: LagamcClassifier) -> None:
    classifier.push_to_hub("you/shop", private=True, revision="next", commit_message="Try")
    repo = owner.repos["you/shop"]
    assert repo.private
    assert {*repo.files()} == {".gitattributes"}
    assert {*repo.files("next")} == TUNED | {".gitattributes"}
    assert repo.messages[-1] == "Try"
    classifier.push_to_hub("you/shop", revision="next")
    assert len(repo.commits) == 2, "nothing had changed"
    assert classifier.push_to_hub("named-alone").oid == owner.repos["you/named-alone"].branches["main"]


def test_an_earlier_model_goes_and_other_files_stay(
    owner: Hub, trained_whole: Trained, classifier: LagamcClassifier
) -> None:
    trained_whole.load().push_to_hub("you/shop")
    repo = owner.repos["you/shop"]
    assert "generator/model.safetensors" in repo.files()
    tree = {**repo.files(), "logo.png": b"picture", "sentence_encoder/pytorch_model.bin": b"old"}
    repo.commit("main", tree, "by hand")
    classifier.push_to_hub("you/shop")
    assert {*repo.files()} == TUNED | {".gitattributes", "logo.png"}


def test_a_card_that_was_changed_by_hand_goes_along(owner: Hub, trained_t5: Trained, tmp_path: Path) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    mine = (folder / "README.md").read_text(encoding="utf-8") + "\nWritten by me.\n"
    (folder / "README.md").write_text(mine, encoding="utf-8")
    classifier = LagamcClassifier.from_pretrained(folder, "cpu")
    classifier.push_to_hub("you/shop")
    assert owner.repos["you/shop"].files()["README.md"].decode() == mine
    again = LagamcClassifier.from_pretrained("you/shop", "cpu")
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text(encoding="utf-8") == mine
    again.with_labels({"late": "Late parcel: still waiting"}).save_pretrained(tmp_path / "reworded")
    assert "Written by me" not in (tmp_path / "reworded" / "README.md").read_text(encoding="utf-8")


def refusal(action: Any, *arguments: Any, **settings: Any) -> str:
    with pytest.raises(LagamcError) as caught:
        action(*arguments, **settings)
    return str(caught.value)


def test_what_cannot_be_pushed(
    hub: Hub, classifier: LagamcClassifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    messages = [refusal(classifier.push_to_hub, "you/shop")]
    assert "cannot push: you/shop needs a token; log in with `hf auth login` or set HF_TOKEN" in messages[0]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    messages.append(refusal(classifier.push_to_hub, "them/shop"))
    assert "the token in use may not do this with them/shop (You don't have the rights" in messages[-1]
    messages.append(refusal(classifier.push_to_hub, "you/shop", token=READ_TOKEN))
    assert "may not do this with you/shop" in messages[-1]
    messages.append(refusal(classifier.push_to_hub, "you/shop", token="hf_thistokenisrevokedABCDEFGHIJKL"))
    assert "the token in use is not valid" in messages[-1]
    for name in ("you/sh op", "a/b/c", "you/..", "", None):
        messages.append(refusal(classifier.push_to_hub, name))
        assert "cannot push:" in messages[-1]
    repo = hub.make("you/public")
    repo.tags["v1"] = repo.branches["main"]
    messages.append(refusal(classifier.push_to_hub, "you/public", private=True))
    assert "you/public is there already and public" in messages[-1]
    assert "'v1' is a tag of you/public" in refusal(classifier.push_to_hub, "you/public", revision="v1")
    commit = repo.branches["main"]
    assert f"found the commit {commit}" in refusal(classifier.push_to_hub, "you/public", revision=commit)
    with hub.unreachable():
        messages.append(refusal(classifier.push_to_hub, "you/shop"))
        assert "the transfer of you/shop broke off" in messages[-1]
    hub.failing = 500
    messages.append(refusal(classifier.push_to_hub, "you/shop"))
    assert "the Hub answered 500" in messages[-1]
    assert hub.received == {}
    assert [word for word in ("".join(messages) + caplog.text).split() if word.startswith("hf_")] == []


def test_a_broken_folder_is_not_sent(owner: Hub, trained_t5: Trained, tmp_path: Path) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    (folder / "labels.json").unlink()
    repo = create_repo("you/shop")
    assert "missing: labels.json" in refusal(publish, folder, repo)
    assert owner.received == {}
    assert "no such model folder" in refusal(publish, tmp_path / "nowhere", repo)


# while training


def spoken_of(hub: Hub, name: str) -> str:
    """All text of a repo, of all its commits."""
    trees = hub.repos[name].commits.values()
    return "\n".join(content.decode("latin-1") for tree in trees for content in tree.values())


def test_final_push_of_a_training(pushing: Any, owner: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    run = pushing("--hub_strategy", "end", "--hub_private_repo", "true", "--hub_token", TOKEN, *TWO_CHECKPOINTS)
    repo = owner.repos["you/run"]
    assert owner.received["you/run"] == TUNED
    assert repo.messages == ["initial commit", "End of training"]
    assert repo.private
    assert {*repo.files()} == TUNED | {".gitattributes"}
    for name in published_files(run.folder):
        assert repo.files()[name] == (run.folder / name).read_bytes(), name
    card = repo.files()["README.md"].decode()
    assert f"| test | {run.figures['test_micro_f1']:.4f} |" in card
    assert 'from_pretrained("you/run")' in card
    assert {"metrics.json", "report_data"} <= {p.name for p in run.folder.iterdir()}
    assert not list(run.folder.rglob("training_args.bin"))
    assert TOKEN not in spoken_of(owner, "you/run")
    output = capsys.readouterr()
    assert TOKEN not in output.out + output.err
    assert f"the model is at {owner.url}/you/run/commit/{repo.branches['main']}" in output.out


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_checkpoint_pushes(pushing: Any, owner: Hub, strategy: str) -> None:
    settings = ["--hub_strategy", strategy, "--hub_always_push", "true", "--hub_revision", "trial"]
    run = pushing(*settings, "--save_total_limit", "1", *TWO_CHECKPOINTS)
    repo = owner.repos["you/run"]
    below = {
        "every_save": [],
        "checkpoint": ["last-checkpoint"],
        "all_checkpoints": ["checkpoint-2", "checkpoint-4"],
    }
    copies = {f"{place}/{name}" for place in below[strategy] for name in ADAPTER}
    assert owner.received["you/run"] == TUNED | copies
    assert {*repo.files("trial")} == TUNED | copies | {".gitattributes"}
    assert {*repo.files("main")} == {".gitattributes"}
    assert repo.messages[-1] == "End of training"
    assert {"Training in progress, step 2", "Training in progress, step 4"} <= {*repo.messages}
    first = next(tree for sha, tree in repo.commits.items() if "lagamc_config.json" in tree)
    assert "## Results" not in first["README.md"].decode(), "nothing had been measured"
    assert [p.name for p in run.folder.iterdir() if p.name.startswith(".push-")] == []
    assert LagamcClassifier.from_pretrained("you/run@trial", "cpu").predict(TEXTS) == run.load().predict(TEXTS)
    files, fetched = repo.files("trial"), {*owner.fetched()}
    assert fetched <= TUNED
    assert {files[name] for name in fetched} == {files[name] for name in TUNED}


def test_a_checkpoint_that_cannot_be_pushed_does_not_stop_the_training(
    pushing: Any, owner: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from lagamc.trainer import LagamcTrainer

    send = LagamcTrainer.publish

    def fail_in_between(self: LagamcTrainer, folder: Any, message: str, *rest: Any, **settings: Any) -> Any:
        owner.failing = 500 if message.startswith("Training in progress") else None
        return send(self, folder, message, *rest, **settings)

    monkeypatch.setattr(LagamcTrainer, "publish", fail_in_between)
    pushing(*TWO_CHECKPOINTS)
    assert "a checkpoint was not pushed, the training goes on: cannot push" in caplog.text
    assert {*owner.repos["you/run"].files()} == TUNED | {".gitattributes"}


def test_a_training_that_may_not_push_stops_at_once(
    hub: Hub, session_data: Path, tiny_t5: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    settings = ["--push_to_hub", "true", "--hub_model_id", "you/run", *NO_CHECKPOINTS]
    message = refusal(train_quickly, tiny_t5, tiny_encoder, session_data, tmp_path / "run", *settings)
    assert "cannot push: you/run needs a token" in message
    assert not (tmp_path / "run" / "lagamc_config.json").exists()


def test_a_final_push_that_fails_leaves_the_model(
    pushing: Any, owner: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lagamc.trainer import LagamcTrainer

    send = LagamcTrainer.publish

    def fail(*arguments: Any, **settings: Any) -> Any:
        owner.failing = 503
        return send(*arguments, **settings)

    monkeypatch.setattr(LagamcTrainer, "publish", fail)
    message = refusal(pushing, *NO_CHECKPOINTS)
    assert "the Hub answered 503" in message
    assert str(tmp_path / "run") in message
    assert (tmp_path / "run" / "metrics.json").is_file()
    LagamcClassifier.from_pretrained(tmp_path / "run", "cpu")


# in a new process, with an empty cache

PULL = """
import json, sys
from dataclasses import asdict
from lagamc import LagamcClassifier
texts, *names = json.loads(sys.argv[1])
print(json.dumps([[asdict(p) for p in LagamcClassifier.from_pretrained(n, "cpu").predict(texts)] for n in names]))
"""
PEFT_ALONE = """
import sys
from huggingface_hub import snapshot_download
from peft import AutoPeftModelForSeq2SeqLM
from safetensors.torch import save_file
import torch
model = AutoPeftModelForSeq2SeqLM.from_pretrained(snapshot_download("you/adapter")).eval()
inputs = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "decoder_input_ids": torch.tensor([[0, 5, 6]])}
with torch.no_grad():
    save_file({"logits": model(**inputs).logits}, sys.argv[1])
assert "lagamc" not in sys.modules
"""


def elsewhere(code: str, *arguments: str, home: Path) -> str:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout


def test_pushed_and_pulled_into_an_empty_cache_in_a_new_process(
    owner: Hub, trained_whole: Trained, session_data: Path, tiny_t5: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    trained_whole.load().push_to_hub("you/whole", private=True)
    base = owner.make("them/t5", {p.name: p.read_bytes() for p in tiny_t5.iterdir()})
    trained_on = base.branches["main"]
    adapter = train_quickly(
        Path("them/t5"), tiny_encoder, session_data, tmp_path / "adapter", "--max_steps", "8", *NO_CHECKPOINTS
    )
    config = read_config(adapter.folder)
    assert (config.base_model, config.base_revision) == ("them/t5", trained_on)
    base.commit("main", {"config.json": b"{}"}, "broken since")
    local = adapter.load()
    local.push_to_hub("you/adapter")
    sent = json.loads(owner.repos["you/adapter"].files()["adapter_config.json"])
    assert (sent["base_model_name_or_path"], sent["revision"]) == ("them/t5", trained_on)
    card = ModelCard(owner.repos["you/adapter"].files()["README.md"].decode())
    assert card.data.base_model == "them/t5"
    assert f"revision `{trained_on}`" in card.content

    names = ["you/whole", "you/adapter"]
    answers = json.loads(elsewhere(PULL, json.dumps([TEXTS, *names]), home=tmp_path / "home"))
    for expected, found in zip((trained_whole.load(), local), answers, strict=True):
        assert_alike(found, expected.predict(TEXTS))
    elsewhere(PEFT_ALONE, str(tmp_path / "logits.safetensors"), home=tmp_path / "other")
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "decoder_input_ids": torch.tensor([[0, 5, 6]])}
    with torch.no_grad():
        ours = local.model.generator(**inputs).logits
    torch.testing.assert_close(load_file(tmp_path / "logits.safetensors")["logits"], ours)


def test_the_server_keeps_what_the_client_sends(owner: Hub, tmp_path: Path) -> None:
    """The assertions above rest on it: a stranger that is sent is seen."""
    create_repo("you/shop", access=HubAccess(TOKEN))
    (tmp_path / "training_args.bin").write_bytes(b"secret")
    (tmp_path / "metrics.json").write_bytes(b"{}")
    HfApi().upload_folder(repo_id="you/shop", folder_path=tmp_path)
    assert owner.received["you/shop"] == {"training_args.bin", "metrics.json"}
