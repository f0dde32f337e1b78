"""Random weights that are the same in every process."""

from extractkit.errors import ConfigError

# NumPy's generators take 32 bits.
_LARGEST = 2**32 - 1


def check_seed(seed: object) -> None:
    """Refuse what is no seed.

    Raises:
        ConfigError: `model.seed` is no whole number that generators take.
    """
    if type(seed) is not int or not 0 <= seed <= _LARGEST:
        raise ConfigError(f"model.seed={seed!r} is not a whole number from 0 to {_LARGEST}")
