"""How the commands explain themselves."""

from __future__ import annotations

import argparse

EXIT_CODES = "exit codes: 0 done, 2 bad input or usage, 1 a failure of ours"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action, argparse._StoreFalseAction):  # `--no_...`, which transformers' parser adds
            return f"The same as --{action.dest} false."
        return action.help if action.default is None or action.required else super()._get_help_string(action)
