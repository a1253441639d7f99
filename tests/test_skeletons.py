from __future__ import annotations

import json
from pathlib import Path

import pytest

from lagamc.cli import main
from lagamc.data import Example
from lagamc.describe import read_labelled
from lagamc.labels import LabelBank
from lagamc.skeletons import readable, skeleton_descriptions, telling_words

DEMO = Path(__file__).parent.parent / "lagamc" / "demo"


def example(text: str, *labels: str) -> Example:
    return Example("", text, labels)


EXAMPLES = [
    example("The parcel is late, the courier lost the parcel", "late_parcel"),
    example("No parcel and no courier since Monday", "late_parcel"),
    example("The teapot arrived cracked", "broken"),
    example("My lamp is cracked and the teapot too", "broken"),
    example("Parcel late, and the teapot is cracked", "late_parcel", "broken"),
    example("Are you hiring on Monday?"),
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("wrong_item", "Wrong item"), ("anger", "Anger"), ("CPU  time", "CPU time"), ("é_à", "É à")],
)
def test_readable(name: str, expected: str) -> None:
    assert readable(name) == expected


def test_names_that_read_alike_are_numbered() -> None:
    names = ["a_b", "a b", "A  b", "c"]
    found = LabelBank(skeleton_descriptions(names, [example("one thing", *names), example("other")]))
    openings = [text.split(":")[0] for text in found.values()]
    assert openings == ["A b", "A b (2)", "A b (3)", "C"]


def test_telling_words_are_those_of_the_label() -> None:
    words = telling_words(["late_parcel", "broken"], EXAMPLES)
    assert words["late_parcel"][0] == "courier"
    assert set(words["broken"]) >= {"cracked", "teapot"}
    assert "parcel" not in words["late_parcel"]  # the name says it
    assert not set(words["late_parcel"]) & {"cracked", "teapot"}
    assert "hiring" not in {word for found in words.values() for word in found}


def test_a_label_without_examples_or_in_all_of_them_has_no_words() -> None:
    assert telling_words(["gone"], EXAMPLES) == {}
    assert telling_words(["a"], [example("one thing", "a"), example("one other", "a")]) == {}
    assert telling_words(["a"], [example("1 2 3", "a"), example("?!")]) == {}


def test_addresses_of_the_web_tell_nothing() -> None:
    texts = [example("courier https://tracker.example/parcel www.tracker.example", "late"), example("fine", "good")]
    assert telling_words(["late"], texts * 5)["late"] == ["courier"]


def test_skeletons_begin_with_the_name() -> None:
    found = skeleton_descriptions(["late_parcel", "broken", "gone"], EXAMPLES)
    assert found["late_parcel"].startswith("Late parcel: texts about courier")
    assert found["gone"] == "Gone: texts about gone"
    assert len(LabelBank(found)) == 3


def test_command_on_the_demonstration_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "labels.json"
    assert main(["describe", str(DEMO / "train.jsonl"), "--offline", "--output", str(target)]) == 0
    bank = LabelBank.from_json(target)
    assert set(bank) == set(json.loads((DEMO / "labels.json").read_text("utf-8")))
    assert bank.warnings() == []
    assert "password" in bank["account"]
    assert "11 descriptions are in" in capsys.readouterr().err
    counts = [sum(name in e.labels for e in read_labelled(DEMO / "train.jsonl")) for name in bank]
    assert counts == sorted(counts, reverse=True)
