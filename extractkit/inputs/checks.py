"""Checks shared by all sources: arguments, ranges, and the fit with the model.

An invalid sample fails when it is read, so that a job may skip it. A source with only invalid
samples is refused with the error of the first.

`at` is the key and value in messages: `inputs.path='x.npz'`, or `inputs` for live samples.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from extractkit.advice import hydra_text, names_override, nested_override
from extractkit.core.spec import TEXT, numpy_dtype
from extractkit.errors import InputError, choices
from extractkit.inputs import InputSpec, Signature
from extractkit.inputs.conversion import check_string, check_strings, is_string

FAULT = hashlib.sha256(b"no good").digest()
"""The placeholder of an invalid sample in a digest."""


class Faults:
    """The number of invalid samples, and the error of the first."""

    def __init__(self) -> None:
        self._first: InputError | None = None
        self._count = 0

    def add(self, error: InputError) -> None:
        """Count one more sample that cannot be read or does not fit."""
        self._first = self._first or error
        self._count += 1

    def check(self, count: int) -> None:
        """Refuse a source of `count` samples if all of them are invalid.

        Raises:
            InputError: The error of the first.
        """
        if self._first is not None and self._count == count:
            raise self._first


_WIDENED = "array.astype('float32')"

Shape = tuple[int, ...]
DType = np.dtype[np.generic]


def check_whole(key: str, value: object, least: int = 1, below: int | None = None) -> None:
    """Check that a setting is a whole number of at least `least` and less than `below`, if given.

    Raises:
        InputError: It is something else.
    """
    number = value if isinstance(value, int) and not isinstance(value, bool) else least - 1
    if number >= least and (below is None or number < below):
        return
    upper = "or more" if below is None else f"to {below - 1}"
    raise InputError(f"inputs.{key}={value!r} is not a whole number of {least} {upper}")


def check_limit(limit: int | None) -> None:
    """Check that a limit is None (all samples) or at least 1.

    Raises:
        InputError: It is something else.
    """
    if limit is not None:
        check_whole("limit", limit)


def check_range(start: int, stop: int, count: int) -> None:
    """Check that a range is within the source, since a short result would go unnoticed.

    Raises:
        IndexError: Not 0 ≤ start ≤ stop ≤ count.
    """
    if not 0 <= start <= stop <= count:
        raise IndexError(f"samples {start} … {stop}: the source has {count}")


def check_takes_text(signature: Signature, at: str, remedy: str) -> None:
    """Refuse texts for a model that takes numbers.

    Raises:
        InputError: The model has no tokenizer. The message ends in `remedy`.
    """
    if not signature.takes_text:
        raise InputError(
            f"model {signature.model!r} takes numbers ({describe(signature)}), "
            f"{at} gives text. {remedy}"
        )


def check_text(text: object, at: str) -> bytes:
    """Return a text in UTF-8.

    Raises:
        InputError: It is not a text, or cannot be encoded.
    """
    if isinstance(text, bytes):
        raise InputError(f"{at} is bytes, not a text: {text!r:.60}")
    check_string(text, at)
    return str(text).encode("utf-8")


def check_names(given: list[str], signature: Signature, at: str) -> None:
    """Check that names are exactly those of the model's inputs.

    Raises:
        InputError: Some are missing or unknown.
    """
    wanted = [spec.name for spec in signature.specs]
    faults = [f"{name!r} is missing" for name in wanted if name not in given]
    faults += [
        f"{name!r} is not an input of it ({choices(name, wanted).rstrip('.')})"
        for name in given
        if name not in wanted
    ]
    if faults:
        raise InputError(
            f"{at} does not match model {signature.model!r}: {'; '.join(faults)}. "
            f"It takes {describe(signature)}{'' if are_live(at) else without(signature, given)}"
        )


def are_live(at: str) -> bool:
    """Return whether samples are given in Python, and so take no settings of a configuration."""
    return at.partition(",")[0] == "inputs"


def check_direction(key: str, noun: str, given: Mapping[str, object], signature: Signature) -> None:
    """Refuse a mapping in the wrong direction: from names in the data to inputs.

    Args:
        key: the configuration key.
        noun: the kind of names in the data ("column").
        given: the value of the key.

    Raises:
        InputError: its values are inputs, each once, and not all of its keys are inputs.
    """
    inputs = {spec.name for spec in signature.specs}
    turned = {value: name for name, value in given.items() if isinstance(value, str)}
    if inputs.issuperset(given) or len(turned) < len(given) or not inputs.issuperset(turned):
        return
    written = nested_override(key, {name: hydra_text(one) for name, one in turned.items()})
    raise InputError(f"{key} maps inputs to {noun}s, and not {noun}s to inputs. Write: {written}")


def without(signature: Signature, given: Iterable[str]) -> str:
    """Return advice to omit the inputs without data, if the model allows it.

    Args:
        given: The names of the available data.
    """
    wanted = [spec.name for spec in signature.specs]
    rest = [name for name in wanted if name in given]
    others = {*wanted} - {*rest}
    if not rest or not others:
        return ""
    fewer = names_override("model.input_axes", rest)
    if others <= signature.optional:
        return f". The model has values of its own for the others: {fewer}"
    return f". For tensors that do not need the others: {fewer}" if signature.selectable else ""


def check_dtype(spec: InputSpec, dtype: DType, signature: Signature, at: str) -> None:
    """Check that a dtype can be converted to the model's without changing its meaning.

    Real numbers may lose digits, and whole numbers may become real ones. Single values are checked
    when they are read (`check_held`).

    Raises:
        InputError: The conversion would change the meaning, as from real numbers to integers.
    """
    if dtype.names is not None:
        raise InputError(
            f"{at}: {spec.name!r} holds records of {', '.join(map(repr, dtype.names))}. Give one "
            f"field of them, in NumPy: array[{dtype.names[0]!r}]"
        )
    if not keeps_meaning(dtype, spec) and spec.quantized and dtype.kind in "fV":
        # Narrower types would be divided in their own precision. bfloat16 has the kind "V".
        wide = dtype in (np.float32, np.float64)
        raise InputError(
            f"{at}: {spec.name!r} is {dtype.name}, model {signature.model!r} takes {spec.dtype}, "
            f"which is quantised: (whole number - {spec.quantized.zero_point}) * "
            f"{spec.quantized.scale!r} is the real one. For real numbers, in NumPy: "
            f"{quantizing(spec, 'array' if wide else _WIDENED)}"
        )
    if not keeps_meaning(dtype, spec):
        raise InputError(
            f"{at}: {spec.name!r} is {_named(dtype)}, model {signature.model!r} takes "
            f"{spec.dtype}. This is not converted automatically. {_if_meant(dtype, spec)}, in "
            f"NumPy: array.astype({_convertible(spec)!r})"
        )


def check_objects(
    spec: InputSpec, values: np.ndarray[Shape, DType], signature: Signature, at: str
) -> None:
    """Refuse Python objects as numbers.

    Raises:
        InputError: The values are objects. The message names their types, and suggests a conversion
            if it is possible.
    """
    if not values.dtype.hasobject or values.dtype.names is not None or spec.dtype == TEXT:
        return
    wanted = numpy_dtype(spec.dtype)
    held: list[object] = values.ravel().tolist()
    given = [value for value in held if value is not None]
    for value in given:
        if type(value) is int and not _holds(wanted, value):
            raise InputError(
                f"{at}: {spec.name!r} holds {value}, which {wanted.name}, "
                f"the type that the model takes, cannot hold"
            )
    convert = f"in NumPy: array.astype({_convertible(spec)!r})"
    if not _converts(given, wanted):
        advice = "Give numbers"
    elif len(given) < len(held):
        advice = f"Fill in what is missing and convert the rest, {convert}"
    else:
        advice = f"Convert them, {convert}"
    kinds = sorted({_OBJECTS.get(type(value), type(value).__name__) for value in held})
    raise InputError(
        f"{at}: {spec.name!r} holds Python objects ({', '.join(kinds)}), model "
        f"{signature.model!r} takes {spec.dtype}. {advice}"
    )


_OBJECTS = {str: "texts", bytes: "bytes", type(None): "None"}
_STRINGS = {"U": "text", "T": "text", "S": "bytes"}


def _named(dtype: DType) -> str:
    return _STRINGS.get(dtype.kind, dtype.name)


def _if_meant(dtype: DType, spec: InputSpec) -> str:
    strings = dtype.kind in _STRINGS and spec.dtype != TEXT
    return "If it holds the digits of numbers" if strings else "If you mean it"


def _holds(wanted: np.dtype[Any], value: int) -> bool:
    """Return whether a type can represent a whole number without overflow."""
    if wanted.kind in "iu":
        return int(np.iinfo(wanted).min) <= value <= int(np.iinfo(wanted).max)
    return abs(value) < 1 << sys.float_info.max_exp


def _converts(given: list[object], wanted: np.dtype[Any]) -> bool:
    """Return whether NumPy converts objects to numbers."""
    one_by_one = np.empty(len(given), object)
    for index, value in enumerate(given):
        one_by_one[index] = value
    try:
        one_by_one.astype(wanted)
    except (TypeError, ValueError, OverflowError):
        return False
    return bool(given)


def check_held(spec: InputSpec, values: np.ndarray[Shape, DType], at: str) -> None:
    """Check that the model's type can hold every value.

    Raises:
        InputError: A whole number would wrap around, a real one would become infinite, an object
            among strings is not a string, or a fixed-width type may have cut bytes.
    """
    if spec.dtype == TEXT:
        check_strings(values, f"{at}: {spec.name!r}")
        return
    wanted = numpy_dtype(spec.dtype)
    for value in _out_of_range(values, wanted):
        raise InputError(
            f"{at}: {spec.name!r} holds {value}, which {wanted.name}, "
            f"the type that the model takes, cannot hold"
        )


def quantizing(spec: InputSpec, array: str) -> str:
    """Return the NumPy expression that quantises real numbers for a quantised input."""
    assert spec.quantized is not None
    scale, zero_point = spec.quantized
    limits = np.iinfo(spec.dtype)
    sign = "+" if zero_point >= 0 else "-"
    shift = f" {sign} {abs(zero_point)}" if zero_point else ""
    return (
        f"np.clip(np.round({array} / {scale!r}){shift}, {limits.min}, {limits.max})"
        f".astype({spec.dtype!r})"
    )


def _convertible(spec: InputSpec) -> str:
    """Return a NumPy dtype for the input, since NumPy has no bfloat16, for example."""
    return "str" if spec.dtype == TEXT else numpy_dtype(spec.dtype).name


def _out_of_range(values: np.ndarray[Shape, DType], wanted: np.dtype[Any]) -> Iterator[int | float]:
    """Yield the values that would wrap around or become infinite in the wanted type."""
    if not values.size:
        return
    if values.dtype.kind in "iu" and wanted.kind in "iu":
        limits = np.iinfo(wanted)
        ends = (int(values.min()), int(values.max()))
        yield from (value for value in ends if not limits.min <= value <= limits.max)
    elif values.dtype.kind == "f" and not np.can_cast(values.dtype, wanted):
        with np.errstate(over="ignore"):
            lost = np.isinf(values.astype(wanted)) & np.isfinite(values)
        yield from values[lost].tolist()


def check_shapes(shapes: Mapping[str, Shape], signature: Signature, at: str) -> int:
    """Check the shapes of whole arrays, sample axis first, and return the number of samples.

    Args:
        shapes: The shape for each of the model's inputs.

    Raises:
        InputError: There are no samples, their numbers differ, a shape does not fit, or a free
            axis is too long or has two lengths.
    """
    for spec in signature.specs:
        _check_shape(spec, shapes[spec.name], signature, at)
    _check_free_axes(shapes, signature, at)
    counts = {name: shape[0] for name, shape in shapes.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise InputError(f"{at}: the inputs differ in their number of samples: {listed}")
    count = next(iter(counts.values()), 0)
    if not count:
        raise InputError(f"{at} holds no sample. Give at least one")
    return count


def describe(signature: Signature) -> str:
    """Return the model's inputs for messages: `x: float32 (samples, 10), mask: bool (samples,)`."""
    if not signature.specs:
        return "no input"
    return ", ".join(f"{spec.name}: {spec.dtype} {_layout(spec)}" for spec in signature.specs)


