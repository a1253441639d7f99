"""Local stand-ins for the services that `lagamc describe` asks: real HTTP on 127.0.0.1, with faults on demand."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass(frozen=True)
class Reply:
    """One answer of a server: a status and a body, or a connection that is cut.

    Args:
        status: of HTTP.
        body: JSON, or text as it stands.
        headers: further ones.
        cut: 0 sends everything; 1 closes at once; 2 closes half-way through the body.
        pause: seconds before it is sent.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    pause: float = 0


CUT, CUT_HALFWAY = Reply(cut=1), Reply(body={"extract": "Half a definition of something."}, cut=2)
SLOW_DOWN = Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"})
SOON = Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "soon"})
BROKEN = Reply(500, {"error": {"message": "broken"}})
NO_JSON = Reply(200, '{"choices": [{"mess', {"Content-Type": "application/json"})


class StandIn:
    """A server that keeps what it was asked, and answers by a function after the faults planned for a request.

    Args:
        answer: request -> reply.
        about: what a request is about; faults are planned for that.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Reply], about: Callable[[dict[str, Any]], str]):
        self.requests: list[dict[str, Any]] = []
        self.faults: dict[str, deque[Reply]] = defaultdict(deque)
        self._answer, self._about = answer, about
        self.url = ""

    def plan(self, about: str, *replies: Reply) -> None:
        """The next requests about something are answered by these."""
        self.faults[about].extend(replies)

    def handle(self, request: dict[str, Any]) -> Reply:
        self.requests.append(request)
        waiting = self.faults[self._about(request)]
        return waiting.popleft() if waiting else self._answer(request)

    def asked(self, about: str) -> int:
        """How often something was asked about."""
        return sum(self._about(request) == about for request in self.requests)


@contextmanager
def running(stand_in: StandIn) -> Iterator[StandIn]:
    """Serves until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(
                {
                    "path": unquote(self.path),
                    "raw": self.path,
                    "headers": self._names(),
                }
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._reply({"path": self.path, "headers": self._names(), **body})

        def _names(self) -> dict[str, str]:
            return {name.lower(): value for name, value in self.headers.items()}

        def _reply(self, request: dict[str, Any]) -> None:
            reply = stand_in.handle(request)
            time.sleep(reply.pause)
            self.close_connection = True
            if reply.cut == 1:
                # a reset, as of a server that died
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
            content = text.encode("utf-8")
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(ConnectionError):  # who asked may have lost patience
                self.wfile.write(content[: len(content) // 2] if reply.cut else content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chat_stand_in(write: Callable[[str, int], str | None]) -> StandIn:
    """A chat model.

    Args:
        write: label and how often its prompt was answered before -> content of the answer.
    """

    def label_of(request: dict[str, Any]) -> str:
        return str(request["messages"][1]["content"]).split("\n")[0].removeprefix("Label: ")

    def answer(request: dict[str, Any]) -> Reply:
        content = write(label_of(request), len(request["messages"]) // 2 - 1)
        message = {"role": "assistant", "content": content}
        return Reply(body={"id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": message}]})

    return StandIn(answer, label_of)


def wikipedia_stand_in(extracts: dict[str, str]) -> StandIn:
    """Wikipedia's summaries: title -> extract; other titles are 404."""

    def title_of(request: dict[str, Any]) -> str:
        return str(request["path"]).rsplit("/", 1)[1]

    def answer(request: dict[str, Any]) -> Reply:
        title = title_of(request)
        if title not in extracts:
            return Reply(404, {"type": "https://mediawiki.org/wiki/HyperSwitch/errors/not_found"})
        return Reply(body={"type": "standard", "title": title, "extract": extracts[title]})

    return StandIn(answer, title_of)
