"""The typed, frozen description of a job. Pure Python: nothing here knows YAML or Hydra."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from extractkit.errors import ConfigError, choices
from extractkit.selectors import Selector

# NumPy's generators take 32 bits.
_LARGEST_SEED = 2**32 - 1

_TARGET = "_target_"
_PARTIAL = "_partial_"

COMPILE_MODES = ("graph", "xla")


@dataclass(frozen=True)
class Component:
    """A model, input source or sink named by its `_target_`, with the arguments to call it with.

    An argument may be such a mapping again (`model.factory`): it is a component of its own.

    Attributes:
        at: the config key that it stands under ("model", "sinks.hdf5", "model.factory").
        target: dotted path of a callable.
        arguments: by name; components inside mappings and lists too.
        partial: whether the callable itself is meant, with these arguments bound, and not what it
            returns (Hydra's `_partial_`).
    """

    at: str
    target: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    partial: bool = False

    @classmethod
    def parse(cls, at: str, entry: object) -> "Component":
        """From configuration as plain data: a mapping with a `_target_`.

        Raises:
            ConfigError: it is none.
        """
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{at}={entry!r} is not a mapping with a {_TARGET}")
        arguments = {str(key): _nested(f"{at}.{key}", value) for key, value in entry.items()}
        target = arguments.pop(_TARGET, None)
        if not isinstance(target, str):
            given = "is missing" if target is None else f"={target!r} is not a text"
            raise ConfigError(
                f"{at}.{_TARGET} {given}. Give the dotted path of a callable: {at}.{_TARGET}=…"
            )
        partial = arguments.pop(_PARTIAL, False)
        if not isinstance(partial, bool):
            raise ConfigError(f"{at}.{_PARTIAL}={partial!r} is not true or false")
        return cls(at, target, arguments, partial)

    def check(self) -> None:
        """Import the callable and hold the arguments against its signature.

        Raises:
            ConfigError: no such callable, an unknown argument, or a missing one.
        """
        try:
            parameters = inspect.signature(self.function()).parameters
        except ValueError:
            return  # what is written in C may not tell
        named = [
            n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for key in self.arguments:
            if key not in named and not open_ended:
                raise ConfigError(f"{self.at}.{key} does not exist. {choices(key, named)}")
        for name in named if not self.partial else ():
            if parameters[name].default is inspect.Parameter.empty and name not in self.arguments:
                raise ConfigError(f"{self.at}.{name} is missing. Give it: {self.at}.{name}=…")

    def build(self) -> Any:
        """Call the target with its arguments; components among them are for it to instantiate.

        Raises:
            ConfigError: it cannot be called so, or is meant as it is (`_partial_`).
        """
        if self.partial:
            raise ConfigError(f"{self.at}.{_PARTIAL}=true: {self.at} is called. Leave it out")
        self.check()
        return self.function()(**self.arguments)

    def instantiate(self) -> Any:
        """Call the target with its arguments, every component inside them instantiated first.

        Raises:
            ConfigError: a target that cannot be called with its arguments.
        """
        self.check()
        arguments = {key: _instantiated(value) for key, value in self.arguments.items()}
        function = self.function()
        if not self.partial:
            return function(**arguments)
        # Wrapped, it would lose what it tells of itself beyond being callable.
        return partial(function, **arguments) if arguments else function

    def function(self) -> Callable[..., Any]:
        """The callable that the target names.

        Raises:
            ConfigError: there is none.
        """
        module_name, _, attribute = self.target.rpartition(".")
        # As for `python -m`, so for the console script: the working directory is importable.
        if (here := str(Path.cwd())) not in sys.path and "" not in sys.path:
            sys.path.append(here)
        try:
            function = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"{self.at}._target_={self.target!r} cannot be imported: {error}. "
                f"Give the dotted path of a callable, as in package.module.function"
            ) from error
        if not callable(function):
            raise ConfigError(f"{self.at}._target_={self.target!r} is not callable")
        return function  # type: ignore[no-any-return]


def _nested(at: str, value: object) -> object:
    if isinstance(value, Mapping):
        if _TARGET in value:
            return Component.parse(at, value)
        return {str(key): _nested(f"{at}.{key}", entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_nested(f"{at}.{index}", entry) for index, entry in enumerate(value)]
    return value


def _instantiated(value: object) -> object:
    if isinstance(value, Component):
        return value.instantiate()
    if isinstance(value, Mapping):
        return {key: _instantiated(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_instantiated(entry) for entry in value]
    return value


@dataclass(frozen=True)
class Runtime:
    """How a job runs (the `runtime` group).

    Attributes:
        batch_size: most samples in a batch.
        batch_tokens: most padded elements along the free axes of a batch; None: no limit.
        shard_size: samples in a shard; None: as many as keep it well below 128 MB ("auto").
        compile: "graph" (a TensorFlow graph) or "xla".
        device: TensorFlow's name of the device ("/CPU:0"); None leaves the choice to TensorFlow.
        seed: of every random generator.
        deterministic: whether operations without a deterministic kernel are refused.
    """

    batch_size: int = 32
    batch_tokens: int | None = None
    shard_size: int | None = None
    compile: str = "graph"
    device: str | None = None
    seed: int = 0
    deterministic: bool = True

    @classmethod
    def parse(cls, entries: Mapping[str, object]) -> "Runtime":
        """From configuration, where `shard_size` may be "auto".

        Raises:
            ConfigError: an unknown key or a value that does not fit.
        """
        known = [item.name for item in fields(cls)]
        for key in entries:
            if key not in known:
                raise ConfigError(f"runtime.{key} does not exist. {choices(key, known)}")
        values = {key: _plain(key, value) for key, value in entries.items()}
        if values.get("shard_size") == "auto":
            values["shard_size"] = None
        for key in ("batch_size", "batch_tokens", "shard_size"):
            _check_whole(key, values.get(key, 1), least=1, optional=key != "batch_size")
        _check_whole("seed", values.get("seed", 0), least=0, optional=False)
        if int(values.get("seed", 0)) > _LARGEST_SEED:
            raise ConfigError(f"runtime.seed={values['seed']} is larger than {_LARGEST_SEED}")
        if values.get("compile", "graph") not in COMPILE_MODES:
            mode = str(values["compile"])
            raise ConfigError(
                f"runtime.compile={mode!r} is no mode. {choices(mode, COMPILE_MODES)}"
            )
        if not isinstance(values.get("device"), str | None):
            raise ConfigError(
                f"runtime.device={values['device']!r} is not a text, such as '/CPU:0'"
            )
        if not isinstance(values.get("deterministic", True), bool):
            raise ConfigError(
                f"runtime.deterministic={values['deterministic']!r} is not true or false"
            )
        return cls(**values)


def _plain(key: str, value: object) -> Any:
    if isinstance(value, Mapping | list | tuple):
        raise ConfigError(f"runtime.{key}={value!r} is not a single value")
    return value


def _check_whole(key: str, value: object, least: int, optional: bool) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        also = " or 'auto'" if key == "shard_size" else ""
        raise ConfigError(f"runtime.{key}={value!r} is not a whole number of {least} or more{also}")


@dataclass(frozen=True)
class Job:
    """Everything that decides what a run holds.

    Attributes:
        model, inputs: components.
        model_name: the chosen entry of the `model` group, for messages.
        selectors: in the order of the configuration.
        sinks: by name; the first one is what the reader reads.
        runtime: how it runs.
        given: the overrides as they were typed.
        resolved: the whole configuration after composition, as plain data.
    """

    model: Component
    inputs: Component
    selectors: tuple[Selector, ...]
    sinks: Mapping[str, Component]
    runtime: Runtime
    model_name: str
    given: tuple[str, ...] = ()
    resolved: Mapping[str, object] = field(default_factory=dict)
