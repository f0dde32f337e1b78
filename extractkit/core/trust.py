"""The callables that a configuration may name, since a file may come from anywhere.

A `_target_` is imported and called, so it can run any code. One that only a file names is refused
before anything is imported, except extractkit's own components, Keras's classes of layers and
models, and targets registered by an installed package. To allow another, the user types it on the
command line, or names its module with `--trust`.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import Any

from extractkit.errors import ConfigError

ENTRY_POINTS = "extractkit.targets"
"""Group of entry points by which an installed package registers callables (`package.module:name`)
that any configuration may name."""

CUSTOM_OBJECTS = "custom_objects"
"""The argument that holds dotted paths of callables by name, without a `_target_`."""

OWN = frozenset(
    {
        "extractkit.inputs.arrays.Arrays",
        "extractkit.inputs.dataset.Dataset",
        "extractkit.inputs.hdf5.Hdf5",
        "extractkit.inputs.images.Images",
        "extractkit.inputs.parquet.Parquet",
        "extractkit.inputs.random.Random",
        "extractkit.inputs.texts.Texts",
        "extractkit.inputs.tfrecord.TFRecord",
        "extractkit.inputs.whole_files.Files",
        "extractkit.models.applications.load",
        "extractkit.models.bert.load",
        "extractkit.models.checkpoint.load",
        "extractkit.models.frozen_graph.load",
        "extractkit.models.tensorflow_js.load",
        "extractkit.models.hub.load",
        "extractkit.models.hugging_face.load",
        "extractkit.models.keras_file.load",
        "extractkit.models.meta_graph.load",
        "extractkit.models.module.load",
        "extractkit.models.saved_model.load",
        "extractkit.models.tflite.load",
        "extractkit.sinks.hdf5.Hdf5Sink",
        "extractkit.sinks.npz.NpzSink",
        "extractkit.testing.reference.ReferenceModel",
    }
)
"""extractkit's own components, which any configuration may name."""

LOADERS = frozenset({"keras.models.load_model", "keras.saving.load_model"})
"""Keras's functions that read a model without running code from its file unless `safe_mode` is
off. The loader of tf-keras runs code from HDF5 files, so it is not listed."""

_KERAS = frozenset({"keras", "keras_hub", "tf_keras"})
_APPLICATIONS = "applications"
SAFE_MODE = "safe_mode"
RAY_ADDRESS = "runtime.ray_address"
"""The setting of the Ray cluster that receives the job, and whose data the driver unpickles."""

_SERIALIZED = "class_name"


@dataclass(frozen=True)
class Trust:
    """What the user trusts.

    Attributes:
        modules: modules named by `--trust`: everything in and below them may be called. The key of
            a setting (`model.safe_mode`) lets a file choose that setting.
        targets: dotted paths typed on the command line as a `_target_`, or as a module to import.
        settings: everything typed there, as `KEY=VALUE`.

    Raises:
        ConfigError: a module is not a dotted name.
    """

    modules: tuple[str, ...] = ()
    targets: frozenset[str] = frozenset()
    settings: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for module in self.modules:
            if not all(part.isidentifier() for part in module.split(".")):
                raise ConfigError(
                    f"--trust {module!r} does not name a module. Give its dotted path, as in "
                    f"--trust package.module"
                )

    def check(self, at: str, target: str) -> None:
        """Refuse a callable that a file may not name. Imports nothing.

        Args:
            at: the config key that names it ("model.factory._target_").
            target: dotted path of the callable.

        Raises:
            ConfigError: the callable is not trusted.
        """
        if self.vouches(target) or meant_for_files(target):
            return
        raise ConfigError(
            f"{at}={target!r} is refused: a file names it, not the command line, and it would run "
            f"code that is neither extractkit's nor Keras's. "
            f"If you trust it: --trust {module_of(target)}"
        )

    def check_import(self, at: str, module: str) -> None:
        """Refuse a module that only a file names, because importing it runs its code.

        Raises:
            ConfigError: the module is not trusted.
        """
        if not self.vouches(module):
            raise ConfigError(
                f"{at}={module!r} is refused: a file names it, not the command line, and "
                f"importing it runs its code. If you trust it: --trust {module}"
            )

    def check_arguments(self, at: str, target: str, arguments: Mapping[str, object]) -> None:
        """Refuse arguments with which a trusted callable would run foreign code.

        Args:
            at: the config key of the component.
            target: dotted path of the callable.
            arguments: the arguments by name, as plain data.

        Raises:
            ConfigError: safe mode is off, or a serialized Keras object names code to import, and
                neither is trusted.
        """
        if arguments.get(SAFE_MODE, True) is not True:
            self.check_setting(f"{at}.{SAFE_MODE}", arguments[SAFE_MODE])
        if self.vouches(target) or not of_keras(target):
            return
        for key, name in _serialized(at, arguments):
            raise ConfigError(
                f"{key}={name!r} is refused: a serialized object can name any code. "
                f"Name its class instead: {key.removesuffix(_SERIALIZED)}_target_=…"
            )

    def check_setting(self, at: str, value: object) -> None:
        """Refuse a setting that runs foreign code and that only a file has chosen.

        Raises:
            ConfigError: the setting was not typed and is not trusted.
        """
        if not self.names_key(at) and f"{at}={value}" not in self.settings:
            given = str(value).lower() if isinstance(value, bool | None) else repr(value)
            raise ConfigError(
                f"{at}={given} is refused: a file sets it, not the command line, and it lets "
                f"foreign code run. If you trust it, type it, or: --trust {at}"
            )

    def names_key(self, at: str) -> bool:
        """Return True if `--trust` names this config key, or one above it (`hydra.launcher`).

        A whole group does not count: `--trust hydra` means the package.
        """
        return any(
            "." in named and (at == named or at.startswith(f"{named}.")) for named in self.modules
        )

    def vouches(self, target: str) -> bool:
        """Return True if the user named this callable, or a module that contains it."""
        return target in self.targets or any(
            target == module or target.startswith(f"{module}.") for module in self.modules
        )


