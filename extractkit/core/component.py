"""A component: a callable named in configuration by its `_target_`, and its arguments."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from extractkit.advice import RENAMED_KEYS, renamed_key
from extractkit.core.extras import install
from extractkit.core.keys import Effect, Key, effects_of, keys_of
from extractkit.core.trust import (
    CUSTOM_OBJECTS,
    NO_TRUST,
    SAFE_MODE,
    Trust,
    check_kind,
    meant_for_files,
    module_of,
    of_keras,
)
from extractkit.errors import ConfigError, MissingExtraError, choices

IMPORTS_KEY = Key(
    *("imports", "list", []),
    "Modules to import first, for custom operations and classes: [tensorflow_text].",
    Effect.VALUES,
)
"""The key of every model that names modules to import before it is loaded."""

IMPORTS = IMPORTS_KEY.name

_MODEL = "model"
_TARGET = "_target_"
_PARTIAL = "_partial_"


@dataclass(frozen=True)
class Component:
    """A model, input source or sink named by its `_target_`, with the arguments to call it with.

    An argument may be such a mapping as well (`model.factory`), which is a component of its own.

    Attributes:
        at: its config key ("model", "sinks.hdf5", "model.factory").
        target: dotted path of a callable.
        arguments: arguments by name, with components inside mappings and lists too.
        partial: use the callable itself with these arguments bound, not its result (Hydra's
            `_partial_`).
        vouched: whether the user or extractkit named the target, rather than only a file. It may
            then be of any kind, and be in the working directory.
        imports: modules to import before the target is called, for a model only.
    """

    at: str
    target: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    partial: bool = False
    vouched: bool = field(default=True, compare=False)
    imports: tuple[str, ...] = ()

    @classmethod
    def parse(cls, at: str, entry: object, trust: Trust = NO_TRUST) -> "Component":
        """Parse configuration as plain data, a mapping with a `_target_`. Imports nothing.

        Raises:
            ConfigError: it is not such a mapping, or names, at any depth, an untrusted callable.
        """
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{at}={entry!r} is not a mapping with a {_TARGET}")
        arguments = {str(key): value for key, value in entry.items()}
        target = arguments.pop(_TARGET, None)
        if not isinstance(target, str):
            given = "is missing" if target is None else f"={target!r} is not a text"
            raise ConfigError(
                f"{at}.{_TARGET} {given}. Give the dotted path of a callable: {at}.{_TARGET}=…"
            )
        partial = arguments.pop(_PARTIAL, False)
        if not isinstance(partial, bool):
            raise ConfigError(f"{at}.{_PARTIAL}={partial!r} is not true or false")
        imports = _imports(at, arguments.pop(IMPORTS, None), trust) if at == _MODEL else ()
        trust.check(f"{at}.{_TARGET}", target)
        trust.check_arguments(at, target, arguments)
        nested = {key: _nested(f"{at}.{key}", value, trust) for key, value in arguments.items()}
        return cls(at, target, nested, partial, trust.vouches(target), imports)

    def check(self) -> None:
        """Import the callable and check the arguments against its signature.

        Raises:
            ConfigError: no such callable, an unknown argument, or a missing one.
        """
        try:
            parameters = inspect.signature(self.function()).parameters
        except ValueError:
            return  # callables written in C may have no signature
        named = [
            n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for key in self.arguments:
            if key not in named and not open_ended:
                raise ConfigError(_no_such_key(f"{self.at}.{key}", self.arguments[key], named))
        for name in named if not self.partial else ():
            if parameters[name].default is inspect.Parameter.empty and name not in self.arguments:
                raise ConfigError(f"{self.at}.{name} is missing. Give it: {self.at}.{name}=…")

    def identifying(self) -> dict[str, object]:
        """Return the arguments that the identity of a run holds, by name.

        These are all but those that the callable declares to change no byte.
        """
        effects = effects_of(self.function()) if self.arguments else {}
        return {
            name: value
            for name, value in self.arguments.items()
            if effects.get(name, Effect.VALUES).decides_bytes
        }

    def keys(self) -> tuple[Key, ...]:
        """Return the keys that the callable declares, and those of every model."""
        return (*keys_of(self.function()), *([IMPORTS_KEY] if self.at == _MODEL else []))

    def build(self) -> Any:
        """Call the target with its arguments. It instantiates components among them itself.

        Raises:
            ConfigError: it cannot be called with them, or has `_partial_` set.
        """
        if self.partial:
            raise ConfigError(f"{self.at}.{_PARTIAL}=true: {self.at} is called. Leave it out")
        self.check()
        return self._called(self.function(), self.arguments)

    def instantiate(self) -> Any:
        """Call the target with its arguments, after instantiating every component inside them.

        Raises:
            ConfigError: the target cannot be called with its arguments.
        """
        self.check()
        arguments = {key: _instantiated(value) for key, value in self.arguments.items()}
        function = self.function()
        if not self.partial:
            return self._called(function, arguments)
        # A wrapper would hide the attributes of the callable.
        return partial(function, **arguments) if arguments else function

    def _called(self, function: Callable[..., Any], arguments: Mapping[str, object]) -> Any:
        try:
            return function(**arguments)
        except (TypeError, ValueError) as error:
            # Keras checks its own arguments. In other code, the error may be a bug of that code.
            if not of_keras(self.target):
                raise
            raise ConfigError(
                f"{self.at}.{_TARGET}={self.target!r} refuses its arguments: {error}"
            ) from error

    def trust_needed(self) -> Iterator[str]:
        """Yield what `--trust` has to name so that a file may hold this component, at any depth."""
        if not meant_for_files(self.target):
            yield module_of(self.target)
        if self.arguments.get(SAFE_MODE, True) is not True:
            yield f"{self.at}.{SAFE_MODE}"
        yield from self.imports
        for value in self.arguments.values():
            for component in _components(value):
                yield from component.trust_needed()

    def function(self) -> Callable[..., Any]:
        """Return the callable that the target names.

        Raises:
            ConfigError: there is none.
        """
        # Only for trusted targets: others could be found there without being installed.
        if self.vouched:
            import_from_here()
        try:
            function = _imported(self.target)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"{self.at}._target_={self.target!r} cannot be imported: "
                f"{str(error).removesuffix('.')}. "
                f"Give the dotted path of a callable, as in package.module.function or "
                f"package.module.Class.method"
            ) from error
        if not callable(function):
            raise ConfigError(f"{self.at}._target_={self.target!r} is not callable")
        if not self.vouched and of_keras(self.target):
            check_kind(f"{self.at}.{_TARGET}", self.target, function)
        return function  # type: ignore[no-any-return]


def _no_such_key(key: str, value: object, available: Sequence[str]) -> str:
    at, _, last = key.rpartition(".")
    new = RENAMED_KEYS.get(key)
    message = renamed_key(key, value)
    if message is not None and new in [f"{at}.{name}" for name in available]:
        return message
    return f"{key} does not exist. {choices(last, available)}"


def import_from_here() -> None:
    """Make the working directory importable for the console script, as it is for `python -m`."""
    if (here := str(Path.cwd())) not in sys.path and "" not in sys.path:
        sys.path.append(here)


def require(module: str, use: str) -> Any:
    """Import a module of an optional package.

    Args:
        use: what needs it, as an extra declares it: a choice of the configuration, or a method.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{use} needs {module.partition('.')[0]}, which is not installed. "
            f"Install it: {install(use)}"
        ) from error


