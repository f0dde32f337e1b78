"""The inputs of a model: those that a graph declares, and the setting `model.input_axes`.

Samples are along an input's first axis, unless `model.input_axes` specifies otherwise. If that axis
has a fixed size in every input, each call of the model takes one sample. Imports no TensorFlow.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from extractkit.advice import hydra_text, nested_override
from extractkit.core.spec import SAMPLE
from extractkit.errors import ConfigError, ModelError, choices, counted
from extractkit.inputs import InputSpec, Signature

INPUT_AXES = "model.input_axes"

_FORBIDDEN = set("*,()?:=")

Dim = str | int | None


InputAxes = Annotated[object, "list, mapping or null"]
"""The type of `model.input_axes`."""


@dataclass(frozen=True)
class InputSetting:
    """The configured axes and dtype of one input.

    Attributes:
        dims: For each axis of the input "sample", the name of a free axis, a fixed size, or None
            for the size that the graph declares. None as a whole: all as the graph declares them.
        dtype: The NumPy name of the element type, if the graph does not declare it.
    """

    dims: tuple[Dim, ...] | None = None
    dtype: str | None = None


def parse_input_axes(value: object) -> dict[str, InputSetting] | None:
    """Parse `model.input_axes`. Return None if it is not configured: every input, as declared.

    Raises:
        ConfigError: It is neither a list of names nor a mapping of names to axes.
    """
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: InputSetting() for name in value}
    if isinstance(value, Mapping):
        return {str(name): _setting(f"{INPUT_AXES}.{name}", entry) for name, entry in value.items()}
    raise ConfigError(
        f"{INPUT_AXES}={value!r} is neither a list of names nor a mapping of names to axes. "
        f"Give {INPUT_AXES}=[NAME] or '{INPUT_AXES}={{NAME: [sample, null]}}'"
    )


def advised_settings(settings: Mapping[str, InputSetting]) -> str:
    """Return the override of `model.input_axes` with these settings, quoted for a shell."""
    return nested_override(
        INPUT_AXES, {name: _written(setting) for name, setting in settings.items()}
    )


def _written(setting: InputSetting) -> str:
    if setting.dims is None and setting.dtype is None:
        return "null"
    dims = "null"
    if setting.dims is not None:
        dims = f"[{', '.join(map(_written_dim, setting.dims))}]"
    return dims if setting.dtype is None else f"{{dims: {dims}, dtype: {setting.dtype}}}"


def _written_dim(dim: Dim) -> str:
    if dim is None:
        return "null"
    return str(dim) if isinstance(dim, int) else hydra_text(dim)


def _setting(at: str, entry: object) -> InputSetting:
    if entry is None:
        return InputSetting()
    if isinstance(entry, list):
        return InputSetting(_dims(at, entry))
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{at}={entry!r} is not a list of axes, such as [sample, token, 4]")
    for key in entry:
        if key not in ("dims", "dtype"):
            raise ConfigError(f"{at}.{key} does not exist. {choices(str(key), ('dims', 'dtype'))}")
    dims, dtype = entry.get("dims"), entry.get("dtype")
    if dims is not None and not isinstance(dims, list):
        raise ConfigError(f"{at}.dims={dims!r} is not a list of axes, such as [sample, token, 4]")
    if not isinstance(dtype, str | None):
        raise ConfigError(f"{at}.dtype={dtype!r} is not the name of a type, such as float32")
    return InputSetting(None if dims is None else _dims(f"{at}.dims", dims), dtype)


def _dims(at: str, dims: list[object]) -> tuple[Dim, ...]:
    checked: list[Dim] = []
    for dim in dims:
        size = isinstance(dim, int) and not isinstance(dim, bool) and dim > 0
        name = isinstance(dim, str) and dim and not _FORBIDDEN.intersection(dim)
        if not (dim is None or size or name):
            raise ConfigError(
                f"{at}: {dim!r} is not an axis. Give 'sample', a name for a free axis, a size, or "
                f"null for the size that the graph declares"
            )
        checked.append(dim if isinstance(dim, str | int) else None)
    if checked.count(SAMPLE) > 1:
        raise ConfigError(f"{at}={dims!r} has more than one sample axis")
    return tuple(checked)


_PARSES = re.compile(r"Parse(Single)?(Sequence)?Example(V2)?")
_HANDS_ON = ("Identity", "Reshape", "ExpandDims", "Squeeze")


@dataclass(frozen=True)
class Declared:
    """An input as declared by the graph.

    Attributes:
        name, dtype: Its name and dtype.
        shape: Its whole shape. None if the rank is unknown.
        parsed: Whether the graph parses it as a serialized `tf.train.Example`.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    parsed: bool = False


