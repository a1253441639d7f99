from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from lagamc.app import MAX_CHARACTERS, MAX_UPLOAD, LabelPage
from lagamc.classifier import LagamcClassifier
from lagamc.cli import main
from lagamc.errors import LagamcError
from lagamc.serving import example_texts, is_local, launch
from tests.artifacts import Trained
from tests.conftest import ROWS
from tests.runs import some_labels, write_run

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(classifier: LagamcClassifier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        patch.setenv("GRADIO_SHARE", "true")  # must not matter
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # must not either
        page = LabelPage(classifier).build()
        found = launch(page, port=free_port())
        patch.delenv("HTTP_PROXY")
        yield found
        page.close(verbose=False)


def test_the_page_answers_on_this_machine(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    answer = requests.get(address, timeout=30)
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_it_listens_on_this_machine_alone(address: str) -> None:
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", port))  # free: the server took 127.0.0.1, not all addresses


def test_a_foreign_name_is_refused(address: str) -> None:
    assert requests.get(address, headers={"Host": "evil.example"}, timeout=30).status_code == 400


def test_large_uploads_are_refused(address: str) -> None:
    url = f"{address.rstrip('/')}/gradio_api/upload"
    small = requests.post(url, files={"files": ("a.jsonl", b'{"text": "x"}')}, timeout=60)
    assert small.status_code == 200
    large = requests.post(url, files={"files": ("a.jsonl", b"x" * (MAX_UPLOAD + 1))}, timeout=60)
    assert large.status_code == 413


def test_files_of_the_machine_are_not_served(address: str) -> None:
    url = f"{address.rstrip('/')}/gradio_api/file="
    for path in ("/etc/passwd", str(ROOT / "setup.cfg"), "../../../../etc/passwd"):
        assert requests.get(url + path, timeout=30).status_code in (403, 404)


def test_a_taken_port(address: str, classifier: LagamcClassifier) -> None:
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(LagamcError, match="cannot be listened on"):
        launch(LabelPage(classifier).build(), port=port)


def test_a_host_that_is_no_ipv4_address(classifier: LagamcClassifier) -> None:
    with pytest.raises(LagamcError, match=r"host: expected an IPv4 address or a name, found '::1'"):
        launch(LabelPage(classifier).build(), "::1", free_port())


def test_examples_come_from_the_run_or_a_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", some_labels(3), rows=8, texts={0: "The first.", 1: "y" * 20_000})
    found = example_texts(run)
    assert len(found) == 5
    assert found[0] == "The first."
    assert len(found[1]) == MAX_CHARACTERS
    assert example_texts(tmp_path) == []
    file = tmp_path / "texts.csv"
    file.write_text("text\nMine.\n")
    assert example_texts(run, str(file)) == ["Mine."]
    file.write_text("other\nMine.\n")
    with pytest.raises(LagamcError, match="line 2: expected a column 'text'"):
        example_texts(run, str(file))


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.0.7", False),
        ("x", False),
    ],
)
def test_is_local(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_command(trained_t5: Trained) -> None:
    port = free_port()
    command = [sys.executable, "-m", "lagamc.cli", "serve", str(trained_t5.folder), "--port", str(port)]
    # a shell that starts the tests in the background has them ignore Ctrl-C, and what they start as well
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"the page is at http://127.0.0.1:{port}/ (stop it with Ctrl-C)\n"
        config = requests.get(f"http://127.0.0.1:{port}/config", timeout=30).json()
        assert ROWS[0]["text"] in str(config)  # an example of the run
    finally:
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert process.wait(30) == 0
        assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no model can be loaded from 'nowhere': no such folder here"),
        (["x", "--port", "0"], "expected 1 to 65535, found '0'"),
        (["x", "--port", "99999"], "expected 1 to 65535, found '99999'"),
        (["x", "--port", "abc"], "expected 1 to 65535, found 'abc'"),
        (["x", "--share"], "unrecognized arguments: --share"),
        (["x", "--examples", "gone.jsonl"], "gone.jsonl: no such file"),
    ],
)
def test_wrong_arguments(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words]) == 2
    assert message in capsys.readouterr().err