def _imported(target: str) -> Any:
    """Return the target of a dotted path: an attribute of a module, or a method of a class.

    Raises:
        ImportError, AttributeError, ValueError: there is no such target.
    """
    owner_path, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(owner_path), name)
    except ModuleNotFoundError as error:
        # The module itself fails to import another one, or the path is too short for a class.
        if error.name != owner_path or "." not in owner_path:
            raise
        module_name, _, class_name = owner_path.rpartition(".")
        owner = getattr(importlib.import_module(module_name), class_name, None)
        if not isinstance(owner, type):
            raise
    return _method_of_class(owner, name)


def _method_of_class(owner: type, name: str) -> Any:
    """Return a public class method or static method of a class, and nothing else.

    Raises:
        AttributeError: the class defines no such method.
    """
    # Static look-up: normal attribute access would run properties and reach those of `type`.
    found = inspect.getattr_static(owner, name, None)
    if not isinstance(found, classmethod | staticmethod) or name.startswith("_"):
        methods = [
            other
            for base in owner.__mro__
            for other, value in vars(base).items()
            if isinstance(value, classmethod | staticmethod) and not other.startswith("_")
        ]
        raise AttributeError(
            f"{name!r} is not a class method or static method of {owner.__name__}. "
            f"{choices(name, methods)}"
        )
    return found.__get__(None, owner)


def _imports(at: str, value: object, trust: Trust) -> tuple[str, ...]:
    """Return the modules that an entry names, each of which must be trusted."""
    listed = [value] if isinstance(value, str) else value or []
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise ConfigError(
            f"{at}.{IMPORTS}={value!r} is not a list of modules: {at}.{IMPORTS}=[package.module]"
        )
    for name in listed:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(
                f"{at}.{IMPORTS}={name!r} is not the dotted path of a module. Give the name that "
                f"is written after `import`: {at}.{IMPORTS}=[package.module]"
            )
        trust.check_import(f"{at}.{IMPORTS}", name)
    return tuple(dict.fromkeys(listed))


def _nested(at: str, value: object, trust: Trust) -> object:
    if isinstance(value, Mapping):
        if _TARGET in value:
            return Component.parse(at, value, trust)
        part = _named if at.rpartition(".")[2] == CUSTOM_OBJECTS else _nested
        return {str(key): part(f"{at}.{key}", entry, trust) for key, entry in value.items()}
    if isinstance(value, list):
        return [_nested(f"{at}.{index}", entry, trust) for index, entry in enumerate(value)]
    return value


def _named(at: str, value: object, trust: Trust) -> object:
    """Parse a custom object, which is a dotted path instead of a mapping with a `_target_`."""
    if not isinstance(value, str):
        return value
    trust.check(at, value)
    return Component(at, value, partial=True, vouched=trust.vouches(value))


def _components(value: object) -> Iterator[Component]:
    """Yield the components at or inside a value."""
    if isinstance(value, Component):
        yield value
    elif isinstance(value, Mapping | list):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _components(entry)


def _instantiated(value: object) -> object:
    if isinstance(value, Component):
        return value.instantiate()
    if isinstance(value, Mapping):
        return {key: _instantiated(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_instantiated(entry) for entry in value]
    return value