def declared(name: str, placeholder: Any) -> Declared:
    """Return the declared input for a placeholder or spec."""
    rank = placeholder.shape.rank
    shape = None if rank is None else tuple(placeholder.shape.as_list())
    return Declared(name, placeholder.dtype.name, shape, _is_parsed(placeholder))


def _is_parsed(tensor: Any) -> bool:
    """Return whether a tensor is consumed by an operation that parses examples."""
    operations = tensor.consumers() if hasattr(tensor, "consumers") else ()
    return any(
        _PARSES.fullmatch(one.type) is not None
        or (one.type in _HANDS_ON and any(map(_is_parsed, one.outputs)))
        for one in operations
    )


def chosen(
    declared: Sequence[Declared], settings: Mapping[str, InputSetting] | None
) -> list[Declared]:
    """Return the inputs that samples are read for: those that `model.input_axes` names.

    Without it, all inputs with sufficient declarations are used. Others (a switch without a sample
    axis, an unknown shape) are not fed: the model can still be listed, and tensors that need them
    have that reason.

    Raises:
        ConfigError: A named input does not exist.
    """
    if settings is None:
        known = [one for one in declared if one.shape is not None]
        open_ended = [one for one in known if one.shape and one.shape[0] is None]
        return open_ended or known
    by_name = {one.name: one for one in declared}
    for name in settings:
        if name not in by_name:
            raise ConfigError(f"{INPUT_AXES}: {name!r} is not an input. {choices(name, by_name)}")
    return [by_name[name] for name in settings]


def signature_of(
    model: str, inputs: Sequence[Declared], settings: Mapping[str, InputSetting] | None = None
) -> Signature:
    """Return the signature of a model with these inputs.

    Raises:
        ConfigError: Settings do not fit the declared inputs.
        ModelError: An input needs settings and has none.
    """
    settings = settings or {}
    alone = len(inputs) == 1
    axes = {one.name: _axes(one, settings) for one in inputs}
    open_ended = [name for name, dims in axes.items() if _has_open_samples(dims)]
    specs = []
    for one in inputs:
        dims = axes[one.name]
        if open_ended and SAMPLE not in [dim for dim, _ in dims]:
            raise ModelError(_no_sample_axis(model, one, open_ended[0], settings))
        specs.append(_spec(one, dims, alone, bool(open_ended)))
    signature = Signature(model, tuple(specs), batch=None if open_ended or not specs else 1)
    return replace(signature, takes_text=signature.string is not None)


def input_spec(name: str, dtype: str, shape: Sequence[int | None], alone: bool) -> InputSpec:
    """Return the spec of one input with automatic names of free axes.

    Args:
        shape: The shape of one sample.
        alone: Whether the model has no other input.
    """
    # A single row of whole numbers of any length is taken for tokens.
    if alone and tuple(shape) == (None,) and dtype.startswith(("int", "uint")):
        return InputSpec(name, dtype, (None,), ("token",))
    # Characters with a meaning in dims are replaced. Lengths of several inputs may differ.
    prefix = "" if alone else re.sub(r"[*,()?:]", "_", name) + "."
    dims = tuple(
        f"{prefix}axis{axis + 1}" if size is None else None for axis, size in enumerate(shape)
    )
    return InputSpec(name, dtype, tuple(shape), dims)


