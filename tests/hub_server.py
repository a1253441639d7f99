"""A small Hub on 127.0.0.1: what the unmodified `huggingface_hub` client asks for when it moves models.

Repos with branches, tags and commits, LFS, private and gated repos, ranges; and faults: connections that are cut in
the middle of a file, a Hub that is out of reach. To be imported before anything that reads the environment.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tempfile
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_testtokenoftheownerABCDEFGHIJKLMN"  # of the user `you`
READ_TOKEN = "hf_testtokenofareaderABCDEFGHIJKLMNO"  # of the user `reader`, who may write nowhere
USERS = {TOKEN: "you", READ_TOKEN: "reader"}

Tree = dict[str, bytes]


@dataclass
class Repo:
    """Files of every commit, and what points to them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Tree] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, tree: Tree, message: str) -> str:
        parts = [message.encode(), str(len(self.commits)).encode(), *(n.encode() + tree[n] for n in sorted(tree))]
        sha = hashlib.sha1(b"\0".join(parts)).hexdigest()
        self.commits[sha] = tree
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    def resolve(self, revision: str) -> str | None:
        found = self.branches.get(revision) or self.tags.get(revision)
        return found or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> Tree:
        sha = self.resolve(revision)
        assert sha is not None
        return self.commits[sha]


class Refused(Exception):
    """An answer with an error."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


class Hub:
    """The server; its port is taken at once, so that `HF_ENDPOINT` can name it before anything is imported."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.received: dict[str, set[str]] = defaultdict(set)  # repo -> paths of which content was sent
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, range
        self.places: dict[str, str] = {}  # digest of a large file -> path by which it was asked for
        self.cuts: dict[str, deque[int]] = defaultdict(deque)  # end of a path -> bytes that are sent
        self.failing: int | None = None  # status of every answer; 200 is a page of somebody else
        self._server = self._bind(0)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread: threading.Thread | None = None

    def _bind(self, port: int) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self), bind_and_activate=False)
        server.allow_reuse_address = True
        server.server_bind()
        return server

    def start(self) -> None:
        self._server.server_activate()
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Nobody listens at the address."""
        self.stop()
        self._server = self._bind(self.port)  # keeps the port from others
        try:
            yield
        finally:
            self.start()

    def reset(self) -> None:
        """Forgets everything."""
        for kept in (self.repos, self.large, self.received, self.requests, self.places, self.cuts):
            kept.clear()  # type: ignore[attr-defined]
        self.failing = None

    def make(self, name: str, files: Tree | None = None, private: bool = False, gated: bool = False) -> Repo:
        """A repo with its first commit."""
        repo = self.repos[name] = Repo(private, gated)
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})}, "initial commit")
        return repo

    def cut(self, ending: str, after: int, times: int = 1) -> None:
        """The next downloads of a file break off after some bytes."""
        self.cuts[ending].extend([after] * times)

    def fetched(self) -> list[str]:
        """Names of the files that were downloaded, in order."""
        paths = [self.path_of(path) for method, path, _ in self.requests if method == "GET"]
        return [path.split("/resolve/")[1].split("/", 1)[1] for path in paths if "/resolve/" in path]

    def path_of(self, path: str) -> str:
        """By which a large file was asked for."""
        return self.places.get(path.removeprefix("/large/"), path)

    def user(self, headers: dict[str, str]) -> str | None:
        if "authorization" not in headers:
            return None
        user = USERS.get(headers["authorization"].removeprefix("Bearer "))
        if user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return user

    def readable(self, name: str, user: str | None, content: bool = False) -> Repo:
        repo = self.repos.get(name)
        if repo is None or (repo.private and name.split("/")[0] != user):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if repo.gated and content and name.split("/")[0] != user:
            raise Refused(403 if user else 401, "Access to model is restricted", "GatedRepo")
        return repo

    def writable(self, name: str, user: str | None) -> Repo:
        repo = self.readable(name, user)
        if name.split("/")[0] != user:
            raise Refused(403 if user else 401, "You have no right to write here")
        return repo


def _revision(repo: Repo, revision: str) -> str:
    sha = repo.resolve(revision)
    if sha is None:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return sha


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".pt", ".model"))


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}
    if _is_large(path):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        do_HEAD = do_POST = do_PUT = do_GET

        def _answer(self) -> None:
            self.close_connection = True
            parts = urlsplit(self.path)
            self.query, path = parse_qs(parts.query), parts.path
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.names = {name.lower(): value for name, value in self.headers.items()}
            hub.requests.append((self.command, unquote(path), self.names.get("range")))
            try:
                if hub.failing == 200:
                    return self._content(b"<html>Log in to this network</html>", path, {})
                if hub.failing:
                    raise Refused(hub.failing, "out of order")
                self._route(path, body)
            except Refused as refused:
                headers = {"X-Error-Message": str(refused)} | ({"X-Error-Code": refused.code} if refused.code else {})
                self._json({"error": str(refused)}, refused.status, headers)

        def _route(self, path: str, body: bytes) -> None:
            if path == "/api/repos/create":
                return self._create(json.loads(body))
            if path == "/api/validate-yaml":
                return self._json({"errors": [], "warnings": []})
            if found := re.fullmatch(r"/large/(\w+)", path):
                if self.command == "PUT":
                    hub.large[found[1]] = body
                    return self._json({})
                if "authorization" in self.names:  # another host than the Hub's: the token is none of its business
                    raise Refused(400, "a token was sent to the storage")
                return self._content(hub.large[found[1]], path, {"ETag": f'"{found[1]}"'})
            if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
                hub.writable(found[1], hub.user(self.names))
                return self._json({"transfer": "basic", "objects": [_upload(o) for o in json.loads(body)["objects"]]})
            if found := re.fullmatch(r"/((?:[^/]+/)?[^/]+)/resolve/([^/]+)/(.+)", path):
                return self._file(found[1], unquote(found[2]), unquote(found[3]))
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)(?:/([^/]+)(?:/(.*))?)?)?", path):
                return self._api(found[1], found[2] or "revision", unquote(found[3] or "main"), found[4], body)
            raise Refused(404, f"no such page {path}", "RepoNotFound")

        def _create(self, asked: dict[str, Any]) -> None:
            user = hub.user(self.names)
            if user is None:
                raise Refused(401, "Invalid username or password.")
            name = f"{asked['organization'] or user}/{asked['name']}"
            if not name.startswith(f"{user}/") or user == "reader":
                raise Refused(403, f"You don't have the rights to create a model under {name}")
            status = 409 if name in hub.repos else 200
            if status == 200:
                hub.make(name, private=asked.get("visibility") == "private" or bool(asked.get("private")))
            self._json({"url": f"{hub.url}/{name}", "error": "exists"}, status)

        def _api(self, name: str, action: str, revision: str, rest: str | None, body: bytes) -> None:
            user = hub.user(self.names)
            if self.command == "GET":
                repo = hub.readable(name, user)
                if action == "refs":
                    return self._json({"branches": _refs(repo.branches), "tags": _refs(repo.tags), "converts": []})
                sha = _revision(repo, revision)
                if action == "tree":
                    inside = f"{rest}/" if rest else ""
                    names = [path for path in repo.commits[sha] if path.startswith(inside)]
                    if rest and not names:
                        raise Refused(404, "no such folder", "EntryNotFound")
                    return self._json([_entry(path, repo.commits[sha][path]) for path in names])
                siblings = [{"rfilename": path} for path in repo.commits[sha]]
                info = {"id": name, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []}
                return self._json({**info, "gated": "manual" if repo.gated else False})
            repo = hub.writable(name, user)
            if action == "preupload":
                _revision(repo, revision)
                asked = json.loads(body)["files"]
                hub.received[name] |= {entry["path"] for entry in asked}
                tree = repo.files(revision)
                return self._json({"files": [_upload_mode(entry["path"], tree) for entry in asked]})
            if action == "branch":
                if revision in {**repo.branches, **repo.tags}:
                    raise Refused(409, "Reference already exists")
                repo.branches[revision] = _revision(repo, json.loads(body or b"{}").get("startingPoint") or "main")
                return self._json({})
            if action == "tag":
                repo.tags[json.loads(body)["tag"]] = _revision(repo, revision)
                return self._json({})
            assert action == "commit", action
            if revision not in repo.branches:
                raise Refused(400, "commits go to branches")
            tree, message = dict(repo.files(revision)), ""
            for line in body.decode().splitlines():
                item = json.loads(line)
                kind, value = item["key"], item["value"]
                if kind == "header":
                    message = value["summary"]
                elif kind == "file":
                    tree[value["path"]] = base64.b64decode(value["content"])
                elif kind == "lfsFile":
                    tree[value["path"]] = hub.large[value["oid"]]
                else:
                    assert kind == "deletedFile", kind
                    del tree[value["path"]]
                if kind in ("file", "lfsFile"):
                    hub.received[name].add(value["path"])
            sha = repo.commit(revision, tree, message)
            self._json({"commitUrl": f"{hub.url}/{name}/commit/{sha}", "commitOid": sha, "pullRequestUrl": None})

        def _file(self, name: str, revision: str, path: str) -> None:
            repo = hub.readable(name, hub.user(self.names), content=True)
            sha = _revision(repo, revision)
            content = repo.commits[sha].get(path)
            if content is None:
                raise Refused(404, "Entry not found", "EntryNotFound")
            headers = {"X-Repo-Commit": sha}
            if not _is_large(path):
                return self._content(content, path, {**headers, "ETag": f'"{_blob_id(content)}"'})
            digest = hashlib.sha256(content).hexdigest()
            hub.large[digest], hub.places[digest] = content, unquote(urlsplit(self.path).path)
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            self._content(b"", path, {**headers, "Location": f"http://localhost:{hub.port}/large/{digest}"}, 302)

        def _content(self, content: bytes, path: str, headers: dict[str, str], status: int = 200) -> None:
            total, wanted = len(content), re.fullmatch(r"bytes=(\d+)-(\d*)", self.names.get("range", ""))
            if wanted and status == 200:
                first, last = int(wanted[1]), min(int(wanted[2] or total - 1), total - 1)
                content, status = content[first : last + 1], 206
                headers = {**headers, "Content-Range": f"bytes {first}-{last}/{total}"}
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            place = hub.path_of(path)
            cuts = next((cuts for end, cuts in hub.cuts.items() if cuts and content and place.endswith(end)), None)
            self.wfile.write(content[: cuts.popleft() if cuts else None])

        def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {**(headers or {}), "Content-Type": "application/json"}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    def _upload(asked: dict[str, Any]) -> dict[str, Any]:
        if asked["oid"] in hub.large:
            return asked  # is there: nothing to send
        return {**asked, "actions": {"upload": {"href": f"{hub.url}/large/{asked['oid']}"}}}

    def _upload_mode(path: str, tree: Tree) -> dict[str, Any]:
        """With the id of what is there: the client sends no file that is the same."""
        large = _is_large(path)
        there = _entry(path, tree[path]) if path in tree else {}
        oid = there["lfs"]["oid"] if "lfs" in there else there.get("oid")
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def _refs(refs: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{name}", "targetCommit": sha} for name, sha in refs.items()]

    return Handler


HUB = Hub()  # answers no one before it is started
os.environ["HF_ENDPOINT"] = HUB.url
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="lagamc-tests-hub-")
for secret in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
    os.environ.pop(secret, None)
