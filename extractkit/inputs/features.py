"""How a feature of a `tf.train.Example` becomes an input of a model. NumPy only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from extractkit.advice import hydra_text, nested_override
from extractkit.errors import InputError, choices
from extractkit.inputs.checks import check_names
from extractkit.inputs.pixels import Pixels
from extractkit.inputs.protocol import InputSpec, Signature
from extractkit.inputs.records import shaped
from extractkit.tensors import TEXT
from extractkit.values import Array

_LISTS = {"float_list": np.float32, "int64_list": np.int64, "bytes_list": object}
_WHOLE = ". Or give the model each record whole: inputs.whole=true"
_SETTINGS = ("input", "dtype", "shape", "encoded")


@dataclass(frozen=True)
class Feature:
    """One feature and the input that it is for.

    Attributes:
        name: of the feature.
        input: of the model's input; by default the feature's name.
        spec: of that input.
        dtype: of numbers that are stored as bytes, little-endian; or what stored numbers are
            converted to. None: as they are stored.
        shape: of the values; None: the input's.
        pixels: how a picture, stored as the bytes of its file, is decoded; None: it is none.
        settings: those of all features by their names, to advise others.
        whole: whether the model also takes each record whole.
    """

    name: str
    input: str
    spec: InputSpec
    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None
    pixels: Pixels | None = None
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    whole: bool = False

    def values(self, held: Mapping[str, Any], at: str) -> Array:
        """The values in one example.

        Args:
            held: the example's features by name, as protocol buffers.

        Raises:
            InputError: the example lacks it, or it holds something else.
        """
        kind = held[self.name].WhichOneof("kind") if self.name in held else None
        if kind is None:
            raise InputError(
                f"{at} has no feature {self.name!r} for input {self.input!r}. "
                f"{choices(self.name, held)} Name it: {self._advised('NAME', input=self.input)}"
                f"{_WHOLE if self.whole else ''}"
            )
        stored = getattr(held[self.name], kind).value
        at = f"{at}, feature {self.name!r}"
        if self.pixels is not None:
            return self.pixels.decode(_single(stored, kind, at), at).values
        if kind == "bytes_list" and self.spec.dtype != TEXT:
            values = self._raw(_single(stored, kind, at), at)
        else:
            values = np.array(list(stored), _LISTS[kind])
            if self.dtype is not None and kind != "bytes_list":
                values = values.astype(self.dtype)
        return shaped(values, self.spec.shape if self.shape is None else self.shape)

    def _raw(self, data: bytes, at: str) -> Array:
        if self.dtype is None:
            raise InputError(
                f"{at} holds bytes, and input {self.input!r} is {self.spec.dtype}. Say what they "
                f"are: {self._advised(self.name, dtype='uint8')} (numbers, whatever their type), "
                f"{self._advised(self.name, encoded=True)} (a picture)"
            )
        dtype = np.dtype(self.dtype).newbyteorder("<")
        if len(data) % dtype.itemsize:
            raise InputError(f"{at} holds {len(data)} bytes, which are no numbers of {self.dtype}")
        return np.frombuffer(data, dtype)

    def _advised(self, name: str, **more: object) -> str:
        """Return the override of all features, with more settings for this one, under a name."""
        settings = {
            **self.settings,
            self.name: {**more, **self.settings.get(self.name, {}), **more},
        }
        return nested_override(
            "inputs.features",
            {name if one == self.name else one: _written(its) for one, its in settings.items()},
        )


def parse_features(
    given: Mapping[str, Mapping[str, object] | None] | None, signature: Signature
) -> tuple[Feature, ...]:
    """The features of `inputs.features`, one for each of the model's inputs.

    Raises:
        InputError: a setting that does not exist or does not fit, an input without a feature.
    """
    specs = {spec.name: spec for spec in signature.specs}
    if given is None:
        bare: dict[str, Mapping[str, object]] = {name: {} for name in specs}
        whole = signature.string is not None
        return tuple(
            Feature(name, name, spec, settings=bare, whole=whole) for name, spec in specs.items()
        )
    if not isinstance(given, Mapping):
        raise InputError(f"inputs.features={given!r} is no mapping: inputs.features.NAME.input=…")
    settings = {str(name): _settings(str(name), entry) for name, entry in given.items()}
    inputs = [str(entry.get("input", name)) for name, entry in settings.items()]
    check_names(inputs, signature, "inputs.features")
    for one in specs:
        named = [name for name, target in zip(settings, inputs, strict=True) if target == one]
        if len(named) > 1:
            raise InputError(
                f"inputs.features gives input {one!r} several features: "
                f"{', '.join(map(repr, named))}. Keep one of them"
            )
    return tuple(
        _feature(name, specs[target], entry, signature, settings)
        for target, (name, entry) in zip(inputs, settings.items(), strict=True)
    )


def _settings(name: str, entry: object) -> Mapping[str, object]:
    if not isinstance(entry, Mapping | None):
        raise InputError(
            f"inputs.features.{name}={entry!r} is no mapping. It may hold {', '.join(_SETTINGS)}"
        )
    for key in entry or {}:
        if key not in _SETTINGS:
            raise InputError(
                f"inputs.features.{name}.{key} does not exist. {choices(str(key), _SETTINGS)}"
            )
    return {str(key): value for key, value in (entry or {}).items() if value is not None}


def _written(value: object) -> str:
    """Return a setting in Hydra's grammar."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_written(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return hydra_text(value) if isinstance(value, str) else str(value)


def _feature(
    name: str,
    spec: InputSpec,
    entry: Mapping[str, object],
    signature: Signature,
    settings: Mapping[str, Mapping[str, object]],
) -> Feature:
    key = f"inputs.features.{name}"
    encoded, dtype, shape = entry.get("encoded", False), entry.get("dtype"), entry.get("shape")
    if not isinstance(encoded, bool):
        raise InputError(f"{key}.encoded={encoded!r} is not true or false")
    if encoded and (dtype is not None or shape is not None):
        raise InputError(f"{key}.encoded=true: a picture tells its shape and dtype. Leave them out")
    return Feature(
        name,
        spec.name,
        spec,
        None if dtype is None else _dtype(key, dtype),
        None if shape is None else _shape(key, shape),
        Pixels.of(spec, signature) if encoded else None,
        settings,
    )


def _dtype(key: str, given: object) -> str:
    try:
        dtype = np.dtype(str(given))
    except TypeError as error:
        raise InputError(f"{key}.dtype={given!r} is no type of numbers, such as uint8") from error
    if dtype.kind not in "fiub":
        raise InputError(f"{key}.dtype={given!r} is no type of numbers, such as uint8")
    return dtype.name


def _shape(key: str, given: object) -> tuple[int | None, ...]:
    sizes = tuple(given) if isinstance(given, list | tuple) else None
    whole = all(n is None or (type(n) is int and n >= 0) for n in sizes or ())
    if sizes is None or not whole or sizes.count(None) > 1:
        raise InputError(f"{key}.shape={given!r} is no list of lengths, as in [28,28] or [null,8]")
    return sizes


def _single(stored: Any, kind: str, at: str) -> bytes:
    if kind != "bytes_list" or len(stored) != 1:
        raise InputError(f"{at} holds {len(stored)} values ({kind}), not the bytes of one array")
    return bytes(stored[0])
