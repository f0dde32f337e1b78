"""Features of `tf.train.Example` as a model's inputs: the parsed key `inputs.features`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from extractkit.advice import hydra_value, nested_override
from extractkit.core.spec import TEXT
from extractkit.core.values import Array
from extractkit.errors import InputError, choices, counted
from extractkit.inputs import InputSpec, Signature
from extractkit.inputs.checks import check_direction, check_names, keeps_meaning
from extractkit.inputs.pictures import Pixels
from extractkit.inputs.records import shaped

_LISTS = {"float_list": np.float32, "int64_list": np.int64, "bytes_list": object}
_WHOLE = ". Or give the model each record whole: inputs.whole=true"
_SETTINGS = ("feature", "dtype", "shape", "encoded")


@dataclass(frozen=True)
class Feature:
    """One feature of an example, and its input.

    Attributes:
        name: its name.
        input: the name of the model's input.
        spec: the spec of that input.
        dtype: the dtype of numbers stored as little-endian bytes, or the dtype to convert stored
            numbers to. None: as stored.
        shape: the shape of the values; None: the input's.
        pixels: the decoding of a picture stored as the bytes of its file; None: not a picture.
        settings: the settings of the features of all inputs, for messages.
        whole: whether the model also accepts whole records.
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
        """Return the feature's values in one example.

        Args:
            held: The example's features by name, as protocol buffers.

        Raises:
            InputError: The example lacks the feature, or it has another type.
        """
        kind = held[self.name].WhichOneof("kind") if self.name in held else None
        if kind is None and self.name in held:
            raise InputError(
                f"{at}, feature {self.name!r} is empty: it has no list of values. Fill it in, or "
                f"leave the record out"
            )
        if kind is None:
            raise InputError(
                f"{at} has no feature {self.name!r} for input {self.input!r}. "
                f"{choices(self.name, held)} Name it: {self._advised(feature='NAME')}"
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
            if self.dtype is None and self._needs_dtype(values):
                raise InputError(
                    f"{at} is {values.dtype}, and input {self.input!r} is {self.spec.dtype}. This "
                    f"is not converted automatically. If you mean it: "
                    f"{self._advised(dtype=self.spec.dtype)}"
                )
            if self.dtype is not None and kind != "bytes_list":
                values = values.astype(self.dtype)
        return shaped(values, self.spec.shape if self.shape is None else self.shape)

    def _needs_dtype(self, values: Array) -> bool:
        numbers = self.spec.dtype != TEXT and self.spec.quantized is None
        return numbers and not keeps_meaning(values.dtype, self.spec)

    def _raw(self, data: bytes, at: str) -> Array:
        if self.dtype is None:
            raise InputError(
                f"{at} holds bytes, and input {self.input!r} is {self.spec.dtype}. Specify what "
                f"they are: {self._advised(dtype='uint8')} (numbers of any type), "
                f"{self._advised(encoded=True)} (a picture)"
            )
        dtype = np.dtype(self.dtype).newbyteorder("<")
        if len(data) % dtype.itemsize:
            raise InputError(
                f"{at} holds {counted(len(data), 'byte')}, which is not a multiple of "
                f"the size of {self.dtype}"
            )
        return np.frombuffer(data, dtype)

    def _advised(self, **more: object) -> str:
        """Return the override `inputs.features=…`, with further settings for this feature."""
        own = {**self.settings.get(self.input, {}), **more}
        return _override({**self.settings, self.input: own})


def stored_values(feature: Any) -> Array | None:
    """Return the values of a feature as stored, or None if it has no list of values.

    Args:
        feature: a protocol buffer.
    """
    kind = feature.WhichOneof("kind")
    return None if kind is None else np.array(list(getattr(feature, kind).value), _LISTS[kind])


def parse_features(
    given: Mapping[str, Mapping[str, object] | str | None] | None, signature: Signature
) -> tuple[Feature, ...]:
    """Return the features of `inputs.features`, one for each of the model's inputs.

    Raises:
        InputError: A setting does not exist or does not fit, or an input has no feature.
    """
    specs = {spec.name: spec for spec in signature.specs}
    if given is None:
        bare: dict[str, Mapping[str, object]] = {name: {} for name in specs}
        whole = signature.string is not None
        return tuple(
            Feature(name, name, spec, settings=bare, whole=whole) for name, spec in specs.items()
        )
    if not isinstance(given, Mapping):
        raise InputError(
            f"inputs.features={given!r} is not a mapping: inputs.features={{INPUT: FEATURE}}"
        )
    _check_direction(given, signature)
    settings = {str(name): _settings(str(name), entry) for name, entry in given.items()}
    check_names(list(settings), signature, "inputs.features")
    return tuple(
        _feature(name, specs[name], entry, signature, settings) for name, entry in settings.items()
    )


def _check_direction(given: Mapping[str, object], signature: Signature) -> None:
    """Refuse a mapping of features to inputs, the former form with the setting `input`.

    Raises:
        InputError: they are; or the setting names the feature of an input.
    """
    check_direction("inputs.features", "feature", given, signature)
    if not any(isinstance(entry, Mapping) and "input" in entry for entry in given.values()):
        return
    inputs = {spec.name for spec in signature.specs}
    turned: dict[str, dict[str, object]] = {}
    named: dict[str, dict[str, object]] = {}
    for name, entry in given.items():
        settings = dict(_mapping({"feature": entry} if isinstance(entry, str) else entry))
        other = settings.pop("input", None)
        target = str(other or name)
        turned[target] = settings if target == name else {"feature": str(name), **settings}
        named[str(name)] = settings if other in (None, name) else {"feature": other, **settings}
    if inputs.issuperset(turned) and len(turned) == len(given):
        raise InputError(
            f"inputs.features maps inputs to features, and not features to inputs. Write: "
            f"{_override(turned)}"
        )
    if inputs.issuperset(named):
        raise InputError(
            f"inputs.features names the feature of an input by 'feature', not by 'input'. Write: "
            f"{_override(named)}"
        )


def _mapping(entry: object) -> Mapping[str, object]:
    return entry if isinstance(entry, Mapping) else {}


def _override(settings: Mapping[str, Mapping[str, object]]) -> str:
    """Return the override of all features. A feature without other settings is only its name."""
    written = {
        name: hydra_value(entry["feature"] if [*entry] == ["feature"] else entry)
        for name, entry in settings.items()
    }
    return nested_override("inputs.features", written)


def _settings(name: str, entry: object) -> Mapping[str, object]:
    if isinstance(entry, str):
        return {"feature": entry}
    if not isinstance(entry, Mapping | None):
        raise InputError(
            f"inputs.features.{name}={entry!r} is neither the name of a feature nor a mapping. A "
            f"mapping may hold {', '.join(_SETTINGS)}"
        )
    for key in entry or {}:
        if key not in _SETTINGS:
            raise InputError(
                f"inputs.features.{name}.{key} does not exist. {choices(str(key), _SETTINGS)}"
            )
    return {str(key): value for key, value in (entry or {}).items() if value is not None}


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
        raise InputError(f"{key}.encoded=true: a picture has its own shape and dtype. Remove them")
    return Feature(
        str(entry.get("feature", name)),
        name,
        spec,
        None if dtype is None else _dtype(key, dtype),
        None if shape is None else _shape(key, shape),
        Pixels.of(spec, signature, scalable=False) if encoded else None,
        settings,
    )


def _dtype(key: str, given: object) -> str:
    try:
        dtype = np.dtype(str(given))
    except TypeError as error:
        raise InputError(
            f"{key}.dtype={given!r} is not a type of numbers, such as uint8"
        ) from error
    if dtype.kind not in "fiub":
        raise InputError(f"{key}.dtype={given!r} is not a type of numbers, such as uint8")
    return dtype.name


def _shape(key: str, given: object) -> tuple[int | None, ...]:
    sizes = tuple(given) if isinstance(given, list | tuple) else None
    whole = all(n is None or (type(n) is int and n >= 0) for n in sizes or ())
    if sizes is None or not whole or sizes.count(None) > 1:
        raise InputError(
            f"{key}.shape={given!r} is not a list of lengths, as in [28,28] or [null,8]"
        )
    return sizes


def _single(stored: Any, kind: str, at: str) -> bytes:
    if kind != "bytes_list" or len(stored) != 1:
        raise InputError(
            f"{at} holds {counted(len(stored), 'value')} ({kind}), not the bytes of one array"
        )
    return bytes(stored[0])
