"""The edges of histograms, as written in configuration."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from extractkit.core.transforms import number, whole_number
from extractkit.errors import ConfigError

MOST_BINS = 1_000_000
"""Most intervals of a histogram."""


def parse_edges(given: Mapping[str, Any], at: str) -> tuple[float, ...]:
    """Return the edges of a histogram from `edges`, or from `bins` and `range`.

    Raises:
        ConfigError: the edges are missing, given twice, or not ascending.
    """
    if ("edges" in given) == ("bins" in given or "range" in given):
        raise ConfigError(
            f"{at} takes edges, or bins and range. Write for example {{bins: 20, range: [-1, 1]}}"
        )
    if "edges" in given:
        listed = given["edges"]
        if not isinstance(listed, list | tuple) or len(listed) < 2:
            raise ConfigError(f"{at}.edges={listed!r} is not a list of at least two numbers")
        edges = tuple(number(one, f"{at}.edges") for one in listed)
    else:
        bins = whole_number(given.get("bins", 20), f"{at}.bins")
        if bins > MOST_BINS:
            raise ConfigError(
                f"{at}.bins={bins} would take {8 * bins:,} bytes wherever elements are counted, "
                f"and for the edges. Take at most {at}.bins={MOST_BINS}, or quantiles"
            )
        limits = given.get("range")
        if not isinstance(limits, list | tuple) or len(limits) != 2:
            raise ConfigError(f"{at}.range={limits!r} is not two numbers, as in [-1, 1]")
        low, high = (number(one, f"{at}.range") for one in limits)
        edges = tuple(float(one) for one in np.linspace(low, high, bins + 1))
    for one, other in pairwise(edges):
        if not one < other:
            raise ConfigError(f"{at}: the edges must ascend, and {other!r} follows {one!r}")
    return edges
