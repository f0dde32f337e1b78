"""Classes that installed packages register by entry points: transforms, statistics."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint
from typing import Generic, TypeVar

from extractkit.core.trust import installed
from extractkit.errors import ConfigError

K = TypeVar("K")


class Plugins(Generic[K]):
    """The plugins of one kind.

    Extractkit's own classes take precedence: a plugin with the name of one of them is not used, so
    that installing a package changes no job.

    Args:
        group: the group of entry points.
        noun: the kind ("transform"), for messages.
        own: extractkit's own classes by name.
        members: what every class defines.
    """

    def __init__(
        self, group: str, noun: str, own: Mapping[str, type[K]], members: Sequence[str]
    ) -> None:
        self.group = group
        self._noun = noun
        self._own = own
        self._members = members

    def clear(self) -> None:
        """Look for plugins again, after packages were installed or removed."""
        vars(self).pop("_found", None)

    @cached_property
    def _found(self) -> Mapping[str, list[EntryPoint]]:
        """The entry points by name, without those of the names of own classes."""
        found: dict[str, list[EntryPoint]] = {}
        for entry in installed(self.group):
            if entry.name not in self._own:
                found.setdefault(entry.name, []).append(entry)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all plugins."""
        return tuple(sorted(self._found))

    def distribution(self, name: str) -> str | None:
        """Return the distribution whose plugin has this name; None if there is none."""
        entries = self._found.get(name)
        return _distribution(entries[0]) if entries else None

    def load(self, name: str, at: str) -> type[K] | None:
        """Return the class of a plugin; None if there is none of this name.

        Raises:
            ConfigError: it cannot be imported, is not a class of this name, or two packages
                register it.
        """
        entries = self._found.get(name)
        if not entries:
            return None
        if len(entries) > 1:
            packages = " and ".join(sorted(str(_distribution(entry)) for entry in entries))
            raise ConfigError(
                f"{at}: {name!r} is a {self._noun} of several packages: {packages}. Uninstall all "
                f"but one"
            )
        (entry,) = entries
        plugin = f"the {self._noun} {name!r} of {_distribution(entry)}, {entry.value},"
        try:
            found = entry.load()
        except Exception as error:  # a plugin's code may raise anything
            raise ConfigError(f"{at}: {plugin} cannot be imported: {error!r}") from error
        if not isinstance(found, type) or getattr(found, "name", None) != name:
            raise ConfigError(f"{at}: {plugin} is not a class whose `name` is {name!r}")
        if lacking := [one for one in self._members if not hasattr(found, one)]:
            raise ConfigError(f"{at}: {plugin} does not define {', '.join(lacking)}")
        return found


def _distribution(entry: EntryPoint) -> str | None:
    return None if entry.dist is None else entry.dist.name
