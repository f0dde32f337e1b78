"""All statistics by name, and the list of them that a selector asks for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from extractkit.core.statistics import Configured, JointStatistic, Statistic
from extractkit.core.statistics.components import PCA, Covariance
from extractkit.core.statistics.counts import Coactivation, Sparsity
from extractkit.core.statistics.histograms import Histogram
from extractkit.core.statistics.moments import Moments
from extractkit.core.statistics.quantiles import Quantiles
from extractkit.core.statistics.similarity import Similarity
from extractkit.core.statistics.top import Top
from extractkit.core.statistics.totals import Total
from extractkit.core.transforms import named_entry
from extractkit.core.transforms.plugins import Plugins
from extractkit.errors import ConfigError, choices

STATISTICS = "statistics"
"""The selector's key."""

_OWN: tuple[type[Statistic], ...] = (
    *(Moments, Histogram, Quantiles, Covariance, PCA, Top, Coactivation, Sparsity, Total),
)
_JOINT: tuple[type[JointStatistic], ...] = (Similarity,)


def _every() -> dict[str, Any]:
    return {one.name: one for one in (*_OWN, *_JOINT)}


PLUGINS: Plugins[Statistic] = Plugins(
    "extractkit.statistics",
    "statistic",
    _every(),
    ("parse", "check", "partial_bytes", "of", "merge", "finish", "dims", "summary"),
)
"""The statistics of single tensors of installed packages."""


def names() -> tuple[str, ...]:
    """Return the names of all statistics, plugins included."""
    return (*(one.name for one in (*_OWN, *_JOINT)), *PLUGINS.names)


def own(name: str) -> type[Configured] | None:
    """Return the class of one of extractkit's own statistics; None if there is none."""
    return _named((*_OWN, *_JOINT), name)


def is_own(name: str) -> bool:
    """Return True for extractkit's own statistics."""
    return own(name) is not None


K = TypeVar("K", bound=Configured)


def _named(kinds: Iterable[type[K]], name: object) -> type[K] | None:
    return next((one for one in kinds if one.name == name), None)


@dataclass(frozen=True)
class Asked:
    """The statistics that a selector asks for.

    Attributes:
        single: the statistics of each tensor, in order.
        joint: the statistics of all tensors of a selector together, in order.
        written: both as plain data. Selectors with equal text ask for the same. Empty: a value per
            sample is stored.
    """

    single: tuple[Statistic, ...] = ()
    joint: tuple[JointStatistic, ...] = ()
    written: tuple[Mapping[str, Any] | str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all of them, those of single tensors first."""
        return tuple(one.name for one in (*self.single, *self.joint))

    @property
    def plugins(self) -> frozenset[str]:
        """The distributions whose plugins take part."""
        found = map(PLUGINS.distribution, self.names)
        return frozenset(name for name in found if name is not None)

    def __bool__(self) -> bool:
        return bool(self.written)

    def same_as(self, other: "Asked") -> bool:
        """Return True if both ask for the same, even if they belong to different selectors."""
        return self.written == other.written

    @classmethod
    def parse(cls, value: object, at: str) -> "Asked":
        """Parse a name, or a list of names and of mappings of a name to its options.

        Raises:
            ConfigError: a statistic does not exist, is given twice, or its options are wrong.
        """
        if value is None:
            return cls()
        entries = [value] if isinstance(value, str) else value
        if not isinstance(entries, list | tuple) or not entries:
            raise ConfigError(f"{at}={value!r} is not a list of statistics, as in [moments]")
        parsed: dict[str, Statistic] = {}
        joint: dict[str, JointStatistic] = {}
        written: list[Mapping[str, Any] | str] = []
        for number, entry in enumerate(entries):
            here = f"{at}.{number}"
            named = named_entry(entry)
            if named is None:
                raise ConfigError(
                    f"{here}={entry!r} is not one statistic. Write its name, or a mapping of its "
                    f"name to its options, as in {{moments: {{per: all}}}}"
                )
            name, options = named
            if name in (*parsed, *joint):
                raise ConfigError(f"{here}: {name!r} is given twice")
            given, key = {} if options is None else options, f"{here}.{name}"
            if (kind := _named(_OWN, name)) is not None:
                parsed[name] = kind.parse(given, key)
            elif (of_several := _named(_JOINT, name)) is not None:
                joint[name] = of_several.parse(given, key)
            elif (plugin := PLUGINS.load(str(name), here)) is not None:
                parsed[name] = plugin.parse(given, key)
            else:
                raise ConfigError(
                    f"{here}: {name!r} is not a statistic. {choices(str(name), names())}"
                )
            written.append(name if options is None else {name: options})
        return cls(tuple(parsed.values()), tuple(joint.values()), tuple(written))


@dataclass(frozen=True)
class Group:
    """Tensors with a statistic of all of them together: those of one selector.

    Attributes:
        selector: the selector's name.
        statistic: the statistic.
        tensors: keys of the tensors, in the catalog's order.
    """

    selector: str
    statistic: JointStatistic
    tensors: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key of the group, which no tensor can have."""
        return f"@{self.selector}"


def groups(tensors: Iterable[tuple[str, Iterable[str], Asked]]) -> tuple[Group, ...]:
    """Return the groups among tensors, each given by key, selectors and statistics."""
    found: dict[tuple[str, str], tuple[JointStatistic, list[str]]] = {}
    for key, selectors, asked in tensors:
        for selector in selectors:
            for statistic in asked.joint:
                found.setdefault((selector, statistic.name), (statistic, []))[1].append(key)
    return tuple(
        Group(selector, statistic, tuple(keys))
        for (selector, _), (statistic, keys) in found.items()
    )
