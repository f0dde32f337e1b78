"""Declarations of configuration keys: name, form, default, description and effect."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from enum import Enum
from typing import Any, Protocol, get_args, get_type_hints

from extractkit.errors import ConfigError, choices


class Effect(Enum):
    """What a key of `runtime` changes. The value is shown in the reference.

    Attributes:
        COMPUTING: How values are computed. In the identity, and in the manifest's settings, which a
            resume, a part and a worker must match.
        STORING: Which values are stored, and how they are divided. In the identity.
        RECORDED: Decides bytes through something else that the identity holds.
        BEGINNING: How a run begins. Changes no byte, and is settled once the run has begun.
        WHERE: Where a job runs. Changes no byte. A resume or rerun may change it.
    """

    COMPUTING = "decides bytes"
    STORING = "decides bytes: what is stored"
    RECORDED = "decides bytes: recorded otherwise"
    BEGINNING = "changes no byte"
    WHERE = "changes no byte; `resume` and `rerun` may change it"


class Form(Protocol):
    """The values that a key takes."""

    def parse(self, key: str, value: Any) -> Any:
        """Return the value of a key.

        Raises:
            ConfigError: The value has another form.
        """
        ...


@dataclass(frozen=True)
class Whole:
    """A whole number. `word` is a word that means null."""

    least: int = 1
    most: int | None = None
    word: str | None = None

    def parse(self, key: str, value: Any) -> int | None:
        """Return the number."""
        if value == self.word and self.word is not None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < self.least:
            also = f" or {self.word!r}" if self.word else ""
            raise ConfigError(
                f"{key}={value!r} is not a whole number of {self.least} or more{also}"
            )
        if self.most is not None and value > self.most:
            raise ConfigError(f"{key}={value} is too large: {self.most:,} at most")
        return value


@dataclass(frozen=True)
class Number:
    """A finite number of 0 or more."""

    def parse(self, key: str, value: Any) -> float:
        """Return the number."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise ConfigError(f"{key}={value!r} is not a number of 0 or more")
        return value  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def parse(self, key: str, value: Any) -> bool:
        """Return the flag."""
        if not isinstance(value, bool):
            raise ConfigError(f"{key}={value!r} is not true or false")
        return value


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    options: tuple[str, ...]

    def parse(self, key: str, value: Any) -> str:
        """Return the word."""
        if value not in self.options:
            given = str(value)
            raise ConfigError(f"{key}={given!r} does not exist. {choices(given, self.options)}")
        return str(value)


@dataclass(frozen=True)
class Text:
    """A text, such as `example`."""

    example: str

    def parse(self, key: str, value: Any) -> str:
        """Return the text."""
        if not isinstance(value, str):
            raise ConfigError(f"{key}={value!r} is not a text, such as {self.example!r}")
        return value


REQUIRED = "???"
"""The default of a key that has to be given, as OmegaConf has it."""


def yaml_text(value: object) -> str:
    """Return a default as YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping | list):
        assert not value
        return "{}" if isinstance(value, Mapping) else "[]"
    return str(value)


@dataclass(frozen=True)
class Key:
    """The declaration of a key.

    Attributes:
        name: Its name within its group.
        default: The value that it has unless it is given.
        description: One or two sentences.
    """

    name: str
    default: object
    description: str

    @property
    def written(self) -> str:
        """The default as YAML has it."""
        return yaml_text(self.default)


@dataclass(frozen=True)
class Setting(Key):
    """The declaration of a key of `runtime`.

    Attributes:
        form: The values that it takes. If the default is None, it takes None as well.
        effect: What it changes.
        engines: The engines that use it. If empty, all.
    """

    form: Form
    effect: Effect
    engines: tuple[str, ...] = ()

    def parse(self, value: object) -> Any:
        """Return the value of the key.

        Raises:
            ConfigError: The value has another form.
        """
        key = f"runtime.{self.name}"
        if isinstance(value, Mapping | list | tuple):
            raise ConfigError(f"{key}={value!r} is not a single value")
        if value is None and self.default is None:
            return None
        return self.form.parse(key, value)

    @property
    def written(self) -> str:
        """The default as YAML has it."""
        word = getattr(self.form, "word", None)
        return str(word) if self.default is None and word is not None else super().written

    def used_by(self, engine: str) -> bool:
        """Return whether an engine uses the key."""
        return not self.engines or engine in self.engines


def settings_of(declaring: type) -> tuple[Setting, ...]:
    """Return the keys that the fields of a dataclass declare, in their order.

    Each field is annotated with its type, form, effect and description, and with the engines that
    use it if not all do.
    """
    hints = get_type_hints(declaring, include_extras=True)
    return tuple(_setting(item, *hints[item.name].__metadata__) for item in fields(declaring))


def _setting(
    item: Field[object],
    form: Form,
    effect: Effect,
    description: str,
    engines: tuple[str, ...] = (),
) -> Setting:
    return Setting(item.name, item.default, description, form, effect, engines)


def keys_of(function: Callable[..., Any]) -> tuple[Key, ...]:
    """Return the keys of a component: the parameters of its callable.

    Names and defaults come from the signature, descriptions from the docstring's `Args` or
    `Attributes`. A parameter without a default has to be given, but may be null if its type allows
    None: inputs are opened only if a job reads samples.
    """
    described = _descriptions(inspect.getdoc(function) or "")
    return tuple(
        Key(name, _default(parameter), described.get(name, ""))
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    )


def _default(parameter: inspect.Parameter) -> object:
    if parameter.default is not inspect.Parameter.empty:
        return parameter.default
    return None if type(None) in get_args(parameter.annotation) else REQUIRED


_SECTIONS = ("Args:", "Attributes:")
_ENTRY = re.compile(r" {4}(\w+): (.*)")
_YAML = {"None": "null", "True": "true", "False": "false"}


def _descriptions(docstring: str) -> dict[str, str]:
    """Return the descriptions of arguments in a docstring, in words of YAML."""
    found: dict[str, str] = {}
    inside, name = False, ""
    for line in docstring.splitlines():
        if not line.startswith(" "):
            inside = line in _SECTIONS
        elif inside and (entry := _ENTRY.match(line)):
            name = entry[1]
            found[name] = entry[2]
        elif inside and name:
            found[name] += f" {line.strip()}"
    return {
        name: re.sub(r"\b(None|True|False)\b", lambda word: _YAML[word[0]], text)
        for name, text in found.items()
    }
