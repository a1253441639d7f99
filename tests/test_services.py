from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lagamc import services
from lagamc.errors import LagamcError
from lagamc.services import AnswerCache, ChatModel, Wikipedia
from tests.stand_ins import (
    BROKEN,
    CUT,
    CUT_HALFWAY,
    NO_JSON,
    SLOW_DOWN,
    SOON,
    Reply,
    StandIn,
    chat_stand_in,
    running,
    wikipedia_stand_in,
)

ANGER = "Anger is an intense emotional state. It involves a strong response to a provocation."
FAULTS = {"429": SLOW_DOWN, "429 soon": SOON, "500": BROKEN, "cut": CUT, "half": CUT_HALFWAY, "no json": NO_JSON}
MESSAGES = [{"role": "system", "content": "Write."}, {"role": "user", "content": "Label: Anger\n\nTask"}]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "RETRIES", 2)
    monkeypatch.setattr(services, "_pause", lambda attempt: 0.01)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def wikipedia() -> Iterator[StandIn]:
    with running(wikipedia_stand_in({"Anger": ANGER, "Wrong_item": "A wrong item."})) as found:
        yield found


@pytest.fixture
def chat() -> Iterator[StandIn]:
    with running(chat_stand_in(lambda label, asked: f"{label}: the text is about it")) as found:
        yield found


def model(server: StandIn, cache: AnswerCache | None = None) -> ChatModel:
    return ChatModel("small", cache or AnswerCache(None), f"{server.url}/v1")


# Wikipedia


def test_definition_of_an_article(wikipedia: StandIn) -> None:
    asking = Wikipedia(wikipedia.url + "/", AnswerCache(None))
    assert asking.definition("anger") == ANGER.rstrip(".")
    assert asking.definition("wrong_item") == "A wrong item"
    (first, second) = wikipedia.requests
    assert first["path"] == "/api/rest_v1/page/summary/Anger"
    assert first["headers"]["user-agent"].startswith("lagamc/")
    assert second["path"].endswith("/Wrong_item")


def test_a_title_is_one_part_of_the_address(wikipedia: StandIn) -> None:
    asking = Wikipedia(wikipedia.url, AnswerCache(None))
    assert asking.definition("../../secret?x#y%") is None
    assert wikipedia.requests[0]["raw"] == "/api/rest_v1/page/summary/..%2F..%2Fsecret%3Fx%23y%25"


def test_without_an_article_of_its_own_there_is_no_definition(wikipedia: StandIn) -> None:
    wikipedia.plan("Delivery", Reply(body={"type": "disambiguation", "extract": "Delivery may refer to:"}))
    wikipedia.plan("Empty", Reply(body={"type": "standard", "extract": ""}))
    wikipedia.plan("Bad", Reply(400, {"detail": "title-invalid"}))
    asking = Wikipedia(wikipedia.url, AnswerCache(None))
    assert [asking.definition(label) for label in ("delivery", "empty", "bad", "unheard of")] == [None] * 4


def test_a_long_article_is_cut_at_a_sentence(wikipedia: StandIn) -> None:
    wikipedia.plan("Long", Reply(body={"extract": "\n ".join(f"Sentence {i} says something." for i in range(40))}))
    found = Wikipedia(wikipedia.url, AnswerCache(None)).definition("long")
    assert found is not None
    assert found.startswith("Sentence 0 says something. Sentence 1")
    assert found.endswith("says something")
    assert len(found) <= services.DEFINITION_LENGTH


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_wikipedia_is_asked_again_after_a_fault(wikipedia: StandIn, fault: Reply) -> None:
    wikipedia.plan("Anger", fault, fault)
    assert Wikipedia(wikipedia.url, AnswerCache(None)).definition("anger") == ANGER.rstrip(".")
    assert wikipedia.asked("Anger") == 3


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_wikipedia_that_does_not_come_back(wikipedia: StandIn, fault: Reply, tmp_path: Path) -> None:
    wikipedia.plan("Anger", *[fault] * 20)
    cache = AnswerCache(tmp_path / "cache.jsonl")
    with pytest.raises(LagamcError, match=r"Anger: no usable answer: .* run the same command again.*wikipedia_url"):
        Wikipedia(wikipedia.url, cache).definition("anger")
    assert wikipedia.asked("Anger") == 3
    assert not (tmp_path / "cache.jsonl").exists()


