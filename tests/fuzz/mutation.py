"""Texts and JSON documents changed by chance, with what trips parsers and programs up."""

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

ODD = (
    *("", " ", "null", "???", "~", "-1", "0", "1e309", "nan", "inf", "0x10", "true", "yes", "1_0"),
    *("[", "]", "{", "}", "[]", "{}", "[[]]", "{a: b}", "[1,2", "'", '"', "\\", ":", ",", "=", "@"),
    *("${", "${}", "${a.b}", "${runtime}", "${oc.env:HOME}", "${hydra:runtime.cwd}", "${now:%Y}"),
    *("*", "**", "[!", "(?P<", "(a+)+$", "..", "../..", "/", "/etc/passwd", "file://x", "a/../b"),
    *("é", "日本", "\u202e", "\x1b[31m", "\t", "\u2028", "a" * 300, "9" * 40, "%s", "{0}", "$HOME"),
)
"""Words that mean something to YAML, Hydra, globs, regular expressions, files or terminals."""

HOSTILE = (
    *("os.system", "os.mkdir", "shutil.rmtree", "builtins.exec", "subprocess.run", "pathlib.Path"),
    *("extractkit.store.local.make_directory", "extractkit.cli.execute", "own.touch"),
    *(
        "hydra.utils.instantiate",
        "extractkit.core.component.Component",
        "a.b.c",
        "..",
        "os",
        1,
        None,
    ),
)
"""Values of `_target_` that no configuration may name, or that name nothing."""

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**70, 0.5, -0.0, 1e308, [], {}, [[]], [{}]),
    *({"": ""}, {"_target_": "os.system"}, [None], "nan", "../../outside", "/outside", "a\0b"),
)


def mutated_text(text: str, draw: random.Random) -> str:
    """A text with one to three changes."""
    for _ in range(draw.randint(1, 3)):
        change: Callable[[str, random.Random], str] = draw.choice(_CHANGES)
        text = change(text, draw)
    return text


def mutated_document(document: Any, draw: random.Random) -> Any:
    """A JSON document with one to three of its nodes replaced, removed, renamed or doubled."""
    for _ in range(draw.randint(1, 3)):
        places = list(_places(document))
        if places:
            _change_node(*draw.choice(places), draw)
    return document


def _places(node: Any) -> Any:
    """Every (container, key) in a document."""
    entries: Sequence[tuple[Any, Any]] = ()
    if isinstance(node, dict):
        entries = list(node.items())
    elif isinstance(node, list):
        entries = list(enumerate(node))
    for key, inner in entries:
        yield node, key
        yield from _places(inner)


def _change_node(container: Any, key: Any, draw: random.Random) -> None:
    match draw.choice(("value", "value", "near", "near", "remove", "rename", "double")):
        case "value":
            container[key] = deepcopy(draw.choice((*_VALUES, *ODD)))
        case "near":
            container[key] = _near(container[key], draw)
        case "remove":
            del container[key]
        case "rename" if isinstance(container, dict):
            container[mutated_text(str(key), draw)] = container.pop(key)
        case "double" if isinstance(container, list):
            container.insert(key, deepcopy(container[key]))
        case _ if isinstance(container, dict):
            container[draw.choice(ODD)] = deepcopy(container[key])


def _near(value: Any, draw: random.Random) -> Any:
    """Something of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice((value + 1, value - 1, -value, value * 1000, 0))
    if isinstance(value, float):
        return draw.choice((value * 2, -value, 0.0))
    if isinstance(value, str):
        return mutated_text(value, draw)
    if isinstance(value, list):
        return draw.choice((value[:-1], value * 2, value[::-1]))
    return value


def _insert(text: str, draw: random.Random) -> str:
    at = draw.randint(0, len(text))
    return text[:at] + draw.choice(ODD) + text[at:]


def _delete(text: str, draw: random.Random) -> str:
    start = draw.randint(0, len(text))
    return text[:start] + text[start + draw.randint(1, 8) :]


def _double(text: str, draw: random.Random) -> str:
    start = draw.randint(0, len(text))
    return text[: start + draw.randint(1, 20)] + text[start:]


def _character(text: str, draw: random.Random) -> str:
    at = draw.randint(0, len(text))
    return (
        text[:at]
        + chr(draw.choice((draw.randrange(32, 127), draw.randrange(1, 0xD000))))
        + text[at + 1 :]
    )


_CHANGES = (_insert, _delete, _double, _character)
