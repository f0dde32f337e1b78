"""Commands and overrides in messages, quoted so that they can be typed into a shell."""

import re
import shlex
from collections.abc import Iterable, Mapping

# Without a full stop at the end, which may be the sentence's.
_PLAIN = re.compile(r"([A-Za-z0-9_./-]*[A-Za-z0-9_/-])?", re.ASCII)
_MODEL, _EXPERIMENT, _SELECTORS = "model", "experiment", "selectors"

RENAMED_KEYS: Mapping[str, str] = {
    "model.inputs": "model.input_axes",
    "runtime.shards": "runtime.part",
}
"""The current names of configuration keys, by their former names."""

RENAMED_VERBS: Mapping[str, str] = {"finalize": "join"}
"""The current names of verbs and Python functions, by their former names."""


def command(verb: str, *arguments: object) -> str:
    """Return an extractkit command line, quoted for a shell."""
    return shlex.join(["extractkit", verb, *map(str, arguments)])


def renamed_key(key: str, value: object) -> str | None:
    """Return the message about a key that was renamed, or None if it was not.

    Args:
        key: The configuration key.
        value: Its value as plain data.
    """
    new = RENAMED_KEYS.get(key)
    written = shlex.quote(f"{new}={hydra_value(value)}")
    return None if new is None else f"{key} is now {new}. Write: {written}"


def with_current_key(word: str) -> str:
    """Return an override with the current name of its key, and any other word unchanged."""
    return _RENAMED.sub(lambda found: f"{found[1]}{RENAMED_KEYS[found[2]]}", word)


_RENAMED = re.compile(rf"^([+~]*)({'|'.join(map(re.escape, RENAMED_KEYS))})(?=[.=]|$)")


def listing(
    model: str,
    given: Iterable[str] = (),
    options: Iterable[str] = (),
    selectors: Iterable[str] = (),
) -> str:
    """Return the command that lists the tensors of a model, with the overrides that concern it.

    Args:
        model: the entry of the `model` group.
        given: the overrides as typed.
        options: options with their values, such as `--config-dir DIR`.
        selectors: names of selectors. Those of an experiment are deleted, because they would narrow
            the list.
    """
    overrides = list(given)
    about = [word for word in overrides if _group(word) in (_MODEL, _EXPERIMENT)]
    if _EXPERIMENT in map(_group, about):
        chosen = [word for word in overrides if _group(word) == _SELECTORS]
        about += [*chosen, *(f"~{_SELECTORS}.{name}" for name in selectors)]
    elif not any(word.startswith(f"{_MODEL}=") for word in about):
        about.insert(0, f"{_MODEL}={model}")
    return command("tensors", *options, *about)


def _group(word: str) -> str:
    """Return the config group of an override."""
    return re.split(r"[.=@]", word.lstrip("+~"), maxsplit=1)[0]


def override(key: str, value: object) -> str:
    """Return `KEY=VALUE` for one text in Hydra's grammar, quoted for a shell."""
    return shlex.quote(hydra_override(key, value))


def hydra_override(key: str, value: object) -> str:
    """Return `KEY=VALUE` for one text in Hydra's grammar."""
    return f"{key}={hydra_text(value)}"


def hydra_text(value: object) -> str:
    """Return a text so that Hydra and OmegaConf read it back unchanged.

    It is quoted if either would read it as something else: `null`, `true`, `1.0`, `a, b`.
    """
    text = str(value)
    if _PLAIN.fullmatch(text) and not is_another_type(text):
        return text
    # OmegaConf would resolve "${…}".
    return hydra_quoted(re.sub(r"(\\*)\$\{", r"\1\1\\${", text))


def is_another_type(text: str) -> bool:
    """Return True if Hydra may read an unquoted text as null, a boolean or a number."""
    if text.lower() in ("", "null", "true", "false"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def hydra_value(value: object) -> str:
    """Return plain data (mappings, lists, texts, numbers, None) in Hydra's grammar."""
    if isinstance(value, Mapping):
        return (
            f"{{{', '.join(f'{hydra_key(str(k))}: {hydra_value(v)}' for k, v in value.items())}}}"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(hydra_value, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return hydra_text(value) if isinstance(value, str) else str(value)


def hydra_quoted(value: str) -> str:
    """Quote a text in Hydra's grammar, where only `"` and `\\` before it are special."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def names_override(key: str, names: Iterable[str]) -> str:
    """Return `KEY=[NAME, …]` in Hydra's grammar, quoted for a shell."""
    return shlex.quote(f"{key}=[{', '.join(map(hydra_text, names))}]")


def choice_override(key: str, values: Iterable[object]) -> str:
    """Return `KEY=A,B`, a sweep over texts, in Hydra's grammar, quoted for a shell."""
    return shlex.quote(f"{key}={','.join(map(hydra_text, values))}")


def nested_override(key: str, entries: Mapping[str, str]) -> str:
    """Return `KEY={NAME: VALUE, …}` in Hydra's grammar, quoted for a shell.

    Args:
        key: the key of the mapping.
        entries: values in Hydra's grammar: `[sample, 4]`, `1.0`.
    """
    inside = ", ".join(f"{hydra_key(name)}: {value}" for name, value in entries.items())
    return shlex.quote(f"{key}={{{inside}}}")


def hydra_key(name: str) -> str:
    """Escape a name as a key in a mapping of Hydra's grammar, which has no quotes there."""
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", name)
