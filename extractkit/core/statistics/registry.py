"""All statistics by name, and the list of them that a selector asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extractkit.core.statistics import Statistic
from extractkit.core.statistics.components import PCA, Covariance
from extractkit.core.statistics.counts import Coactivation, Histogram, Quantiles, Sparsity
from extractkit.core.statistics.moments import Moments
from extractkit.core.statistics.top import Top
from extractkit.core.transforms import named_entry
from extractkit.errors import ConfigError, choices

STATISTICS = "statistics"
"""The selector's key."""

_OWN: tuple[type[Statistic], ...] = (
    *(Moments, Histogram, Quantiles, Covariance, PCA, Top, Coactivation, Sparsity),
)


def names() -> tuple[str, ...]:
    """Return the names of all statistics."""
    return tuple(one.name for one in _OWN)


@dataclass(frozen=True)
class Asked:
    """The statistics that a selector asks for.

    Attributes:
        statistics: the statistics, in order. Empty: a value per sample is stored.
        written: the same as plain data. Two selectors of the same text ask for the same.
    """

    statistics: tuple[Statistic, ...] = ()
    written: tuple[Mapping[str, Any] | str, ...] = ()

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
            kind = next((one for one in _OWN if one.name == name), None)
            if kind is None:
                raise ConfigError(
                    f"{here}: {name!r} is not a statistic. {choices(str(name), names())}"
                )
            if kind.name in parsed:
                raise ConfigError(f"{here}: {name!r} is given twice")
            parsed[kind.name] = kind.parse({} if options is None else options, f"{here}.{name}")
            written.append(name if options is None else {name: options})
        return cls(tuple(parsed.values()), tuple(written))
