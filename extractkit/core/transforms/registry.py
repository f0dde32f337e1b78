"""All transforms by name: those of extractkit, and those of installed plugins."""

from collections.abc import Mapping

from extractkit.core.transforms import Transform
from extractkit.core.transforms.casting import Cast, Quantize
from extractkit.core.transforms.distributions import Histogram, Quantile
from extractkit.core.transforms.elementwise import Abs, Normalize, Softmax, Threshold
from extractkit.core.transforms.flattening import Flatten
from extractkit.core.transforms.largest import Argmax, Argmin, Sparsify, TopK
from extractkit.core.transforms.ordering import ChannelsLast
from extractkit.core.transforms.plugins import Plugins
from extractkit.core.transforms.pooling import Pool
from extractkit.core.transforms.projection import Project
from extractkit.core.transforms.reductions import (
    Max,
    Mean,
    Min,
    Norm,
    StandardDeviation,
    Sum,
    Variance,
)
from extractkit.core.transforms.slicing import Slice
from extractkit.errors import ConfigError, choices

_OWN: tuple[type[Transform], ...] = (
    *(Slice, Mean, Sum, Min, Max, Norm, StandardDeviation, Variance, Argmax, Argmin, Quantile),
    *(Histogram, TopK, Flatten, Abs, Softmax, Normalize, Pool, Project, Threshold, Sparsify),
    *(ChannelsLast, Cast, Quantize),
)

REDUCTIONS: Mapping[str, type[Transform]] = {
    one.name: one for one in (Mean, Sum, Min, Max, Norm, StandardDeviation, Variance)
}
"""The reductions of the short form `reduce`."""


PLUGINS: Plugins[Transform] = Plugins(
    "extractkit.transforms",
    "transform",
    {one.name: one for one in _OWN},
    ("parse", "results", "lengths", "in_graph", "in_numpy"),
)
"""The transforms of installed packages."""


def names() -> tuple[str, ...]:
    """Return the names of all transforms, plugins included."""
    return (*(one.name for one in _OWN), *PLUGINS.names)


def own(name: str) -> type[Transform] | None:
    """Return the class of one of extractkit's own transforms; None if there is none."""
    return next((one for one in _OWN if one.name == name), None)


def is_own(name: str) -> bool:
    """Return True for extractkit's own transforms."""
    return own(name) is not None


def transform(name: str, at: str) -> type[Transform]:
    """Return the class of a transform.

    Raises:
        ConfigError: the transform does not exist, or its plugin cannot be used.
    """
    found = own(name) or PLUGINS.load(name, at)
    if found is None:
        raise ConfigError(f"{at}: {name!r} is not a transform. {choices(name, names())}")
    return found