def tied(specs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    """Return the inputs with one length for free axes at the same position, as a sum needs."""
    return tuple(
        replace(
            spec,
            dims=tuple(dim and f"axis{axis + 1}" for axis, dim in enumerate(spec.dims)),
        )
        for spec in specs
    )


# An axis: its name ("sample", a free axis, "" if unnamed) and its size.
_Axis = tuple[str | None, int | None]


def _axes(one: Declared, settings: Mapping[str, InputSetting]) -> list[_Axis]:
    setting = settings.get(one.name, InputSetting())
    if setting.dims is not None:
        return _configured(one, setting.dims)
    if one.shape is None:
        example = {**settings, one.name: InputSetting((SAMPLE, 4), setting.dtype)}
        raise ModelError(
            f"input {one.name!r} does not declare its shape. Specify its axes (the samples, "
            f"names of free axes, fixed sizes), for example: {advised_settings(example)}"
        )
    # Samples come first. Whether a fixed size there counts samples depends on the other inputs.
    first: list[_Axis] = [(SAMPLE, one.shape[0])] if one.shape else []
    return first + [("" if size is None else None, size) for size in one.shape[1:]]


def _configured(one: Declared, dims: Sequence[Dim]) -> list[_Axis]:
    at = f"{INPUT_AXES}.{one.name}={list(dims)!r}"
    shape = one.shape if one.shape is not None else (None,) * len(dims)
    if len(shape) != len(dims):
        raise ConfigError(
            f"{at} has {counted(len(dims), 'axis', 'axes')}, the input {len(shape)}: {list(shape)}"
        )
    axes: list[_Axis] = []
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(dim, int):
            if size not in (None, dim):
                raise ConfigError(f"{at}: an axis of {dim} where the input has {size}")
            axes.append((None, dim))
        elif dim is None:
            axes.append(("" if size is None else None, size))
        elif size is not None and dim != SAMPLE:
            raise ConfigError(f"{at}: {dim!r} is a free axis, where the input has {size}")
        else:
            axes.append((dim, size))
    return axes


def _has_open_samples(axes: Sequence[_Axis]) -> bool:
    return any(dim == SAMPLE and size is None for dim, size in axes)


def _spec(one: Declared, axes: list[_Axis], alone: bool, batched: bool) -> InputSpec:
    position = next((i for i, (dim, _) in enumerate(axes) if dim == SAMPLE), None)
    # An axis of size 1 does not fit several samples either.
    if position is not None and axes[position][1] not in ((None,) if batched else (None, 1)):
        # Each call takes this many rows, which together are one sample.
        axes = [*axes[:position], (None, axes[position][1]), *axes[position + 1 :]]
        position = None
    own = [axis for index, axis in enumerate(axes) if index != position]
    spec = input_spec(one.name, one.dtype, [size for _, size in own], alone)
    dims = tuple(given or made for (given, _), made in zip(own, spec.dims, strict=True))
    return replace(spec, dims=dims, sample_axis=position, parsed=one.parsed)


def _no_sample_axis(
    model: str, one: Declared, other: str, settings: Mapping[str, InputSetting]
) -> str:
    setting = settings.get(one.name, InputSetting())
    dims = list(setting.dims if setting.dims is not None else one.shape or ())
    text = (
        f"input {one.name!r} of model {model!r} has the axes {dims}, none of them for the samples"
    )
    if dims and (one.shape is None or None in one.shape):
        position = 0 if one.shape is None else one.shape.index(None)
        named = InputSetting((*dims[:position], SAMPLE, *dims[position + 1 :]), setting.dtype)
        return f"{text}. Name one: {advised_settings({**settings, one.name: named})}"
    others = {name: kept for name, kept in settings.items() if name != one.name}
    rest = f"{advised_settings(others)} " if others else ""
    return (
        f"{text} that {other!r} takes. Give it one value for all of them: "
        f"{rest}{nested_override('model.constants', {one.name: 'VALUE'})}"
    )
