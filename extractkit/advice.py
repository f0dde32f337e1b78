"""Commands in messages, as they can be typed into a shell."""

import re
import shlex
from collections.abc import Iterable, Mapping

_PLAIN = re.compile(r"[A-Za-z0-9_./-]*", re.ASCII)


def command(verb: str, *arguments: object) -> str:
    """A command line of extractkit's."""
    return shlex.join(["extractkit", verb, *map(str, arguments)])


def override(key: str, value: object) -> str:
    """`KEY=VALUE` of one text, as Hydra takes it; quoted for a shell, too."""
    return shlex.quote(hydra_override(key, value))


def hydra_override(key: str, value: object) -> str:
    """Return `KEY=VALUE` of one text in Hydra's grammar."""
    return f"{key}={hydra_text(value)}"


def hydra_text(value: object) -> str:
    """Return one text in Hydra's grammar, quoted where it has to be."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else hydra_quoted(text)


def hydra_quoted(value: str) -> str:
    """The value as a quoted text of Hydra's grammar: only `"` and `\\` before it are special."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def names_override(key: str, names: Iterable[str]) -> str:
    """`KEY=[NAME, …]`, names as Hydra takes them; quoted for a shell, too."""
    return shlex.quote(f"{key}=[{', '.join(map(hydra_text, names))}]")


def nested_override(key: str, entries: Mapping[str, str]) -> str:
    """`KEY={NAME: VALUE, …}`, names as Hydra takes them; quoted for a shell, too.

    Args:
        key: of the mapping.
        entries: values as Hydra's grammar has them: `[sample, 4]`, `1.0`.
    """
    inside = ", ".join(f"{hydra_key(name)}: {value}" for name, value in entries.items())
    return shlex.quote(f"{key}={{{inside}}}")


def hydra_key(name: str) -> str:
    """A name as a key in a mapping of Hydra's grammar, which knows no quotes there."""
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", name)
