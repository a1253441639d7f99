"""Errors that a user can cause: one message each, exit code 2."""

from __future__ import annotations

from collections.abc import Sequence


class LagamcError(ValueError):
    """Bad input or usage: the message says what was expected, what was found, where, and what to do."""

    @classmethod
    def from_problems(cls, heading: str, problems: Sequence[str], limit: int = 20) -> LagamcError:
        """Several problems as one error.

        Args:
            heading: what was being read.
            problems: one sentence per problem.
            limit: how many are written out; the rest are counted.
        """
        if len(problems) == 1:
            return cls(f"{heading}: {problems[0]}")
        lines = [f"{heading}: {len(problems)} problems"]
        lines += [f"  - {problem}" for problem in problems[:limit]]
        if len(problems) > limit:
            lines.append(f"  - ... and {len(problems) - limit} more")
        return cls("\n".join(lines))
