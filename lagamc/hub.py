"""Where a model is read from: a folder, or a repo of the Hub at a revision, of which only safe files are fetched."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from lagamc.errors import LagamcError, without_tokens

# httpx or, in newer clients, httpx2: what goes wrong below the answers of the Hub
HTTP_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]
# an address that is none, such as one of a proxy
BAD_ADDRESS: type[Exception] = import_module(HTTP_ERROR.__module__.partition(".")[0]).InvalidURL
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"

# what is fetched of other people's models: never a pickle, code only where it is trusted, no other formats' folders
GENERATOR_PATTERNS = ("*.json", "model*.safetensors", "vocab.txt", "merges.txt", "*.model", "README.md")
ENCODER_PATTERNS = ("*.json", "*model*.safetensors", "*vocab.txt", "*merges.txt", "*.model")
OTHER_FORMATS = ("*.fp16.*", "onnx/*", "openvino/*", "checkpoint-*/*", "last-checkpoint/*", ".git/*")


@dataclass(frozen=True)
class HubAccess:
    """How the Hub is asked.

    Args:
        token: of a user; None takes the one of `HF_TOKEN` or `hf auth login`, False none.
        local_files_only: takes what is in the cache and asks nobody.
        cache_dir: None is the usual cache.
        trust_remote_code: whether Python code that comes with a model may run.
    """

    token: str | bool | None = field(default=None, repr=False)
    local_files_only: bool = False
    cache_dir: str | Path | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "token", None if self.token == "" else self.token)

    def check_token(self) -> None:
        """A spoiled token would be quoted in the message of the library that sends it.

        Raises:
            LagamcError: it holds a character that cannot be sent.
        """
        if not re.fullmatch(r"[!-~]*", self.token_in_use or ""):
            raise LagamcError(
                "the token for the Hub holds characters that no token has (spaces, line breaks, accents); copy it "
                "again from https://huggingface.co/settings/tokens"
            )

    @property
    def token_in_use(self) -> str | None:
        """The one that is sent."""
        return self.token if isinstance(self.token, str) else None if self.token is False else get_token()


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine.

    Args:
        folder: its files.
        name: as it was asked for, without revision.
        commit: of the Hub; None for a folder.
    """

    folder: Path
    name: str
    commit: str | None = None

    def __str__(self) -> str:
        return self.name if self.commit is None else f"{self.name}@{self.commit[:8]}"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors about its files say which repo they are of: the path alone is one of the cache."""
        try:
            yield
        except LagamcError as error:
            raise (error if self.commit is None else LagamcError(f"{self}: {error}")) from error


def split_reference(reference: str | Path, revision: str | None = None) -> tuple[str, str | None]:
    """Name and revision of `FOLDER`, `NAME` or `NAME@REVISION`.

    Raises:
        LagamcError: there are two revisions, an empty one, or one of a folder.
    """
    text = str(reference)
    name, found = text, None
    if isinstance(reference, str) and "@" in text and not os.path.exists(text):
        name, _, found = text.rpartition("@")
        if revision is not None and found != revision:
            raise LagamcError(f"{text}: expected one revision, found {found!r} and {revision!r}")
    revision = found if revision is None else str(revision)
    if revision is not None and not revision.strip():
        raise LagamcError(f"{text}: the revision is empty; expected a branch, a tag or a commit, as in you/name@main")
    if revision is not None and os.path.isdir(name):
        raise LagamcError(f"{text}: {name} is a folder here, which has no revision {revision!r}; leave it out")
    return name, revision


def resolve(
    reference: str | Path,
    patterns: Sequence[str],
    revision: str | None = None,
    access: HubAccess | None = None,
    what: str = "model",
    ignored: Sequence[str] = OTHER_FORMATS,
) -> ModelFolder:
    """A model's folder on this machine; a repo of the Hub is fetched into the cache.

    Args:
        reference: a folder, or the name of a repo, `you/name` or `you/name@revision`.
        patterns: of the files that are fetched.
        revision: branch, tag or commit.
        access: token, cache and the rest.
        what: is looked for, for messages.
        ignored: patterns of files that are not fetched.

    Raises:
        LagamcError: there is none, or it cannot be reached or read.
    """
    access = access or HubAccess()
    name, revision = split_reference(reference, revision)
    if os.path.isdir(name):
        return ModelFolder(Path(name), name)
    cannot = f"no {what} can be loaded from {str(reference)!r}"
    if os.path.exists(name):
        raise LagamcError(f"{cannot}: expected a folder, found a file")
    if isinstance(reference, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise LagamcError(f"{cannot}: no such {what} folder")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise LagamcError(f"{cannot}: no such {what} folder, and no name of the Hub, such as you/name") from error
    access.check_token()
    code = ("*.py",) if access.trust_remote_code else ()
    with hub_errors(f"{cannot}: no such folder here, and on the Hub", name, revision, access):
        folder = snapshot_download(
            name,
            revision=revision,
            cache_dir=access.cache_dir,
            token=access.token,
            local_files_only=access.local_files_only,
            allow_patterns=[*patterns, *code],
            ignore_patterns=list(ignored),
            library_name="lagamc",
        )
    if not os.path.isdir(folder):
        raise LagamcError(f"{cannot}: it is a repo of the Hub without any of the files of a {what}")
    return ModelFolder(Path(folder), name, Path(folder).name)


@contextmanager
def hub_errors(
    subject: str, name: str, revision: str | None = None, access: HubAccess | None = None
) -> Iterator[None]:
    """Turns what goes wrong with the Hub into one message, without token and traceback.

    Args:
        subject: beginning of the message.
        name: of the repo.
        revision: of the repo.
        access: token and the rest.

    Raises:
        LagamcError: anything went wrong.
    """
    access = access or HubAccess()
    try:
        yield
    except LagamcError:
        raise
    except (HTTP_ERROR, BAD_ADDRESS, OSError, ValueError, RuntimeError) as error:
        reason = without_tokens(_reason(error, name, revision, access), access.token_in_use)
        raise LagamcError(f"{subject} {reason}") from error


def _reason(error: BaseException, name: str, revision: str | None, access: HubAccess) -> str:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)

    def found(kind: type[BaseException]) -> BaseException | None:
        return next((e for e in chain if isinstance(e, kind)), None)

    has_token = bool(access.token_in_use)
    again = "; run it again: files that are complete are not transferred again"
    if found(GatedRepoError):
        return f"{name} is gated: ask for access on its page" + ("" if has_token else f" and {LOG_IN}")
    if found(RevisionNotFoundError):
        return f"{name} has no revision {revision or 'main'!r}{_revisions(name, access)}"
    if found(RepositoryNotFoundError):
        if has_token:
            return f"there is no repo {name}, or the token in use has no access to it; check the name"
        return f"there is no repo {name}, or it is private; check the name, or {LOG_IN}"
    if found(LocalTokenNotFoundError):
        return f"no token was found; {LOG_IN}"
    answered = found(HfHubHTTPError)
    if isinstance(answered, HfHubHTTPError):
        status = answered.response.status_code
        said = f" ({answered.server_message.strip()})" if answered.server_message else ""
        if status == 401:
            return f"the token in use is not valid{said}; {LOG_IN}" if has_token else f"{name} needs a token; {LOG_IN}"
        if status == 403:
            return f"the token in use may not do this with {name}{said}; take one with the right to write"
        return f"{name} cannot be reached: the Hub answered {status}{said}; try again later"
    if found(OfflineModeIsEnabled):
        return f"{name} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
    cached = found(LocalEntryNotFoundError)
    if cached is not None and access.local_files_only:
        return f"{name} is not whole in the cache; leave out local_files_only to fetch it"
    lost = next((e for e in chain if isinstance(e, HTTP_ERROR)), None)
    if cached is not None and lost is not None:
        return f"{name} cannot be reached ({_say(lost)}), and it is not whole in the cache; check the connection"
    if lost is not None:
        return f"the transfer of {name} broke off ({_say(lost)}){again}"
    if isinstance(error, BAD_ADDRESS):
        return f"{name} cannot be reached ({_say(error)}); check HF_ENDPOINT, HTTP_PROXY and HTTPS_PROXY"
    if isinstance(error, OSError) and error.strerror:
        return f"{name} cannot be stored ({error.strerror}: {error.filename})"
    if isinstance(error, json.JSONDecodeError):
        return f"{name} cannot be reached: {constants.ENDPOINT} does not answer as a Hub does; check HF_ENDPOINT"
    if isinstance(error, OSError):
        return f"the transfer of {name} failed ({_say(error)}){again}"
    return f"{name} is refused ({_say(error)})"


def _say(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _revisions(name: str, access: HubAccess) -> str:
    """The revisions that are there, as far as the Hub tells."""
    try:
        refs = HfApi(token=access.token).list_repo_refs(name)
    except (HTTP_ERROR, OSError, ValueError):
        return ""
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    return f"; found {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
