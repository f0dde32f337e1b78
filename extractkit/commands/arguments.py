"""The words of a command line, in the order in which people type them and in that of Hydra."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from extractkit.config.model_files import MODEL, file_of, model_file
from extractkit.display import help as help_text
from extractkit.errors import ConfigError, choices

SWEEP = ("--multirun", "-m")
"""Hydra's option for one job for each combination of values."""

# Options that are followed by a value: Hydra's, and `--trust`.
_VALUED = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
           "--config-dir", "-cd", "--experimental-rerun", "--trust")  # fmt: skip
_CONFIG_DIR = ("--config-dir", "-cd")
# May be followed by one of these.
_INFO = ("--info", "-i")
# What may stand in front of the `=` of an override.
_KEY = re.compile(r"[\w.]+(@[\w.:]*)?")
_TOPICS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def split_verb(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the verb, wherever it was typed, and the other arguments in their order.

    The verb is the first word that is one and is not the value of an option. None: there is none.
    """
    for index, (argument, is_value) in enumerate(_with_values(arguments)):
        if argument in help_text.VERBS and not is_value:
            return argument, [*arguments[:index], *arguments[index + 1 :]]
    return None, list(arguments)


def spell_out(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments with a model's file replaced by its format and path, and what it is.

    The file is given as `model=FILE` or as a word alone. Beside `model=FORMAT` a word alone gives
    the path only.

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
    """Whether an argument is no override; a path may have a `=` in it."""
    key, equals, _ = argument.partition("=")
    return not equals or (not _KEY.fullmatch(key) and os.path.exists(argument))  # noqa: PTH110


def overrides_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the overrides in front, as Hydra wants them.

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


def _misplaced(word: str) -> str:
    """Say what is wrong with a word that is neither an override nor an option."""
    path = Path(word)
    if path.suffix or os.sep in word:
        beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        near = choices(path.name, beside)
        return f"{word!r} does not exist, and is neither a verb nor an override. {near}"
    return (
        f"{word!r} is neither a verb nor an override. {choices(word, help_text.VERBS)} An override "
        f"is key=value, as in model=bert"
    )


def _config_folders(arguments: Sequence[str]) -> list[str]:
    """The folders that `--config-dir` names."""
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


def complete_without_verb() -> None:
    """Show Hydra's shell completion a line that it understands, without our verb."""
    program, *words = os.environ.get("COMP_LINE", "").split(" ")
    verb, rest = split_verb(words)
    if verb is not None and rest:
        os.environ["COMP_LINE"] = " ".join([program, *rest])


def _with_values(arguments: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Each argument, and whether it is the value of the option before it."""
    before = ""
    for argument in arguments:
        yield argument, before in _VALUED or (before in _INFO and argument in _TOPICS)
        before = argument
