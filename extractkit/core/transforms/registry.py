"""All transforms by name: those of extractkit, and those of installed plugins."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from extractkit.core.transforms import Transform
from extractkit.core.transforms.casting import Cast, Quantize
from extractkit.core.transforms.distributions import Histogram, Quantile
from extractkit.core.transforms.elementwise import Abs, Normalize, Softmax, Threshold
from extractkit.core.transforms.flattening import Flatten
from extractkit.core.transforms.largest import Argmax, Argmin, Sparsify, TopK
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

PLUGINS = "extractkit.transforms"
"""The group of entry points in which plugins register transforms."""

_OWN: tuple[type[Transform], ...] = (
    *(Slice, Mean, Sum, Min, Max, Norm, StandardDeviation, Variance, Argmax, Argmin, Quantile),
    *(Histogram, TopK, Flatten, Abs, Softmax, Normalize, Pool, Project, Threshold, Sparsify),
    *(Cast, Quantize),
)

_SHORTENING: tuple[type[Transform], ...] = (Slice, TopK, Pool, Sparsify)
"""Those after which a sample may have fewer elements along an axis than before."""

REDUCTIONS: Mapping[str, type[Transform]] = {
    one.name: one for one in (Mean, Sum, Min, Max, Norm, StandardDeviation, Variance)
}
"""The reductions of the short form `reduce`."""


def names() -> tuple[str, ...]:
    """Return the names of all transforms, plugins included."""
    return (*(one.name for one in _OWN), *sorted(plugins()))


def shortens(name: str) -> bool | None:
    """Return True if samples may be shorter after a transform, and None for plugins: unknown.

    After all others, the axes that keep their names keep their lengths.
    """
    if any(one.name == name for one in _SHORTENING):
        return True
    return False if any(one.name == name for one in _OWN) else None


def distribution(name: str) -> str | None:
    """Return the installed distribution whose plugin a transform is; None for extractkit's own."""
    if any(one.name == name for one in _OWN):
        return None
    plugin = plugins().get(name)
    return plugin.dist.name if plugin is not None and plugin.dist is not None else None


def transform(name: str, at: str) -> type[Transform]:
    """Return the class of a transform.

    Raises:
        ConfigError: the transform does not exist, or its plugin cannot be imported.
    """
    for one in _OWN:
        if one.name == name:
            return one
    plugin = plugins().get(name)
    if plugin is None:
        raise ConfigError(f"{at}: {name!r} is not a transform. {choices(name, names())}")
    try:
        found = plugin.load()
    except Exception as error:  # a plugin's code may raise anything
        raise ConfigError(
            f"{at}: the plugin of transform {name!r}, {plugin.value}, cannot be imported: {error!r}"
        ) from error
    if not isinstance(found, type) or getattr(found, "name", None) != name:
        raise ConfigError(
            f"{at}: the plugin of transform {name!r}, {plugin.value}, is not a class whose `name` "
            f"is {name!r}"
        )
    return found


@cache
def plugins() -> Mapping[str, EntryPoint]:
    return {plugin.name: plugin for plugin in entry_points(group=PLUGINS)}
