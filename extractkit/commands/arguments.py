"""The words of a command line: verbs, options and overrides, in any order."""

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from extractkit.advice import RENAMED_VERBS, command, with_current_key
from extractkit.commands.verbs import VERBS
from extractkit.config import MODEL, file_of, model_file
from extractkit.errors import ConfigError, choices

SWEEP = ("--multirun", "-m")
"""Hydra's options for one job per combination of values."""

# Options that are followed by a value: Hydra's and ours.
_VALUED = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
    *(one.flag for verb in VERBS.values() for one in verb.options if one.metavar is not None),
)
_CONFIG_DIR = ("--config-dir", "-cd")
# Options whose value is optional.
_INFO = ("--info", "-i")
# The possible left side of an override's `=`.
_KEY = re.compile(r"[\w.]+(@[\w.:]*)?")
_MODE = re.compile(r"""hydra\.mode=["']?MULTIRUN["']?""", re.IGNORECASE)
_TOPICS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def split_verb(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the verb, in any position, and the other arguments in order.

    The verb is the first word that names one and is not the value of an option; None if there is
    none.
    """
    for index, (argument, is_value) in enumerate(_with_values(arguments)):
        if argument in VERBS and not is_value:
            return argument, [*arguments[:index], *arguments[index + 1 :]]
    return None, list(arguments)


def check_verb(arguments: Sequence[str]) -> None:
    """Refuse the former name of a verb.

    Raises:
        ConfigError: The first current or former verb among the words is a former one.
    """
    for index, (argument, is_value) in enumerate(_with_values(arguments)):
        if argument in VERBS and not is_value:
            return
        if argument in RENAMED_VERBS and not is_value:
            new = RENAMED_VERBS[argument]
            whole = command(*arguments[:index], new, *arguments[index + 1 :])
            raise ConfigError(f"{argument} is now {new}. Write: {whole}")


def spell_out(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments with a model's file replaced by its format and path, and what it is.

    The file is given as `model=FILE` or as a word alone. Beside `model=FORMAT`, a word alone is
    only the path.

    Raises:
        ConfigError: No format is known for the file, or several files are given.
    """
    folders = _config_folders(arguments)
    swept = any(argument in SWEEP for argument in arguments)
    chosen = [one for one in arguments if one.startswith(MODEL)]
    found: list[str] = []
    notes: list[str] = []
    for argument, is_value in _with_values(arguments):
        alone = not is_value and not argument.startswith(("-", "~", "+")) and _is_word(argument)
        if alone:
            file = model_file(argument, swept=swept)
        else:
            file = None if is_value else file_of(argument, folders, swept=swept)
        if file is None:
            found.append(argument)
            continue
        if notes:
            raise ConfigError(f"{argument!r} is a second model: {notes[0]}. Give one")
        found += [file.path] if alone and chosen else [file.model, file.path]
        notes.append(file.what)
    return found, notes


def _is_word(argument: str) -> bool:
    """Return whether an argument is not an override. A path may contain `=`."""
    key, equals, _ = argument.partition("=")
    return not equals or (not _KEY.fullmatch(key) and os.path.exists(argument))  # noqa: PTH110


def overrides_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the overrides first, as Hydra requires.

    Raises:
        ConfigError: A word is neither an override nor an option.
    """
    overrides: list[str] = []
    flags: list[str] = []
    for argument, is_value in _with_values(arguments):
        if argument.startswith("-") or is_value:
            flags.append(argument)
        elif "=" in argument or argument.startswith("~"):
            overrides.append(argument)
        else:
            raise ConfigError(_misplaced(argument))
    return overrides + flags


def is_sweep(arguments: Sequence[str]) -> bool:
    """Return whether the arguments ask for one job per combination of values."""
    return any(
        one in SWEEP
        or (len(one) > len("--") and SWEEP[0].startswith(one))  # Hydra takes abbreviations
        or _MODE.fullmatch(one) is not None
        for one in arguments
    )


def check_keys(arguments: Sequence[str], rest: Sequence[str]) -> None:
    """Refuse the former name of a key.

    Args:
        arguments: The whole command line, for the message.
        rest: The arguments that may be overrides.

    Raises:
        ConfigError: An override has such a key.
    """
    for argument, is_value in _with_values(rest):
        current = with_current_key(argument)
        # A loader that is not extractkit's may have an argument of this name.
        of_model = argument.lstrip("+~").startswith("model.")
        if current != argument and not is_value and not of_model:
            old, new = (word.lstrip("+~").partition("=")[0] for word in (argument, current))
            whole = command(*map(with_current_key, arguments))
            raise ConfigError(f"{old} is now {new}. Write: {whole}")


def _misplaced(word: str) -> str:
    """Return the message for a word that is neither an override nor an option."""
    path = Path(word)
    if path.suffix or os.sep in word:
        beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        near = choices(path.name, beside)
        return f"{word!r} does not exist, and is neither a verb nor an override. {near}"
    return (
        f"{word!r} is neither a verb nor an override. {choices(word, VERBS)} An override "
        f"is key=value, as in model=bert"
    )


def _config_folders(arguments: Sequence[str]) -> list[str]:
    """Return the folders that `--config-dir` names."""
    folders = []
    before = ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option in _CONFIG_DIR and equals:
            folders.append(value)
        elif before in _CONFIG_DIR:
            folders.append(argument)
        before = argument
    return folders


def _with_values(arguments: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield each argument, and whether it is the value of the previous option."""
    before = ""
    for argument in arguments:
        yield argument, before in _VALUED or (before in _INFO and argument in _TOPICS)
        before = argument


def taken(arguments: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Take an option out of the arguments: return its values and the remaining arguments.

    Raises:
        ConfigError: the option comes last, without a value.
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
    """Arguments of a verb on runs, as `VERBS` declares them."""

    def __init__(self, verb: str) -> None:
        super().__init__(prog=f"extractkit {verb}", add_help=False, allow_abbrev=False)
        self._verb = verb
        self._given: Sequence[str] = ()
        for run in VERBS[verb].operands:
            name = run.rstrip("?")
            self.add_argument(name, metavar=name.upper(), nargs="?" if name != run else None)
        if VERBS[verb].overrides:
            self.add_argument("overrides", nargs="*", default=[], metavar="OVERRIDE")
        for option in VERBS[verb].options:
            option.add_to(self)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return the arguments by name.

        Raises:
            ConfigError: they are invalid.
        """
        self._given = arguments
        for before, word in pairwise(["", *arguments]):
            flag, equals, value = word.partition("=")
            if not word or (word.startswith("--") and equals and not value):
                # `Path` would take it for the working directory.
                named = flag or (before if before.startswith("--") else "a word")
                self.error(f"{named} is empty")
        return self.parse_intermixed_args(arguments)

    def error(self, message: str) -> NoReturn:
        """Raise an error about the arguments.

        Raises:
            ConfigError: always.
        """
        usage = self.format_usage().removeprefix("usage: ").strip()
        # A word that begins with a dash is treated as an option.
        dashed = [one for one in self._given if one.startswith("-")]
        meant = next((one for one in dashed if os.path.exists(one)), None)  # noqa: PTH110 - any text
        hint = f". For the run {meant!r} write ./{meant}" if meant is not None else ""
        raise ConfigError(f"{self._verb}: {message}{hint}. Usage: {' '.join(usage.split())}")
