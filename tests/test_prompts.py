"""Prompts and responses in the tokens of three kinds of tokenizer."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.prompts import END_OF_RESPONSE, PROMPTS, Prompt, ResponseCodec, prompt_from

SHARED = LabelBank(
    {
        "refund": "the customer wants a refund",
        "parcel": "the customer wants the parcel",
        "today": "the customer wants the parcel back",
        "praise": "lovely",
    }
)


@pytest.fixture(params=["tiny_t5", "tiny_bart", "tiny_encoder"], ids=["sentencepiece", "bytes", "wordpiece"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(request.getfixturevalue(request.param))


@pytest.fixture
def words(tiny_encoder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer that has a token for every word of the descriptions, all in lower case."""
    return AutoTokenizer.from_pretrained(tiny_encoder)


# prompts


def test_presets_name_the_kind_of_text() -> None:
    for preset, kind in (("tweets", "a tweet"), ("news", "a news article"), ("abstracts", "an abstract")):
        assert f"for {kind}." in PROMPTS[preset].prefix
    assert "for a text." in PROMPTS["general"].prefix
    for preset in ("general", "tweets", "news", "abstracts"):
        prefix = PROMPTS[preset].prefix
        assert prefix.startswith("Instruction:")
        assert prefix.index("Instruction:") < prefix.index("Task:") < prefix.index("Description:")
        assert prefix.endswith("\n\n")
    assert PROMPTS["plain"].prefix == ""


def test_prompt_from() -> None:
    assert prompt_from("news") == PROMPTS["news"]
    assert prompt_from(PROMPTS["tweets"].to_dict()) == PROMPTS["tweets"]
    assert prompt_from("news", task="Sort it.").prefix == f"{PROMPTS['news'].instruction}\n\nSort it.\n\n"
    assert prompt_from("general", instruction="", task="").prefix == ""
    with pytest.raises(LagamcError, match=r"prompt: expected one of \['plain', .*found 'poems'"):
        prompt_from("poems")


def test_prompt_goes_before_every_text(tokenizer: PreTrainedTokenizerBase) -> None:
    rows, cut = Prompt("Where is", "Lovely shop").encode(tokenizer, ["the lamp", "late parcel"], 200)
    assert cut == [False, False]
    for row, text in zip(rows, ["the lamp", "late parcel"], strict=True):
        read = tokenizer.decode(row, skip_special_tokens=True).lower()
        positions = [
            read.replace(" ", "").index(part.replace(" ", "").lower()) for part in ("Where is", "Lovely shop", text)
        ]
        assert positions == sorted(positions)


