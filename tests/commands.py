"""Commands that must fail, and what makes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lagamc.cli import main

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail with one message and exit code 2; returns the message."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        assert code == 2, captured.err
        assert captured.out == "" or words[0] == "train"
        assert len(re.findall(r"^error: ", captured.err, re.MULTILINE)) == 1, captured.err
        assert "Traceback" not in captured.err
        assert 'File "' not in captured.err
        return captured.err[captured.err.index("error: ") :]

    return run


def replace_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
