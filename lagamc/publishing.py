"""Publishing a model folder to the Hub: exactly the files that belong to it, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

from lagamc.artifact import CARD_FILE, PART_FOLDERS, is_published, published_files, read_config
from lagamc.errors import LagamcError
from lagamc.hub import HubAccess, hub_errors

MESSAGE = "Upload LAGAMC model"
COPY_PREFIX = ".push-"  # of folders with what is being sent while a training goes on


def create_repo(
    name: str, private: bool | None = None, revision: str | None = None, access: HubAccess | None = None
) -> str:
    """Makes a repo of the Hub, and a branch in it, where they are missing.

    Args:
        name: `you/name`, or `name` for the user whose token it is.
        private: whether only some can see it; None is the user's or organisation's default. A repo that is there
            stays as it is.
        revision: the branch; None is `main`.
        access: the token.

    Returns:
        its full name.

    Raises:
        LagamcError: it cannot be made or written to, or is public where a private one is asked for.
    """
    if not isinstance(name, str) or not name.strip():
        raise LagamcError(f"cannot push: expected the name of a repo, such as you/name, found {name!r}")
    access = access or HubAccess()
    access.check_token()
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        raise LagamcError(f"{name}: expected a branch to push to, found the commit {revision}")
    api = HfApi(token=access.token, library_name="lagamc")
    with hub_errors("cannot push:", name, revision, access):
        repo = api.create_repo(name, private=private, exist_ok=True).repo_id
        if private and not api.model_info(repo).private:
            raise LagamcError(
                f"cannot push: {repo} is there already and public; make it private in its settings first, or take "
                "another name"
            )
        if revision is not None and not revision.startswith("refs/"):
            refs = api.list_repo_refs(repo)
            if revision in [tag.name for tag in refs.tags]:
                raise LagamcError(
                    f"cannot push: {revision!r} is a tag of {repo}, which stays where it is; name a branch"
                )
            if revision not in [branch.name for branch in refs.branches]:
                api.create_branch(repo, branch=revision)
    return repo


def publish(
    folder: str | Path,
    repo: str,
    revision: str | None = None,
    message: str = MESSAGE,
    below: str = "",
    access: HubAccess | None = None,
) -> CommitInfo:
    """Sends the published files of a model folder in one commit; those of an earlier model are removed.

    Args:
        folder: as `save_artifact` wrote it.
        repo: `you/name`, which is there.
        revision: its branch; None is `main`.
        message: of the commit.
        below: folder in the repo, such as `last-checkpoint`; empty for its top.
        access: the token.

    Returns:
        the commit: `oid`, `commit_url`.

    Raises:
        LagamcError: the folder is no whole model, or it cannot be sent.
    """
    folder = Path(folder)
    access = access or HubAccess()
    read_config(folder)
    names = published_files(folder)
    api = HfApi(token=access.token, library_name="lagamc")
    prefix = f"{below}/" if below else ""
    with hub_errors(f"cannot push {folder}:", repo, revision, access):
        present = [
            name.removeprefix(prefix)
            for name in api.list_repo_files(repo, revision=revision)
            if name.startswith(prefix)
        ]
        stale = [name for name in present if _is_ours(name) and name not in names]
        return api.create_commit(
            repo,
            [
                *(CommitOperationAdd(prefix + name, folder / name) for name in names),
                *(CommitOperationDelete(prefix + name) for name in stale),
            ],
            commit_message=message,
            revision=revision,
        )


def _is_ours(name: str) -> bool:
    """Whether a file in a repo belongs to the model that was there; the card may be someone's own."""
    return name.startswith(tuple(f"{part}/" for part in PART_FOLDERS)) or (is_published(name) and name != CARD_FILE)