def test_the_pause_that_is_asked_for_is_kept(wikipedia: StandIn, chat: StandIn) -> None:
    wikipedia.plan("Anger", SLOW_DOWN)
    chat.plan("Anger", SLOW_DOWN)
    for ask in (
        lambda: Wikipedia(wikipedia.url, AnswerCache(None)).definition("anger"),
        lambda: model(chat).answer(MESSAGES, "anger"),
    ):
        started = time.monotonic()
        assert ask()
        assert time.monotonic() - started >= 1


def test_wikipedia_that_refuses_is_not_asked_again(wikipedia: StandIn) -> None:
    wikipedia.plan("Anger", Reply(403, "no"))
    with pytest.raises(LagamcError, match="403"):
        Wikipedia(wikipedia.url, AnswerCache(None)).definition("anger")
    assert wikipedia.asked("Anger") == 1


def test_nobody_there() -> None:
    with pytest.raises(LagamcError, match="no usable answer"):
        Wikipedia("http://127.0.0.1:9", AnswerCache(None)).definition("anger")
    with pytest.raises(LagamcError, match="wikipedia_url: expected an address that begins with http"):
        Wikipedia("en.wikipedia.org", AnswerCache(None))


# the chat model


def test_request_and_answer(chat: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    assert model(chat).answer(MESSAGES, "anger") == "Anger: the text is about it"
    (request,) = chat.requests
    assert request["path"] == "/v1/chat/completions"
    assert (request["model"], request["temperature"], request["messages"]) == ("small", 0, MESSAGES)
    assert request["headers"]["authorization"] == "Bearer secret-key"


def test_endpoint_and_key_from_the_environment(chat: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{chat.url}/v1")
    assert ChatModel("small", AnswerCache(None)).answer(MESSAGES, "anger")
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(LagamcError, match="set OPENAI_API_KEY"):
        ChatModel("small", AnswerCache(None))
    with pytest.raises(LagamcError, match="base_url: expected an address"):
        ChatModel("small", AnswerCache(None), "localhost:8000/v1")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_the_model_is_asked_again_after_a_fault(chat: StandIn, fault: Reply) -> None:
    chat.plan("Anger", fault, fault)
    assert model(chat).answer(MESSAGES, "anger") == "Anger: the text is about it"
    assert chat.asked("Anger") == 3


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_model_that_does_not_come_back(chat: StandIn, fault: Reply, tmp_path: Path) -> None:
    chat.plan("Anger", *[fault] * 20)
    with pytest.raises(LagamcError, match=r"no usable answer.*change --base_url"):
        model(chat, AnswerCache(tmp_path / "cache.jsonl")).answer(MESSAGES, "anger")
    assert chat.asked("Anger") == 3
    assert not (tmp_path / "cache.jsonl").exists()


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"choices": []}, {"choices": [{}]}, {"choices": {}}, {"choices": [{"message": {"content": 7}}]}, []),
        *("null", '"text"', "[" * 100_000, '{"choices": ' + "9" * 5000 + "}"),
    ],
    ids=lambda body: str(body)[:20],
)
def test_json_that_is_no_completion(chat: StandIn, body: Any) -> None:
    chat.plan("Anger", *[Reply(body=body)] * 20)
    with pytest.raises(LagamcError, match="no usable answer"):
        model(chat).answer(MESSAGES, "anger")
    assert chat.asked("Anger") == 3


@pytest.mark.parametrize("status", [401, 403, 404, 400])
def test_a_refusal_is_not_asked_again(chat: StandIn, status: int) -> None:
    chat.plan("Anger", Reply(status, {"error": {"message": "you shall not"}}))
    with pytest.raises(LagamcError, match="you shall not") as error:
        model(chat).answer(MESSAGES, "anger")
    assert ("is OPENAI_API_KEY right?" in str(error.value)) == (status in (401, 403))
    assert chat.asked("Anger") == 1


def test_services_that_are_too_slow(chat: StandIn, wikipedia: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "TIMEOUT", 0.3)
    chat.plan("Anger", Reply(pause=2))
    wikipedia.plan("Anger", Reply(pause=2))
    assert model(chat).answer(MESSAGES, "anger")
    assert Wikipedia(wikipedia.url, AnswerCache(None)).definition("anger")
    assert (chat.asked("Anger"), wikipedia.asked("Anger")) == (2, 2)


