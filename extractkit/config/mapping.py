"""`diff --map FILE`: which tensor of one run belongs to which of the other, read from YAML."""

from pathlib import Path

from omegaconf import OmegaConf

from extractkit.config.messages import translated
from extractkit.errors import ConfigError


def read_mapping(path: str | Path) -> dict[str, str]:
    """The addresses of one run and those of the other that they belong to, in the file's order.

    The file is one YAML mapping, each entry `ADDRESS: ADDRESS`. Nothing is interpolated: a dollar
    sign is part of an address.

    Raises:
        ConfigError: there is no such file, it is no YAML, or it holds something else.
    """
    with translated():
        loaded = OmegaConf.load(path)
        content = OmegaConf.to_container(loaded, resolve=False)
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path} holds no mapping. Write one line for each tensor: {_FORM}")
    for left, right in content.items():
        if not isinstance(left, str) or not isinstance(right, str):
            raise ConfigError(f"{path}: {left!r}: {right!r} is no entry. Write texts: {_FORM}")
    return {str(left): str(right) for left, right in content.items()}


_FORM = '"dense:output": "model/dense/BiasAdd:0"'
