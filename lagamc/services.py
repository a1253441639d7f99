"""What `lagamc describe` asks: Wikipedia for definitions, a chat model for descriptions; and a cache of answers."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import openai
import requests
from urllib3.util import Retry

from lagamc import __version__
from lagamc.errors import LagamcError
from lagamc.labels import split_sentences
from lagamc.skeletons import readable

WIKIPEDIA = "https://en.wikipedia.org"
RETRIES = 5  # after a 429, a 5xx or a lost connection, with growing pauses
LONGEST_PAUSE = 60  # seconds
TIMEOUT = 120  # seconds
DEFINITION_LENGTH = 300  # characters
ANSWER_LENGTH = 10_000  # characters kept of an answer, far more than a description
# what urllib3 does not ask again after: no JSON, half an answer, a pause that is no number
BROKEN_ANSWERS = (
    *(requests.JSONDecodeError, requests.exceptions.ChunkedEncodingError),
    requests.exceptions.InvalidHeader,
)

Messages = Sequence[dict[str, str]]


class AnswerCache:
    """Answers in a JSONL file, one a line as they come: a run that was killed does not ask again.

    Args:
        path: of the file, made with the first answer; None keeps them in memory alone.
    """

    def __init__(self, path: str | Path | None):
        self.path = None if path is None else Path(path)
        self._answers: dict[str, Any] = {}
        if self.path is None or not self.path.exists():
            return
        try:
            content = self.path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]  # a killed run may have left half a line
            if whole != content:
                self.path.write_bytes(whole)
            for line in whole.decode("utf-8").split("\n")[:-1]:
                row = json.loads(line)
                self._answers[row["key"]] = row["answer"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LagamcError(
                f"{self.path}: is no cache of answers ({error}); remove it, or name another --output"
            ) from error

    @staticmethod
    def key(*question: Any) -> str:
        """The key of a question."""
        return hashlib.sha256(json.dumps(question, sort_keys=True).encode("utf-8")).hexdigest()

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Any:
        return self._answers[key]

    def add(self, key: str, label: str, answer: Any) -> None:
        """Keeps an answer, on disk before it is used."""
        self._answers[key] = answer
        if self.path is None:
            return
        line = json.dumps({"key": key, "label": label, "answer": answer}, ensure_ascii=False)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise LagamcError(f"{self.path}: cannot be written ({error.strerror or error})") from error


class Wikipedia:
    """Initial definitions of labels, from the summaries of Wikipedia's REST interface.

    Args:
        url: of the Wikipedia, such as `https://en.wikipedia.org`.
        cache: of answers.
    """

    def __init__(self, url: str, cache: AnswerCache):
        self.url, self.cache = _checked_url("wikipedia_url", url), cache
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"lagamc/{__version__} python-requests/{requests.__version__}"
        retry = Retry(
            total=RETRIES,
            backoff_factor=0.5,
            backoff_max=LONGEST_PAUSE,
            retry_after_max=LONGEST_PAUSE,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=("GET",),
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    def address(self, label: str) -> str:
        """Where the summary of the article named as the label is."""
        return f"{self.url}/api/rest_v1/page/summary/{quote(readable(label).replace(' ', '_'), safe='')}"

    def known(self, label: str) -> bool:
        """Whether the definition was asked for before."""
        return AnswerCache.key(self.address(label)) in self.cache

    def definition(self, label: str) -> str | None:
        """The first sentences of the article; None where there is none, or it only lists several meanings.

        Raises:
            LagamcError: Wikipedia cannot be reached, or answers something else.
        """
        key = AnswerCache.key(self.address(label))
        if key not in self.cache:
            self.cache.add(key, label, self._ask(label))
        return self.cache[key]

    def _ask(self, label: str) -> str | None:
        address = self.address(label)
        for attempt in range(RETRIES + 1):
            try:
                response = self._session.get(address, timeout=TIMEOUT)
                if response.status_code in (400, 404, 414):  # no such article, or no possible title
                    return None
                response.raise_for_status()
                summary = response.json()
                if isinstance(summary, dict):
                    break
                problem = f"expected an object, found {type(summary).__name__}"
            except (requests.RequestException, ValueError, RecursionError) as error:
                if isinstance(error, requests.RequestException) and not isinstance(error, BROKEN_ANSWERS):
                    raise _unreachable("wikipedia_url", address, str(error)) from error
                problem = str(error)
            if attempt == RETRIES:
                raise _unreachable("wikipedia_url", address, f"the answer is broken ({problem})")
            time.sleep(_pause(attempt))
        if summary.get("type") == "disambiguation":
            return None
        return _opening_sentences(_whole(str(summary.get("extract") or ""))) or None


def _opening_sentences(text: str) -> str:
    kept: list[str] = []
    for sentence in split_sentences(" ".join(text.split())):
        if kept and len(". ".join([*kept, sentence])) > DEFINITION_LENGTH:
            break
        kept.append(sentence)
    return ". ".join(kept)[: 2 * DEFINITION_LENGTH]


class ChatModel:
    """A chat model behind any endpoint that speaks OpenAI's protocol, at temperature 0.

    Args:
        model: its name there.
        cache: of answers.
        base_url: of the endpoint; None takes `OPENAI_BASE_URL`, or OpenAI's own.

    Raises:
        LagamcError: the address or the key in `OPENAI_API_KEY` is none, or OpenAI's own is asked for without a key.
    """

    def __init__(self, model: str, cache: AnswerCache, base_url: str | None = None):
        self.model, self.cache = model, cache
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        if self.base_url is not None:
            _checked_url("base_url", self.base_url)
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise LagamcError(
                "describe: OPENAI_API_KEY holds characters that no key has, such as a line break; set it anew"
            )
        if not self._key and self.base_url is None:
            raise LagamcError(
                "describe: there is no key for OpenAI; set OPENAI_API_KEY, name another endpoint with --base_url "
                "(a local server needs no key), or write skeletons with --offline"
            )
        try:
            self._client = openai.OpenAI(
                api_key=self._key or "none", base_url=self.base_url, max_retries=RETRIES, timeout=TIMEOUT
            )
        except Exception as error:  # of the HTTP client inside, whichever that is
            raise LagamcError(f"base_url: {self.base_url!r} is no address ({error})") from error

    def key(self, messages: Messages) -> str:
        """Of a conversation, in the cache."""
        return AnswerCache.key(self.base_url, self.model, list(messages))

    def answer(self, messages: Messages, label: str) -> str:
        """The model's answer to a conversation.

        Args:
            messages: with `role` and `content`.
            label: that it is about.

        Raises:
            LagamcError: the endpoint cannot be reached, refuses, or answers something else.
        """
        key = self.key(messages)
        if key not in self.cache:
            self.cache.add(key, label, self._ask(messages))
        return self.cache[key]

    def _ask(self, messages: Messages) -> str:
        problem = ""
        for attempt in range(RETRIES + 1):
            if attempt:
                time.sleep(_pause(attempt - 1))
            try:
                completion = self._client.chat.completions.create(
                    model=self.model,
                    messages=list(messages),  # type: ignore[arg-type]
                    temperature=0,
                )
                content = completion.choices[0].message.content
                if content is None or isinstance(content, str):
                    return _whole(content or "")[:ANSWER_LENGTH]
                problem = f"the content is {type(content).__name__}"
            except openai.APIResponseValidationError as error:
                problem = str(error)
            except openai.OpenAIError as error:
                hint = " (is OPENAI_API_KEY right?)" if getattr(error, "status_code", 0) in (401, 403) else ""
                cause = f" {error.__cause__}" if isinstance(error, openai.APIConnectionError) else ""
                raise self._failed(f"{error}{cause}{hint}") from error
            except (ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:
                problem = f"the answer is no chat completion ({error})"
        raise self._failed(problem)

    def _failed(self, reason: str) -> LagamcError:
        if self._key:  # an endpoint may repeat it
            reason = reason.replace(self._key, "(the key)")
        return _unreachable("base_url", str(self._client.base_url), reason)


def _pause(attempt: int) -> float:
    return min(0.5 * 2**attempt, LONGEST_PAUSE)


def _checked_url(name: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        raise LagamcError(f"{name}: expected an address that begins with http:// or https://, found {url!r}")
    if parts.username is not None:
        raise LagamcError(f"{name}: expected an address without a user name or password in it")
    return url.rstrip("/")


def _whole(text: str) -> str:
    """A text without halves of characters (lone surrogates), which cannot be written."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _unreachable(setting: str, address: str, reason: str) -> LagamcError:
    reason = " ".join(reason.split())[:300].rstrip(".")
    return LagamcError(
        f"{address.partition('?')[0]}: no usable answer: {reason}. What was answered so far is kept: run the "
        f"same command again, or change --{setting}" + (" (none: without definitions)" if "wiki" in setting else "")
    )
