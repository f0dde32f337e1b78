"""The mapping of addresses between two runs (`diff --map`), from a YAML file."""

import io
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from extractkit.config.messages import translated
from extractkit.errors import ConfigError
from extractkit.runs.comparing.pairing import FileMapping


def read_mapping(path: str | Path) -> FileMapping:
    """Return the mapping of addresses between two runs, in the file's order.

    The file is one YAML mapping, each entry `ADDRESS: ADDRESS`. Interpolations are not resolved,
    since a dollar sign is part of an address.

    Raises:
        ConfigError: the file does not exist, is not UTF-8 or YAML, or holds something else.
    """
    text = _text(path)
    with translated():
        named = io.StringIO(text)
        named.name = str(path)  # for YAML's errors
        try:
            loaded = OmegaConf.load(named)
        except (
            OSError,
            RecursionError,
        ) as error:  # a lone number; a structure that contains itself
            raise ConfigError(f"{path} {_NOTHING}") from error
        content = OmegaConf.to_container(loaded, resolve=False)
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path} {_NOTHING}")
    for left, right in content.items():
        if not isinstance(left, str) or not isinstance(right, str):
            raise ConfigError(f"{path}: {left!r}: {right!r} is not an entry. Write texts: {_FORM}")
    entries = {str(left): str(right) for left, right in content.items()}
    return FileMapping(entries, str(path), _lines(text))


_FORM = '"dense:output": "model/dense/BiasAdd:0"'
_NOTHING = f"does not hold a mapping. Write one line for each tensor: {_FORM}"


def _text(path: str | Path) -> str:
    """Read a whole file. It may be a pipe, so read it once."""
    with translated():
        try:
            return Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8 text: {error}") from error


def _lines(text: str) -> dict[str, int]:
    """Return the line number of each key of a YAML mapping."""
    entries = yaml.compose(text, yaml.SafeLoader).value
    return {key.value: key.start_mark.line + 1 for key, _ in entries}
