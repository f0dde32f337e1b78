"""Translation of errors of Hydra, OmegaConf and YAML: what is wrong, what exists, what to type."""

import re
import shlex
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
    SearchPathException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]

from extractkit.advice import RENAMED_KEYS, with_current_key
from extractkit.config import (
    GROUPS,
    ROOT,
    RUN_DIR,
    config_directory,
    options,
    with_plain_run_dir,
)
from extractkit.config import overrides as quoting
from extractkit.config.hydra_internals import converted, parse_override
from extractkit.config.plain_data import not_chosen
from extractkit.errors import ConfigError, choices

_MOST_NAMED = 3
_OPEN_GROUPS = ("selectors", "sinks")
# Files that the user did not write, which are not worth naming.
_OUR_FILES = (ROOT, "hydra/config")


@contextmanager
def translated(overrides: Sequence[str] = ()) -> Iterator[None]:
    """Turn errors raised while a configuration is composed into a ConfigError.

    `overrides` are those as typed. A misspelt one may cause an error about another.
    """
    try:
        yield
    except OverrideParseException as error:
        raise ConfigError(_unreadable(error)) from error
    except MissingConfigException as error:
        raise ConfigError(_no_such_option(error)) from error
    except BrokenPipeError:
        raise  # the reader of standard output has gone, which is not a mistake
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    except SearchPathException as error:
        raise ConfigError(f"--config-dir: {_lines(error)}") from error
    except ConfigCompositionException as error:
        raise ConfigError(_misspelt(overrides) or _not_composed(error, overrides)) from error
    except OmegaConfBaseException as error:
        raise ConfigError(_not_resolved(error)) from error
    except MarkedYAMLError as error:
        raise ConfigError(_no_yaml(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"a configuration file is not UTF-8 text: {error}") from error
    except RecursionError as error:
        raise ConfigError(
            "a configuration file is nested too deeply, or holds itself: an alias (*name) within "
            "what its anchor (&name) refers to. Write the value out"
        ) from error
    except AssertionError as error:
        if not _raised_by_hydra(error):
            raise
        raise ConfigError(
            "the defaults list of a configuration file does not compose: an entry names no group. "
            "Look at the files that the overrides choose"
        ) from error
    except (HydraException, YAMLError, ValueError) as error:
        # Hydra raises bare ValueErrors too (`inputs=null`, a malformed @package line).
        raise ConfigError(_lines(error)) from error


def directory_of(override: str) -> str:
    """Return the directory that `hydra.run.dir=DIR` gives, as Hydra reads it for a job.

    Raises:
        ConfigError: The override cannot be parsed, or gives several values.
    """
    try:
        parsed = parse_override(override)
    except HydraException as error:
        unreadable = OverrideParseException(override=override, message=str(error))
        raise ConfigError(_unreadable(unreadable)) from error
    if parsed.is_sweep_override():
        raise ConfigError(_ambiguous(override))
    return str(converted(parsed.value()))


def _raised_by_hydra(error: AssertionError) -> bool:
    """Return whether one of Hydra's own checks failed."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "hydra" in Path(last.filename).parts


def _unreadable(error: OverrideParseException) -> str:
    override = with_plain_run_dir(error.override)
    if "=" not in override:
        return f"{override!r} is not an override. Write key=value, as in model=bert"
    as_text, as_list = quoting.as_text(override), quoting.as_list(override)
    if as_text is None:
        key = override.partition("=")[0]
        return (
            f"{override!r} cannot be read: {key!r} is not a key. Write key=value, as in model=bert"
        )
    # The parser's own message; Hydra's version of it points into the text with a caret.
    reason = str(error.__context__ or error).splitlines()[0]
    refused = f"{override!r} cannot be read: {reason}"
    if (as_mapping := quoting.as_mapping(override)) is not None:
        return f"{refused}. Escape the colons in its names: {as_mapping}"
    message = f"{refused}. Quote its value: {as_text}"
    return message if as_list is None else f"{message} or, as a list, {as_list}"


def _no_such_option(error: MissingConfigException) -> str:
    missing = error.missing_cfg_file
    if missing is None:
        return _lines(error)
    group, _, option = missing.rpartition("/")
    if not group:
        return f"--config-name={option}: no {option}.yaml in the configuration directories"
    where = _where(str(error))
    # Hydra does not list the options of a group with several choices.
    available = error.options or options(group)
    if not available:
        return f"{where}{missing} does not exist"
    return f"{where}{group}={option} does not exist. {choices(option, available)}"


def _where(message: str) -> str:
    """Return `In 'experiment/mine': ` if a user's file is at fault, else an empty string."""
    found = re.match(r"In '([^']+)': ", message)
    return found.group() if found and found.group(1) not in _OUR_FILES else ""


def _misspelt(overrides: Sequence[str]) -> str | None:
    """Return the message for the first override that does not begin with a group, or None."""
    known = (*GROUPS, "hydra")
    for override in overrides:
        key, equals, _ = override.partition("=")
        word = re.split(r"[./@]", key)[0]
        if equals and word.isidentifier() and word not in known:
            return f"{override}: {word!r} does not exist. {choices(word, known)}"
    return None


def _not_composed(error: ConfigCompositionException, overrides: Sequence[str]) -> str:
    message = str(error)
    if found := re.match(r"(?:In '[^']*': )?You must specify '([^']+)'", message):
        return not_chosen(found.group(1), re.findall(r"^\t(\S+)", message, re.MULTILINE))
    if found := re.match(r"Ambiguous value for argument '(.*)'$", message, re.MULTILINE):
        return _ambiguous(found.group(1))
    if found := re.match(r"Sweep parameters '(.*)' requires", message):
        return f"{found.group(1)} is a sweep. Add -m to run one job for each value"
    if found := re.search(r"Could not override '([^']*)'\. No match in the defaults", message):
        group = found.group(1)
        return f"{_where(message)}group {group!r} does not exist. {choices(group, GROUPS)}"
    cause = error.__cause__
    if message.startswith("Could not override") and isinstance(cause, OmegaConfBaseException):
        return _no_such_key(cause, message, overrides)
    if isinstance(cause, OmegaConfBaseException):
        return " ".join(filter(None, (_lines(error), _not_resolved(cause))))
    return _lines(error)


def _ambiguous(override: str) -> str:
    if override.startswith(f"{RUN_DIR}="):
        typed = with_plain_run_dir(override)
        return f"{typed} gives several values. Give one directory: {quoting.as_text(typed)}"
    key, _, value = override.partition("=")
    return (
        f"{override} gives several values. For one text: {quoting.as_text(override)}; for a list: "
        f"{quoting.as_given(f'{key}=[{value}]')}; for one job each: add -m"
    )


def _no_such_key(cause: OmegaConfBaseException, message: str, overrides: Sequence[str]) -> str:
    key = str(cause.full_key)
    parent, _, last = key.rpartition(".")
    node = cause.parent_node
    if parent in _OPEN_GROUPS:
        override = message.rpartition("config use +")[2].strip()
        return f"{key} does not exist yet. Add it with a plus: {quoting.as_given(f'+{override}')}"
    keys = [str(name) for name in node] if isinstance(node, DictConfig) and node else []
    if not parent:
        keys = [*GROUPS, "hydra"]
    new = RENAMED_KEYS.get(key)
    if new is not None and new.rpartition(".")[2] in keys:
        refused = message.rpartition("config use +")[2].strip()
        typed = [one for one in overrides if one != with_current_key(one)]
        corrected = shlex.join(map(with_current_key, typed or [refused]))
        return f"{key} is now {new}. Write: {corrected}"
    if not keys:
        return f"{key} does not exist: {parent} is a single value"
    if others := _with_key(parent, last):
        named = ", ".join(f"{parent}={option}" for option in others[:_MOST_NAMED])
        more = ", …" if len(others) > _MOST_NAMED else ""
        return f"{key} does not exist here: it is a setting of {named}{more}. {choices(last, keys)}"
    return f"{key} does not exist. {choices(last, keys)}"


def _with_key(group: str, key: str) -> list[str]:
    """Return the options of a group that have a setting of this name."""
    if group not in GROUPS:
        return []
    folder = config_directory() / group
    return [name for name in options(group) if key in OmegaConf.load(folder / f"{name}.yaml")]


def _not_resolved(error: OmegaConfBaseException) -> str:
    what = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{error.full_key}: {what}" if error.full_key else what


def _no_yaml(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    location = f"{mark.name}, line {mark.line + 1}: " if mark else ""
    return f"{location}not valid YAML: {error.problem or error.context}"


def _lines(error: BaseException) -> str:
    """Return an error's message on one line, without the list of searched directories."""
    kept = re.split(r"\n\s*(?:Config s|S)earch path:", str(error))[0]
    return " ".join(line.strip() for line in kept.splitlines() if line.strip())
