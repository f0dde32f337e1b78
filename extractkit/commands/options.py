"""Options on the command line that are ours and not Hydra's."""

import argparse
import os
from collections.abc import Sequence
from typing import NoReturn

from extractkit.errors import ConfigError

TRUST = "--trust"


def taken(arguments: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """An option that takes a value, out of the arguments: its values, and what remains.

    Raises:
        ConfigError: it stands last, without a value.
    """
    values: list[str] = []
    rest: list[str] = []
    left = iter(arguments)
    for argument in left:
        name, equals, value = argument.partition("=")
        if name != option:
            rest.append(argument)
            continue
        found = value if equals else next(left, None)
        if not found or found.startswith("-"):
            raise ConfigError(f"{option} is given no value. Name a module: {option} package.module")
        values.append(found)
    return values, rest


class RunOptions(argparse.ArgumentParser):
    """The arguments of a verb on runs."""

    def __init__(self, verb: str, *runs: str) -> None:
        super().__init__(prog=f"extractkit {verb}", add_help=False, allow_abbrev=False)
        self._verb = verb
        self._given: Sequence[str] = ()
        for run in runs:
            self.add_argument(run, metavar=run.upper())

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The arguments by name.

        Raises:
            ConfigError: they do not fit.
        """
        self._given = arguments
        return self.parse_intermixed_args(arguments)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments.

        Raises:
            ConfigError: always.
        """
        usage = self.format_usage().removeprefix("usage: ").strip()
        # What begins with a dash is taken for an option.
        dashed = [one for one in self._given if one.startswith("-")]
        meant = next((one for one in dashed if os.path.exists(one)), None)  # noqa: PTH110 - any text
        hint = f". For the run {meant!r} write ./{meant}" if meant is not None else ""
        raise ConfigError(f"{self._verb}: {message}{hint}. Usage: {' '.join(usage.split())}")
