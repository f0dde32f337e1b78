"""The option `per`: whether results are for each feature, or over all elements."""

from collections.abc import Mapping
from typing import Any

from extractkit.core.statistics import FEATURE, Array, Block, features
from extractkit.core.transforms import Operand
from extractkit.errors import ConfigError, choices

ALL = "all"
"""In place of the axis of features, for results over all elements."""


def parse_per(given: Mapping[str, Any], at: str, default: str = FEATURE) -> str:
    """Return `per`: whether results are for each feature, or over all elements.

    Raises:
        ConfigError: it is neither.
    """
    per = given.get("per", default)
    if per not in (FEATURE, ALL):
        raise ConfigError(f"{at}.per={per!r} is not known. {choices(str(per), (FEATURE, ALL))}")
    return str(per)


def axes(per: str, *others: str) -> tuple[str, ...]:
    """Return the axes of a result that has these after the features."""
    return (FEATURE, *others) if per == FEATURE else others


def rows_per(block: Block, per: str) -> Array:
    """Return rows (rows, features), or (elements, 1) over all elements."""
    rows = block.rows()
    return rows if per == FEATURE else rows.reshape(-1, 1)


def width(operand: Operand, per: str, at: str) -> int:
    """Return the number of features that are counted separately.

    Raises:
        SelectionError: the size of the features differs from sample to sample, or is 0.
    """
    operand.needs_numbers(at)
    return features(operand, at) if per == FEATURE else 1
