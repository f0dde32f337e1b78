"""Which callables a configuration may name: a file may come from somebody else.

A `_target_` is imported and called, so it is a program. One that a file names is refused before
anything is imported, unless what it names is meant for that: our own components, Keras's classes of
layers and models, and what an installed package has registered. A user who wants another types it
on the command line, or names its module with `--trust`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions
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
"""Components of our own that any configuration may name."""

LOADERS = frozenset({"keras.models.load_model", "keras.saving.load_model"})
"""Keras's functions that read a model without running code from its file, unless they are told to
(`safe_mode`). That of tf-keras runs what an HDF5 file holds, and is not among them."""

_KERAS = frozenset({"keras", "keras_hub", "tf_keras"})
_APPLICATIONS = "applications"
SAFE_MODE = "safe_mode"
RAY_ADDRESS = "runtime.ray_address"
"""The setting that says which Ray cluster gets the job, and sends what the driver unpickles."""

_SERIALIZED = "class_name"


@dataclass(frozen=True)
class Trust:
    """What a user vouches for.

    Attributes:
        modules: named by `--trust`: everything in them and below them may be called. The key of a
            setting (`model.safe_mode`) lets a file choose that setting.
        targets: dotted paths that were typed on the command line as a `_target_`, or as a module
            to import.
        settings: everything that was typed there, as `KEY=VALUE`.

    Raises:
        ConfigError: a module that is no dotted name.
    """

    modules: tuple[str, ...] = ()
    targets: frozenset[str] = frozenset()
    settings: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for module in self.modules:
            if not all(part.isidentifier() for part in module.split(".")):
                raise ConfigError(
                    f"--trust {module!r} names no module. Give its dotted path, as in "
                    f"--trust package.module"
                )

    def check(self, at: str, target: str) -> None:
        """Refuse a callable that a file may not name; nothing is imported.

        Args:
            at: the config key that names it ("model.factory._target_").
            target: dotted path of the callable.

        Raises:
            ConfigError: nobody vouches for it.
        """
        if self.vouches(target) or meant_for_files(target):
            return
        raise ConfigError(
            f"{at}={target!r} is refused: it stands in a file, not on the command line, and "
            f"would run code that is neither extractkit's nor Keras's. "
            f"If you trust it: --trust {module_of(target)}"
        )

    def check_import(self, at: str, module: str) -> None:
        """Refuse a module to import that only a file names: importing it runs its code.

        Raises:
            ConfigError: nobody vouches for it.
        """
        if not self.vouches(module):
            raise ConfigError(
                f"{at}={module!r} is refused: a file names it, and not the command line, and "
                f"importing it runs its code. If you trust it: --trust {module}"
            )

    def check_arguments(self, at: str, target: str, arguments: Mapping[str, object]) -> None:
        """Refuse what would run foreign code though the callable itself may be named.

        Args:
            at: the config key of the component.
            target: dotted path of the callable.
            arguments: by name, as plain data.

        Raises:
            ConfigError: safe mode is off, or a serialized Keras object names code to import, and
                nobody vouches for that.
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
        """Refuse a setting that runs code of others and that only a file has chosen.

        Raises:
            ConfigError: it was neither typed nor is it trusted.
        """
        if not self.names_key(at) and f"{at}={value}" not in self.settings:
            given = str(value).lower() if isinstance(value, bool | None) else repr(value)
            raise ConfigError(
                f"{at}={given} is refused: it stands in a file, not on the command line, and lets "
                f"code of others run. If you trust it, type it, or: --trust {at}"
            )

    def names_key(self, at: str) -> bool:
        """Whether `--trust` names this config key, or one above it (`hydra.launcher`).

        A whole group is no key: `--trust hydra` means the package.
        """
        return any(
            "." in named and (at == named or at.startswith(f"{named}.")) for named in self.modules
        )

    def vouches(self, target: str) -> bool:
        """Whether the user named this callable, or a module that it is in, himself."""
        return target in self.targets or any(
            target == module or target.startswith(f"{module}.") for module in self.modules
        )


NO_TRUST = Trust()
"""What counts where nothing was typed and no module is trusted."""


def meant_for_files(target: str) -> bool:
    """Whether any file may name this callable."""
    return target in OWN or of_keras(target) or target in _registered()


def module_of(target: str) -> str:
    """The module that `--trust` has to name for a callable."""
    return target.rpartition(".")[0] or target


def of_keras(target: str) -> bool:
    """Whether a dotted path leads into a package of Keras."""
    return target.partition(".")[0] in _KERAS


def check_kind(at: str, target: str, function: Callable[..., Any]) -> None:
    """Refuse what Keras has besides classes of layers and models, and their loaders.

    Args:
        at: the config key that names it.
        target: dotted path in a package of Keras.
        function: what was found there.

    Raises:
        ConfigError: it is something else: a function that fetches files, say.
    """
    if target in LOADERS or _is_layer(function) or _is_application(function):
        return
    raise ConfigError(
        f"{at}={target!r} is refused: it stands in a file, not on the command line, and is "
        f"no class of layers or models. If you trust it: --trust {target}"
    )


def _is_layer(function: object) -> bool:
    """Whether it is a class of layers, of which models are some."""
    bases = function.__mro__ if isinstance(function, type) else ()
    return any(base.__name__ == "Layer" and of_keras(base.__module__) for base in bases)


def _is_application(function: object) -> bool:
    """Whether it is a function of `keras.applications` that builds a model (`ResNet50`)."""
    module, name = (str(getattr(function, key, "")) for key in ("__module__", "__name__"))
    return of_keras(module) and _APPLICATIONS in module.split(".") and name[:1].isupper()


def _serialized(at: str, value: object) -> Iterator[tuple[str, object]]:
    """Key and value of each `class_name`, by which Keras tells a serialized object."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if key == _SERIALIZED:
                yield f"{at}.{key}", entry
            yield from _serialized(f"{at}.{key}", entry)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _serialized(f"{at}.{index}", entry)


def _registered() -> set[str]:
    """Dotted paths that installed packages have registered."""
    return {
        _dotted(entry)
        for distribution in distributions()
        # What merely lies in the working directory was not installed by anybody.
        if Path(str(distribution.locate_file(""))).resolve() != Path.cwd().resolve()
        for entry in distribution.entry_points
        if entry.group == ENTRY_POINTS
    }


def _dotted(entry: EntryPoint) -> str:
    return entry.value.partition("[")[0].strip().replace(":", ".").replace(" ", "")