def keeps_meaning(given: DType, spec: InputSpec) -> bool:
    """Return whether a type is converted to the model's without asking."""
    if spec.dtype == TEXT:
        return is_string(given)
    wanted = numpy_dtype(spec.dtype)
    both_whole = given.kind in "iu" and wanted.kind in "iu"
    return both_whole or np.can_cast(given, wanted, casting="same_kind")


def _check_shape(spec: InputSpec, shape: Shape, signature: Signature, at: str) -> None:
    fits = len(shape) == len(spec.shape) + 1 and all(
        wanted is None or wanted == size for wanted, size in zip(spec.shape, shape[1:], strict=True)
    )
    if not fits:
        raise InputError(
            f"{at}: {spec.name!r} has shape {shape}; "
            f"model {signature.model!r} takes it as {_layout(spec)}"
        )


def _check_free_axes(shapes: Mapping[str, Shape], signature: Signature, at: str) -> None:
    seen: dict[str, tuple[str, int]] = {}
    for spec in signature.specs:
        for dim, size in zip(spec.dims, shapes[spec.name][1:], strict=True):
            if dim is None:
                continue
            first, length = seen.setdefault(dim, (spec.name, size))
            if length != size:
                raise InputError(
                    f"{at}: axis {dim!r} has length {length} in {first!r} and {size} in "
                    f"{spec.name!r}; model {signature.model!r} needs one length in both"
                )
            longest = (signature.longest or {}).get(dim)
            if longest is not None and size > longest:
                raise InputError(
                    f"{at}: axis {dim!r} of {spec.name!r} has length {size}; "
                    f"model {signature.model!r} takes {longest} at most"
                )


def _layout(spec: InputSpec) -> str:
    sizes = zip(spec.shape, spec.dims, strict=True)
    axes = ["samples", *(str(dim if size is None else size) for size, dim in sizes)]
    return f"({', '.join(axes)})"
