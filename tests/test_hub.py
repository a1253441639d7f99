"""Models pulled over HTTP by the unmodified client."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from lagamc import cli
from lagamc.artifact import find_artifact, published_files, read_config
from lagamc.classifier import LagamcClassifier
from lagamc.encoders import load_sentence_encoder
from lagamc.errors import LagamcError
from lagamc.generators import find_generator, load_config, load_generator
from lagamc.hub import BAD_ADDRESS, HubAccess, hub_errors, split_reference
from tests.artifacts import Trained
from tests.conftest import ROWS
from tests.hub_server import READ_TOKEN, TOKEN, Hub, Repo, Tree

TEXTS = [str(row["text"]) for row in ROWS]
WEIGHTS = "generator/model.safetensors"


def tree_of(folder: Path, **changes: Any) -> Tree:
    """The published files of a folder; `changes` go into `lagamc_config.json`."""
    files = {name: (folder / name).read_bytes() for name in published_files(folder)}
    files["lagamc_config.json"] = json.dumps({**json.loads(files["lagamc_config.json"]), **changes}).encode()
    return files


@pytest.fixture
def shop(hub: Hub, trained_whole: Trained) -> Repo:
    """The repo `you/shop` with a model that was trained whole."""
    return hub.make("you/shop", tree_of(trained_whole.folder))


def load(name: str = "you/shop", **settings: Any) -> LagamcClassifier:
    return LagamcClassifier.from_pretrained(name, "cpu", **settings)


def refusal(name: str = "you/shop", **settings: Any) -> str:
    """The message with which a model is not loaded."""
    with pytest.raises(LagamcError) as caught:
        load(name, **settings)
    return str(caught.value)


# names


def test_names_and_revisions(tmp_path: Path) -> None:
    odd = tmp_path / "a@b"
    odd.mkdir()
    assert split_reference("you/shop") == ("you/shop", None)
    assert split_reference("you/shop@v1.0/x") == ("you/shop", "v1.0/x")
    assert split_reference("you/shop", "v1") == ("you/shop", "v1")
    assert split_reference("you/shop@v1", "v1") == ("you/shop", "v1")
    assert split_reference(str(odd)) == (str(odd), None)
    assert split_reference(odd) == (str(odd), None)


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("you/shop@v1", "v2", "expected one revision, found 'v1' and 'v2'"),
        ("you/shop@", None, "the revision is empty"),
        ("you/shop", " ", "the revision is empty"),
        ("HERE@v1", None, "is a folder here, which has no revision 'v1'"),
        ("HERE", "main", "is a folder here, which has no revision 'main'"),
        ("HERE/nowhere", None, "no such model folder"),
        ("./nowhere", None, "no such model folder"),
        ("a/b/c", None, "no such model folder"),
        ("you/sh op", None, "no such model folder, and no name of the Hub, such as you/name"),
        ("you/shöp", None, "no such model folder, and no name of the Hub"),
        ("", None, "no such model folder, and no name of the Hub"),
        ("HERE/file", None, "expected a folder, found a file"),
    ],
)
def test_what_is_no_name(tmp_path: Path, name: str, revision: str | None, message: str) -> None:
    (tmp_path / "file").touch()
    assert message in refusal(name.replace("HERE", str(tmp_path)), revision=revision)


# pulling


def test_pulled_model_predicts_like_the_local_one(hub: Hub, shop: Repo, trained_whole: Trained) -> None:
    pulled = load()
    assert pulled.predict(TEXTS) == trained_whole.load().predict(TEXTS)
    files, fetched = shop.files(), hub.fetched()
    assert len(fetched) == len(set(fetched))
    assert {*fetched} <= {*published_files(trained_whole.folder)}
    # what two parts have in common is fetched once
    assert {files[name] for name in fetched} == {files[name] for name in published_files(trained_whole.folder)}
    hub.requests.clear()
    load()
    assert hub.fetched() == []


def test_revisions_tags_and_commits(hub: Hub, trained_whole: Trained) -> None:
    def tree(overall: float) -> Tree:
        return tree_of(trained_whole.folder, thresholds={"goal": "micro_f1", "overall": overall, "per_label": {}})

    repo = hub.make("you/shop", tree(0.1))
    first = repo.branches["main"]
    repo.tags["v1"] = first
    repo.commit("main", tree(0.2), "again")
    repo.branches["try/this"] = repo.branches["main"]
    repo.commit("try/this", tree(0.3), "and again")

    def overall(name: str, revision: str | None = None) -> float:
        return load(name, revision=revision).rules.thresholds.overall

    assert [overall("you/shop", revision) for revision in (None, "main", "v1", first)] == [0.2, 0.2, 0.1, 0.1]
    assert [overall(f"you/shop@{revision}") for revision in ("v1", first, "try/this")] == [0.1, 0.1, 0.3]
    message = refusal("you/shop@v9")
    assert "you/shop has no revision 'v9'; found main, try/this, v1" in message


def test_base_model_is_taken_at_its_recorded_revision(hub: Hub, trained_t5: Trained, tiny_bart: Path) -> None:
    base = hub.make("them/t5", {p.name: p.read_bytes() for p in trained_t5.base.iterdir()})
    trained_on = base.branches["main"]
    base.commit("main", {p.name: p.read_bytes() for p in tiny_bart.iterdir()}, "something else")
    hub.make("you/shop", tree_of(trained_t5.folder, base_model="them/t5", base_revision=trained_on))
    assert load().predict(TEXTS) == trained_t5.load().predict(TEXTS)
    assert load(base_model=f"them/t5@{trained_on}").predict(TEXTS[:1]) == trained_t5.load().predict(TEXTS[:1])
    assert "does not fit the base model 'them/t5@" in refusal(base_model="them/t5")
    del hub.repos["them/t5"]
    hub.make("you/other", tree_of(trained_t5.folder, base_model="them/gone"))
    assert "the adapter's base model: no generator can be loaded from 'them/gone'" in refusal("you/other")


def test_predict_command_takes_a_revision(
    hub: Hub, shop: Repo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.tags["v1"] = shop.branches["main"]
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": TEXTS[0]}) + "\n", encoding="utf-8")
    words = ["predict", "--model", "you/shop@v1", "--input", str(tmp_path / "in.jsonl"), "--device", "cpu"]
    assert cli.main([*words, "--output", str(tmp_path / "out.jsonl")]) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))["scores"]
    words[2] = "you/shop@v2"
    assert cli.main(words) == 2
    assert "you/shop has no revision 'v2'; found main, v1" in capsys.readouterr().err


def test_evaluate_command_does_not_tune_what_is_on_the_hub(
    hub: Hub, shop: Repo, session_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "you/shop", str(session_data / "test.jsonl"), "--device", "cpu"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == len(ROWS)
    assert cli.main([*words, "--tune"]) == 2
    assert "this model is on the Hub" in capsys.readouterr().err


# who may read


def test_private_repo(hub: Hub, shop: Repo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    shop.private = True
    caplog.set_level(logging.DEBUG)
    messages = [refusal()]
    assert "there is no repo you/shop, or it is private; check the name, or log in with `hf auth login`" in messages[0]
    assert refusal(token="") == messages[0]
    messages.append(refusal(token=READ_TOKEN))
    assert "there is no repo you/shop, or the token in use has no access to it" in messages[1]
    messages.append(refusal(token="hf_thistokenisrevokedABCDEFGHIJKL"))
    assert "the token in use is not valid" in messages[2]
    monkeypatch.setenv("HF_TOKEN", "hf_äöü not a token at all")
    messages.append(refusal())
    assert "holds characters that no token has" in messages[3]
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    messages.append(refusal())
    assert "there is no repo you/shop" in refusal(token=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    load()
    assert "hf_" not in "".join(messages).replace("hf_auth", "") + caplog.text
    assert TOKEN not in repr(HubAccess(TOKEN))


def test_token_argument_and_file(hub: Hub, shop: Repo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shop.private = True
    load(token=TOKEN)
    (tmp_path / "token").write_text(TOKEN, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    load(cache_dir=tmp_path / "cache")
    assert (tmp_path / "cache").is_dir()


def test_gated_repo(hub: Hub, shop: Repo) -> None:
    shop.gated = True
    assert "you/shop is gated: ask for access on its page and log in" in refusal()
    assert refusal(token=READ_TOKEN).endswith("you/shop is gated: ask for access on its page")
    load(token=TOKEN)


# what is missing or spoiled


@pytest.mark.parametrize("part", ["labels.json", WEIGHTS, "sentence_encoder/modules.json", "lagamc_config.json"])
def test_missing_part_is_named(hub: Hub, trained_whole: Trained, part: str) -> None:
    files = tree_of(trained_whole.folder)
    del files[part]
    repo = hub.make("you/shop", files)
    message = refusal()
    assert part in message
    assert message.startswith(f"you/shop@{repo.branches['main'][:8]}: ")


@pytest.mark.parametrize(
    ("command", "part"),
    [("predict", "lagamc_config.json"), ("predict", WEIGHTS), ("evaluate", "labels.json"), ("evaluate", WEIGHTS)],
)
def test_commands_name_the_repo_of_a_missing_part(
    hub: Hub, trained_whole: Trained, tmp_path: Path, command: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tree_of(trained_whole.folder)
    del files[part]
    repo = hub.make("you/shop", files)
    rows = tmp_path / "in.jsonl"
    rows.write_text(json.dumps({"text": TEXTS[0], "labels": []}) + "\n", encoding="utf-8")
    words = {
        "predict": ["--model", "you/shop", "--input", str(rows), "--output", str(tmp_path / "out.jsonl")],
        "evaluate": ["you/shop", str(rows)],
    }
    assert cli.main([command, *words[command], "--device", "cpu"]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: you/shop@{repo.branches['main'][:8]}: ")
    assert part in line


def test_newer_format(hub: Hub, trained_whole: Trained) -> None:
    hub.make("you/shop", tree_of(trained_whole.folder, format_version=99))
    assert "format_version is 99" in refusal()
    assert "install a newer lagamc" in refusal()


def test_a_repo_that_is_no_model(hub: Hub) -> None:
    hub.make("you/notes", {"notes.txt": b"nothing"})
    assert "it is a repo of the Hub without any of the files of a model" in refusal("you/notes")
    hub.make("you/bert", {"README.md": b"# BERT"})
    assert "holds no lagamc_config.json, so it is no lagamc model" in refusal("you/bert")


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


PICKLES = [
    *("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "model.pt", "retrieval.bin"),
    *("generator/pytorch_model.bin", "generator/model.pkl", "sentence_encoder/pytorch_model.bin"),
    *("sentence_encoder/1_Pooling/pytorch_model.bin", "sentence_encoder/adapter_model.bin"),
]


def test_pickles_are_neither_fetched_nor_opened(hub: Hub, trained_whole: Trained, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    hub.make("you/shop", tree_of(trained_whole.folder) | dict.fromkeys(PICKLES, bomb))
    assert load().predict(TEXTS[:1]) == trained_whole.load().predict(TEXTS[:1])
    assert [path for path in hub.fetched() if path.endswith((".bin", ".pt", ".pkl"))] == []
    folder = trained_whole.copy_to(tmp_path / "model")
    for name in PICKLES:
        (folder / name).write_bytes(bomb)
    with pytest.raises(LagamcError, match=r"1_Pooling/pytorch_model\.bin is a pickle, which is never opened"):
        load(str(folder))
    (folder / "sentence_encoder/1_Pooling/pytorch_model.bin").unlink()
    assert load(str(folder)).predict(TEXTS[:1]) == trained_whole.load().predict(TEXTS[:1])
    for part in (WEIGHTS, "sentence_encoder/model.safetensors"):
        (folder / part).rename(folder / "away")
        assert part in refusal(str(folder))
        (folder / "away").rename(folder / part)
    assert not (tmp_path / "exploded").exists()


def test_code_of_others_runs_only_where_it_is_asked_for(hub: Hub, tiny_t5: Path, tmp_path: Path) -> None:
    files = {p.name: p.read_bytes() for p in tiny_t5.iterdir()}
    config = json.loads(files["config.json"])
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "strange.StrangeConfig"}}
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nfrom transformers import T5Config\n"
    code += "class StrangeConfig(T5Config):\n    model_type = 'strange'\n"
    hub.make("them/t5", {**files, "config.json": json.dumps(config).encode(), "strange.py": code.encode()})
    folder = find_generator("them/t5").folder
    with pytest.raises(LagamcError, match="custom code"):
        load_config(folder)
    assert not any(path.endswith(".py") for path in hub.fetched())
    assert not (tmp_path / "ran").exists()
    trusting = HubAccess(trust_remote_code=True)
    assert load_config(find_generator("them/t5", access=trusting).folder, True).model_type == "strange"
    assert (tmp_path / "ran").exists()


def test_an_address_of_a_proxy_that_is_none() -> None:
    said = r"cannot be reached \(Invalid port: 'abc'\); check HF_ENDPOINT, HTTP_PROXY"
    with pytest.raises(LagamcError, match=said), hub_errors("no model:", "you/shop"):
        raise BAD_ADDRESS("Invalid port: 'abc'")


def test_encoders_and_generators_of_the_hub(hub: Hub, tiny_t5: Path, tiny_t5_encoder: Path) -> None:
    more: Tree = {"tf_model.h5": b"x", "model.onnx": b"x", "onnx/config.json": b"{}", "pytorch_model.bin": b"x"}
    hub.make("them/t5", {p.name: p.read_bytes() for p in tiny_t5.iterdir()} | more)
    found = find_generator("them/t5@main")
    assert found.commit == hub.repos["them/t5"].branches["main"]
    assert load_generator(found.folder).config.d_model == 16
    encoder = {str(p.relative_to(tiny_t5_encoder)): p.read_bytes() for p in tiny_t5_encoder.rglob("*") if p.is_file()}
    hub.make("them/encoder", encoder | more)
    assert load_sentence_encoder("them/encoder", "main").get_embedding_dimension() == 12
    assert {"2_Dense/model.safetensors", "model.safetensors", "1_Pooling/config.json"} <= {*hub.fetched()}
    assert {*hub.fetched()} & {*more} == set()
    with pytest.raises(LagamcError, match="no sentence encoder can be loaded from 'them/none'"):
        load_sentence_encoder("them/none")


# connections


MIB = 1 << 20
LARGE = "generator/large.safetensors"  # the client keeps what it has in pieces of ten MiB


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: Hub, trained_whole: Trained) -> None:
    content = bytes(range(256)) * (13 * MIB // 256)
    hub.make("you/shop", tree_of(trained_whole.folder) | {LARGE: content})
    hub.cut(LARGE, 11 * MIB)
    assert load().predict(TEXTS[:2]) == trained_whole.load().predict(TEXTS[:2])
    assert [wanted for method, _, wanted in hub.requests if wanted] == [f"bytes={10 * MIB}-"]
    assert (find_artifact("you/shop").folder / LARGE).read_bytes() == content


def test_a_download_that_breaks_off_is_said_and_taken_up_again(
    hub: Hub, shop: Repo, trained_whole: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.cut(WEIGHTS, 100, times=9)
    message = refusal()
    assert "the transfer of you/shop broke off" in message
    assert "run it again: files that are complete are not transferred again" in message
    hub.cuts.clear()
    before = {*hub.fetched()} - {WEIGHTS}
    hub.requests.clear()
    assert load().predict(TEXTS[:2]) == trained_whole.load().predict(TEXTS[:2])
    assert {*hub.fetched()} & before == set()
    assert WEIGHTS in hub.fetched()


def test_without_a_network(hub: Hub, shop: Repo, trained_whole: Trained) -> None:
    with hub.unreachable():
        message = refusal()
        assert "no such folder here" in message
        assert "you/shop cannot be reached" in message
        assert "check the connection" in message
    assert "you/shop is not whole in the cache; leave out local_files_only" in refusal(local_files_only=True)
    load()
    expected = trained_whole.load().predict(TEXTS)
    with hub.unreachable():
        assert load().predict(TEXTS) == expected
        assert load(local_files_only=True).predict(TEXTS) == expected
        assert "you/other cannot be reached" in refusal("you/other")
    hub.requests.clear()
    load(local_files_only=True)
    assert hub.requests == []


def test_offline_by_the_environment(hub: Hub, shop: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = find_artifact("you/shop").commit
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_artifact("you/shop").commit == commit
    assert "you/other is not in the cache, and HF_HUB_OFFLINE forbids to fetch it" in refusal("you/other")


def test_a_hub_that_is_out_of_order(hub: Hub, shop: Repo) -> None:
    hub.failing = 500
    assert "the Hub answered 500 (out of order)" in refusal()
    hub.failing = 429
    assert "the Hub answered 429" in refusal()
    hub.failing = 200
    assert f"you/shop cannot be reached: {hub.url} does not answer as a Hub does" in refusal()


def test_an_incomplete_cache_is_no_model(hub: Hub, shop: Repo) -> None:
    folder = find_artifact("you/shop").folder
    (folder / "labels.json").unlink()
    with hub.unreachable():
        assert "not whole in the cache" in refusal()
    load()
    assert read_config(folder)