def test_half_characters_and_long_answers(chat: StandIn, wikipedia: StandIn, tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "cache.jsonl")
    chat.plan("Anger", Reply(body='{"choices": [{"message": {"content": "Anger \\ud800: ' + "x" * 20_000 + '"}}]}'))
    wikipedia.plan("Anger", Reply(body='{"extract": "An\\udfffger is."}'))
    answer = model(chat, cache).answer(MESSAGES, "anger")
    assert answer.startswith("Anger ?: xxx")
    assert len(answer) == services.ANSWER_LENGTH
    assert Wikipedia(wikipedia.url, cache).definition("anger") == "An?ger is"
    assert AnswerCache(tmp_path / "cache.jsonl")[model(chat).key(MESSAGES)] == answer


@pytest.mark.parametrize("status", [401, 429, 500])
def test_a_key_that_is_repeated_is_not_shown(chat: StandIn, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key\n")
    chat.plan("Anger", *[Reply(status, {"error": {"message": "what is Bearer secret-key?"}})] * 3)
    with pytest.raises(LagamcError, match=r"what is Bearer \(the key\)\?") as error:
        model(chat).answer(MESSAGES, "anger")
    assert "secret-key" not in str(error.value)


@pytest.mark.parametrize("key", ["secret\nkey", "sécret-key", "secret\x7fkey"])
def test_a_key_that_cannot_be_sent(chat: StandIn, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(LagamcError, match="OPENAI_API_KEY holds characters that no key has") as error:
        model(chat)
    assert key not in str(error.value)


@pytest.mark.parametrize(
    "address",
    ["http://", "http://[", "http://a b/", "http://a:99999/", "http://a\n/", "ftp://a", "a", "http://☃.invalid"],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(LagamcError, match="base_url: "):
        ChatModel("small", AnswerCache(None), address)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    for ask in (Wikipedia, lambda url, cache: ChatModel("small", cache, url)):
        with pytest.raises(LagamcError, match="without a user name or password") as error:
            ask("http://user:secret@127.0.0.1:9/v1", AnswerCache(None))
        assert "secret" not in str(error.value)


def test_an_empty_answer_is_an_answer() -> None:
    with running(chat_stand_in(lambda label, asked: None)) as server:
        assert model(server).answer(MESSAGES, "anger") == ""


# the cache


def test_nothing_is_asked_twice(chat: StandIn, wikipedia: StandIn, tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    for _ in range(2):
        cache = AnswerCache(path)
        assert model(chat, cache).answer(MESSAGES, "anger")
        assert Wikipedia(wikipedia.url, cache).definition("anger")
        assert Wikipedia(wikipedia.url, cache).definition("unheard of") is None
    assert (len(chat.requests), len(wikipedia.requests)) == (1, 2)
    assert Wikipedia(wikipedia.url, cache).known("unheard of")
    assert not Wikipedia(wikipedia.url, cache).known("other")
    # another model, endpoint or conversation is another question
    model(chat, cache).answer([*MESSAGES, {"role": "user", "content": "again"}], "anger")
    ChatModel("large", cache, f"{chat.url}/v1").answer(MESSAGES, "anger")
    ChatModel("small", cache, f"{chat.url}/v2").answer(MESSAGES, "anger")
    assert len(chat.requests) == 4


def test_the_cache_holds_no_key(chat: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    model(chat, AnswerCache(tmp_path / "cache.jsonl")).answer(MESSAGES, "anger")
    assert "secret-key" not in (tmp_path / "cache.jsonl").read_text()


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    AnswerCache(path).add("one", "a", "line\u2028break")
    with path.open("a") as file:
        file.write('{"key": "two", "ans')
    cache = AnswerCache(path)
    assert cache["one"] == "line\u2028break"
    assert "two" not in cache
    cache.add("three", "b", "x")
    assert [json.loads(line)["key"] for line in path.read_text("utf-8").strip().split("\n")] == ["one", "three"]


@pytest.mark.parametrize("content", ["[]\n", "{}\n", "nonsense\n", "\xff\n"])
def test_another_file_in_its_place(tmp_path: Path, content: str) -> None:
    (tmp_path / "cache.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(LagamcError, match="is no cache of answers"):
        AnswerCache(tmp_path / "cache.jsonl")