def test_special_tokens_stand_once(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "Where is my parcel?"
    [row], _ = Prompt().encode(tokenizer, [text], 100)
    assert row == tokenizer(text)["input_ids"]
    [row], _ = PROMPTS["tweets"].encode(tokenizer, [text], 1000)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert sum(token in special for token in row) == sum(token in special for token in tokenizer("a")["input_ids"])


def test_truncation_cuts_the_text_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = Prompt("First read the task.", "Write descriptions.")
    long, short = "the lamp is broken and " * 30, "late"
    full, _ = prompt.encode(tokenizer, [long, short], 10_000)
    [empty], _ = prompt.encode(tokenizer, [""], 10_000)
    tail = tokenizer("a")["input_ids"][-1]
    limit = len(empty) + 10
    (first, second), cut = prompt.encode(tokenizer, [long, short], limit)
    assert cut == [True, False]
    assert len(first) == limit
    assert first[: len(empty) - 1] == empty[:-1]
    assert first == [*full[0][: limit - 1], tail]
    assert second == full[1]


def test_a_text_that_just_fits_is_not_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "where is my parcel? I have waited for two weeks"
    [full], _ = Prompt().encode(tokenizer, [text], 10_000)
    assert Prompt().encode(tokenizer, [text], len(full)) == ([full], [False])
    assert Prompt().encode(tokenizer, [text], len(full) - 1)[1] == [True]


def test_limit_too_short_for_the_instruction(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(LagamcError, match="max_input_length is 12, but the instruction alone takes") as error:
        PROMPTS["news"].encode(tokenizer, ["text"], 12)
    needed = int(re.search(r"at least (\d+)", str(error.value))[1])  # type: ignore[index]
    assert len(PROMPTS["news"].encode(tokenizer, ["the lamp " * 20], needed)[0][0]) == needed
    with pytest.raises(LagamcError):
        PROMPTS["news"].encode(tokenizer, ["text"], needed - 1)


def test_no_texts(tokenizer: PreTrainedTokenizerBase) -> None:
    assert Prompt().encode(tokenizer, [], 64) == ([], [])


# responses


@pytest.mark.parametrize("which", ["own", "shared"])
def test_tokens_of_a_description_are_the_same_everywhere(
    tokenizer: PreTrainedTokenizerBase, bank: LabelBank, which: str
) -> None:
    bank = bank if which == "own" else SHARED
    codec = ResponseCodec(bank, tokenizer, order="given")
    lead = " " if tokenizer("a")["input_ids"][0] == 0 else ""  # the byte-level tokenizer wants a space before a word
    for labels in itertools.permutations(range(len(bank)), 3):
        joined = lead + " ".join(f"{bank.descriptions[label]}." for label in labels)
        tokens = [token for label in labels for token in codec.token_ids[label]]
        assert tokenizer(joined, add_special_tokens=False)["input_ids"] == tokens
        assert codec.encode(labels)[0].token_ids == [*tokens, codec.end_token_id]


def test_decode_brings_back_the_descriptions(tokenizer: PreTrainedTokenizerBase, bank: LabelBank) -> None:
    codec = ResponseCodec(bank, tokenizer, order="given")
    for labels in ([0], [3, 1], [2, 0, 3], [3, 2, 1, 0]):
        response, _ = codec.encode(labels)
        expected = " ".join(f"{bank.descriptions[label]}." for label in labels)
        read = codec.decode(response.token_ids)
        if tokenizer.eos_token is None:  # word pieces forget the case and set colons apart
            read, expected = read.replace(" :", ":"), expected.lower()
        assert read == expected


def test_round_trip(tokenizer: PreTrainedTokenizerBase) -> None:
    assert ResponseCodec(SHARED, tokenizer).round_trip("the customer wants a refund") == "the customer wants a refund."


def test_end_token(tokenizer: PreTrainedTokenizerBase, bank: LabelBank) -> None:
    assert ResponseCodec(bank, tokenizer).end_token_id == tokenizer("a")["input_ids"][-1]


def test_empty_label_set_is_the_end_token_alone(tokenizer: PreTrainedTokenizerBase, bank: LabelBank) -> None:
    codec = ResponseCodec(bank, tokenizer)
    response, clipped = codec.encode([], max_length=1)
    assert (response.token_ids, response.label_index, response.decisions, clipped) == (
        [codec.end_token_id],
        [END_OF_RESPONSE],
        [True],
        False,
    )
    assert codec.decode(response.token_ids) == ""


def test_label_index_and_decisions_follow_the_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    codec = ResponseCodec(SHARED, tokenizer)
    response, _ = codec.encode([3, 1])
    lengths = [len(codec.token_ids[1]), len(codec.token_ids[3])]
    assert response.label_index == [1] * lengths[0] + [3] * lengths[1] + [END_OF_RESPONSE]
    assert response.decisions == [*codec.decisions[1], *codec.decisions[3], True]


def test_orders(words: PreTrainedTokenizerBase, bank: LabelBank) -> None:
    given = [3, 1, 0, 3]
    assert ResponseCodec(bank, words).sort(given) == [0, 1, 3]
    assert ResponseCodec(bank, words, "given").sort(given) == [3, 1, 0]
    counts = {"late": 1, "broken": 5, "praise": 5}
    frequent = ResponseCodec(bank, words, "frequency", counts)
    assert frequent.sort([0, 1, 2, 3]) == [1, 3, 0, 2]
    index = frequent.encode([0, 3])[0].label_index
    assert list(dict.fromkeys(index)) == [3, 0, END_OF_RESPONSE]


def test_clipping_drops_whole_descriptions(tokenizer: PreTrainedTokenizerBase, bank: LabelBank) -> None:
    codec = ResponseCodec(bank, tokenizer)
    full, clipped = codec.encode([0, 1, 2])
    assert not clipped
    assert codec.encode([0, 1, 2], len(full.token_ids)) == (full, False)
    two, _ = codec.encode([0, 1])
    for limit in (len(full.token_ids) - 1, len(two.token_ids)):
        assert codec.encode([0, 1, 2], limit) == (two, True)
    one, _ = codec.encode([0])
    assert codec.encode([0, 1, 2], len(two.token_ids) - 1) == (one, True)
    assert codec.encode([0], 2)[0].token_ids == [codec.end_token_id]


def test_longest_fits_the_largest_label_set(tokenizer: PreTrainedTokenizerBase, bank: LabelBank) -> None:
    codec = ResponseCodec(bank, tokenizer)
    sets = [[2], [0, 1, 3], [1, 2], []]
    needed = codec.longest(sets)
    assert needed == max(len(codec.encode(labels)[0].token_ids) for labels in sets)
    assert not any(codec.encode(labels, needed)[1] for labels in sets)
    assert any(codec.encode(labels, needed - 1)[1] for labels in sets)
    assert codec.longest([]) == codec.longest([[]]) == 1


def test_branches_where_descriptions_share_opening_words(words: PreTrainedTokenizerBase) -> None:
    codec = ResponseCodec(SHARED, words)
    ids = {
        word: words.convert_tokens_to_ids(word) for word in ("the", "customer", "wants", "a", "parcel", "lovely", ".")
    }
    opening = (ids["the"], ids["customer"], ids["wants"])
    parcel = (*opening, ids["the"], ids["parcel"])
    back = codec.token_ids[2][5]
    assert codec.branches == {
        (): {ids["the"]: [0, 1, 2], ids["lovely"]: [3]},
        opening: {ids["a"]: [0], ids["the"]: [1, 2]},
        parcel: {ids["."]: [1], back: [2]},
    }
    assert codec.decisions[0] == [True, False, False, True, False, False]
    assert codec.decisions[1] == [True, False, False, True, False, True]
    assert codec.decisions[2][:6] == [True, False, False, True, False, True]
    assert not any(codec.decisions[2][6:])
    assert codec.decisions[3] == [True, False]


@pytest.mark.parametrize("which", ["own", "shared"])
def test_decisions_are_the_tokens_at_which_descriptions_part(
    tokenizer: PreTrainedTokenizerBase, bank: LabelBank, which: str
) -> None:
    codec = ResponseCodec(bank if which == "own" else SHARED, tokenizer)
    for ids, decisions in zip(codec.token_ids, codec.decisions, strict=True):
        rivals = [
            {other[i] for other in codec.token_ids if other[:i] == ids[:i] and len(other) > i} for i in range(len(ids))
        ]
        assert decisions == [i == 0 or len(tokens) > 1 for i, tokens in enumerate(rivals)]


def test_a_single_label_still_decides_between_itself_and_the_end(words: PreTrainedTokenizerBase) -> None:
    codec = ResponseCodec(SHARED.subset(["praise"]), words)
    assert list(codec.branches) == [()]
    assert codec.decisions == [[True, False]]


def test_descriptions_that_the_tokenizer_cannot_write(words: PreTrainedTokenizerBase) -> None:
    with pytest.raises(LagamcError, match="knows no token of the description of 'x'"):
        ResponseCodec(LabelBank({"x": "日本 東京", "late": "late parcel"}), words)
    with pytest.raises(LagamcError, match="description of 'a' is the opening of that of 'b' in the generator"):
        ResponseCodec(LabelBank({"b": "late.parcel", "c": "refund", "a": "late"}), words)
    with pytest.raises(LagamcError, match="descriptions of 'x' and 'y' are the same in the generator's tokens"):
        ResponseCodec(LabelBank({"x": "late 日", "y": "late 東"}), words)


def test_bad_settings(words: PreTrainedTokenizerBase, bank: LabelBank) -> None:
    with pytest.raises(LagamcError, match=r"label_order: expected one of \['bank', .*found 'random'"):
        ResponseCodec(bank, words, "random")
    words.sep_token = None
    with pytest.raises(LagamcError, match="has no end token"):
        ResponseCodec(bank, words)


# long texts in windows


@pytest.mark.parametrize("stride", [1, 4, 9])
def test_windows_cover_a_text(tokenizer: PreTrainedTokenizerBase, stride: int) -> None:
    prompt = Prompt("First read", ending="\n\nLabels:")
    long = "One. a b c d e f g h i j k l m n o p q r s t u v w"
    body = tokenizer(long, add_special_tokens=False)["input_ids"]
    frame = len(prompt.encode(tokenizer, [long], 1000)[0][0]) - len(body)
    rows, owners, clipped = prompt.encode_windows(tokenizer, ["a", long, "b"], frame + 9, stride)
    (whole,), _ = prompt.encode(tokenizer, [long], 1000)
    head = next(i for i in range(len(whole)) if whole[i : i + len(body)] == body)
    tail = len(whole) - head - len(body)
    windows = [row[head : len(row) - tail] for row, owner in zip(rows, owners, strict=True) if owner == 1]
    assert owners == [0, *[1] * len(windows), 2]
    assert clipped == [False] * 3
    assert len(windows) == -(-(len(body) - 9) // stride) + 1
    assert all(row[:head] == whole[:head] and row[len(row) - tail :] == whole[len(whole) - tail :] for row in rows)
    for number, window in enumerate(windows):
        assert window == body[number * stride : number * stride + 9]
    assert windows[-1][-1] == body[-1]


def test_without_a_stride_the_first_window_is_left(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = ["a", "a b c d e f g h i j k l m n o p q r s t u v w"]
    rows, owners, clipped = Prompt().encode_windows(tokenizer, texts, 12, 0)
    assert (rows, clipped) == Prompt().encode(tokenizer, texts, 12)
    assert (owners, clipped) == ([0, 1], [False, True])


def test_text_between_windows_is_never_lost(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(LagamcError, match=r"window_stride: expected at most \d+, .* found 50"):
        Prompt().encode_windows(tokenizer, ["a"], 20, 50)
