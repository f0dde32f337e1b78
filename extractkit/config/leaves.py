"""The single values of a nested configuration, each with its key."""

from collections.abc import Iterator, Mapping


def leaves(value: object, *place: str) -> Iterator[tuple[tuple[str, ...], object]]:
    """Each value that is neither a mapping nor a list, with the keys and indices that lead there.

    Args:
        value: plain data, not resolved.
        place: the keys that lead to it.
    """
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from leaves(entry, *place, str(key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from leaves(entry, *place, str(index))
    else:
        yield place, value


def name(place: tuple[str, ...]) -> str:
    """The key that a value stands under, its place in a list aside."""
    return next((key for key in reversed(place) if not key.isdigit()), "")
