"""Declarations of configuration keys: name, form, default, description and effect."""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from enum import Enum
from os import PathLike
from types import NoneType, UnionType
from typing import Annotated, Any, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from extractkit.errors import ConfigError, choices


class Effect(Enum):
    """The effect of a key. It decides the identity, and what a resume, part or worker must match.

    The value is shown in the reference.

    Attributes:
        VALUES: Which values are computed. In the identity. Settings of `runtime` are also in the
            manifest's settings, which a resume, a part and a worker must match.
        LAYOUT: Which values are stored, and how they are divided into files. In the identity.
        RECORDED: Decides bytes through something else that the identity holds.
        NONE: Changes no byte, and is settled once the run has begun.
        WHERE: Where a job runs. Changes no byte. A resume or rerun may change it.
    """

    VALUES = "decides values"
    LAYOUT = "decides the layout of files"
    RECORDED = "decides values, which the identity holds in another form"
    NONE = "changes no byte"
    WHERE = "changes no byte; `resume` and `rerun` may change it"

    @property
    def identifies(self) -> bool:
        """Whether the identity holds the value of the key itself."""
        return self in (Effect.VALUES, Effect.LAYOUT)

    @property
    def decides_bytes(self) -> bool:
        """Whether runs with other values of the key may differ in a byte."""
        return self.identifies or self is Effect.RECORDED


_Type = TypeVar("_Type")

DecidesValues = Annotated[_Type, Effect.VALUES]
"""The type of a component's argument that decides values: `path: DecidesValues[str]`."""

DecidesLayout = Annotated[_Type, Effect.LAYOUT]
"""The type of a component's argument that decides the layout of files."""


_TYPES: Mapping[object, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    list: "list",
    tuple: "list",
    Sequence: "list",
    Mapping: "mapping",
    PathLike: "text",
    NoneType: "null",
}


class Form(Protocol):
    """The values that a key takes."""

    @property
    def type(self) -> str:
        """The type in words of YAML."""
        ...

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

    @property
    def type(self) -> str:
        """A whole number, or the word."""
        return f"{_TYPES[int]} or {self.word}" if self.word else _TYPES[int]

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

    @property
    def type(self) -> str:
        """A number."""
        return _TYPES[float]

    def parse(self, key: str, value: Any) -> float:
        """Return the number."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise ConfigError(f"{key}={value!r} is not a number of 0 or more")
        return value  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Flag:
    """True or false."""

    @property
    def type(self) -> str:
        """True or false."""
        return _TYPES[bool]

    def parse(self, key: str, value: Any) -> bool:
        """Return the flag."""
        if not isinstance(value, bool):
            raise ConfigError(f"{key}={value!r} is not true or false")
        return value


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    options: tuple[str, ...]

    @property
    def type(self) -> str:
        """The words."""
        return " or ".join(self.options)

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

    @property
    def type(self) -> str:
        """A text."""
        return _TYPES[str]

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
        type: The values that it takes, in words of YAML.
        default: The value that it has unless it is given.
        description: One or two sentences.
        effect: What it changes.
    """

    name: str
    type: str
    default: object
    description: str
    effect: Effect

    @property
    def written(self) -> str:
        """The default as YAML has it."""
        return yaml_text(self.default)


@dataclass(frozen=True)
class Setting(Key):
    """The declaration of a key of `runtime`.

    Attributes:
        form: The values that it takes. If the default is None, it takes None as well.
        engines: The engines that use it. If empty, all.
    """

    form: Form
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

    Raises:
        TypeError: A field is not annotated with all of these.
    """
    hints = get_type_hints(declaring, include_extras=True)
    return tuple(_setting(declaring, item, hints[item.name]) for item in fields(declaring))


def _setting(declaring: type, item: Field[object], annotation: Any) -> Setting:
    match getattr(annotation, "__metadata__", ()):
        case (form, Effect() as effect, str(description), *engines):
            takes_null = item.default is None and getattr(form, "word", None) is None
            return Setting(
                name=item.name,
                type=f"{form.type} or null" if takes_null else form.type,
                default=item.default,
                description=description,
                effect=effect,
                form=form,
                engines=engines[0] if engines else (),
            )
    raise TypeError(
        f"{declaring.__qualname__}.{item.name} does not declare a key: annotate it with its form, "
        f"effect and description, as in Annotated[int, Whole(), Effect.VALUES, 'The number of …']"
    )


def keys_of(function: Callable[..., Any]) -> tuple[Key, ...]:
    """Return the keys of a component: the parameters of its callable.

    Names, types, defaults and effects come from the signature, descriptions from the docstring's
    `Args` or `Attributes`. A parameter without a default has to be given, but may be null if its
    type allows None: inputs are opened only if a job reads samples.

    Raises:
        TypeError: A parameter declares no effect, or has a type that YAML does not have.
    """
    described = _descriptions(inspect.getdoc(function) or "")
    keys = []
    for parameter in _named_parameters(function):
        at = f"{function.__module__}.{function.__qualname__}: {parameter.name!r}"
        effect = _effect(parameter.annotation)
        if effect is None:
            raise TypeError(
                f"{at} declares no effect. Annotate it by what it decides, as in "
                f"DecidesValues[str] or DecidesLayout[str] (extractkit.core.keys)"
            )
        try:
            type_text = _type_text(parameter.annotation)
        except TypeError as error:
            raise TypeError(f"{at} has a type that YAML does not have: {error}") from None
        description = described.get(parameter.name, "")
        keys.append(Key(parameter.name, type_text, _default(parameter), description, effect))
    return tuple(keys)


def effects_of(function: Callable[..., Any]) -> Mapping[str, Effect]:
    """Return the effects of a callable's arguments by name.

    An argument of foreign code that declares none decides values as far as can be known.
    """
    try:
        return {
            one.name: _effect(one.annotation) or Effect.VALUES
            for one in _named_parameters(function)
        }
    except ValueError:  # callables written in C may have no signature
        return {}


def _named_parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            yield parameter


def _effect(annotation: object) -> Effect | None:
    metadata = getattr(annotation, "__metadata__", ())
    return next((one for one in metadata if isinstance(one, Effect)), None)


def _default(parameter: inspect.Parameter) -> object:
    if parameter.default is not inspect.Parameter.empty:
        return parameter.default
    allowed = _alternatives(parameter.annotation)
    return None if NoneType in allowed else REQUIRED


def _type_text(annotation: object) -> str:
    """Return a type in words of YAML: those in its annotation, or else those of its alternatives.

    Raises:
        TypeError: YAML has no such type.
    """
    words = [one for one in getattr(annotation, "__metadata__", ()) if isinstance(one, str)]
    if words:
        return words[0]
    found = dict.fromkeys(_type_name(one) for one in _alternatives(annotation))
    *others, last = sorted(found, key=lambda name: name == _TYPES[NoneType])
    return f"{', '.join(others)} or {last}" if others else last


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type, or itself if it is not a union."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(one for part in get_args(annotation) for one in _alternatives(part))
    return (annotation,)


def _type_name(alternative: Any) -> str:
    kind = get_origin(alternative) or alternative
    if kind not in _TYPES:
        raise TypeError(f"{kind!r}. Declare what is given there: Annotated[…, 'list or mapping']")
    return _TYPES[kind]


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
