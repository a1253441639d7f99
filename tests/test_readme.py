"""The README's example commands and code run as they stand, on a tiny model in place of the demonstration one."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import gradio
import pytest

from lagamc import cli
from lagamc.config import parse_arguments
from lagamc.labels import LabelBank
from tests.artifacts import Trained
from tests.hub_server import TOKEN, Hub
from tests.stand_ins import chat_stand_in, running

ROOT = Path(__file__).parent.parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.strip().splitlines()]


def test_every_command_is_known() -> None:
    doors = ("make ", "source .venv/bin/activate", "accelerate launch ", "python run_infer.py ", "lagamc ")
    assert COMMANDS
    assert [command for command in COMMANDS if not command.startswith(doors)] == []


def test_the_layout_names_every_module_and_imports_go_down_it() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("imports go down this table") : text.index("`benchmarks/` holds")]
    modules = {path.stem: path for path in (ROOT / "lagamc").glob("*.py") if path.stem != "__init__"}
    order = [name for name in re.findall(r"`(\w+)`", table) if name in modules]
    assert sorted(order) == sorted(modules)
    imported = {
        (name, statement.module.removeprefix("lagamc."))
        for name, path in modules.items()
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("lagamc.")
    }
    assert [(name, other) for name, other in imported if order.index(other) > order.index(name)] == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "run_train.py" in c])
def test_training_arguments_are_accepted(command: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command.replace("FOLDER", str(data_dir)))
    assert Path(words[words.index("--config_file") + 1]).is_file()
    _, data, training = parse_arguments(words[words.index("run_train.py") + 1 :])
    assert data.data_dir or data.train_file
    assert training.output_dir


def test_prediction_and_evaluation_commands(
    trained_t5: Trained,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(gradio.Blocks, "block_thread", lambda page: page.close(verbose=False))
    (data_dir / "labels.json").unlink()  # `describe` writes it
    model = trained_t5.copy_to(tmp_path / "demo")
    with running(chat_stand_in(lambda label, asked: f"{label} parcel: the text is about {label}")) as chat:
        for command in COMMANDS:
            if not command.startswith(("python run_infer.py ", "lagamc ")):
                continue
            places = {
                "outputs/demo": model,
                "outputs/mine": model,
                "you/shop-mail@main": model,
                "outputs/": f"{tmp_path}/",
                "FOLDER": data_dir,
                "URL": f"{chat.url}/v1 --wikipedia_url none",
            }
            for name, place in places.items():
                command = command.replace(name, str(place))
            words = shlex.split(command)
            arguments = ["predict", *words[2:]] if words[0] == "python" else words[1:]
            assert cli.main(arguments) == 0, command
    shown = capsys.readouterr().out
    for part in ("generated descriptions", "the report is", "the page is at http://127.0.0.1:", "11 prompts of"):
        assert part in shown
    assert len(LabelBank.from_json(data_dir / "labels.json")) == 4
    # what the README shows of `describe` is what it writes
    (prompt,) = (block for block in blocks("text") if "Task: Generate" in block)
    assert prompt in shown
    (descriptions,) = (block for block in blocks("json") if "texts about" in block)
    assert all(line in (tmp_path / "labels.json").read_text("utf-8") for line in descriptions.splitlines())


def test_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert [picture for picture in pictures if not (ROOT / picture).is_file()] == []


def test_python_example(trained_t5: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = blocks("python")[0].replace("outputs/demo", str(trained_t5.folder))
    names: dict[str, object] = {}
    exec(code, names)
    assert LabelBank.from_json("outputs/wider/labels.json") == names["wider"].bank  # type: ignore[attr-defined]
    assert {"parking", "praise"} & set(LabelBank.from_json("outputs/wider/labels.json")) == {"parking"}


def test_publishing_example(trained_t5: Trained, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    names: dict[str, Any] = {}
    exec(blocks("python")[1].replace("outputs/demo", str(trained_t5.folder)), names)
    assert hub.repos["you/shop-mail"].private
    assert names["again"].bank.names == names["classifier"].bank.names
