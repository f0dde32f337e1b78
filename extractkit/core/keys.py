"""Declarations of configuration keys: name, form, default, description and effect."""

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from enum import Enum
from typing import Any, Protocol, get_type_hints

from extractkit.errors import ConfigError, choices


class Effect(Enum):
    """What a key of `runtime` changes. The value is shown in the reference.

    Attributes:
        COMPUTING: How values are computed. In the identity, and in the manifest's settings, which a
            resume, a part and a worker must match.
        STORING: Which values are stored, and how they are divided. In the identity.
        RECORDED: Decides bytes through something else that the identity holds.
        BEGINNING: How a run begins. Changes no byte, and is settled once the run has begun.
        PLACE: Where a job runs. Changes no byte. A resume or rerun may change it.
    """

    COMPUTING = "decides bytes"
    STORING = "decides bytes: what is stored"
    RECORDED = "decides bytes: recorded otherwise"
    BEGINNING = "changes no byte"
    PLACE = "changes no byte; `resume` and `rerun` may change it"


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
        if self.default is None or isinstance(self.default, bool):
            return {None: "null", True: "true", False: "false"}[self.default]
        return str(self.default)


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
