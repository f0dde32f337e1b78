"""Inference of axes from shapes at several sizes, and the settings of `model.input_axes`.

The shapes come from a graph imported with static placeholders, or from running the model: once at a
base size, and once more for each free axis with only that axis enlarged. An axis whose size changes
with a free axis follows it. Unknown sizes stay unknown.

model.input_axes=[x]                                     # these alone, axes as the graph has them
model.input_axes={x: null, steps: [time, sample, 80]}    # axes by name: the samples, free, fixed
model.input_axes={x: {dims: [sample, 4], dtype: float32}}  # of an undeclared input
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from extractkit.advice import hydra_text, nested_override
from extractkit.core.catalog import Catalog, TensorRecord
from extractkit.core.spec import BY_VALUES, SAMPLE, UNKNOWN
from extractkit.errors import ConfigError, choices

RawShape = tuple[int | None, ...] | None


@dataclass(frozen=True)
class Sizes:
    """The sizes to try: a base for each free axis, and a size to enlarge it to.

    They are co-prime and far from the usual widths and strides of layers, so that a product or a
    pooled length is not mistaken for another axis.
    """

    base: Mapping[str, int]
    enlarged: Mapping[str, int]

    @property
    def trials(self) -> list[Mapping[str, int]]:
        """The base size, then one enlarged axis at a time."""
        return [self.base, *({**self.base, axis: self.enlarged[axis]} for axis in self.base)]


def infer_dims(sizes: Sizes, shapes: Sequence[RawShape]) -> tuple[str | None, ...] | None:
    """Return the dims of a tensor from its shapes at `sizes.trials`, or None if the rank varies.

    "sample" or "token" is that free axis, "sample*token" or "sample*12" a product with the samples,
    "f(token)" a length computed from it, None a fixed size, and "?" unknown.
    """
    ranks = {None if shape is None else len(shape) for shape in shapes}
    if None in ranks or len(ranks) != 1:
        return None
    columns = zip(*(shape for shape in shapes if shape is not None), strict=True)
    return tuple(_infer_axis(sizes, column) for column in columns)


def _infer_axis(sizes: Sizes, column: tuple[int | None, ...]) -> str | None:
    if any(size is None for size in column):
        return UNKNOWN
    base, *others = (size for size in column if size is not None)
    moved = {axis: other for axis, other in zip(sizes.base, others, strict=True) if other != base}
    if not moved:
        return None
    if SAMPLE not in moved:
        return _follow(sizes, base, moved)
    samples, more_samples = sizes.base[SAMPLE], sizes.enlarged[SAMPLE]
    if base % samples or moved[SAMPLE] != base // samples * more_samples:
        return f"f({','.join(moved)})"
    rest = base // samples
    del moved[SAMPLE]
    if not moved:
        return SAMPLE if rest == 1 else f"{SAMPLE}*{rest}"
    if any(size % samples for size in moved.values()):
        return f"f({','.join([SAMPLE, *moved])})"
    return f"{SAMPLE}*{_follow(sizes, rest, {a: size // samples for a, size in moved.items()})}"


def _follow(sizes: Sizes, base: int, moved: Mapping[str, int]) -> str:
    """Return the name of a length that moves with free axes other than the sample."""
    if len(moved) == 1:
        ((axis, size),) = moved.items()
        if (base, size) == (sizes.base[axis], sizes.enlarged[axis]):
            return axis
    return f"f({','.join(moved)})"


def _factors(dim: str) -> list[str]:
    """Return the free axes and numbers that a dim is made of."""
    return dim.removeprefix("f(").removesuffix(")").replace("*", ",").split(",")


def no_sample_axis_reason(dims: Sequence[str | None]) -> str | None:
    """Return why a tensor with these known dims has no value per sample, or None if it has one."""
    of_samples = [dim for dim in dims if dim is not None and SAMPLE in _factors(dim)]
    if not of_samples:
        return "no axis of it follows the samples: its value belongs to a whole batch"
    if len(of_samples) > 1:
        return "more than one of its axes follows the samples: its value belongs to a whole batch"
    if of_samples[0].startswith("f("):
        return f"its axis {of_samples[0]} mixes samples in a way that cannot be taken apart"
    return None


def of_single_calls(catalog: Catalog) -> Catalog:
    """Return the catalog of a model that runs on one sample per call.

    A value of the whole batch is then the value of the sample, so axes no longer name the samples.
    """
    single = Catalog([_of_single_call(record) for record in catalog.records], catalog.model)
    return single.listed_by(catalog.listing)


def _of_single_call(record: TensorRecord) -> TensorRecord:
    if record.reason is None or record.dims is None or record.shape is None:
        return record
    if UNKNOWN in record.dims or record.reason != no_sample_axis_reason(record.dims):
        return record
    axes = [_axis_of_one(*axis) for axis in zip(record.dims, record.shape, strict=True)]
    dims, shape = tuple(dim for dim, _ in axes), tuple(size for _, size in axes)
    return replace(record, dims=dims, shape=shape, reason=None)


def _axis_of_one(dim: str | None, size: int | None) -> tuple[str | None, int | None]:
    """Return an axis without its factor of the samples, which is 1."""
    if dim is None or SAMPLE not in _factors(dim):
        return dim, size
    if dim == SAMPLE:
        return None, 1
    head, _, rest = dim.partition("*")
    if head == SAMPLE:
        return (None, int(rest)) if rest.isdigit() else (rest, None)
    others = [factor for factor in _factors(dim) if factor != SAMPLE]
    return (f"f({','.join(others)})" if others else BY_VALUES), None


INPUT_AXES = "model.input_axes"

_FORBIDDEN = set("*,()?:")

Dim = str | int | None


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
