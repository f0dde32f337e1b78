"""Labels of samples, as the targets of gradients take them: the key `inputs.labels`.

A label is read beside the model's inputs, from where `inputs.labels` names it. It is part of the
sample and of the source's digest. Without such a target, what the key names is not read.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from extractkit.core.picks import LABELS, LabelSpec
from extractkit.core.values import Array, as_array
from extractkit.errors import InputError, choices
from extractkit.inputs.conversion import check_unmasked

T = TypeVar("T")


@runtime_checkable
class HasLabels(Protocol):
    """The ability to read labels, optional for `Inputs`."""

    @property
    def labels(self) -> object:
        """The name of a column, array or feature, or the labels themselves. None for no labels."""
        ...


def label_name(given: object) -> str | None:
    """Return the value of `inputs.labels` as a name. A position in a tuple is a number.

    Raises:
        InputError: It is neither.
    """
    if given is None or (isinstance(given, str) and given):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    raise InputError(f"{LABELS}={given!r} is not the name of a column")


def check_labels(inputs: object, spec: LabelSpec, chosen: str) -> None:
    """Check that labels are configured, for a target that takes them.

    Args:
        chosen: the configured inputs, for messages.

    Raises:
        InputError: They are not, or this source has none.
    """
    if not isinstance(inputs, HasLabels):
        raise InputError(
            f"{spec.at} takes {spec} as the label of each sample, and {chosen} has no labels. "
            f"Choose inputs that have: arrays, hdf5, parquet, texts, tfrecord, dataset, images, "
            f"files; or in Python, inputs=extractkit.Labelled(inputs, labels)"
        )
    if inputs.labels is None:
        raise InputError(
            f"{spec.at} takes {spec} as the label of each sample. Name where it is: {LABELS}=COLUMN"
        )


def without_labels(
    named: Mapping[str, T], labels: str | None, at: str
) -> tuple[dict[str, T], T | None]:
    """Split the values of a sample, or of all samples, into those without labels and labels.

    Args:
        labels: the name of the labels; None: there are none.

    Raises:
        InputError: There is nothing of this name.
    """
    if labels is None:
        return dict(named), None
    check_available(labels, named, at)
    rest = {name: value for name, value in named.items() if name != labels}
    return rest, named[labels]


def check_available(labels: str, available: Iterable[str], at: str) -> None:
    """Check that there are labels of this name.

    Raises:
        InputError: There are none.
    """
    there = list(available)
    if labels not in there:
        raise InputError(f"{at} has no {labels!r} ({LABELS}). {choices(labels, there)}")


def check_beside_inputs(
    labels: str | None, fields: Mapping[str, str], available: Iterable[str]
) -> None:
    """Check that labels are not what the model takes.

    Args:
        fields: what each of the model's inputs is read from, by the input's name.
        available: the names of what there is.

    Raises:
        InputError: They are.
    """
    for name, field in fields.items():
        if field == labels:
            others = choices("", [one for one in available if one not in fields.values()])
            taken = "an input of the model" if name == field else f"the column of input {name!r}"
            raise InputError(
                f"{LABELS}={labels} is {taken}, and labels are read beside the inputs. "
                f"Name something else. {others}"
            )


def label_of(value: object, spec: LabelSpec, at: str) -> Array:
    """Return the label of one sample in the form that a target takes.

    Raises:
        InputError: It is missing, or has another form.
    """
    if value is None or value is np.ma.masked:
        raise InputError(f"{at} has no label ({LABELS}). Fill it in, or leave the sample out")
    check_unmasked(value, f"{at}: its label ({LABELS})")
    try:
        array = as_array(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{at}: its label is not a number: {error}") from error
    found: Array = labels_of(array[np.newaxis], spec, at)[0, ...]
    return found


def labels_of(values: Array, spec: LabelSpec, at: str) -> Array:
    """Return the labels of several samples, along the first axis, in the form of a target.

    Raises:
        InputError: They have another form.
    """
    takes = f"{spec}, which {spec.at} takes"
    if spec.whole and values.dtype.kind == "f":
        values = _as_whole(values)
    kinds = "biu" if spec.whole else "biuf"
    if values.dtype.kind not in kinds:
        named = _NAMES.get(values.dtype.kind, values.dtype)
        advice = "Give the number of its class" if spec.whole else "Give numbers"
        raise InputError(
            f"{at}: its label ({LABELS}), {_shown(values)}, is {named}, not {takes}. {advice}"
        )
    own = values.shape[1:]
    if _without_ones(own) != _without_ones(spec.shape):
        has = f"has the shape {list(own)}" if own else "is one number"
        raise InputError(f"{at}: its label ({LABELS}) {has}, not {takes}")
    if (wrong := _outside(values, spec)).size:
        raise InputError(f"{at}: its label ({LABELS}) is {wrong[0].item()}, not {takes}")
    return values.reshape(len(values), *spec.shape).astype(spec.dtype)


def _as_whole(values: Array) -> Array:
    """Return floats as whole numbers if all of them are, and otherwise those that are not."""
    wide = values.astype(np.float64)
    fractions = ~np.isfinite(wide) | (wide != np.trunc(wide)) | (np.abs(wide) > _EXACT)
    return values[fractions] if fractions.any() else wide.astype(np.int64)


_EXACT = 2.0**53
"""Up to here, all whole numbers are floats of 64 bits."""

_NAMES = {"O": "an object", "U": "text", "T": "text", "S": "bytes"}


def _outside(values: Array, spec: LabelSpec) -> Array:
    """Return the values that are not in the range of labels, or not finite."""
    if not spec.whole:
        found: Array = values[~np.isfinite(values)]
        return found
    below = np.iinfo(np.int64).max if spec.below is None else spec.below
    outside = (values < 0) | (values >= below)
    if spec.ignored is not None:
        outside &= values != spec.ignored
    outer: Array = values[outside]
    return outer


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _shown(values: Array) -> str:
    first: Any = values.flat[0] if values.size else values.tolist()
    return f"{first.item() if isinstance(first, np.generic) else first!r:.60}"


def in_row(name: str | None, label: Array | None) -> dict[str, object]:
    """Return the entry of samples.jsonl for a label that is a single number; no other has one."""
    if name is None or label is None or np.size(label) != 1:
        return {}
    return {name: np.asarray(label).item()}