NO_TRUST = Trust()
"""Nothing typed on the command line, and no trusted module."""


def meant_for_files(target: str) -> bool:
    """Return True if any file may name this callable."""
    return target in OWN or of_keras(target) or target in _registered()


def module_of(target: str) -> str:
    """Return the module that `--trust` has to name for a callable."""
    return target.rpartition(".")[0] or target


def of_keras(target: str) -> bool:
    """Return True if a dotted path is in a package of Keras."""
    return target.partition(".")[0] in _KERAS


def check_kind(at: str, target: str, function: Callable[..., Any]) -> None:
    """Refuse a callable of Keras other than classes of layers and models, and model loaders.

    Args:
        at: the config key that names it.
        target: dotted path in a package of Keras.
        function: the imported callable.

    Raises:
        ConfigError: it is something else, such as a function that downloads files.
    """
    if target in LOADERS or _is_layer(function) or _is_application(function):
        return
    raise ConfigError(
        f"{at}={target!r} is refused: a file names it, not the command line, and it is "
        f"not a class of layers or models. If you trust it: --trust {target}"
    )


def _is_layer(function: object) -> bool:
    """Return True for a class of layers, which includes models."""
    bases = function.__mro__ if isinstance(function, type) else ()
    return any(base.__name__ == "Layer" and of_keras(base.__module__) for base in bases)


def _is_application(function: object) -> bool:
    """Return True for a function of `keras.applications` that builds a model (`ResNet50`)."""
    module, name = (str(getattr(function, key, "")) for key in ("__module__", "__name__"))
    return of_keras(module) and _APPLICATIONS in module.split(".") and name[:1].isupper()


def _serialized(at: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield key and value of each `class_name`, which marks a serialized Keras object."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if key == _SERIALIZED:
                yield f"{at}.{key}", entry
            yield from _serialized(f"{at}.{key}", entry)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _serialized(f"{at}.{index}", entry)


def _registered() -> set[str]:
    """Return the dotted paths that installed packages have registered."""
    return {_dotted(entry) for entry in installed(ENTRY_POINTS)}


def installed(group: str) -> Iterator[EntryPoint]:
    """Yield the entry points of a group, of each installed distribution once."""
    here = Path.cwd().resolve()
    # Metadata in the working directory does not come from an installation.
    searched = [path for path in sys.path if Path(path).resolve() != here]
    earlier: set[str] = set()
    unread: list[Distribution] = []  # a name is expensive to read, and few register anything
    for distribution in distributions(path=searched):
        if entries := [entry for entry in distribution.entry_points if entry.group == group]:
            earlier.update(one.name for one in unread)
            unread.clear()
            # Of two on the search path, the first is imported.
            if distribution.name not in earlier:
                yield from entries
        unread.append(distribution)


def _dotted(entry: EntryPoint) -> str:
    return entry.value.partition("[")[0].strip().replace(":", ".").replace(" ", "")
