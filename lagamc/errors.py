"""Errors that a user can cause: one message each, exit code 2."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

_LINE = re.compile(r", (?:line|row) (\d+)(?=: )")


class LagamcError(ValueError):
    """Bad input or usage: the message says what was expected, what was found, where, and what to do."""

    @classmethod
    def from_problems(cls, heading: str, problems: Sequence[str], limit: int = 20) -> LagamcError:
        """Several problems as one error; those that differ in their line alone are written out once.

        Args:
            heading: what was being read.
            problems: one sentence per problem.
            limit: how many are written out; the rest are counted.
        """
        alike: dict[str, list[str]] = {}
        for problem in problems:
            alike.setdefault(_LINE.sub("", problem), []).append(problem)
        groups = list(alike.values())
        found = [first + _elsewhere(others, limit) for first, *others in groups]
        if len(found) == 1:
            return cls(f"{heading}: {found[0]}")
        lines = [f"{heading}: {len(problems)} problems"]
        lines += [f"  - {problem}" for problem in found[:limit]]
        if len(found) > limit:
            lines.append(f"  - ... and {sum(map(len, groups[limit:]))} more")
        return cls("\n".join(lines))


def _elsewhere(problems: Sequence[str], limit: int) -> str:
    """In which lines a problem stands as well."""
    lines = [found[1] for problem in problems if (found := _LINE.search(problem))]
    return f"\n    and so in line {listed(lines, limit)}" if lines else ""


def listed(names: Sequence[str], limit: int = 10) -> str:
    """Names in a message: so many are written out, the rest are counted."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def outside(name: str, value: Any, allowed: Sequence[str]) -> list[str]:
    """The problem of a setting that is none of the allowed values; empty where it is one."""
    return [] if value in allowed else [f"{name}: expected one of {list(allowed)}, found {value!r}"]


def not_between(name: str, value: float | None, low: float, high: float) -> list[str]:
    """The problem of a setting that is no number from `low` to `high`; empty where it is one."""
    if value is not None and low <= value <= high:
        return []
    return [f"{name}: expected {low:g} to {high:g}, found {value!r}"]


_TOKEN = re.compile(r"\bhf_[A-Za-z0-9_]{6,}")


def without_tokens(text: str, *tokens: str | bool | None) -> str:
    """The text with every token of the Hub in it replaced: those given, the environment's, and what looks like one."""
    known = [*tokens, os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN")]
    for token in known:
        if isinstance(token, str) and len(token.strip()) > 5:
            text = text.replace(token.strip(), "[token]")
    return _TOKEN.sub("[token]", text)
