"""Peers of the benchmarks that need something from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import chat_peer, main_table, peers
from benchmarks.datasets import Task
from benchmarks.peers import Scored
from lagamc.data import Example
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.thresholds import GOALS
from tests.stand_ins import chat_stand_in, running

BANK = LabelBank({"late": "Late delivery: the parcel is late", "praise": "Praise: the customer is happy"})
TEXTS = {"Where is it?": ("late",), "Lovely!": ("praise",), "Late, but lovely.": ("late", "praise"), "Hiring?": ()}


def test_texts_of_lagamc_are_cut_where_those_of_its_peers_are() -> None:
    rows = [Example("1", "Late   again, and  nobody\nanswers!", ("late",)), Example("2", "Fine", ())]
    cut = main_table.cut_texts(Task("caves", BANK, {"dev": rows}, 6, 1, 1, 1))  # two of the tokens are special ones
    assert [e.text for e in cut["dev"]] == ["Late   again, and", "Fine"]
    assert [e.labels for e in cut["dev"]] == [("late",), ()]


def test_chat_answers_are_matched_and_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Example(str(i), text, labels) for i, (text, labels) in enumerate(TEXTS.items())]
    task = Task("caves", BANK, {"train": rows, "dev": rows, "test": rows[2:]}, 16, 1, 1, 1)
    monkeypatch.setattr(chat_peer, "ROOT", tmp_path)
    monkeypatch.setenv(chat_peer.MODEL_VARIABLE, "small")

    def write(text: str, _: int) -> str:
        return " ".join(f"{BANK[name]}." for name in TEXTS[text]) or "There is nothing of that kind to be seen."

    with running(chat_stand_in(write)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        for _ in range(2):
            scored = chat_peer.chat(task)
            assert scored.scores["dev"].tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
            assert scored.scores["test"].tolist() == [[1, 1], [0, 0]]
        assert len(server.requests) == len(TEXTS)
        asked = server.requests[0]["messages"][0]["content"]
    assert all(description in asked for description in BANK.descriptions)


def test_chat_is_left_out_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(chat_peer.MODEL_VARIABLE, raising=False)
    with pytest.raises(LagamcError, match=r"^chat: LAGAMC_CHAT_MODEL is not set$"):
        main_table.run_one("caves", "chat", 1, main_table.Variant())


def test_scores_of_a_peer_may_go_through_a_curve_by_training_rows() -> None:
    """One threshold for all cannot part the right scores of a common label from the wrong ones of a rare one."""
    rows = {"train": 40 * [Example("c", "", ("late",))] + [Example("r", "", ("praise",))]}
    rows["dev"] = rows["test"] = 100 * [Example("c", "", ("late",)), Example("n", "", ())]
    task = Task("caves", BANK, rows, 16, 1, 1, 1)
    scores = np.array(100 * [[0.3, 0.5], [0.1, 0.5]])  # the rare label's are high wherever
    found = {"dev": scores, "test": scores}
    given, by_rows = peers.decide(task, found, "micro_f1")
    assert by_rows
    assert (given["test"] == task.true["test"]).all()
    for goal in GOALS:  # what is right already stays as it is
        assert not peers.decide(task, {split: rows * 0.8 + 0.1 for split, rows in task.true.items()}, goal)[1]


@pytest.mark.parametrize("name", ["one_vs_all", "joint_encoding", "label_queries", "dual_encoder"])
def test_a_fine_tuned_peer_learns_its_rows(name: str) -> None:
    rows = [Example(str(i), text, labels) for i, (text, labels) in enumerate(TEXTS.items())]
    task = Task("caves", BANK, {"train": 8 * rows, "dev": rows, "test": rows}, 16, 1, 16, 1)
    scored = main_table.SYSTEMS[name](task)
    assert ((scored.scores["test"] >= 0.5) == task.true["test"]).all()
    assert scored.scores["dev"].shape == (4, 2)
    assert scored.library.split()[0] == ("sentence-transformers" if name == "dual_encoder" else "transformers")


@pytest.mark.filterwarnings("ignore:Label not .* is present")
@pytest.mark.parametrize("system", [peers.tfidf_svc, peers.tfidf_logistic])
def test_a_label_that_no_training_row_has_is_given_to_none(system: Callable[[Task], Scored]) -> None:
    rows = [Example(str(i), text, labels) for i, (text, labels) in enumerate(TEXTS.items())]
    bank = LabelBank({**dict(BANK.items()), "jobs": "Jobs: the writer asks for work"})
    scored = system(Task("caves", bank, {"train": rows, "dev": rows, "test": rows}, 16, 1, 1, 1))
    assert (scored.scores["test"][:, 2] == 0).all()
    assert scored.scores["test"][0, 0] > scored.scores["test"][1, 0] > 0


def test_linear_peers_tell_more_labels_than_a_byte_counts() -> None:
    names = [f"l{i}" for i in range(140)]
    rows = [Example(name, f"word{name}", (name,)) for name in names]
    bank = LabelBank({name: f"{name}: the text is about {name}" for name in names})
    task = Task("caves", bank, {"train": 2 * rows, "dev": rows, "test": rows}, 16, 1, 1, 1)
    assert (peers.tfidf_svc(task).scores["test"].argmax(axis=1) == np.arange(140)).all()
