"""YAML files as the words that stand in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lagamc.errors import LagamcError


class PlainValues(yaml.SafeLoader):
    """YAML whose values stay the words that they are (`no`, `1e-3`), but for empty ones; a key that stands twice is an
    error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no single word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_KINDS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("null", "str", "seq", "map"))
# without those of the tags `!!int` and the like
PlainValues.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in _KINDS
}
PlainValues.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.endswith(":null")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_plain_yaml(path: str) -> dict[Any, Any]:
    """The `key: value` lines of a file; values are strings, lists or mappings of them, or None where they are empty.

    Raises:
        LagamcError: there is no such file, or it is none of that kind.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = yaml.load(text, PlainValues) or {}
    except FileNotFoundError as error:
        raise LagamcError(f"{path}: no such configuration file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise LagamcError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise LagamcError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    return values
