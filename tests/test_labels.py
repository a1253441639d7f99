"""The label bank: sources, checks, changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import ClassLabel, Features, Sequence, Value

from lagamc.errors import LagamcError
from lagamc.labels import LabelBank, split_sentences

TWO = {"b": "Second thing", "a": "First thing"}


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_json_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    bank = LabelBank.from_file(write(tmp_path / "labels.json", json.dumps(TWO)))
    assert bank.names == ["b", "a"]
    assert bank.descriptions == ["Second thing", "First thing"]


def test_json_round_trip(tmp_path: Path, bank: LabelBank) -> None:
    larger = bank.add({"öl": "Öl läuft aus: „überall“"})
    larger.to_json(tmp_path / "labels.json")
    assert LabelBank.from_json(tmp_path / "labels.json") == larger
    assert "Öl läuft" in (tmp_path / "labels.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv(tmp_path: Path, ends: str, mark: str) -> None:
    lines = ["label,description", "late,Parcel is late.", 'broken,"Does not work, or arrived broken"', ""]
    bank = LabelBank.from_file(write(tmp_path / "labels.csv", mark + ends.join(lines)))
    assert dict(bank) == {"late": "Parcel is late", "broken": "Does not work, or arrived broken"}


def test_csv_with_other_columns_and_a_line_break_in_a_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.csv", 'name,note,meaning\nx,,"Two\nlines"\n')
    assert dict(LabelBank.from_csv(path, "name", "meaning")) == {"x": "Two lines"}


@pytest.mark.parametrize("many", [True, False])
def test_features(many: bool) -> None:
    label = ClassLabel(names=["late", "money_back"])
    features = Features({"text": Value("string"), "tags": Sequence(label) if many else label})
    assert dict(LabelBank.from_features(features, "tags")) == {"late": "late", "money_back": "money back"}


@pytest.mark.parametrize("column", ["text", "missing"])
def test_features_without_label_names(column: str) -> None:
    with pytest.raises(LagamcError, match=f"{column!r} of the data set carries no label names.*give a labels file"):
        LabelBank.from_features(Features({"text": Value("string")}), column)


def test_empty_bank(tmp_path: Path) -> None:
    with pytest.raises(LagamcError, match="bank is empty"):
        LabelBank({})
    with pytest.raises(LagamcError, match=r"labels\.json: the label bank is empty"):
        LabelBank.from_json(write(tmp_path / "labels.json", "{}"))
    with pytest.raises(LagamcError, match=r"labels\.csv: the label bank is empty"):
        LabelBank.from_csv(write(tmp_path / "labels.csv", "label,description\n"))


@pytest.mark.parametrize("description", ["", "  ", " . ", None, 3])
def test_label_without_description(description: object) -> None:
    with pytest.raises(LagamcError, match="label 'late' has no description"):
        LabelBank({"late": description, "b": "Something"})  # type: ignore[dict-item]


@pytest.mark.parametrize("bad", [{"x\ud800": "Something"}, {"late": "Some\ud800thing"}])
def test_half_a_character(bad: dict[str, str]) -> None:
    with pytest.raises(LagamcError, match="holds half a character"):
        LabelBank(bad)


@pytest.mark.parametrize("name", ["", "  ", 3])
def test_empty_name(name: object) -> None:
    with pytest.raises(LagamcError, match="label name is empty or not a string"):
        LabelBank({name: "Something"})  # type: ignore[dict-item]


def test_name_that_stands_twice(tmp_path: Path) -> None:
    with pytest.raises(LagamcError, match=r"labels\.json: the label 'late' stands twice"):
        LabelBank.from_json(write(tmp_path / "labels.json", '{"late": "One", "b": "Two", "late": "Three"}'))
    with pytest.raises(LagamcError, match=r"labels\.csv, line 3: the label 'late' stands twice"):
        LabelBank.from_csv(write(tmp_path / "labels.csv", "label,description\nlate,One\nlate,Two\n"))


@pytest.mark.parametrize("other", ["Money back", "money  BACK", "Money back.", " Money back... "])
def test_same_description(other: str) -> None:
    with pytest.raises(LagamcError, match="labels 'refund' and 'again' have the same description"):
        LabelBank({"refund": "Money back", "again": other})


@pytest.mark.parametrize("first", [True, False])
def test_description_that_opens_another_up_to_a_full_stop(first: bool) -> None:
    short, long = ("praise", "Praise for the shop."), ("happy", "praise for the shop. The customer is happy.")
    with pytest.raises(LagamcError, match="description of 'praise' is the opening of that of 'happy'"):
        LabelBank(dict([short, long] if first else [long, short]))


def test_all_problems_in_one_error() -> None:
    with pytest.raises(LagamcError) as error:
        LabelBank({"a": "", "b": "Same", "c": "same", "d": "Same. And more"}, source="labels.json")
    message = str(error.value)
    assert message.startswith("labels.json: 3 problems")
    assert "label 'a' has no description" in message
    assert "labels 'b' and 'c'" in message
    assert "that of 'd'" in message


def test_a_sound_bank_has_no_warnings(bank: LabelBank) -> None:
    assert bank.warnings() == []


def test_prefix_warnings_name_every_longer_description() -> None:
    bank = LabelBank({"a": "Late parcel", "b": "Late parcel again", "c": "Late parcel in winter", "d": "Late parcels"})
    prefixes = [text for text in bank.warnings() if "prefix" in text]
    assert prefixes == [
        "the description of 'a' is a prefix of that of 'b'",
        "the description of 'a' is a prefix of that of 'c'",
    ]


def test_near_duplicate_warning() -> None:
    bank = LabelBank(
        {
            "a": "The customer is still waiting for the parcel",
            "b": "Broken lamp",
            "c": "The parcel: the customer is still waiting for",
        }
    )
    warnings = bank.warnings()
    assert len(warnings) == 1
    assert "'a' and 'c' are nearly the same" in warnings[0]


def test_shared_sentence_warning() -> None:
    bank = LabelBank({"a": "Anger. Bad mood", "b": "Great joy about a present. bad mood"})
    assert bank.warnings() == ["labels 'a' and 'b' share the sentence 'bad mood'"]


def test_final_stop_is_optional_and_white_space_is_tidied() -> None:
    assert LabelBank({"a": "  One\n two. "}) == LabelBank({"a": "One two"})
    assert LabelBank({"a": "One. Two."})["a"] == "One. Two"
    assert LabelBank({"a": "Really?"})["a"] == "Really?"


def test_several_sentences(bank: LabelBank) -> None:
    sentences, owners = bank.sentences()
    assert sentences[-2:] == ["Praise for the shop", "The customer is happy"]
    assert owners == [0, 1, 2, 3, 3]


def test_split_sentences() -> None:
    assert split_sentences("It is 2.5 cm. Is it?  Yes! .  Done.") == ["It is 2.5 cm", "Is it?", "Yes!", "Done"]
    assert split_sentences("  ") == []


def test_changes_return_new_banks(bank: LabelBank) -> None:
    before = dict(bank)
    assert bank.add({"new": "Something new."}).names == [*before, "new"]
    assert bank.remove(["broken", "praise"]).names == ["late", "refund"]
    reworded = bank.reword({"broken": "It fell apart."})
    assert (reworded.names, reworded["broken"], reworded["late"]) == (list(before), "It fell apart", before["late"])
    assert bank.subset(["refund", "late"]).descriptions == [before["refund"], before["late"]]
    assert dict(bank.atomic()) == {name: name for name in before}
    assert bank.index(["praise", "late"]) == [3, 0]
    assert dict(bank) == before


def test_order_counts_in_comparison(bank: LabelBank) -> None:
    assert bank.subset(bank.names[::-1]) != bank


def test_changes_are_checked(bank: LabelBank) -> None:
    with pytest.raises(LagamcError, match=r"\['late'\] are in the bank already; use `reword`"):
        bank.add({"late": "Other"})
    with pytest.raises(LagamcError, match="same description"):
        bank.add({"other": bank["late"]})
    with pytest.raises(LagamcError, match=r"\['nope'\] are not in the bank"):
        bank.reword({"nope": "x"})
    with pytest.raises(LagamcError, match="same description"):
        bank.reword({"late": bank["refund"]})
    with pytest.raises(LagamcError, match=r"\['nope'\] are not in the bank"):
        bank.remove(["nope"])
    with pytest.raises(LagamcError, match=r"\['nope'\] are not in the bank"):
        bank.subset(["late", "nope"])
    with pytest.raises(LagamcError, match="bank is empty"):
        bank.remove(bank.names)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.json", '{"a": "b",\n "c" "d"}', r"labels\.json, line 2: not valid JSON"),
        ("labels.json", '["a"]', "expected an object .*, found list"),
        ("labels.json", b"\xff\xfe\xfa", "cannot be read as UTF-8"),
        (
            "labels.csv",
            "name,text\na,b\n",
            r"expected the columns 'label' and 'description', found \['name', 'text'\]",
        ),
        ("labels.csv", "label,description\na\n", "label 'a' has no description"),
        ("labels.txt", "a", r"ends in \.json or \.csv, found '\.txt'"),
        ("missing.json", None, r"missing\.json: no such labels file"),
        ("missing.csv", None, r"missing\.csv: no such labels file"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LagamcError, match=message):
        LabelBank.from_file(path)
