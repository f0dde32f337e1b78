"""`model.inputs`: which of a graph's inputs get samples, and what their axes are. Pure Python.

model.inputs=[x]                                     # these alone, axes as the graph has them
model.inputs={x: null, steps: [time, sample, 80]}    # axes by name: the samples, free, fixed
model.inputs={x: {dims: [sample, 4], dtype: float32}}  # of a function that tells nothing
"""

from collections.abc import Mapping
from dataclasses import dataclass

from extractkit.advice import hydra_text, nested_override
from extractkit.errors import ConfigError, choices
from extractkit.tensors import SAMPLE

AT = "model.inputs"

_FORBIDDEN = set("*,()?:")

Dim = str | int | None


@dataclass(frozen=True)
class InputSetting:
    """What the configuration says of one input.

    Attributes:
        dims: for each axis of the whole input "sample", the name of a free axis, a fixed size, or
            None for the size that the graph declares; None as a whole: as the graph declares them.
        dtype: NumPy name of the element type, where the graph does not tell.
    """

    dims: tuple[Dim, ...] | None = None
    dtype: str | None = None


def parse_inputs(value: object) -> dict[str, InputSetting] | None:
    """`model.inputs` as it was configured; None where it was not: every input, as declared.

    Raises:
        ConfigError: neither a list of names nor a mapping of names to axes.
    """
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: InputSetting() for name in value}
    if isinstance(value, Mapping):
        return {str(name): _setting(f"{AT}.{name}", entry) for name, entry in value.items()}
    raise ConfigError(
        f"{AT}={value!r} is neither a list of names nor a mapping of names to axes. "
        f"Give {AT}=[NAME] or '{AT}={{NAME: [sample, null]}}'"
    )


def advised_settings(settings: Mapping[str, InputSetting]) -> str:
    """Return the override of `model.inputs` with these settings, ready for a shell."""
    return nested_override(AT, {name: _written(setting) for name, setting in settings.items()})


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
